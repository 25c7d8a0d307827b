"""The supervised stage: it learns, it resumes to the bit, and it refuses what it cannot train on."""

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ratchet_jobs.data.base_model import local_digest
from ratchet_jobs.metrics import classification as formulas
from ratchet_jobs.models.classifier import build_classifier, load_classifier
from ratchet_jobs.models.inference import predict_logits
from ratchet_jobs.models.tokenizing import load_tokenizer, tokenize
from ratchet_jobs.recipes import supervised
from ratchet_jobs.runtime.errors import (
    BadConfigError,
    BadDataError,
    BadLabelsError,
    BadModelError,
    NotANumberError,
    Preempted,
)
from ratchet_jobs.runtime.history import read_history
from tests.tiny_bert import THEMES, reviews, write_tiny_bert
from tests.workbench import Killed, Workbench

LABELS = sorted(THEMES)


@pytest.fixture
def bench(tmp_path: Path) -> Workbench:
    return Workbench(tmp_path, train=reviews(96, seed=0))


def losses(folder: Path) -> list[float]:
    return read_history(folder / "supervised-history.parquet")["loss"]


def accuracy(bench: Workbench, folder: Path, *, rows: int = 300) -> float:
    policy = load_classifier(folder, bench.base)
    held_out = reviews(rows, seed=99)
    tokens = tokenize(policy.tokenizer, [text for text, _ in held_out])
    logits = predict_logits(policy.classifier, tokens, batch_size=64, after_batch=lambda _: None)
    return sum(policy.card.labels[i] == label for i, (_, label) in zip(logits.argmax(1), held_out, strict=True)) / rows


def test_training_learns_what_a_text_is_about(tmp_path: Path) -> None:
    # Chance is 1/3. Over seeds 0-4 this reached 1.0 each time; 0.9 leaves room for other kernels.
    bench = Workbench(tmp_path, train=reviews(400, seed=0))
    commit, folder = bench.pod(bench.supervised(epochs=4.0, seed=1))
    assert accuracy(bench, folder) > 0.9
    curve = losses(folder)
    assert len(curve) == commit.result.metrics["steps"] == 4 * 50
    assert curve[0] == pytest.approx(1.1, abs=0.25)  # an untrained head knows nothing: about ln 3
    assert commit.result.metrics["loss"] == pytest.approx(sum(curve[-20:]) / 20, abs=1e-9)
    assert commit.result.metrics["loss"] < 0.3


def test_committed_folder_is_a_policy_that_names_its_base(bench: Workbench) -> None:
    commit, folder = bench.pod(bench.supervised(epochs=0.1))
    policy = load_classifier(folder, bench.base)
    assert policy.card.labels == tuple(LABELS)
    assert policy.card.base_model == bench.base_ref
    assert (policy.card.max_tokens, policy.card.temperature, policy.card.abstain_threshold) == (32, 1.0, None)
    assert {file.path for file in commit.files} >= {"adapter_model.safetensors", "head.safetensors", "policy.json"}


def test_equal_inputs_give_equal_bytes_and_another_seed_does_not(bench: Workbench) -> None:
    first, _ = bench.pod(bench.supervised(epochs=0.5), run="one")
    second, _ = bench.pod(bench.supervised(epochs=0.5), run="two")
    other, _ = bench.pod(bench.supervised(epochs=0.5, seed=1), run="three")
    assert first.digest == second.digest != other.digest


@pytest.mark.parametrize(("dropout", "last_blocks"), [(0.0, None), (0.3, None), (0.3, 1)])
def test_run_that_was_interrupted_at_random_steps_ends_with_the_same_bytes(
    tmp_path: Path, dropout: float, last_blocks: int | None
) -> None:
    """P12: killed and asked to leave at random steps, the loss curve and the policy are bit-equal."""
    bench = Workbench(tmp_path, train=reviews(75, seed=0))
    lora = {"dropout": dropout, "lastBlocks": last_blocks}  # with a frozen block, its states are kept between epochs
    config = bench.supervised(epochs=3.0, checkpointEverySteps=4, lora=lora)  # 30 steps of 10 per epoch
    want, folder = bench.pod(config, run="calm")
    rng = random.Random(dropout)
    first, second, third = sorted(rng.sample(range(2, 29), 3))
    seen: list[int] = []
    with pytest.raises(Killed):
        bench.pod(config, run="stormy", die_after=first)
    with pytest.raises(Preempted):
        bench.pod(config, run="stormy", leave_after=second, on_step=seen.append)
    assert seen[0] - 1 == first - 1 - (first - 1) % 4, "a kill loses no more than the steps since the last checkpoint"
    seen.clear()
    with pytest.raises(Killed):
        bench.pod(config, run="stormy", die_after=third, on_step=seen.append)
    assert seen[0] == second + 1, "being asked to leave loses nothing"
    got, stormy_folder = bench.pod(config, run="stormy")
    assert losses(stormy_folder) == losses(folder)
    assert got.digest == want.digest


