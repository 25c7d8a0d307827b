"""PPO with clipping (Schulman et al. 2017, arXiv:1707.06347, section 5 and algorithm 1).

 1. Advantages by GAE, value targets = advantages + values.
 2. The samples enter the buffer; those beyond its capacity, the oldest, leave.
 3. For each of update_epochs passes, for each shuffled minibatch: normalise its advantages, take the clipped
    surrogate + vf_coef * clipped value loss - entropy_coef * entropy, clip the gradient's norm, step.
 4. Stop as soon as a minibatch's approximate KL is above target_kl, before its step.

Deviations from the usual reference code, and why:
 a. A truncated episode bootstraps from the value of the state it was cut at instead of counting as lost.
 b. The early stop looks at every minibatch before its step, not at the last one after a whole pass: a pass too far
    is not taken back.
 c. Minibatches are of nearly equal size, the last is never a remainder; advantages are scaled by the population
    deviation, which is defined for every size.
 d. The buffer may hold more than one rollout (see `buffer.py`).
 e. With verdict_coef, episodes of one step also learn by the cross-entropy of verdicts (`losses.verdict_loss`): the
    clip bounds what one answer can teach, its verdict does not. Measured in bench/classifier_rl.
 f. Samples have weights, all 1 but for a log's answers: there the surrogate is taken against the policy at the start of
    the update, times how much likelier that was than the log's to answer so (Hilton et al. 2021, arXiv:2110.00641).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ratchet_jobs.rl.algorithms.base import require, sample_action
from ratchet_jobs.rl.buffer import RolloutBuffer
from ratchet_jobs.rl.categorical import entropy, log_prob_of
from ratchet_jobs.rl.diagnostics import clipped, explained_variance, kl_k3
from ratchet_jobs.rl.learner import Learner, UpdateStats
from ratchet_jobs.rl.losses import clipped_value_loss, ppo_policy_loss, value_loss, verdict_loss
from ratchet_jobs.rl.returns import center_and_scale, gae
from ratchet_jobs.rl.rollout import Action, PolicyOutput, Rollout, Samples
from ratchet_jobs.rl.seeds import generator_for
from ratchet_jobs.runtime.errors import BadConfigError, NotANumberError

_MEANS = ("policy_loss", "value_loss", "entropy", "approx_kl", "clipfrac")


@dataclass(frozen=True, slots=True)
class PPOConfig:
    """Settings of PPO.

    Raises:
        BadConfigError: a setting is out of range.
    """

    gamma: float = 0.99
    """Discount per step; of no effect on episodes of one step."""
    lam: float = 0.95
    """Of GAE; of no effect on episodes of one step."""
    cliprange: float = 0.2
    """How far the probability ratio may leave 1 and still be rewarded for it."""
    cliprange_value: float | None = 0.2
    """How far a value may leave its old self, in units of the return; None = plain squared error."""
    vf_coef: float = 0.5
    entropy_coef: float = 0.01
    update_epochs: int = 4
    """Passes over the buffer per rollout."""
    minibatch_size: int = 16
    """Largest number of samples per optimizer step."""
    normalize_advantages: bool = True
    """Mean 0 and deviation 1 within each minibatch."""
    verdict_coef: float = 0.0
    """Weight of the cross-entropy between an action's probability and its reward; above 0, episodes have one step and
    rewards lie in 0..1."""
    verdict_noise: float = 0.0
    """Share of wrong verdicts that the cross-entropy reckons with."""
    target_kl: float | None = None
    """Approximate KL above which the update ends; None = never."""
    buffer_capacity: int | None = None
    """Interactions kept; None = exactly one rollout."""
    final_lr_factor: float = 0.0
    """Share of the learning rate left at the end of the run; 1 = constant."""

    def __post_init__(self) -> None:
        require(0 <= self.gamma <= 1, "ppo.gamma", self.gamma, "give a number from 0 to 1")
        require(0 <= self.lam <= 1, "ppo.lam", self.lam, "give a number from 0 to 1")
        require(self.cliprange > 0, "ppo.cliprange", self.cliprange, "give a number above 0, usually 0.1 to 0.3")
        value_range_fits = self.cliprange_value is None or self.cliprange_value > 0
        require(value_range_fits, "ppo.cliprange_value", self.cliprange_value, "give a number above 0, or none")
        require(self.vf_coef >= 0, "ppo.vf_coef", self.vf_coef, "give a number from 0 up")
        require(self.entropy_coef >= 0, "ppo.entropy_coef", self.entropy_coef, "give a number from 0 up")
        require(self.update_epochs >= 1, "ppo.update_epochs", self.update_epochs, "give a whole number from 1 up")
        least = 2 if self.normalize_advantages else 1
        enough = self.minibatch_size >= least
        require(enough, "ppo.minibatch_size", self.minibatch_size, f"give at least {least}: one has no spread")
        require(self.verdict_coef >= 0, "ppo.verdict_coef", self.verdict_coef, "give a number from 0 up")
        require(0 <= self.verdict_noise < 0.5, "ppo.verdict_noise", self.verdict_noise, "give 0 to below 0.5")
        kl_fits = self.target_kl is None or self.target_kl > 0
        require(kl_fits, "ppo.target_kl", self.target_kl, "give a number above 0, usually 0.01 to 0.05, or none")
        require(0 <= self.final_lr_factor <= 1, "ppo.final_lr_factor", self.final_lr_factor, "give 0 to 1")


class PPO:
    """One learner's PPO; see the module's text for the steps."""

    def __init__(self, config: PPOConfig, *, learner: Learner, seed: int) -> None:
        self.config = config
        self.learner = learner
        self._seed = seed
        self._buffer: RolloutBuffer | None = None
        self._updates = 0

    def act(self, output: PolicyOutput, *, progress: float, generator: torch.Generator) -> Action:
        """Draw from the policy; progress changes nothing."""
        return sample_action(output, generator=generator)

    def learn(self, rollout: Rollout, *, progress: float) -> UpdateStats:
        """See `Algorithm.learn`; the numbered steps are those of the module's text."""
        config = self.config
        rate = self.learner.set_rate(progress=progress, final_lr_factor=config.final_lr_factor)
        if config.verdict_coef > 0:
            _check_verdicts(rollout)
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
        newest = Samples.flatten(rollout, advantages=advantages, returns=advantages + rollout.values)
        # 2. buffer
        buffer = self._buffer_for(rollout)
        buffer.add(newest)
        samples = buffer.samples
        # 3. minibatches
        seen: list[Tensor] = []
        grad_norms: list[float] = []
        stopped = False
        for rows in self._deal(buffer):
            means, grad_norm = self._minibatch(samples.take(rows.to(samples.actions.device)))
            seen.append(means)
            # 4. early stop
            if grad_norm is None:
                stopped = True
                break
            grad_norms.append(grad_norm)
        self._updates += 1
        means = torch.stack(seen).mean(0)
        return UpdateStats(
            **dict(zip(_MEANS, means.tolist(), strict=True)),
            explained_variance=explained_variance(newest.values, newest.returns),
            grad_norm=sum(grad_norms) / max(1, len(grad_norms)),
            learning_rate=rate,
            optimizer_steps=len(grad_norms),
            stopped_early=stopped,
        )

    def _buffer_for(self, rollout: Rollout) -> RolloutBuffer:
        if self._buffer is None:
            self._buffer = RolloutBuffer(self.config.buffer_capacity or rollout.size)
        return self._buffer

    def _deal(self, buffer: RolloutBuffer) -> Iterator[Tensor]:
        """Rows of every minibatch of this update; the order is a function of seed, update and pass."""
        for epoch in range(self.config.update_epochs):
            order = generator_for(self._seed, "minibatches", self._updates, epoch)
            yield from buffer.minibatches(self.config.minibatch_size, generator=order)

    def _minibatch(self, batch: Samples) -> tuple[Tensor, float | None]:
        """Take one step on one minibatch, or none if the policy has moved too far.

        Returns:
            The means of `_MEANS` over the minibatch, (5,) float64, and the gradient's norm; None = no step.
        """
        config, learner, count = self.config, self.learner, len(batch)
        if config.normalize_advantages:  # over the whole minibatch, before this process takes its rows
            batch = replace(batch, advantages=center_and_scale(batch.advantages))
        mine = batch.take(torch.arange(count, device=batch.actions.device)[learner.share(count)])
        losses, sums = self._losses(mine)
        learner.team.sum_(sums)
        means = sums / count
        if not bool(torch.isfinite(means).all()):
            raise NotANumberError(
                f"ppo: means over a minibatch of {count} are "
                + ", ".join(f"{name} {value:g}" for name, value in zip(_MEANS, means.tolist(), strict=True))
                + "; lower the learning rate, or look for NaN in rewards and features"
            )
        if config.target_kl is not None and float(means[_MEANS.index("approx_kl")]) > config.target_kl:
            return means, None
        if losses is not None:
            torch.autograd.backward(losses.sum() / count)
        return means, learner.step()

    def _losses(self, mine: Samples) -> tuple[Tensor | None, Tensor]:
        """Loss per sample, (M,) with gradient, and the sums of `_MEANS`, (5,) float64, over this process's rows."""
        config = self.config
        if len(mine) == 0:
            return None, torch.zeros(len(_MEANS), dtype=torch.float64, device=mine.actions.device)
        output = self.learner.forward(mine.obs)
        values = output.values.float()
        logprobs = log_prob_of(output.logits, mine.actions)
        policy = mine.weights * ppo_policy_loss(logprobs, mine.logprobs, mine.advantages, cliprange=config.cliprange)
        if config.cliprange_value is None:
            value = value_loss(values, mine.returns)
        else:
            value = clipped_value_loss(values, mine.values, mine.returns, cliprange_value=config.cliprange_value)
        spread = entropy(output.logits)
        losses = policy + config.vf_coef * value - config.entropy_coef * spread
        if config.verdict_coef > 0:
            rewards = mine.returns.clamp(0.0, 1.0)  # returns are rewards here, up to rounding
            losses = losses + config.verdict_coef * verdict_loss(logprobs, rewards, noise=config.verdict_noise)
        moved = kl_k3(logprobs, mine.logprobs)
        outside = clipped(logprobs, mine.logprobs, cliprange=config.cliprange)
        return losses, torch.stack([t.detach().double().sum() for t in (policy, value, spread, moved, outside)])

    def state(self) -> dict[str, Tensor]:
        """Update counter and what the buffer holds."""
        held = {} if self._buffer is None else self._buffer.state()
        capacity = 0 if self._buffer is None else self._buffer.capacity
        counters = {"updates": torch.tensor(self._updates), "capacity": torch.tensor(capacity)}
        return {**counters, **{f"buffer/{name}": tensor for name, tensor in held.items()}}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Put back what `state()` gave."""
        self._updates = int(state["updates"])
        self._buffer = None
        if capacity := int(state["capacity"]):
            self._buffer = RolloutBuffer(capacity)
            prefix = "buffer/"
            self._buffer.load_state({n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)})


def _check_verdicts(rollout: Rollout) -> None:
    """Refuse rewards that are no verdicts.

    Raises:
        BadConfigError: an episode goes on, or a reward is outside 0..1.
    """
    if not bool(rollout.terminated.all()):
        raise BadConfigError("ppo.verdict_coef: only for episodes of one step; set it to 0")
    low, high = float(rollout.rewards.min()), float(rollout.rewards.max())
    if low < 0.0 or high > 1.0:
        raise BadConfigError(
            f"ppo.verdict_coef: rewards from {low:g} to {high:g} are no verdicts in 0..1; scale them, or set it to 0"
        )
