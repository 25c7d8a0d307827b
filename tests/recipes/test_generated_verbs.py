"""`ratchet evaluate` and `ratchet compare` on generators: numbers, rewards and a verdict; and what they refuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ratchet_api.stage import Commit, Stage
from ratchet_cli.main import run_command
from ratchet_jobs.metrics.generation import spoken
from tests.generator_bench import GeneratorBench
from tests.tiny_llama import dialogues
from tests.trained_home import TrainedHome

pytestmark = pytest.mark.usefixtures("one_thread")

Command = Callable[..., tuple[int, str]]
SHORT = [{"type": "expression", "expression": "1 - tokens / max_tokens"}, {"type": "rewardModel", "weight": 0.01}]
RL = {"policyType": "generator", "mode": "supervised_then_rl"}
ASKED = {"evaluate": {"answers": {"prompts": 12, "maxNewTokens": 8}, "batchSize": 8}}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainedHome, dict[str, Commit]]:
    """A home with a policy that follows demonstrations (1) and one that was rewarded for being short, too (2)."""
    bench = GeneratorBench(tmp_path_factory.mktemp("said"), train=dialogues(32, seed=0), test=dialogues(12, seed=5))
    start, _ = bench.pod(bench.supervised(epochs=2.0))
    liked = [(prompt, "never", f"never never {answer}") for prompt, answer in dialogues(16, seed=1)]
    judge, _ = bench.pod(bench.reward_model(bench.put_preferences(liked), epochs=1), run="judge")
    rlhf = {"rewards": SHORT, "learningRate": 2e-2, "initKl": 0.001, "rolloutSize": 8, "minibatchSize": 4}
    short, _ = bench.pod(bench.rlhf(judge="judge", interactions=64, **rlhf), run="short")
    home = TrainedHome(bench)
    home.put_run("shown", start, policyType="generator", stages=ASKED)
    stages = ASKED | {"rewardModel": {"datasetRef": {"name": "liked"}}, "rlhf": rlhf}
    before = {Stage.SUPERVISED.value: start, Stage.REWARD_MODEL.value: judge}
    home.put_run("short", short, made=before, stages=stages, **RL)
    home.put_policy("helper", ("shown", start), ("short", short))
    return home, {"start": start, "short": short}


@pytest.fixture
def ratchet(
    made: tuple[TrainedHome, dict[str, Commit]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Command:
    """Runs a command line on the home; returns exit code and all that was printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RATCHET_HOME", str(made[0].path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for console in ("out", "err"):
        monkeypatch.setattr(f"ratchet_cli.screen.{console}.width", 300)

    def run(*arguments: str) -> tuple[int, str]:
        code = run_command([*arguments, "-n", "team"])
        printed = capfd.readouterr()
        return code, printed.out + printed.err

    return run


def document(ratchet: Command, *arguments: str) -> dict[str, Any]:
    code, printed = ratchet(*arguments, "-o", "json")
    assert code == 0, printed
    found: dict[str, Any] = json.loads(printed[printed.index("{") :])
    return found


def test_a_generator_is_measured_as_its_evaluate_stage_measures_it(
    made: tuple[TrainedHome, dict[str, Commit]], ratchet: Command
) -> None:
    bench = made[0].bench
    assert isinstance(bench, GeneratorBench)
    config = bench.evaluate(answers={"prompts": 12, "maxNewTokens": 8})
    commit, folder = bench.pod(config)
    found = document(ratchet, "evaluate", "helper@1")
    assert found["metrics"] == pytest.approx(dict(commit.result.metrics), abs=1e-9)
    assert found["answers"] == json.loads((folder / "evaluation.json").read_text())["answers"]
    assert "rewardsOf" not in found
    committed = str(bench.root / "store" / commit.directory)
    assert document(ratchet, "evaluate", committed, "--max-new-tokens", "8")["answers"] == found["answers"]


def test_answers_are_judged_by_the_rewards_of_the_run_or_of_another(
    made: tuple[TrainedHome, dict[str, Commit]], ratchet: Command
) -> None:
    own = document(ratchet, "evaluate", "helper@2")
    assert own["rewardsOf"] == "short"
    rewards = [each["reward"] for each in own["answers"]]
    assert own["metrics"]["reward"] == pytest.approx(sum(rewards) / 12)
    # the formula gives 0 to 1, the reward model at most 0.01 on top
    assert all(0 <= reward <= 1.01 for reward in rewards)
    other = document(ratchet, "evaluate", "helper@1", "--rewards-of", "short")
    assert other["metrics"]["reward"] < own["metrics"]["reward"]
    code, printed = ratchet("evaluate", "short")
    assert code == 0
    for said in ("by the rewards of short", "perplexity", "distinct2", "reference", own["answers"][0]["prompt"]):
        assert said in printed


