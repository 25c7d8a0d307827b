"""Evaluate with RL: what RL made is committed only if it is not worse than what it started from and keeps the gates."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ratchet_api.attempts import Artifact
from ratchet_api.rl import RlStage
from ratchet_api.stage import (
    Commit,
    EvaluateConfig,
    Owner,
    RlConfig,
    Stage,
    StageInput,
    StageRef,
    StageResult,
    StoreConfig,
)
from ratchet_jobs.metrics.comparison import compare
from ratchet_jobs.models.classifier import load_classifier, read_card
from ratchet_jobs.models.inference import predict_logits
from ratchet_jobs.models.tokenizing import tokenize
from ratchet_jobs.recipes import evaluate
from ratchet_jobs.runtime.commit import commit_stage
from ratchet_jobs.runtime.errors import BadLabelsError, NotANumberError, Preempted
from tests.tiny_bert import THEMES, reviews
from tests.workbench import NAMESPACE, Workbench

LABELS = sorted(THEMES)
TEST = reviews(200, seed=12, noise=0.3)


class Lab(Workbench):
    """A bench with a good policy; others are made from it by changing the head's bias."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, train=reviews(240, seed=0), validation=reviews(100, seed=11, noise=0.3), test=TEST)
        _, self.good = self.pod(self.supervised(epochs=4.0), run="good")

    def biased(self, name: str, **bias: float) -> Path:
        """The good policy with something added to the logits of classes; it answers those more or never."""
        folder = self.root / name
        if not folder.exists():
            shutil.copytree(self.good, folder)
            head = load_file(folder / "head.safetensors")
            head["bias"] = head["bias"] + np.array([bias.get(label, 0.0) for label in LABELS], dtype=np.float32)
            save_file(head, folder / "head.safetensors")
        return folder

    def commit(self, folder: Path, *, run: str, stage: Stage) -> Commit:
        """Commit a folder as a stage's result."""
        ref = StageRef(stage=Stage.SUPERVISED, prefix=self.prefix(run, Stage.SUPERVISED), input_digest="0" * 64)
        config: Any = RlConfig(dataset=self.dataset, start=ref, hyper=RlStage(), seed=0)
        job = StageInput(
            owner=Owner(kind="RLTrainingRun", namespace=NAMESPACE, name=run, uid="u" * 8),
            attempt=1,
            prefix=self.prefix(run, stage),
            store=StoreConfig(uri=self.store.uri),
            config=config if stage is Stage.RL else self.supervised(),
        )
        where = f"{job.prefix}/1-pod"
        return commit_stage(self.store, job, folder=folder, directory=where, writer=run, result=StageResult()).commit

    def artifact(self, folder: Path, *, name: str) -> Artifact:
        """A folder that some earlier run committed, as a policy's version names it."""
        commit = self.commit(folder, run=name, stage=Stage.SUPERVISED)
        return Artifact(uri=f"{self.store.uri}/{commit.directory}", digest=commit.digest)

    def compared(self, *, rl: Path, supervised: Path, run: str, **evaluation: Any) -> EvaluateConfig:
        """Settings of an evaluation of a run that has both policies."""
        refs = []
        for stage, folder in ((Stage.RL, rl), (Stage.SUPERVISED, supervised)):
            self.commit(folder, run=run, stage=stage)
            refs.append(StageRef(stage=stage, prefix=self.prefix(run, stage), input_digest="0" * 64))
        return self.evaluate(**evaluation).model_copy(update={"candidates": tuple(refs)})

    def answers(self, folder: Path) -> np.ndarray:
        """Classes on the test split, one row at a time: the plain way to them."""
        policy = load_classifier(folder, self.base)
        singles = [tokenize(policy.tokenizer, [text]) for text, _ in TEST]
        logits = [predict_logits(policy.classifier, one, batch_size=1, after_batch=lambda _: None) for one in singles]
        return np.concatenate(logits).argmax(1)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("lab"))


@pytest.fixture(scope="module")
def poor(lab: Lab) -> Path:
    """Answers nothing but card: right in about a third."""
    return lab.biased("poor", card=50.0)


def report_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "comparison.json").read_text())
    return found


