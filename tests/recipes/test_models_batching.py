"""How examples are put into batches, and what padding must not change."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ratchet_jobs.models.batching import POOL_BATCHES, batches_of_steps, bucketed_batches, pad, sorted_batches

LENGTHS = st.lists(st.integers(1, 300), min_size=1, max_size=400).map(lambda values: np.array(values, dtype=np.int64))


@given(lengths=LENGTHS, batch_size=st.integers(1, 64), seed=st.integers(0, 2**31 - 1), epoch=st.integers(0, 50))
@settings(deadline=None)
def test_every_example_stands_in_exactly_one_batch_of_an_epoch(
    lengths: np.ndarray, batch_size: int, seed: int, epoch: int
) -> None:
    batches = bucketed_batches(lengths, batch_size, seed=seed, epoch=epoch)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    assert len(batches) == -(-len(lengths) // batch_size)
    assert sorted((len(batch) for batch in batches), reverse=True)[:-1] == [batch_size] * (len(batches) - 1)


def test_order_depends_on_seed_and_epoch_and_on_nothing_else() -> None:
    lengths = np.random.default_rng(0).integers(5, 200, 1000)

    def first(*, seed: int, epoch: int) -> list[int]:
        return bucketed_batches(lengths, 8, seed=seed, epoch=epoch)[0].tolist()

    assert first(seed=1, epoch=0) == first(seed=1, epoch=0)
    assert first(seed=1, epoch=0) != first(seed=1, epoch=1)
    assert first(seed=1, epoch=0) != first(seed=2, epoch=0)


def test_bucketing_leaves_a_tenth_of_the_padding_that_random_batches_have() -> None:
    lengths = np.random.default_rng(0).integers(5, 200, 4000)

    def padding(batches: list[np.ndarray]) -> int:
        return sum(int(lengths[batch].max() * len(batch) - lengths[batch].sum()) for batch in batches)

    random_order = np.random.default_rng(1).permutation(4000).reshape(-1, 16)
    assert padding(bucketed_batches(lengths, 16, seed=0, epoch=0)) < padding(list(random_order)) / 10


def test_batches_come_in_random_order_of_length() -> None:
    # Sorted order would teach short texts first; the rank correlation of position and length must be near 0.
    lengths = np.random.default_rng(0).integers(5, 200, 4 * 16 * POOL_BATCHES)
    means = np.array([lengths[batch].mean() for batch in bucketed_batches(lengths, 16, seed=0, epoch=0)])
    ranks = means.argsort().argsort()
    assert abs(np.corrcoef(np.arange(len(ranks)), ranks)[0, 1]) < 0.2


def test_batch_larger_than_the_data_is_one_batch_of_everything() -> None:
    batches = bucketed_batches(np.array([3, 1, 2]), 100, seed=0, epoch=0)
    assert [sorted(batch.tolist()) for batch in batches] == [[0, 1, 2]]


def test_measuring_takes_the_longest_batch_first() -> None:
    batches = sorted_batches(np.array([3, 9, 1, 7, 5]), 2)
    assert [batch.tolist() for batch in batches] == [[1, 3], [4, 0], [2]]


def test_padding_fills_with_the_pad_token_and_masks_it_out() -> None:
    ids, token_mask = pad([np.array([5, 6, 7], np.int32), np.array([8], np.int32)], pad_id=9)
    assert ids.tolist() == [[5, 6, 7], [8, 9, 9]]
    assert token_mask.tolist() == [[1, 1, 1], [1, 0, 0]]


def test_row_without_tokens_becomes_one_masked_column() -> None:
    ids, token_mask = pad([np.array([], np.int32)], pad_id=4)
    assert (ids.tolist(), token_mask.tolist()) == ([[4]], [[0]])


@pytest.mark.parametrize("epoch", [0, 3])
def test_one_example_is_a_batch(epoch: int) -> None:
    assert [b.tolist() for b in bucketed_batches(np.array([4]), 1, seed=0, epoch=epoch)] == [[0]]


def test_steps_go_through_the_epochs_wherever_they_begin() -> None:
    lengths = np.random.default_rng(0).integers(5, 50, 20)  # three batches an epoch
    want = [batch.tolist() for epoch in range(4) for batch in bucketed_batches(lengths, 8, seed=1, epoch=epoch)]
    for start in range(11):
        got = [batch.tolist() for batch in batches_of_steps(lengths, 8, seed=1, start=start, stop=10)]
        assert got == want[start:10]
