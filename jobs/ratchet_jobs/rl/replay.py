"""The replay buffer of DQN: a ring of transitions, sampled uniformly with replacement.

Its state is plain tensors for a checkpoint; sampling takes a generator that is given, so a resumed run draws the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from ratchet_jobs.rl.rollout import Rollout
from ratchet_jobs.runtime.errors import BadConfigError


class Transitions(NamedTuple):
    """B transitions."""

    obs: Tensor
    """(B, *O)."""
    actions: Tensor
    """(B,) int64."""
    rewards: Tensor
    """(B,)."""
    next_obs: Tensor
    """(B, *O), not looked at where terminated."""
    terminated: Tensor
    """(B,) bool; a truncated episode is not terminated, its next state has a value."""


class ReplayBuffer:
    """At most `capacity` transitions; the oldest are overwritten."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._store: Transitions | None = None
        self._added = 0

    def __len__(self) -> int:
        return min(self._added, self.capacity)

    def add(self, rollout: Rollout) -> None:
        """Append every transition of a rollout, step after step.

        Raises:
            BadConfigError: the rollout is larger than the buffer.
        """
        count = rollout.size
        if count > self.capacity:
            raise BadConfigError(
                f"replay capacity: {self.capacity} is below the {count} interactions of one rollout; "
                "raise it, or make rollouts smaller"
            )
        newer = Transitions(
            obs=rollout.obs.flatten(0, 1),
            actions=rollout.actions.flatten(),
            rewards=rollout.rewards.flatten(),
            next_obs=rollout.next_obs.flatten(0, 1),
            terminated=rollout.terminated.flatten(),
        )
        if self._store is None:
            self._store = Transitions(*(t.new_zeros((self.capacity, *t.shape[1:])) for t in newer))
        places = (self._added + torch.arange(count, device=newer.actions.device)) % self.capacity
        for held, new in zip(self._store, newer, strict=True):
            held[places] = new
        self._added += count

    def sample(self, size: int, *, generator: torch.Generator) -> Transitions:
        """Draw `size` transitions uniformly with replacement.

        Raises:
            ValueError: the buffer is empty.
        """
        if self._store is None:
            raise ValueError("replay buffer: empty; add a rollout first")
        rows = torch.randint(len(self), (size,), generator=generator).to(self._store.actions.device)
        return Transitions(*(held[rows] for held in self._store))

    def state(self) -> dict[str, Tensor]:
        """Everything held, by name, and how many were ever added."""
        held = {} if self._store is None else {k: v[: len(self)].clone() for k, v in self._store._asdict().items()}
        return {**held, "added": torch.tensor(self._added)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Hold exactly what `state()` gave, each transition in its old place.

        Raises:
            BadConfigError: it holds more than this buffer's capacity.
        """
        self._added = int(state["added"])
        rest = {name: tensor for name, tensor in state.items() if name != "added"}
        if not rest:
            self._store = None
            return
        held = Transitions(**rest)
        if len(held.actions) != len(self):
            raise BadConfigError(
                f"replay capacity: {self.capacity} differs from that of the checkpoint, which holds "
                f"{len(held.actions)} of {self._added} transitions; resume with the settings it was made with"
            )
        self._store = Transitions(*(t.new_zeros((self.capacity, *t.shape[1:])) for t in held))
        for place, tensor in zip(self._store, held, strict=True):
            place[: len(tensor)] = tensor