def test_a_policy_that_rl_made_better_is_committed_with_both_numbers(lab: Lab, poor: Path) -> None:
    commit, folder = lab.pod(lab.compared(rl=lab.good, supervised=poor, run="better"))
    choice, got = commit.result.choice, commit.result.metrics
    assert choice is not None
    assert (choice.candidate, choice.baseline, choice.chosen) == ("rl", "supervised", "rl")
    assert (folder / "head.safetensors").read_bytes() == (lab.good / "head.safetensors").read_bytes()
    # the same numbers by the plain way, one row at a time
    truth = np.array([LABELS.index(label) for _, label in TEST])
    want = compare(truth, lab.answers(poor), lab.answers(lab.good), classes=3, confidence=0.95, resamples=2000, seed=0)
    assert got["accuracy"] == pytest.approx(want.accuracy.candidate)
    assert (got["baseline/accuracy"], got["rl/accuracy"]) == pytest.approx(want.accuracy[:2], abs=1e-6)
    assert (got["diff/accuracy"], got["diff/accuracy_low"], got["diff/accuracy_high"]) == pytest.approx(
        want.accuracy[2:], abs=1e-6
    )
    assert got["diff/macro_f1_low"] == pytest.approx(want.macro_f1.low, abs=1e-6)
    assert got["mcnemar_p"] == pytest.approx(want.mcnemar.p_mid, abs=1e-6)
    assert got["baseline/ece"] != got["rl/ece"] == pytest.approx(got["ece"], abs=1e-6)
    assert got["diff/accuracy_low"] > 0.1
    report = report_of(folder)
    assert report["rl_against_baseline"]["accuracy"]["low"] == pytest.approx(want.accuracy.low)
    assert report["policies"]["rl"]["metrics"]["accuracy"] == got["accuracy"]
    assert report["policies"]["supervised"]["metrics"]["accuracy"] == pytest.approx(got["baseline/accuracy"], abs=1e-6)


def test_a_policy_that_rl_made_worse_is_refused_and_the_supervised_one_committed(lab: Lab, poor: Path) -> None:
    commit, folder = lab.pod(lab.compared(rl=poor, supervised=lab.good, run="worse"))
    choice, got = commit.result.choice, commit.result.metrics
    assert choice is not None
    assert choice.chosen == "supervised"
    assert f"accuracy {got['rl/accuracy']:.4f} against {got['baseline/accuracy']:.4f}" in choice.why
    assert "must be >= 0;" in choice.why
    assert (folder / "head.safetensors").read_bytes() == (lab.good / "head.safetensors").read_bytes()
    assert got["accuracy"] == pytest.approx(got["baseline/accuracy"], abs=1e-6)
    evaluation = json.loads((folder / "evaluation.json").read_text())
    assert evaluation["metrics"]["accuracy"] == got["accuracy"]
    assert read_card(folder).temperature == got["temperature"]


def test_a_tolerated_loss_lets_a_worse_policy_pass(lab: Lab) -> None:
    slightly = lab.biased("slightly", card=0.8)
    kept = lab.compared(rl=slightly, supervised=lab.good, run="margin", comparison={"margin": 0.5})
    refused = lab.compared(rl=slightly, supervised=lab.good, run="margin", comparison={"margin": 0.0})
    choices = [lab.pod(config)[0].result.choice for config in (kept, refused)]
    assert [choice.chosen for choice in choices if choice is not None] == ["rl", "supervised"]


def test_a_policy_that_answers_alike_is_not_worse(lab: Lab) -> None:
    commit, _ = lab.pod(lab.compared(rl=lab.good, supervised=lab.good, run="alike"))
    assert commit.result.choice is not None
    assert commit.result.choice.chosen == "rl"
    assert commit.result.metrics["diff/accuracy_low"] == 0.0


def test_a_gate_that_the_rl_policy_breaks_keeps_the_other(lab: Lab) -> None:
    gates = [{"metric": "accuracy", "minimum": 0.999}]
    commit, _ = lab.pod(lab.compared(rl=lab.good, supervised=lab.good, run="gate", gates=gates))
    assert commit.result.choice is not None
    assert commit.result.choice.chosen == "supervised"
    assert "must be >= 0.999" in commit.result.choice.why


