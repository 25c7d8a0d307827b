"""Ids that nobody can forge and subjects that nobody can read: HMAC-SHA256 under named keys.

Decides the format of a signed interaction id, its expiry, and how a subject becomes a pseudonym. Never stores
anything and never chooses a lifetime. Whoever serves an answer signs; the gateway verifies. Keys come from a mounted
Secret (`KeyRing.from_directory`) or one environment variable; the newest signs, every kept one verifies.
"""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import Field, ValidationError

from ratchet_api.base import ObjectName, StatusModel

MIN_KEY_BYTES = 32
CLOCK_SKEW = timedelta(minutes=10)
"""How far clocks of signer and verifier may be apart."""
_FORMAT = "r1"
_KEY_ID = re.compile(r"[A-Za-z0-9_-]{1,32}")


class BadKey(ValueError):
    """A key cannot be used; the text names where it came from."""


class BadInteraction(ValueError):
    """An interaction id is forged, expired or no such id at all; the text says which."""


@dataclass(frozen=True, slots=True, repr=False)
class KeyRing:
    """Keys by id. The last id in sorted order is the newest: name keys by date, such as 2026-11."""

    keys: Mapping[str, bytes]
    newest: str = field(init=False)
    """Id of the key that signs."""

    def __post_init__(self) -> None:
        """Refuse what would sign badly.

        Raises:
            BadKey: no key, a bad id or a short key.
        """
        if not self.keys:
            raise BadKey("key ring: holds no key; put a file of at least 32 random bytes into its directory")
        for name, key in self.keys.items():
            if not _KEY_ID.fullmatch(name):
                raise BadKey(f"key {name!r}: an id has 1 to 32 letters, digits, - or _; rename it")
            if len(key) < MIN_KEY_BYTES:
                raise BadKey(f"key {name!r}: has {len(key)} bytes, at least {MIN_KEY_BYTES} are needed; make a new one")
        object.__setattr__(self, "newest", max(self.keys))

    @classmethod
    def from_directory(cls, directory: Path) -> KeyRing:
        """Read a mounted Secret: one file per key, named by its id; files that begin with a dot are not ours.

        Raises:
            BadKey: the directory cannot be read or a key cannot be used.
        """
        try:
            files = [p for p in sorted(directory.iterdir()) if p.is_file() and not p.name.startswith(".")]
            return cls({p.name: p.read_bytes().strip() for p in files})
        except OSError as error:
            raise BadKey(f"key directory {directory}: {error.strerror}; mount the Secret there") from error


class Exposure(StatusModel):
    """What a signed interaction id says: who answered, in which arm of which experiment, until when it may be cited."""

    id: str = Field(alias="i", min_length=1, max_length=128)
    policy: ObjectName = Field(alias="p")
    version: int | None = Field(default=None, alias="v", ge=1, le=2**31)
    arm: str | None = Field(default=None, alias="a", max_length=32)
    propensity: float | None = Field(default=None, alias="q", gt=0, le=1)
    experiment: str | None = Field(default=None, alias="x", pattern=r"^[0-9a-f]{16}$")
    issued: int = Field(alias="t", ge=0, le=2**53)
    """Seconds since 1970."""
    expires: int = Field(alias="e", ge=0, le=2**53)
    """Seconds since 1970."""


def sign_interaction(exposure: Exposure, ring: KeyRing) -> str:
    """Return the id to hand out: `r1.KEY.PAYLOAD.MAC`, at most 1024 printable characters."""
    payload = exposure.model_dump_json(by_alias=True, exclude_none=True).encode()
    head = f"{_FORMAT}.{ring.newest}.{_encode(payload)}"
    return f"{head}.{_encode(_mac(ring.keys[ring.newest], b'interaction', head.encode()))}"


def verify_interaction(text: str, ring: KeyRing, *, now: datetime) -> Exposure:
    """Return what a signed id says.

    Args:
        text: as it was handed out.
        ring: every key that may have signed it.
        now: decides about expiry; a clock that is off by CLOCK_SKEW changes nothing.

    Raises:
        BadInteraction: it is no such id, its key or signature is wrong, it has expired, or it comes from the future.
    """
    parts = text.split(".")
    if len(parts) != 4 or parts[0] != _FORMAT:
        raise BadInteraction("interactionId: is no id of ours; send it exactly as x-ratchet-interaction gave it")
    key = ring.keys.get(parts[1])
    head = ".".join(parts[:3])
    if key is None or not hmac.compare_digest(_decode(parts[3]), _mac(key, b"interaction", head.encode())):
        raise BadInteraction("interactionId: its signature is wrong; send it exactly as x-ratchet-interaction gave it")
    try:
        exposure = Exposure.model_validate_json(_decode(parts[2]))
    except ValidationError as error:
        raise BadInteraction("interactionId: is signed but says nothing that can be read; sign it again") from error
    seconds, skew = now.timestamp(), CLOCK_SKEW.total_seconds()
    if seconds > exposure.expires + skew:
        when = datetime.fromtimestamp(exposure.expires, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        raise BadInteraction(f"interactionId: expired at {when}; feedback on this answer is no longer taken")
    if exposure.issued > seconds + skew:
        raise BadInteraction("interactionId: was issued in the future; set the clock of the server that signed it")
    return exposure


def pseudonym(subject: str, ring: KeyRing, *, key: str | None = None) -> str:
    """Return what is stored instead of a subject: `KEY:32 hex digits`.

    Args:
        subject: the raw id.
        ring: the keys.
        key: id of the key; None = the newest. An erasure tries all of them.
    """
    name = key or ring.newest
    return f"{name}:{_mac(ring.keys[name], b'subject', subject.encode()).hex()[:32]}"


def _mac(key: bytes, purpose: bytes, message: bytes) -> bytes:
    mac = _begun(key, purpose).copy()
    mac.update(message)
    return mac.digest()


@functools.lru_cache(maxsize=64)
def _begun(key: bytes, purpose: bytes) -> hmac.HMAC:
    """The same beginning of every message; setting OpenSSL up for a key costs as much as the rest."""
    # the purpose keeps a pseudonym from ever being a signature
    return hmac.new(key, purpose + b"\0", hashlib.sha256)


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    """Decode the one spelling that `_encode` gives; anything else is no bytes of ours."""
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return b""
    return data if _encode(data) == text else b""
