"""How long a training would take, roughly, without loading the model: its operations over the device's measured speed.

Decides the arithmetic of the estimate. Called by `trainer.py`.
"""

from __future__ import annotations

import math
import time
from pathlib import Path

import torch
from safetensors import safe_open

from ratchet_jobs.rlhf.config import TrainingConfig

_PROMPT_TOKENS = 64
"""What a prompt is taken to have."""
_USED = 0.3
"""Share of the device's speed in large products that training reaches; the rest waits for memory."""
_SIDE = 1024
_MEASURED_SECONDS = 0.1


def count_parameters(folder: Path) -> int:
    """Weights of a model folder, read from the headers of its safetensors."""
    total = 0
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(str(file), framework="pt") as tensors:
            total += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())
    return total


def training_operations(config: TrainingConfig, *, parameters: int, feedbacks: int) -> float:
    """Floating-point operations of a training.

    Two per weight and token in each pass, three times that with gradient. An episode is drawn, scored, asked of
    the reference, and seen ppo_epochs times with gradient; a feedback is seen num_epochs times with gradient. With dpo
    and kto two answers of each feedback of a step are asked of the reference, and seen once with gradient.

    Args:
        config: steps, sizes, epochs.
        parameters: of the model.
        feedbacks: the reward model's rows.
    """
    tokens = _PROMPT_TOKENS + config.max_new_tokens
    if config.judges:
        return 2.0 * parameters * tokens * config.max_steps * min(config.batch_size, feedbacks) * 2 * (1 + 3)
    episodes = config.max_steps * config.batch_size * (3 + 3 * config.ppo_epochs)
    return 2.0 * parameters * tokens * (episodes + 3 * feedbacks * config.reward_model_config.num_epochs)


def seconds_for(operations: float, device: torch.device, dtype: torch.dtype) -> float:
    """How long a device takes for them, by the speed of a product of matrices measured for a moment."""
    left = torch.ones(_SIDE, _SIDE, device=device, dtype=dtype)
    _wait(left @ left)
    begin, products = time.perf_counter(), 0
    while time.perf_counter() - begin < _MEASURED_SECONDS:
        _wait(left @ left)
        products += 1
    speed = products * 2.0 * _SIDE**3 / (time.perf_counter() - begin)
    return operations / (speed * _USED)


def _wait(result: torch.Tensor) -> None:
    if result.device.type == "cuda":
        torch.cuda.synchronize(result.device)
