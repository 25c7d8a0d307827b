"""Feedback logs for tests: real events through the gateway's own recorder, written as real segments."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import TypeAdapter

from ratchet_api.feedback import Feedback, Interaction
from ratchet_api.signing import KeyRing, pseudonym
from ratchet_gateway.records import Recorder
from ratchet_jobs.feedback_log.segment import new_epoch, pack, segment_key
from ratchet_jobs.runtime.store import Store

START = datetime(2026, 11, 21, 12, tzinfo=UTC)
RING = KeyRing({"2026-11": b"k" * 32})
FEEDBACK: TypeAdapter[Any] = TypeAdapter(Feedback)


class LogBuilder:
    """One writer's log; every event a second later than the one before.

    Args:
        store: where segments go.
        namespace: whose log.
        source: the sender.
    """

    def __init__(self, store: Store, *, namespace: str = "ns", source: str = "app") -> None:
        self.store, self.namespace, self.source = store, namespace, source
        self.recorder = Recorder(RING)
        self.now = START
        self.lines: list[bytes] = []
        self.epoch, self.seq = new_epoch(START), 0

    def interaction(self, **fields: Any) -> str:
        """Record an answer of the policy `router`; returns its signed id."""
        event = Interaction.model_validate({"policy": "router"} | fields)
        record, signed, _ = self.recorder.interaction(event, source=self.source, now=self._tick())
        self.lines.append(record.line)
        return signed

    def feedback(self, type: str, **fields: Any) -> str:
        """Record an event; returns its id. Without an interactionId it is about the policy `router`."""
        about = {} if "interactionId" in fields else {"policy": "router"}
        event = FEEDBACK.validate_python({"type": type} | about | fields)
        record = self.recorder.feedback(event, source=self.source, now=self._tick())
        self.lines.append(record.line)
        return record.id

    def flush(self) -> str:
        """Seal a segment; returns its key."""
        data = pack(self.lines)
        self.seq += 1
        key = segment_key(
            self.namespace, epoch=self.epoch, seq=self.seq, events=len(self.lines), data=data, at=self.now
        )
        self.store.write(key, data)
        self.lines = []
        return key

    def restart(self) -> None:
        """Go on as a new process would."""
        self.epoch, self.seq = new_epoch(self.now), 0

    def _tick(self) -> datetime:
        self.now += timedelta(seconds=1)
        return self.now


def stored_as(person: str) -> str:
    """What the log holds instead of a person."""
    return pseudonym(person, RING)


def corrections(log: LogBuilder, count: int = 120, *, classes: Sequence[str] = ("billing", "login")) -> None:
    """Distinct questions, each corrected by one of 40 people."""
    for number in range(count):
        signed = log.interaction(input=f"question number {number}", label=classes[0], actionPropensity=0.9, version=3)
        log.feedback(
            "correction",
            interactionId=signed,
            correction=classes[number % len(classes)],
            subject=f"person-{number % 40}@example.org",
        )
