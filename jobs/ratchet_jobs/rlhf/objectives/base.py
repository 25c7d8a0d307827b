"""What tells one algorithm of a generator's RL from another: what its answers are worth, and the loss on them.

Everything else (drawing, scoring, reference, minibatches, the penalty's weight, breakers, checkpoints) is the loop's
(`ratchet_jobs.rlhf.ppo`) and the same for all. Objectives are pure: tensors in, tensors out. Called by the loop.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor

from ratchet_jobs.rlhf.generate import Episodes


class Experience(NamedTuple):
    """A step's episodes with all that the update learns from."""

    episodes: Episodes
    """Log-probabilities and values in it are the old ones of the ratio and of the value's clip."""
    advantages: Tensor
    """(B, T), 0 where masked out."""
    returns: Tensor
    """(B, T) value targets; 0 where an objective has no value model."""
    ref_logprobs: Tensor
    """(B, T) of the reference, 0 where masked out."""

    def take(self, rows: Tensor) -> Experience:
        """Some rows, without the columns in which none of them has a token.

        Args:
            rows: (M,) int64.
        """
        episodes = self.episodes.take(rows)
        width = episodes.response_mask.shape[1]
        advantages, returns, reference = (part[rows, :width] for part in self[1:])
        return Experience(episodes, advantages, returns, reference)


class Losses(NamedTuple):
    """To be minimised, with gradient, summed by the caller."""

    policy: Tensor
    """(N,) of tokens or answers, as the objective counts them."""
    value: Tensor | None
    """(N,) of tokens; None = there is no value model."""


class Objective(Protocol):
    """An algorithm."""

    @property
    def group_size(self) -> int:
        """Answers to each prompt of a step, next to each other; 1 = every answer is judged by itself."""

    @property
    def has_values(self) -> bool:
        """Whether the value head is asked and trained."""

    def experience(self, episodes: Episodes, scores: Tensor, ref_logprobs: Tensor, *, kl_coef: float) -> Experience:
        """Give every token of B answers its advantage.

        Args:
            episodes: B of them; each `group_size` in a row answer one prompt.
            scores: (B,) of whole answers.
            ref_logprobs: (B, T).
            kl_coef: weight of the penalty on leaving the reference.
        """

    def count(self, lengths: Tensor) -> int:
        """By what the summed losses of an optimizer step are divided: its tokens or its answers.

        Args:
            lengths: tokens of its answers.
        """

    def losses(self, old: Experience, logprobs: Tensor, values: Tensor | None, *, kl_coef: float) -> Losses:
        """Losses of some answers.

        Args:
            old: M of the step's answers.
            logprobs: (M, T) under the policy that is trained; carries the gradient.
            values: (M, T) now; None = the objective has none.
            kl_coef: as in `experience`.
        """
