"""Which data sets are made of a policy's feedback, and what they kept of it, behind one small port.

Decides whose a data set is (the policy that its source names) and which are shown, and nothing about where they are
kept: in a cluster (`datasets_kubernetes`) or in the state directory of `ratchet up`. Never writes, and never reads a
snapshot: an object's status tells what is shown. Used by the review routes.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from pydantic import ValidationError

from ratchet_api.feedback_dataset import FeedbackDatasetStatus
from ratchet_api.review import ReviewDataset

log = logging.getLogger(__name__)

MAX_SHOWN = 20
"""Every request to train makes a data set of its own; the old ones say little."""

KubeObject = Mapping[str, Any]


class Untold(Exception):
    """Nobody can say which data sets there are; the text says why and what to do."""


class Datasets(Protocol):
    """What the routes ask."""

    async def of(self, policy: str) -> Sequence[ReviewDataset]:
        """Return the data sets of a policy's feedback, at most MAX_SHOWN, the newest snapshot first.

        Raises:
            Untold: nobody can say.
        """


class NoDatasets:
    """There is no place where they could be."""

    async def of(self, policy: str) -> Sequence[ReviewDataset]:
        """Say so."""
        raise Untold(
            "this gateway has its policies from a list and sees no data sets; leave RATCHET_GATEWAY_POLICIES unset in "
            "a cluster, and it shows those of its namespace"
        )


class LocalDatasets:
    """Data sets of a state directory, as they are at each question.

    Args:
        read: returns the FeedbackDatasets as they are stored.
    """

    def __init__(self, read: Callable[[], Iterable[KubeObject]]) -> None:
        self._read = read

    async def of(self, policy: str) -> Sequence[ReviewDataset]:
        """Return the data sets of a policy's feedback."""
        return by_policy(self._read()).get(policy, ())


def by_policy(bodies: Iterable[KubeObject]) -> dict[str, tuple[ReviewDataset, ...]]:
    """Sort data sets by the policy whose feedback they hold, the newest snapshot first; others are left out."""
    found: dict[str, list[KubeObject]] = defaultdict(list)
    for body in bodies:
        feedback = body["spec"].get("source", {}).get("feedback")
        if feedback is not None:
            found[feedback["policyRef"]["name"]].append(body)
    return {
        policy: tuple(map(_shown, sorted(members, key=_newness, reverse=True)[:MAX_SHOWN]))
        for policy, members in found.items()
    }


def _newness(body: KubeObject) -> tuple[str, str, str]:
    meta = body["metadata"]
    return body.get("status", {}).get("snapshotTime") or "", meta.get("creationTimestamp") or "", meta["name"]


def _shown(body: KubeObject) -> ReviewDataset:
    """Read what this version of the gateway understands; an object of a newer one is still a data set."""
    name = str(body["metadata"]["name"])
    try:
        status = FeedbackDatasetStatus.model_validate(body.get("status", {}))
    except ValidationError as error:
        log.warning("data set is only known by name", extra={"dataset": name, "error": str(error)[:300]})
        status = FeedbackDatasetStatus()
    return ReviewDataset(
        name=name,
        type=str(body["spec"]["type"]),
        state=status.state,
        taken=status.snapshot_time,
        snapshot=status.snapshot,
    )
