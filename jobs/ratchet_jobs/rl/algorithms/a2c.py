"""Advantage actor-critic, synchronous (Mnih et al. 2016, arXiv:1602.01783, section 4 and algorithm S3).

 1. Advantages by GAE; lam = 1 (the default) is the paper's n-step return with n = steps to the end of the rollout.
 2. One gradient step on the whole rollout: policy gradient + value loss - entropy bonus.

Deviation: environments are stepped together instead of asynchronously, as every reference implementation since does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ratchet_jobs.rl.algorithms.base import require, sample_action
from ratchet_jobs.rl.algorithms.single_pass import single_pass
from ratchet_jobs.rl.learner import Learner, UpdateStats
from ratchet_jobs.rl.returns import gae
from ratchet_jobs.rl.rollout import Action, PolicyOutput, Rollout, Samples


@dataclass(frozen=True, slots=True)
class A2CConfig:
    """Settings of A2C.

    Raises:
        BadConfigError: a setting is out of range.
    """

    gamma: float = 0.99
    """Discount per step; of no effect on episodes of one step."""
    lam: float = 1.0
    """Of GAE; of no effect on episodes of one step."""
    vf_coef: float = 0.5
    entropy_coef: float = 0.01
    normalize_advantages: bool = False
    """Mean 0 and deviation 1 over the rollout."""
    forward_rows: int = 1024
    """Most rows in one forward; bounds memory, changes no result."""
    final_lr_factor: float = 0.0
    """Share of the learning rate left at the end of the run; 1 = constant."""

    def __post_init__(self) -> None:
        require(0 <= self.gamma <= 1, "a2c.gamma", self.gamma, "give a number from 0 to 1")
        require(0 <= self.lam <= 1, "a2c.lam", self.lam, "give a number from 0 to 1")
        require(self.vf_coef >= 0, "a2c.vf_coef", self.vf_coef, "give a number from 0 up")
        require(self.entropy_coef >= 0, "a2c.entropy_coef", self.entropy_coef, "give a number from 0 up")
        require(self.forward_rows >= 1, "a2c.forward_rows", self.forward_rows, "give a whole number from 1 up")
        require(0 <= self.final_lr_factor <= 1, "a2c.final_lr_factor", self.final_lr_factor, "give 0 to 1")


class A2C:
    """One learner's A2C; it keeps nothing between updates."""

    def __init__(self, config: A2CConfig, *, learner: Learner, seed: int) -> None:
        self.config = config
        self.learner = learner

    def act(self, output: PolicyOutput, *, progress: float, generator: torch.Generator) -> Action:
        """Draw from the policy; progress changes nothing."""
        return sample_action(output, generator=generator)

    def learn(self, rollout: Rollout, *, progress: float) -> UpdateStats:
        """See `Algorithm.learn`; the numbered steps are those of the module's text."""
        config = self.config
        rate = self.learner.set_rate(progress=progress, final_lr_factor=config.final_lr_factor)
        # 1. advantages and targets
        advantages = gae(
            rollout.rewards,
            rollout.values,
            rollout.next_values,
            terminated=rollout.terminated,
            truncated=rollout.truncated,
            gamma=config.gamma,
            lam=config.lam,
        )
        # 2. one step
        return single_pass(
            self.learner,
            Samples.flatten(rollout, advantages=advantages, returns=advantages + rollout.values),
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
