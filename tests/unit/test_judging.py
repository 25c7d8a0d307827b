"""A judge's answer counts only if it is a number; failures are counted, and too many end the stage with a remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from structlog.testing import capture_logs

from ratchet_api.judge import Judge, PairJudge, filled
from ratchet_jobs.judging.cache import entries_of
from ratchet_jobs.judging.client import Unanswered
from ratchet_jobs.judging.judge import ScoringJudge
from ratchet_jobs.judging.pairs import compare, pair_judge, read_choice
from ratchet_jobs.judging.reading import read_scores
from ratchet_jobs.runtime.errors import BadConfigError, JudgeUnavailable
from ratchet_jobs.runtime.store_directory import DirectoryStore
from tests.judge_server import Answer, judge_server

PROMPT = "Rate from 0 to 10.\nQ: {prompt}\nA: {response}"
KEY = "sk-very-secret"


def settings(url: str = "http://judge/v1", **changes: Any) -> Judge:
    given = {"endpoint": url, "model": "m", "prompt": PROMPT, "retries": 0, "timeoutSeconds": 60.0}
    return Judge.model_validate(given | changes)


def judge_at(url: str, folder: Path, **changes: Any) -> ScoringJudge:
    return ScoringJudge(settings(url, **changes), DirectoryStore(folder / "store"), "ml", field="rewards[0].judge")


@pytest.mark.parametrize(
    ("text", "want"),
    [("7", 0.7), ("10", 1.0), ("0.0", 0.0), ("+2.5", 0.25), ('{"score": 4, "why": "short"}', 0.4), (".5", 0.05)],
)
def test_a_number_or_an_object_with_a_score_is_read_onto_zero_to_one(text: str, want: float) -> None:
    assert read_scores(text, low=0, high=10) == {"score": pytest.approx(want)}


@pytest.mark.parametrize(
    "text",
    [
        "Score: 8",
        "8/10",
        "8 out of 10",
        "eight",
        "nan",
        "NaN",
        "11",
        "-1",
        "1e400",
        "true",
        "[8]",
        '{"score": "8"}',
        '{"score": true}',
        '{"score": NaN}',
        '{"rating": 8}',
        "```json\n8\n```",
        "[" * 100_000,
    ],
)
def test_what_is_no_number_within_the_range_is_no_judgement(text: str) -> None:
    with pytest.raises(Unanswered):
        read_scores(text, low=0, high=10)


def test_qualities_are_read_beside_the_score_and_none_may_be_missing() -> None:
    said = read_scores('{"score": 3, "empathy": 1}', low=1, high=5, qualities=("empathy",))
    assert said == {"score": 0.5, "empathy": 0.0}
    with pytest.raises(Unanswered, match="no number as empathy"):
        read_scores('{"score": 3}', low=1, high=5, qualities=("empathy",))
    with pytest.raises(Unanswered, match="no number as score"):
        read_scores('{"empathy": 3}', low=1, high=5, qualities=("empathy",))


def test_a_prompt_is_filled_once_and_other_braces_stay() -> None:
    template = 'Say {"score": 7}. {prompt} / {response}'
    assert filled(template, prompt="{response}", response="{x}") == 'Say {"score": 7}. {response} / {x}'


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"prompt": "Rate this answer"}, r"must name \{response\}"),
        ({"prompt": "Rate {response} to {question}"}, r"names \{question\}; there are \{prompt\}, \{response\}"),
        ({"minScore": 5.0, "maxScore": 5.0}, "must be below maxScore"),
        ({"endpoint": "https://user:pass@judge/v1"}, "endpoint"),
        ({"endpoint": "https://judge/v1?key=1"}, "endpoint"),
        ({"endpoint": "file:///etc/passwd"}, "endpoint"),
        ({"apiKeySecretRef": {"name": "Keys"}}, "name"),
        ({"apiKeySecretRef": {"name": "keys", "key": "password"}}, "key"),
        ({"timeoutSeconds": 0.0}, "timeoutSeconds"),
        ({"maxFailurePercent": 101.0}, "maxFailurePercent"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        settings(**changes)


def test_each_answer_is_asked_about_once_and_what_was_said_outlives_the_stage(tmp_path: Path) -> None:
    with judge_server(lambda question: str(len(question.rpartition("A: ")[2]))) as server:
        first = judge_at(server.url, tmp_path)
        assert first.worths(["p"] * 3, ["ab", "abcd", "ab"]) == [0.2, 0.4, 0.2]
        assert sorted(each.question for each in server.asked) == [
            "Rate from 0 to 10.\nQ: p\nA: ab",
            "Rate from 0 to 10.\nQ: p\nA: abcd",
        ]
        assert server.asked[0].body["model"] == "m"
        again = judge_at(server.url, tmp_path)
        assert again.worths(["p", "q"], ["abcd", "abcd"]) == [0.4, 0.4]
        assert (len(server.asked), again.asked.asked, again.asked.cached) == (3, 2, 1)
        other = judge_at(server.url, tmp_path, maxScore=20.0)
        assert other.worths(["p"], ["abcd"]) == [0.2]
        assert len(server.asked) == 4, "another range is another judge"


def test_an_answer_without_a_judgement_is_worth_the_mean_of_its_batch_and_is_asked_again(tmp_path: Path) -> None:
    says: dict[str, Answer] = {"a": "2", "b": "I like it", "c": "6"}
    with judge_server(lambda question: says[question[-1]]) as server:
        judge = judge_at(server.url, tmp_path)
        assert judge.worths(["p"] * 3, ["a", "b", "c"]) == pytest.approx([0.2, 0.4, 0.6])
        assert dict(judge.asked.failures) == {"prose instead of a number or a JSON object": 1}
        says["b"] = "10"
        assert judge.worths(["p"], ["b"]) == [1.0]


FAILING: dict[str, tuple[Answer, type[Exception], str]] = {
    "prose": ("I think it is great", BadConfigError, "times prose instead of a number .* let the prompt ask"),
    "an empty answer": ("  ", BadConfigError, "times an empty answer"),
    "out of range": ("11", BadConfigError, "times a score outside 0 to 10"),
    "no JSON": (b"<html>", BadConfigError, "times no chat completion in the answer"),
    "JSON of something else": (b'{"choices": []}', BadConfigError, "times no chat completion in the answer"),
    "endless": (b"[" + b"1," * 600_000, BadConfigError, "times answer of more than"),
    "a question too long": (413, BadConfigError, "times HTTP 413"),
    "an outage": (500, JudgeUnavailable, "times HTTP 500.*see the server"),
    "a rate limit": (429, JudgeUnavailable, "times HTTP 429.*lower concurrency"),
    "silence": (None, JudgeUnavailable, "times no answer within 0.2 s"),
}


@pytest.mark.parametrize(("answer", "error", "says"), FAILING.values(), ids=FAILING.keys())
def test_more_failures_than_the_budget_end_the_stage_with_the_cause_and_a_remedy(
    answer: Answer, error: type[Exception], says: str, tmp_path: Path
) -> None:
    """P13, P39."""
    with judge_server(lambda _: answer) as server:
        judge = judge_at(server.url, tmp_path, maxFailurePercent=1.0, timeoutSeconds=0.2 if answer is None else 20.0)
        with pytest.raises(error, match=rf"rewards\[0\].judge: http://127.*, model 'm': [23] of 5 questions.*{says}"):
            judge.worths(["p"] * 5, list("abcde"))


@pytest.mark.parametrize(
    ("status", "says"),
    [(401, "correct the key judge-api-key"), (403, "the right to ask"), (404, "or model"), (307, "redirects to")],
)
def test_a_refusal_of_the_settings_ends_the_stage_at_once_and_tells_nobody_the_key(
    status: int, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P13, P39."""
    monkeypatch.setenv("RATCHET_JUDGE_KEY_MY_KEYS", KEY)
    with judge_server(lambda _: status) as server, capture_logs() as logs:
        judge = judge_at(server.url, tmp_path, apiKeySecretRef={"name": "my-keys"}, concurrency=1, retries=3)
        with pytest.raises(BadConfigError, match=rf"answered HTTP {status} for model 'm'; .*{says}") as caught:
            judge.worths(["p"] * 4, list("abcd"))
        assert server.asked[0].headers["Authorization"] == f"Bearer {KEY}"
        assert len(server.asked) == 1, "the questions that were not begun are not asked"
    assert KEY not in f"{caught.value!r} {caught.value.__cause__!r} {logs}"


