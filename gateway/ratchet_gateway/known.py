"""What was stored lately, by name: tells a retry from a second event, and a reused key from either.

Decides "new", "the same again" or "something else under this name". Bounded: the oldest names are forgotten, after
which the log's readers still count one event. Filled by this process's own requests and by `follower`, which reads the
segments of the other replicas. Never reads the store.
"""

from __future__ import annotations

from collections import OrderedDict
from enum import Enum

MAX_NAMES = 200_000


class Seen(Enum):
    """What is known of a name."""

    NEW = "new"
    STORED = "stored"
    """The same content is in the log."""
    UNDER_WAY = "under way"
    """The same content was sent and is not confirmed (yet)."""
    OTHER = "other"
    """Another content has this name."""


class KnownEvents:
    """Names and the fingerprints of what has them."""

    def __init__(self, max_names: int = MAX_NAMES) -> None:
        self._max_names = max_names
        self._names: OrderedDict[str, str] = OrderedDict()
        self._under_way: set[str] = set()  # names of what is not in the log (yet)

    def claim(self, name: str, fingerprint: str) -> Seen:
        """Look a name up; a new one belongs to this content from now on."""
        known = self._names.get(name)
        if known is None:
            self._put(name, fingerprint)
            self._under_way.add(name)
            return Seen.NEW
        if known != fingerprint:
            return Seen.OTHER
        return Seen.UNDER_WAY if name in self._under_way else Seen.STORED

    def release(self, name: str, fingerprint: str) -> None:
        """Forget a claim of content that was refused."""
        if name in self._under_way and self._names.get(name) == fingerprint:
            del self._names[name]
            self._under_way.discard(name)

    def stored(self, name: str, fingerprint: str) -> None:
        """Note that the content is in the log; where another has the name already, that one was first."""
        known = self._names.get(name)
        if known is None:
            self._put(name, fingerprint)
        elif known == fingerprint:
            self._under_way.discard(name)

    def _put(self, name: str, fingerprint: str) -> None:
        self._names[name] = fingerprint
        while len(self._names) > self._max_names:
            self._under_way.discard(self._names.popitem(last=False)[0])
