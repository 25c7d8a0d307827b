"""Which queries a policy under training is asked, in which order.

Pure: the order is a function of (groups, seed) alone and a rollout is a stretch of it, so a resumed stage asks what
the interrupted one would have asked. Called by the rl recipe.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Queries(NamedTuple):
    """A stretch of the traffic."""

    rows: NDArray[np.int64]
    """(B,) rows of the data set."""
    ends: NDArray[np.bool_]
    """(B,) True = the last turn of its episode."""


class Traffic:
    """Endless traffic: every row once per pass, each pass in an order of its own, the turns of a group together."""

    def __init__(self, groups: NDArray[np.int64], *, seed: int) -> None:
        """Keep the groups.

        Args:
            groups: (N,) number of the group that each row belongs to; N >= 1. Rows of one group are the turns of one
                episode, in the order in which they stand; with all groups different, each row is an episode.
            seed: of the orders.
        """
        self._seed = seed
        self._by_group = np.argsort(groups, kind="stable")  # turns of a group side by side, in their order
        cuts = np.flatnonzero(np.diff(groups[self._by_group])) + 1
        self._starts = np.concatenate([[0], cuts])
        self._sizes = np.diff(np.concatenate([self._starts, [len(groups)]]))
        self._pass: tuple[int, Queries] | None = None

    @property
    def rows(self) -> int:
        """Queries of one pass."""
        return len(self._by_group)

    def take(self, start: int, count: int) -> Queries:
        """Queries start..start+count-1 of the traffic, counted from 0 over all passes."""
        parts = []
        while count > 0:
            number, place = divmod(start, self.rows)
            queries = self._ordered(number)
            part = Queries(rows=queries.rows[place : place + count], ends=queries.ends[place : place + count])
            parts.append(part)
            start, count = start + len(part.rows), count - len(part.rows)
        return Queries(
            rows=np.concatenate([part.rows for part in parts]), ends=np.concatenate([part.ends for part in parts])
        )

    def _ordered(self, number: int) -> Queries:
        if self._pass is None or self._pass[0] != number:
            order = np.random.default_rng([self._seed, number]).permutation(len(self._starts))
            sizes = self._sizes[order]
            ends = np.zeros(self.rows, dtype=np.bool_)
            ends[np.cumsum(sizes) - 1] = True
            # place within the group, 0..size-1, of each query of the pass
            turn = np.arange(self.rows) - np.repeat(np.cumsum(sizes) - sizes, sizes)
            rows = self._by_group[np.repeat(self._starts[order], sizes) + turn]
            self._pass = (number, Queries(rows=rows, ends=ends))
        return self._pass[1]
