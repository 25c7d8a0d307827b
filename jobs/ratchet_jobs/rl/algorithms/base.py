"""What every algorithm offers, and what the ones that learn from their own rollouts share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from ratchet_jobs.rl.categorical import log_prob_of, sample
from ratchet_jobs.rl.learner import UpdateStats
from ratchet_jobs.rl.rollout import Action, PolicyOutput, Rollout
from ratchet_jobs.runtime.errors import BadConfigError


class Algorithm(Protocol):
    """Chooses actions and learns from what came of them.

    `progress` is the share of the planned interactions that were done before this call, 0..1.
    """

    def act(self, output: PolicyOutput, *, progress: float, generator: torch.Generator) -> Action:
        """Choose one action per row of a forward's output."""

    def learn(self, rollout: Rollout, *, progress: float) -> UpdateStats:
        """Update the policy from a rollout.

        Raises:
            BadConfigError: rollout and settings do not fit each other.
            NotANumberError: a loss or gradient is NaN or infinite; that step was not taken.
        """

    def state(self) -> dict[str, Tensor]:
        """All that the next call depends on besides the learner's own state, for a checkpoint."""

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Put back what `state()` gave."""


def sample_action(output: PolicyOutput, *, generator: torch.Generator) -> Action:
    """Draw from the policy itself, as every on-policy algorithm does."""
    actions = sample(output.logits, generator=generator)
    return Action(actions=actions, logprobs=log_prob_of(output.logits, actions), output=output)


def require(holds: bool, setting: str, value: object, wanted: str) -> None:
    """Refuse a setting.

    Args:
        holds: the check.
        setting: its name, such as "ppo.cliprange".
        value: what was given.
        wanted: what is allowed.

    Raises:
        BadConfigError: the check does not hold.
    """
    if not holds:
        raise BadConfigError(f"{setting}: {value!r} was given; {wanted}")
