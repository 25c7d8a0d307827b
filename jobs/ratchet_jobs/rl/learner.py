"""What an algorithm trains, and the one way in which it takes an optimizer step.

A step is the same whether one process does it or several: everyone holds the whole minibatch's numbers, computes the
loss of its own rows divided by *all* rows, and the gradients are summed. So a team's step equals one process's
step on the whole minibatch up to the order of additions, advantage normalisation and early stop included.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor, nn

from ratchet_jobs.rl.rollout import PolicyOutput
from ratchet_jobs.rl.schedules import linear
from ratchet_jobs.rl.sharing import share_of, sum_gradients
from ratchet_jobs.runtime.errors import NotANumberError
from ratchet_jobs.runtime.team import Solo, Team

Forward = Callable[[Tensor], PolicyOutput]
"""Observations (B, *O) in, logits (B, A) and values (B,) out, with gradient where autograd is on."""


@dataclass(frozen=True, slots=True)
class Stepper:
    """What is trained, and how a step is taken on its gradients.

    A parameter group's learning rate is its `peak` (by default the rate it was made with) times the schedule's factor.
    """

    parameters: Mapping[str, nn.Parameter]
    """All that is trained, by name, in one order on every process."""
    optimizer: torch.optim.Optimizer
    """Over exactly these parameters."""
    max_grad_norm: float = 0.5
    """Gradients are scaled down to this global L2 norm."""
    team: Team = field(default_factory=Solo)

    def __post_init__(self) -> None:
        for group in self.optimizer.param_groups:
            group.setdefault("peak", group["lr"])

    def set_rate(self, *, progress: float, final_lr_factor: float, warmth: float = 1.0) -> float:
        """Set every group's learning rate, linear in progress from its peak to final_lr_factor of it.

        Args:
            progress: share of the run that is done, 0..1.
            final_lr_factor: 1 = constant, 0 = down to nothing.
            warmth: share of the warm-up that is behind, in (0, 1]; the rates are that share of themselves.

        Returns:
            The first group's rate.
        """
        factor = linear(1.0, final_lr_factor, progress=progress) * warmth
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        return float(self.optimizer.param_groups[0]["lr"])

    def share(self, rows: int) -> slice:
        """Which of a minibatch's rows this process computes: every size-th from its rank on, perhaps none."""
        return share_of(self.team, rows)

    def step(self) -> float:
        """Sum the gradients over the team, clip, step, clear.

        Returns:
            The gradients' norm before clipping.

        Raises:
            NotANumberError: it is NaN or infinite; the parameters are left as they were.
        """
        sum_gradients(self.team, self.parameters.values())
        norm = float(nn.utils.clip_grad_norm_(self.parameters.values(), self.max_grad_norm))
        if not math.isfinite(norm):
            self.optimizer.zero_grad(set_to_none=True)
            raise NotANumberError(
                f"gradient norm {norm}; the step was not taken. Lower the learning rate (now "
                f"{self.optimizer.param_groups[0]['lr']:g}), or look for NaN in rewards and features"
            )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def state(self) -> dict[str, Tensor]:
        """Parameters and the optimizer's moments by name, for a checkpoint."""
        tensors = {f"parameter/{name}": p.detach().clone() for name, p in self.parameters.items()}
        for name, parameter in self.parameters.items():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                if value is not None:  # SGD without momentum notes that it has none
                    tensors[f"optimizer/{key}/{name}"] = torch.as_tensor(value).detach().clone()
        return tensors

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Put back what `state()` gave."""
        self.optimizer.state.clear()
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(state[f"parameter/{name}"])
        for full_name, tensor in state.items():
            kind, _, rest = full_name.partition("/")
            if kind == "optimizer":
                key, _, name = rest.partition("/")
                parameter = self.parameters[name]
                # a count of steps stays on the host, where Adam wants it; moments stand beside their parameter
                device = "cpu" if tensor.ndim == 0 else parameter.device
                # moments lie in memory as their parameter does: what goes on from here takes the same steps, to the bit
                fresh = torch.empty_like(parameter, dtype=tensor.dtype) if tensor.ndim else torch.empty_like(tensor)
                self.optimizer.state[parameter][key] = fresh.to(device).copy_(tensor)


@dataclass(frozen=True, slots=True)
class Learner(Stepper):
    """The model as an algorithm of single actions sees it."""

    forward: Forward = field(kw_only=True)


@dataclass(frozen=True, slots=True)
class UpdateStats:
    """One update in the field's usual words; None where a number does not exist for the algorithm."""

    policy_loss: float | None
    """Mean over the steps taken, as are the next four."""
    value_loss: float | None
    """For DQN the TD loss."""
    entropy: float | None
    """In nats."""
    approx_kl: float | None
    """k3 estimate of how far the policy is from the one that acted, before each step."""
    clipfrac: float | None
    """Share of samples whose ratio lay outside the clip range."""
    explained_variance: float | None
    """Of the returns by the values when acting; None where all returns were equal."""
    grad_norm: float
    """Mean before clipping."""
    learning_rate: float
    """Of the first parameter group."""
    optimizer_steps: int
    stopped_early: bool = False
    """The approximate KL passed its target before all minibatches were seen."""

    def as_metrics(self) -> dict[str, float]:
        """By name, without what does not exist."""
        return {name: float(value) for name, value in asdict(self).items() if value is not None}
