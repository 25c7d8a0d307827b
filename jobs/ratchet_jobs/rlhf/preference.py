"""Losses of policies that learn from judged answers; pure: tensors in, tensors out.

A *log ratio* is log pi(y|x) - log pi_ref(y|x) of a whole answer, summed over its tokens; beta times it is the answer's
implicit reward. All losses are per row and to be minimised.
Called by `preference_training.py`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ratchet_jobs.rl.shapes import require_same_shape


def dpo_loss(chosen: Tensor, rejected: Tensor, *, beta: float) -> Tensor:
    """-log sigmoid(beta * (chosen - rejected)) (Rafailov et al. 2023, arXiv:2305.18290, eq. 7).

    Args:
        chosen: (B,) log ratios of the better answers; carries the gradient.
        rejected: (B,) of the worse answers to the same prompts; carries it, too.
        beta: > 0.

    Returns:
        (B,); log 2 where the policy is the reference.

    Raises:
        ValueError: shapes differ.
    """
    require_same_shape("dpo_loss", chosen=chosen, rejected=rejected)
    return -functional.logsigmoid(beta * (chosen - rejected))


def reference_point(mismatched: Tensor) -> Tensor:
    """z0 of KTO: how far the policy is from the reference, estimated by answers to *other* prompts, no gradient.

    max(0, mean) of their log ratios (Ethayarajh et al. 2024, arXiv:2402.01306, section 4.1).

    Args:
        mismatched: (B,) log ratios of answers after prompts that they do not belong to.

    Returns:
        A scalar, >= 0.
    """
    return mismatched.detach().mean().clamp_min(0.0)


def kto_loss(
    log_ratios: Tensor,
    desirable: Tensor,
    z0: Tensor,
    *,
    beta: float,
    desirable_weight: float,
    undesirable_weight: float,
) -> Tensor:
    """Weight * (1 - sigmoid(+-beta * (log ratio - z0))), + for good answers (arXiv:2402.01306, eq. 8).

    Args:
        log_ratios: (B,), carries the gradient.
        desirable: (B,) bool, True = a good answer.
        z0: scalar, of `reference_point`.
        beta: > 0.
        desirable_weight: > 0, of good answers.
        undesirable_weight: > 0, of bad ones.

    Returns:
        (B,).

    Raises:
        ValueError: shapes differ.
    """
    require_same_shape("kto_loss", log_ratios=log_ratios, desirable=desirable)
    gain = beta * (log_ratios - z0)
    good = desirable_weight * (1.0 - torch.sigmoid(gain))
    return torch.where(desirable, good, undesirable_weight * (1.0 - torch.sigmoid(-gain)))
