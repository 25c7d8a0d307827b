"""A judge over HTTP as a reward: what it says teaches, a cut stage pays for nothing twice, failures have a bound."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest

from ratchet_api.attempts import Artifact
from ratchet_api.judge import PairJudge
from ratchet_api.stage import Stage
from ratchet_jobs.runtime.commit import find_commit
from ratchet_jobs.runtime.errors import BadConfigError, JudgeUnavailable
from ratchet_jobs.runtime.history import read_history
from tests.generator_bench import GeneratorBench
from tests.judge_server import Answer, judge_server
from tests.tiny_llama import dialogues
from tests.workbench import NAMESPACE, Killed

pytestmark = pytest.mark.usefixtures("one_thread")

KEY = "sk-very-secret"
PROMPT = "Rate from 0 to 10 how short the answer is.\nQ: {prompt}\nA: {response}"


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> GeneratorBench:
    bench = GeneratorBench(tmp_path_factory.mktemp("bench"), train=dialogues(32, seed=0), test=dialogues(6, seed=5))
    bench.pod(bench.supervised(epochs=1.0))
    return bench


def shortness(question: str) -> str:
    if question.startswith("Which"):
        first, second = question.removeprefix("Which?\n1: ").split("\n2: ")
        return "1" if len(first.split()) <= len(second.split()) else "2"
    answer = question.rpartition("A: ")[2]
    return json.dumps({"score": max(0.0, 10.0 - len(answer.split()))})


def failing(failure: Answer, question: str) -> Answer:
    """The judge of answers that fails as the judge of pairs."""
    return failure if question.startswith("Which") else shortness(question)


def judged(url: str, **changes: Any) -> list[dict[str, Any]]:
    judge = {"endpoint": url, "model": "m", "prompt": PROMPT, "retries": 0, "timeoutSeconds": 20.0}
    return [{"type": "judge", "judge": judge | changes}]


def test_what_a_judge_says_is_the_reward_and_a_killed_stage_asks_nothing_twice(
    bench: GeneratorBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P12: the judge's answers since the last checkpoint are read back, so the curves are those of a calm stage."""
    monkeypatch.setenv("RATCHET_JUDGE_KEY_JUDGES", KEY)
    with judge_server(shortness) as server:
        rewards = judged(server.url, apiKeySecretRef={"name": "judges"})
        config = bench.rlhf(rewards=rewards, interactions=48, learningRate=2e-2, initKl=0.001, checkpointEverySteps=2)
        with pytest.raises(Killed):
            bench.pod(config, run="judged-killed", die_after=4)
        asked_by_then = len(server.asked)
        again, folder = bench.pod(config, run="judged-killed")
        resumed = len(server.asked) - asked_by_then
        calm, _ = bench.pod(config, run="judged")
        questions = [each.question for each in server.asked]
        assert len(set(questions)) == len(questions), "none of three pods asked what another had asked"
        assert len(questions) == asked_by_then + resumed, "the calm stage found everything in the cache"
        asking = bench.compare(config, run="judged", gates=[{"metric": "judge_win_rate", "minimum": 0.5}])
        pair = {"endpoint": server.url, "model": "m", "prompt": "Which?\n1: {first}\n2: {second}", "retries": 0}
        hyper = asking.hyper.model_copy(update={"judge": PairJudge.model_validate(pair)})
        # what RL started from is the champion, too: its answers are those that the judge was asked about before
        start = find_commit(
            bench.store, prefix=bench.prefix("run", Stage.SUPERVISED), namespace=NAMESPACE, input_digest=None
        )
        assert start is not None
        champion = Artifact(uri=f"{bench.store.uri}/{start.directory}", digest=start.digest)
        whole = asking.model_copy(update={"hyper": hyper, "champion": champion})
        kept, page = bench.pod(whole, run="judged-kept")
        assert len(server.asked) > len(questions), "the evaluation rewards both policies' answers by the same judge"
        assert len({each.question for each in server.asked}) == len(server.asked)
        assert bench.boards[-1].current().steps == 2 * (6 + 6 + 6), "it is one of both, and is not measured twice"
        other, _ = bench.pod(bench.supervised(epochs=0.5), run="live")
        champion = Artifact(uri=f"{bench.store.uri}/{other.directory}", digest=other.digest)
        whole = whole.model_copy(update={"champion": champion})
        failures: list[Answer] = [500, "I like it"]
        for place, failure in enumerate(failures):  # what was asked about both policies is known by now
            server.says = partial(failing, failure)
            alike, folder_alike = bench.pod(whole, run=f"judge-fails-{place}")
            assert bench.boards[-1].current().steps == 3 * (6 + 6 + 6)
            assert alike.result.choice == kept.result.choice, "the champion decides nothing, whatever the judge does"
            assert "champion/judge_win_rate" not in alike.result.metrics
            compared = json.loads((folder_alike / "comparison.json").read_text())
            assert "stages.evaluate.judge" in compared["champion_absent"]
    assert kept.result.metrics["rl/reward"] > kept.result.metrics["baseline/reward"]
    assert 0.5 <= kept.result.metrics["judge_win_rate"] == kept.result.metrics["rl/judge_win_rate"] <= 1.0
    assert kept.result.metrics["champion/judge_win_rate"] == kept.result.metrics["rl/judge_win_rate"]
    shown = (page / "report.html").read_text()
    assert "The judge prefers the answers of rl to the champion" in shown
    told = json.loads((page / "evaluation.json").read_text())["answers"]
    assert all(each["champion"] == each["supervised"] for each in told)
    assert calm.digest == again.digest
    curve = read_history(folder / "rl-history.parquet")
    assert curve["reward/judge"] == pytest.approx(curve["avg_return"], abs=1e-6)
    assert sum(curve["mean_tokens"][-2:]) < sum(curve["mean_tokens"][:2])
    numbers = calm.result.metrics
    assert (numbers["judge_asked"], numbers["judge_cached"], numbers["judge_failed"]) == (48, 48, 0)
    assert again.result.metrics["judge_asked"] == 8 * 4, "it went on from the checkpoint of two rollouts"
    prompts = {prompt for prompt, _ in dialogues(32, seed=0)}
    assert {each.partition("Q: ")[2].rpartition("\nA: ")[0] for each in questions} <= prompts
    for path in (bench.root / "store").rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes(), f"the key stands in {path}"


def test_some_prose_is_worth_the_mean_and_too_much_of_it_ends_the_stage(bench: GeneratorBench) -> None:
    """P13, P39."""
    said: list[str] = []

    def sometimes(question: str) -> str:
        said.append(question)
        return "I like it" if len(said) % 8 == 3 else shortness(question)

    with judge_server(sometimes) as server:
        commit, folder = bench.pod(bench.rlhf(rewards=judged(server.url), interactions=16), run="some-prose")
        assert commit.result.metrics["judge_failed"] >= 1
        assert all(0 <= reward <= 1 for reward in read_history(folder / "rl-history.parquet")["avg_return"])
    with judge_server(lambda _: "I like it") as server, pytest.raises(BadConfigError, match="let the prompt ask for"):
        bench.pod(bench.rlhf(rewards=judged(server.url)), run="prose")
    with judge_server(lambda _: 500) as server, pytest.raises(JudgeUnavailable, match="times HTTP 500"):
        bench.pod(bench.rlhf(rewards=judged(server.url)), run="away")
