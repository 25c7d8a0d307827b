"""What is watched while learning: how far the policy moved, how often clipping acted, how much the values explain."""

from __future__ import annotations

from torch import Tensor

from ratchet_jobs.rl.shapes import require_same_shape


def kl_k1(logprobs: Tensor, old_logprobs: Tensor) -> Tensor:
    """Estimate of KL(old || new) per sample, (B,): -log ratio. Unbiased, may be negative (Schulman 2020, k1).

    Raises:
        ValueError: shapes differ.
    """
    require_same_shape("kl_k1", logprobs=logprobs, old_logprobs=old_logprobs)
    return old_logprobs - logprobs


def kl_k3(logprobs: Tensor, old_logprobs: Tensor) -> Tensor:
    """Estimate of KL(old || new) per sample, (B,): (ratio - 1) - log ratio. Unbiased and never negative (k3).

    Source: Schulman 2020, "Approximating KL Divergence", joschu.net/blog/kl-approx.html.

    Raises:
        ValueError: shapes differ.
    """
    require_same_shape("kl_k3", logprobs=logprobs, old_logprobs=old_logprobs)
    log_ratio = logprobs - old_logprobs
    return log_ratio.expm1() - log_ratio


def clipped(logprobs: Tensor, old_logprobs: Tensor, *, cliprange: float) -> Tensor:
    """Which samples' ratio lies outside 1 +- cliprange, (B,) bool; its mean is `clipfrac`.

    Raises:
        ValueError: shapes differ.
    """
    require_same_shape("clipped", logprobs=logprobs, old_logprobs=old_logprobs)
    return ((logprobs - old_logprobs).exp() - 1.0).abs() > cliprange


def explained_variance(values: Tensor, returns: Tensor) -> float | None:
    """1 - Var(returns - values) / Var(returns): 1 = perfect, 0 = no better than a constant, below 0 = worse.

    Args:
        values: (B,).
        returns: (B,).

    Returns:
        None where all returns are equal: there is nothing to explain.

    Raises:
        ValueError: shapes differ.
    """
    require_same_shape("explained_variance", values=values, returns=returns)
    spread = returns.double().var(correction=0).item()
    if spread == 0.0:
        return None
    return 1.0 - float((returns.double() - values.double()).var(correction=0)) / spread
