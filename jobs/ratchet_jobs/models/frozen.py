"""What an encoder's frozen first blocks say of each training row, worked out once and kept for the later epochs.

With `lora.lastBlocks` the first blocks hold no adapter. They have no dropout either (`Classifier.train_mode`), so
that the hidden states which leave them are the same numbers in every epoch: of four frozen blocks of six, two fifths of
the later epochs' work. Kept in memory alone, float32, within a bound; a row that does not fit is worked out anew.

Equal up to rounding: a row's last digits depend on the rows beside it in a product. Hence what is kept of a row is
always what its batch of the first epoch gave; where an earlier process trained on that batch, this one works the whole
batch out when it first meets one of its rows. A resumed run then computes an undisturbed one's bits.

Decides which rows are kept and what happens instead of the frozen blocks. Never changes a weight. Called by the
supervised recipe.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ratchet_jobs.models.batching import pad
from ratchet_jobs.models.classifier import Classifier

MOST_BYTES = 1 << 30
"""Never more than 1,024 MiB: 4,000 rows of 86 tokens and 384 numbers each take 505."""

SHARE_OF_MEMORY = 1 / 8
"""And never more of the pod's memory than this: what it has was chosen before anything was kept."""


class FrozenStates:
    """A classifier's logits of training rows, at the frozen blocks' cost once per row.

    Notation: B rows of a batch, T tokens, D hidden size, C classes.
    """

    def __init__(
        self,
        classifier: Classifier,
        rows: Sequence[NDArray[np.int32]],
        *,
        batches: Sequence[NDArray[np.int64]],
        bytes_kept: int,
    ) -> None:
        """Choose what will be kept.

        Args:
            classifier: in the mode of training; on the CPU if anything is to be kept.
            rows: N token rows.
            batches: of the first epoch; the first ones that fit are kept.
            bytes_kept: at most so many; 0 = keep nothing.
        """
        self._classifier, self._rows = classifier, rows
        self._blocks, self._next = _frozen_blocks(classifier.encoder)
        self._starts = np.full(len(rows), -1, dtype=np.int64)  # of the row's tokens in the store; -1 = not kept
        self._worked_out = np.zeros(len(rows), dtype=np.bool_)
        self._batches: list[NDArray[np.int64]] = []  # of the first epoch, those whose rows are kept
        self._batch_of = np.full(len(rows), -1, dtype=np.int64)
        tokens = 0
        if self._blocks and bytes_kept > 0 and self._is_chain():
            width = int(classifier.encoder.config.hidden_size)
            room = bytes_kept // (width * torch.float32.itemsize)
            for batch in batches:
                if tokens + sum(len(rows[row]) for row in batch) > room:
                    break
                for row in batch:
                    self._starts[row] = tokens
                    tokens += len(rows[row])
                self._batch_of[batch] = len(self._batches)
                self._batches.append(batch)
            # the operating system gives memory page by page, as it is written to
            self._store = torch.empty(tokens, width)

    @property
    def kept(self) -> int:
        """Rows whose states are kept, or will be once their batch was seen."""
        return int((self._starts >= 0).sum())

    def logits(self, batch: NDArray[np.int64]) -> Tensor:
        """Logits (B, C) of the batch's rows, with gradients for whatever learns."""
        input_ids, token_mask = pad([self._rows[row] for row in batch], pad_id=self._classifier.pad_id)  # (B, T) both
        if not self._batches:
            device = self._classifier.head.weight.device
            logits: Tensor = self._classifier(input_ids.to(device), token_mask.to(device))
            return logits
        self._recall(batch)
        states = torch.zeros(*input_ids.shape, self._store.shape[1])  # (B, T, D)
        known = self._worked_out[batch]
        for place in np.flatnonzero(known):
            row = batch[place]
            length = len(self._rows[row])
            states[place, :length] = self._store[self._starts[row] :][:length]
        if not known.all():
            fresh = self._states(batch[~known])
            states[torch.from_numpy(~known), : fresh.shape[1]] = fresh
            self._keep(batch[~known], fresh)
        *first, last = self._blocks
        with _instead(dict.fromkeys(first, _pass_on) | {last: lambda *_, **__: states}):
            logits = self._classifier(input_ids, token_mask)
        return logits

    def _recall(self, batch: NDArray[np.int64]) -> None:
        """Work out again what an earlier process kept of these rows, in the batches in which that one did."""
        missing = batch[(self._starts[batch] >= 0) & ~self._worked_out[batch]]
        for place in np.unique(self._batch_of[missing]):
            own = self._batches[place]
            if not np.array_equal(own, batch):
                self._keep(own, self._states(own))

    def _states(self, batch: NDArray[np.int64]) -> Tensor:
        """What the frozen blocks make of the rows: (B, T, D)."""
        input_ids, token_mask = pad([self._rows[row] for row in batch], pad_id=self._classifier.pad_id)
        try:
            with torch.no_grad(), _instead({self._next: _stop}):
                self._classifier.encoder(input_ids=input_ids, attention_mask=token_mask)
        except _Reached as reached:
            return reached.states
        raise AssertionError("the first block that learns was not reached")

    def _is_chain(self) -> bool:
        """Whether each block gives a tensor that the next one takes as it is, so that a tensor can stand for them.

        It is not so where blocks also hand on attention or positions (DeBERTa, MPNet): there nothing is kept.
        """
        given: list[object] = []
        taken: list[object] = []  # fewer where blocks are called by keyword
        hooks = [block.register_forward_hook(lambda _, __, output: given.append(output)) for block in self._blocks]
        hooks += [block.register_forward_pre_hook(lambda _, args: taken.extend(args[:1])) for block in self._blocks]
        try:
            taken.append(self._states(np.array([0])))
        finally:
            for hook in hooks:
                hook.remove()
        wanted = [each for each in given if isinstance(each, Tensor) and each.dtype == torch.float32]
        whole = len(wanted) == len(self._blocks) == len(taken) - 1
        return whole and all(map(operator.is_, taken[1:], wanted))

    def _keep(self, batch: NDArray[np.int64], states: Tensor) -> None:
        for place, row in enumerate(batch):
            if (start := self._starts[row]) >= 0:
                length = len(self._rows[row])
                self._store[start : start + length] = states[place, :length]
                self._worked_out[row] = True


