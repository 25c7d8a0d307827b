"""What the log holds about a policy, counted: events by type, scores, subjects.

Decides what is counted. Reads the whole log once per question, in a thread and one question at a time; nothing is kept
between questions, so memory is what one reading needs. Only what is newer than a time is counted cheaply. Called by the
policy routes.
"""

from __future__ import annotations

import asyncio
import math
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from ratchet_api.feedback import GOOD_SCORE, FeedbackStats, score_of
from ratchet_gateway.records import PAIR
from ratchet_jobs.feedback_log.erasures import erased_subjects
from ratchet_jobs.feedback_log.newer import NewerEvents
from ratchet_jobs.feedback_log.reader import LogReader
from ratchet_jobs.runtime.store import Store


@dataclass(slots=True)
class Scores:
    """Count, mean and spread of scores, by Welford's recurrence.

    Attributes:
        count: scores so far.
        mean: 0 to 1.
    """

    count: int = 0
    mean: float = 0.0
    _squares: float = 0.0

    def add(self, score: float) -> None:
        """Take one more score into account."""
        self.count += 1
        step = score - self.mean
        self.mean += step / self.count
        self._squares += step * (score - self.mean)

    @property
    def std(self) -> float:
        """Standard deviation of the population."""
        return math.sqrt(max(self._squares, 0.0) / self.count) if self.count else 0.0


class _Said(NamedTuple):
    """What is kept of one event of feedback until all are read, since a later one may take it back."""

    source: str
    type: str
    subject: str | None
    score: float | None
    interaction: str | None


class PolicyTally:
    """Counts of one policy. What was taken back by its sender, or belongs to a person who was erased, is not counted.

    Args:
        policy: its name.
        erased: pseudonyms of everybody who was erased.
    """

    def __init__(self, policy: str, erased: Collection[str] = ()) -> None:
        self.policy = policy
        self.newest = ""
        """When the last event of either kind arrived."""
        self._erased = frozenset(erased)
        self._said: dict[str, _Said] = {}
        self._superseded: set[tuple[str, str]] = set()
        self._interactions: dict[str, str | None] = {}
        """Whom each answer was given to."""

    def add(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Take the events that are about the policy into account; an answer that nobody got is none."""
        for event in events:
            if event["policy"] != self.policy or event["kind"] == PAIR:
                continue
            self.newest = max(self.newest, event["received"])
            subject, interaction = event.get("subject"), event.get("interaction")
            if event["kind"] != "feedback":
                self._interactions[interaction or event["id"]] = subject
                continue
            if (old := event.get("supersedes")) is not None:
                self._superseded.add((old, event["source"]))
            if event["type"] != "undo":
                kind = sys.intern(event["type"])
                said = _Said(sys.intern(event["source"]), kind, subject, score_of(event), interaction)
                self._said[event["id"]] = said

    @property
    def scores(self) -> Scores:
        """Of the rated events."""
        scores = Scores()
        for said in self._counted():
            if said.score is not None:
                scores.add(said.score)
        return scores

    @property
    def samples(self) -> int:
        """Events that teach something: the rated ones, and corrections."""
        return sum(said.score is not None or said.type == "correction" for said in self._counted())

    @property
    def people(self) -> int:
        """Who gave what a training repeats, corrections and liked answers; one without a name counts by themselves."""
        names, unnamed = set(), 0
        for said in self._counted():
            if said.type == "correction" or (said.score is not None and said.score >= GOOD_SCORE):
                who = said.subject or self._interactions.get(said.interaction or "")
                unnamed += who is None
                names.add(who)
        return len(names - {None}) + unnamed

    def stats(self) -> FeedbackStats:
        """Return the counts as the API gives them."""
        by_type = Counter(said.type for said in self._counted())
        subjects = Counter(said.subject for said in self._counted() if said.subject is not None)
        scores, named = self.scores, subjects.total()
        return FeedbackStats(
            policy=self.policy,
            events=by_type.total(),
            by_type=dict(sorted(by_type.items())),
            rated=scores.count,
            score_mean=round(scores.mean, 6) if scores.count else None,
            score_std=round(scores.std, 6) if scores.count else None,
            subjects=len(subjects),
            largest_share=round(max(subjects.values()) / named, 6) if named else None,
            interactions=sum(subject not in self._erased for subject in self._interactions.values()),
            newest=self.newest or None,
        )

    def _counted(self) -> Iterator[_Said]:
        for name, said in self._said.items():
            about = self._interactions.get(said.interaction or "")
            gone = said.subject in self._erased or about in self._erased
            if not gone and (name, said.source) not in self._superseded:
                yield said


class Tally:
    """Counts from the log of one namespace."""

    def __init__(self, store: Store, namespace: str) -> None:
        """Name the log."""
        self._store, self._namespace = store, namespace
        self._one = asyncio.Lock()
        self._newer = NewerEvents(store, namespace)

    async def of(self, policy: str) -> PolicyTally:
        """Count what the log holds about a policy, each event once.

        Raises:
            StoreError: the log cannot be read.
        """
        async with self._one:
            return await asyncio.to_thread(self._read, policy)

    async def newer(self, policy: str, since: datetime, *, now: datetime) -> int:
        """Count the events of feedback about a policy that arrived after a time; stored retries count twice.

        Raises:
            StoreError: the log cannot be read.
        """
        return await asyncio.to_thread(self._newer.count, policy, since, now=now)

    def _read(self, policy: str) -> PolicyTally:
        tally = PolicyTally(policy, erased_subjects(self._store, self._namespace))
        tally.add(LogReader(self._store, self._namespace).events())
        return tally
