"""The snapshot of a log: every answer stays, what proves nothing is counted by rule, equal rows give equal bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from ratchet_api.stage import ExitCode
from ratchet_jobs.data.ratings import RATINGS_SCHEMA, Rating, checked_rating
from tests.recipes.stage_process import NAMESPACE, StageProcess

LOG = {"type": "ratings", "source": {"objects": [{"uri": "store://log.jsonl"}]}}


@pytest.fixture
def process(tmp_path: Path) -> StageProcess:
    return StageProcess(tmp_path)


def answers(count: int = 120, **more: Any) -> list[dict[str, Any]]:
    return [
        {"text": f"question {n}", "label": "ab"[n % 2], "score": n % 3 / 2, "propensity": 0.25, **more}
        for n in range(count)
    ]


def lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def stored(process: StageProcess, summary: dict[str, Any], split: str = "train") -> list[dict[str, Any]]:
    path = process.root / "store" / NAMESPACE / "snapshots" / summary["digest"] / f"{split}.parquet"
    table = pq.read_table(path)
    assert table.schema.names == RATINGS_SCHEMA.names
    assert [field.nullable for field in table.schema] == [field.nullable for field in RATINGS_SCHEMA]
    return table.to_pylist()


def test_a_log_keeps_text_answer_score_propensity_and_policy(process: StageProcess) -> None:
    process.put("log.jsonl", lines(answers(who="router@3")))
    summary = process.summary(**LOG, columns={"policy": "who"})
    assert summary["counts"]["read"] == summary["counts"]["kept"] == 120
    # scores 0, 1/2 and 1, 40 times each: mean 1/2, variance (1/4 + 1/4) / 3
    assert (summary["scoreMean"], summary["scoreStd"]) == (0.5, 0.408248)
    row = next(row for row in stored(process, summary) if row["text"] == "question 2" or row["text"] == "question 4")
    assert (row["label"], row["propensity"], row["policy"]) == ("a", 0.25, "router@3")
    assert row["score"] in (1.0, 0.5)


def test_columns_may_be_called_and_nested_otherwise(process: StageProcess) -> None:
    rows = [{"q": row["text"], "said": {"label": row["label"], "ok": True}, "mu": "0.125"} for row in answers()]
    process.put("log.jsonl", lines(rows))
    columns = {"text": "q", "label": "said.label", "score": "said.ok", "propensity": "mu"}
    row = stored(process, process.summary(**LOG, columns=columns))[0]
    assert (row["score"], row["propensity"], row["policy"]) == (1.0, 0.125, None)


def test_the_task_of_an_answer_becomes_the_first_part_of_its_class(process: StageProcess) -> None:
    rows = [row | {"asked": {"about": ("mood", "topic")[n // 60]}} for n, row in enumerate(answers())]
    rows += [answers(1)[0] | {"asked": {"about": about}} for about in (None, "", "a/b", 7)]
    process.put("log.jsonl", lines(rows))
    summary = process.summary(**LOG, columns={"task": "asked.about"})
    assert {row["label"] for row in stored(process, summary)} == {"mood/a", "mood/b", "topic/a", "topic/b"}
    assert {r["rule"]: r["count"] for r in summary["removed"]} == {"MissingTask": 2, "InvalidTask": 2}


BROKEN: dict[str, tuple[str, dict[str, Any]]] = {
    "no propensity": ("MissingPropensity", {"propensity": None}),
    "a propensity of 0": ("PropensityOutOfRange", {"propensity": 0}),
    "a propensity above 1": ("PropensityOutOfRange", {"propensity": 1.5}),
    "a propensity that nobody could have drawn": ("PropensityOutOfRange", {"propensity": 1e-30}),
    "a propensity that is no number": ("InvalidPropensity", {"propensity": "often"}),
    "a propensity that is NaN": ("InvalidPropensity", {"propensity": float("nan")}),
    "a propensity that is a truth value": ("InvalidPropensity", {"propensity": True}),
    "no score": ("MissingScore", {"score": None}),
    "an empty score": ("MissingScore", {"score": ""}),
    "five stars": ("ScoreOutOfRange", {"score": 5}),
    "a score below 0": ("ScoreOutOfRange", {"score": -0.1}),
    "a score that is NaN": ("InvalidScore", {"score": float("nan")}),
    "a score without end": ("InvalidScore", {"score": float("inf")}),
    "a score that is a word": ("InvalidScore", {"score": "fine"}),
    "a score that is a list": ("InvalidScore", {"score": [1]}),
}


def test_rows_that_prove_nothing_are_counted_with_the_place_of_the_first(process: StageProcess) -> None:
    rows = answers() + [answers(1)[0] | values for _, values in BROKEN.values()]
    process.put("log.jsonl", lines(rows))
    summary = process.summary(**LOG)
    want: dict[str, int] = {}
    for rule, _ in BROKEN.values():
        want[rule] = want.get(rule, 0) + 1
    assert {r["rule"]: r["count"] for r in summary["removed"]} == want
    assert summary["counts"]["kept"] == 120
    first = next(r for r in summary["removed"] if r["rule"] == "PropensityOutOfRange")
    assert first["example"] == "store://log.jsonl row 122"


@pytest.mark.parametrize(("rule", "values"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_value_is_refused_by_its_rule(rule: str, values: dict[str, Any]) -> None:
    row = {"score": 1, "propensity": 0.5} | values
    score = None if row["score"] == "" else row["score"]
    assert checked_rating(score, row["propensity"], None) == rule


@pytest.mark.parametrize(
    ("score", "want"), [(True, 1.0), (False, 0.0), ("true", 1.0), (" FALSE ", 0.0), ("0.25", 0.25), (1, 1.0)]
)
def test_right_and_wrong_may_be_written_in_several_ways(score: Any, want: float) -> None:
    assert checked_rating(score, 1, "router") == Rating(want, 1.0, "router")


def test_the_same_answer_to_the_same_question_stays_twice(process: StageProcess) -> None:
    process.put("log.jsonl", lines(answers() + answers()))
    summary = process.summary(**LOG)
    assert summary["counts"]["kept"] == 240
    assert summary.get("removed", []) == []


def test_a_log_may_have_answers_that_stand_in_one_split_alone(process: StageProcess) -> None:
    process.put("log.jsonl", lines([*answers(), answers(1)[0] | {"label": "rare"}]))
    summary = process.summary(**LOG, labels=["a", "b", "rare", "never"])
    assert summary["classes"] == 4


def test_rebuilding_a_log_gives_the_same_digest_whatever_the_order(process: StageProcess, tmp_path: Path) -> None:
    """P28."""
    rows = answers() + [row | {"score": 1.0 - row["score"]} for row in answers()]
    process.put("log.jsonl", lines(rows))
    (tmp_path / "other").mkdir()
    other = StageProcess(tmp_path / "other")
    other.put("log.jsonl", lines(rows[::-1]))
    assert process.summary(**LOG)["digest"] == other.summary(**LOG)["digest"]


def test_a_file_without_propensities_is_refused_with_the_columns_it_has(process: StageProcess) -> None:
    process.put("log.csv", "text,label,score\n" + "".join(f"question {n},a,1\n" for n in range(50)))
    code, message = process.snapshot(type="ratings", source={"objects": [{"uri": "store://log.csv"}]})
    assert code == ExitCode.BAD_DATA
    assert "no column 'propensity' (spec.columns.propensity); it has: label, score, text" in message["message"]


def test_a_log_of_unusable_rows_is_refused_and_says_why(process: StageProcess) -> None:
    """P13."""
    process.put("log.jsonl", lines(answers(propensity=0)))
    code, message = process.snapshot(**LOG)
    assert code == ExitCode.BAD_DATA
    assert "PropensityOutOfRange 120 (by spec.columns.propensity, first: store://log.jsonl row 1)" in message["message"]


def test_inline_answers_are_a_log_too(process: StageProcess) -> None:
    assert process.summary(type="ratings", source={"inline": answers(100)})["counts"]["kept"] == 100
