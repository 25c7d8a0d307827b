"""What was stored in the last day, by name: tells a retry from a second event, and a reused key from either.

Decides "new", "the same again" or "something else under this name". Bounded: of two generations of names the older is
forgotten when the younger is full, after which the log's readers still count one event and tell of the other. Filled
by this process's own requests and by `follower`, which reads the segments of other processes. Never reads the store.
"""

from __future__ import annotations

from array import array
from enum import Enum

MAX_NAMES = 1_000_000
"""In 24 MiB, from the first moment on; events have one or two names each."""
_NOTHING = -1


class Seen(Enum):
    """What is known of a name."""

    NEW = "new"
    STORED = "stored"
    """The same content is in the log."""
    UNDER_WAY = "under way"
    """The same content was sent and is not confirmed (yet)."""
    OTHER = "other"
    """Another content has this name."""


class _Names:
    """A generation: hashes of names and of contents in a table of a fixed size, by open addressing.

    Twelve bytes a place, half of the places stay empty. A dictionary of a million would take five times that, and grow.
    """

    def __init__(self, most: int) -> None:
        self._mask = (1 << (2 * most).bit_length()) - 1
        self._names = array("q", bytes(8 * (self._mask + 1)))  # 0 = an empty place
        self._contents = array("i", [_NOTHING]) * (self._mask + 1)
        self._most, self._used = most, 0

    @property
    def full(self) -> bool:
        return self._used >= self._most

    def get(self, name: int) -> int | None:
        content = self._contents[self._place(name)]
        return None if content == _NOTHING else content

    def put(self, name: int, content: int) -> None:
        place = self._place(name)
        self._used += self._names[place] == 0
        self._names[place], self._contents[place] = name, content

    def drop(self, name: int) -> None:
        """Forget a name's content; its place stays taken, since others may stand behind it."""
        self._contents[self._place(name)] = _NOTHING

    def _place(self, name: int) -> int:
        place, names, mask = name & self._mask, self._names, self._mask
        while names[place] not in (0, name):
            place = (place + 1) & mask
        return place


class KnownEvents:
    """Names and the fingerprints of what has them.

    Both are held as hashes, of 64 and 30 bits. Python's are keyed anew in each process, so nobody can send names that
    meet by design.
    """

    def __init__(self, max_names: int = MAX_NAMES) -> None:
        self._most = max(1, max_names // 2)  # in each generation
        self._young, self._old = _Names(self._most), _Names(self._most)
        self._under_way: set[int] = set()  # names of what is not in the log (yet)

    @property
    def has_room(self) -> bool:
        """Whether a name that is older than all others would be kept."""
        return not self._old.full

    def claim(self, name: str, fingerprint: str) -> Seen:
        """Look a name up; a new one belongs to this content from now on."""
        which, content = _name(name), _content(fingerprint)
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
        which = _name(name)
        if which in self._under_way and self._find(which) == _content(fingerprint):
            self._young.drop(which)
            self._old.drop(which)
            self._under_way.discard(which)

    def stored(self, name: str, fingerprint: str) -> None:
        """Note that the content is in the log; where another has the name already, that one was first."""
        which, content = _name(name), _content(fingerprint)
        known = self._find(which)
        if known is None:
            self._put(which, content)
        elif known == content:
            self._under_way.discard(which)

    def recall(self, name: str, fingerprint: str) -> None:
        """Note what was in the log before anything else that is known; kept while there is room."""
        which, content = _name(name), _content(fingerprint)
        known = self._find(which)
        if known is None:
            if self.has_room:
                self._old.put(which, content)
        elif known == content:
            self._under_way.discard(which)

    def _find(self, which: int) -> int | None:
        known = self._young.get(which)
        return self._old.get(which) if known is None else known

    def _put(self, which: int, content: int) -> None:
        if self._young.full:
            self._young, self._old = _Names(self._most), self._young
            # what is in neither any more is under way no more, as far as anybody can tell
            self._under_way = {each for each in self._under_way if self._old.get(each) is not None}
        self._young.put(which, content)


def _name(text: str) -> int:
    return hash(text) or 1


def _content(fingerprint: str) -> int:
    return hash(fingerprint) & 0x3FFF_FFFF
