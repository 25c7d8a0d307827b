"""The algorithms of a generator's RL, one row each; what they share is `ratchet_jobs.rlhf.ppo`'s."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Protocol

from ratchet_api.rlhf import OnlineAlgorithm
from ratchet_jobs.rlhf.objectives.base import Experience, Losses, Objective
from ratchet_jobs.rlhf.objectives.groups import GroupRelative, LeaveOneOut
from ratchet_jobs.rlhf.objectives.proximal import Proximal

__all__ = ["OBJECTIVES", "Experience", "Losses", "Objective"]


class Wanted(Protocol):
    """The settings that an objective reads."""

    @property
    def group_size(self) -> int:
        """Answers to each prompt."""

    @property
    def gamma(self) -> float:
        """Discount per token."""

    @property
    def lam(self) -> float:
        """Of GAE."""

    @property
    def cliprange(self) -> float:
        """Of the ratio."""

    @property
    def cliprange_value(self) -> float:
        """Of the value."""


OBJECTIVES: Mapping[OnlineAlgorithm, Callable[[Wanted], Objective]] = MappingProxyType(
    {
        "ppo": lambda wanted: Proximal(wanted.gamma, wanted.lam, wanted.cliprange, wanted.cliprange_value),
        "grpo": lambda wanted: GroupRelative(wanted.group_size, wanted.cliprange),
        "rloo": lambda wanted: LeaveOneOut(wanted.group_size, wanted.cliprange),
    }
)
"""Algorithm -> what makes its objective of the loop's settings."""
