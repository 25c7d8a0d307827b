"""Who calls, and what they may do: roles `ingest` (send feedback), `read` (see policies), `train`, `erase` (a person).

Decides from a bearer token alone. API keys come from a mounted file that holds only their SHA-256; Kubernetes tokens
are asked about in `tokenreview`. Never logs a token and never tells a stranger which part was wrong. Called once per
request by the routes.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Protocol

from pydantic import Field, ValidationError

from ratchet_api.base import ApiModel, Sha256
from ratchet_gateway.errors import Forbidden, Unauthenticated

log = logging.getLogger(__name__)


class Role(StrEnum):
    """What a caller may do."""

    INGEST = "ingest"
    READ = "read"
    TRAIN = "train"
    ERASE = "erase"


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody we know.

    Attributes:
        name: for logs, rate limits and the `source` of events.
        roles: what they may do.
    """

    name: str
    roles: frozenset[Role]

    def need(self, role: Role) -> None:
        """Let the caller pass if it has the role.

        Raises:
            Forbidden: it has not.
        """
        if role not in self.roles:
            has = ", ".join(sorted(r.value for r in self.roles)) or "none"
            raise Forbidden(f"role {role.value!r} is needed, {self.name!r} has {has}; ask for it, or use another token")


class Authenticator(Protocol):
    """One way to know a caller."""

    async def caller(self, token: str) -> Caller | None:
        """Return who has this token, or None when this way does not know it.

        Raises:
            Away: it could not be found out.
        """


class KeyEntry(ApiModel):
    """One API key; the key itself is only with its owner."""

    name: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._-]+$")]
    sha256: Sha256
    roles: Annotated[tuple[Role, ...], Field(strict=False, min_length=1, max_length=4)]


class KeyFile(ApiModel):
    """The file of API keys: `{"keys": [{"name": "app", "sha256": "…", "roles": ["ingest"]}]}`."""

    keys: Annotated[tuple[KeyEntry, ...], Field(strict=False, max_length=10_000)]


class BadKeyFile(ValueError):
    """The file of API keys cannot be used; the text says why."""


class ApiKeys:
    """API keys from a file, read again when it changes.

    Args:
        path: the mounted file.
        clock: monotonic seconds.

    Raises:
        BadKeyFile: it cannot be used. A later version that cannot be used is logged, and the last good one stays.
    """

    LOOK_EVERY_SECONDS = 5.0

    def __init__(self, path: Path, clock: Callable[[], float]) -> None:
        self._path, self._clock = path, clock
        self._callers, self._stamp = self._read(), self._modified()
        self._looked = clock()

    async def caller(self, token: str) -> Caller | None:
        """Return whose key this is. Looking its digest up takes the same time whatever part of a guess is right."""
        if self._clock() - self._looked >= self.LOOK_EVERY_SECONDS:
            self._looked = self._clock()
            self._refresh()
        return self._callers.get(hashlib.sha256(token.encode()).hexdigest())

    def _refresh(self) -> None:
        try:
            if (stamp := self._modified()) != self._stamp:
                self._callers, self._stamp = self._read(), stamp
        except BadKeyFile as error:
            log.error("kept the keys that were read before", extra={"error": str(error)})

    def _modified(self) -> tuple[int, int]:
        try:
            found = self._path.stat()
        except OSError as error:
            raise BadKeyFile(f"key file {self._path}: {error.strerror}; mount the Secret there") from error
        return found.st_mtime_ns, found.st_ino

    def _read(self) -> dict[str, Caller]:
        try:
            file = KeyFile.model_validate_json(self._path.read_bytes())
        except OSError as error:
            raise BadKeyFile(f"key file {self._path}: {error.strerror}; mount the Secret there") from error
        except ValidationError as error:
            first = error.errors(include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise BadKeyFile(f"key file {self._path}: {where or 'file'}: {first['msg']}; see the how-to") from error
        return {entry.sha256: Caller(entry.name, frozenset(entry.roles)) for entry in file.keys}


class Anyone:
    """Everybody is the same caller with every role; the settings allow this on loopback only."""

    CALLER = Caller("local", frozenset(Role))

    async def caller(self, token: str) -> Caller | None:
        """Return the one caller."""
        return self.CALLER


async def authenticate(ways: tuple[Authenticator, ...], token: str | None) -> Caller:
    """Return who calls.

    Raises:
        Unauthenticated: nobody we know.
        Away: the one that would know does not answer.
    """
    for way in ways:
        if isinstance(way, Anyone) or token:
            if caller := await way.caller(token or ""):
                return caller
    if not token:
        raise Unauthenticated("no token; send `Authorization: Bearer TOKEN`")
    raise Unauthenticated("this token is not known here; check it, or ask for one")
