"""What the log holds about a policy, counted: events by type, scores, subjects.

Decides what is counted. Reads the whole log once per question, in a thread and one question at a time; nothing is kept
between questions, so memory is what one reading needs. Called by the policy routes.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ratchet_api.feedback import FeedbackStats, score_of
from ratchet_gateway.log.reader import LogReader
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


@dataclass(slots=True)
class PolicyTally:
    """Counts of one policy.

    Attributes:
        policy: its name.
        scores: of the rated events.
        by_type: events of feedback.
        subjects: events by pseudonym.
        interactions: recorded answers, with texts or without.
        newest: when the last event of either kind arrived.
    """

    policy: str
    scores: Scores = field(default_factory=Scores)
    by_type: Counter[str] = field(default_factory=Counter)
    subjects: Counter[str] = field(default_factory=Counter)
    interactions: int = 0
    newest: str = ""

    def add(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Count the events that are about the policy."""
        for event in events:
            if event["policy"] != self.policy:
                continue
            self.newest = max(self.newest, event["received"])
            if event["kind"] != "feedback":
                self.interactions += 1
                continue
            self.by_type[event["type"]] += 1
            if subject := event.get("subject"):
                self.subjects[subject] += 1
            if (score := score_of(event)) is not None:
                self.scores.add(score)

    def stats(self) -> FeedbackStats:
        """Return the counts as the API gives them."""
        named = self.subjects.total()
        rated = self.scores.count
        return FeedbackStats(
            policy=self.policy,
            events=self.by_type.total(),
            by_type=dict(sorted(self.by_type.items())),
            rated=rated,
            score_mean=round(self.scores.mean, 6) if rated else None,
            score_std=round(self.scores.std, 6) if rated else None,
            subjects=len(self.subjects),
            largest_share=round(max(self.subjects.values()) / named, 6) if named else None,
            interactions=self.interactions,
            newest=self.newest or None,
        )


class Tally:
    """Counts from the log of one namespace."""

    def __init__(self, store: Store, namespace: str) -> None:
        """Name the log."""
        self._store, self._namespace = store, namespace
        self._one = asyncio.Lock()

    async def of(self, policy: str) -> PolicyTally:
        """Count what the log holds about a policy, each event once.

        Raises:
            StoreError: the log cannot be read.
        """
        async with self._one:
            return await asyncio.to_thread(self._read, policy)

    def _read(self, policy: str) -> PolicyTally:
        tally = PolicyTally(policy)
        tally.add(LogReader(self._store, self._namespace).events())
        return tally
