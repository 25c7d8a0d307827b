"""Reward from logged human verdicts on the action that a policy chose, the true label unknown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ratchet_jobs.rewards.batch import Logged, RewardBatch
from ratchet_jobs.rl.off_policy import imputed_rewards
from ratchet_jobs.runtime.errors import BadConfigError, BadDataError


@dataclass(frozen=True, slots=True)
class Feedback:
    """Estimate of the reward of the batch's actions from the log's.

    Estimators: `direct` = the verdict itself, for batches whose actions *are* the logged ones (the samples' weights
    then carry the propensity); `ips` = verdict / propensity where the actions agree, else 0; `doubly_robust` = a
    model's estimate, corrected by ips where they agree.

    Raises:
        BadConfigError: unknown estimator, or max_weight below 1.
    """

    estimator: Literal["direct", "ips", "doubly_robust"] = "ips"
    max_weight: float | None = 10.0
    """Bound on 1 / propensity: less variance for some bias; None = unbounded."""

    def __post_init__(self) -> None:
        if self.estimator not in ("direct", "ips", "doubly_robust"):
            raise BadConfigError(
                f"reward feedback: estimator {self.estimator!r}; there are: direct, ips, doubly_robust"
            )
        if self.max_weight is not None and not self.max_weight >= 1:
            raise BadConfigError(f"reward feedback: max_weight {self.max_weight}; give a number from 1 up, or none")

    def __call__(self, batch: RewardBatch) -> Tensor:
        """Rewards (N,) float32.

        Raises:
            BadDataError: no log, a verdict that is no number, a propensity outside (0, 1], estimates missing, or
                actions of another policy given to `direct`.
        """
        logged = _checked(batch)
        if self.estimator == "direct":
            if bool((batch.actions != logged.actions).any()):
                row = int((batch.actions != logged.actions).nonzero()[0])
                raise BadDataError(
                    f"reward feedback: row {row} is about action {int(logged.actions[row])}, but the policy chose "
                    f"{int(batch.actions[row])}; a log of another policy's actions needs estimator ips or doubly_robust"
                )
            return logged.verdicts.float()
        if self.estimator == "doubly_robust" and logged.estimates is None:
            raise BadDataError("reward feedback: doubly_robust needs a reward model's estimates; use estimator ips")
        try:
            return imputed_rewards(
                batch.actions,
                logged.actions,
                logged.verdicts.float(),
                logged.propensities.float(),
                estimates=logged.estimates if self.estimator == "doubly_robust" else None,
                max_weight=self.max_weight,
            )
        except ValueError as error:
            raise BadDataError(f"reward feedback: {error}") from error


def _checked(batch: RewardBatch) -> Logged:
    logged = batch.logged
    if logged is None:
        raise BadDataError("reward feedback: needs logged verdicts; use a dataset whose source is feedback")
    wrong = ~torch.isfinite(logged.verdicts)
    if bool(wrong.any()):
        raise BadDataError(
            f"reward feedback: the verdict of row {int(wrong.nonzero()[0])} is no number; leave such rows out"
        )
    return logged
