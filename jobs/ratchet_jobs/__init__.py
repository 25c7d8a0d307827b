"""The stages that run in Jobs, and a small Python API on what they are made of.

`load_policy` asks a trained policy; `train_with_rl`, or `RLTrainer` with an `RLConfig`, trains any Hugging Face
sequence classifier from rewards; `RLHFTrainer` with a `TrainingConfig` trains a language model from feedback. The names
are looked up when first used: light stages never import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ratchet_jobs.policy import Policy, load_policy
    from ratchet_jobs.rlhf.config import RewardModelConfig, TrainingConfig
    from ratchet_jobs.rlhf.result import TrainingResult
    from ratchet_jobs.rlhf.trainer import RLHFTrainer
    from ratchet_jobs.trainer import RLConfig, RLResult, RLTrainer, train_with_rl

__all__ = [
    "Policy",
    "RLConfig",
    "RLHFTrainer",
    "RLResult",
    "RLTrainer",
    "RewardModelConfig",
    "TrainingConfig",
    "TrainingResult",
    "load_policy",
    "train_with_rl",
]

_HOMES = {
    "Policy": "policy",
    "load_policy": "policy",
    "RLConfig": "trainer",
    "RLResult": "trainer",
    "RLTrainer": "trainer",
    "train_with_rl": "trainer",
    "RLHFTrainer": "rlhf.trainer",
    "RewardModelConfig": "rlhf.config",
    "TrainingConfig": "rlhf.config",
    "TrainingResult": "rlhf.result",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ratchet_jobs' has no attribute {name!r}")
    return getattr(importlib.import_module(f"ratchet_jobs.{_HOMES[name]}"), name)
