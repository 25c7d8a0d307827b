"""A trial's log for tests: what servers and people would send, through the gateway's own recorder, as real segments."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from prometheus_client import CollectorRegistry
from pydantic import TypeAdapter

from ratchet_api.evidence import ExperimentEvidence
from ratchet_api.feedback import Feedback, Interaction
from ratchet_api.signing import Exposure, sign_interaction
from ratchet_api.stage import StoreConfig
from ratchet_gateway.analyst.metrics import AnalystMetrics
from ratchet_gateway.analyst.settings import Settings
from ratchet_gateway.analyst.tables import Tables
from ratchet_gateway.analyst.watch import Watch
from ratchet_gateway.records import Recorder
from ratchet_jobs.feedback_log.segment import new_epoch, pack, segment_key
from ratchet_jobs.runtime.store import Store
from tests.feedback_events import RING, START

EXPERIMENT = "00112233445566ff"
_FEEDBACK: TypeAdapter[Any] = TypeAdapter(Feedback)
_VERSIONS = {"canary": 2, "control": 1, "champion": 1}


@dataclass
class TrialLog:
    """Events at chosen seconds after START, sealed into segments by one writer or several."""

    store: Store
    namespace: str = "ns"
    recorder: Recorder = field(default_factory=lambda: Recorder(RING))
    lines: list[bytes] = field(default_factory=list)
    writers: dict[str, tuple[str, int]] = field(default_factory=dict)

    def answer(self, subject: str, arm: str, at: float, *, experiment: str | None = EXPERIMENT, **more: Any) -> str:
        """Record an answer as a policy server does; returns the signed id."""
        now = START + timedelta(seconds=at)
        signed = sign_interaction(
            Exposure(
                id=secrets.token_hex(16),
                policy="router",
                version=more.pop("version", _VERSIONS[arm]),
                arm=arm,
                propensity=0.05,
                experiment=experiment,
                issued=int(now.timestamp()),
                expires=int(now.timestamp()) + 86_400,
            ),
            RING,
        )
        event = {
            "interactionId": signed,
            "subject": subject,
            "input": "text",
            "abstained": False,
            "milliseconds": 1 + at % 7,
        }
        event |= more
        if "failed" not in more:
            event["label"] = "card"
        self.send(Interaction.model_validate(event), now)
        return signed

    def vote(self, signed: str, kind: str, at: float, **more: Any) -> str:
        """Say something about an answer; returns the event's id."""
        event = _FEEDBACK.validate_python({"type": kind, "interactionId": signed, **more})
        record = self.recorder.feedback(event, source="app", now=START + timedelta(seconds=at))
        self.lines.append(record.line)
        return record.id

    def undo(self, event: str, at: float, *, source: str = "app") -> None:
        """Take an event back."""
        undo = _FEEDBACK.validate_python({"type": "undo", "policy": "router", "supersedes": event})
        self.lines.append(self.recorder.feedback(undo, source=source, now=START + timedelta(seconds=at)).line)

    def pair(self, request: int, at: float, *said: str | None, milliseconds: tuple[float, float] = (10, 20)) -> None:
        """Record what champion and shadow answered to a text: a label, empty for an abstention, None for no answer."""
        for shadow, label in enumerate(said):
            event: dict[str, Any] = {"failed": True} if label is None else {"label": label or "guess"}
            event |= {} if label is None else {"abstained": not label}
            self.send(
                Interaction.model_validate(
                    event
                    | {
                        "policy": "router",
                        "version": 1 + shadow,
                        "input": "-",
                        "idempotencyKey": secrets.token_hex(8),
                        "pair": {
                            "experiment": EXPERIMENT,
                            "request": f"{request:032x}",
                            "shadow": bool(shadow),
                            "milliseconds": milliseconds[shadow],
                        },
                    }
                ),
                START + timedelta(seconds=at),
            )

    def tick(self, at: float) -> None:
        """Something else happens in the namespace, by which time is known to have passed."""
        event = Interaction.model_validate({"policy": "other", "input": "text", "label": "card"})
        self.send(event, START + timedelta(seconds=at))

    def send(self, event: Interaction, now: datetime) -> None:
        """Record an interaction."""
        self.lines.append(self.recorder.interaction(event, source="server", now=now)[0].line)

    def seal(self, at: float = 0, *, writer: str = "one", lines: Sequence[bytes] | None = None) -> str:
        """Write the lines since the last segment; returns its key."""
        now = START + timedelta(seconds=at)
        epoch, seq = self.writers.get(writer, (new_epoch(now), 0))
        self.writers[writer] = (epoch, seq + 1)
        taken = self.lines if lines is None else list(lines)
        data = pack(taken)
        key = segment_key(self.namespace, epoch=epoch, seq=seq + 1, events=len(taken), data=data, at=now)
        self.store.write(key, data)
        self.lines = [] if lines is None else self.lines
        return key


class Clock:
    """Both clocks of an analyst, set by the test."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> datetime:
        return START + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        return self.seconds


@dataclass
class Analyst:
    """An analyst without its HTTP."""

    watch: Watch
    tables: Tables
    clock: Clock
    metrics: AnalystMetrics

    def see(self, experiment: str = EXPERIMENT, policy: str = "router") -> ExperimentEvidence:
        """Look, and return what is known."""
        self.watch.look()
        return self.watch.evidence(policy, experiment)


def analyst(store: Store, *, seconds: float = 10_000, **more: Any) -> Analyst:
    """Make an analyst; further arguments are settings. Subjects are heard for 100 s unless told otherwise."""
    settings = Settings(
        **{
            "store": StoreConfig(uri="file:///none"),
            "namespace": "ns",
            "attribution_seconds": 100.0,
            "settle_seconds": 0.0,
            **more,
        }
    )
    tables = Tables(attribution_seconds=settings.attribution_seconds, answer_seconds=settings.answer_seconds)
    clock, metrics = Clock(), AnalystMetrics(CollectorRegistry())
    clock.seconds = seconds
    watch = Watch(store, settings, tables, metrics, now=clock.now, monotonic=clock.monotonic)
    return Analyst(watch, tables, clock, metrics)
