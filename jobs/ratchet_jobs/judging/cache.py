"""What judges said, kept in the namespace's part of the store: nothing is asked, and paid for, twice.

    NAMESPACE/judge/JUDGE/BATCH.json   JUDGE = digest of endpoint, model, prompt and range; BATCH = of the questions

Decides what makes two questions equal: the judge's settings and the texts in its prompt, byte for byte. A run that
resumes, a retry, another stage and another run all read it; each writes objects of its own, so nobody waits. The texts
stand beside the numbers, since an erasure must find a person's entries (`data.erase_judge`). Failures are not kept.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import structlog

from ratchet_api.base import canonical_json, digest_of
from ratchet_api.names import judge_prefix
from ratchet_jobs.runtime.store import Store

log = structlog.get_logger(__name__)


class Entry(NamedTuple):
    """One question that was answered."""

    words: Mapping[str, str]
    """What stood for each name of the prompt."""
    said: Mapping[str, float]

    @property
    def key(self) -> str:
        """By what it is found again."""
        return digest_of(dict(self.words))


class JudgeCache:
    """What one judge said, of all stages of the namespace until now."""

    def __init__(self, store: Store, namespace: str, *, judge: Mapping[str, Any]) -> None:
        """Read what is there.

        Args:
            store: of the namespace.
            namespace: whose.
            judge: all that decides what the judge says and how it is read, JSON-able.
        """
        self._store, self._prefix = store, f"{judge_prefix(namespace)}/{digest_of(dict(judge))[:32]}"
        self._said: dict[str, Mapping[str, float]] = {}
        for info in store.list(self._prefix):
            for entry in entries_of(store.read(info.key), info.key):
                self._said.setdefault(entry.key, entry.said)

    def get(self, words: Mapping[str, str]) -> Mapping[str, float] | None:
        """Return what the judge said, or None if it was never asked or did not answer."""
        return self._said.get(digest_of(dict(words)))

    def add(self, entries: Sequence[Entry]) -> None:
        """Keep what the judge said; once this returns it is in the store."""
        self._said.update((entry.key, entry.said) for entry in entries)
        store_entries(self._store, self._prefix, entries)


def store_entries(store: Store, prefix: str, entries: Sequence[Entry]) -> None:
    """Write one object of the cache, named by what it holds; none for nothing.

    Args:
        store: of the namespace.
        prefix: of the judge.
        entries: to keep.
    """
    if not entries:
        return
    rows = [{"words": dict(entry.words), "said": dict(entry.said)} for entry in entries]
    name = digest_of([entry.key for entry in entries])[:32]
    store.write(f"{prefix}/{name}.json", canonical_json({"entries": rows}))


def entries_of(data: bytes, key: str) -> list[Entry]:
    """Return what an object of the cache holds; one that is broken holds nothing, since everything can be asked again.

    Args:
        data: of the object.
        key: its name, for the log.
    """
    try:
        rows = json.loads(data)["entries"]
        return [Entry(_typed(row["words"], str), _typed(row["said"], float)) for row in rows]
    except (ValueError, LookupError, TypeError) as error:
        log.warning("object of the judge's cache is broken and not read; delete it", key=key, error=repr(error))
        return []


def _typed(found: Any, kind: type) -> dict[str, Any]:
    if not isinstance(found, dict) or not all(isinstance(value, kind) for value in found.values()):
        raise TypeError(f"expected an object of {kind.__name__}")
    return found
