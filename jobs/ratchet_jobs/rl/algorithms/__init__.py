"""The algorithms by name: a new one is one file here and one row below.

Decides nothing itself. Called by the RL recipe with the `algorithm` field's value and its settings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any

from ratchet_jobs.rl.algorithms.a2c import A2C, A2CConfig
from ratchet_jobs.rl.algorithms.base import Algorithm
from ratchet_jobs.rl.algorithms.dqn import DQN, DQNConfig
from ratchet_jobs.rl.algorithms.ppo import PPO, PPOConfig
from ratchet_jobs.rl.algorithms.reinforce import Reinforce, ReinforceConfig
from ratchet_jobs.rl.learner import Learner
from ratchet_jobs.runtime.errors import BadConfigError


@dataclass(frozen=True, slots=True)
class AlgorithmRow:
    """How an algorithm is made."""

    config: type[Any]
    """A frozen dataclass whose fields are the settings, with defaults."""
    make: Callable[..., Algorithm]
    """Called with (config, learner=, seed=)."""


ALGORITHMS: Mapping[str, AlgorithmRow] = MappingProxyType(
    {
        "ppo": AlgorithmRow(PPOConfig, PPO),
        "a2c": AlgorithmRow(A2CConfig, A2C),
        "reinforce": AlgorithmRow(ReinforceConfig, Reinforce),
        "dqn": AlgorithmRow(DQNConfig, DQN),
    }
)


def make_algorithm(name: str, settings: Mapping[str, object], *, learner: Learner, seed: int) -> Algorithm:
    """Make an algorithm.

    Args:
        name: a key of ALGORITHMS.
        settings: fields of its config that are not to keep their default.
        learner: what it trains.
        seed: of its draws.

    Raises:
        BadConfigError: there is no such algorithm or setting, or a setting is out of range.
    """
    if name not in ALGORITHMS:
        raise BadConfigError(f"algorithm: {name!r} is not known; there are: {', '.join(ALGORITHMS)}")
    row = ALGORITHMS[name]
    known = [field.name for field in fields(row.config)]
    for setting in settings:
        if setting not in known:
            raise BadConfigError(f"{name}.{setting}: {name} has no such setting; it has: {', '.join(known)}")
    return row.make(row.config(**settings), learner=learner, seed=seed)
