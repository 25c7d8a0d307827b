"""Component `empathy`: how likely an answer feels as the one who is answered, as a classifier of emotions says.

What that one feels is said by the row (columns.emotion); of a row that does not say, the classifier is asked about the
last turn. With probabilities q of that one's emotions and p of the answer's, the worth is Σ q p: the chance that both
draw the same. An empty answer feels nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ratchet_api.answer_reward import AnswerReward
from ratchet_jobs.data.demonstrations import Demonstration
from ratchet_jobs.policy import Policy
from ratchet_jobs.rlhf.said import Component, Rows, Said, Sources
from ratchet_jobs.runtime.errors import BadLabelsError, BadModelError

FIELD = "stages.rlhf.rewards: classifier"


class Empathy:
    """The component; speakers are asked about once."""

    def __init__(self, policy: Policy, *, uri: str, rows: Rows) -> None:
        """Take a classifier.

        Args:
            policy: with one task.
            uri: of the classifier, for messages.
            rows: whose emotions it must know.

        Raises:
            BadModelError: it has several tasks.
            BadLabelsError: a row names an emotion that it does not know.
        """
        if policy.tasks:
            raise BadModelError(
                f"{FIELD} {uri}: it has the tasks {', '.join(policy.tasks)}; name a classifier of emotions alone"
            )
        self._policy = policy
        self._place = {label: place for place, label in enumerate(policy.labels)}
        self._felt: dict[str, NDArray[np.float64]] = {}
        named = {row.emotion for known in rows.values() for row in known if row.emotion is not None}
        if odd := sorted(named - self._place.keys()):
            raise BadLabelsError(
                f"{FIELD} {uri}: it tells {', '.join(policy.labels)}, and rows of the dataset name the emotion "
                f"{odd[0]!r}; name another classifier, or remove spec.columns.emotion of the dataset"
            )

    def __call__(self, said: Said) -> Tensor:
        """Worth of each answer, (B,) float64."""
        feels = self._policy.predict_proba(said.texts)  # (B, C)
        spoke = self._speakers(said.rows)
        alive = np.array([bool(text.strip()) for text in said.texts])
        return torch.from_numpy((feels * spoke).sum(1) * alive)

    def _speakers(self, rows: Sequence[Sequence[Demonstration]]) -> NDArray[np.float64]:
        """What those who are answered feel, (B, C); nothing where no row has the prompt."""
        first = [known[0] if known else None for known in rows]
        unknown = {row.turns[-1].content for row in first if row is not None and row.emotion is None}
        if asked := sorted(unknown - self._felt.keys()):
            self._felt |= dict(zip(asked, self._policy.predict_proba(asked), strict=True))
        found = np.zeros((len(first), len(self._place)))
        for place, row in enumerate(first):
            if row is None:
                continue
            if row.emotion is None:
                found[place] = self._felt[row.turns[-1].content]
            else:
                found[place, self._place[row.emotion]] = 1.0
        return found


def make(wanted: AnswerReward, sources: Sources) -> Component:
    """The component.

    Raises:
        StageError: the classifier is not there, or cannot be asked.
    """
    if wanted.classifier is None:
        raise BadModelError(f"{FIELD} is missing; name a committed classifier of emotions")
    return Empathy(sources.classifier(wanted.classifier), uri=wanted.classifier.uri, rows=sources.rows)
