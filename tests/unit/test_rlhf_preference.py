"""Losses on judged answers by numbers worked out by hand, and which rows teach and which are asked about."""

from __future__ import annotations

import math

import pytest
import torch

from ratchet_api.preference import PreferenceStage
from ratchet_jobs.data.judged import Pair, Scored
from ratchet_jobs.generators.templates import Wording, load_wording
from ratchet_jobs.rlhf.preference import dpo_loss, kto_loss, reference_point
from ratchet_jobs.rlhf.preference_rows import Liked, Single, deal
from ratchet_jobs.rlhf.preference_training import told_apart
from ratchet_jobs.runtime.errors import BadDataError
from tests.tiny_llama import write_tiny_llama


def close(left: torch.Tensor, right: list[float]) -> bool:
    return torch.allclose(left, torch.tensor(right), rtol=0, atol=1e-6)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_dpo_wants_the_better_answer_to_gain_on_the_worse_one() -> None:
    # beta 0.5: gaps of 0, 4 and -4 become arguments 0, 2 and -2
    chosen, rejected = torch.tensor([1.0, 3.0, -2.0]), torch.tensor([1.0, -1.0, 2.0])
    want = [math.log(2), -math.log(sigmoid(2.0)), -math.log(sigmoid(-2.0))]
    assert close(dpo_loss(chosen, rejected, beta=0.5), want)


def test_ktos_reference_point_is_the_mean_and_never_below_zero() -> None:
    answers = torch.tensor([1.0, 2.0], requires_grad=True)
    assert float(reference_point(answers)) == 1.5
    assert not reference_point(answers).requires_grad
    assert float(reference_point(torch.tensor([-3.0, 1.0]))) == 0.0


def test_kto_wants_good_answers_above_the_reference_point_and_bad_ones_below() -> None:
    # beta 0.5, z0 = 1: gains of (3 - 1) / 2 = 1 and (-1 - 1) / 2 = -1
    ratios, good = torch.tensor([3.0, -1.0, 3.0, -1.0]), torch.tensor([True, True, False, False])
    losses = kto_loss(ratios, good, torch.tensor(1.0), beta=0.5, desirable_weight=2.0, undesirable_weight=3.0)
    right, wrong = 1 - sigmoid(1.0), 1 - sigmoid(-1.0)
    assert close(losses, [2 * right, 2 * wrong, 3 * wrong, 3 * right])


def test_equal_gains_are_half_told_apart() -> None:
    assert told_apart(torch.tensor([1.0, 0.0, -1.0, 2.0])) == pytest.approx(2.5 / 4)


@pytest.fixture(scope="module")
def wording(tmp_path_factory: pytest.TempPathFactory) -> Wording:
    return load_wording(write_tiny_llama(tmp_path_factory.mktemp("base") / "llama"), eos_id=3)


def settings(algorithm: str = "dpo", **changes: float) -> PreferenceStage:
    return PreferenceStage.model_validate({"datasetRef": {"name": "liked"}, "algorithm": algorithm} | changes)


PAIRS = [
    Pair(f"the {word} {other}", "never", "was")
    for word in ("bank", "card", "loan")
    for other in ("my", "of", "to", "it")
]
RATED = [Scored(pair.prompt, "never", (n % 3) / 2) for n, pair in enumerate(PAIRS * 3)]


def test_pairs_stay_pairs_for_dpo_and_are_a_good_and_a_bad_answer_for_kto(wording: Wording) -> None:
    pairs = deal(PAIRS, settings(), wording=wording, max_tokens=32, seed=0)
    single = deal(PAIRS, settings("kto"), wording=wording, max_tokens=32, seed=0)
    assert all(isinstance(row, Liked) for row in pairs.train)
    assert len(single.train) == 2 * len(pairs.train)
    assert sum(row.good for row in single.train if isinstance(row, Single)) == len(pairs.train)
    assert single.held_out == pairs.held_out
    assert len(pairs.train) + len(pairs.held_out) == len(PAIRS)


def test_no_prompt_is_learned_from_and_asked_about(wording: Wording) -> None:
    dealt = deal(PAIRS, settings(), wording=wording, max_tokens=32, seed=0)
    learned = {tuple(row.better.prompt) for row in dealt.train if isinstance(row, Liked)}
    assert not learned & {tuple(pair.better.prompt) for pair in dealt.held_out}


def test_ratings_in_the_middle_say_nothing_and_held_out_ones_are_paired(wording: Wording) -> None:
    dealt = deal(RATED, settings("kto", heldOutPercent=40), wording=wording, max_tokens=32, seed=0)
    assert dealt.skipped == sum(row.score == 0.5 for row in RATED) == 12
    assert dealt.held_out
    assert all(isinstance(row, Single) for row in dealt.train)


@pytest.mark.parametrize(
    ("rows", "algorithm", "tokens", "want"),
    [
        (PAIRS[:4], "dpo", 32, "preference.datasetRef, train split: Insufficient feedback: 4"),
        (RATED, "dpo", 32, "algorithm dpo learns from pairs, these are ratings; set algorithm: kto"),
        (PAIRS, "dpo", 3, "of all 12 rows prompt and answer have more tokens than the policy's maxTokens 3"),
        ([Scored(p.prompt, "never", 0.8 + n / 100) for n, p in enumerate(PAIRS)], "kto", 32, "all good or all bad"),
        ([*PAIRS, Pair("x", "a", "a")], "dpo", 32, "chosen and rejected are the same answer"),
        (
            [Scored(p.prompt, "never", float(p.prompt != "the bank my")) for p in PAIRS],
            "kto",
            32,
            "none is a pair|all good or all bad",
        ),
    ],
)
def test_rows_that_teach_nothing_are_refused(
    rows: list[Pair | Scored], algorithm: str, tokens: int, want: str, wording: Wording
) -> None:
    with pytest.raises(BadDataError, match=want):
        deal(rows, settings(algorithm), wording=wording, max_tokens=tokens, seed=0)
