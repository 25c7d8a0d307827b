"""Reward components on four choices worked out by hand, their sum, curricula, and what is refused.

The batch: three classes, the policy's probabilities, the class it chose, and the true one.
    row 0: (0.7, 0.2, 0.1) chose 0, true 0: right, confidence 0.7
    row 1: (0.5, 0.4, 0.1) chose 1, true 0: wrong, confidence 0.4
    row 2: (0.1, 0.1, 0.8) chose 2, true 2: right, confidence 0.8
    row 3: (0.0, 1.0, 0.0) chose 1, true 2: wrong, confidence 1.0
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import ModuleType

import pytest
import torch
from torch import Tensor

from ratchet_jobs.rewards import REWARDS, make_reward, settings_of
from ratchet_jobs.rewards.batch import Logged, RewardBatch
from ratchet_jobs.rewards.compose import Term, WeightedSum
from ratchet_jobs.rewards.curriculum import Curriculum
from ratchet_jobs.rewards.user_code import UserFunctionReward
from ratchet_jobs.runtime.errors import BadConfigError, BadDataError, BadLabelsError, NotANumberError, StageError

PROBS = torch.tensor([[0.7, 0.2, 0.1], [0.5, 0.4, 0.1], [0.1, 0.1, 0.8], [0.0, 1.0, 0.0]])
ACTIONS, LABELS = torch.tensor([0, 1, 2, 1]), torch.tensor([0, 0, 2, 2])
BATCH = RewardBatch.with_labels(ACTIONS, PROBS, LABELS, step=50, latency_ms=torch.tensor([5.0, 10.0, 15.0, 90.0]))
# true class by row, chosen class by column
COSTS = ((0.0, 1.0, 2.0), (3.0, 0.0, 1.0), (4.0, 5.0, 0.0))

COMPONENTS = [
    pytest.param("accuracy", {}, (1.0, 0.0, 1.0, 0.0), id="accuracy: right or wrong"),
    pytest.param("f1", {}, (0.7, 0.0, 0.8, 0.0), id="f1: correct times confidence"),
    # 1 - |0.7 - 1|, 1 - |0.4 - 0|, 1 - |0.8 - 1|, 1 - |1 - 0|
    pytest.param("calibration", {}, (0.7, 0.6, 0.8, 0.0), id="calibration: as sure as right"),
    pytest.param("custom", {"confidence_penalty": 0.5}, (1.0, -0.2, 1.0, -0.5), id="custom: confident mistakes cost"),
    pytest.param("cost_matrix", {"costs": COSTS}, (0.0, -1.0, 0.0, -5.0), id="cost matrix: [true][chosen]"),
    # target 10 ms: 5 and 10 are within, 15 is half a target over, 90 is cut
    pytest.param("latency", {"target_ms": 10.0}, (0.0, 0.0, -0.5, -1.0), id="latency: linear above the target"),
    pytest.param(
        "expression",
        {"expression": "correct - 0.5 * (1 - correct) * confidence"},
        (1.0, -0.2, 1.0, -0.5),
        id="expression: the custom reward written out",
    ),
]


@pytest.mark.parametrize(("kind", "settings", "want"), COMPONENTS)
def test_component(kind: str, settings: dict[str, object], want: tuple[float, ...]) -> None:
    rewards = make_reward(kind, settings)(BATCH)
    assert rewards.dtype == torch.float32
    torch.testing.assert_close(rewards, torch.tensor(want), rtol=0, atol=1e-6)


def test_every_component_is_in_this_file() -> None:
    tested = {case.values[0] for case in COMPONENTS} | {"feedback", "entry_point"}
    assert tested == set(REWARDS)


def test_what_a_batch_knows_of_itself() -> None:
    torch.testing.assert_close(BATCH.confidences, torch.tensor([0.7, 0.4, 0.8, 1.0]))
    torch.testing.assert_close(BATCH.label_probs, torch.tensor([0.7, 0.5, 0.8, 0.0]))
    # row 3 is certain; row 2: -(0.2 ln 0.1 + 0.8 ln 0.8) = 0.4605170 + 0.1785148
    assert BATCH.entropies[3].item() == 0.0
    assert BATCH.entropies[2].item() == pytest.approx(0.6390318, abs=1e-6)


def test_a_verdict_stands_in_for_the_label() -> None:
    batch = RewardBatch(actions=ACTIONS, probs=PROBS, correct=torch.tensor([1.0, 0.0, 0.5, 0.0]))
    assert make_reward("accuracy", {})(batch).tolist() == [1.0, 0.0, 0.5, 0.0]
    with pytest.raises(BadDataError, match=r"reward cost_matrix: needs the true labels, which is not known here; use"):
        make_reward("cost_matrix", {"costs": COSTS})(batch)


UNKNOWING = RewardBatch(actions=ACTIONS, probs=PROBS)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("accuracy", {}),
        ("f1", {}),
        ("calibration", {}),
        ("custom", {}),
        ("latency", {"target_ms": 1.0}),
        ("feedback", {}),
        ("expression", {"expression": "correct"}),
    ],
)
def test_a_component_that_lacks_its_input_names_itself(kind: str, settings: dict[str, object]) -> None:
    with pytest.raises(BadDataError, match=rf"^reward {kind}: needs .*; use "):
        make_reward(kind, settings)(UNKNOWING)


# -- feedback ------------------------------------------------------------------------------------------------------

LOGGED = Logged(
    actions=torch.tensor([0, 0, 2, 1]),
    verdicts=torch.tensor([1.0, 1.0, 0.0, 1.0]),
    propensities=torch.tensor([0.5, 0.5, 0.5, 0.05]),
    estimates=torch.tensor([0.5, 0.5, 0.5, 0.5]),
)
FEEDBACK = [
    # matched rows 0, 2, 3: 1 / 0.5, 0 / 0.5, 1 / 0.05 = 20 cut to 10
    pytest.param({"estimator": "ips"}, (2.0, 0.0, 0.0, 10.0), id="ips"),
    pytest.param({"estimator": "ips", "max_weight": None}, (2.0, 0.0, 0.0, 20.0), id="ips, unclipped"),
    # 0.5 + 2 * 0.5, 0.5, 0.5 - 2 * 0.5, 0.5 + 10 * 0.5
    pytest.param({"estimator": "doubly_robust"}, (1.5, 0.5, -0.5, 5.5), id="doubly robust"),
]


@pytest.mark.parametrize(("settings", "want"), FEEDBACK)
def test_feedback_from_a_log(settings: dict[str, object], want: tuple[float, ...]) -> None:
    rewards = make_reward("feedback", settings)(replace(UNKNOWING, logged=LOGGED))
    torch.testing.assert_close(rewards, torch.tensor(want), rtol=0, atol=1e-5)


def test_direct_feedback_is_the_verdict_on_the_very_choice() -> None:
    own = LOGGED._replace(actions=ACTIONS)
    assert make_reward("feedback", {"estimator": "direct"})(replace(UNKNOWING, logged=own)).tolist() == [1, 1, 0, 1]


BAD_LOGS = [
    pytest.param(
        "direct", LOGGED, r"row 1 is about action 0, but the policy chose 1; .* ips", id="another policy's action"
    ),
    pytest.param(
        "ips", LOGGED._replace(propensities=torch.tensor([0.5, 0.0, 1, 1])), r"propensity: row 1 has 0", id="zero"
    ),
    pytest.param("ips", LOGGED._replace(verdicts=torch.tensor([0.5, 0.0, math.nan, 1])), r"verdict of row 2", id="NaN"),
    pytest.param("doubly_robust", LOGGED._replace(estimates=None), r"needs a reward model's estimates", id="no model"),
]


@pytest.mark.parametrize(("estimator", "logged", "want"), BAD_LOGS)
def test_a_log_that_cannot_be_used_is_refused(estimator: str, logged: Logged, want: str) -> None:
    with pytest.raises(BadDataError, match=rf"^reward feedback: .*{want}"):
        make_reward("feedback", {"estimator": estimator})(replace(UNKNOWING, logged=logged))


# -- user code -----------------------------------------------------------------------------------------------------


@pytest.fixture
def user_module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType("routing_rewards")
    monkeypatch.setitem(sys.modules, "routing_rewards", module)
    return module


def test_a_named_function_gets_predictions_labels_and_confidences(user_module: ModuleType) -> None:
    def score(predictions: Tensor, labels: Tensor, confidences: Tensor) -> list[float]:
        predictions += 1  # its own copy
        return [float(c) if p - 1 == y else -1.0 for p, y, c in zip(predictions, labels, confidences, strict=True)]

    user_module.score = score  # type: ignore[attr-defined]
    rewards = make_reward("entry_point", {"entry_point": "routing_rewards:score"})(BATCH)
    torch.testing.assert_close(rewards, torch.tensor([0.7, -1.0, 0.8, -1.0]))
    assert ACTIONS.tolist() == [0, 1, 2, 1]


def test_a_function_at_hand_serves_the_same() -> None:
    reward = UserFunctionReward(lambda predictions, labels, confidences: (predictions == labels).float().numpy())
    assert reward(BATCH).tolist() == [1.0, 0.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("name", "want"),
    [
        ("no_such_module:score", "is not in this image"),
        ("routing_rewards:absent", "is not in this image"),
        ("routing_rewards:number", "is a int; name a function"),
        ("routing_rewards", "give it as package.module:function"),
        ("os:system('x')", "give it as package.module:function"),
        ("../evil:score", "give it as package.module:function"),
    ],
)
def test_a_name_that_is_no_function_of_the_image_is_refused(user_module: ModuleType, name: str, want: str) -> None:
    user_module.number = 3  # type: ignore[attr-defined]
    with pytest.raises(BadConfigError, match=rf"^reward entry_point: .*{want}"):
        make_reward("entry_point", {"entry_point": name})


def explode(*_: Tensor) -> None:
    raise KeyError("threshold")


@pytest.mark.parametrize(
    ("function", "want"),
    [
        pytest.param(explode, r"raised KeyError: 'threshold'; mend the function", id="it raises"),
        pytest.param(lambda *_: 1.0, r"shape \(\) came back for 4 rows", id="one number for all"),
        pytest.param(lambda *_: [1.0, 2.0], r"shape \(2,\) came back for 4 rows", id="too few"),
        pytest.param(lambda *_: "good", r"raised ", id="no numbers"),
    ],
)
def test_what_user_code_does_wrong_is_said_to_be_its_own(function: Callable[..., object], want: str) -> None:
    with pytest.raises(BadConfigError, match=want):
        UserFunctionReward(function)(BATCH)


# -- sums and curricula --------------------------------------------------------------------------------------------


def component(kind: str, **settings: object) -> Callable[[RewardBatch], Tensor]:
    return make_reward(kind, settings)


def test_a_sum_scales_clips_weights_and_logs_each_part() -> None:
    total = WeightedSum(
        [
            Term("accuracy", component("accuracy"), weight=2.0),
            # calibration 0.7, 0.6, 0.8, 0.0 -> * 2 - 1 = 0.4, 0.2, 0.6, -1.0 -> at least 0.3: 0.4, 0.3, 0.6, 0.3
            Term("sure", component("calibration"), weight=0.5, scale=2.0, offset=-1.0, clip=(0.3, 0.9)),
        ]
    )
    scored = total.score(BATCH)
    torch.testing.assert_close(scored.total, torch.tensor([2.2, 0.15, 2.3, 0.15]), rtol=0, atol=1e-6)
    assert scored.parts["accuracy"] == pytest.approx((0.5, 0.5, 2.0))
    # mean 0.4; deviations 0, -0.1, 0.2, -0.1: variance 0.06 / 4
    assert scored.parts["sure"] == pytest.approx((0.4, 0.015**0.5, 0.5))
    metrics = scored.as_metrics()
    assert metrics["reward_mean"] == pytest.approx(1.2)
    assert metrics["reward/sure/weight"] == 0.5
    assert torch.equal(total(BATCH), scored.total)
    assert not scored.constant


def test_the_weight_follows_the_curriculum_at_the_batchs_step() -> None:
    rising = Curriculum(points=((0, 0.0), (100, 1.0)))
    total = WeightedSum([Term("accuracy", component("accuracy"), weight=rising)])
    assert total(BATCH).tolist() == [0.5, 0.0, 0.5, 0.0]  # step 50
    assert total(replace(BATCH, step=100)).tolist() == [1.0, 0.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("kind", "step", "want"),
    [
        ("linear", 0, 1.0),
        ("linear", 10, 1.0),
        ("linear", 15, 2.0),
        ("linear", 20, 3.0),
        ("linear", 25, 1.5),
        ("linear", 31, 0.0),
        ("step", 9, 1.0),
        ("step", 19, 1.0),
        ("step", 20, 3.0),
        ("step", 30, 0.0),
    ],
)
def test_a_curriculum_holds_or_interpolates(kind: str, step: int, want: float) -> None:
    assert Curriculum(points=((10, 1.0), (20, 3.0), (30, 0.0)), kind=kind).at(step) == want  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("points", "want"),
    [
        (((10, 1.0), (5, 0.0)), r"curriculum: step 5 comes after step 10; give the points in rising order"),
        (((5, 1.0), (5, 0.0)), r"curriculum: step 5 comes after step 5"),
        (((-1, 1.0),), r"curriculum: the first step is -1"),
        ((), r"curriculum: no points"),
        (((0, math.nan),), r"curriculum: the weight at step 0 is nan"),
    ],
)
def test_a_curriculum_out_of_order_is_refused(points: tuple[tuple[int, float], ...], want: str) -> None:
    with pytest.raises(BadConfigError, match=want):
        Curriculum(points=points)


def test_a_constant_reward_is_flagged_for_the_circuit_breaker() -> None:
    assert WeightedSum([Term("flat", component("expression", expression="1"))]).score(BATCH).constant


@dataclass
class Broken:
    value: float

    def __call__(self, batch: RewardBatch) -> Tensor:
        return torch.tensor([1.0, 1.0, self.value, 1.0])


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_reward_that_is_no_number_names_component_and_row(value: float) -> None:
    with pytest.raises(NotANumberError, match=r"reward odd: row 2 is (nan|inf)"):
        WeightedSum([Term("odd", Broken(value), clip=(0.0, 1.0))])(BATCH)


REFUSED: list[object] = [
    pytest.param(
        lambda: make_reward("bleu", {}), BadConfigError, r"'bleu' is not known; there are: accuracy", id="name"
    ),
    pytest.param(lambda: make_reward("f1", {"beta": 2}), BadConfigError, r"reward f1: no setting 'beta'", id="setting"),
    pytest.param(
        lambda: make_reward("latency", {}), BadConfigError, r"reward latency: .*target_ms", id="missing setting"
    ),
    pytest.param(lambda: component("latency", target_ms=0.0), BadConfigError, r"target_ms 0.0", id="latency target 0"),
    pytest.param(lambda: component("custom", confidence_penalty=-1.0), BadConfigError, r"penalty -1.0", id="penalty"),
    pytest.param(
        lambda: component("cost_matrix", costs=((0, 1),)), BadConfigError, r"1 rows of \[2\]", id="not square"
    ),
    pytest.param(lambda: component("cost_matrix", costs=((math.nan,),)), BadConfigError, r"NaN", id="a cost of NaN"),
    pytest.param(lambda: component("feedback", estimator="x"), BadConfigError, r"estimator 'x'", id="estimator"),
    pytest.param(lambda: component("feedback", max_weight=0.5), BadConfigError, r"max_weight 0.5", id="weight below 1"),
    pytest.param(lambda: WeightedSum([]), BadConfigError, r"rewards: none given", id="no component"),
    pytest.param(
        lambda: WeightedSum([Term("a", Broken(1.0)), Term("a", Broken(1.0))]), BadConfigError, r"called 'a'", id="twice"
    ),
    pytest.param(
        lambda: Term("a", Broken(1.0), clip=(1.0, 0.0)), BadConfigError, r"clip \[1.0, 0.0\]", id="clip order"
    ),
    pytest.param(lambda: Term("a", Broken(1.0), scale=math.inf), BadConfigError, r"not finite", id="infinite scale"),
    pytest.param(
        lambda: component("cost_matrix", costs=((0.0, 1.0), (1.0, 0.0)))(BATCH),
        BadLabelsError,
        r"2 rows for 3 classes",
        id="cost matrix of other labels",
    ),
]


@pytest.mark.parametrize(("call", "error", "want"), REFUSED)
def test_what_cannot_work_is_refused_by_name(call: Callable[[], object], error: type[StageError], want: str) -> None:
    with pytest.raises(error, match=want):
        call()


def test_settings_are_listed_in_order_and_hide_what_is_internal() -> None:
    assert settings_of("feedback") == ["estimator", "max_weight"]
    assert settings_of("entry_point") == ["entry_point"]


def test_a_batch_of_mismatched_lengths_is_refused() -> None:
    with pytest.raises(ValueError, match=r"reward batch: 4 rows of probs, but \{'correct': \(3,\)\}"):
        RewardBatch(actions=ACTIONS, probs=PROBS, correct=torch.ones(3))
