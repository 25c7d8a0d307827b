"""`ratchet convert`: what has a place becomes a field that `ratchet lint` accepts, the rest is named one by one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ratchet_api.training_run import RLTrainingRunSpec
from ratchet_cli.conversion import Conversion, Wanted, convert
from ratchet_cli.conversion_settings import RL_FIELDS
from ratchet_cli.kubeyaml import load_documents
from ratchet_cli.main import run_command

PROPOSED = """
classifier:
  category_model: {model_id: models/category_classifier, threshold: 0.6, use_cpu: true}
  rl_training:
    enabled: true
    algorithm: "PPO"
    learning_rate: 1e-5
    gamma: 0.99
    batch_size: 16
    update_epochs: 4
    reward_metric: accuracy
"""
"""The block of the proposal, every setting of it."""

SHA256 = "ab" * 32
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def ratchet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Writes the text as config.yaml and converts it; returns exit code, output and errors."""
    monkeypatch.chdir(tmp_path)

    def command(text: str, *words: str) -> tuple[int, str, str]:
        (tmp_path / "config.yaml").write_text(text)
        code = run_command(["convert", "config.yaml", *words])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return command


def converted(**settings: Any) -> Conversion:
    document = {"classifier": {"rl_training": {"enabled": True, **settings}}}
    return convert(document, Wanted("c", "store://m", SHA256, "store://rows.csv", "text", "label"))


def run_of(result: Conversion) -> RLTrainingRunSpec:
    return RLTrainingRunSpec.model_validate(result.manifests[1]["spec"])


def told(result: Conversion) -> list[str]:
    return [str(note) for note in result.unmapped]


def test_the_proposed_block_becomes_manifests_that_lint_accepts(ratchet: Command, tmp_path: Path) -> None:
    code, printed, remarks = ratchet(PROPOSED, "-o", "out", "--base-model", "store://m", "--base-sha256", SHA256)
    assert code == 0, remarks
    assert printed.split() == ["out/dataset.yaml", "out/run.yaml"]
    assert run_command(["lint", "-f", "out"]) == 0
    run = RLTrainingRunSpec.model_validate(load_documents((tmp_path / "out/run.yaml").read_text())[0]["spec"])
    assert run.mode == "supervised_then_rl"
    rl = run.rl
    assert (rl.algorithm, rl.learning_rate, rl.gamma, rl.minibatch_size) == ("ppo", 1e-5, 0.99, 16)
    assert (rl.update_epochs, [reward.type for reward in rl.rewards]) == (4, ["accuracy"])


def test_what_the_file_cannot_say_is_named_and_what_stands_beside_the_block_too(ratchet: Command) -> None:
    code, printed, remarks = ratchet(PROPOSED)
    assert code == 0
    assert [document["kind"] for document in load_documents(printed)] == ["FeedbackDataset", "RLTrainingRun"]
    for field in ("spec.baseModel.uri", "spec.baseModel.sha256", "spec.source.objects"):
        assert f"to set: {'FeedbackDataset' if 'source' in field else 'RLTrainingRun'} {field}" in remarks
    assert "not mapped: classifier.category_model.threshold (0.6): is a confidence fitted to another model" in remarks
    assert "not mapped: classifier.category_model.model_id ('models/category_classifier')" in remarks


def test_the_block_is_found_at_its_newer_place_too() -> None:
    document = {"global": {"model_catalog": {"modules": {"classifier": {"rl_training": {"enabled": True, "seed": 7}}}}}}
    result = convert(document, Wanted("c", None, None, None, "text", "label"))
    assert result.manifests[1]["spec"]["seed"] == 7
    assert len(result.to_set) == 3


def test_every_setting_of_the_table_reaches_its_field() -> None:
    values: dict[str, Any] = {
        "algorithm": "ppo", "learningRate": 2e-5, "headLearningRate": 2e-3, "valueLearningRate": 3e-3, "gamma": 0.5,
        "lam": 0.6, "minibatchSize": 8, "rolloutSize": 64, "updateEpochs": 3, "clipRange": 0.1, "clipRangeValue": 0.3,
        "entropyCoef": 0.02, "vfCoef": 0.7, "klCoef": 0.05, "maxGradNorm": 0.9, "targetKl": 0.04,
        "normalizeAdvantages": False, "bufferCapacity": 128, "interactions": 2048, "lrSchedule": "constant",
    }  # fmt: skip
    assert set(RL_FIELDS.values()) == {*values, "targetUpdateInterval"}
    for setting, field in RL_FIELDS.items():
        is_of_dqn = field == "targetUpdateInterval"
        around = {"algorithm": "dqn"} if is_of_dqn else {"rollout_size": 64} if field == "bufferCapacity" else {}
        result = converted(**around, **{setting: 9 if is_of_dqn else values[field]})
        assert told(result) == [], setting
        assert run_of(result).rl.to_wire()[field] == (9 if is_of_dqn else values[field]), setting


def test_settings_of_the_run_and_of_the_algorithms_own_block_are_taken_along() -> None:
    result = converted(
        algorithm="dqn", dqn={"target_update_freq": 50, "buffer_size": 4096}, epochs=3, max_length=64,
        lora_rank=8, lora_alpha=16, seed=5, dataset="s3://bucket/rows.parquet",
    )  # fmt: skip
    run = run_of(result)
    assert told(result) == []
    assert (run.rl.target_update_interval, run.rl.buffer_capacity) == (50, 4096)
    assert (run.stages.supervised.epochs, run.stages.supervised.max_tokens) == (3, 64)
    assert (run.lora.rank, run.lora.alpha, run.seed) == (8, 16, 5)


