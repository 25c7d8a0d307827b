"""Several rewards as one: each scaled, clipped and weighted by its own curriculum, added, and logged apart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from ratchet_jobs.rewards.batch import Reward, RewardBatch
from ratchet_jobs.rewards.curriculum import Curriculum
from ratchet_jobs.runtime.errors import BadConfigError, NotANumberError


@dataclass(frozen=True, slots=True)
class Term:
    """One component: weight(step) * clip(scale * reward + offset, clip).

    Raises:
        BadConfigError: a number is not finite, or the clip's ends are not in order.
    """

    name: str
    """For logs and messages; unique within a sum."""
    reward: Reward
    weight: float | Curriculum = 1.0
    """A number, or one that changes with the training step."""
    scale: float = 1.0
    offset: float = 0.0
    clip: tuple[float, float] | None = None
    """Smallest and largest value after scaling."""
    task: int | None = None
    """Number of the task whose answers it rewards, the others with 0; None = all."""

    def __post_init__(self) -> None:
        plain = [self.scale, self.offset, *(self.clip or ())]
        if not isinstance(self.weight, Curriculum):
            plain.append(self.weight)
        if not all(math.isfinite(number) for number in plain):
            raise BadConfigError(f"reward {self.name}: weight, scale, offset or clip is not finite; give plain numbers")
        if self.clip is not None and not self.clip[0] < self.clip[1]:
            raise BadConfigError(f"reward {self.name}: clip {list(self.clip)}; give the smaller number first")

    def value(self, batch: RewardBatch) -> Tensor:
        """Unweighted (N,): scaled, shifted and clipped.

        Raises:
            NotANumberError: the component gave NaN or infinity.
        """
        raw = self.reward(batch)
        wrong = ~torch.isfinite(raw)
        if bool(wrong.any()):
            row = int(wrong.nonzero()[0])
            raise NotANumberError(
                f"reward {self.name}: row {row} is {float(raw[row])}; look for NaN in its inputs, or bound the reward"
            )
        shaped = raw * self.scale + self.offset
        shaped = shaped if self.clip is None else shaped.clamp(*self.clip)
        return shaped * self.concerns(batch)

    def concerns(self, batch: RewardBatch) -> Tensor:
        """(N,) bool, True = the row answers the task that this component rewards."""
        if self.task is None or batch.tasks is None:
            return torch.ones(len(batch), dtype=torch.bool, device=batch.probs.device)
        return batch.tasks == self.task

    def weight_at(self, step: int) -> float:
        """The weight at a training step."""
        return self.weight.at(step) if isinstance(self.weight, Curriculum) else self.weight


class PartStats(NamedTuple):
    """One component over the rows of one batch that it rewards, before its weight; 0 if there are none."""

    mean: float
    std: float
    """Population deviation."""
    weight: float
    """At this step."""


@dataclass(frozen=True, slots=True)
class Scored:
    """The rewards of one batch."""

    total: Tensor
    """(N,) float32."""
    parts: Mapping[str, PartStats]
    """By component."""
    constant: bool = field(default=False)
    """Every row got the same reward: nothing can be learned from this batch alone."""

    def as_metrics(self) -> dict[str, float]:
        """reward_mean, reward_std, and per component reward/<name>/{mean,std,weight}."""
        metrics = {"reward_mean": float(self.total.mean()), "reward_std": float(self.total.std(correction=0))}
        for name, part in self.parts.items():
            metrics |= {f"reward/{name}/{key}": value for key, value in part._asdict().items()}
        return metrics


class WeightedSum:
    """The sum of its terms; itself a `Reward` by its `total`.

    Raises:
        BadConfigError: no terms, or two of one name.
    """

    def __init__(self, terms: Sequence[Term]) -> None:
        names = [term.name for term in terms]
        if not names:
            raise BadConfigError("rewards: none given; name at least one")
        for name in names:
            if names.count(name) > 1:
                raise BadConfigError(
                    f"rewards: {names.count(name)} components are called {name!r}; give each its own name"
                )
        self.terms = tuple(terms)

    def __call__(self, batch: RewardBatch) -> Tensor:
        """Rewards (N,) float32."""
        return self.score(batch).total

    def score(self, batch: RewardBatch) -> Scored:
        """Rewards of a batch with what each component contributed.

        Raises:
            StageError: a component cannot be computed; the message names it.
        """
        if len(batch) == 0:
            raise ValueError("reward batch: no rows; score at least one choice")
        total = torch.zeros(len(batch), device=batch.probs.device)
        parts: dict[str, PartStats] = {}
        for term in self.terms:
            value, weight = term.value(batch).float(), term.weight_at(batch.step)
            total = total + weight * value
            told = value[term.concerns(batch)]
            told = told if len(told) else value.new_zeros(1)
            parts[term.name] = PartStats(float(told.mean()), float(told.std(correction=0)), weight)
        return Scored(total=total, parts=parts, constant=bool((total == total[0]).all()))