def test_a_key_that_is_not_there_is_said_before_anything_is_asked(tmp_path: Path) -> None:
    with pytest.raises(BadConfigError, match="variable RATCHET_JUDGE_KEY_MY_KEYS is empty; give the Secret"):
        judge_at("http://127.0.0.1:1/v1", tmp_path, apiKeySecretRef={"name": "my-keys"})


def test_a_judge_that_comes_back_is_asked_again(tmp_path: Path) -> None:
    answers: list[Answer] = [503, "5"]
    with judge_server(lambda _: answers.pop(0)) as server:
        assert judge_at(server.url, tmp_path, retries=1).worths(["p"], ["a"]) == [0.5]


def test_nobody_at_the_address_is_an_outage(tmp_path: Path) -> None:
    with judge_server(lambda _: "5") as server:
        url = server.url
    with pytest.raises(JudgeUnavailable, match="1 times no connection"):
        judge_at(url, tmp_path).worths(["p"], ["a"])


@pytest.mark.parametrize(("text", "want"), [("1", 1.0), ("2", 0.0), ('{"better": 1}', 1.0), ('{"better": 2}', 0.0)])
def test_a_choice_is_one_or_two(text: str, want: float) -> None:
    assert read_choice(text) == {"first": want}


@pytest.mark.parametrize("text", ["0", "3", "true", "first", "1 is better", '{"better": "1"}', '{"first": 1}', "[1]"])
def test_what_is_neither_one_nor_two_is_no_choice(text: str) -> None:
    with pytest.raises(Unanswered):
        read_choice(text)


