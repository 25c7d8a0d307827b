"""The Python door: feedbacks in, a version on disk out; cut off anywhere, the same call ends with the same bits."""

from __future__ import annotations

import errno
import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from ratchet_jobs import RLHFTrainer, TrainingConfig, TrainingResult
from ratchet_jobs.data.turns import Turn
from ratchet_jobs.generators.serving import open_talker
from ratchet_jobs.rlhf import saving
from ratchet_jobs.rlhf.ppo import LanguagePPO
from ratchet_jobs.rlhf.preference_training import PreferenceStep, PreferenceTraining
from ratchet_jobs.rlhf.saving import latest_checkpoint, save_checkpoint
from ratchet_jobs.runtime.errors import BadConfigError, BadDataError, BadModelError, DivergedError
from tests.tiny_bert import write_tiny_bert
from tests.tiny_llama import FILLERS, write_tiny_llama

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = {
    "max_steps": 3,
    "max_new_tokens": 4,
    "lora_r": 4,
    "checkpoint_steps": 1,
    "learning_rate": 1e-3,
    "device": "cpu",
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("base") / "llama")


def feedbacks(count: int = 24) -> list[dict[str, Any]]:
    """Answers scored by how many of their words are of one kind."""
    rng, made = random.Random(0), []
    for number in range(count):
        words = rng.choices(FILLERS, k=4)
        score = sum(FILLERS.index(word) % 2 == 0 for word in words) / 4
        made.append(
            {"prompt": f"the {FILLERS[number % 8]}", "response": " ".join(words), "score": score, "run_id": "r"}
        )
    return made


def config(base: Path, **changes: Any) -> TrainingConfig:
    return TrainingConfig(**{"base_model": str(base), **SMALL, "reward_model_config": {"num_epochs": 2}, **changes})


