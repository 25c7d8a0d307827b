"""The one gradient step per rollout that A2C and REINFORCE share; they differ in advantages and in which steps count.

loss = mean of -w * A * log pi(a|s) + vf_coef * 0.5 * (V - R)^2 - entropy_coef * H, over all samples at once; w = 1
unless a log chose the actions. `forward_rows`
bounds the memory: gradients of chunks are added, which gives the whole batch's gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ratchet_jobs.rl.categorical import entropy, log_prob_of
from ratchet_jobs.rl.diagnostics import explained_variance, kl_k3
from ratchet_jobs.rl.learner import Learner, UpdateStats
from ratchet_jobs.rl.losses import policy_gradient_loss, value_loss
from ratchet_jobs.rl.returns import center_and_scale
from ratchet_jobs.rl.rollout import Samples
from ratchet_jobs.runtime.errors import NotANumberError

_MEANS = ("policy_loss", "value_loss", "entropy", "approx_kl")


def single_pass(
    learner: Learner,
    samples: Samples,
    *,
    vf_coef: float,
    entropy_coef: float,
    forward_rows: int,
    normalize_advantages: bool,
    learning_rate: float,
) -> UpdateStats:
    """Take one optimizer step on all samples.

    Args:
        learner: what is trained.
        samples: (B,) of them, B >= 1, from the policy as it is now.
        vf_coef: weight of the value loss.
        entropy_coef: weight of the entropy bonus.
        forward_rows: most rows in one forward.
        normalize_advantages: over all B.
        learning_rate: of this step, for the statistics.

    Raises:
        NotANumberError: a mean or the gradient is NaN or infinite; no step was taken.
    """
    count = len(samples)
    advantages = center_and_scale(samples.advantages) if normalize_advantages else samples.advantages
    rows = torch.arange(count, device=samples.actions.device)[learner.share(count)]
    sums = torch.zeros(len(_MEANS), dtype=torch.float64, device=samples.actions.device)
    for chunk in torch.split(rows, forward_rows):
        if len(chunk) == 0:
            continue  # a team larger than the batch: this process has no row
        mine = samples.take(chunk)
        output = learner.forward(mine.obs)
        logprobs = log_prob_of(output.logits, mine.actions)
        policy = mine.weights * policy_gradient_loss(logprobs, advantages[chunk])
        value = value_loss(output.values.float(), mine.returns)
        spread = entropy(output.logits)
        losses = policy + vf_coef * value - entropy_coef * spread
        torch.autograd.backward(losses.sum() / count)
        parts: tuple[Tensor, ...] = (policy, value, spread, kl_k3(logprobs, mine.logprobs))
        sums += torch.stack([part.detach().double().sum() for part in parts])
    learner.team.sum_(sums)
    means = dict(zip(_MEANS, (sums / count).tolist(), strict=True))
    if not bool(torch.isfinite(sums).all()):
        learner.optimizer.zero_grad(set_to_none=True)
        raise NotANumberError(
            f"update on {count} samples: "
            + ", ".join(f"{name} {value:g}" for name, value in means.items())
            + "; lower the learning rate, or look for NaN in rewards and features"
        )
    return UpdateStats(
        **means,
        clipfrac=None,
        explained_variance=explained_variance(samples.values, samples.returns),
        grad_norm=learner.step(),
        learning_rate=learning_rate,
        optimizer_steps=1,
    )