def test_an_answer_wins_only_in_both_orders_and_equal_ones_are_not_asked_about(tmp_path: Path) -> None:
    def says(question: str) -> str:
        first, _, second = question.removeprefix("Which of ").partition("|")
        if "odd" in question or first == "half":
            return "both"
        # the longer one, and of equally long ones whichever stands first
        return "1" if len(first) >= len(second) else "2"

    given = {"model": "m", "prompt": "Which of {first}|{second}", "retries": 0}
    with judge_server(says) as server:
        pair = PairJudge.model_validate(given | {"endpoint": server.url})
        judge = pair_judge(pair, DirectoryStore(tmp_path / "store"), "ml", field="stages.evaluate.judge")
        ours = ["longer", "no", "abc", "same", "odd", "whole"]
        found = compare(judge, list("pqrstu"), ours, ["short", "yes!", "xyz", "same", "one", "half"])
        # 1 wins, 2 loses, 3 changes with the order, 4 is equal, 5 is not judged, 6 in one order alone
        assert found.won[:4].tolist() == [1.0, 0.0, 0.5, 0.5]
        assert np.isnan(found.won[4:]).all()
        assert (found.win_rate, found.changed, judge.asked, judge.failed) == (0.5, 1, 10, 3)
        assert len(server.asked) == 10


@pytest.mark.parametrize("prompt", ["Which? {first}", "Which? {second}", "Which? {first} {second} {response}"])
def test_a_judge_of_pairs_must_see_both_answers(prompt: str) -> None:
    with pytest.raises(ValidationError, match="prompt "):
        PairJudge.model_validate({"endpoint": "http://j/v1", "model": "m", "prompt": prompt})


def test_a_broken_object_of_the_cache_holds_nothing_and_is_named() -> None:
    with capture_logs() as logs:
        for data in (b"{", b"[]", b'{"entries": [{"words": 1, "said": {}}]}', b'{"entries": [{"said": {}}]}'):
            assert entries_of(data, "ml/judge/x/y.json") == []
    assert [each["key"] for each in logs] == ["ml/judge/x/y.json"] * 4
