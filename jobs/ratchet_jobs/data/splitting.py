"""Which row belongs to which split, such that nothing leaks: equal texts and rows of one group stay together.

Pure. Rows are joined into components by group and by normalised text; a component falls as a whole into one split by a
hash of its smallest member, so the same rows split alike wherever and in whatever order they are read.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

from ratchet_api.feedback_dataset import Split, SplitName

PRIORITY: Sequence[SplitName] = ("test", "validation", "train")
"""Where a component has rows in several splits by the files they came from, the first of these keeps its rows."""


def normalised(text: str) -> str:
    """Form in which two texts count as equal: NFKC, case folded, blanks collapsed."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def hash64(*parts: str) -> int:
    """64-bit hash of strings; the parts are length-prefixed, so ("ab", "c") and ("a", "bc") differ."""
    content = b"".join(len(data).to_bytes(8, "big") + data for data in map(str.encode, parts))
    return int.from_bytes(hashlib.sha256(content).digest()[:8], "big")


def components(keys: Iterable[tuple[int, int | None]]) -> list[int]:
    """Join rows that share a text or a group (union-find).

    Args:
        keys: per row, the hash of its normalised text and the hash of its group or None.

    Returns:
        Per row, the smallest hash of its component: equal for rows of one component.
    """
    parent: dict[int, int] = {}

    def root(node: int) -> int:
        parent.setdefault(node, node)
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    rows = list(keys)
    for text, group in rows:
        a = root(text)
        if group is not None:
            b = root(group)
            parent[max(a, b)] = min(a, b)
    return [root(text) for text, _ in rows]


def split_of(component: int, split: Split) -> SplitName:
    """Return the split that a component falls into."""
    point = hash64(split.salt, str(component)) / 2**64 * 100
    if point < split.train_percent:
        return "train"
    if point < split.train_percent + split.validation_percent:
        return "validation"
    return "test"


def cap_of(people: Mapping[int, int], share_percent: float) -> int:
    """Largest number of rows per subject such that none has more than its share of what then remains.

    Capping lowers the total, which lowers the cap; the fixed point from above is the answer.

    Args:
        people: how many subjects have so many rows.
        share_percent: the most that one subject may have, of the kept rows.

    Returns:
        Rows that each subject may keep; 0 = no number of rows satisfies the share.
    """
    cap = max(people, default=0)
    while True:
        total = sum(min(amount, cap) * many for amount, many in people.items())
        allowed = int(total * share_percent / 100)
        if allowed >= cap:
            return cap
        cap = allowed
