"""The rl stage: it learns from right and wrong, it resumes to the bit, and it refuses what cannot teach."""

from __future__ import annotations

import json
import os
import random
import urllib.request
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from prometheus_client.parser import text_string_to_metric_families
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from ratchet_api.attempts import Artifact
from ratchet_api.rl import RlSettings, RlStage
from ratchet_api.stage import ExitCode, Owner, Stage, StageInput, StoreConfig
from ratchet_jobs.models.classifier import load_classifier, read_card, write_card
from ratchet_jobs.models.verdicts import Verdicts
from ratchet_jobs.runtime.errors import (
    BadConfigError,
    BadDataError,
    BadLabelsError,
    BadModelError,
    DivergedError,
    NotANumberError,
    Preempted,
    StageError,
)
from ratchet_jobs.runtime.history import read_history
from ratchet_jobs.runtime.main import run_stage
from ratchet_jobs.runtime.progress import ProgressServer
from tests.recipes.test_supervised import accuracy
from tests.tiny_bert import THEMES, reviews
from tests.tools.files import ROOT
from tests.workbench import NAMESPACE, Killed, Workbench

LABELS = sorted(THEMES)
EXPLORE = {"headLearningRate": 5e-3, "learningRate": 5e-3}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    """A policy that few labels taught little (accuracy 0.42; chance is 1/3), and 600 queries it has not seen."""
    made = Workbench(tmp_path_factory.mktemp("rl"), train=reviews(48, seed=5))
    made.pod(made.supervised(epochs=5.0))
    made.dataset = made.put_snapshot(train=reviews(600, seed=0), validation=(), test=(), labels=LABELS)
    return made


def curve(folder: Path) -> dict[str, list[float]]:
    return read_history(folder / "rl-history.parquet")


def with_traffic(bench: Workbench, config: Any, rows: list[tuple[str, str]], **more: Any) -> Any:
    traffic = bench.put_snapshot(train=rows, validation=(), test=(), labels=more.get("labels", ()))
    return config.model_copy(update={"traffic": traffic})


# --- it learns ------------------------------------------------------------------------------------------------------


def test_right_and_wrong_alone_teach_what_a_text_is_about(shared: Workbench) -> None:
    # Labels are used to say right or wrong of the class that was drawn, nothing else. Seen: 0.91, from 0.42; with the
    # sign of the loss turned around the accuracy falls below chance.
    before = accuracy(shared, shared.root / "pod-1" / "output")
    commit, folder = shared.pod(shared.rl(interactions=600, **EXPLORE), run="learns")
    assert before < 0.6
    assert accuracy(shared, folder) > 0.8
    told = curve(folder)["avg_return"]
    assert sum(told[-5:]) > sum(told[:5]) + 1.5
    assert commit.result.metrics["avg_return"] == pytest.approx(sum(told[-5:]) / 5)
    assert commit.result.metrics["best_return"] == max(told)
    assert commit.result.metrics["classes_never_answered"] == 0


@pytest.mark.parametrize(
    ("algorithm", "hyper"),
    [
        pytest.param("ppo", {"verdictCoef": 0, "headLearningRate": 2e-2}, id="ppo by its own loss alone"),
        pytest.param("a2c", {"headLearningRate": 5e-2}, id="a2c"),
        pytest.param("reinforce", {"headLearningRate": 5e-2}, id="reinforce"),
        pytest.param("dqn", {"headLearningRate": 1e-2}, id="dqn"),
    ],
)
def test_every_algorithm_learns_with_the_head_alone(shared: Workbench, algorithm: str, hyper: dict[str, Any]) -> None:
    """Rising returns over 1,800 answers on an encoder that stays as it is."""
    config = shared.rl(interactions=1800, algorithm=algorithm, valueLearningRate=1e-2, **hyper)
    _, folder = shared.pod(config, run=f"learns-{algorithm}")
    told = curve(folder)["accuracy"]
    assert sum(told[-15:]) / 15 > sum(told[:15]) / 15 + 0.1
    want = load_file(shared.root / "pod-1" / "output" / "adapter_model.safetensors")
    got = load_file(folder / "adapter_model.safetensors")
    assert all(torch.equal(want[name], got[name]) for name in want)


