"""What stays of a generator's rl stage that has to stop: the weights of the last step at which nothing was wrong.

Decides where they lie and what the stage's message says of them. They are whole policies, as a committed rl stage has
them, so that a run may start from them; beside each lies its value head, where it has one.
Called by `rl_generator` and `rl_agents` when a breaker fired.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import structlog
import torch
from safetensors.torch import save_file

from ratchet_jobs.rlhf.trunk import Trunk
from ratchet_jobs.runtime.context import StageContext
from ratchet_jobs.runtime.errors import StoreError

VALUE_HEAD_FILE = "value_head.safetensors"

log = structlog.get_logger(__name__)


def save_value_head(trunk: Trunk, folder: Path) -> None:
    """Write a policy's value model: weight (1, D) and bias (1,) of the linear head on its last hidden states."""
    head: dict[str, torch.Tensor] = trunk.value_head.state_dict()
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in head.items()}, folder / VALUE_HEAD_FILE)


def keep_last_good(ctx: StageContext, write: Callable[[Path], None], *, steps: Mapping[str, int]) -> str:
    """Store the last good weights, and say where.

    Args:
        ctx: of the stage that stops.
        write: writes the policies into a folder.
        steps: whose weights they are, by agent; "" = the only policy. 0 = no step was good.

    Returns:
        What the stage's message should say of it. A store that fails here must not hide why the stage stopped, so the
        sentence then says that nothing was kept.
    """
    if not any(steps.values()):
        return "no step before was good, so nothing is kept: start anew from what rl started from"
    what = "the last good weights, of " + ", ".join(f"{name} step {step}".strip() for name, step in steps.items())
    try:
        kept = ctx.checkpoints.keep_last_good(write)
    except (StoreError, OSError) as error:
        log.warning("last good weights not kept", steps=dict(steps), error=str(error))
        return f"{what}, could not be kept: {error}"
    return (
        f"{what}, are kept: go on from them in a run of mode rl_only with "
        f"startFrom: {{artifact: {{uri: {kept.uri}, sha256: {kept.digest}}}}}"
    )
