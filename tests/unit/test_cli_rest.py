"""`ratchet run` ends when nothing more happens by itself: it never waits for what only a changed manifest brings."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ratchet_api.conditions import Reason
from ratchet_cli.driver import NEEDS_SOMEBODY, at_rest
from ratchet_cli.main import run_command

MANIFESTS = """
apiVersion: ratchet.dev/v1alpha1
kind: FeedbackDataset
metadata: {name: d}
spec:
  type: classification
  %s
  source: {inline: [{text: a, label: cat}, {text: b, label: dog}]}
---
apiVersion: ratchet.dev/v1alpha1
kind: RLTrainingRun
metadata: {name: r}
spec:
  policyType: classifier
  baseModel: {uri: "store://m", sha256: "0000000000000000000000000000000000000000000000000000000000000000"}
  datasetRef: {name: d}
"""


@pytest.fixture(autouse=True)
def not_for_ever() -> Iterator[None]:
    """Presses Ctrl-C after four minutes: a command that hangs ends with 130."""
    timer = threading.Timer(240, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    yield
    timer.cancel()


@pytest.mark.parametrize(
    ("setting", "want"),
    [
        pytest.param("", "2 train rows are left of 2 read, at least 10 are needed", id="a dataset that failed"),
        pytest.param("suspend: true", "has no snapshot of its present spec yet", id="a dataset that is suspended"),
    ],
)
def test_a_run_whose_dataset_never_becomes_ready_ends_the_command_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], setting: str, want: str
) -> None:
    monkeypatch.setattr("ratchet_cli.screen.out.width", 1000)
    (tmp_path / "all.yaml").write_text(MANIFESTS % setting)
    for _ in range(2):  # the second time nothing is new, and the end is the same
        assert run_command(["run", "-f", str(tmp_path / "all.yaml"), "--home", str(tmp_path / "home"), "--plain"]) == 1
        assert want in capsys.readouterr().out


def test_a_policy_that_nobody_brings_is_said_before_anything_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ratchet_cli.screen.err.width", 1000)
    (tmp_path / "all.yaml").write_text(MANIFESTS % "" + "  publishTo: {name: nobody}\n")
    assert run_command(["run", "-f", str(tmp_path / "all.yaml"), "--home", str(tmp_path / "home"), "--plain"]) == 1
    assert "spec.publishTo.name: no RLPolicy 'nobody' is in these manifests" in capsys.readouterr().err


def run_that_says(kind: str, reason: Reason) -> dict[str, Any]:
    conditions = [{"type": kind, "status": "True", "reason": reason.value}]
    return {
        "kind": "RLTrainingRun",
        "metadata": {"generation": 1},
        "status": {"observedGeneration": 1, "conditions": conditions},
    }


@pytest.mark.parametrize("reason", Reason)
def test_a_run_that_goes_on_rests_only_if_somebody_must_act(reason: Reason) -> None:
    assert at_rest(run_that_says("Reconciling", reason)) == (reason in NEEDS_SOMEBODY)
    assert at_rest(run_that_says("Stalled", reason))