def test_a_start_policy_whose_base_has_moved_learns_where_the_run_finds_it(shared: Workbench) -> None:
    here = shared.base.parent
    (here / "tiny").rename(here / "moved")
    try:
        moved = shared.base_ref.model_copy(update={"uri": "store://models/moved"})
        config = shared.rl(interactions=24).model_copy(update={"base_model": moved})
        _, folder = shared.pod(config, run="moved")
        assert read_card(folder).base_model == moved
    finally:
        (here / "moved").rename(here / "tiny")


def test_output_is_a_policy_with_a_value_head_for_the_stages_after_it(shared: Workbench) -> None:
    commit, folder = shared.pod(shared.rl(), run="output")
    assert {file.path for file in commit.files} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "head.safetensors",
        "policy.json",
        "rl-history.parquet",
        "rl-settings.json",
        "tokenizer.json",
        "value_head.safetensors",
    }
    policy = load_classifier(folder, shared.base)
    assert policy.card.labels == tuple(LABELS)
    assert (policy.card.temperature, policy.card.abstain_threshold) == (1.0, None)
    names = {"step", "avg_return", "policy_loss", "value_loss", "entropy", "approx_kl", "clipfrac"}
    assert names | {"explained_variance", "reward/accuracy", "grad_norm"} <= set(curve(folder))
    assert curve(folder)["step"] == [1, 2, 3, 4]


def test_an_artifact_is_a_start_too_and_hands_on_its_value_head(shared: Workbench) -> None:
    first, folder = shared.pod(shared.rl(interactions=240), run="first")
    artifact = Artifact(uri=f"{shared.store.uri}/{first.directory}", digest=first.digest)
    second, again = shared.pod(
        shared.rl(artifact=artifact, headLearningRate=1e-9, valueLearningRate=1e-9), run="second"
    )
    for name in ("head.safetensors", "value_head.safetensors"):
        before, after = load_file(folder / name), load_file(again / name)
        for key, tensor in before.items():
            torch.testing.assert_close(after[key], tensor, atol=1e-5, rtol=0)
    assert second.digest != first.digest


def test_a_start_policys_temperature_goes_into_its_head(shared: Workbench) -> None:
    first, folder = shared.pod(shared.rl(), run="warm-base")
    write_card(folder, read_card(folder).model_copy(update={"temperature": 4.0}))
    # the same files, stored as another stage's commit
    config = shared.rl(headLearningRate=1e-9, valueLearningRate=1e-9, interactions=24, rolloutSize=24)
    warm = shared.commit_folder(folder, run="warm")
    _, out = shared.pod(config.model_copy(update={"start": None, "start_artifact": warm}), run="warm-rl")
    heads = [load_file(place / "head.safetensors")["weight"] for place in (folder, out)]
    torch.testing.assert_close(heads[1], heads[0] / 4.0, atol=1e-6, rtol=0)
    assert read_card(out).temperature == 1.0
    assert first.digest