def test_rewards_know_the_items_that_their_runs_train_split_mentions(
    made: tuple[TrainedHome, dict[str, Commit]], ratchet: Command
) -> None:
    home, commits = made
    assert isinstance(home.bench, GeneratorBench)
    item = next(
        word for each in document(ratchet, "evaluate", "helper@1")["answers"] for word in spoken(each["answer"])
    )
    shown = home.bench.put_demonstrations(train=dialogues(4, seed=0), test=dialogues(4, seed=5), items=[item])
    rlhf = {"rlhf": {"rewards": [{"type": "itemRatio"}]}}
    before = {Stage.SUPERVISED.value: commits["start"]}
    home.put_run("items", commits["short"], made=before, snapshot=shown.digest, stages=ASKED | rlhf, **RL)
    said = document(ratchet, "evaluate", "helper@1", "--rewards-of", "items")["answers"]
    rewards = [each["reward"] for each in said]
    assert rewards == [float(item in spoken(each["answer"])) for each in said]
    assert max(rewards) == 1.0


def test_the_policy_that_was_rewarded_is_better_by_those_rewards_and_changes_are_told_in_percent(
    ratchet: Command,
) -> None:
    found = document(ratchet, "compare", "helper@1", "helper@2")
    assert (found["verdict"], found["rewardsOf"], found["n"]) == ("better", "short", 12)
    assert found["reward"]["low"] > 0
    assert found["winRate"] > 0.5
    numbers = found["numbers"]
    assert {"reward", "bleu1", "distinct1", "repetition", "mean_tokens", "kl", "perplexity"} <= set(numbers)
    tokens = numbers["mean_tokens"]
    assert tokens["change"] == pytest.approx(tokens["b"] / tokens["a"] - 1)
    assert tokens["low"] <= tokens["change"] <= tokens["high"] < 0
    assert sum(each["gained"] for each in found["answers"]) == pytest.approx(12 * found["reward"]["difference"])
    code, printed = ratchet("compare", "helper@1", "helper@2")
    assert code == 0
    assert found["sentence"] in printed
    assert f"{tokens['change']:+.1%}" in printed
    back = document(ratchet, "compare", "helper@2", "helper@1")
    assert (back["verdict"], back["winRate"]) == ("worse", pytest.approx(1 - found["winRate"]))


def test_rows_of_a_file_are_measured_and_without_rewards_nothing_is_judged(ratchet: Command, tmp_path: Path) -> None:
    lines = [json.dumps({"ask": prompt, "say": answer}) for prompt, answer in dialogues(6, seed=9)]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    options = ("--data", "rows.jsonl", "--column", "ask", "--label-column", "say")
    found = document(ratchet, "compare", "shown", "helper@1", *options)
    assert (found["verdict"], found["n"], found["rows"]) == ("not judged", 6, "rows.jsonl")
    assert all(row["a"] == row["b"] for row in found["answers"])
    assert found["numbers"]["bleu1"]["change"] == 0
    assert "name a run whose rewards do by --rewards-of" in found["sentence"]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("evaluate", "helper@1", "--rewards-of", "shown"), 1, "--rewards-of shown: shown rewarded no answers"),
        (("evaluate", "helper@1", "--rewards-of", "nobody"), 4, "no RLPolicy or RLTrainingRun 'nobody'"),
        (("evaluate", "helper@1", "--ece-bins", "5"), 2, "--ece-bins is for classifiers"),
        (("evaluate", "helper@1", "--split", "dev"), 2, "--split 'dev' is none of the snapshot's"),
        (("evaluate", "helper@1", "--prompts", "1"), 2, "--prompts"),
        (("evaluate", "helper@1", "--max-new-tokens", "60"), 1, "--max-new-tokens 60 after the longest prompt of"),
        (("evaluate", "helper@1", "--data", "rows.csv"), 1, "no column 'response'; it has: text"),
        (("evaluate", "helper@1", "--data", "half.csv"), 1, "row 2: its response is empty"),
        (("evaluate", "helper@1", "--data", "rows.csv", "--label-column", "a=b"), 2, "names tasks, which a generator"),
        (("evaluate", "helper@1", "--base", "nowhere"), 1, "--base nowhere is no folder"),
        (("compare", "helper@1", "helper@2", "--plot", "a.png"), 2, "--plot is for classifiers"),
        (("compare", "helper@1", "helper@2", "--data", "one.csv"), 1, "one prompt was answered"),
    ],
)
def test_what_cannot_be_measured_is_said(
    arguments: tuple[str, ...], code: int, says: str, ratchet: Command, tmp_path: Path
) -> None:
    """P39."""
    (tmp_path / "rows.csv").write_text("text\nthe card\n")
    (tmp_path / "half.csv").write_text("text,response\nthe card,please block\nthe loan,\n")
    (tmp_path / "one.csv").write_text("text,response\nthe card,please block\n")
    got, printed = ratchet(*arguments)
    assert (got, says in printed) == (code, True), printed
    assert "defect" not in printed
