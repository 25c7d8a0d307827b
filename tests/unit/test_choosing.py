"""Which policy is committed, by pure functions: what is fitted where, what decides, and how it is worded."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ratchet_api.comparison import CHOICE_LIMIT
from ratchet_api.gates import judge_gate
from ratchet_api.training_run import Evaluation
from ratchet_jobs.metrics import classification as formulas
from ratchet_jobs.metrics.choosing import Judged, choose
from ratchet_jobs.metrics.measuring import Answers, Measured, in_order_of, measure

LABELS = ("a", "b", "c")
TRUTH = np.random.default_rng(0).integers(0, 3, 500)


def logits_of(classes: np.ndarray, *, sure: float = 2.0) -> np.ndarray:
    """Logits by which a policy answers these classes."""
    return np.eye(3)[classes] * sure


def right_in(share: float, *, seed: int = 1, truth: np.ndarray = TRUTH) -> np.ndarray:
    """Answers of which about this share is right."""
    return np.where(np.random.default_rng(seed).random(len(truth)) < share, truth, (truth + 1) % 3)


def measured(answers: np.ndarray, wanted: Evaluation) -> Measured:
    test = Answers(logits_of(answers), TRUTH)
    return measure(test, test, wanted, labels=LABELS)


def chosen(rl: np.ndarray, before: np.ndarray, champion: np.ndarray | None = None, **evaluation: Any) -> Judged:
    wanted = Evaluation.model_validate(evaluation)
    live = None if champion is None else measured(champion, wanted)
    policies = (measured(rl, wanted), measured(before, wanted), live)
    return choose(*policies, role="supervised", truth=TRUTH, wanted=wanted, labels=LABELS, seed=3)


def test_a_policy_that_is_better_beyond_chance_is_kept_and_the_numbers_say_why() -> None:
    got = chosen(right_in(0.9), right_in(0.7, seed=2))
    assert got.choice.chosen == "rl"
    assert got.choice.why.startswith(f"accuracy {got.metrics['rl/accuracy']:.4f} against ")
    assert got.metrics["diff/accuracy_low"] > 0


def test_a_difference_that_may_be_chance_is_not_enough_without_a_margin() -> None:
    rl, before = right_in(0.81, seed=4), right_in(0.8, seed=5)
    low = chosen(rl, before).metrics["diff/accuracy_low"]
    assert -0.1 < low < 0, "the point of this case"
    assert chosen(rl, before).choice.chosen == "supervised"
    assert chosen(rl, before, comparison={"margin": 0.1}).choice.chosen == "rl"


def test_macro_f1_decides_too() -> None:
    # c is rare: giving it up costs little accuracy and a third of macro-F1
    truth = np.array([0, 1] * 245 + [2] * 10)
    before = np.where(np.arange(500) % 10 == 0, (truth + 1) % 2, truth)  # every tenth is wrong
    rl = np.where(truth == 2, 0, truth)
    wanted = Evaluation.model_validate({"comparison": {"margin": 0.01}})
    one, two = (measure(Answers(logits_of(x), truth), Answers(logits_of(x), truth), wanted, labels=LABELS)
                for x in (rl, before))  # fmt: skip
    got = choose(one, two, None, role="supervised", truth=truth, wanted=wanted, labels=LABELS, seed=0)
    assert got.metrics["diff/accuracy_low"] > 0
    assert got.choice.chosen == "supervised"
    assert got.choice.why.startswith("macro_f1 ")


def test_a_gate_is_judged_as_the_operator_judges_it() -> None:
    gates = [{"metric": "accuracy", "minimum": 0.95}, {"metric": "macro_f1", "label": "b", "minimum": 0.1}]
    got = chosen(right_in(0.9), right_in(0.7, seed=2), gates=gates)
    assert got.choice.chosen == "supervised"
    wanted = Evaluation.model_validate({"gates": gates})
    numbers = measured(right_in(0.9), wanted).judged(wanted, LABELS)
    assert [judge_gate(gate, numbers).passed for gate in wanted.gates] == [False, True]
    assert got.choice.why == f"accuracy is {numbers['accuracy']:.4g}, must be >= 0.95"


def test_the_champion_is_held_against_what_is_committed_and_decides_nothing() -> None:
    champion = right_in(0.99, seed=6)
    better, worse = (
        chosen(right_in(0.9), right_in(0.7, seed=2), champion),
        chosen(right_in(0.3), right_in(0.7), champion),
    )
    assert (better.choice.chosen, worse.choice.chosen) == ("rl", "supervised")
    for got, side in ((better, "rl"), (worse, "baseline")):
        want = got.metrics[f"{side}/accuracy"] - got.metrics["champion/accuracy"]
        assert got.metrics["champion/diff"] == pytest.approx(want, abs=1e-6)


def test_a_slice_without_rows_never_passes_and_is_null_in_the_report() -> None:
    truth = np.where(TRUTH == 2, 0, TRUTH)
    wanted = Evaluation.model_validate({"comparison": {"slices": [{"label": "c", "margin": 1.0}]}})
    same = measure(Answers(logits_of(truth), truth), Answers(logits_of(truth), truth), wanted, labels=LABELS)
    got = choose(same, same, None, role="supervised", truth=truth, wanted=wanted, labels=LABELS, seed=0)
    assert got.choice.chosen == "supervised"
    assert got.choice.why == "accuracy on 'c' was not measured: the test split has no such row"
    assert got.report["rl_against_baseline"]["accuracy on c"]["low"] is None


def test_the_reason_of_a_choice_is_bounded_however_much_went_wrong() -> None:
    gates = [{"metric": "macro_f1", "label": "a", "minimum": 0.99 + n / 10_000} for n in range(32)]
    got = chosen(right_in(0.2), right_in(0.9), gates=gates)
    assert len(got.choice.why) == CHOICE_LIMIT
    assert got.choice.why.endswith("…")


# what is fitted where


def test_temperature_and_threshold_hang_on_validation_alone() -> None:
    wanted = Evaluation.model_validate({"abstainTargetAccuracy": 0.8})
    validation = Answers(logits_of(right_in(0.7)), TRUTH)
    tests = [Answers(logits_of(right_in(share)), TRUTH) for share in (0.2, 0.95)]
    first, second = (measure(validation, test, wanted, labels=LABELS) for test in tests)
    assert (first.temperature, first.threshold) == (second.temperature, second.threshold)
    assert first.temperature == pytest.approx(formulas.fit_temperature(*validation))
    assert first.metrics["accuracy"] < 0.3 < 0.9 < second.metrics["accuracy"]


def test_columns_of_another_order_are_put_into_the_wanted_one() -> None:
    logits = np.array([[1.0, 2.0, 3.0]])
    assert in_order_of(logits, given=("c", "a", "b"), wanted=LABELS).tolist() == [[2.0, 3.0, 1.0]]


def test_the_abstain_curve_matches_numbers_worked_out_by_hand() -> None:
    # four rows by falling confidence: right, right, wrong, right. All answered: 3/4. Above .6: 2/3. Above .8: 1.
    confidence = np.array([0.5, 0.9, 0.6, 0.8])
    right = np.array([True, True, False, True])
    curve = formulas.abstain_curve(confidence, right, points=4)
    assert curve == [(0.5, 1.0, 0.75), (0.6, 0.75, pytest.approx(2 / 3)), (0.8, 0.5, 1.0), (0.9, 0.25, 1.0)]


def test_rows_of_equal_confidence_are_one_point_of_the_curve() -> None:
    curve = formulas.abstain_curve(np.full(6, 0.7), np.array([True, False] * 3), points=3)
    assert curve == [(0.7, 1.0, 0.5)]