def test_feedback_becomes_a_version_that_transformers_loads_as_it_is(base: Path, tmp_path: Path) -> None:
    result = RLHFTrainer(config(base)).train(feedbacks(), output_dir=tmp_path)
    folder = tmp_path / "policy" / "1"
    assert {path.name for path in folder.iterdir()} == {
        "policy", "reward_model", "training_results.json", "training_log.jsonl", "training_plan.json"
    }  # fmt: skip
    assert (result.status, result.policy_id, result.version) == ("trained", "policy", 1)
    assert (result.feedback_count, result.training_steps) == (24, 3)
    assert result.reward_mean == pytest.approx(sum(each["score"] for each in feedbacks()) / 24)
    assert 0 <= result.final_reward_mean <= 1
    assert result.final_reward_std >= 0
    model, tokenizer = (kind.from_pretrained(result.model_path) for kind in (AutoModelForCausalLM, AutoTokenizer))
    assert model.generate(**tokenizer("the bank", return_tensors="pt"), max_new_tokens=2).shape[1] >= 3
    log = [json.loads(line) for line in (folder / "training_log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == [1, 2, 3]
    assert {"score_mean", "kl", "kl_k3", "kl_coef", "policy_loss", "value_loss", "entropy"} <= set(log[0])
    written = json.loads((folder / "training_results.json").read_text())
    names = {"status", "policyId", "version", "modelPath", "rewardModelPath", "feedbackCount", "trainingSteps"}
    assert names | {"rewardMean", "rewardStd"} <= set(written)
    assert TrainingResult.load(folder) == result
    moved = folder.rename(tmp_path / "elsewhere")
    assert TrainingResult.load(moved / "training_results.json").model_path == str(moved / "policy")


def test_a_training_cut_off_anywhere_ends_with_the_same_bits(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P12"""
    want = RLHFTrainer(config(base)).train(feedbacks(), output_dir=tmp_path / "whole")
    step, taken = LanguagePPO.step, []

    def dies_once(self: LanguagePPO) -> dict[str, float]:
        taken.append(self.done)
        if len(taken) == 3:
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(LanguagePPO, "step", dies_once)
    with pytest.raises(KeyboardInterrupt):
        RLHFTrainer(config(base)).train(feedbacks(), output_dir=tmp_path / "cut")
    got = RLHFTrainer(config(base)).train(feedbacks(), output_dir=tmp_path / "cut")
    assert taken == [0, 1, 2, 2]
    assert got.version == 1
    left, right = (load_file(Path(each.model_path) / "model.safetensors") for each in (want, got))
    assert all(torch.equal(left[name], right[name]) for name in left)
    logs = [(Path(each.model_path).parent / "training_log.jsonl").read_text() for each in (want, got)]
    assert logs[0] == logs[1]
    # another plan is another version, and so is the same one once it has ended
    assert RLHFTrainer(config(base, seed=1)).train(feedbacks(), output_dir=tmp_path / "cut").version == 2


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_disk_that_is_full_at_a_checkpoint_is_said_and_the_one_before_it_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """P39."""
    save_checkpoint(tmp_path, 3, tensors={"a": torch.ones(2)}, numbers={"b": 1})

    def full(*_: object) -> None:
        raise error

    monkeypatch.setattr(saving, "save_file", full)
    with pytest.raises(
        BadConfigError, match=r"checkpoint of step 4 in .*: the disk is full; free space and call again"
    ):
        save_checkpoint(tmp_path, 4, tensors={"a": torch.zeros(2)}, numbers={"b": 2})
    found = latest_checkpoint(tmp_path)
    assert found is not None
    assert (found.tensors["a"].tolist(), found.numbers) == ([1.0, 1.0], {"b": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000003"]


def test_a_stopped_training_leaves_the_last_good_policy_and_says_why(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverges(self: LanguagePPO) -> dict[str, float]:
        raise DivergedError("step 1: too far")

    monkeypatch.setattr(LanguagePPO, "step", diverges)
    with pytest.raises(
        DivergedError, match=r"step 1: too far; the policy of step 0, the last good one, is in .*/policy/1"
    ):
        RLHFTrainer(config(base)).train(feedbacks(), output_dir=tmp_path)
    result = TrainingResult.load(tmp_path / "policy" / "1")
    assert (result.status, result.detail, result.training_steps) == ("stopped", "step 1: too far", 0)
    left, right = (load_file(folder / "model.safetensors") for folder in (base, Path(result.model_path)))
    assert all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"use_lora": False}, id="all weights"),
        pytest.param({"gradient_checkpointing": True, "dtype": "bfloat16"}, id="checkpointing in bfloat16"),
        pytest.param({"prompt_format": "continuation", "stop": ("bank",), "top_p": 0.9}, id="continuation"),
        pytest.param({"encoder": True}, id="an encoder as reward model"),
        pytest.param({"algorithm": "grpo"}, id="grpo in groups of four"),
        pytest.param({"algorithm": "rloo", "group_size": 2}, id="rloo in groups of two"),
    ],
)
def test_other_ways_end_with_a_version_too(base: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    if changes.pop("encoder", False):
        encoder = str(write_tiny_bert(tmp_path / "bert"))
        changes["reward_model_config"] = {"num_epochs": 1, "base_model": encoder}
    one = config(base, **{"max_steps": 1, **changes})
    assert RLHFTrainer(one).train(feedbacks(), output_dir=tmp_path).training_steps == 1


def pairs(count: int = 24) -> list[dict[str, Any]]:
    """The better answer has words of one kind."""
    rng = random.Random(1)
    return [
        {
            "prompt": f"the {FILLERS[number % 8]}",
            "chosen": " ".join(rng.choices(FILLERS[0::2], k=4)),
            "rejected": " ".join(rng.choices(FILLERS[1::2], k=4)),
        }
        for number in range(count)
    ]


def judged(base: Path, algorithm: str, **changes: Any) -> TrainingConfig:
    settings = {"base_model": str(base), "algorithm": algorithm, "max_steps": 8, "lora_r": 4, "checkpoint_steps": 3}
    return TrainingConfig(**(settings | {"learning_rate": 5e-3, "device": "cpu"} | changes))


@pytest.mark.parametrize("algorithm", ["dpo", "kto"])
def test_feedback_itself_teaches_a_policy_and_cut_off_it_ends_with_the_same_bits(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, algorithm: str
) -> None:
    """P12"""
    want = RLHFTrainer(judged(base, algorithm)).train(pairs(), output_dir=tmp_path / "whole")
    step, taken = PreferenceTraining.step, []

    def dies_once(self: PreferenceTraining) -> PreferenceStep:
        taken.append(self.done)
        if len(taken) == 6:
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(PreferenceTraining, "step", dies_once)
    with pytest.raises(KeyboardInterrupt):
        RLHFTrainer(judged(base, algorithm)).train(pairs(), output_dir=tmp_path / "cut")
    got = RLHFTrainer(judged(base, algorithm)).train(pairs(), output_dir=tmp_path / "cut")
    assert taken[5:7] == [5, 3], "the sixth step was cut off, and the checkpoint was of the third"
    left, right = (load_file(Path(each.model_path) / "model.safetensors") for each in (want, got))
    assert all(torch.equal(left[name], right[name]) for name in left)
    folder = Path(got.model_path).parent
    assert {path.name for path in folder.iterdir()} == {
        "policy", "training_results.json", "training_log.jsonl", "training_plan.json"
    }  # fmt: skip
    log = [json.loads(line) for line in (folder / "training_log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == list(range(1, 9))
    assert got.agreement is not None
    assert got.agreement > 0.5, "at first nothing is told apart"
    assert (got.reward_model_path, got.final_reward_mean, got.training_steps) == (None, None, 8)
    assert "modelPath" in json.loads((folder / "training_results.json").read_text())


def test_a_version_can_be_talked_to(base: Path, tmp_path: Path) -> None:
    result = RLHFTrainer(judged(base, "dpo", max_steps=1)).train(pairs(), output_dir=tmp_path)
    talker = open_talker(Path(result.model_path).parent, seed=0)
    assert isinstance(talker.answer([Turn("user", "the card")], max_new_tokens=4), str)
    with pytest.raises(BadModelError, match=r"policy.json cannot be read"):
        open_talker(Path(result.model_path), seed=0)


def test_an_estimate_starts_nothing(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    few, many = (RLHFTrainer(config(base, max_steps=n)).estimate_training(feedbacks()) for n in (10**4, 10**6))
    assert few.to_wire()["modelConfig"] == {"base_model": str(base), "use_lora": True, "learning_rate": 1e-3}
    assert (few.feedback_count, few.estimated_steps) == (24, 10**4)
    assert many.estimated_time_minutes > 10 * few.estimated_time_minutes
    assert list(tmp_path.iterdir()) == []


def test_the_environment_names_folder_and_device(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RATCHET_MODELS_DIR", str(tmp_path / "mine"))
    monkeypatch.setenv("RATCHET_DEVICE", "cpu")
    result = RLHFTrainer(config(base, max_steps=1, device=None)).train(feedbacks())
    assert Path(result.model_path) == tmp_path / "mine" / "policy" / "1" / "policy"
    monkeypatch.setenv("RATCHET_DEVICE", "abacus")
    with pytest.raises(BadConfigError, match="device: 'abacus' cannot be used"):
        RLHFTrainer(config(base, device=None)).train(feedbacks(), output_dir=tmp_path)
    monkeypatch.setenv("RATCHET_LOG_LEVEL", "shout")
    with pytest.raises(BadConfigError, match="RATCHET_LOG_LEVEL is 'shout'"):
        RLHFTrainer(config(base))


@pytest.mark.parametrize("name", ["quick_test", "production", "low_memory", "high_performance"])
def test_every_preset_fits_and_gives_way_to_settings(name: Any) -> None:
    made = TrainingConfig.preset(name, base_model="x", max_steps=7)
    assert made.max_steps == 7
    made.check()
    assert getattr(TrainingConfig, name)(base_model="x", max_steps=7) == made
    for algorithm in ("grpo", "rloo", "dpo", "kto"):
        TrainingConfig.preset(name, base_model="x", algorithm=algorithm).check()
    assert TrainingConfig.low_memory(base_model="x", algorithm="dpo").gradient_checkpointing


@pytest.mark.parametrize(
    ("changes", "want"),
    [
        ({"max_stepz": 1}, "max_stepz: no such setting"),
        ({"max_steps": 0}, "max_steps: 0: .*greater than or equal to 1"),
        ({"target_kl": 0.0}, r"target_kl: 0\.0; give a number above 0"),
        ({"batch_size": 5}, "batch_size: 5 is no multiple of mini_batch_size 4"),
        ({"reward_model_config": {"lora_dropout": 2}}, "reward_model_config.lora_dropout: 2"),
        ({"stop": ("two words",)}, "stop: 'two words' is 2 tokens"),
        ({"max_new_tokens": 64}, "max_new_tokens: 64 beside the longest prompt"),
        ({"policy_id": "../up"}, "policy_id: '../up'"),
        ({"algorithm": "a2c"}, "algorithm: 'a2c': .*'ppo', 'grpo', 'rloo', 'dpo' or 'kto'"),
        ({"group_size": 4}, "group_size: is for algorithm grpo, rloo and not for ppo; leave it out"),
        ({"beta": 0.2}, "beta: is for algorithm dpo, kto and not for ppo"),
        ({"algorithm": "grpo", "group_size": 3}, "batch_size: 8 is no multiple of group_size 3"),
        ({"reward_model_config": {"rating_loss": "stars"}}, "reward_model_config.rating_loss: 'stars'"),
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(
    base: Path, tmp_path: Path, changes: dict[str, Any], want: str
) -> None:
    with pytest.raises(BadConfigError, match=want):
        RLHFTrainer(config(base, **changes)).train(feedbacks(), output_dir=tmp_path)


@pytest.mark.parametrize(
    ("given", "want"),
    [
        (feedbacks(5), r"^Insufficient feedback: 5 samples \(minimum 10 required\)$"),
        ([*feedbacks(), {"prompt": "a", "response": "b"}], "feedback 24: keys prompt, response; give prompt, response"),
        ([*feedbacks(), {"prompt": "a", "response": 3, "score": 1}], "feedback 24: response is 3; give a text"),
        ([*feedbacks(), {"prompt": "a", "response": "b", "score": True}], "feedback 24: score is True; give a number"),
        ([*feedbacks(), "good"], "feedback 24: str; give a mapping"),
    ],
)
def test_feedbacks_that_cannot_be_used_are_refused(base: Path, tmp_path: Path, given: list[Any], want: str) -> None:
    with pytest.raises(BadDataError, match=want):
        RLHFTrainer(config(base)).train(given, output_dir=tmp_path)


def test_feedback_longer_than_the_context_is_refused_and_takes_no_number(base: Path, tmp_path: Path) -> None:
    """P39: also a pair of which the worse answer alone is too long."""
    long = {"prompt": "the bank", "response": "the bank " * 40, "score": 1.0}
    pair = {"prompt": "the bank", "chosen": "the", "rejected": "the bank " * 40}
    for bad in (long, pair):
        with pytest.raises(
            BadDataError, match=r"1 of 25 .* context of 64 tokens \(the first is feedback 24 with 8\d\)"
        ):
            RLHFTrainer(config(base)).train([*feedbacks(), bad], output_dir=tmp_path)
    assert list(tmp_path.rglob("*.json")) == []
    assert RLHFTrainer(config(base, max_steps=1)).train(feedbacks(), output_dir=tmp_path).version == 1


def test_feedback_that_does_not_fit_the_algorithm_is_refused(base: Path, tmp_path: Path) -> None:
    """P39."""

    def refused(config: TrainingConfig, given: list[dict[str, Any]], want: str) -> None:
        with pytest.raises((BadConfigError, BadDataError), match=want):
            RLHFTrainer(config).train(given, output_dir=tmp_path)

    refused(judged(base, "dpo"), feedbacks(), "feedbacks: algorithm dpo learns from pairs, .* set algorithm='kto'")
    good = [row | {"score": 0.6 + row["score"] / 5} for row in feedbacks()]
    refused(judged(base, "kto"), good, "feedbacks: the .* answers to learn from are all good or all bad")
    long = [row | {"prompt": "the bank " * 40} for row in pairs()]
    refused(judged(base, "dpo"), long, r"feedbacks: of all 24 rows .* more tokens than the model's context of 64")
    with pytest.raises(BadConfigError, match="prompt_format: continuation is not for dpo"):
        judged(base, "dpo", prompt_format="continuation")
    with pytest.raises(BadConfigError, match="temperature: is for algorithm ppo, grpo, rloo and not for kto"):
        judged(base, "kto", temperature=0.5)
    with pytest.raises(BadConfigError, match="batch_size: 1 with algorithm kto; give 2 to 4096"):
        RLHFTrainer(judged(base, "kto", batch_size=1))


def test_a_base_model_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadModelError, match="nothing is downloaded"):
        RLHFTrainer(config(tmp_path / "no")).train(feedbacks(), output_dir=tmp_path)
    encoder = write_tiny_bert(tmp_path / "bert")
    with pytest.raises(BadModelError, match="no causal language model"):
        RLHFTrainer(config(encoder)).train(feedbacks(), output_dir=tmp_path)
    with pytest.raises(BadModelError, match="cannot be read"):
        TrainingResult.load(tmp_path)
