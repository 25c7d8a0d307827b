"""A reward model learns what people liked, on the policy's trunk or with an encoder of its own, and says it on 0..1."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ratchet_api.training_run import Lora
from ratchet_jobs.rl.seeds import generator_for
from ratchet_jobs.rlhf.generate import Sampling, generate, pad_prompts
from ratchet_jobs.rlhf.reward_model import (
    Preferred,
    Ranked,
    Rated,
    RewardModel,
    RewardSettings,
    RewardTraining,
    Row,
    read_saved,
    row_losses,
    split_rows,
    train_reward_model,
)
from ratchet_jobs.rlhf.scorers import Answer, EncoderScorer, Scorer, TrunkScorer
from ratchet_jobs.rlhf.trunk import load_trunk
from ratchet_jobs.rlhf.wording import prompt_tokens
from ratchet_jobs.runtime.errors import BadConfigError, BadDataError, BadModelError
from tests.tiny_bert import write_tiny_bert
from tests.tiny_llama import FILLERS, write_tiny_llama

pytestmark = pytest.mark.usefixtures("one_thread")

GOOD, BAD = FILLERS[0::2], FILLERS[1::2]
QUICK = RewardSettings(num_epochs=6, batch_size=16, learning_rate=5e-3, head_learning_rate=2e-2)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("base") / "llama")


@pytest.fixture
def scorer(base: Path) -> TrunkScorer:
    return TrunkScorer(load_trunk(base, rank=4))


def answer(good: int, rng: random.Random) -> str:
    words = [*rng.choices(GOOD, k=good), *rng.choices(BAD, k=4 - good)]
    rng.shuffle(words)
    return " ".join(words)


def ratings(count: int, *, seed: int = 0) -> list[Row]:
    """Answers of four words, rated by how many of them are good ones."""
    rng = random.Random(seed)
    return [
        Rated(" ".join(rng.choices(FILLERS, k=3)), answer(good, rng), good / 4)
        for good in rng.choices(range(5), k=count)
    ]


def pairs(count: int, *, seed: int = 0) -> list[Row]:
    rng = random.Random(seed)
    return [Preferred(" ".join(rng.choices(FILLERS, k=3)), answer(3, rng), answer(1, rng)) for _ in range(count)]


ADAPTERS = Lora(rank=4, alpha=8, dropout=0.05)


def encoder(folder: Path, *, lora: Lora | None = ADAPTERS, max_tokens: int = 32, **more: Any) -> EncoderScorer:
    if not folder.exists():
        write_tiny_bert(folder)
    return EncoderScorer(folder, lora=lora, max_tokens=max_tokens, seed=0, device="cpu", **more)


@pytest.mark.parametrize("kind", ["trunk", "encoder", "whole encoder"])
def test_ratings_teach_a_score_that_ranks_and_means_what_people_meant(base: Path, tmp_path: Path, kind: str) -> None:
    scorer: Scorer = (
        TrunkScorer(load_trunk(base, rank=4))
        if kind == "trunk"
        else encoder(tmp_path / "bert", lora=ADAPTERS if kind == "encoder" else None)
    )
    model, metrics = train_reward_model(scorer, ratings(160), QUICK, seed=0)
    assert metrics.held_out >= 25
    assert metrics.pair_accuracy is not None
    assert metrics.pair_accuracy > 0.75
    assert metrics.ece is not None
    assert metrics.ece < 0.2
    rng = random.Random(9)
    good, bad = model.scores([Answer("the bank", answer(4, rng)), Answer("the bank", answer(0, rng))])
    assert 0.0 <= bad < 0.35 < 0.65 < good <= 1.0


def test_an_encoder_that_was_trained_as_a_whole_is_read_again_from_its_files(tmp_path: Path) -> None:
    scorer = encoder(tmp_path / "bert", lora=None, uri="store://models/bert")
    words = scorer.model.encoder.get_input_embeddings().weight.clone()
    model, _ = train_reward_model(scorer, ratings(60), QUICK, seed=0)
    now = scorer.model.encoder.get_input_embeddings().weight
    assert torch.equal(now, words), "words it never saw keep their places"
    model.save(tmp_path / "rm")
    saved = read_saved(tmp_path / "rm")
    assert saved == (scorer.digest, (None, 32, "store://models/bert"), ())
    asked = [row for row in ratings(20, seed=3) if isinstance(row, Rated)]
    answers = [Answer(row.prompt, row.response) for row in asked]
    again = RewardModel.load(tmp_path / "rm", encoder(tmp_path / "bert", lora=None))
    assert again.scores(answers).tolist() == model.scores(answers).tolist()
    assert len(set(again.scores(answers))) > 5
    with pytest.raises(BadModelError, match="its weights do not fit"):
        RewardModel.load(tmp_path / "rm", encoder(tmp_path / "bert"))


def test_a_window_beyond_the_encoders_positions_is_refused_by_its_own_field(tmp_path: Path) -> None:
    with pytest.raises(BadConfigError, match=r"^stages\.rewardModel\.baseModel\.maxTokens: 8192 is above the 64"):
        encoder(tmp_path / "bert", lora=None, max_tokens=8192)


def test_of_a_long_text_an_encoder_reads_the_answer(tmp_path: Path) -> None:
    scorer = encoder(tmp_path / "bert", lora=None, max_tokens=12)
    torch.nn.init.normal_(scorer.model.head.weight)
    prompt, said = " ".join(FILLERS[:1] * 40), (GOOD[1], BAD[1])
    good, bad = scorer.raw([Answer(prompt, said[0]), Answer(prompt, said[1])])
    same = scorer.raw([Answer(f"{FILLERS[2]} {prompt}", said[0])])[0]
    assert good != bad
    assert good == same, "the prompt's beginning is cut"


def test_an_encoders_batches_hold_every_row_once_and_those_of_like_length_together(tmp_path: Path) -> None:
    rows: list[Row] = [Rated("the bank", " ".join(FILLERS[:1] * (1 + n % 20)), n % 2) for n in range(100)]
    settings = replace(QUICK, batch_size=8, num_epochs=2, held_out_share=0.2)
    training = RewardTraining(encoder(tmp_path / "bert"), rows, settings, seed=0)
    lengths = training._lengths
    assert lengths is not None
    for epoch in range(2):
        batches = [list(batch) for batch in training._order(epoch)]
        assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
        assert max(np.ptp(lengths[batch]) for batch in batches) <= 4 < np.ptp(lengths)
    assert training._order(0) != training._order(1)


def test_an_encoder_tells_the_qualities_of_a_critic(tmp_path: Path) -> None:
    rng, rows = random.Random(0), []
    for _ in range(160):
        good = rng.randrange(5)
        rows.append(Rated("the bank", answer(good, rng), good / 4, (1 - good / 4,)))
    scorer = encoder(tmp_path / "bert", lora=None, qualities=("gloom",))
    model, metrics = train_reward_model(scorer, list[Row](rows), QUICK, seed=0)
    assert metrics.quality_errors["gloom"] < 0.1, "by chance it would be 0.125"
    (good, glad), (bad, glum) = model.parts([Answer("the bank", answer(4, rng)), Answer("the bank", answer(0, rng))])
    assert good > 0.6 > 0.4 > bad
    assert glad < 0.4 < 0.6 < glum


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=12))
def test_ranked_pairs_are_those_that_a_loop_over_all_pairs_counts(rows: list[tuple[int, int]]) -> None:
    raw, given_ = (np.array([row[side] for row in rows], dtype=np.float64) for side in (0, 1))
    right = [
        1.0 if (raw[i] - raw[j]) * (given_[i] - given_[j]) > 0 else 0.5 if raw[i] == raw[j] else 0.0
        for i in range(len(rows))
        for j in range(i)
        if given_[i] != given_[j]
    ]
    found = Ranked.of_scores(raw, given_)
    assert (found.right, found.pairs) == (sum(right), len(right))
    assert (found + Ranked.of_pairs(raw, given_)).pairs == len(right) + len(rows)


def test_pairs_teach_the_same_and_the_average_answer_is_one_half(scorer: TrunkScorer) -> None:
    model, metrics = train_reward_model(scorer, pairs(120), QUICK, seed=0)
    assert metrics.pair_accuracy is not None
    assert metrics.pair_accuracy > 0.85
    assert metrics.ece is None
    rng = random.Random(9)
    # a pair says nothing of how its prompt compares with others, so the middle is that of all prompts together
    asked = [" ".join(rng.choices(FILLERS, k=3)) for _ in range(40)]
    better, middle, worse = (
        model.scores([Answer(prompt, answer(good, rng)) for prompt in asked]).mean() for good in (3, 2, 1)
    )
    assert worse < middle - 0.15
    assert 0.3 < middle < 0.7
    assert better > middle + 0.15


def test_losses_are_cross_entropy_of_a_rating_and_bradley_terry_of_a_pair() -> None:
    class Fixed:
        def raw(self, answers: list[Answer]) -> torch.Tensor:
            return torch.tensor([float(each.response) for each in answers])

    # rating 0.75 at raw 1: softplus(1) - 0.75 = 0.563262; pair 2 against 1: softplus(-1) = 0.313262
    losses = row_losses(Fixed(), [Preferred("p", "2", "1"), Rated("p", "1", 0.75)])  # type: ignore[arg-type]
    assert losses.tolist() == pytest.approx([0.563262, 0.313262], abs=1e-6)


def test_stars_teach_by_their_order_and_still_mean_what_people_meant(base: Path) -> None:
    """Five stars whose distances nobody told: 0, 0.5, 0.6, 0.7 and 1."""
    stars = {0.0: 0.0, 0.25: 0.5, 0.5: 0.6, 0.75: 0.7, 1.0: 1.0}
    rows = [row._replace(score=stars[row.score]) for row in ratings(160) if isinstance(row, Rated)]
    scorer = TrunkScorer(load_trunk(base, rank=4))
    model, metrics = train_reward_model(scorer, rows, replace(QUICK, rating_loss="ordinal"), seed=0)
    assert metrics.pair_accuracy is not None
    assert metrics.pair_accuracy > 0.75
    assert metrics.ece is not None
    assert metrics.ece < 0.2
    rng = random.Random(9)
    good, bad = model.scores([Answer("the bank", answer(4, rng)), Answer("the bank", answer(0, rng))])
    assert bad < 0.35 < 0.65 < good


def test_training_leaves_policy_and_reference_as_they_were(scorer: TrunkScorer) -> None:
    trunk = scorer.trunk
    before = {name: p.detach().clone() for name, p in trunk.policy_parameters().items()}
    ids = torch.tensor([[7, 8, 9]])
    reference = trunk.reference(ids, torch.ones_like(ids, dtype=torch.bool), keep=3).logits
    train_reward_model(scorer, ratings(30), RewardSettings(num_epochs=1), seed=0)
    assert all(torch.equal(before[name], p) for name, p in trunk.policy_parameters().items())
    assert torch.equal(trunk.reference(ids, torch.ones_like(ids, dtype=torch.bool), keep=3).logits, reference)


def test_the_score_of_tokens_just_drawn_is_read_from_the_answer_alone(scorer: TrunkScorer) -> None:
    model, _ = train_reward_model(scorer, ratings(30), RewardSettings(num_epochs=1), seed=0)
    wording = scorer.trunk.wording
    texts = ["the bank", "my card was called"]
    rows = [prompt_tokens(wording, text, "dialogue") for text in texts]
    episodes = generate(
        scorer.trunk, pad_prompts(rows, pad_id=wording.pad_id), Sampling(max_new_tokens=5), generator=generator_for(0)
    )
    for row, score in enumerate(model.of_episodes(episodes).tolist()):
        # without padding, the answer's tokens counted from the prompt's length on
        answer_ids = episodes.response_ids[row][episodes.response_mask[row]].tolist()
        ids = torch.tensor([[*rows[row], *answer_ids]])
        places = torch.arange(ids.shape[1]).unsqueeze(0)
        raw = scorer.of_tokens(ids, torch.ones_like(ids, dtype=torch.bool), places >= len(rows[row])).item()
        want = model.scaling(np.array([raw]))[0]
        assert score == pytest.approx(want, abs=1e-6)


def test_a_saved_model_scores_the_same_and_fits_no_other_base(scorer: TrunkScorer, base: Path, tmp_path: Path) -> None:
    """P22, P39"""
    model, _ = train_reward_model(scorer, ratings(40), RewardSettings(num_epochs=1), seed=0)
    model.save(tmp_path / "rm")
    asked = [Answer("the bank", "my card"), Answer("the bank", "of")]
    again = RewardModel.load(tmp_path / "rm", TrunkScorer(load_trunk(base, rank=4)))
    assert again.scores(asked).tolist() == model.scores(asked).tolist()
    assert {path.suffix for path in (tmp_path / "rm").iterdir()} == {".json", ".safetensors"}
    other = write_tiny_llama(tmp_path / "other", seed=1)
    with pytest.raises(BadModelError, match="use the base model that it was trained on"):
        RewardModel.load(tmp_path / "rm", TrunkScorer(load_trunk(other, rank=4)))
    with pytest.raises(BadModelError, match="its weights do not fit, first at"):
        RewardModel.load(tmp_path / "rm", TrunkScorer(load_trunk(base, rank=8)))
    (tmp_path / "rm" / "reward_model.json").write_text("{}")
    with pytest.raises(BadModelError, match="cannot be read"):
        RewardModel.load(tmp_path / "rm", scorer)


def test_a_critic_learns_each_quality_by_itself_and_is_read_back_with_them(base: Path, tmp_path: Path) -> None:
    """P22, P39: one quality goes with the score, the other against it."""
    rows = [row._replace(qualities=(row.score, 1 - row.score)) for row in ratings(160) if isinstance(row, Rated)]
    names = ("fluency", "haste")
    critic = TrunkScorer(load_trunk(base, rank=4), qualities=names)
    model, metrics = train_reward_model(critic, rows, QUICK, seed=0)
    assert set(metrics.quality_errors) == set(names)
    assert max(metrics.quality_errors.values()) < 0.1, "by chance it would be 0.125, the variance of 0 to 4 good words"
    rng = random.Random(9)
    asked = [Answer("the bank", answer(4, rng)), Answer("the bank", answer(0, rng))]
    with torch.no_grad():
        good, bad = critic.every(asked).tolist()
    assert good[1] > bad[1]
    assert good[2] < bad[2]
    model.save(tmp_path / "rm")
    assert read_saved(tmp_path / "rm").qualities == names
    again = RewardModel.load(tmp_path / "rm", TrunkScorer(load_trunk(base, rank=4), qualities=names))
    assert (again.scores(asked).tolist(), again.qualities) == (model.scores(asked).tolist(), model.qualities)
    with pytest.raises(BadModelError, match="its weights do not fit, first at head"):
        RewardModel.load(tmp_path / "rm", TrunkScorer(load_trunk(base, rank=4)))


def test_no_prompt_is_on_both_sides_of_the_split() -> None:
    rows = [Rated(f"prompt {number % 10}", f"answer {number}", number / 40) for number in range(40)]
    train, held_out = split_rows(rows, share=0.2, seed=0)
    assert len(held_out) == 8
    assert {row.prompt for row in train}.isdisjoint({row.prompt for row in held_out})
    few = [Rated("the same", f"answer {number}", number / 40) for number in range(40)]
    assert [len(part) for part in split_rows(few, share=0.2, seed=0)] == [32, 8]


@pytest.mark.parametrize(
    ("rows", "want"),
    [
        pytest.param(ratings(5), r"Insufficient feedback: 5 samples \(minimum 10 required\)", id="five samples"),
        pytest.param([r._replace(score=0.5) for r in ratings(12)], "all 12 scores are 0.5", id="one-sided"),
        pytest.param([*ratings(12), Rated(" ", "a", 1.0)], "feedback 12: prompt is empty", id="empty prompt"),
        pytest.param(
            [*ratings(12), Rated("a", "a", 1.5)], r"feedback 12: score 1\.5; give a number from 0", id="score"
        ),
        pytest.param([*ratings(12), Rated("a", "a", float("nan"))], "feedback 12: score nan", id="NaN"),
        pytest.param([*pairs(12), Preferred("a", "b", "b")], "feedback 12: chosen and rejected are the same", id="tie"),
    ],
)
def test_rows_that_teach_nothing_are_refused(scorer: TrunkScorer, rows: list[Row], want: str) -> None:
    with pytest.raises(BadDataError, match=want):
        train_reward_model(scorer, rows, QUICK, seed=0)


def test_settings_out_of_range_are_refused_by_name() -> None:
    with pytest.raises(BadConfigError, match="num_epochs: 0"):
        RewardSettings(num_epochs=0)
    with pytest.raises(BadConfigError, match="rating_loss: 'rank'; give one of regression, ordinal"):
        RewardSettings(rating_loss="rank")  # type: ignore[arg-type]  # as a notebook could
    with pytest.raises(BadConfigError, match=r"held_out_share: 1\.0"):
        RewardSettings(held_out_share=1.0)


def test_a_training_left_and_gone_on_with_ends_with_the_same_bits(base: Path) -> None:
    """P12: with dropout and thresholds, from the tensors of a checkpoint alone."""
    settings = RewardSettings(rating_loss="ordinal", num_epochs=2, batch_size=8, learning_rate=5e-3)

    def training() -> RewardTraining:
        scorer = TrunkScorer(load_trunk(base, rank=4, reward_dropout=0.2))
        return RewardTraining(scorer, ratings(24), settings, seed=3)

    calm, stormy = training(), training()
    losses = [calm.step().loss for _ in range(calm.steps)]
    for _ in range(2):
        stormy.step()
    resumed = training()
    resumed.load_state(stormy.state())
    assert [resumed.step().loss for _ in range(resumed.steps - 2)] == losses[2:]
    want, got = calm.state(), resumed.state()
    assert want.keys() == got.keys()
    assert all(torch.equal(want[name], got[name]) for name in want)
    assert calm.finished()[0].scaling == resumed.finished()[0].scaling
