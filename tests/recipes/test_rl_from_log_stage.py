"""The rl stage on a log: it learns from what others answered, resumes to the bit, and refuses what proves nothing."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from ratchet_api.stage import ExitCode, RlConfig
from ratchet_jobs.runtime.errors import (
    BadConfigError,
    BadDataError,
    BadLabelsError,
    DivergedError,
    NoSupportError,
    NotANumberError,
    Preempted,
)
from ratchet_jobs.runtime.history import read_history
from tests.recipes.test_supervised import accuracy
from tests.tiny_bert import THEMES, log_of, reviews
from tests.workbench import Killed, Logged, Workbench

LABELS = sorted(THEMES)
FEEDBACK: dict[str, Any] = {"datasetRef": {"name": "log"}, "rewards": [{"type": "feedback"}]}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    """A policy that few labels taught little: its accuracy is 0.42, chance is 1/3."""
    made = Workbench(tmp_path_factory.mktemp("rl-log"), train=reviews(48, seed=5))
    made.pod(made.supervised(epochs=5.0))
    return made


def from_log(bench: Workbench, rows: list[Logged], *, held_out: list[Logged] = (), **hyper: Any) -> RlConfig:  # type: ignore[assignment]  # an empty tuple will do
    """Settings of the rl stage that learns from these rows."""
    estimator = {"estimator": hyper.pop("estimator")} if "estimator" in hyper else {}
    settings = FEEDBACK | {"rewards": [{"type": "feedback", **estimator}]} | hyper
    artifact = settings.pop("artifact", None)
    log = bench.put_log(rows, held_out=held_out)
    return bench.rl(artifact=artifact, **settings).model_copy(update={"log": log})


def curve(folder: Path) -> dict[str, list[float]]:
    return read_history(folder / "rl-history.parquet")


# --- it learns ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "hyper",
    [
        pytest.param({}, id="ppo, doubly robust"),
        pytest.param({"estimator": "direct"}, id="ppo, direct"),
        pytest.param({"estimator": "direct", "verdictCoef": 0}, id="ppo, direct, by its own loss alone"),
        pytest.param({"algorithm": "a2c", "headLearningRate": 6e-2}, id="a2c, doubly robust"),
        pytest.param({"algorithm": "dqn", "estimator": "direct"}, id="dqn, direct"),
    ],
)
def test_a_log_of_another_policys_answers_teaches_what_a_text_is_about(
    shared: Workbench, hyper: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    # by propensity alone, without a model, 900 answers are too few to tell: tests/unit has the study of that
    before = accuracy(shared, shared.root / "pod-1" / "output")
    settings = {"interactions": 1800, "rolloutSize": 60, "headLearningRate": 2e-2, "valueLearningRate": 1e-2} | hyper
    config = from_log(shared, log_of(700, seed=1), held_out=log_of(200, seed=2), **settings)
    commit, folder = shared.pod(config, run=f"log-{request.node.callspec.id}")
    after, told = accuracy(shared, folder), commit.result.metrics
    assert after > before + 0.15
    assert told["policy_value"] > told["start_value"] + 0.04
    # the estimate from the log alone is near what labels say of the policy's draws, which are no better than its best
    assert told["policy_value"] < after + 4 * told["policy_value_se"]
    assert told["logged_value"] == pytest.approx(sum(row[2] for row in log_of(200, seed=2)) / 200)
    assert 50 < told["effective_sample_size"] < 700
    shown = curve(folder)
    assert len(shown["effective_sample_size"]) == len(shown["reward/feedback"]) == told["rollouts"]
    assert "accuracy" not in shown, "a log does not say what was right"


@pytest.mark.parametrize(
    "hyper",
    [
        pytest.param({}, id="doubly robust"),
        pytest.param({"estimator": "direct", "learningRate": 1e-3, "bufferCapacity": 60}, id="direct, adapters too"),
        pytest.param({"estimator": "ips", "algorithm": "a2c", "klCoef": 0.1}, id="ips with a reference"),
    ],
)
def test_a_stage_interrupted_at_random_rollouts_ends_with_the_same_bytes(
    shared: Workbench, hyper: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    """P12: killed and asked to leave at random rollouts, curves and policy are bit-equal."""
    config = from_log(
        shared, log_of(100, seed=3), minEffectiveSamples=10, interactions=24 * 8 - 5, checkpointEverySteps=3, **hyper
    )
    name = request.node.callspec.id
    want, folder = shared.pod(config, run=f"calm-{name}")
    first, second = sorted(random.Random(name).sample(range(4, 8), 2))
    with pytest.raises(Killed):
        shared.pod(config, run=f"stormy-{name}", die_after=first)
    with pytest.raises(Preempted):
        shared.pod(config, run=f"stormy-{name}", leave_after=second)
    got, stormy = shared.pod(config, run=f"stormy-{name}")
    assert curve(stormy) == curve(folder)
    assert got.digest == want.digest


def test_a_pod_asked_to_leave_while_the_log_is_encoded_leaves_at_once(shared: Workbench) -> None:
    """P12."""
    with pytest.raises(Preempted, match=r"after 64 of 200 queries were encoded"):
        shared.pod(from_log(shared, log_of(200, seed=3)), run="encoding-log", leave_after=0)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"estimator": "ips"}, id="estimator"),
        pytest.param({"rewards": [{"type": "feedback", "maxWeight": 1.5}]}, id="maxWeight"),
        pytest.param({"rewards": [{"type": "feedback"}, {"type": "latency", "targetMs": 1e-6}]}, id="another reward"),
    ],
)
def test_every_setting_of_logged_feedback_changes_what_is_learned(shared: Workbench, change: dict[str, Any]) -> None:
    rows = log_of(200, seed=3)
    first, second = (
        shared.pod(from_log(shared, rows, **c), run=f"acts-{sorted(change)}-{n}{change}"[:60])[0].digest
        for n, c in enumerate(({}, change))
    )
    assert first != second


# --- what it refuses --------------------------------------------------------------------------------------------------


def altered(at: int, **values: Any) -> list[Logged]:
    """A log of 200 rows in which one row has other values."""
    names = ("text", "label", "score", "propensity", "policy")
    rows = log_of(200, seed=3)
    rows[at] = tuple((dict(zip(names, rows[at], strict=True)) | values).values())  # type: ignore[assignment]  # in the order of the names
    return rows


PLAIN = log_of(200, seed=3)
WITH_CORRECT = [{"type": "feedback"}, {"type": "expression", "expression": "correct"}]
REFUSED: dict[str, tuple[list[Logged], dict[str, Any], type[Exception], str]] = {
    "propensity 0": (altered(6, propensity=0.0), {}, BadDataError, "log, train row 7: propensity 0 is not above 0"),
    "propensity NaN": (altered(6, propensity=float("nan")), {}, BadDataError, "train row 7: propensity nan is not"),
    "score NaN": (altered(2, score=float("nan")), {}, BadDataError, "train row 3: score nan is not 0 to 1"),
    "five stars": (altered(2, score=5.0), {}, BadDataError, "train row 3: score 5 is not 0 to 1"),
    "another policy's answer": (
        altered(9, policy="billing@2"),
        {},
        BadDataError,
        "train row 10: the answer is that of policy 'billing@2', but the run learns for 'router'",
    ),
    "an answer that is no class": (
        altered(9, label="insurance"),
        {},
        BadLabelsError,
        "answers 'insurance', none of the policy's 3 classes",
    ),
    "nobody explored": (
        [(text, label, score, 1.0, policy) for text, label, score, _, policy in PLAIN],
        {},
        NoSupportError,
        "each of its 200 answers has propensity 1",
    ),
    "too little overlap": (
        log_of(100, seed=3, favour=0.9),
        {},
        NoSupportError,
        r"the log's 100 answers are worth [\d.]+ of the start policy's own, at least 50",
    ),
    "a batch larger than the log": (
        PLAIN,
        {"rolloutSize": 201},
        BadDataError,
        "rolloutSize: 201 is above the 200 queries of the log",
    ),
    "more passes than fresh traffic has": (
        PLAIN,
        {"traffic": "fresh", "interactions": 201},
        BadDataError,
        "interactions: 201 is above the 200",
    ),
    "every verdict the same": (
        [(text, label, 1.0, chance, policy) for text, label, _, chance, policy in PLAIN],
        {"estimator": "direct"},
        DivergedError,
        "every choice of the last 3 rollouts got the same reward",
    ),
    "the cross-entropy of estimates": (PLAIN, {"verdictCoef": 1.0}, BadConfigError, r"are no verdicts in 0\.\.1"),
    "an expression that asks what is right": (
        PLAIN,
        {"rewards": WITH_CORRECT},
        BadDataError,
        "whether each choice was right",
    ),
}


@pytest.mark.parametrize(("rows", "hyper", "error", "want"), REFUSED.values(), ids=REFUSED.keys())
def test_a_log_that_cannot_teach_is_refused(
    shared: Workbench,
    rows: list[Logged],
    hyper: dict[str, Any],
    error: type[Exception],
    want: str,
    request: pytest.FixtureRequest,
) -> None:
    """P13."""
    config = from_log(shared, rows, **hyper).model_copy(update={"log_policy": "router"})
    with pytest.raises(error, match=want):
        shared.pod(config, run=f"refused-{request.node.callspec.id}")


def test_no_support_is_a_numeric_failure_so_that_the_supervised_policy_is_kept() -> None:
    assert 30 <= NoSupportError.code <= 39
    assert NoSupportError.code is ExitCode.NO_SUPPORT


def test_a_policy_that_ends_where_the_log_says_little_is_refused(shared: Workbench) -> None:
    # the start policy's answers are worth about 150 of the 200; one that is certain of itself about 60
    config = from_log(
        shared, log_of(200, seed=3), interactions=960, headLearningRate=0.3, estimator="direct",
        minEffectiveSamples=110, minEntropyRatio=0, maxKl=1000,
    )  # fmt: skip
    with pytest.raises(NoSupportError, match="the policy learned went where the log says little: its 200 answers"):
        shared.pod(config, run="went-away")


def test_a_dataset_of_labels_is_no_log(shared: Workbench) -> None:
    config = shared.rl(**FEEDBACK).model_copy(update={"log": shared.dataset})
    with pytest.raises(BadDataError, match="the snapshot has type 'classification', 'ratings' is needed"):
        shared.pod(config, run="labels")


def test_a_head_that_is_no_number_is_a_numeric_failure_and_not_a_policy(shared: Workbench) -> None:
    """P13."""
    _, folder = shared.pod(from_log(shared, log_of(200, seed=3)), run="nan-base")
    head = load_file(folder / "head.safetensors")
    head["weight"][0, 0] = float("nan")
    save_file(head, folder / "head.safetensors")
    config = from_log(shared, log_of(200, seed=3), artifact=shared.commit_folder(folder, run="nan"))
    with pytest.raises(NotANumberError, match="rollout 1: the policy's logits or values are not all finite"):
        shared.pod(config, run="nan-rl")


def test_a_class_that_the_log_never_has_is_counted(shared: Workbench) -> None:
    rows = [row for row in log_of(300, seed=3) if row[1] != LABELS[2]]
    commit, _ = shared.pod(from_log(shared, rows), run="never-logged")
    assert commit.result.metrics["classes_never_answered"] == 1


def test_a_text_on_which_the_policy_will_be_judged_teaches_nothing(shared: Workbench) -> None:
    """As everywhere, what is held out is never learned from, however it is spelt."""
    rows = log_of(200, seed=3)
    judged = [(row[0].upper() + "  ", LABELS[0]) for row in rows[:30]]
    reserved = shared.put_snapshot(train=reviews(48, seed=5), validation=judged[:10], test=judged[10:], labels=LABELS)
    config = from_log(shared, rows).model_copy(update={"dataset": reserved})
    commit, folder = shared.pod(config, run="reserved")
    without, same = shared.pod(from_log(shared, rows[30:]), run="without")
    assert commit.result.metrics["rows_left_out"] == 30
    assert without.result.metrics["rows_left_out"] == 0
    assert (folder / "head.safetensors").read_bytes() == (same / "head.safetensors").read_bytes()
