"""The set checker in short: real gateways, SIGKILL at random, a real S3 server behind a network on a bad day."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bench.feedback.setcheck import Check, credentials
from tests.contract.seaweed import SeaweedServer

EVENTS = int(os.environ.get("RATCHET_SETCHECK_EVENTS", "100000"))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_acknowledged_event_is_read_exactly_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """P24, P26, T20: three replicas, killed at any moment; a store that fails, is slow, cuts connections, loses answers
    after it has written, and is away for a while. Lost = phantom = duplicates = 0."""
    for name, value in credentials().items():
        monkeypatch.setenv(name, value)
    with SeaweedServer(tmp_path) as server:
        outcome = Check(tmp_path, server.endpoint, events=EVENTS, seed=20).run()
    assert (outcome.lost, outcome.phantom, outcome.duplicates) == (0, 0, 0), outcome
    assert len(outcome.sent) == EVENTS
    assert len(outcome.acknowledged) > 0.98 * EVENTS, outcome
    assert outcome.kills > 0, outcome
    for fault in ("unavailable", "reset_before", "reset_in_body", "answer_lost", "slow"):
        assert outcome.faults[fault] > 0, outcome
