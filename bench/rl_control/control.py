"""Gymnasium's vector environments as an `Environment`, a small actor-critic, and the loop that joins them.

Used by `bench/rl_control` over several seeds and by tests/recipes over one; the product never imports gymnasium.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn

from ratchet_jobs.rl.algorithms import make_algorithm
from ratchet_jobs.rl.collect import Outcome, collect
from ratchet_jobs.rl.learner import Learner, UpdateStats
from ratchet_jobs.rl.rollout import Action, PolicyOutput
from ratchet_jobs.rl.seeds import generator_for


class ControlTask:
    """E copies of a Gymnasium task; remembers the return of every episode that ended."""

    def __init__(self, name: str, *, environments: int, seed: int) -> None:
        self._all = [gymnasium.make(name) for _ in range(environments)]
        self._obs = np.stack([env.reset(seed=seed * 1000 + i)[0] for i, env in enumerate(self._all)])
        self._running = np.zeros(environments)
        self.returns: list[float] = []

    @property
    def sizes(self) -> tuple[int, int]:
        """Numbers in an observation, and actions."""
        space = self._all[0].action_space
        assert isinstance(space, gymnasium.spaces.Discrete)
        return self._obs.shape[1], int(space.n)

    def observe(self) -> Tensor:
        return torch.from_numpy(self._obs.astype(np.float32))

    def step(self, action: Action) -> Outcome:
        count = len(self._all)
        rewards, terminated, truncated = np.zeros(count, np.float32), np.zeros(count, bool), np.zeros(count, bool)
        next_obs = np.empty_like(self._obs)
        for i, (env, chosen) in enumerate(zip(self._all, action.actions.tolist(), strict=True)):
            next_obs[i], reward, terminated[i], truncated[i], _ = env.step(chosen)
            rewards[i] = reward
            self._running[i] += float(reward)
            if terminated[i] or truncated[i]:
                self.returns.append(self._running[i])
                self._running[i] = 0.0
                self._obs[i] = env.reset()[0]
            else:
                self._obs[i] = next_obs[i]
        seen = torch.from_numpy(next_obs.astype(np.float32))
        return Outcome(torch.from_numpy(rewards), torch.from_numpy(terminated), torch.from_numpy(truncated), seen)


def _layer(inputs: int, outputs: int, gain: float, generator: torch.Generator) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(layer.weight, gain, generator=generator)
    nn.init.zeros_(layer.bias)
    return layer


class ActorCritic(nn.Module):
    """Two separate networks of two hidden tanh layers, as PPO's classic-control baselines use."""

    def __init__(self, inputs: int, actions: int, *, hidden: int, seed: int) -> None:
        super().__init__()
        g, wide = generator_for(seed, "weights"), math.sqrt(2)
        self.actor = nn.Sequential(
            *(_layer(inputs, hidden, wide, g), nn.Tanh(), _layer(hidden, hidden, wide, g), nn.Tanh()),
            _layer(hidden, actions, 0.01, g),
        )
        self.critic = nn.Sequential(
            *(_layer(inputs, hidden, wide, g), nn.Tanh(), _layer(hidden, hidden, wide, g), nn.Tanh()),
            _layer(hidden, 1, 1.0, g),
        )

    def forward(self, obs: Tensor) -> PolicyOutput:
        return PolicyOutput(self.actor(obs), self.critic(obs).squeeze(-1))


class QNetwork(nn.Module):
    """Q-values by two hidden ReLU layers; the value is not used."""

    def __init__(self, inputs: int, actions: int, *, hidden: int, seed: int) -> None:
        super().__init__()
        g, wide = generator_for(seed, "weights"), math.sqrt(2)
        self.body = nn.Sequential(
            *(_layer(inputs, hidden, wide, g), nn.ReLU(), _layer(hidden, hidden, wide, g), nn.ReLU()),
            _layer(hidden, actions, 1.0, g),
        )

    def forward(self, obs: Tensor) -> PolicyOutput:
        q_values = self.body(obs)
        return PolicyOutput(q_values, q_values.max(-1).values)


@dataclass(frozen=True)
class Setting:
    """One algorithm on one task."""

    task: str
    algorithm: str
    interactions: int
    environments: int
    rollout_steps: int
    learning_rate: float
    settings: Mapping[str, object] = field(default_factory=dict)
    hidden: int = 64
    max_grad_norm: float = 0.5


@dataclass(frozen=True)
class Learned:
    """What came out: the returns of all training episodes in order, and the statistics of every update."""

    returns: list[float]
    updates: list[UpdateStats]

    def final(self, episodes: int = 100) -> float:
        """Mean return of the last episodes of training, actions still sampled."""
        return float(np.mean(self.returns[-episodes:]))


def learn(setting: Setting, *, seed: int, watch: Callable[[int, list[float]], None] | None = None) -> Learned:
    """Train on one seed, on one thread: the networks are too small to share."""
    task = ControlTask(setting.task, environments=setting.environments, seed=seed)
    network = QNetwork if setting.algorithm == "dqn" else ActorCritic
    model = network(*task.sizes, hidden=setting.hidden, seed=seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=setting.learning_rate, eps=1e-5)
    parameters = dict(model.named_parameters())
    learner = Learner(forward=model, parameters=parameters, optimizer=optimizer, max_grad_norm=setting.max_grad_norm)
    algorithm = make_algorithm(setting.algorithm, setting.settings, learner=learner, seed=seed)
    draws = generator_for(seed, "actions")
    per_rollout = setting.environments * setting.rollout_steps
    updates = []
    for number in range(setting.interactions // per_rollout):
        progress = number * per_rollout / setting.interactions
        act = partial(algorithm.act, progress=progress, generator=draws)
        rollout = collect(task, forward=model, act=act, steps=setting.rollout_steps)
        updates.append(algorithm.learn(rollout, progress=progress))
        if watch is not None:
            watch((number + 1) * per_rollout, task.returns)
    return Learned(task.returns, updates)