class _Reached(Exception):
    def __init__(self, states: Tensor) -> None:
        super().__init__()
        self.states = states


def _stop(*arguments: Tensor, **_: Any) -> Tensor:
    raise _Reached(arguments[0] if arguments else torch.empty(0))  # called by keyword: `_is_chain` says no


def _pass_on(states: Tensor, *_: Any, **__: Any) -> Tensor:
    return states


@contextmanager
def _instead(forwards: Mapping[nn.Module, Callable[..., Tensor]]) -> Iterator[None]:
    """Let modules do something else for a while."""
    for module, forward in forwards.items():
        module.__dict__["forward"] = forward  # before the class's own; nn.Module would do the same
    try:
        yield
    finally:
        for module in forwards:
            del module.__dict__["forward"]


def _frozen_blocks(encoder: nn.Module) -> tuple[list[nn.Module], nn.Module]:
    """The encoder's leading blocks without anything that learns, and the block after them.

    No block at all where something learns outside of the blocks, or where there is not one stack of them.
    """
    stacks = {name: module for name, module in encoder.named_modules() if isinstance(module, nn.ModuleList)}
    outermost = [name for name in stacks if not any(name.startswith(f"{other}.") for other in stacks)]
    learning = [name for name, parameter in encoder.named_parameters() if parameter.requires_grad]
    if len(outermost) != 1 or not learning or not all(name.startswith(f"{outermost[0]}.") for name in learning):
        return [], encoder
    blocks = list(stacks[outermost[0]])
    first = min(int(name[len(outermost[0]) + 1 :].split(".", 1)[0]) for name in learning)
    return blocks[:first], blocks[first]
