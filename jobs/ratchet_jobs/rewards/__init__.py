"""Reward components by name: a new one is one file here and one row below.

Decides nothing itself; components are pure functions of a `RewardBatch`. Called by the RL recipe with what the
spec's reward section says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from types import MappingProxyType

from ratchet_jobs.rewards.accuracy import Accuracy
from ratchet_jobs.rewards.batch import Reward
from ratchet_jobs.rewards.calibration import Calibration
from ratchet_jobs.rewards.confident_mistakes import ConfidentMistakes
from ratchet_jobs.rewards.cost_matrix import CostMatrix
from ratchet_jobs.rewards.expression import Expression
from ratchet_jobs.rewards.f1 import F1
from ratchet_jobs.rewards.feedback import Feedback
from ratchet_jobs.rewards.latency import Latency
from ratchet_jobs.rewards.user_code import EntryPoint
from ratchet_jobs.runtime.errors import BadConfigError

REWARDS: Mapping[str, Callable[..., Reward]] = MappingProxyType(
    {
        "accuracy": Accuracy,
        "f1": F1,
        "calibration": Calibration,
        "custom": ConfidentMistakes,
        "expression": Expression,
        "feedback": Feedback,
        "cost_matrix": CostMatrix,
        "latency": Latency,
        "entry_point": EntryPoint,
    }
)
"""Every value is a frozen dataclass whose public fields are the component's settings."""


def settings_of(kind: str) -> list[str]:
    """Names of the settings that a component takes, in order.

    Raises:
        BadConfigError: there is no such component.
    """
    if kind not in REWARDS:
        raise BadConfigError(f"reward: {kind!r} is not known; there are: {', '.join(REWARDS)}")
    return [f.name for f in fields(REWARDS[kind]) if f.init]  # type: ignore[arg-type]  # every row is a dataclass


def make_reward(kind: str, settings: Mapping[str, object]) -> Reward:
    """Make one component.

    Args:
        kind: a key of REWARDS.
        settings: its fields by name.

    Raises:
        BadConfigError: there is no such component or setting, a setting is missing, or one is out of range.
    """
    known = settings_of(kind)
    for setting in settings:
        if setting not in known:
            raise BadConfigError(f"reward {kind}: no setting {setting!r}; it has: {', '.join(known) or 'none'}")
    try:
        return REWARDS[kind](**settings)
    except TypeError as error:
        raise BadConfigError(f"reward {kind}: {error}; it takes: {', '.join(known) or 'nothing'}") from error
