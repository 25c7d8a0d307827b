"""Everything that the next optimizer step depends on, as one safetensors file of a checkpoint.

Parameters, AdamW's moments, the generators and the losses so far (their number is the data cursor). Restoring it and
going on gives the bits that never stopping would have given. Called by the recipes' checkpoints.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

STATE_FILE = "training.safetensors"
_MOMENTS = ("exp_avg", "exp_avg_sq")


def save_training_state(
    folder: Path, *, parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.AdamW, losses: Sequence[float]
) -> None:
    """Write the state after a whole number of steps.

    Args:
        folder: of the checkpoint.
        parameters: all that is trained, by name.
        optimizer: over exactly these parameters; has stepped at least once.
        losses: one per step done, float32 values.
    """
    tensors = {
        "losses": torch.tensor(losses, dtype=torch.float32),
        "generator/cpu": torch.get_rng_state(),
        **{f"parameter/{name}": parameter.detach() for name, parameter in parameters.items()},
        **{f"{m}/{name}": optimizer.state[parameter][m] for name, parameter in parameters.items() for m in _MOMENTS},
    }
    if torch.cuda.is_available():
        tensors["generator/cuda"] = torch.cuda.get_rng_state()
    save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, folder / STATE_FILE)


def load_training_state(
    folder: Path, *, parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.AdamW
) -> list[float]:
    """Restore what `save_training_state` wrote.

    Args:
        folder: of the checkpoint.
        parameters: overwritten in place.
        optimizer: its moments and step counts are replaced.

    Returns:
        The losses of the steps done.
    """
    tensors = load_file(folder / STATE_FILE)
    losses: list[float] = tensors["losses"].tolist()
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[f"parameter/{name}"])
            moments = {m: tensors[f"{m}/{name}"].to(parameter.device) for m in _MOMENTS}
            step = torch.tensor(float(len(losses)), device=parameter.device)
            optimizer.state[parameter] = {"step": step, **moments}
    torch.set_rng_state(tensors["generator/cpu"])
    if torch.cuda.is_available() and "generator/cuda" in tensors:
        torch.cuda.set_rng_state(tensors["generator/cuda"])
    return losses