# --- it resumes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "hyper",
    [
        pytest.param({}, id="ppo, heads alone"),
        pytest.param({"learningRate": 1e-3, "bufferCapacity": 60}, id="ppo, adapters and older answers too"),
        pytest.param({"algorithm": "a2c", "klCoef": 0.1}, id="a2c with a reference"),
        pytest.param({"algorithm": "reinforce", "episodes": "group"}, id="reinforce in turns"),
        pytest.param({"algorithm": "dqn"}, id="dqn with its replay"),
    ],
)
def test_a_stage_interrupted_at_random_rollouts_ends_with_the_same_bytes(
    shared: Workbench, hyper: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    """P12: killed and asked to leave at random rollouts, curves and policy are bit-equal."""
    config = shared.rl(interactions=24 * 12 - 5, checkpointEverySteps=3, **hyper)
    name = request.node.callspec.id
    want, folder = shared.pod(config, run=f"calm-{name}")
    first, second = sorted(random.Random(name).sample(range(4, 12), 2))
    seen: list[int] = []
    with pytest.raises(Killed):
        shared.pod(config, run=f"stormy-{name}", die_after=first)
    with pytest.raises(Preempted):
        shared.pod(config, run=f"stormy-{name}", leave_after=second, on_step=seen.append)
    assert seen[0] - 1 == first - 1 - (first - 1) % 3, (
        "a kill loses no more than the rollouts since the last checkpoint"
    )
    got, stormy = shared.pod(config, run=f"stormy-{name}")
    assert curve(stormy) == curve(folder)
    assert got.digest == want.digest


def test_equal_inputs_give_equal_bytes_and_another_seed_does_not(shared: Workbench) -> None:
    digests = [shared.pod(shared.rl(seed=seed), run=f"equal-{n}")[0].digest for n, seed in enumerate((0, 0, 1))]
    assert digests[0] == digests[1] != digests[2]


def test_a_pod_asked_to_leave_while_queries_are_encoded_leaves_at_once(shared: Workbench) -> None:
    with pytest.raises(Preempted, match=r"after 64 of 96 queries were encoded"):
        shared.pod(shared.rl(), run="encoding", leave_after=0)


# --- every field acts -----------------------------------------------------------------------------------------------

ACTS: dict[str, Any] = {
    "nodes": None,  # how many work, not what they learn: tests/recipes/test_several_nodes.py
    "datasetRef": None,  # of a log: tests/recipes/test_rl_from_log_stage.py
    "minEffectiveSamples": None,  # likewise
    "algorithm": {"algorithm": "a2c"},
    "interactions": {"interactions": 48},
    "rolloutSize": {"rolloutSize": 32},
    "minibatchSize": {"minibatchSize": 12},
    "updateEpochs": {"updateEpochs": 2},
    "learningRate": {"learningRate": 1e-3},
    "headLearningRate": {"headLearningRate": 1e-4},
    "valueLearningRate": {"valueLearningRate": 1e-1},
    "lrSchedule": {"lrSchedule": "constant"},
    "clipRange": {"clipRange": 0.001},
    "clipRangeValue": {"clipRangeValue": 0.001},
    "vfCoef": {"vfCoef": 0.1},
    "entropyCoef": {"entropyCoef": 0.5},
    "verdictCoef": {"verdictCoef": 0},
    "verdictNoise": {"verdictNoise": 0.2},
    "klCoef": {"klCoef": 0.5},
    "maxGradNorm": {"maxGradNorm": 0.01},
    "targetKl": {"targetKl": 1e-9},
    "normalizeAdvantages": {"normalizeAdvantages": False},
    "bufferCapacity": {"bufferCapacity": 48},
    "episodes": {"episodes": "group"},
    "traffic": None,  # refuses, see below
    "checkpointEverySteps": None,  # see the tests of resuming
    "maxKl": None,  # breaks, see below
    "minEntropyRatio": None,  # breaks, see below
    "rewards": {"rewards": [{"type": "f1"}]},
    "resources": None,  # the operator's
    "explorationEpsilon": ({"algorithm": "dqn"}, {"explorationEpsilon": {"start": 0.9, "end": 0.5}}),
    "targetUpdateInterval": ({"algorithm": "dqn", "episodes": "group"}, {"targetUpdateInterval": 1}),
    "gamma": ({"episodes": "group"}, {"gamma": 0.1}),
    "lam": ({"episodes": "group"}, {"lam": 0.1}),
}  # fmt: skip
GROUPED = [(f"{text} {turn}", label) for text, label in reviews(40, seed=3) for turn in ("my", "was", "bank")]


def test_the_table_names_every_field() -> None:
    assert set(ACTS) == {field.alias for field in RlStage.model_fields.values()}


@pytest.mark.parametrize("field", [name for name, change in ACTS.items() if change is not None])
def test_a_field_changes_what_is_learned(shared: Workbench, field: str) -> None:
    base, change = ACTS[field] if isinstance(ACTS[field], tuple) else ({}, ACTS[field])
    grouped = shared.put_snapshot(
        train=GROUPED, validation=(), test=(), labels=LABELS, components=[place // 3 for place in range(len(GROUPED))]
    )
    commits = []
    for hyper in (base, base | change):
        hyper = {"interactions": 72, "headLearningRate": 1e-2, "clipRange": 0.05} | hyper
        config = shared.rl(**hyper).model_copy(update={"traffic": grouped})
        commits.append(shared.pod(config, run=f"acts-{field}-{len(commits)}")[0])
    assert commits[0].digest != commits[1].digest


def test_the_curriculum_moves_the_weights_with_the_interactions(shared: Workbench) -> None:
    points = [{"atInteraction": 0, "weight": 1.0}, {"atInteraction": 48, "weight": 0.0}]
    rewards = [
        {"type": "expression", "expression": "1 + correct", "curriculum": points},
        {"type": "accuracy", "weight": 0.01},
    ]
    _, folder = shared.pod(shared.rl(rewards=rewards), run="curriculum")
    got = curve(folder)
    # rollouts begin at 0, 24, 48 and 72 interactions: the first component weighs 1, 1/2, 0, 0
    for place, weight in enumerate((1.0, 0.5, 0.0, 0.0)):
        right = got["accuracy"][place]
        assert got["avg_return"][place] == pytest.approx(weight * (1 + right) + 0.01 * right, abs=1e-5)
        assert got["reward/expression"][place] == pytest.approx(1 + right, abs=1e-5)
        assert got["reward/accuracy"][place] == pytest.approx(right, abs=1e-5)


def test_a_cost_matrix_names_classes_and_leaves_the_rest_at_right_or_wrong(shared: Workbench) -> None:
    costs = [{"label": label, "answer": "card", "reward": -2} for label in ("loan", "mortgage")]
    _, folder = shared.pod(shared.rl(rewards=[{"type": "costMatrix", "costs": costs}]), run="costs")
    got = curve(folder)
    assert min(got["avg_return"]) < min(got["accuracy"])
    assert curve(
        shared.pod(shared.rl(rewards=[{"type": "costMatrix", "costs": [costs[0] | {"reward": 0}]}]), run="c2")[1]
    )["avg_return"] == pytest.approx(curve(shared.pod(shared.rl(verdictCoef=0), run="c3")[1])["avg_return"])


def test_latency_is_measured_once_and_survives_an_interruption(shared: Workbench) -> None:
    """P12: what was measured is in the checkpoint, so a resumed stage rewards as the interrupted one would have."""
    slow = {"type": "latency", "targetMs": 1e-4}  # nothing is that fast: -1 for every answer
    _, folder = shared.pod(shared.rl(rewards=[{"type": "accuracy"}, slow | {"weight": 0.5}]), run="slow")
    assert curve(folder)["reward/latency"] == [-1.0] * 4
    told = {"type": "expression", "expression": "correct - latency_ms / 1000"}
    config = shared.rl(rewards=[told], checkpointEverySteps=1)
    with pytest.raises(Preempted):
        shared.pod(config, run="timed", leave_after=2)
    first = shared.checkpoint("timed")["latency"]
    with pytest.raises(Preempted):
        shared.pod(config, run="timed", leave_after=3)
    again = shared.checkpoint("timed")["latency"]
    assert bool((first > 0).all())
    assert torch.equal(first, again)


def test_every_number_of_the_history_is_on_the_pods_metrics_page_while_it_trains(shared: Workbench) -> None:
    """Scraped over HTTP in the middle of the stage: what Prometheus sees then is what the history says of that step."""
    seen: dict[str, float] = {}

    def scrape(step: int) -> None:
        if step == 3:
            board = shared.boards[-1]
            server = ProgressServer(board, board._metrics, host="127.0.0.1", port=0)
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with opener.open(f"http://127.0.0.1:{server.port}/metrics", timeout=60) as reply:
                families = list(text_string_to_metric_families(reply.read().decode()))
            server.close()
            for sample in (sample for family in families for sample in family.samples):
                assert {"namespace": NAMESPACE, "run": "live", "stage": "rl"}.items() <= sample.labels.items()
                part = f"/{sample.labels['component']}" if "component" in sample.labels else ""
                seen[sample.name.removeprefix("ratchet_stage_") + part] = sample.value

    rewards = [{"type": "accuracy"}, {"type": "f1", "weight": 0.1}]
    _, folder = shared.pod(shared.rl(rewards=rewards), run="live", on_step=scrape)
    history = curve(folder)
    assert {"best_return", "clipfrac", "explained_variance", "reward/accuracy", "reward/f1"} <= history.keys()
    at = history["step"].index(3)
    assert {name: seen[name] for name in history} == pytest.approx({name: each[at] for name, each in history.items()})
    reference = (ROOT / "docs/reference/metrics.md").read_text()
    assert [name for name in seen if f"`ratchet_stage_{name.partition('/')[0]}`" not in reference] == []


# --- bad input, each with a clear error -----------------------------------------------------------------------------


def test_a_rollout_larger_than_the_traffic_is_refused(shared: Workbench) -> None:
    with pytest.raises(BadDataError, match=r"stages\.rl\.rolloutSize: 601 is above the 600 queries of the train split"):
        shared.pod(shared.rl(rolloutSize=601, interactions=601), run="large")


def test_fresh_traffic_that_does_not_last_is_refused(shared: Workbench) -> None:
    with pytest.raises(BadDataError, match=r"interactions: 601 is above the 600 queries .* traffic\s+fresh"):
        shared.pod(shared.rl(traffic="fresh", interactions=601), run="fresh")


def test_a_learning_rate_of_ten_is_refused_before_anything_runs(shared: Workbench) -> None:
    with pytest.raises(ValidationError, match="less than or equal to 1"):
        shared.rl(learningRate=10)


def test_a_reward_that_never_varies_breaks_the_circuit_and_keeps_the_checkpoint(shared: Workbench) -> None:
    """P13: a numeric failure names what to change; the last good checkpoint stays."""
    config = shared.rl(interactions=240, checkpointEverySteps=1, rewards=[{"type": "expression", "expression": "0.5"}])
    with pytest.raises(DivergedError, match="every choice of the last 3 rollouts got the same reward") as stopped:
        shared.pod(config, run="constant")
    assert 30 <= stopped.value.code <= 39
    resumed: list[int] = []
    with pytest.raises(DivergedError):
        shared.pod(config, run="constant", on_step=resumed.append)
    assert resumed == [], "the checkpoint of rollout 2 is there, and rollout 3 breaks again"


def test_a_policy_that_is_always_right_does_not_break_the_circuit(tmp_path: Path) -> None:
    bench = Workbench(tmp_path, train=reviews(400, seed=0))
    _, folder = bench.pod(bench.supervised(epochs=6.0))
    head = {name: 30 * tensor for name, tensor in load_file(folder / "head.safetensors").items()}  # as good as certain
    save_file(head, folder / "head.safetensors")
    commit, _ = bench.pod(
        bench.rl(artifact=bench.commit_folder(folder, run="sure"), interactions=240, rolloutSize=8), run="right"
    )
    # 30 rollouts of 8 answers: three in a row without a mistake are certain at this accuracy
    assert commit.result.metrics["avg_return"] > 0.97


@pytest.mark.parametrize(
    ("hyper", "want"),
    [
        pytest.param({"maxKl": 1e-6, "headLearningRate": 0.1}, "approx_kl .* is above 1e-06", id="too far at once"),
        pytest.param({"minEntropyRatio": 0.99, "headLearningRate": 0.1}, "entropy .* is below", id="entropy collapsed"),
    ],
)
def test_a_limit_that_is_passed_breaks_the_circuit(shared: Workbench, hyper: dict[str, Any], want: str) -> None:
    with pytest.raises(DivergedError, match=want):
        shared.pod(shared.rl(interactions=480, **hyper), run=f"limit-{sorted(hyper)[-1]}")


def test_a_head_that_is_no_number_is_a_numeric_failure_and_not_a_policy(shared: Workbench) -> None:
    """P13."""
    _, folder = shared.pod(shared.rl(), run="nan-base")
    head = load_file(folder / "head.safetensors")
    head["weight"][0, 0] = float("nan")
    save_file(head, folder / "head.safetensors")
    config = shared.rl(artifact=shared.commit_folder(folder, run="nan"))
    with pytest.raises(NotANumberError, match="rollout 1: the policy's logits or values are not all finite") as stopped:
        shared.pod(config, run="nan-rl")
    assert stopped.value.code is ExitCode.NOT_A_NUMBER


def test_a_class_that_the_start_policy_does_not_know_is_refused(shared: Workbench) -> None:
    rows = [*reviews(60, seed=1), ("a card they said", "insurance")]
    with pytest.raises(BadLabelsError, match="class 'insurance' is none of the start policy's 3 classes"):
        shared.pod(with_traffic(shared, shared.rl(), rows), run="unknown")


def test_classes_are_matched_by_name_when_the_traffic_lists_them_otherwise(shared: Workbench) -> None:
    rows = [row for row in reviews(120, seed=1) if row[1] != "card"]
    config = with_traffic(shared, shared.rl(interactions=48), rows, labels=("mortgage", "loan"))
    same = with_traffic(shared, shared.rl(interactions=48), rows, labels=("loan", "mortgage"))
    first, second = (shared.pod(c, run=f"named-{n}")[1] for n, c in enumerate((config, same)))
    for name in ("head.safetensors", "value_head.safetensors", "policy.json", "rl-history.parquet"):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


def test_a_class_that_was_never_answered_is_counted(shared: Workbench) -> None:
    _, folder = shared.pod(shared.rl(), run="shy-base")
    head = load_file(folder / "head.safetensors")
    head["bias"][LABELS.index("loan")] = -100.0
    save_file(head, folder / "head.safetensors")
    config = shared.rl(artifact=shared.commit_folder(folder, run="shy"))
    commit, _ = shared.pod(config, run="shy-rl")
    assert commit.result.metrics["classes_never_answered"] == 1


def test_a_start_of_another_digest_is_refused(shared: Workbench) -> None:
    first, _ = shared.pod(shared.rl(), run="digest")
    artifact = Artifact(uri=f"{shared.store.uri}/{first.directory}", digest="f" * 64)
    with pytest.raises(BadModelError, match=r"spec\.startFrom: the digest is f{64}, but .* has"):
        shared.pod(shared.rl(artifact=artifact), run="digest-rl")


def test_a_start_outside_the_namespace_is_refused(shared: Workbench) -> None:
    artifact = Artifact(uri=f"{shared.store.uri}/other-team/runs/it", digest="f" * 64)
    with pytest.raises(BadConfigError, match=r"spec\.startFrom .*not in this namespace's part of the store"):
        shared.pod(shared.rl(artifact=artifact), run="foreign")


@pytest.mark.parametrize(
    ("hyper", "error", "want"),
    [
        pytest.param(
            {"algorithm": "dqn", "rewards": [{"type": "expression", "expression": "2 * correct"}]},
            BadConfigError,
            r"stages\.rl\.rewards: from 0 to 2, but dqn learns",
            id="dqn with rewards that are no probabilities",
        ),
        pytest.param(
            {"verdictCoef": 1, "rewards": [{"type": "accuracy", "scale": -1}]},
            BadConfigError,
            r"verdict_coef: rewards from -1 to 0 are no verdicts",
            id="verdicts below 0",
        ),
        pytest.param(
            {"verdictCoef": 1, "episodes": "group"},
            BadConfigError,
            r"verdict_coef: only for episodes of one step",
            id="verdicts on turns",
        ),
        pytest.param(
            {"rewards": [{"type": "expression", "expression": "1 / (correct - correct)"}]},
            BadDataError,
            r"expression",
            id="an expression that divides by zero",
        ),
        pytest.param(
            {"rewards": [{"type": "expression", "expression": "open('x')"}]},
            BadConfigError,
            r"expression",
            id="an expression that names a file",
        ),
        pytest.param(
            {"rewards": [{"type": "entryPoint", "entryPoint": "no_such_module:score"}]},
            BadConfigError,
            r"'no_such_module:score' is not in this image",
            id="own code that the image lacks",
        ),
        pytest.param(
            {"rewards": [{"type": "costMatrix", "costs": [{"label": "tea", "answer": "card", "reward": 0}]}]},
            BadConfigError,
            r"rewards\.costs: 'tea' is no class of the policy; there are: 'card', 'loan', 'mortgage'",
            id="a cost of no class",
        ),
    ],
)
def test_a_reward_that_cannot_be_is_refused(
    shared: Workbench, hyper: dict[str, Any], error: type[StageError], want: str, request: pytest.FixtureRequest
) -> None:
    grouped = shared.put_snapshot(train=GROUPED, validation=(), test=(), labels=LABELS, components=[0] * len(GROUPED))
    config = shared.rl(**hyper).model_copy(update={"traffic": grouped})
    with pytest.raises(error, match=want):
        shared.pod(config, run=f"refused-{request.node.callspec.id}")


# --- the temperature of the newest verdicts -------------------------------------------------------------------------


@pytest.mark.parametrize("noise", [0.0, 0.1], ids=["all verdicts true", "a tenth of them wrong"])
def test_verdicts_give_the_temperature_that_made_them(noise: float) -> None:
    """Answers drawn from softmax(logits), shown with logits 1.5 times as large: the temperature is 1.5."""
    generator = torch.Generator().manual_seed(0)
    logits = 2.0 * torch.randn((4000, 5), generator=generator)
    truth = torch.multinomial(logits.softmax(-1), 1, generator=generator).squeeze(1)
    shown = 1.5 * logits
    actions = torch.multinomial(shown.softmax(-1), 1, generator=generator).squeeze(1)
    right = (actions == truth).float()
    flipped = torch.rand(4000, generator=generator) < noise
    right = torch.where(flipped, 1 - right, right)
    assert Verdicts(shown, actions, right).temperature() == pytest.approx(1.5, rel=0.12)


@pytest.mark.parametrize(
    ("algorithm", "factor", "least", "most"),
    [
        pytest.param("ppo", 3.0, 1.5, 3.1, id="too sure: cooled down"),
        pytest.param("dqn", 3.0, 1.5, 3.1, id="whose answers are probabilities: likewise"),
        pytest.param("ppo", 0.2, 0.99, 1.01, id="too unsure: left as it is"),
    ],
)
def test_the_newest_verdicts_cool_a_head_that_is_too_sure(
    shared: Workbench, algorithm: str, factor: float, least: float, most: float
) -> None:
    _, folder = shared.pod(shared.rl(interactions=24, headLearningRate=1e-9), run=f"heat-{algorithm}-{factor}")
    head = {name: factor * tensor for name, tensor in load_file(folder / "head.safetensors").items()}
    save_file(head, folder / "head.safetensors")
    artifact = shared.commit_folder(folder, run=f"heated-{algorithm}-{factor}")
    still = {"headLearningRate": 1e-9, "valueLearningRate": 1e-9, "interactions": 600, "algorithm": algorithm}
    _, out = shared.pod(shared.rl(artifact=artifact, **still), run=f"calm-{algorithm}-{factor}")
    ratio = head["weight"] / load_file(out / "head.safetensors")["weight"]
    assert ratio.std() < 1e-2
    assert least < float(ratio.mean()) < most


def test_few_verdicts_give_no_temperature() -> None:
    device = torch.device("cpu")
    few = Verdicts(torch.randn((199, 3)), torch.zeros(199, dtype=torch.long), torch.zeros(199))
    assert few.temperature() == Verdicts.none(classes=3, device=device).temperature() == 1.0


def test_settings_of_a_notebook_are_those_of_the_stage_less_the_stages_own() -> None:
    own = set(RlStage.model_fields) - set(RlSettings.model_fields)
    from_a_log = {"dataset_ref", "min_effective_samples"}
    a_pods = {"checkpoint_every_steps", "nodes", "resources"}
    assert own == {"episodes", "gamma", "lam", "traffic"} | a_pods | from_a_log


# --- through the pod's entry point ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hyper", "code", "state", "message"),
    [
        pytest.param({}, ExitCode.OK, "Committed", "", id="it learns"),
        pytest.param(
            {"rewards": [{"type": "expression", "expression": "1"}]},
            ExitCode.DIVERGED,
            "Failed",
            "got the same reward",
            id="a constant reward",
        ),
        pytest.param({"rolloutSize": 700}, ExitCode.BAD_DATA, "Failed", "above the 600 queries", id="too little data"),
    ],
)
def test_the_pod_ends_as_the_stage_contract_says(
    shared: Workbench, tmp_path: Path, hyper: dict[str, Any], code: ExitCode, state: str, message: str
) -> None:
    """P13: the exit code tells the operator whether RL failed by its numbers."""
    job = StageInput(
        owner=Owner(kind="RLTrainingRun", namespace=NAMESPACE, name="it", uid="u" * 8),
        attempt=1,
        prefix=shared.prefix(tmp_path.name, Stage.RL),
        store=StoreConfig(uri=shared.store.uri),
        config=shared.rl(**hyper),
    )
    file, said = tmp_path / "stage.json", tmp_path / "termination"
    file.write_text(job.model_dump_json(by_alias=True, exclude_none=True))
    env = {
        "RATCHET_STAGE_FILE": str(file),
        "RATCHET_TERMINATION_PATH": str(said),
        "RATCHET_SCRATCH": str(tmp_path),
        "RATCHET_POD_UID": "00000001-pod",
        "RATCHET_PROGRESS_HOST": "127.0.0.1",
        "RATCHET_PROGRESS_PORT": "0",
    }
    with mock.patch.dict(os.environ, OMP_NUM_THREADS="1"):
        assert run_stage(env) == code
    told = json.loads(said.read_bytes())
    assert told["state"] == state
    assert message in told.get("message", "")
    assert (code is ExitCode.OK) == ("avg_return" in told["result"]["metrics"])
