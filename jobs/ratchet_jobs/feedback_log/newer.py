"""How many events of feedback about a policy arrived after a time, without reading the log again and again.

Decides which segments can hold such events (those in folders of that minute and later), reads each of them once, and
keeps of an event only when it arrived and whom it is about. Stored retries count twice, and what was taken back counts:
it says when a new data set is worth making, not what is in it. Never writes. Called by the gateway and `ratchet up`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from threading import Lock

from ratchet_jobs.feedback_log.reader import list_segments, read_segment
from ratchet_jobs.feedback_log.segment import Segment, folder_of, log_prefix
from ratchet_jobs.runtime.store import Store

_MAX_DAYS = 31
"""Days that are listed one by one; before that the whole log is."""
_FIRST = datetime(2000, 1, 1, tzinfo=UTC)
"""No log is older; earlier years are not written with four digits everywhere."""
_KEPT_QUESTIONS = 100
"""What was not needed for so many questions is let go."""


class NewerEvents:
    """Counts of one namespace's log; threads take turns.

    Args:
        store: where the log is.
        namespace: whose log.
    """

    def __init__(self, store: Store, namespace: str) -> None:
        self._store, self._namespace = store, namespace
        self._one = Lock()
        self._arrivals: dict[str, Mapping[str, Sequence[float]]] = {}
        """Per segment and policy, when its events arrived, ascending."""
        self._used: dict[str, int] = {}
        self._questions = 0

    def count(self, policy: str, since: datetime, *, now: datetime) -> int:
        """Return the number of events about a policy that arrived after `since`.

        Raises:
            StoreError: the log cannot be read.
        """
        with self._one:
            self._questions += 1
            found = 0
            for segment in self._segments(since, now):
                if (arrivals := self._arrivals.get(segment.key)) is None:
                    arrivals = self._arrivals[segment.key] = self._read(segment)
                self._used[segment.key] = self._questions
                times = arrivals.get(policy, ())
                found += len(times) - bisect_right(times, since.timestamp())
            if self._questions % _KEPT_QUESTIONS == 0:
                for key in [key for key, last in self._used.items() if last <= self._questions - _KEPT_QUESTIONS]:
                    del self._used[key], self._arrivals[key]
            return found

    def _segments(self, since: datetime, now: datetime) -> list[Segment]:
        """List the segments written since that minute; an event never arrives after its segment was named."""
        start = max(min(since, now), _FIRST)
        days = (now.astimezone(UTC).date() - start.astimezone(UTC).date()).days
        if days > _MAX_DAYS:
            listed = list_segments(self._store, self._namespace)[0]
        else:
            folders = [folder_of(start + timedelta(days=day))[:10] for day in range(days + 2)]
            listed = [each for day in folders for each in list_segments(self._store, self._namespace, folder=day)[0]]
        first = f"{log_prefix(self._namespace)}/{folder_of(start)}/"
        return [each for each in listed if each.key >= first]

    def _read(self, segment: Segment) -> Mapping[str, Sequence[float]]:
        times: dict[str, list[float]] = defaultdict(list)
        for event in read_segment(self._store, segment):
            if event["kind"] == "feedback" and event["type"] != "undo":
                times[str(event["policy"])].append(datetime.fromisoformat(event["received"]).timestamp())
        return {name: sorted(each) for name, each in times.items()}
