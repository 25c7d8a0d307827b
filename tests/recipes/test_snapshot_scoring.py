"""Responses of a data set scored by a judge: each once, into columns of the snapshot, with what failed left empty."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ratchet_api.judge import Judge
from ratchet_api.names import snapshot_prefix
from ratchet_api.scoring import Scoring
from ratchet_api.stage import DatasetRef, ExitCode
from ratchet_jobs.data.demonstrations import read_demonstrations
from ratchet_jobs.data.snapshots import SPLITS, open_snapshot
from ratchet_jobs.judging.judge import ScoringJudge
from ratchet_jobs.judging.scoring import ResponseScorer
from ratchet_jobs.runtime.context import StageContext
from ratchet_jobs.runtime.errors import Preempted
from tests.feedback_events import LogBuilder
from tests.judge_server import judge_server
from tests.recipes.stage_process import NAMESPACE, StageProcess

SHOWN = {"type": "demonstrations", "source": {"objects": [{"uri": "store://shown.jsonl"}]}}
PROMPT = "Give score and empathy.\nQ: {prompt}\nA: {response}"


@pytest.fixture
def process(tmp_path: Path) -> StageProcess:
    return StageProcess(tmp_path)


def put(process: StageProcess, rows: list[dict[str, Any]]) -> None:
    process.put("shown.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def pairs(count: int = 40) -> list[dict[str, Any]]:
    return [{"text": f"question {n}", "response": f"answer {n}"} for n in range(count)]


def scoring(url: str, **changes: Any) -> dict[str, Any]:
    asked = {"endpoint": url, "model": "m", "prompt": PROMPT, "qualities": ["empathy"], "retries": 0}
    return {"scoring": asked | changes}


def number_of(question: str) -> int:
    return int(question.rpartition(" ")[2])


def by_number(question: str) -> str:
    """Score n mod 11 for answer n, and as much empathy as is missing from ten."""
    score = number_of(question) % 11
    return json.dumps({"score": score, "empathy": 10 - score})


def rows_of(process: StageProcess, summary: dict[str, Any]) -> list[dict[str, Any]]:
    folder = process.root / "store" / NAMESPACE / "snapshots" / summary["digest"]
    return [row for split in SPLITS for row in pq.read_table(folder / f"{split}.parquet").to_pylist()]


def test_each_response_is_scored_once_into_columns_and_the_numbers_stand_in_status(process: StageProcess) -> None:
    put(process, pairs())
    with judge_server(by_number) as server:
        summary = process.summary(**SHOWN, **scoring(server.url))
        assert len(server.asked) == 40
        assert server.asked[0].question.startswith("Give score and empathy.\nQ: question ")
        again = process.summary(**SHOWN, **scoring(server.url), target="2")
        assert len(server.asked) == 40, "a snapshot that is made anew asks nothing twice"
    for row in rows_of(process, summary):
        score = number_of(row["response"]) % 11 / 10
        assert (row["judged/score"], row["judged/empathy"]) == pytest.approx((score, 1 - score))
    # answers 0 to 39: three times 0 to 10, which sum to 55, and 0 to 6, which sum to 21
    mean = (3 * 55 + 21) / 40 / 10
    assert summary["scored"] == {
        "responses": 40,
        "scored": 40,
        "cached": 0,
        "means": [{"name": "score", "mean": pytest.approx(mean)}, {"name": "empathy", "mean": pytest.approx(1 - mean)}],
    }
    assert (again["digest"], again["scored"]["cached"]) == (summary["digest"], 40)
    ref = DatasetRef(digest=summary["digest"], prefix=snapshot_prefix(NAMESPACE, summary["digest"]))
    snapshot = open_snapshot(process.store, ref, into=process.root / "read")
    assert snapshot.manifest.settings["scoring"]["qualities"] == ["empathy"]
    assert "retries" not in snapshot.manifest.settings["scoring"]
    assert sum(len(read_demonstrations(snapshot, split)) for split in SPLITS) == 40, "stages read it as any other"


def test_without_a_judge_a_snapshot_is_what_it_was(process: StageProcess) -> None:
    put(process, pairs())
    summary = process.summary(**SHOWN)
    assert "scored" not in summary
    assert not any(name.startswith("judged/") for row in rows_of(process, summary) for name in row)


def test_a_judge_reads_a_dialogue_turn_by_turn(process: StageProcess) -> None:
    said = ({"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"})
    last = [
        ({"role": "user", "content": f"more {n}"}, {"role": "assistant", "content": f"sure {n}"}) for n in range(40)
    ]
    put(process, [{"chat": [*said, *each]} for each in last])
    with judge_server(by_number) as server:
        process.summary(**SHOWN, **scoring(server.url), columns={"messages": "chat"})
        questions = {each.question for each in server.asked}
    want = "Give score and empathy.\nQ: User: hi\nAssistant: hello\nUser: more {0}\nA: sure {0}"
    assert questions == {want.format(n) for n in range(40)}


def test_a_response_without_usable_numbers_stays_without_numbers(process: StageProcess) -> None:
    put(process, pairs())

    def says(question: str) -> str:
        return '{"score": 5}' if number_of(question) in (3, 4) else by_number(question)

    with judge_server(says) as server:
        summary = process.summary(**SHOWN, **scoring(server.url))
    rows = {row["response"]: row for row in rows_of(process, summary)}
    assert len(rows) == summary["scored"]["responses"] == 40
    assert summary["scored"]["scored"] == 38
    without = [name for name, row in rows.items() if row["judged/score"] is None or row["judged/empathy"] is None]
    assert sorted(without) == ["answer 3", "answer 4"]
    assert rows["answer 3"]["judged/score"] is None, "a part of what was asked is not what was asked"


def test_a_snapshot_whose_judge_went_away_asks_only_about_the_rest(process: StageProcess) -> None:
    """P12: what was answered before the outage is neither lost nor paid for again."""
    put(process, pairs(120))
    heard: list[str] = []

    def says(question: str) -> str | int:
        heard.append(question)
        return by_number(question) if len(heard) <= 50 else 503

    with judge_server(says) as server:
        asked = scoring(server.url, concurrency=1)
        code, said = process.snapshot(**SHOWN, **asked)
        assert code == ExitCode.JUDGE_UNAVAILABLE
        assert "spec.scoring: http://127.0.0.1" in said["message"]
        before = len(server.asked)
        server.says = by_number
        summary = process.summary(**SHOWN, **asked)
        assert (len(server.asked) - before, summary["scored"]["cached"]) == (70, 50)
    assert summary["scored"]["scored"] == 120


@pytest.mark.parametrize(
    ("answer", "changes", "code", "says"),
    [
        pytest.param("9 of 10", {}, ExitCode.BAD_CONFIG, "prose instead of a number or a JSON", id="prose"),
        pytest.param("7", {}, ExitCode.BAD_CONFIG, "JSON that is no object", id="a number where qualities are wanted"),
        pytest.param('{"score": 7}', {}, ExitCode.BAD_CONFIG, "no number as empathy", id="a quality is missing"),
        pytest.param(401, {}, ExitCode.BAD_CONFIG, "correct the key judge-api-key", id="no right to ask"),
        pytest.param("?", {"maxFailurePercent": 100}, ExitCode.BAD_CONFIG, "no response has numbers", id="none at all"),
        pytest.param(
            "7", {"apiKeySecretRef": {"name": "my"}}, ExitCode.BAD_CONFIG, "RATCHET_JUDGE_KEY_MY is empty", id="no key"
        ),
    ],
)
def test_a_judge_of_no_use_ends_the_snapshot_with_a_remedy(
    process: StageProcess, answer: str | int, changes: dict[str, Any], code: int, says: str
) -> None:
    put(process, pairs())
    with judge_server(lambda _: answer) as server:
        found, message = process.snapshot(**SHOWN, **scoring(server.url, **changes))
    assert found == code
    assert says in message["message"]
    assert "spec.scoring" in message["message"]
    assert not list(process.store.list(f"{NAMESPACE}/snapshots"))


@pytest.mark.parametrize("type", ["ratings", "demonstrations"])
def test_responses_of_feedback_are_scored_as_they_stand_in_the_snapshot(process: StageProcess, type: str) -> None:
    log = LogBuilder(process.store, namespace=NAMESPACE)
    for n in range(60):
        log.feedback("rating", rating=5, prompt=f"mail {n} of x{n}@example.org", response=f"Hello {n}")
    log.flush()
    source = {"feedback": {"policyRef": {"name": "router"}, "minRating": 4}}
    with judge_server(by_number) as server:
        summary = process.summary(type=type, source=source, **scoring(server.url))
        assert {each.question.split("\n")[1] for each in server.asked} == {f"Q: mail {n} of [EMAIL]" for n in range(60)}
    rows = rows_of(process, summary)
    column = {"ratings": "label", "demonstrations": "response"}[type]
    assert [row["judged/score"] for row in rows] == pytest.approx([number_of(row[column]) % 11 / 10 for row in rows])
    assert summary["scored"]["responses"] == len(rows) == 60


def test_a_pod_that_must_leave_stops_asking_and_keeps_what_was_said(process: StageProcess) -> None:
    """P13: the next pod asks about the rest alone."""
    leave = threading.Event()

    def says(question: str) -> str:
        if number_of(question) == 40:  # of the second 32 questions
            leave.set()
        return by_number(question)

    table = pa.Table.from_pylist(pairs(100))
    with judge_server(says) as server:
        settings = Scoring.model_validate(scoring(server.url)["scoring"])
        pod = SimpleNamespace(store=process.store, namespace=NAMESPACE, should_stop=leave.is_set)
        with pytest.raises(Preempted, match="the answers are kept"):
            ResponseScorer(cast(StageContext, pod), settings, type="demonstrations").scored(table)
        assert len(server.asked) == 64
        leave.clear()
        server.says = by_number
        following = ResponseScorer(cast(StageContext, pod), settings, type="demonstrations")
        assert following.scored(table).column("judged/score").null_count == 0
        assert len(server.asked) == 100
    assert (following.counted().cached, following.metrics()["judge_asked"]) == (64, 100.0)


def test_a_reward_finds_what_the_same_judge_said_of_the_data_set(process: StageProcess) -> None:
    put(process, pairs())
    with judge_server(lambda question: str(number_of(question) % 11)) as server:
        asked = {"endpoint": server.url, "model": "m", "prompt": "Rate {response}"}
        process.summary(**SHOWN, scoring=asked)
        reward = ScoringJudge(Judge.model_validate(asked), process.store, NAMESPACE, field="rewards[0].judge")
        assert reward.worths(["question 7"], ["answer 7"]) == [0.7]
        assert len(server.asked) == 40