def test_a_slice_on_which_it_is_worse_refuses_a_policy_that_is_better_on_the_whole(lab: Lab, poor: Path) -> None:
    """The candidate never answers card, the baseline always does."""
    never = lab.biased("never", card=-50.0)
    free = lab.compared(rl=never, supervised=poor, run="slices", comparison={"margin": 0.0})
    rules = {"margin": 0.0, "slices": [{"label": "card", "margin": 0.1}]}
    guarded = lab.compared(rl=never, supervised=poor, run="slices", comparison=rules)
    without, within = (lab.pod(config)[0].result.choice for config in (free, guarded))
    assert without is not None
    assert within is not None
    assert (without.chosen, within.chosen) == ("rl", "supervised")
    assert within.why.startswith("accuracy on 'card' 0.0000 against 1.0000: the difference may be -1.0000")


def test_temperature_and_threshold_are_those_of_the_chosen_policy(lab: Lab, poor: Path) -> None:
    config = lab.compared(rl=lab.good, supervised=poor, run="calibrated", abstainTargetAccuracy=0.75)
    commit, folder = lab.pod(config)
    alone, _ = lab.pod(lab.evaluate(run="good", abstainTargetAccuracy=0.75))
    for name in ("temperature", "threshold", "ece", "coverage"):
        assert commit.result.metrics[name] == pytest.approx(alone.result.metrics[name], rel=1e-9)
    assert read_card(folder).abstain_threshold == commit.result.metrics["threshold"]


def test_the_champion_is_measured_beside_them_and_decides_nothing(lab: Lab, poor: Path) -> None:
    config = lab.compared(rl=lab.good, supervised=poor, run="champion")
    champion = lab.artifact(lab.biased("slightly", card=0.8), name="old")
    commit, folder = lab.pod(config.model_copy(update={"champion": champion}))
    got, report = commit.result.metrics, report_of(folder)
    assert got["champion/diff"] == pytest.approx(got["accuracy"] - got["champion/accuracy"], abs=1e-5)
    assert got["champion/diff_low"] <= got["champion/diff"] <= got["champion/diff_high"]
    assert report["champion"]["digest"] == champion.digest
    assert report["chosen_against_champion"]["accuracy"]["baseline"] == pytest.approx(got["champion/accuracy"])
    assert (folder / "head.safetensors").read_bytes() == (lab.good / "head.safetensors").read_bytes()


def test_after_a_failed_rl_stage_the_supervised_policy_is_measured_alone(lab: Lab, poor: Path) -> None:
    config = lab.compared(rl=lab.good, supervised=poor, run="rl-failed")
    champion = lab.artifact(lab.good, name="live")
    seen: list[int] = []
    left = config.model_copy(update={"candidates": config.candidates[1:], "champion": champion})
    commit, folder = lab.pod(left, on_step=seen.append)
    assert commit.result.choice is None
    assert seen[-1] == 300, "100 validation and 200 test rows, once"
    assert not (folder / "comparison.json").exists()
    assert not [name for name in commit.result.metrics if "/" in name]


@pytest.mark.parametrize("why", ["gone", "other classes", "its base is gone"])
def test_a_champion_that_cannot_be_compared_is_left_out_with_the_reason(lab: Lab, poor: Path, why: str) -> None:
    config = lab.compared(rl=lab.good, supervised=poor, run="no-champion")
    champion = Artifact(uri=f"{lab.store.uri}/{NAMESPACE}/runs/pruned", digest="d" * 64)
    if why == "other classes":
        folder = lab.biased("renamed")
        card = json.loads((folder / "policy.json").read_text())
        (folder / "policy.json").write_text(json.dumps(card | {"labels": ["card", "loan", "house"]}))
        champion = lab.artifact(folder, name="renamed")
    if why == "its base is gone":
        folder = lab.biased("elsewhere")
        card = json.loads((folder / "policy.json").read_text())
        base = {"uri": "store://models/pruned", "sha256": "c" * 64}
        (folder / "policy.json").write_text(json.dumps(card | {"baseModel": base}))
        champion = lab.artifact(folder, name="elsewhere")
    commit, folder = lab.pod(config.model_copy(update={"champion": champion}))
    assert "champion/accuracy" not in commit.result.metrics
    report = report_of(folder)
    assert report["champion"] is None
    want = {"gone": "no files there", "other classes": "its 3 classes are not the 3"}
    assert want.get(why, "store://models/pruned: no files there") in report["champion_absent"]


