"""What was experienced: a rollout as it happened in time, and the flat samples that an update learns from."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import NamedTuple, Self

import torch
from torch import Tensor

from ratchet_jobs.rl.shapes import require_same_shape


class PolicyOutput(NamedTuple):
    """One forward: the policy's and the value model's answer to the same observations."""

    logits: Tensor
    """(B, A); for DQN these are the Q-values."""
    values: Tensor
    """(B,); for DQN ignored."""


class Action(NamedTuple):
    """What an algorithm chose, and what it knew when choosing."""

    actions: Tensor
    """(B,) int64."""
    logprobs: Tensor
    """(B,) of these actions under the distribution they were drawn from: their log-propensity."""
    output: PolicyOutput
    """Of the forward that they were drawn from."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """T steps of E environments; a contextual bandit's rollout has T = 1 and every episode terminated.

    Raises:
        ValueError: shapes differ.
    """

    obs: Tensor
    """(T, E, *O) what the policy saw."""
    actions: Tensor
    """(T, E) int64."""
    logprobs: Tensor
    """(T, E) log-probability with which each action was chosen when acting (for a log: log of its propensity)."""
    values: Tensor
    """(T, E) V(obs) when acting."""
    rewards: Tensor
    """(T, E)."""
    terminated: Tensor
    """(T, E) bool: the episode ended here by itself; nothing follows."""
    truncated: Tensor
    """(T, E) bool: the episode was cut here; V(next_obs) stands for what would have followed."""
    next_obs: Tensor
    """(T, E, *O) what follows before any reset; where terminated it is never looked at."""
    next_values: Tensor
    """(T, E) V(next_obs) when acting; where terminated it is never looked at."""
    weights: Tensor | None = None
    """(T, E) what each action counts for in the policy's loss: above or below 1 where a log chose it more seldom or
    more often than the policy that learns would have; None = 1 each."""

    def __post_init__(self) -> None:
        require_same_shape("rollout: obs and next_obs", obs=self.obs, next_obs=self.next_obs)
        flat = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("obs", "next_obs")}
        require_same_shape("rollout", **{name: tensor for name, tensor in flat.items() if tensor is not None})
        if self.actions.ndim != 2 or self.obs.shape[:2] != self.actions.shape:
            raise ValueError(
                f"rollout: obs {tuple(self.obs.shape)}, actions {tuple(self.actions.shape)}; "
                "give (steps, environments, ...) and (steps, environments)"
            )

    @classmethod
    def of_single_steps(
        cls,
        obs: Tensor,
        *,
        actions: Tensor,
        logprobs: Tensor,
        values: Tensor,
        rewards: Tensor,
        weights: Tensor | None = None,
    ) -> Self:
        """A contextual bandit's rollout: B episodes of one step; obs (B, *O), the others (B,)."""
        ended = torch.ones_like(actions, dtype=torch.bool)
        return cls(
            obs=obs.unsqueeze(0),
            actions=actions.unsqueeze(0),
            logprobs=logprobs.unsqueeze(0),
            values=values.unsqueeze(0),
            rewards=rewards.unsqueeze(0),
            terminated=ended.unsqueeze(0),
            truncated=~ended.unsqueeze(0),
            next_obs=obs.unsqueeze(0),
            next_values=torch.zeros_like(values).unsqueeze(0),
            weights=None if weights is None else weights.unsqueeze(0),
        )

    @property
    def size(self) -> int:
        """Interactions in it: T * E."""
        return self.actions.numel()

    @property
    def ended(self) -> Tensor:
        """(T, E) bool: terminated or truncated."""
        return self.terminated | self.truncated


@dataclass(frozen=True, slots=True)
class Samples:
    """B interactions without their order in time, ready to learn from.

    Raises:
        ValueError: lengths differ.
    """

    obs: Tensor
    """(B, *O)."""
    actions: Tensor
    """(B,) int64."""
    logprobs: Tensor
    """(B,) when acting."""
    values: Tensor
    """(B,) when acting."""
    advantages: Tensor
    """(B,)."""
    returns: Tensor
    """(B,) value targets."""
    weights: Tensor
    """(B,) in the policy's loss; 1 where the policy itself acted."""

    def __post_init__(self) -> None:
        require_same_shape("samples", **{f.name: getattr(self, f.name) for f in fields(self) if f.name != "obs"})
        if self.obs.shape[:1] != self.actions.shape:
            raise ValueError(
                f"samples: obs {tuple(self.obs.shape)}, actions {tuple(self.actions.shape)}; give one action per row"
            )

    @classmethod
    def flatten(cls, rollout: Rollout, *, advantages: Tensor, returns: Tensor) -> Self:
        """Samples of a rollout, step after step; advantages and returns are (T, E)."""
        return cls(
            obs=rollout.obs.flatten(0, 1),
            actions=rollout.actions.flatten(),
            logprobs=rollout.logprobs.flatten(),
            values=rollout.values.flatten(),
            advantages=advantages.flatten(),
            returns=returns.flatten(),
            weights=(torch.ones_like(rollout.values) if rollout.weights is None else rollout.weights).flatten(),
        )

    def __len__(self) -> int:
        return len(self.actions)

    def take(self, rows: Tensor) -> Self:
        """The samples at these rows: (M,) int64 in any order, or a (B,) bool mask."""
        return type(self)(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def last(self, count: int) -> Self:
        """The newest `count` samples, or all if there are fewer."""
        return type(self)(**{f.name: getattr(self, f.name)[max(0, len(self) - count) :] for f in fields(self)})

    def followed_by(self, newer: Self) -> Self:
        """These, then the newer ones."""
        return type(self)(**{f.name: torch.cat([getattr(self, f.name), getattr(newer, f.name)]) for f in fields(self)})

    def tensors(self) -> dict[str, Tensor]:
        """Copies by field name, for a checkpoint."""
        return {f.name: getattr(self, f.name).clone() for f in fields(self)}
