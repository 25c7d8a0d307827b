"""How the processes of a team share one batch: each computes its own rows, and everyone ends with the same numbers.

Rows are dealt in turn, so texts of like length, which stand together, are shared evenly. Gradients are summed and never
averaged: each process divides by *all* rows, so a team's step is one process's step on the whole batch up to the order
of additions. A team of one computes exactly what it would without this. Called by `Learner` and the recipes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from ratchet_jobs.rl.rollout import PolicyOutput
from ratchet_jobs.rl.seeds import generator_for
from ratchet_jobs.runtime.team import Team


def share_of(team: Team, rows: int | None = None) -> slice:
    """Which of a batch's rows this process computes: every size-th from its rank on, perhaps none."""
    return slice(team.rank, rows, team.size)


def sum_gradients(team: Team, parameters: Iterable[nn.Parameter]) -> None:
    """Sum the gradients over the team in one exchange; a process without rows takes part with zeros.

    Args:
        team: of one = nothing happens.
        parameters: all that is trained, in one order on every process.
    """
    if team.size == 1:
        return
    gradients: list[Tensor] = []
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        gradients.append(parameter.grad)
    joined = torch.cat([gradient.flatten() for gradient in gradients])
    team.sum_(joined)
    for gradient, part in zip(gradients, torch.split(joined, [g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def seed_share(team: Team, seed: int, step: int) -> None:
    """Let each process of several draw its own dropout in a step, whatever it drew before: a checkpoint has one state.

    Args:
        team: of one = nothing happens, its generator goes on.
        seed: of the run.
        step: of the stage.
    """
    if team.size > 1:
        torch.manual_seed(generator_for(seed, "dropout", step, team.rank).initial_seed())


def of_first(team: Team, tensor: Tensor) -> Tensor:
    """The first process's numbers on every process: of what a clock or foreign code decided."""
    if team.size == 1:
        return tensor
    told = tensor.clone() if team.rank == 0 else torch.zeros_like(tensor)
    team.sum_(told)
    return told


def in_shares(
    forward: Callable[[Tensor], PolicyOutput], team: Team, *, actions: int
) -> Callable[[Tensor], PolicyOutput]:
    """A forward without gradient whose rows the team shares; everyone gets every row's answer.

    Args:
        forward: observations (B, *O) in, float32 logits (B, A) and values (B,) out.
        team: every process of it must call with equal observations.
        actions: A, which a process without rows could not know.
    """
    if team.size == 1:
        return forward

    def shared(obs: Tensor) -> PolicyOutput:
        joined = torch.zeros((len(obs), actions + 1), device=obs.device)  # others' rows are 0, which adds nothing
        mine = obs[share_of(team)]
        if len(mine):
            output = forward(mine)
            joined[share_of(team)] = torch.cat([output.logits, output.values.unsqueeze(1)], dim=1)
        team.sum_(joined)
        return PolicyOutput(logits=joined[:, :-1], values=joined[:, -1])

    return shared
