"""Component `expression`: arithmetic over an answer. Decides what an expression may name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from ratchet_api.rlhf import AnswerReward
from ratchet_jobs.metrics.generation import answer_bleu, distinct, repetition
from ratchet_jobs.rewards.expression import evaluated, parse
from ratchet_jobs.rlhf.said import Component, Said, Sources, numbers


def _bleu(order: int) -> Callable[[Said], Tensor]:
    def likeness(said: Said) -> Tensor:
        known = [[row.response for row in rows] for rows in said.rows]
        pairs = zip(said.texts, known, strict=True)
        return numbers(answer_bleu(text, right, order=order) if right else 0.0 for text, right in pairs)

    return likeness


def _different(text: str) -> float:
    words = text.split()
    return len(set(words)) / len(words) if words else 0.0


NAMES: Mapping[str, Callable[[Said], Tensor]] = MappingProxyType(
    {
        "tokens": lambda said: said.episodes.lengths.double(),
        "max_tokens": lambda said: torch.full((len(said.texts),), float(said.max_new_tokens)),
        "ended": lambda said: said.episodes.stopped.double(),
        "characters": lambda said: said.each(len),
        "words": lambda said: said.each(lambda text: len(text.split())),
        "distinct": lambda said: said.each(_different),
        "distinct2": lambda said: said.each(lambda text: distinct([text], order=2)),
        "repetition": lambda said: said.each(lambda text: repetition([text])),
        "bleu1": _bleu(1),
        "bleu2": _bleu(2),
    }
)
"""What an expression may name, one number per answer each."""


def make(wanted: AnswerReward, sources: Sources) -> Component:
    """The component.

    Raises:
        BadConfigError: the expression is malformed.
    """
    text = str(wanted.expression)
    tree = parse(text, names=NAMES)
    return lambda said: evaluated(text, tree, lambda name: NAMES[name](said), rows=len(said.texts))
