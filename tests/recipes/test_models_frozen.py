"""What the frozen blocks say is worked out once a row, and nothing that is learned can tell."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ratchet_api.training_run import Lora
from ratchet_jobs.models.batching import bucketed_batches, pad
from ratchet_jobs.models.classifier import Classifier, build_classifier
from ratchet_jobs.models.frozen import FrozenStates
from ratchet_jobs.models.tokenizing import TokenRows, load_tokenizer, tokenize
from tests.tiny_bert import reviews, write_tiny_bert, write_tiny_modernbert

PLENTY = 1 << 30


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bert(tmp_path_factory.mktemp("base"), layers=3)


@pytest.fixture(scope="module")
def tokens(base: Path) -> TokenRows:
    return tokenize(load_tokenizer(base, max_tokens=32), [text for text, _ in reviews(40, seed=3)])


def build(base: Path, **lora: object) -> Classifier:
    settings = Lora.model_validate({"rank": 4, "alpha": 8.0, "lastBlocks": 1} | lora)
    classifier = build_classifier(base, classes=3, lora=settings, max_tokens=32, seed=0)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in classifier.trainable().values():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    classifier.train_mode()
    return classifier


def order(tokens: TokenRows, epoch: int) -> list[NDArray[np.int64]]:
    return bucketed_batches(tokens.lengths, 8, seed=0, epoch=epoch)


def keeping(classifier: Classifier, tokens: TokenRows, *, bytes_kept: int = PLENTY) -> FrozenStates:
    return FrozenStates(classifier, tokens.rows, batches=order(tokens, 0), bytes_kept=bytes_kept)


def gradients(classifier: Classifier, logits: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(logits.square().sum(), list(classifier.trainable().values())))


def blocks(classifier: Classifier) -> nn.ModuleList:
    return next(module for module in classifier.encoder.modules() if isinstance(module, nn.ModuleList))


def count_rows(classifier: Classifier) -> list[int]:
    """Rows that each block works on from now on; noted inside the block, which what stands for it never reaches."""
    worked = [0] * len(blocks(classifier))
    for place, block in enumerate(blocks(classifier)):

        def note(_: nn.Module, args: tuple[Tensor, ...], place: int = place) -> None:
            worked[place] += len(args[0])

        block.attention.register_forward_pre_hook(note)
    return worked


def test_the_first_epoch_computes_what_the_classifier_computes_to_the_bit(base: Path, tokens: TokenRows) -> None:
    classifier = build(base)
    states = keeping(classifier, tokens)
    for batch in order(tokens, 0):
        want = classifier(*pad([tokens.rows[row] for row in batch], pad_id=0))
        got = states.logits(batch)
        assert torch.equal(got, want)
        assert all(map(torch.equal, gradients(classifier, got), gradients(classifier, want)))


@pytest.mark.parametrize("bytes_kept", [PLENTY, 40_000, 0])
def test_later_epochs_compute_what_the_classifier_computes(base: Path, tokens: TokenRows, bytes_kept: int) -> None:
    classifier = build(base, lastBlocks=2)
    states = keeping(classifier, tokens, bytes_kept=bytes_kept)
    for epoch in range(3):
        for batch in order(tokens, epoch):
            want = classifier(*pad([tokens.rows[row] for row in batch], pad_id=0))
            got = states.logits(batch)
            torch.testing.assert_close(got, want, atol=1e-5, rtol=0)
            for ours, plain in zip(gradients(classifier, got), gradients(classifier, want), strict=True):
                torch.testing.assert_close(ours, plain, atol=1e-4, rtol=1e-4)


def test_frozen_blocks_work_on_every_row_once(base: Path, tokens: TokenRows) -> None:
    classifier = build(base)
    states = keeping(classifier, tokens)
    assert states.kept == 40
    worked = count_rows(classifier)
    for epoch in range(3):
        for batch in order(tokens, epoch):
            states.logits(batch)
    assert worked == [40, 40, 120]


def test_no_more_is_kept_than_allowed_and_the_rest_is_worked_out_anew(base: Path, tokens: TokenRows) -> None:
    classifier = build(base)
    width = classifier.encoder.config.hidden_size
    first, second, third, *_ = (int(tokens.lengths[batch].sum()) * width * 4 for batch in order(tokens, 0))
    assert keeping(classifier, tokens, bytes_kept=first + second + third - 1).kept == 16
    states = keeping(classifier, tokens, bytes_kept=first + second + third)
    assert states.kept == 24
    worked = count_rows(classifier)
    for epoch in range(2):
        for batch in order(tokens, epoch):
            states.logits(batch)
    assert worked == [40 + 16, 40 + 16, 80]


@pytest.mark.parametrize("bytes_kept", [PLENTY, 40_000])
def test_whoever_goes_on_computes_the_bits_of_who_never_stopped(base: Path, tokens: TokenRows, bytes_kept: int) -> None:
    calm = keeping(build(base), tokens, bytes_kept=bytes_kept)
    want = [[calm.logits(batch) for batch in order(tokens, epoch)] for epoch in range(2)]
    for done in (0, 2, 5, 8):
        late = keeping(build(base), tokens, bytes_kept=bytes_kept)
        to_come = [*order(tokens, 0), *order(tokens, 1)][done:]
        got = [late.logits(batch) for batch in to_come]
        assert all(map(torch.equal, got, [*want[0], *want[1]][done:]))


def test_whoever_goes_on_works_out_again_what_a_batch_needs_and_no_more(base: Path, tokens: TokenRows) -> None:
    """So a pod that lives for one step takes one step, however many rows were kept before."""
    classifier = build(base)
    states = keeping(classifier, tokens)
    worked = count_rows(classifier)
    last = order(tokens, 1)[-1]
    again = sum(bool(np.isin(batch, last).any()) for batch in order(tokens, 0))
    assert 0 < again < 5
    states.logits(last)
    assert worked == [8 * again, 8 * again, 8]


@pytest.mark.parametrize("lora", [{"lastBlocks": 3}, {"lastBlocks": None, "targetModules": ["query"]}])
def test_where_every_block_learns_nothing_is_kept(base: Path, tokens: TokenRows, lora: dict[str, object]) -> None:
    assert keeping(build(base, **lora), tokens).kept == 0


def test_what_learns_outside_of_the_blocks_leaves_nothing_frozen(base: Path, tokens: TokenRows) -> None:
    classifier = build(base)
    classifier.encoder.get_input_embeddings().weight.requires_grad_()
    assert keeping(classifier, tokens).kept == 0


def test_blocks_that_see_different_spans_are_kept_too(tmp_path: Path, tokens: TokenRows) -> None:
    write_tiny_modernbert(tmp_path)
    classifier = build(tmp_path, lastBlocks=2)
    states = keeping(classifier, tokens)
    assert states.kept == 40
    for epoch in range(2):
        for batch in order(tokens, epoch):
            want = classifier(*pad([tokens.rows[row] for row in batch], pad_id=classifier.pad_id))
            torch.testing.assert_close(states.logits(batch), want, atol=1e-5, rtol=0)


def test_blocks_that_hand_on_more_than_a_tensor_are_left_alone(base: Path, tokens: TokenRows) -> None:
    classifier = build(base)
    # as an encoder that adds to what a block gave: the next one's input is no longer its output
    blocks(classifier)[1].register_forward_pre_hook(lambda _, args: (args[0] + 0, *args[1:]), prepend=True)
    states = keeping(classifier, tokens)
    assert states.kept == 0
    batch = order(tokens, 0)[0]
    assert torch.equal(states.logits(batch), classifier(*pad([tokens.rows[row] for row in batch], pad_id=0)))


def test_blocks_that_are_called_by_keyword_are_left_alone(base: Path, tokens: TokenRows) -> None:
    classifier = build(base)

    def by_keyword(
        _: nn.Module, args: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (), {"hidden_states": args[0], "attention_mask": args[1], **named}

    for block in blocks(classifier):
        block.register_forward_pre_hook(by_keyword, with_kwargs=True, prepend=True)
    assert keeping(classifier, tokens).kept == 0
