"""A stage's history: each step once, however often the stage was interrupted, and never more than a plot needs."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratchet_jobs.runtime.checkpoint import Checkpoints
from ratchet_jobs.runtime.history import LIMIT, History, read_history, write_history
from ratchet_jobs.runtime.progress import ProgressBoard, StageMetrics
from ratchet_jobs.runtime.store_directory import DirectoryStore


def told(step: int) -> dict[str, float]:
    return {"loss": 1 / step} | ({"explained_variance": step / 7} if step % 3 else {})


def undisturbed(steps: int) -> History:
    history = History()
    for step in range(1, steps + 1):
        history.add(step, told(step))
    return history


@given(steps=st.integers(1, 60), saves=st.lists(st.integers(1, 60), max_size=4), lost=st.integers(0, 20))
def test_an_interrupted_stage_has_each_step_once_and_none_is_lost(
    steps: int, saves: list[int], lost: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """P12: every pod goes on from its predecessor's checkpoint, after steps that nobody stored."""
    folder = tmp_path_factory.mktemp("checkpoint")
    history, done = History(), 0
    for until in sorted(save for save in saves if save <= steps):
        for step in range(done + 1, until + 1):
            history.add(step, told(step))
        history.save(folder)
        for step in range(until + 1, until + lost + 1):
            history.add(step, {"loss": -1.0})  # of a pod that dies before its next checkpoint
        history, done = History(), until
        history.restore(folder)
    for step in range(done + 1, steps + 1):
        history.add(step, told(step))
    assert history.columns() == undisturbed(steps).columns()


@pytest.mark.parametrize("at", [LIMIT - 1, LIMIT, LIMIT + 1, 2 * LIMIT + 3])
def test_an_interruption_while_rows_are_thinned_out_changes_nothing(at: int, tmp_path: Path) -> None:
    history = undisturbed(at)
    history.save(tmp_path)
    resumed = History()
    resumed.restore(tmp_path)
    for step in range(at + 1, 3 * LIMIT):
        resumed.add(step, told(step))
    assert resumed.columns() == undisturbed(3 * LIMIT - 1).columns()


def test_a_long_stage_keeps_steps_at_equal_distances_and_the_last_one() -> None:
    columns = undisturbed(10_001).columns()
    steps = [int(step or 0) for step in columns["step"]]
    assert LIMIT / 2 <= len(steps) <= LIMIT
    assert steps[-1] == 10_001
    assert {later - step for step, later in pairwise(steps[:-1])} == {16}
    assert columns["loss"] == [1 / step for step in steps]


def test_a_checkpoint_without_a_history_starts_an_empty_one(tmp_path: Path) -> None:
    history = undisturbed(5)
    history.restore(tmp_path)
    assert len(history) == 0


def test_a_stage_that_starts_over_takes_its_steps_back() -> None:
    history = undisturbed(5)
    history.add(3, {"loss": 9.0})
    assert history.columns() == {
        "step": [1, 2, 3],
        "explained_variance": [1 / 7, 2 / 7, None],
        "loss": [1.0, 0.5, 9.0],
    }


def test_what_is_no_number_is_left_out() -> None:
    history = History()
    history.add(1, {"loss": math.nan, "entropy": 1.0})
    history.add(2, {"loss": math.inf})
    history.add(3, {})
    assert history.columns() == {"step": [1.0], "entropy": [1.0]}


def test_the_file_gives_back_what_was_told_with_gaps(tmp_path: Path) -> None:
    write_history(undisturbed(4), tmp_path / "h.parquet")
    assert read_history(tmp_path / "h.parquet") == {
        "step": [1, 2, 3, 4],
        "explained_variance": [1 / 7, 2 / 7, None, 4 / 7],
        "loss": [1.0, 0.5, 1 / 3, 0.25],
    }


def test_everything_that_a_recipe_reports_is_kept_unsmoothed_and_nothing_that_a_clock_decides() -> None:
    board = ProgressBoard("rl", StageMetrics(namespace="n", run="r", stage="rl"), clock=iter(range(100)).__next__)
    for step in (1, 2):
        board.report(step, 2, loss=float(step), examples=8, entropy=0.5, **{"reward/accuracy": step / 4})
    assert board.history.columns() == {
        "step": [1, 2],
        "entropy": [0.5, 0.5],
        "loss": [1.0, 2.0],
        "reward/accuracy": [0.25, 0.5],
    }


def test_checkpoints_carry_the_history_and_take_it_back(tmp_path: Path) -> None:
    """P12."""
    store = DirectoryStore(tmp_path / "store")

    def checkpoints(pod: str, history: History) -> Checkpoints:
        return Checkpoints(store, prefix="run", directory=f"run/{pod}", scratch=tmp_path / pod, history=history)

    first = History()
    saved = checkpoints("1", first)
    first.add(1, {"loss": 1.0})
    saved.save(1, lambda folder: (folder / "state.json").write_text("{}"))
    first.add(2, {"loss": 2.0})
    second = History()
    found = checkpoints("2", second).latest()
    assert found is not None
    assert found.step == 1
    assert second.columns() == {"step": [1.0], "loss": [1.0]}
