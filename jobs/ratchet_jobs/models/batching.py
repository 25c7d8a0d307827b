"""Which examples stand together in a batch, in which order, and how they are padded.

Pure: an epoch's order is a function of (lengths, batch size, seed, epoch) alone, so a resumed run sees the very
batches that the interrupted one would have seen, whatever step it stopped at. Called by the recipes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ratchet_api.steps import steps_per_epoch

POOL_BATCHES = 50
"""Batches that are shuffled together before sorting by length: wide enough to find neighbours of like length,
narrow enough that an example's company changes from epoch to epoch."""


def bucketed_batches(lengths: NDArray[np.int64], batch_size: int, *, seed: int, epoch: int) -> list[NDArray[np.int64]]:
    """Split one epoch into batches of like length, in random order.

    Shuffle all, cut into pools of POOL_BATCHES batches, sort each pool by length, cut it into batches, shuffle the
    batches of all pools. Every example stands in exactly one batch; all batches but one have `batch_size` examples.

    Args:
        lengths: (N,) tokens of each example.
        batch_size: examples per batch; more than N is fine and gives one batch of N.
        seed: of the run.
        epoch: counts from 0; each has its own order.

    Returns:
        Arrays of example numbers.
    """
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(len(lengths))
    pool = POOL_BATCHES * batch_size
    batches: list[NDArray[np.int64]] = []
    for start in range(0, len(order), pool):
        members = order[start : start + pool]
        by_length = members[np.argsort(lengths[members], kind="stable")]
        batches += [by_length[at : at + batch_size] for at in range(0, len(by_length), batch_size)]
    return [batches[place] for place in rng.permutation(len(batches))]


def batches_of_steps(
    lengths: NDArray[np.int64], batch_size: int, *, seed: int, start: int, stop: int
) -> Iterator[NDArray[np.int64]]:
    """Yield the batches of the steps from `start` on, up to but without `stop`, through the epochs.

    Args:
        lengths: (N,) tokens of each example.
        batch_size: examples per batch.
        seed: of the run.
        start: steps that are done.
        stop: steps of the run.
    """
    an_epoch = steps_per_epoch(len(lengths), batch_size)
    for epoch in range(start // an_epoch, math.ceil(stop / an_epoch)):
        batches = bucketed_batches(lengths, batch_size, seed=seed, epoch=epoch)
        first = epoch * an_epoch
        yield from batches[max(0, start - first) : stop - first]


def sorted_batches(lengths: NDArray[np.int64], batch_size: int) -> list[NDArray[np.int64]]:
    """Split examples into batches of like length, longest first, for passes in which order does not matter.

    The longest batch first: if memory does not suffice, it shows at once.
    """
    order = np.argsort(-lengths, kind="stable")
    return [order[at : at + batch_size] for at in range(0, len(order), batch_size)]


def pad(rows: Sequence[NDArray[np.int32]], *, pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Stack token rows of differing lengths.

    Args:
        rows: B arrays of token ids.
        pad_id: the token that fills up; masked out wherever it was added.

    Returns:
        input_ids (B, T) int64 and token_mask (B, T) int64, 1 = a real token; T is the longest row, at least 1.
    """
    longest = max(1, *(len(row) for row in rows))
    input_ids = np.full((len(rows), longest), pad_id, dtype=np.int64)
    token_mask = np.zeros((len(rows), longest), dtype=np.int64)
    for place, row in enumerate(rows):
        input_ids[place, : len(row)] = row
        token_mask[place, : len(row)] = 1
    return torch.from_numpy(input_ids), torch.from_numpy(token_mask)
