"""What both contenders do: the same weights, prompts, reward and settings. Imported in both environments.

The reward is arithmetic on the tokens of an answer, so that it costs neither contender anything and means the same to
both: w(t) = log P(t | good review) - log P(t | bad review), the score is the sigmoid of the answer's sum. A second
table, counted on other reviews, is the judge that nobody maximises.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

CONTENDERS = ("ratchet", "trl", "trl-lean")
REWARDS = ("table", "model")
DTYPES = ("float32", "bfloat16")
PROMPT_TOKENS = 16
"""Of every prompt: nobody pads."""


@dataclass(frozen=True, slots=True)
class Hyper:
    """Settings, equal for all."""

    batch_size: int = 8
    passes: int = 2
    """In which the batch is worked on for one optimizer step, gradients added up: less memory, the same step."""
    new_tokens: int = 32
    ppo_epochs: int = 2
    rank: int = 16
    alpha: int = 32
    learning_rate: float = 1e-4
    temperature: float = 1.0
    kl_coef: float = 0.05
    gamma: float = 1.0
    lam: float = 0.95
    cliprange: float = 0.2
    cliprange_value: float = 0.2
    vf_coef: float = 0.1


@dataclass(frozen=True, slots=True)
class Task:
    """Prompts and tables, as `prepare.py` made them."""

    prompts: Tensor
    """(N, PROMPT_TOKENS) int64, to train on."""
    held_out: Tensor
    """(M, PROMPT_TOKENS) int64, of other reviews."""
    reward: Tensor
    """(V,) float32 weight of each token."""
    judge: Tensor
    """(V,) float32, counted on other reviews than `reward`."""


def read_task(file: Path) -> Task:
    """Read what `prepare.py` wrote."""
    return Task(**load_file(file))


def score(weights: Tensor, response_ids: Tensor, response_mask: Tensor) -> Tensor:
    """Score of each answer: weights (V,), answers (B, T) and what counts of them -> (B,) in 0..1."""
    return torch.sigmoid((weights[response_ids] * response_mask).sum(1))
