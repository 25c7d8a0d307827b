"""The stages that run in Jobs, and a small Python API on what they are made of.

`load_policy` asks a trained policy; `train_with_rl`, or `RLTrainer` with an `RLConfig`, trains any Hugging Face
sequence classifier from rewards. The names are looked up when first used: light stages never import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ratchet_jobs.policy import Policy, load_policy
    from ratchet_jobs.trainer import RLConfig, RLResult, RLTrainer, train_with_rl

__all__ = ["Policy", "RLConfig", "RLResult", "RLTrainer", "load_policy", "train_with_rl"]

_HOMES = {
    "Policy": "policy",
    "load_policy": "policy",
    "RLConfig": "trainer",
    "RLResult": "trainer",
    "RLTrainer": "trainer",
    "train_with_rl": "trainer",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ratchet_jobs' has no attribute {name!r}")
    return getattr(importlib.import_module(f"ratchet_jobs.{_HOMES[name]}"), name)