def test_kept_states_of_frozen_blocks_change_no_more_than_rounding(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = bench.supervised(epochs=3.0, lora={"lastBlocks": 1})
    _, keeping = bench.pod(config, run="keeping")
    monkeypatch.setattr(supervised, "MOST_BYTES", 0)
    _, anew = bench.pod(config, run="anew")
    assert losses(keeping)[:12] == losses(anew)[:12], "the first epoch works out every state itself"
    assert losses(keeping) == pytest.approx(losses(anew), abs=1e-4)


def test_pods_that_live_for_one_step_each_get_on_and_end_alike(bench: Workbench) -> None:
    """P12: what an earlier pod kept is worked out again as it is met, not before the first step."""
    config = bench.supervised(epochs=2.0, lora={"lastBlocks": 1})
    want, _ = bench.pod(config, run="calm")
    with pytest.raises(Preempted, match="step 14"):
        bench.pod(config, run="stormy", leave_after=14)
    for step in (15, 16, 17):
        with pytest.raises(Preempted, match=f"step {step}"):
            bench.pod(config, run="stormy", leave_after=0)
    got, _ = bench.pod(config, run="stormy")
    assert got.digest == want.digest


def test_leaving_after_the_last_step_still_ends_with_the_same_bytes(bench: Workbench) -> None:
    """P12."""
    config = bench.supervised(epochs=0.5)
    want, _ = bench.pod(config, run="calm")
    with pytest.raises(Preempted, match="step 6"):
        bench.pod(config, run="stormy", leave_after=6)
    got, _ = bench.pod(config, run="stormy")
    assert got.digest == want.digest


def test_order_of_rows_changes_from_epoch_to_epoch_and_every_row_is_seen(bench: Workbench) -> None:
    # 96 rows in 12 batches: with one order for both epochs and a learning rate of almost 0, the curve would repeat.
    _, folder = bench.pod(bench.supervised(epochs=2.0, learningRate=1e-9))
    curve = losses(folder)
    assert len(curve) == 24
    assert sorted(curve[:12]) != pytest.approx(sorted(curve[12:]), abs=1e-4)
    assert sum(curve[:12]) == pytest.approx(sum(curve[12:]), abs=1e-3)  # equal rows, equal mean


def test_loss_that_is_no_number_ends_the_stage_and_keeps_the_last_checkpoint(bench: Workbench) -> None:
    """P13: a numeric failure names the step and the setting to lower."""
    config = bench.supervised(epochs=2.0, checkpointEverySteps=2)
    policy_files: list[int] = []

    def poison(step: int) -> None:
        policy_files.append(step)
        if step == 5:
            torch.nn.functional.cross_entropy = lambda *_, **__: torch.tensor(float("nan"), requires_grad=True)  # type: ignore[assignment]

    original = torch.nn.functional.cross_entropy
    try:
        with pytest.raises(NotANumberError, match=r"step 6 of 24: loss nan.*learningRate \(now 0\.005\)"):
            bench.pod(config, on_step=poison)
    finally:
        torch.nn.functional.cross_entropy = original
    resumed: list[int] = []
    bench.pod(config, on_step=resumed.append)
    assert resumed[0] == 5, "the checkpoint of step 4 is good and still there"


def test_absurd_learning_rate_is_a_numeric_failure_and_not_a_policy(bench: Workbench) -> None:
    weights = load_file(bench.base / "model.safetensors")
    weights["embeddings.word_embeddings.weight"][:] = float("inf")
    save_file(weights, bench.base / "model.safetensors", metadata={"format": "pt"})
    bench.base_ref = bench.base_ref.model_copy(update={"sha256": local_digest(bench.base)})
    with pytest.raises(NotANumberError, match="step 1 of 12"):
        bench.pod(bench.supervised())


def test_batch_above_the_data_is_one_batch_per_epoch(bench: Workbench) -> None:
    commit, _ = bench.pod(bench.supervised(epochs=3.0, batchSize=4096))
    assert commit.result.metrics["steps"] == 3


LOSS_CASES = [
    # log_probs (N, 3), labels (N,) of 3 rows of class 0 and 1 row of class 2; class 1 has no row
    pytest.param({}, lambda lp, y: -lp[range(4), y].mean(), id="plain: mean of -log p(label)"),
    pytest.param(
        # 4 / (2 classes that occur * 3 rows) and 4 / (2 * 1): each class that occurs counts as much as the other
        {"classWeights": "balanced"},
        lambda lp, y: -(lp[y == 0, 0].mean() + lp[y == 2, 2].mean()) / 2,
        id="balanced: mean over classes of the mean over their rows",
    ),
    pytest.param(
        {"labelSmoothing": 0.3},
        lambda lp, y: -(0.7 * lp[range(4), y] + 0.3 * lp.mean(1)).mean(),
        id="smoothed: three tenths of the mass spread over all classes",
    ),
]


@pytest.mark.parametrize(("hyper", "want"), LOSS_CASES)
def test_first_loss_is_the_formulas_value_for_the_untrained_policy(
    tmp_path: Path, hyper: dict[str, object], want: Callable[[np.ndarray, np.ndarray], float]
) -> None:
    rows = [("card visa the", "card"), ("my card limit", "card"), ("a credit", "card"), ("house escrow", "mortgage")]
    bench = Workbench(tmp_path, train=rows, labels=LABELS)
    config = bench.supervised(epochs=1.0, batchSize=4, **hyper)
    _, folder = bench.pod(config)
    untrained = build_classifier(bench.base, classes=3, lora=config.lora, max_tokens=32, seed=0)
    tokens = tokenize(load_tokenizer(bench.base, max_tokens=32), [text for text, _ in rows])
    log_probs = formulas.log_softmax(predict_logits(untrained, tokens, batch_size=4, after_batch=lambda _: None))
    labels = np.array([LABELS.index(label) for _, label in rows])
    assert losses(folder) == [pytest.approx(want(log_probs, labels), abs=1e-5)]


def test_head_may_learn_at_its_own_rate(bench: Workbench) -> None:
    _, slow = bench.pod(bench.supervised(headLearningRate=1e-9), run="slow")
    _, fast = bench.pod(bench.supervised(headLearningRate=1e-1), run="fast")
    _, start = bench.pod(bench.supervised(learningRate=1e-9), run="start")
    heads = [load_file(folder / "head.safetensors")["weight"] for folder in (slow, fast, start)]
    torch.testing.assert_close(heads[0], heads[2], atol=1e-5, rtol=0)
    assert (heads[1] - heads[2]).abs().max() > 0.05


# --- bad input, each with a clear error ---------------------------------------------------------------------------


def test_other_weights_than_the_spec_names_are_refused(bench: Workbench) -> None:
    bench.base_ref = bench.base_ref.model_copy(update={"sha256": "f" * 64})
    with pytest.raises(BadModelError, match=r"spec\.baseModel\.sha256 is f{64}, but store://models/tiny has"):
        bench.pod(bench.supervised())


def test_base_with_a_pickle_only_is_refused(bench: Workbench) -> None:
    """P22."""
    (bench.base / "model.safetensors").rename(bench.base / "pytorch_model.bin")
    with pytest.raises(BadModelError, match=r"pytorch_model\.bin, which run code when loaded"):
        bench.pod(bench.supervised())


def test_tokenizer_of_another_model_is_refused(bench: Workbench) -> None:
    from tokenizers import Tokenizer

    path = bench.base / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.add_tokens(["more"])
    tokenizer.save(str(path))
    bench.base_ref = bench.base_ref.model_copy(update={"sha256": local_digest(bench.base)})
    with pytest.raises(BadModelError, match="entries but the embedding only"):
        bench.pod(bench.supervised())


def test_max_tokens_above_the_positions_is_refused(bench: Workbench) -> None:
    with pytest.raises(BadConfigError, match="maxTokens: 65 is above the 64 positions"):
        bench.pod(bench.supervised(maxTokens=65))


def test_target_modules_that_match_nothing_are_refused(bench: Workbench) -> None:
    with pytest.raises(BadConfigError, match=r"lora\.targetModules: 'c_attn'"):
        bench.pod(bench.supervised(lora={"targetModules": ["c_attn"]}))


def test_class_outside_the_label_map_is_refused(tmp_path: Path) -> None:
    bench = Workbench(tmp_path, train=reviews(30, seed=0), labels=["card", "loan"])
    with pytest.raises(BadLabelsError, match="train split: class 'mortgage' is not in the label map of 2 classes"):
        bench.pod(bench.supervised())


def test_one_class_only_is_refused(tmp_path: Path) -> None:
    rows = [row for row in reviews(60, seed=0) if row[1] == "loan"]
    bench = Workbench(tmp_path, train=rows, labels=LABELS)
    with pytest.raises(BadLabelsError, match="rows of 'loan' only; training needs rows of at least two classes"):
        bench.pod(bench.supervised())


def test_texts_of_another_script_are_refused_with_their_number(tmp_path: Path) -> None:
    rows = reviews(50, seed=0)
    rows[7:10] = [("​‍", "card"), ("\x00", "loan"), ("​", "loan")]
    bench = Workbench(tmp_path, train=rows)
    with pytest.raises(BadDataError, match=r"train split: 3 of 50 texts give no token.*the first in row 7"):
        bench.pod(bench.supervised())


def test_a_stray_text_without_tokens_is_left_out_and_counted(tmp_path: Path) -> None:
    bench = Workbench(tmp_path, train=[*reviews(120, seed=0), ("​", "loan")])
    commit, _ = bench.pod(bench.supervised(epochs=0.1))
    assert (commit.result.metrics["train_rows"], commit.result.metrics["skipped_rows"]) == (120, 1)


def test_base_model_written_anew_is_another_model(tmp_path: Path) -> None:
    one, two = write_tiny_bert(tmp_path / "one"), write_tiny_bert(tmp_path / "two", seed=1)
    assert local_digest(one) != local_digest(two)
