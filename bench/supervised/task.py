"""What both contenders do: the same rows, the same encoder, the same hyper-parameters."""

from __future__ import annotations

from dataclasses import dataclass

CONTENDERS = ("ratchet", "trainer", "trainer-grouped")

BLOCK_LINEARS = (
    "query",
    "key",
    "value",
    "attention.output.dense",
    "intermediate.dense",
    "output.dense",
)
"""Endings that select every linear layer of BERT's blocks, as Ratchet does by default."""


@dataclass(frozen=True, slots=True)
class Hyper:
    """Hyper-parameters, equal for both."""

    epochs: float
    batch_size: int = 16
    learning_rate: float = 1e-3
    warmup_ratio: float = 0.06
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    max_tokens: int = 96
    rank: int = 16
    alpha: int = 32
    seed: int = 0
