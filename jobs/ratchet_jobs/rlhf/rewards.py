"""The reward of whole answers as a run's settings name it: the reward model's score and arithmetic over the answer.

Decides what an expression may name and how components add up. Never draws, never learns. Called by the stages; an
instance is the score function of `LanguagePPO`.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from ratchet_api.rlhf import REWARD_MODEL, AnswerReward
from ratchet_jobs.rewards.expression import evaluated, parse
from ratchet_jobs.rlhf.generate import Episodes
from ratchet_jobs.rlhf.reward_model import RewardModel
from ratchet_jobs.runtime.errors import BadConfigError


class _Said(NamedTuple):
    """B answers as expressions see them."""

    episodes: Episodes
    words: list[list[str]]
    texts: list[str]
    max_new_tokens: int


NAMES: Mapping[str, Callable[[_Said], Tensor]] = MappingProxyType(
    {
        "tokens": lambda said: said.episodes.lengths.double(),
        "max_tokens": lambda said: torch.full((len(said.texts),), float(said.max_new_tokens)),
        "ended": lambda said: said.episodes.stopped.double(),
        "characters": lambda said: torch.tensor([float(len(text)) for text in said.texts]),
        "words": lambda said: torch.tensor([float(len(words)) for words in said.words]),
        "distinct": lambda said: torch.tensor([len(set(w)) / len(w) if w else 0.0 for w in said.words]),
    }
)
"""What an expression may name, one number per answer each."""


class AnswerRewards:
    """The weighted sum of a run's components."""

    def __init__(
        self,
        components: Sequence[AnswerReward],
        *,
        texts: Callable[[Episodes], Sequence[str]],
        max_new_tokens: int,
        model: RewardModel | None,
    ) -> None:
        """Read the expressions.

        Args:
            components: of the run.
            texts: the words of answers, stop tokens left out.
            max_new_tokens: that an answer may have.
            model: the reward model, where a component is of that type.

        Raises:
            BadConfigError: an expression is malformed, or the reward model is missing.
        """
        if model is None and any(each.type == REWARD_MODEL for each in components):
            raise BadConfigError(
                "stages.rlhf.rewards: type rewardModel needs the reward-model stage; set stages.rewardModel"
            )
        self.latest: dict[str, float] = {}
        """Mean of each component, before its weight, over the last answers that were scored."""
        self.model = model
        self._components, self._texts, self._most = tuple(components), texts, max_new_tokens
        self._trees: dict[str, ast.expr] = {
            each.expression: parse(each.expression, names=NAMES) for each in components if each.expression is not None
        }

    def __call__(self, episodes: Episodes) -> Tensor:
        """Reward of each answer, (B,) float32.

        Raises:
            BadDataError: an expression has no value for an answer.
        """
        total = torch.zeros(len(episodes), dtype=torch.float64)
        means: dict[str, float] = {}
        texts = list(self._texts(episodes))
        said = _Said(episodes, [text.split() for text in texts], texts, self._most)
        for component in self._components:
            part = self._part(component, said)
            name = component.type if component.type not in means else f"{component.type}-{len(means) + 1}"
            means[name] = float(part.mean())
            total += component.weight * part
        self.latest = means
        return total.float()

    def _part(self, component: AnswerReward, said: _Said) -> Tensor:
        if component.expression is None:
            if self.model is None:
                raise BadConfigError("stages.rlhf.rewards: there is no reward model; set stages.rewardModel")
            return self.model.of_episodes(said.episodes).double().cpu()
        text, tree = component.expression, self._trees[component.expression]
        return evaluated(text, tree, lambda name: NAMES[name](said), rows=len(said.texts))
