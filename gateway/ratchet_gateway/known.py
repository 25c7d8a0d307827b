"""What was stored in the last day, by name: tells a retry from a second event, and a reused key from either.

Decides "new", "the same again" or "something else under this name". Bounded: of two generations of names the older is
forgotten when the younger is full, after which the log's readers still count one event and tell of the other. Filled
by this process's own requests and by `follower`, which reads the segments of other processes. Never reads the store.
"""

from __future__ import annotations

from enum import Enum

MAX_NAMES = 1_000_000
"""About 130 MB of them; events have one or two names each."""


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
    """Names and the fingerprints of what has them.

    Both are held as hashes, of 64 and 30 bits: a million names would be four times as large as texts. Python's are
    keyed anew in each process, so nobody can send names that meet by design.
    """

    def __init__(self, max_names: int = MAX_NAMES) -> None:
        self._most = max(1, max_names // 2)  # in each generation
        self._young: dict[int, int] = {}
        self._old: dict[int, int] = {}
        self._under_way: set[int] = set()  # names of what is not in the log (yet)

    @property
    def has_room(self) -> bool:
        """Whether a name that is older than all others would be kept."""
        return len(self._old) < self._most

    def claim(self, name: str, fingerprint: str) -> Seen:
        """Look a name up; a new one belongs to this content from now on."""
        which, content = hash(name), _content(fingerprint)
        known = self._find(which)
        if known is None:
            self._put(which, content)
            self._under_way.add(which)
            return Seen.NEW
        if known != content:
            return Seen.OTHER
        return Seen.UNDER_WAY if which in self._under_way else Seen.STORED

    def release(self, name: str, fingerprint: str) -> None:
        """Forget a claim of content that was refused."""
        which = hash(name)
        if which in self._under_way and self._find(which) == _content(fingerprint):
            self._young.pop(which, None)
            self._old.pop(which, None)
            self._under_way.discard(which)

    def stored(self, name: str, fingerprint: str) -> None:
        """Note that the content is in the log; where another has the name already, that one was first."""
        which, content = hash(name), _content(fingerprint)
        known = self._find(which)
        if known is None:
            self._put(which, content)
        elif known == content:
            self._under_way.discard(which)

    def recall(self, name: str, fingerprint: str) -> None:
        """Note what was in the log before anything else that is known; kept while there is room."""
        which, content = hash(name), _content(fingerprint)
        known = self._find(which)
        if known is None:
            if self.has_room:
                self._old[which] = content
        elif known == content:
            self._under_way.discard(which)

    def _find(self, which: int) -> int | None:
        known = self._young.get(which)
        return self._old.get(which) if known is None else known

    def _put(self, which: int, content: int) -> None:
        if len(self._young) >= self._most:
            self._under_way.difference_update(self._old)
            self._young, self._old = {}, self._young
        self._young[which] = content


def _content(fingerprint: str) -> int:
    return hash(fingerprint) & 0x3FFF_FFFF
