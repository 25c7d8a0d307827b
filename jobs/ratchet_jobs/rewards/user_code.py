"""Reward computed by the user's own function, named as `module:function` and present in the stage's image.

Imports the module by its name and nothing else: no file from the store is ever run. The function is trusted as much as
the image is.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ratchet_jobs.rewards.batch import RewardBatch
from ratchet_jobs.runtime.errors import BadConfigError

_ENTRY_POINT = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)

UserFunction = Callable[[Tensor, Tensor, Tensor], Any]
"""(predictions (N,) int64, labels (N,) int64, confidences (N,) float32) -> N numbers (tensor, array or sequence)."""


def find_function(entry_point: str, *, field: str) -> Callable[..., Any]:
    """The function of that name, its module imported.

    Args:
        entry_point: such as `my_rewards.routing:score`.
        field: how messages call it.

    Raises:
        BadConfigError: the name is malformed, the image has no such function, or its module raises.
    """
    if _ENTRY_POINT.fullmatch(entry_point) is None:
        raise BadConfigError(f"{field}: {entry_point!r}; give it as package.module:function")
    module_name, _, name = entry_point.partition(":")
    try:
        function = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise BadConfigError(f"{field}: {entry_point!r} is not in this image ({error}); build it in") from error
    except Exception as error:  # foreign code: whatever it raises, the user has to know that it was theirs
        raise BadConfigError(
            f"{field}: {entry_point!r}: importing {module_name} raised {type(error).__name__}: {error}; mend the module"
        ) from error
    if not callable(function):
        raise BadConfigError(f"{field}: {entry_point!r} is a {type(function).__name__}; name a function")
    found: Callable[..., Any] = function
    return found


@dataclass(frozen=True, slots=True)
class EntryPoint:
    """Calls the named function once per batch, on copies.

    Raises:
        BadConfigError: the name is malformed, or the image has no such function.
    """

    entry_point: str
    """Such as `my_rewards.routing:score`."""
    _function: UserFunction = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_function", find_function(self.entry_point, field="reward entry_point"))

    def __call__(self, batch: RewardBatch) -> Tensor:
        """Rewards (N,) float32 on the batch's device.

        Raises:
            BadConfigError: the function raised, or did not answer with one number per row.
        """
        return call_user_function(self._function, batch, name=self.entry_point)


@dataclass(frozen=True, slots=True)
class UserFunctionReward:
    """The same for a function at hand, in a notebook."""

    function: UserFunction

    def __call__(self, batch: RewardBatch) -> Tensor:
        """Rewards (N,) float32; errors as `EntryPoint`."""
        return call_user_function(self.function, batch, name=getattr(self.function, "__qualname__", "function"))


def call_user_function(function: UserFunction, batch: RewardBatch, *, name: str) -> Tensor:
    """Call the function on copies of the batch's tensors and check its answer.

    Raises:
        BadConfigError: it raised, or did not answer with one number per row.
    """
    labels = batch.need_labels(name)
    arguments = (batch.actions, labels, batch.confidences)
    try:
        answer = function(*(tensor.detach().cpu().clone() for tensor in arguments))
        rewards = torch.as_tensor(answer, dtype=torch.float32)
    except Exception as error:  # foreign code: whatever it raises, the user has to know that it was theirs
        raise BadConfigError(f"reward {name}: raised {type(error).__name__}: {error}; mend the function") from error
    if rewards.shape != (len(batch),):
        raise BadConfigError(
            f"reward {name}: shape {tuple(rewards.shape)} came back for {len(batch)} rows; return one number per row"
        )
    return rewards.to(batch.probs.device)
