"""REINFORCE with a learned baseline (Williams 1992; Sutton and Barto 2018, section 13.4).

 1. Returns are whole: the discounted sum of all rewards to the episode's end. Steps whose episode had not ended when
    the rollout did are left out, since their return is unknown.
 2. Advantage = return - baseline, the value when acting.
 3. One gradient step: policy gradient + value loss - entropy bonus.

Deviations: an episode cut by a time limit counts as ended, its rest replaced by the value of the state it was cut at;
the factor gamma^t of the textbook is left out, as everywhere in practice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ratchet_jobs.rl.algorithms.base import require, sample_action
from ratchet_jobs.rl.algorithms.single_pass import single_pass
from ratchet_jobs.rl.learner import Learner, UpdateStats
from ratchet_jobs.rl.returns import discounted_returns, finished
from ratchet_jobs.rl.rollout import Action, PolicyOutput, Rollout, Samples
from ratchet_jobs.runtime.errors import BadConfigError


@dataclass(frozen=True, slots=True)
class ReinforceConfig:
    """Settings of REINFORCE.

    Raises:
        BadConfigError: a setting is out of range.
    """

    gamma: float = 0.99
    """Discount per step; of no effect on episodes of one step."""
    vf_coef: float = 0.5
    """Weight of the baseline's loss."""
    entropy_coef: float = 0.01
    normalize_advantages: bool = True
    """Mean 0 and deviation 1 over the steps that count: returns of any scale need no other learning rate."""
    forward_rows: int = 1024
    """Most rows in one forward; bounds memory, changes no result."""
    final_lr_factor: float = 0.0
    """Share of the learning rate left at the end of the run; 1 = constant."""

    def __post_init__(self) -> None:
        require(0 <= self.gamma <= 1, "reinforce.gamma", self.gamma, "give a number from 0 to 1")
        require(self.vf_coef >= 0, "reinforce.vf_coef", self.vf_coef, "give a number from 0 up")
        require(self.entropy_coef >= 0, "reinforce.entropy_coef", self.entropy_coef, "give a number from 0 up")
        require(self.forward_rows >= 1, "reinforce.forward_rows", self.forward_rows, "give a whole number from 1 up")
        require(0 <= self.final_lr_factor <= 1, "reinforce.final_lr_factor", self.final_lr_factor, "give 0 to 1")


class Reinforce:
    """One learner's REINFORCE; it keeps nothing between updates."""

    def __init__(self, config: ReinforceConfig, *, learner: Learner, seed: int) -> None:
        self.config = config
        self.learner = learner

    def act(self, output: PolicyOutput, *, progress: float, generator: torch.Generator) -> Action:
        """Draw from the policy; progress changes nothing."""
        return sample_action(output, generator=generator)

    def learn(self, rollout: Rollout, *, progress: float) -> UpdateStats:
        """See `Algorithm.learn`; the numbered steps are those of the module's text.

        Raises:
            BadConfigError: no episode ended within the rollout.
        """
        config = self.config
        rate = self.learner.set_rate(progress=progress, final_lr_factor=config.final_lr_factor)
        # 1. returns of the steps whose episode ended
        returns = discounted_returns(
            rollout.rewards,
            rollout.next_values,
            terminated=rollout.terminated,
            truncated=rollout.truncated,
            gamma=config.gamma,
        )
        counts = finished(rollout.ended).flatten()
        if not bool(counts.any()):
            raise BadConfigError(
                f"reinforce: none of the {rollout.actions.shape[1]} episodes ended within the rollout of "
                f"{rollout.actions.shape[0]} steps; make rollouts longer than an episode, or take ppo or a2c"
            )
        # 2. advantages
        samples = Samples.flatten(rollout, advantages=returns - rollout.values, returns=returns).take(counts)
        # 3. one step
        return single_pass(
            self.learner,
            samples,
            vf_coef=config.vf_coef,
            entropy_coef=config.entropy_coef,
            forward_rows=config.forward_rows,
            normalize_advantages=config.normalize_advantages,
            learning_rate=rate,
        )

    def state(self) -> dict[str, Tensor]:
        """Nothing is kept."""
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """There is nothing to put back."""
