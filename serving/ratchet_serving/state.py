"""What the routes of one process share: its worker, its recorder, and who asks.

Decides which header or field names the subject, and that an arm counts only behind a router. Never what is answered.
Filled by `app`, read by the routes of classifiers and of generators.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from fastapi import Request

from ratchet_serving.answers import Arm, Assignment
from ratchet_serving.metrics import ServingMetrics
from ratchet_serving.pairing import pairing_of
from ratchet_serving.recording import Recorder
from ratchet_web.errors import Malformed

_ARMS: dict[str, Arm] = {"champion": "champion", "canary": "canary", "control": "control"}
_EXPERIMENT = re.compile(r"[0-9a-f]{16}")


class Worker(Protocol):
    """A thread that owns the model."""

    @property
    def alive(self) -> bool:
        """Whether it runs."""

    def start(self) -> None:
        """Start it; answers are given in the running event loop."""

    async def close(self) -> None:
        """Answer what was accepted, take nothing more, end it."""


@dataclass(slots=True)
class Server:
    """The parts of one process, as the routes find them."""

    worker: Worker
    first: Callable[[], Awaitable[object]]
    """Has the model answer a first time."""
    answering: Any
    """What the routes of the policy's kind need; they know its type."""
    recorder: Recorder | None
    metrics: ServingMetrics
    behind_router: bool
    policy: str
    version: int | None
    warm: bool = False
    problem: str = ""
    """Why the first text was not answered; empty if it was, or is not yet."""
    missing: Callable[[], str] = lambda: ""
    """Says what the first answer waits for, where that is another process."""

    def headers(self, interaction: str | None) -> dict[str, str]:
        """Who answered, and by which id the answer is rated."""
        headers = {"x-ratchet-policy": self.policy}
        if self.version is not None:
            headers["x-ratchet-version"] = str(self.version)
        if interaction is not None:
            headers["x-ratchet-interaction"] = interaction
        return headers

    def record(self, record: dict[str, Any]) -> None:
        """Have the gateway told of an answer, where there is one."""
        if self.recorder is not None:
            self.recorder.put(record)


def server_of(request: Request) -> Server:
    """Return the parts that serve this request."""
    found: Server = request.app.state.server
    return found


def assignment(request: Request, subject: str | None, *, trusted: bool) -> Assignment:
    """Return who asks, and how the request came to this version.

    Args:
        request: its headers are read.
        subject: as the body names it.
        trusted: whether a router stands before this server.

    Raises:
        Malformed: a header cannot be.
    """
    named = request.headers.getlist("x-ratchet-subject")
    if len(named) > 1:
        raise Malformed(f"x-ratchet-subject: stands there {len(named)} times; send one, by which you are dealt an arm")
    header = named[0] if named else None
    # behind the router it was the header that dealt the arm, so that the answer belongs to that subject
    who = ((header or subject) if trusted else (subject or header)) or None
    if who is not None and len(who) > 256:
        raise Malformed(f"x-ratchet-subject: has {len(who)} characters, at most 256 are taken; send a shorter id")
    if not trusted:
        return Assignment(who)
    arm, propensity = request.headers.get("x-ratchet-arm"), request.headers.get("x-ratchet-propensity")
    if arm is not None and arm not in _ARMS:
        raise Malformed(f"x-ratchet-arm {arm[:32]!r} is unknown; the router says champion, canary or control")
    try:
        share = None if propensity is None else float(propensity)
    except ValueError:
        share = -1.0
    if share is not None and not 0 < share <= 1:
        raise Malformed(
            f"x-ratchet-propensity {str(propensity)[:32]!r}: the router says a number above 0 and at most 1"
        )
    experiment = request.headers.get("x-ratchet-experiment")
    if experiment is not None and not _EXPERIMENT.fullmatch(experiment):
        raise Malformed(f"x-ratchet-experiment {experiment[:32]!r}: the router says 16 of 0-9 and a-f")
    explore = _explore(request.headers.get("x-ratchet-explore"))
    return Assignment(who, None if arm is None else _ARMS[arm], share, experiment, pairing_of(request.headers), explore)


def _explore(said: str | None) -> float:
    """Share of the answers that are drawn, as the router says."""
    try:
        share = 0.0 if said is None else float(said)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise Malformed(f"x-ratchet-explore {str(said)[:32]!r}: the router says a number from 0 to 1")
    return share
