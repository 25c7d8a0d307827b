"""The newest part of the log, kept at hand: what was answered and said lately, one entry per event.

Decides how much of the log is recent (at most 30 days, 2,000 segments, 200,000 events, 32 MiB of texts) and when the
store is asked again. Nothing of a person who was erased is given out. Never writes. Called by `review`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from ratchet_api.feedback import score_of
from ratchet_jobs.feedback_log.erasures import erased_subjects
from ratchet_jobs.feedback_log.reader import list_segments, read_segment
from ratchet_jobs.feedback_log.segment import Segment, folder_of
from ratchet_jobs.runtime.errors import StoreError
from ratchet_jobs.runtime.store import Store

WINDOW_DAYS = 30
MAX_EVENTS = 200_000
MAX_BYTES = 32 << 20
MAX_SEGMENTS = 2_000
FRESH_SECONDS = 1.0
LIST_ALL_SECONDS = 600.0
"""Segments of past days come late or are rewritten by an erasure; both are seen after this long."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One recorded answer, with its texts."""

    id: str
    policy: str
    subject: str | None
    version: int | None
    input: str
    answer: str
    is_label: bool
    confidence: float | None
    arm: str | None
    propensity: float | None
    received: str


@dataclass(frozen=True, slots=True)
class Vote:
    """One event of feedback, without its texts."""

    id: str
    policy: str
    source: str
    type: str
    subject: str | None
    about: str | None
    score: float | None
    pair: str | None
    supersedes: str | None
    received: str


Entry = Answer | Vote


class RecentLog:
    """The newest events of one namespace.

    Args:
        store: where the log is.
        namespace: whose log.
        now: the clock.
        monotonic: seconds that never go back.
        max_events: kept at most; the newest segment is kept whole.
        max_bytes: of texts, likewise.
        max_segments: likewise; the first look reads them all.
    """

    def __init__(
        self,
        store: Store,
        namespace: str,
        *,
        now: Callable[[], datetime],
        monotonic: Callable[[], float],
        max_events: int = MAX_EVENTS,
        max_bytes: int = MAX_BYTES,
        max_segments: int = MAX_SEGMENTS,
    ) -> None:
        self._store, self._namespace, self._now, self._monotonic = store, namespace, now, monotonic
        self._max_events, self._max_bytes, self._max_segments = max_events, max_bytes, max_segments
        self._kept: dict[str, Sequence[Entry]] = {}
        self._events = self._bytes = 0
        self._floor = ""
        """Segments up to this key were let go, or never taken."""
        self._read_at = self._listed_at = float("-inf")
        self._erased: frozenset[str] = frozenset()
        self._one = asyncio.Lock()
        self.generation = 0
        """Rises when what is kept changes."""

    async def refresh(self) -> int:
        """Read what is new, unless it was looked for within FRESH_SECONDS; return the generation.

        Raises:
            StoreError: the log cannot be read.
        """
        async with self._one:
            if self._monotonic() - self._read_at >= FRESH_SECONDS:
                try:
                    await asyncio.to_thread(self._refresh)
                except StoreError:
                    self._listed_at = float("-inf")  # an erasure may have rewritten what was listed
                    raise
                self._read_at = self._monotonic()
            return self.generation

    def entries(self) -> Iterator[Entry]:
        """Yield what is kept, oldest first, each event once, without the people who were erased."""
        kept = [each for key in sorted(self._kept) for each in self._kept[key]]
        about = {each.id for each in kept if isinstance(each, Answer) and each.subject in self._erased}
        seen: set[tuple[type, str]] = set()
        for each in kept:
            name = (type(each), each.id)
            if isinstance(each, Vote) and each.about in about:
                continue
            if name not in seen and each.subject not in self._erased:
                seen.add(name)
                yield each

    def _refresh(self) -> None:
        erased = frozenset(erased_subjects(self._store, self._namespace))
        segments = self._listed()
        news = sorted((each for each in segments if each.key not in self._kept), key=lambda each: each.key)
        if not news and erased == self._erased:
            return
        self._erased = erased
        for segment in reversed(news[-self._max_segments :]):  # the newest first: the oldest may not fit any more
            if segment.key > self._floor:
                self._keep(segment)
        self.generation += 1

    def _keep(self, segment: Segment) -> None:
        entries = [made for event in read_segment(self._store, segment) if (made := _entry(event))]
        self._kept[segment.key] = entries
        self._events, self._bytes = self._events + len(entries), self._bytes + sum(map(_size, entries))
        while len(self._kept) > 1 and (
            len(self._kept) > self._max_segments or self._events > self._max_events or self._bytes > self._max_bytes
        ):
            self._floor = min(self._kept)
            self._let_go(self._floor)

    def _let_go(self, key: str) -> None:
        gone = self._kept.pop(key)
        self._events, self._bytes = self._events - len(gone), self._bytes - sum(map(_size, gone))

    def _listed(self) -> list[Segment]:
        """List the segments of the window, or of its newest days when the others were listed lately."""
        now = self._now()
        whole = self._monotonic() - self._listed_at >= LIST_ALL_SECONDS
        days = [folder_of(now - timedelta(days=back))[:10] for back in range(-1, WINDOW_DAYS if whole else 2)]
        found = [each for day in days for each in list_segments(self._store, self._namespace, folder=day)[0]]
        if whole:
            names = {each.key for each in found}
            for key in self._kept.keys() - names:
                self._let_go(key)
            self._listed_at = self._monotonic()
        return found


def _size(entry: Entry) -> int:
    return len(entry.input) + len(entry.answer) if isinstance(entry, Answer) else 0


def _entry(event: Mapping[str, Any]) -> Entry | None:
    """Return what is kept of an event; an exposure without texts is nothing to review."""
    if event["kind"] == "interaction":
        is_label = event.get("response") is None
        answer = str(event["label"] if is_label else event["response"])
        return Answer(
            id=str(event["interaction"]),
            policy=str(event["policy"]),
            subject=event.get("subject"),
            version=event.get("version"),
            input=str(event["input"]),
            answer=answer,
            is_label=is_label,
            confidence=event.get("probabilities", {}).get(answer),
            arm=event.get("arm"),
            propensity=event.get("assignmentPropensity"),
            received=str(event["received"]),
        )
    if event["kind"] != "feedback":
        return None
    return Vote(
        id=str(event["id"]),
        policy=str(event["policy"]),
        source=str(event["source"]),
        type=str(event["type"]),
        subject=event.get("subject"),
        about=event.get("interaction"),
        score=score_of(event),
        pair=event.get("tags", {}).get("pair"),
        supersedes=event.get("supersedes"),
        received=str(event["received"]),
    )
