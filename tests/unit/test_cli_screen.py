"""Words, numbers and tables as users see them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rich.console import Console, RenderableType

from ratchet_api.kinds import FEEDBACK_DATASET, RL_POLICY, RL_TRAINING_RUN
from ratchet_cli.screen import THEME, duration, metric, objects_table, print_whole, read_path
from ratchet_cli.views import progress_note, view

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
DIGEST = "d" * 64


def drawn(renderable: RenderableType) -> str:
    console = Console(width=120, no_color=True, theme=THEME)
    with console.capture() as captured:
        console.print(renderable)
    return captured.get()


def body(kind: str, status: dict[str, Any], **spec: Any) -> dict[str, Any]:
    created = (NOW - timedelta(minutes=3)).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"kind": kind, "metadata": {"name": "thing", "creationTimestamp": created}, "spec": spec, "status": status}


def condition(kind: str, status: str, reason: str, message: str) -> dict[str, Any]:
    times = {"lastTransitionTime": "2026-01-01T00:00:00Z", "observedGeneration": 1}
    return {"type": kind, "status": status, "reason": reason, "message": message, **times}


@pytest.mark.parametrize(
    ("seconds", "want"),
    [(0, "0s"), (59.9, "59s"), (60, "1m"), (200, "3m20s"), (3600, "1h"), (3725, "1h2m"), (86_400 * 2 + 7200, "2d2h")],
)
def test_durations_have_at_most_two_units(seconds: float, want: str) -> None:
    assert duration(seconds) == want


def test_counts_are_whole_and_shares_have_four_digits() -> None:
    assert (metric("n_test", 3000.0), metric("accuracy", 0.87654)) == ("3,000", "0.8765")


COMPARED = {
    "accuracy": 0.88,
    "baseline/accuracy": 0.86, "rl/accuracy": 0.88, "diff/accuracy": 0.02,
    "diff/accuracy_low": 0.004, "diff/accuracy_high": 0.036,
    "baseline/ece": 0.027, "rl/ece": 0.018,
    "mcnemar_p": 0.01,
    "champion/accuracy": 0.9, "champion/diff": -0.02, "champion/diff_low": -0.04, "champion/diff_high": 0.01,
}  # fmt: skip


def with_choice(chosen: str, **metrics: float) -> dict[str, Any]:
    choice = {"candidate": "rl", "baseline": "supervised", "chosen": chosen}
    stages = [{"name": "evaluate", "state": "Succeeded", "choice": choice}]
    return body("RLTrainingRun", {"state": "Complete", "stages": stages, "metrics": metrics}, datasetRef={"name": "d"})


def test_what_was_compared_stands_in_one_table_with_its_intervals() -> None:
    lines = [line.split() for line in drawn(view(with_choice("rl", **COMPARED), now=NOW)).splitlines()]
    assert ["accuracy", "0.8600", "0.8800", "+0.0200", "+0.0040", "to", "+0.0360"] in lines
    assert ["ece", "0.0270", "0.0180"] in lines
    assert ["accuracy", "of", "champion", "0.9000", "-0.0200", "-0.0400", "to", "+0.0100"] in lines
    assert ["committed", "rl"] in lines
    assert not [line for line in lines if line and "/" in line[0]], "no raw names beside the table"


def test_a_run_that_compared_nothing_has_no_such_table() -> None:
    seen = body("RLTrainingRun", {"state": "Complete", "metrics": {"accuracy": 0.9}}, datasetRef={"name": "d"})
    assert "on the same rows" not in drawn(view(seen, now=NOW))


def test_printer_columns_are_read_from_fields_conditions_and_lists() -> None:
    seen = body(
        "RLPolicy", {"versions": [{"version": 1}, {"version": 2}], "conditions": [condition("Ready", "True", "x", "")]}
    )
    assert read_path(seen, '.status.conditions[?(@.type=="Ready")].status') == "True"
    assert read_path(seen, ".status.versions[*].version") == "1,2"
    assert read_path(seen, ".status.versions[-1:].version") == "2"
    assert read_path({"status": {"versions": []}}, ".status.versions[-1:].version") == ""
    assert read_path(seen, ".status.nothing.here") == ""


def test_the_table_of_runs_has_kubectls_columns() -> None:
    run = body("RLTrainingRun", {"state": "Running", "stage": "supervised", "progressPercent": "42%", "eta": "3m20s"})
    lines = drawn(objects_table(RL_TRAINING_RUN, [run], wide=False, now=NOW)).splitlines()
    assert lines[0].split() == ["NAME", "STATE", "STAGE", "PROGRESS", "ETA", "AGE"]
    assert lines[1].split() == ["thing", "Running", "supervised", "42%", "3m20s", "3m"]


@pytest.mark.parametrize("kind", [FEEDBACK_DATASET, RL_POLICY, RL_TRAINING_RUN], ids=lambda kind: kind.kind)
def test_an_object_without_status_can_be_shown(kind: Any) -> None:
    fresh = {"kind": kind.kind, "metadata": {"name": "thing"}, "spec": {"datasetRef": {"name": "data"}}}
    assert "thing" in drawn(view(fresh, now=NOW))


def test_a_failed_run_shows_reason_and_message() -> None:
    failed = condition("Failed", "True", "BadLabels", "label 'x' is in test but not in train")
    shown = drawn(view(body("RLTrainingRun", {"state": "Failed", "conditions": [failed]}), now=NOW))
    assert "BadLabels: label 'x' is in test but not in train" in shown


def test_markup_in_data_is_shown_and_not_obeyed() -> None:
    failed = condition("Failed", "True", "BadData", "row 3 says [bold]hello[/bold] [/]")
    shown = drawn(view(body("RLTrainingRun", {"state": "Failed", "conditions": [failed]}), now=NOW))
    assert "[bold]hello[/bold] [/]" in shown


def test_gates_stand_beside_the_numbers_they_judge() -> None:
    status = {
        "state": "GateFailed",
        "metrics": {"accuracy": 0.7, "ece": 0.1},
        "gates": [{"metric": "accuracy", "value": 0.7, "bound": ">= 0.75", "passed": False}],
    }
    (line,) = [each for each in drawn(view(body("RLTrainingRun", status), now=NOW)).splitlines() if "accuracy" in each]
    assert line.split() == ["accuracy", "0.7000", ">=", "0.75", "failed"]


def test_live_progress_is_worded_with_percent_loss_and_time_left() -> None:
    seen = {"stage": "supervised", "step": 50, "steps": 200, "loss": 0.5, "etaSeconds": 75}
    assert progress_note(seen) == "25%  50/200  loss 0.50  1m15s left"
    assert progress_note({"stage": "resolve", "step": 0, "steps": 0}) == ""


def test_a_table_of_objects_is_never_cut(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ratchet_cli.screen.out.width", 40)
    name = "a-name-that-is-longer-than-the-terminal-is-wide"
    run = body("RLTrainingRun", {"state": "Complete"}) | {"metadata": {"name": name}}
    print_whole(objects_table(RL_TRAINING_RUN, [run], wide=True, now=NOW))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[1].startswith(name)


def of_preference(**metrics: float) -> dict[str, Any]:
    """A complete run that learned from pairs."""
    fixed = {
        "specDigest": DIGEST, "image": "local", "codeVersion": "1", "datasetDigest": DIGEST, "datasetUri": "file:///d",
        "storeUri": "file:///s", "log": {"digest": "e" * 64, "uri": "file:///e", "rows": 73},
    }  # fmt: skip
    choice = {"candidate": "rl", "baseline": "supervised", "chosen": "rl", "why": "it agrees"}
    stages = [{"name": "evaluate", "state": "Succeeded", "choice": choice}]
    status = {"state": "Complete", "resolved": fixed, "stages": stages, "metrics": metrics}
    liked = {"preference": {"datasetRef": {"name": "liked"}}}
    return body("RLTrainingRun", status, datasetRef={"name": "answers"}, stages=liked)


def test_a_run_on_pairs_shows_where_they_came_from_and_how_it_tells_them_apart() -> None:
    numbers = {"baseline/agreement": 0.5, "rl/agreement": 0.9, "diff/agreement": 0.4}
    interval = {"diff/agreement_low": 0.2, "diff/agreement_high": 0.5}
    seen = drawn(view(of_preference(agreement=0.9, **numbers, **interval), now=NOW))
    assert "log     liked eeeeeeeeeeee…, 73 answers" in seen
    assert "agreement" in seen
    assert "+0.4000   +0.2000 to +0.5000" in seen
    assert "better answers" not in seen


def test_a_run_on_rewards_shows_how_often_its_answers_are_better() -> None:
    numbers = {"baseline/reward": 0.5, "rl/reward": 0.9, "diff/reward": 0.4, "rl/win_rate": 0.75}
    lines = drawn(view(of_preference(**numbers), now=NOW)).splitlines()
    assert any(line.split() == ["better", "answers", "75%"] for line in lines)
