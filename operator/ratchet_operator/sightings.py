"""New runs as the watch showed them, so that their first pass need not read them once more.

Only runs without any status are kept. Such a run has nothing recorded, so a pass over it can do nothing but write its
first status, and that write holds the sighting's resourceVersion: one that is out of date ends as a Conflict, and the
repeated pass reads. `Reconciler` checks that no action ever follows from a sighting. Fed by the watches, emptied by
the passes; decides nothing about runs.
"""

from __future__ import annotations

from collections import OrderedDict

from ratchet_operator.cluster.protocol import KubeObject
from ratchet_operator.wakes import Key

_KEPT = 512  # a few MB; a run that falls out is read as any other


class Sightings:
    """The newest sighting of each run that has no status yet; each is handed out once."""

    def __init__(self) -> None:
        self._seen: OrderedDict[Key, KubeObject] = OrderedDict()

    def saw(self, key: Key, obj: KubeObject) -> None:
        """Take an object from the watch; any state other than a new run's forgets what was kept of the key."""
        self.gone(key)
        if key.plural != "rltrainingruns" or obj.get("status") or obj["metadata"].get("deletionTimestamp"):
            return
        self._seen[key] = obj
        if len(self._seen) > _KEPT:
            self._seen.popitem(last=False)

    def gone(self, key: Key) -> None:
        """Forget the key."""
        self._seen.pop(key, None)

    def take(self, key: Key) -> KubeObject | None:
        """Return the sighting and forget it."""
        return self._seen.pop(key, None)
