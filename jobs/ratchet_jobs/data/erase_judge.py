"""Takes a person's words out of what judges were asked: each entry that quotes them goes, the others stay.

An entry is the person's if one of its texts holds one of theirs, or, for short ones, is one of theirs. One too many
costs a question that is asked again, so nothing is blotted out here. An object of the cache is named by what it holds:
what is left of it gets a new name before the old one goes. Any step may be repeated. Called by `erase`, before the log
and the snapshots are rewritten, since the words are known from there.
"""

from __future__ import annotations

from collections.abc import Collection

from ratchet_api.names import judge_prefix
from ratchet_jobs.judging.cache import Entry, entries_of, store_entries
from ratchet_jobs.runtime.store import Store


def quoting_entries(
    store: Store, namespace: str, beginnings: Collection[str], texts: Collection[str]
) -> dict[str, int]:
    """Return the objects of the cache that quote a person, each with how many of its entries do.

    Args:
        store: of the namespace.
        namespace: whose.
        beginnings: by what long texts of the person are found inside others.
        texts: of the person, without outer blanks.
    """
    found: dict[str, int] = {}
    keys = [info.key for info in store.list(judge_prefix(namespace))] if texts else []
    for key in keys:
        if count := sum(_quotes(entry, beginnings, texts) for entry in entries_of(store.read(key), key)):
            found[key] = count
    return found


def forget_entries(store: Store, key: str, beginnings: Collection[str], texts: Collection[str]) -> None:
    """Replace one object by what is not the person's in it."""
    left = [entry for entry in entries_of(store.read(key), key) if not _quotes(entry, beginnings, texts)]
    store_entries(store, key.rpartition("/")[0], left)
    store.delete([key])


def _quotes(entry: Entry, beginnings: Collection[str], texts: Collection[str]) -> bool:
    words = list(entry.words.values())
    return any(word.strip() in texts for word in words) or any(part in word for part in beginnings for word in words)
