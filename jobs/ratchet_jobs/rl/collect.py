"""The interaction loop: ask the policy, tell the environment, write down what happened.

The same function serves a classifier's queries (episodes of one step) and anything with time in it. It computes no
reward and makes no choice itself; those are the environment's and the algorithm's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ratchet_jobs.rl.learner import Forward
from ratchet_jobs.rl.rollout import Action, PolicyOutput, Rollout


class Outcome(NamedTuple):
    """What E environments answered."""

    rewards: Tensor
    """(E,) float32."""
    terminated: Tensor
    """(E,) bool."""
    truncated: Tensor
    """(E,) bool."""
    next_obs: Tensor
    """(E, *O) of the same episodes, *before* the ended ones were started anew."""


class Environment(Protocol):
    """E episodes in lock-step; one that ends is started anew by the environment itself."""

    def observe(self) -> Tensor:
        """What there is to act on now, (E, *O)."""

    def step(self, action: Action) -> Outcome:
        """Carry out the actions."""


Act = Callable[[PolicyOutput], Action]


def collect(environment: Environment, *, forward: Forward, act: Act, steps: int) -> Rollout:
    """Let the policy act for some steps.

    One forward per step, and one more only where an unfinished or truncated episode's next value is needed.

    Args:
        environment: is left where the last step put it.
        forward: the policy.
        act: chooses from its output; `Algorithm.act` with its arguments bound.
        steps: T, >= 1.

    Returns:
        T * E interactions without gradients.
    """
    all_obs: list[Tensor] = []
    taken: list[Action] = []
    outcomes: list[Outcome] = []
    with torch.no_grad():
        for _ in range(steps):
            obs = environment.observe()
            action = act(forward(obs))
            all_obs.append(obs)
            taken.append(action)
            outcomes.append(environment.step(action))
        values = torch.stack([action.output.values.float() for action in taken])  # (T, E)
        next_values = _next_values(values, outcomes, forward)
    return Rollout(
        obs=torch.stack(all_obs),
        actions=torch.stack([action.actions for action in taken]),
        logprobs=torch.stack([action.logprobs for action in taken]),
        values=values,
        rewards=torch.stack([outcome.rewards for outcome in outcomes]),
        terminated=torch.stack([outcome.terminated for outcome in outcomes]),
        truncated=torch.stack([outcome.truncated for outcome in outcomes]),
        next_obs=torch.stack([outcome.next_obs for outcome in outcomes]),
        next_values=next_values,
    )


def _next_values(values: Tensor, outcomes: list[Outcome], forward: Forward) -> Tensor:
    """(T, E): the next step's value, or a forward of its own where the next step is another episode or not there."""
    next_values = torch.cat([values[1:], torch.zeros_like(values[:1])])
    for t, outcome in enumerate(outcomes):
        last = t == len(outcomes) - 1
        needed = ~outcome.terminated if last else outcome.truncated & ~outcome.terminated
        if bool(needed.any()):
            next_values[t, needed] = forward(outcome.next_obs[needed]).values.float()
    return next_values
