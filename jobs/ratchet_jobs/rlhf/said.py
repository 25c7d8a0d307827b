"""Answers as the components of a reward see them: their words, and what the dataset's rows say of their prompts.

Pure data; made by `rewards`, read by everything in `components`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from ratchet_api.answer_reward import AnswerReward, Catalogue
from ratchet_api.rl import PolicyArtifact
from ratchet_jobs.data.demonstrations import Demonstration
from ratchet_jobs.judging.judge import ScoringJudge
from ratchet_jobs.policy import Policy
from ratchet_jobs.rlhf.generate import Episodes
from ratchet_jobs.rlhf.reward_model import RewardModel
from ratchet_jobs.runtime.errors import BadConfigError

Rows = Mapping[tuple[int, ...], Sequence[Demonstration]]
"""The dataset's rows by the tokens of their prompt."""


class Said(NamedTuple):
    """B answers."""

    episodes: Episodes
    texts: list[str]
    rows: list[Sequence[Demonstration]]
    """Of each prompt; none where no row has it."""
    max_new_tokens: int

    def each(self, of: Callable[[str], float]) -> Tensor:
        """A number of each answer's text, (B,) float64."""
        return numbers(of(text) for text in self.texts)


def _nowhere(wanted: Catalogue) -> Path:
    raise FileNotFoundError(wanted.uri)


def _nobody(wanted: PolicyArtifact) -> Policy:
    raise FileNotFoundError(wanted.uri)


def _unmade(wanted: AnswerReward) -> ScoringJudge:
    raise BadConfigError(f"stages.rlhf.rewards: the judge of {wanted.called} was not made; only stages ask judges")


class Sources(NamedTuple):
    """Where components find what they are made of."""

    model: RewardModel | None = None
    rows: Rows = MappingProxyType({})
    """Whose prompts are answered."""
    mentioned: frozenset[str] = frozenset()
    """Items that rows of the train split mention."""
    catalogue: Callable[[Catalogue], Path] = _nowhere
    """Fetches a file of items."""
    classifier: Callable[[PolicyArtifact], Policy] = _nobody
    """Fetches a committed classifier, ready to be asked."""
    judge: Callable[[AnswerReward], ScoringJudge] = _unmade
    """The judge of a component."""


Component = Callable[[Said], Tensor]
"""What B answers are worth in one respect, (B,) float64; of a critic (B, 1 + Q), with its qualities beside it."""


def numbers(values: Iterable[float]) -> Tensor:
    """What was counted of each answer, (B,) float64."""
    return torch.tensor(list(values), dtype=torch.float64)
