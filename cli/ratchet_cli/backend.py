"""The one interface that verbs work against: a Kubernetes cluster or the state directory of this machine.

Decides which of the two a verb means (--local, RATCHET_HOME, else the cluster) and how kinds are named on the command
line. Implemented by `remote` and `local`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from ratchet_api.kinds import KINDS, Kind
from ratchet_cli.errors import NotFound, UsageProblem

Body = dict[str, Any]


class Backend(Protocol):
    """What verbs may do with objects of our kinds in one namespace."""

    namespace: str
    where: str
    """The place in words, for messages."""

    def notice(self) -> str:
        """Return what one should know about the whole place; empty if nothing."""

    def get(self, kind: Kind[Any, Any], name: str) -> Body | None:
        """Return the object or None."""

    def list(self, kind: Kind[Any, Any]) -> Sequence[Body]:
        """Return all objects of the kind, sorted by name."""

    def apply(self, kind: Kind[Any, Any], body: Body) -> str:
        """Create or change the object; return `created`, `configured` or `unchanged`."""

    def patch(self, kind: Kind[Any, Any], name: str, patch: Mapping[str, Any]) -> None:
        """Merge a patch into the object."""

    def who(self) -> str:
        """Return the name under which the place knows whoever types; empty if it does not say."""

    def delete(self, kind: Kind[Any, Any], name: str) -> None:
        """Delete the object; its pods go with it."""

    def pods(self, kind: Kind[Any, Any], name: str, stage: str | None) -> Sequence[Body]:
        """Return the pods that worked for the object, oldest first."""

    def config_maps(self, labels: Mapping[str, str], *, owner_uid: str) -> Sequence[Body]:
        """Return the ConfigMaps with these labels that the object with this uid owns."""

    def logs(self, pod: Body, *, follow: bool) -> Iterator[str]:
        """Yield the pod's output line by line; follow = until the pod ends."""


def find_kind(word: str) -> Kind[Any, Any]:
    """Return the kind that a word on the command line means: kind, plural, singular or short name.

    Raises:
        UsageProblem: the word is none of them.
    """
    for kind in KINDS.values():
        if word.lower() in (kind.kind.lower(), kind.plural, kind.singular, *kind.short_names, _ALIASES.get(kind.kind)):
            return kind
    known = ", ".join(f"{_ALIASES[k.kind]} ({k.short_names[0]})" for k in KINDS.values())
    raise UsageProblem(f"kind {word!r} is unknown; use one of: {known}")


_ALIASES = {"FeedbackDataset": "dataset", "RLTrainingRun": "run", "RLPolicy": "policy"}


def must_get(backend: Backend, kind: Kind[Any, Any], name: str) -> Body:
    """Return the object.

    Raises:
        NotFound: names what exists instead.
    """
    found = backend.get(kind, name)
    if found is not None:
        return found
    names = [each["metadata"]["name"] for each in backend.list(kind)]
    there = f"there are: {', '.join(names[:10])}" if names else "there is none"
    raise NotFound(f"{kind.kind} {name!r} is not in namespace {backend.namespace!r} of {backend.where}; {there}")


def choose_local(flag: bool | None, environ: Mapping[str, str] = os.environ) -> bool:
    """Tell whether a verb means this machine: the flag decides, else RATCHET_HOME being set."""
    return bool(environ.get("RATCHET_HOME")) if flag is None else flag


def owned_by(body: Body, uid: str) -> bool:
    """Tell whether an object belongs to the one with this uid."""
    return any(each["uid"] == uid for each in body["metadata"].get("ownerReferences", ()))
