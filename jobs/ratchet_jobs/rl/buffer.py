"""The rollout buffer: the newest samples, first in first out, dealt out in shuffled minibatches.

With a capacity of one rollout an update sees that rollout alone, as PPO is usually run. A larger capacity keeps older
samples too: each keeps the log-probability of the policy that really chose it, so the ratio stays right and the
clipping bounds how much a stale sample can move the policy. Its state is plain tensors for a checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from ratchet_jobs.rl.rollout import Samples
from ratchet_jobs.runtime.errors import BadConfigError


class RolloutBuffer:
    """At most `capacity` samples; adding beyond it drops the oldest."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._samples: Samples | None = None

    def __len__(self) -> int:
        return 0 if self._samples is None else len(self._samples)

    @property
    def samples(self) -> Samples:
        """All that is held, oldest first.

        Raises:
            ValueError: nothing was added yet.
        """
        if self._samples is None:
            raise ValueError("rollout buffer: empty; add a rollout's samples first")
        return self._samples

    def add(self, newer: Samples) -> None:
        """Append samples; the oldest beyond the capacity leave.

        Raises:
            BadConfigError: more than fit at once: some would leave without ever being learned from.
        """
        if len(newer) > self.capacity:
            raise BadConfigError(
                f"buffer capacity: {self.capacity} is below the {len(newer)} interactions of one rollout; "
                "raise it, or make rollouts smaller"
            )
        joined = newer if self._samples is None else self._samples.followed_by(newer)
        self._samples = joined.last(self.capacity)

    def minibatches(self, size: int, *, generator: torch.Generator) -> Iterator[Tensor]:
        """Deal out every sample once, shuffled, in parts of nearly equal length (they differ by at most one).

        Nearly equal, because a last part of one sample has no spread to normalise by and would count as much as a
        full one.

        Args:
            size: largest part, >= 1.
            generator: of the order.

        Yields:
            (M,) int64 rows of `samples`, M <= size.
        """
        order = torch.randperm(len(self), generator=generator)
        yield from torch.tensor_split(order, -(-len(self) // size))

    def state(self) -> dict[str, Tensor]:
        """Everything held, by name; empty if nothing is."""
        return {} if self._samples is None else self._samples.tensors()

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Hold exactly what `state()` gave."""
        self._samples = Samples(**state) if state else None