def test_a_batch_larger_than_the_default_rollout_takes_the_rollout_along() -> None:
    rl = run_of(converted(batch_size=512)).rl
    assert (rl.minibatch_size, rl.rollout_size) == (512, 512)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a misspelt setting": ({"buffer_capcity": 3}, "buffer_capcity (3): is no setting that Ratchet has; did you mean"),
    "a value out of bounds": ({"clip_range": 99}, "clip_range (99): is refused: clipRange: "),
    "a value of another type": ({"gamma": "high"}, "gamma ('high'): is refused: gamma: "),
    "a field of another algorithm": ({"target_update_freq": 5}, "only for algorithm dqn"),
    "an algorithm nobody has": ({"algorithm": "sac"}, "algorithm ('sac'): is refused: algorithm: "),
    "a reward for generators": ({"reward_metric": "bleu"}, "reward_metric ('bleu'): names no reward of Ratchet's"),
    "the same thing twice": ({"gamma": 0.9, "discount": 0.8}, "means the same as classifier.rl_training.gamma"),
    "another algorithm's block": ({"dqn": {"epsilon": 3}}, "dqn.epsilon (3): belongs to an algorithm that is not in"),
    "a block of its own making": ({"buffer": {"size": 3}}, "buffer.size (3): is no setting that Ratchet has"),
    "a local file": ({"dataset": "rows.csv"}, "dataset ('rows.csv'): is no object of a store; copy it with"),
    "a base by name": ({"base_model": "bert"}, "base_model ('bert'): is a name, and a run pins its base by digest"),
    "a negative seed": ({"seed": -1}, "seed (-1): is no whole number from 0"),
}


@pytest.mark.parametrize(("settings", "want"), REFUSED.values(), ids=REFUSED.keys())
def test_a_setting_without_a_place_is_named_and_the_rest_stays_valid(settings: dict[str, Any], want: str) -> None:
    result = converted(**settings, update_epochs=2)
    assert len(told(result)) == 1
    assert want in told(result)[0]
    assert told(result)[0].startswith("classifier.rl_training.")
    assert run_of(result).rl.update_epochs == 2


@pytest.mark.parametrize("off", [{"enabled": False}, {}], ids=["switched off", "not switched on"])
def test_rl_that_is_not_enabled_becomes_a_supervised_run_and_its_settings_are_named(off: dict[str, Any]) -> None:
    document = {"classifier": {"rl_training": {**off, "gamma": 0.9, "reward_metric": "f1", "epochs": 2}}}
    result = convert(document, Wanted("c", "store://m", SHA256, "store://rows.csv", "text", "label"))
    run = run_of(result)
    assert (run.mode, run.stages.rl, run.stages.supervised.epochs) == ("supervised", None, 2)
    assert [note.path.rsplit(".", 1)[1] for note in result.unmapped] == ["gamma", "reward_metric"]
    assert "set enabled: true to keep it" in told(result)[0]


def test_every_setting_of_an_rlhf_block_is_named_with_where_generators_are_trained() -> None:
    document = {"rlhf": {"reward_model": {"path": "m"}, "ppo": {"kl_coef": 0.1}, "enabled": True}}
    result = convert(document, Wanted("c", None, None, None, "text", "label"))
    assert result.manifests == []
    assert [note.path for note in result.unmapped] == ["rlhf.reward_model.path", "rlhf.ppo.kl_coef", "rlhf.enabled"]
    assert all(note.remedy.endswith("see docs/how-to/train-a-generator.md") for note in result.unmapped)


WRONG: dict[str, tuple[str, int, str]] = {
    "no block at all": ("routing: {}", 1, "no rl_training block; nothing to convert"),
    "only an rlhf block": ("rlhf: {a: 1}", 1, "nothing to convert, and 1 setting has no place in any manifest"),
    "a list": ("- a", 1, "holds a list, not a mapping"),
    "no mapping": ("classifier: {rl_training: 5}", 1, "classifier.rl_training is 5, not a mapping"),
    "two blocks": ("rl_training: {}\nclassifier: {rl_training: {}}", 1, "there are 2 rl_training blocks"),
    "enabled is a word": ("rl_training: {enabled: maybe}", 1, "rl_training.enabled is 'maybe'; write true or false"),
    "no YAML": ("a: [", 1, "cannot be read"),
    "two documents": ("a: 1\n---\nb: 2", 1, "holds 2 documents"),
}


@pytest.mark.parametrize(("text", "want_code", "want"), WRONG.values(), ids=WRONG.keys())
def test_a_file_that_cannot_be_converted_is_refused(ratchet: Command, text: str, want_code: int, want: str) -> None:
    code, printed, remarks = ratchet(text)
    assert (code, printed) == (want_code, "")
    assert want in remarks.replace("\n", " ")


def test_existing_files_are_replaced_only_when_asked_to(ratchet: Command, tmp_path: Path) -> None:
    assert ratchet(PROPOSED, "-o", "out")[0] == 0
    (tmp_path / "out/run.yaml").write_text("mine")
    code, _, remarks = ratchet(PROPOSED, "-o", "out")
    assert code == 1
    assert "dataset.yaml, run.yaml exists" in remarks
    assert (tmp_path / "out/run.yaml").read_text() == "mine"
    assert ratchet(PROPOSED, "-o", "out", "--force")[0] == 0
    assert (tmp_path / "out/run.yaml").read_text().startswith("apiVersion")


def test_a_name_or_uri_that_no_manifest_may_have_is_refused_with_its_field(ratchet: Command) -> None:
    assert "metadata.name" in ratchet(PROPOSED, "--name", "My Router")[2]
    assert "baseModel.uri" in ratchet(PROPOSED, "--base-model", "models/base")[2]
    assert ratchet(PROPOSED, "--name", "My Router")[0] == 1
