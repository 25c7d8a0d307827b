"""The reward of whole answers as a run's settings name it: the reward model's score and arithmetic over the answer.

Decides what an expression may name and how components add up. Never draws, never learns. Called by the stages; an
instance is the score function of `LanguagePPO`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from ratchet_api.rlhf import REWARD_MODEL, AnswerReward
from ratchet_jobs.metrics.generation import answer_bleu, distinct, repetition
from ratchet_jobs.rewards.expression import evaluated, parse
from ratchet_jobs.rlhf.generate import Episodes
from ratchet_jobs.rlhf.reward_model import RewardModel
from ratchet_jobs.runtime.errors import BadConfigError


class _Said(NamedTuple):
    """B answers as expressions see them."""

    episodes: Episodes
    words: list[list[str]]
    texts: list[str]
    references: list[Sequence[str]]
    """Right answers to each prompt, where they are known."""
    max_new_tokens: int


def _each(of: Callable[[str], float]) -> Callable[[_Said], Tensor]:
    return lambda said: torch.tensor([of(text) for text in said.texts], dtype=torch.float64)


def _bleu(order: int) -> Callable[[_Said], Tensor]:
    def likeness(said: _Said) -> Tensor:
        rows = zip(said.texts, said.references, strict=True)
        return torch.tensor([answer_bleu(text, right, order=order) if right else 0.0 for text, right in rows])

    return likeness


NAMES: Mapping[str, Callable[[_Said], Tensor]] = MappingProxyType(
    {
        "tokens": lambda said: said.episodes.lengths.double(),
        "max_tokens": lambda said: torch.full((len(said.texts),), float(said.max_new_tokens)),
        "ended": lambda said: said.episodes.stopped.double(),
        "characters": lambda said: torch.tensor([float(len(text)) for text in said.texts]),
        "words": lambda said: torch.tensor([float(len(words)) for words in said.words]),
        "distinct": lambda said: torch.tensor([len(set(w)) / len(w) if w else 0.0 for w in said.words]),
        "distinct2": _each(lambda text: distinct([text], order=2)),
        "repetition": _each(lambda text: repetition([text])),
        "bleu1": _bleu(1),
        "bleu2": _bleu(2),
    }
)
"""What an expression may name, one number per answer each."""


def said_of(text: str, words: Sequence[str]) -> float:
    """Share of the listed words that a text says, whatever their case and what stands around them."""
    found = set(re.findall(r"\w+", text.casefold()))
    wanted = {word.casefold() for word in words}
    return len(wanted & found) / len(wanted)


class AnswerRewards:
    """The weighted sum of a run's components."""

    def __init__(
        self,
        components: Sequence[AnswerReward],
        *,
        texts: Callable[[Episodes], Sequence[str]],
        max_new_tokens: int,
        model: RewardModel | None,
        references: Mapping[tuple[int, ...], Sequence[str]] = MappingProxyType({}),
    ) -> None:
        """Read the expressions.

        Args:
            components: of the run.
            texts: the words of answers, stop tokens left out.
            max_new_tokens: that an answer may have.
            model: the reward model, where a component is of that type.
            references: right answers by the tokens of their prompt; an answer to another prompt is like nothing.

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
        self._references = references
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
        said = _Said(episodes, [text.split() for text in texts], texts, self._right(episodes), self._most)
        for component in self._components:
            part = self._part(component, said)
            name = component.type if component.type not in means else f"{component.type}-{len(means) + 1}"
            means[name] = float(part.mean())
            total += component.weight * part
        self.latest = means
        return total.float()

    def _right(self, episodes: Episodes) -> list[Sequence[str]]:
        rows = zip(episodes.prompt_ids.tolist(), episodes.prompt_mask.tolist(), strict=True)
        prompts = (tuple(token for token, real in zip(*row, strict=True) if real) for row in rows)
        return [self._references.get(prompt, ()) for prompt in prompts]

    def _part(self, component: AnswerReward, said: _Said) -> Tensor:
        if component.words is not None:
            listed = component.words
            return torch.tensor([said_of(text, listed) for text in said.texts], dtype=torch.float64)
        if component.expression is None:
            if self.model is None:
                raise BadConfigError("stages.rlhf.rewards: there is no reward model; set stages.rewardModel")
            return self.model.of_episodes(said.episodes).double().cpu()
        text, tree = component.expression, self._trees[component.expression]
        return evaluated(text, tree, lambda name: NAMES[name](said), rows=len(said.texts))
