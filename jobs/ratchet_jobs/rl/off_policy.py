"""Learning about one policy from the log of another: importance weights and doubly robust reward estimates.

Propensity is the probability with which the logging policy chose the action that it logged. Dividing by it makes
rare choices count for those that were not made; clipping the weight trades a little bias for bounded variance.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ratchet_jobs.rl.shapes import require_same_shape


def importance_weights(logprobs: Tensor, propensities: Tensor, *, max_weight: float | None) -> Tensor:
    """pi(a|x) / mu(a|x) of the logged actions, cut at max_weight (Ionides 2008; Bottou et al. 2013, section 4.2).

    Args:
        logprobs: (B,) of the logged actions under the policy to judge.
        propensities: (B,) in (0, 1].
        max_weight: > 0, or None for plain IPS.

    Returns:
        (B,), >= 0, no gradient.

    Raises:
        ValueError: shapes differ, or a propensity is outside (0, 1].
    """
    require_same_shape("importance_weights", logprobs=logprobs, propensities=propensities)
    check_propensities(propensities)
    weights = logprobs.detach().exp() / propensities
    return weights if max_weight is None else weights.clamp(max=max_weight)


def imputed_rewards(
    actions: Tensor,
    logged_actions: Tensor,
    verdicts: Tensor,
    propensities: Tensor,
    *,
    estimates: Tensor | None,
    max_weight: float | None,
) -> Tensor:
    """Reward estimate of *any* action from one logged action per row (Dudik et al. 2011, arXiv:1103.4601, eq. 3).

    q(x, a) + [a = logged] * min(1 / mu, max_weight) * (verdict - q(x, a)); with q = 0 this is inverse propensity
    scoring, with a model's q it is doubly robust: unbiased (unclipped) when either q or mu is right.

    Args:
        actions: (B,) int64, to be scored.
        logged_actions: (B,) int64.
        verdicts: (B,) reward that people gave the logged action.
        propensities: (B,) of the logged action, in (0, 1].
        estimates: (B,) q(x, actions), or None for q = 0.
        max_weight: bound on 1 / mu, >= 1, or None.

    Returns:
        (B,), no gradient.

    Raises:
        ValueError: shapes differ, or a propensity is outside (0, 1].
    """
    q_values = torch.zeros_like(verdicts) if estimates is None else estimates
    require_same_shape(
        "imputed_rewards",
        actions=actions,
        logged_actions=logged_actions,
        verdicts=verdicts,
        propensities=propensities,
        estimates=q_values,
    )
    check_propensities(propensities)
    weights = propensities.reciprocal()
    weights = weights if max_weight is None else weights.clamp(max=max_weight)
    matched = (actions == logged_actions).to(verdicts.dtype)
    return (q_values + matched * weights * (verdicts - q_values)).detach()


def doubly_robust_values(
    probs: Tensor,
    estimates: Tensor,
    logged_actions: Tensor,
    verdicts: Tensor,
    propensities: Tensor,
    *,
    max_weight: float | None,
) -> Tensor:
    """What a policy is worth on each logged row (Dudik et al. 2011, arXiv:1103.4601, eq. 3); their mean is its value.

    sum_a pi(a|x) q(x, a) + min(pi(l|x) / mu, max_weight) * (verdict - q(x, l)), l = the logged action.

    Args:
        probs: (B, A) pi, of the policy to judge.
        estimates: (B, A) q, made without the rows' own verdicts.
        logged_actions: (B,) int64.
        verdicts: (B,) reward that people gave the logged action.
        propensities: (B,) mu, of the logged action, in (0, 1].
        max_weight: bound on pi / mu, or None.

    Returns:
        (B,), no gradient.

    Raises:
        ValueError: shapes differ, or a propensity is outside (0, 1].
    """
    require_same_shape("doubly_robust_values", probs=probs, estimates=estimates)
    places = logged_actions.unsqueeze(-1)
    logged_q = estimates.gather(-1, places).squeeze(-1)
    require_same_shape("doubly_robust_values", verdicts=verdicts, logged=logged_q)
    logprobs = probs.gather(-1, places).squeeze(-1).log()
    weights = importance_weights(logprobs, propensities, max_weight=max_weight)
    return ((probs * estimates).sum(-1) + weights * (verdicts - logged_q)).detach()


def effective_sample_size(weights: Tensor) -> float:
    """(sum w)^2 / sum w^2 (Kong 1992): how many equally weighted samples these are worth; (B,) -> 0..B."""
    squares = float(weights.double().square().sum())
    return float(weights.double().sum()) ** 2 / squares if squares > 0 else 0.0


def check_propensities(propensities: Tensor) -> None:
    """Refuse what is no probability of something that happened.

    Args:
        propensities: (B,).

    Raises:
        ValueError: naming the first row outside (0, 1], NaN included.
    """
    wrong = ~((propensities > 0) & (propensities <= 1))
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise ValueError(
            f"propensity: row {row} has {float(propensities[row]):g}; a logged action had a probability above 0 and "
            "at most 1: log it when acting, or leave the row out"
        )
