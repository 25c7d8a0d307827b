"""Deep Q-learning with replay and a target network (Mnih et al. 2015, algorithm 1).

The logits of the forward are read as Q-values. For episodes of one step this regresses the reward of each class: the
bootstrap is never looked at and the target network costs nothing.

 1. Act epsilon-greedily; epsilon falls linearly over the first exploration_fraction of the run.
 2. Every transition enters the replay buffer.
 3. replay_ratio gradient steps per interaction, once learning_starts interactions were seen: sample a minibatch,
    target r + gamma * max Q', Huber loss, clip the gradient's norm, step.
 4. Every target_update_steps gradient steps the target network becomes a copy of the online one.

Deviation: steps are taken after a rollout, not between its interactions; with rollouts of 1 / replay_ratio
interactions that is the original schedule.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from ratchet_jobs.rl.algorithms.base import require
from ratchet_jobs.rl.categorical import epsilon_greedy
from ratchet_jobs.rl.learner import Learner, UpdateStats
from ratchet_jobs.rl.losses import td_loss, td_targets
from ratchet_jobs.rl.replay import ReplayBuffer, Transitions
from ratchet_jobs.rl.rollout import Action, PolicyOutput, Rollout
from ratchet_jobs.rl.schedules import linear
from ratchet_jobs.rl.seeds import generator_for
from ratchet_jobs.runtime.errors import NotANumberError


@dataclass(frozen=True, slots=True)
class DQNConfig:
    """Settings of DQN.

    Raises:
        BadConfigError: a setting is out of range.
    """

    gamma: float = 0.99
    """Discount per step; of no effect on episodes of one step."""
    minibatch_size: int = 128
    replay_capacity: int = 10_000
    """Interactions kept."""
    learning_starts: int = 1_000
    """Interactions before the first gradient step."""
    replay_ratio: float = 0.1
    """Gradient steps per interaction."""
    target_update_steps: int = 50
    """Gradient steps between copies to the target network."""
    epsilon_start: float = 1.0
    epsilon_end: float = 0.05
    exploration_fraction: float = 0.5
    """Share of the run over which epsilon falls."""
    huber_delta: float = 1.0
    """Error beyond which the loss is linear."""
    final_lr_factor: float = 1.0
    """Share of the learning rate left at the end of the run; 1 = constant."""

    def __post_init__(self) -> None:
        require(0 <= self.gamma <= 1, "dqn.gamma", self.gamma, "give a number from 0 to 1")
        fits = 1 <= self.minibatch_size <= self.replay_capacity
        wanted = f"give a number from 1 to dqn.replay_capacity, now {self.replay_capacity}"
        require(fits, "dqn.minibatch_size", self.minibatch_size, wanted)
        fits = 1 <= self.learning_starts <= self.replay_capacity
        require(fits, "dqn.learning_starts", self.learning_starts, wanted)
        require(self.replay_ratio > 0, "dqn.replay_ratio", self.replay_ratio, "give a number above 0")
        whole = self.target_update_steps >= 1
        require(whole, "dqn.target_update_steps", self.target_update_steps, "give a whole number from 1 up")
        falls = 0 <= self.epsilon_end <= self.epsilon_start <= 1
        require(falls, "dqn.epsilon_end", self.epsilon_end, f"give 0 to epsilon_start, now {self.epsilon_start}")
        share = 0 <= self.exploration_fraction <= 1
        require(share, "dqn.exploration_fraction", self.exploration_fraction, "give a number from 0 to 1")
        require(self.huber_delta > 0, "dqn.huber_delta", self.huber_delta, "give a number above 0")
        require(0 <= self.final_lr_factor <= 1, "dqn.final_lr_factor", self.final_lr_factor, "give 0 to 1")


class DQN:
    """One learner's DQN: replay buffer, target parameters and counters."""

    def __init__(self, config: DQNConfig, *, learner: Learner, seed: int) -> None:
        self.config = config
        self.learner = learner
        self._seed = seed
        self._replay = ReplayBuffer(config.replay_capacity)
        self._target = {name: p.detach().clone() for name, p in learner.parameters.items()}
        self._seen = 0
        self._steps = 0

    def act(self, output: PolicyOutput, *, progress: float, generator: torch.Generator) -> Action:
        """The best class, or with probability epsilon any."""
        config = self.config
        epsilon = linear(config.epsilon_start, config.epsilon_end, progress=progress, over=config.exploration_fraction)
        actions, logprobs = epsilon_greedy(output.logits.float(), epsilon=epsilon, generator=generator)
        return Action(actions=actions, logprobs=logprobs, output=output)

    def learn(self, rollout: Rollout, *, progress: float) -> UpdateStats:
        """See `Algorithm.learn`; takes no step while fewer than learning_starts interactions were seen."""
        config = self.config
        rate = self.learner.set_rate(progress=progress, final_lr_factor=config.final_lr_factor)
        self._replay.add(rollout)
        self._seen += rollout.size
        due = int((self._seen - config.learning_starts) * config.replay_ratio) - self._steps
        losses: list[float] = []
        grad_norms: list[float] = []
        for _ in range(due):
            draws = generator_for(self._seed, "replay", self._steps)
            loss, grad_norm = self._step(self._replay.sample(config.minibatch_size, generator=draws))
            losses.append(loss)
            grad_norms.append(grad_norm)
            self._steps += 1
            if self._steps % config.target_update_steps == 0:
                self._target = {name: p.detach().clone() for name, p in self.learner.parameters.items()}
        taken = max(1, len(losses))
        return UpdateStats(
            policy_loss=None,
            value_loss=sum(losses) / taken,
            entropy=None,
            approx_kl=None,
            clipfrac=None,
            explained_variance=None,
            grad_norm=sum(grad_norms) / taken,
            learning_rate=rate,
            optimizer_steps=len(losses),
        )

    def _step(self, batch: Transitions) -> tuple[float, float]:
        """One gradient step; returns the mean loss and the gradient's norm."""
        learner, count = self.learner, len(batch.actions)
        mine = Transitions(*(tensor[learner.share(count)] for tensor in batch))
        total = torch.zeros(1, dtype=torch.float64, device=batch.actions.device)
        if len(mine.actions):
            targets = self._targets(mine)
            q_values = learner.forward(mine.obs).logits.float()
            loss = td_loss(q_values, mine.actions, targets, huber_delta=self.config.huber_delta)
            torch.autograd.backward(loss.sum() / count)
            total += loss.detach().double().sum()
        learner.team.sum_(total)
        mean = float(total) / count
        if not bool(torch.isfinite(total).all()):
            learner.optimizer.zero_grad(set_to_none=True)
            raise NotANumberError(
                f"dqn: the TD loss of a minibatch of {count} is {mean:g}; lower the learning rate, or look for NaN in "
                "rewards and features"
            )
        return mean, learner.step()

    def _targets(self, batch: Transitions) -> Tensor:
        """TD targets (B,); the target network is asked only about states that something follows."""
        with torch.no_grad():
            goes_on = ~batch.terminated
            if not bool(goes_on.any()) or self.config.gamma == 0.0:
                next_q = torch.zeros_like(batch.rewards).unsqueeze(1)  # (B, 1): nothing follows
            else:
                with self._target_parameters():
                    asked = self.learner.forward(batch.next_obs[goes_on]).logits.float()
                next_q = asked.new_zeros((len(batch.actions), asked.shape[1]))
                next_q[goes_on] = asked
        return td_targets(batch.rewards, next_q, terminated=batch.terminated, gamma=self.config.gamma)

    @contextmanager
    def _target_parameters(self) -> Iterator[None]:
        """Let the learner's own modules compute with the target's numbers for a moment."""
        online = {name: p.data for name, p in self.learner.parameters.items()}
        try:
            for name, parameter in self.learner.parameters.items():
                parameter.data = self._target[name]
            yield
        finally:
            for name, parameter in self.learner.parameters.items():
                parameter.data = online[name]

    def state(self) -> dict[str, Tensor]:
        """Counters, target parameters and the replay buffer."""
        counters = {"seen": torch.tensor(self._seen), "steps": torch.tensor(self._steps)}
        target = {f"target/{name}": tensor for name, tensor in self._target.items()}
        return {**counters, **target, **{f"replay/{name}": t for name, t in self._replay.state().items()}}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Put back what `state()` gave."""
        self._seen, self._steps = int(state["seen"]), int(state["steps"])
        self._target = {name: state[f"target/{name}"].clone() for name in self.learner.parameters}
        prefix = "replay/"
        self._replay.load_state({n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)})
