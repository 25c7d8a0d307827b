"""Who names whom: which runs and policies must look again when a dataset or a policy changes.

Holds only names and a fingerprint per object, never an object. Fed by the watches, swept by the resync (an event
may be lost, a DELETED one for good), and wrong at worst by a needless or a late pass. Decides nothing about
objects. Called by `controllers.watching` and `controllers.resync`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ratchet_api.base import digest_of
from ratchet_api.conditions import ConditionType
from ratchet_api.kinds import RL_TRAINING_RUN
from ratchet_operator.cluster.protocol import KubeObject
from ratchet_operator.plan.sights import condition_of
from ratchet_operator.wakes import Key, references

_ENDINGS = (ConditionType.COMPLETE, ConditionType.FAILED)


@dataclass(frozen=True, slots=True)
class _Entry:
    uid: str
    names: tuple[Key, ...]
    face: str


class Index:
    """Forward and reverse references between the objects of the three kinds."""

    def __init__(self) -> None:
        self._entries: dict[Key, _Entry] = {}
        self._namers: defaultdict[Key, set[Key]] = defaultdict(set)

    def __len__(self) -> int:
        return len(self._entries)

    def update(self, key: Key, obj: KubeObject) -> bool:
        """Take an object's newest state; tells whether those who name it may care."""
        old = self._entries.get(key)
        entry = _Entry(str(obj["metadata"].get("uid", "")), _named(key, obj), _face(key, obj))
        if old is not None and old.names != entry.names:
            self._unlink(key, old)
        if old is None or old.names != entry.names:
            for named in entry.names:
                self._namers[named].add(key)
        self._entries[key] = entry
        return old is None or old.face != entry.face or old.uid != entry.uid

    def remove(self, key: Key, uid: str) -> bool:
        """Forget a deleted object; False if the name belongs to another object by now (events may overtake)."""
        entry = self._entries.get(key)
        if entry is None or entry.uid != uid:
            return False
        del self._entries[key]
        self._unlink(key, entry)
        return True

    def namers(self, key: Key) -> tuple[Key, ...]:
        """The objects that name this one, whether it exists or not."""
        return tuple(sorted(self._namers.get(key, ())))

    def snapshot(self) -> dict[Key, str]:
        """All known keys with their uids, as they are now."""
        return {key: entry.uid for key, entry in self._entries.items()}

    def _unlink(self, key: Key, entry: _Entry) -> None:
        for named in entry.names:
            self._namers[named].discard(key)
            if not self._namers[named]:
                del self._namers[named]


def _named(key: Key, obj: Mapping[str, Any]) -> tuple[Key, ...]:
    """What the object names. A run that ended looks at nothing any more: a policy may have thousands of those."""
    conditions = _dict(obj.get("status")).get("conditions")
    if key.plural == RL_TRAINING_RUN.plural and any(condition_of(conditions, kind) for kind in _ENDINGS):
        return ()
    return tuple(references(key.plural, obj))


def _face(key: Key, obj: Mapping[str, Any]) -> str:
    """Digest of what those who name the object can see of it; its progress, say, is not among that."""
    status = _dict(obj.get("status"))
    if key.plural == "rltrainingruns":
        return ""  # nobody names a run
    conditions = status.get("conditions")
    ready = [
        (item.get("type"), item.get("status"), item.get("reason"), item.get("message"))
        for item in (conditions if isinstance(conditions, list) else ())
        if isinstance(item, dict)
    ]
    facts = {
        "generation": obj["metadata"].get("generation"),
        "deleting": bool(obj["metadata"].get("deletionTimestamp")),
        "conditions": sorted(map(repr, ready)),
        "snapshot": _dict(status.get("snapshot")).get("digest"),
        "versions": status.get("versions"),
        "nextVersion": status.get("nextVersion"),
        "champion": status.get("champion"),
    }
    return digest_of(facts)


def _dict(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
