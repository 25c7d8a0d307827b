"""What rewards are computed from: the choices of one rollout and all that is known about them. Reads nothing itself."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import NamedTuple, Protocol, Self

import torch
from torch import Tensor

from ratchet_jobs.runtime.errors import BadDataError


class Logged(NamedTuple):
    """What people said about an action that some policy chose earlier, one per row."""

    actions: Tensor
    """(N,) int64, the logged choice."""
    verdicts: Tensor
    """(N,) how good people found it, usually 0..1."""
    propensities: Tensor
    """(N,) probability with which it was chosen, in (0, 1]."""
    estimates: Tensor | None = None
    """(N,) a model's guess of the reward of the batch's own actions, for doubly robust estimates."""


@dataclass(frozen=True, slots=True)
class RewardBatch:
    """N choices; what is None is not known for this batch.

    Raises:
        ValueError: lengths differ, or probs are no (N, C) table.
    """

    actions: Tensor
    """(N,) int64, the classes chosen."""
    probs: Tensor
    """(N, C) float32, the policy's probabilities when choosing."""
    step: int = 0
    """Optimizer steps or interactions done, whatever the curriculum counts."""
    correct: Tensor | None = None
    """(N,) 1 = right, 0 = wrong, between = partly; from labels or from someone's verdict on this very choice."""
    labels: Tensor | None = None
    """(N,) int64, the true classes."""
    latency_ms: Tensor | None = None
    """(N,) measured time per sample at serving batch size."""
    logged: Logged | None = None
    """Feedback from a log, where learning is offline."""
    tasks: Tensor | None = None
    """(N,) int64, the task that each choice answers; None = there is one."""

    def __post_init__(self) -> None:
        if self.probs.ndim != 2:
            raise ValueError(f"reward batch: probs {tuple(self.probs.shape)}; give (rows, classes)")
        tensors = {f.name: getattr(self, f.name) for f in fields(self)}
        tensors |= {} if self.logged is None else {f"logged.{k}": v for k, v in self.logged._asdict().items()}
        wrong = {n: tuple(t.shape) for n, t in tensors.items() if isinstance(t, Tensor) and t.shape[:1] != (len(self),)}
        if wrong:
            raise ValueError(f"reward batch: {len(self)} rows of probs, but {wrong}; give one value per row")

    @classmethod
    def with_labels(
        cls,
        actions: Tensor,
        probs: Tensor,
        labels: Tensor,
        *,
        step: int = 0,
        latency_ms: Tensor | None = None,
        tasks: Tensor | None = None,
    ) -> Self:
        """A batch whose true classes are known: correct = (action equals label)."""
        correct = (actions == labels).to(torch.float32)
        return cls(
            actions=actions,
            probs=probs,
            step=step,
            correct=correct,
            labels=labels,
            latency_ms=latency_ms,
            tasks=tasks,
        )

    def __len__(self) -> int:
        return len(self.probs)

    @property
    def confidences(self) -> Tensor:
        """(N,) probability of the chosen class."""
        return self.probs.gather(1, self.actions.unsqueeze(1)).squeeze(1)

    @property
    def label_probs(self) -> Tensor:
        """(N,) probability of the true class.

        Raises:
            BadDataError: the labels are not known.
        """
        return self.probs.gather(1, self.need_labels("label_prob").unsqueeze(1)).squeeze(1)

    @property
    def entropies(self) -> Tensor:
        """(N,) entropy of the probabilities in nats; 0 log 0 counts as 0."""
        return -torch.xlogy(self.probs, self.probs).sum(1)

    def need_correct(self, asking: str) -> Tensor:
        """`correct`, for a reward that cannot do without.

        Raises:
            BadDataError: it is not known.
        """
        return _need(self.correct, asking, "whether each choice was right", "a dataset with labels or verdicts")

    def need_labels(self, asking: str) -> Tensor:
        """`labels`, for a reward that cannot do without.

        Raises:
            BadDataError: they are not known.
        """
        return _need(self.labels, asking, "the true labels", "a labelled dataset, or a reward from `correct` alone")

    def need_latency(self, asking: str) -> Tensor:
        """`latency_ms`, for a reward that cannot do without.

        Raises:
            BadDataError: it was not measured.
        """
        return _need(self.latency_ms, asking, "measured latency", "this reward in a stage that measures it")


class Reward(Protocol):
    """One component: pure, from a batch to one number per row."""

    def __call__(self, batch: RewardBatch) -> Tensor:
        """Rewards (N,) float32."""


def _need(tensor: Tensor | None, asking: str, what: str, remedy: str) -> Tensor:
    if tensor is None:
        raise BadDataError(f"reward {asking}: needs {what}, which is not known here; use {remedy}")
    return tensor
