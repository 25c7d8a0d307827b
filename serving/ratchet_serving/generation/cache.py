"""Keys and values of all conversations in one tensor for each layer: a row for each, filled from the left.

Decides how a row's new tokens are written and what a pass gets to see, and when the tensors grow. Never decides who
gets a row (`streams`) or what is masked (`decoder`).

A conversation joins by taking the next row and leaves by giving its row to the last one, so that the rows in use are
always 0 … B-1 and a pass sees them as a view: nothing is gathered for it. Rows have different lengths; what stands
behind a row's end is masked out and overwritten later.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

ROUNDED = 64
"""Lengths grow in steps of so many tokens, so that they seldom do."""


@dataclass(slots=True)
class Pass:
    """Where the tokens of one pass of the model stand: one for each of the rows 0 … B-1, or several of one row.

    Attributes:
        first: row of the first of them.
        starts: (B,) place of each row's first new token.
        width: longest row with its new tokens, which is what the pass sees.
    """

    first: int
    starts: Tensor
    width: int


class _Layer(CacheLayerMixin):  # type: ignore[misc]  # transformers is not followed by mypy
    """One layer's keys and values, (R, H, L, D) each."""

    def __init__(self, rows: Rows) -> None:
        super().__init__()
        self._rows = rows

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate what is reserved, once the heads and their size are seen."""
        self.keys = self._new(key_states)
        self.values = self._new(value_states)
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write (B, H, T, D) new keys and values where the pass says; return all that it sees, new ones included."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        now, (count, _heads, tokens, _size) = self._rows.now, key_states.shape
        rows = slice(now.first, now.first + count)
        if tokens == 1:
            each = torch.arange(now.first, now.first + count, device=key_states.device)
            self.keys[each, :, now.starts] = key_states[:, :, 0]
            self.values[each, :, now.starts] = value_states[:, :, 0]
        else:
            places = slice(now.width - tokens, now.width)
            self.keys[rows, :, places], self.values[rows, :, places] = key_states, value_states
        return self.keys[rows, :, : now.width], self.values[rows, :, : now.width]

    def resize(self) -> None:
        """Allocate anew what is reserved, with what was there as far as it fits."""
        if self.is_initialized:
            for name in ("keys", "values"):
                before = getattr(self, name)
                after = self._new(before)
                count, length = min(len(before), len(after)), min(before.shape[2], after.shape[2])
                after[:count, :, :length] = before[:count, :, :length]
                setattr(self, name, after)

    def move(self, source: int, target: int, length: int) -> None:
        """Copy a row's first tokens over another row."""
        if self.is_initialized:
            self.keys[target, :, :length] = self.keys[source, :, :length]
            self.values[target, :, :length] = self.values[source, :, :length]

    def get_seq_length(self) -> int:
        """Tokens of the longest row of the pass."""
        return self._rows.now.width

    def get_max_length(self) -> int:
        """Tokens that a row may have."""
        return self._rows.length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Tokens that the pass sees, and the first of them."""
        return self._rows.now.width, 0

    def _new(self, like: Tensor) -> Tensor:
        # zeros: what was never written is masked out, and must be a number for that
        return like.new_zeros((self._rows.count, like.shape[1], self._rows.length, like.shape[3]))


class Rows:
    """The cache of all conversations.

    Args:
        layers: of the model.
        max_tokens: rows times their longest, at most.
    """

    def __init__(self, layers: int, *, max_tokens: int) -> None:
        self.count = self.length = 0
        self.now = Pass(0, torch.zeros(0, dtype=torch.long), 0)
        self.cache = Cache(layers=[_Layer(self) for _ in range(layers)])
        self._max_tokens = max_tokens

    def fits(self, *, count: int, length: int) -> bool:
        """Whether so many rows of so many tokens may be had at once."""
        return count * length <= self._max_tokens

    def reserve(self, *, count: int, length: int) -> None:
        """Have room for so many rows of so many tokens; what stands in them stays.

        Args:
            count: rows in use, the new one included.
            length: tokens that the longest of them may come to.
        """
        if count <= self.count and length <= self.length:
            return
        rounded, doubled = -(-length // ROUNDED) * ROUNDED, 1 << (count - 1).bit_length()
        wishes = (
            (max(self.count, doubled), max(self.length, rounded)),
            (max(self.count, count), max(self.length, rounded)),
            (count, rounded),
        )
        # the largest that may be had: what is too large now was grown for others, which have left
        self.count, self.length = next(
            (wish for wish in wishes if self.fits(count=wish[0], length=wish[1])), (count, length)
        )
        for layer in self.cache.layers:
            layer.resize()

    def move(self, source: int, target: int, *, length: int) -> None:
        """Copy a row's first tokens over another row."""
        for layer in self.cache.layers:
            layer.move(source, target, length)
