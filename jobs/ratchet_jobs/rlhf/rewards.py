"""The reward of whole answers as a run's settings name it: the weighted sum of its components.

Decides how components add up and what each of them is called. Never draws, never learns; what a component says is
decided in `components`. Called by the stages; an instance is the score function of `LanguagePPO`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ratchet_api.answer_reward import AnswerReward, AnswerRewardType
from ratchet_api.policy_types import ITEM_REWARDS
from ratchet_jobs.data.demonstrations import Demonstration
from ratchet_jobs.rewards.curriculum import Curriculum
from ratchet_jobs.rlhf.components import COMPONENTS
from ratchet_jobs.rlhf.generate import Episodes
from ratchet_jobs.rlhf.said import Component, Said, Sources


class _Part(NamedTuple):
    """A component as it is made for this run."""

    name: str
    type: AnswerRewardType
    weight: Curriculum
    worth: Component
    qualities: tuple[str, ...]
    """What it tells beside that; told, never added."""


class AnswerRewards:
    """The weighted sum of a run's components."""

    def __init__(
        self,
        components: Sequence[AnswerReward],
        *,
        texts: Callable[[Episodes], Sequence[str]],
        max_new_tokens: int,
        sources: Sources,
    ) -> None:
        """Make the components.

        Args:
            components: of the run.
            texts: the words of answers, stop tokens left out.
            max_new_tokens: that an answer may have.
            sources: where they find what they are made of. An answer to a prompt that no row has is like nothing.

        Raises:
            StageError: a component's settings are malformed, or what it needs is missing.
        """
        self.latest: dict[str, float] = {}
        """Mean of each component, before its weight, and of each quality, over the last answers that were scored."""
        self.interactions: float = math.inf
        """Answers that were drawn before, by which curricula weigh; without end = their last weights."""
        self._texts, self._most, self._rows = texts, max_new_tokens, sources.rows
        self._items = next((each for each in components if each.type in ITEM_REWARDS), None)
        self._sources = sources
        self.parts: list[_Part] = []
        for each in components:
            taken = {part.name for part in self.parts}
            name = each.called if each.called not in taken else f"{each.called}-{len(self.parts) + 1}"
            told = tuple(sources.model.qualities) if each.type == "rewardModel" and sources.model is not None else ()
            self.parts.append(_Part(name, each.type, _weight(each), COMPONENTS[each.type](each, sources), told))

    def __call__(self, episodes: Episodes) -> Tensor:
        """Reward of each answer, (B,) float32.

        Raises:
            BadDataError: an expression has no value for an answer.
            JudgeUnavailable: a judge does not answer.
            BadConfigError: a judge refuses its settings.
        """
        return self.weighed(self.worths(episodes))

    def asks(self, kind: AnswerRewardType) -> bool:
        """Whether a component is of that type."""
        return any(part.type == kind for part in self.parts)

    def latest_of(self, kind: AnswerRewardType) -> float:
        """Mean of the first component of a type, before its weight, over the last answers that were scored."""
        return next(self.latest[part.name] for part in self.parts if part.type == kind)

    def weighed(self, worths: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum of what `worths` gave, (B,) float32."""
        done = self.interactions
        return torch.stack([part.weight.at(done) * worths[part.name] for part in self.parts]).sum(0).float()

    def worths(self, episodes: Episodes) -> dict[str, Tensor]:
        """What each answer is worth by each component, before its weight: (B,) float64 by the component's name.

        A critic's qualities stand there as NAME/QUALITY.

        Raises:
            BadDataError: as when called.
        """
        said = Said(episodes, list(self._texts(episodes)), self._known(episodes), self._most)
        found: dict[str, Tensor] = {}
        for part in self.parts:
            worth = part.worth(said)
            columns = worth.unbind(1) if worth.ndim == 2 else (worth,)
            names = (part.name, *(f"{part.name}/{quality}" for quality in part.qualities))
            found |= dict(zip(names, columns, strict=True))
        self.latest = {name: float(worth.mean()) for name, worth in found.items()}
        return found

    def items_named(self, episodes: Episodes) -> Tensor | None:
        """Whether each answer names an item of the first component that knows items, (B,) float64; None = none does.

        Raises:
            StageError: the items cannot be read.
        """
        if self._items is None:
            return None
        wanted = AnswerReward(type="itemRatio", catalogue=self._items.catalogue)
        said = Said(episodes, list(self._texts(episodes)), self._known(episodes), self._most)
        return COMPONENTS["itemRatio"](wanted, self._sources)(said)

    def _known(self, episodes: Episodes) -> list[Sequence[Demonstration]]:
        rows = zip(episodes.prompt_ids.tolist(), episodes.prompt_mask.tolist(), strict=True)
        prompts = (tuple(token for token, real in zip(*row, strict=True) if real) for row in rows)
        return [self._rows.get(prompt, ()) for prompt in prompts]


def _weight(reward: AnswerReward) -> Curriculum:
    points = reward.curriculum
    if points is None:
        return Curriculum(((0, reward.weight),))
    return Curriculum(tuple((point.at_interaction, point.weight) for point in points))