def test_rl_alone_is_held_against_the_policy_it_started_from(lab: Lab, poor: Path) -> None:
    config = lab.compared(rl=poor, supervised=poor, run="alone")
    start = lab.artifact(lab.good, name="started")
    alone = config.model_copy(update={"candidates": config.candidates[:1], "start": start, "max_tokens": None})
    commit, folder = lab.pod(alone)
    choice = commit.result.choice
    assert choice is not None
    assert (choice.baseline, choice.chosen) == ("start", "start")
    assert set(report_of(folder)["policies"]) == {"rl", "start"}


def test_comparing_again_gives_the_same_bytes(lab: Lab, poor: Path) -> None:
    config = lab.compared(rl=lab.good, supervised=poor, run="again")
    first, second = (lab.pod(config)[0] for _ in range(2))
    assert first.digest == second.digest
    assert {"comparison.json", "evaluation.json", "policy.json"} <= {file.path for file in first.files}


def test_every_policy_is_measured_in_one_pass_that_can_be_left(lab: Lab, poor: Path) -> None:
    """100 validation and 200 test rows, twice."""
    with pytest.raises(Preempted, match="after 32 of 600 rows"):
        lab.pod(lab.compared(rl=lab.good, supervised=poor, run="left"), leave_after=32)


def test_texts_are_tokenised_once_for_policies_of_one_tokenizer(
    lab: Lab, poor: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lists: list[int] = []

    def counted(tokenizer: Any, texts: Any) -> Any:
        lists.append(len(texts))
        return tokenize(tokenizer, texts)

    monkeypatch.setattr(evaluate, "tokenize", counted)
    config = lab.compared(rl=lab.good, supervised=poor, run="tokens")
    shorter = lab.biased("shorter")
    card = json.loads((shorter / "policy.json").read_text())
    (shorter / "policy.json").write_text(json.dumps(card | {"maxTokens": 16}))
    lab.pod(config.model_copy(update={"champion": lab.artifact(shorter, name="shorter")}))
    assert lists == [300, 300], "once for both candidates, once for a champion that cuts texts elsewhere"


def test_a_policy_of_rl_without_finite_numbers_loses(lab: Lab) -> None:
    broken = lab.biased("broken", card=float("nan"))
    commit, folder = lab.pod(lab.compared(rl=broken, supervised=lab.good, run="broken"))
    choice = commit.result.choice
    assert choice is not None
    assert (choice.chosen, choice.why) == (
        "supervised",
        "its logits are not all finite; lower stages.rl.learningRate",
    )
    assert set(report_of(folder)["policies"]) == {"supervised"}
    assert commit.result.metrics["accuracy"] > 0.6


def test_a_champion_without_finite_numbers_is_left_out(lab: Lab, poor: Path) -> None:
    champion = lab.artifact(lab.biased("broken", card=float("nan")), name="broken-champion")
    config = lab.compared(rl=lab.good, supervised=poor, run="broken-champion-run")
    commit, folder = lab.pod(config.model_copy(update={"champion": champion}))
    assert report_of(folder)["champion"] is None
    assert report_of(folder)["champion_absent"] == "its logits are not all finite"
    assert "champion/accuracy" not in commit.result.metrics


def test_a_baseline_without_finite_numbers_is_an_error_that_names_it(lab: Lab) -> None:
    broken = lab.biased("broken", card=float("nan"))
    with pytest.raises(NotANumberError, match="logits of the supervised policy are not all finite"):
        lab.pod(lab.compared(rl=lab.good, supervised=broken, run="broken-baseline"))


def test_a_slice_of_a_class_that_does_not_exist_is_refused(lab: Lab, poor: Path) -> None:
    rules = {"slices": [{"label": "loans"}]}
    config = lab.compared(rl=lab.good, supervised=poor, run="typo", comparison=rules)
    with pytest.raises(BadLabelsError, match=r"comparison\.slices\[0\]\.label 'loans' is no class.*correct the slice"):
        lab.pod(config)
