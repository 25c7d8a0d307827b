"""The files of an RLHF training on disk: the policy as a whole model, and checkpoints that a crash cannot half-write.

Decides what each folder holds; safetensors and JSON only. Called by `trainer.py` and
`trainer_preference.py`.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import GenerationConfig

from ratchet_jobs.generators.artifact import copy_wording
from ratchet_jobs.rlhf.result import LOG_FILE
from ratchet_jobs.rlhf.trunk import Trunk
from ratchet_jobs.runtime.errors import BadConfigError, is_disk_full

_TENSORS, _NUMBERS = "ppo.safetensors", "ppo.json"


class Saved(NamedTuple):
    """A checkpoint that was read back whole."""

    tensors: dict[str, Tensor]
    numbers: dict[str, Any]


def save_policy(trunk: Trunk, folder: Path, *, tokenizer_from: Path) -> None:
    """Write the policy as a whole model with its tokenizer: `AutoModelForCausalLM.from_pretrained` loads it as it is.

    Weights that two places share, as embedding and head often do, are written once and shared again when loaded.

    Args:
        trunk: its policy is written; nothing of it changes.
        folder: made if missing.
        tokenizer_from: folder of the base model.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with torch.device("meta"):  # a model without adapters, and without memory until it is given weights
        plain = type(trunk.base)(trunk.config)
    plain.load_state_dict(trunk.merged_weights(), assign=True)
    plain.tie_weights()
    wording = trunk.wording
    # of the base's own settings for answers only what ends and fills a sequence is taken over
    plain.generation_config = GenerationConfig(eos_token_id=wording.eos_id, pad_token_id=wording.pad_id)
    plain.save_pretrained(str(folder))
    copy_wording(tokenizer_from, folder)


def save_checkpoint(folder: Path, step: int, *, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
    """Write a checkpoint beside the others, give it its name when it is whole, and delete the older ones.

    Args:
        folder: of all checkpoints.
        step: names it.
        tensors: on any device.
        numbers: for JSON.

    Raises:
        BadConfigError: the disk is full; the checkpoints before are left as they were.
    """
    try:
        _write_checkpoint(folder, step, tensors=tensors, numbers=numbers)
    except (OSError, SafetensorError) as error:
        if not is_disk_full(error):
            raise
        shutil.rmtree(folder / "unfinished", ignore_errors=True)
        raise BadConfigError(
            f"checkpoint of step {step} in {folder}: the disk is full; free space and call again: training goes on "
            "from the checkpoint before it"
        ) from error


def _write_checkpoint(folder: Path, step: int, *, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
    unfinished = folder / "unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, unfinished / _TENSORS)
    (unfinished / _NUMBERS).write_text(json.dumps(numbers, sort_keys=True) + "\n")
    for name in (_TENSORS, _NUMBERS):
        with (unfinished / name).open("rb") as file:
            os.fsync(file.fileno())
    target = folder / f"step-{step:08d}"
    shutil.rmtree(target, ignore_errors=True)
    unfinished.rename(target)
    for older in sorted(folder.glob("step-*"))[:-2]:
        shutil.rmtree(older)


def latest_checkpoint(folder: Path) -> Saved | None:
    """The newest checkpoint that can be read; None = there is none."""
    for found in sorted(folder.glob("step-*"), reverse=True):
        try:
            return Saved(load_file(found / _TENSORS), json.loads((found / _NUMBERS).read_bytes()))
        except (OSError, ValueError, SafetensorError):
            continue
    return None


def cut_log(folder: Path, steps: int) -> None:
    """Take off a version's log what was written after the checkpoint that is gone on with."""
    log = folder / LOG_FILE
    lines = log.read_text().splitlines(keepends=True) if log.is_file() else []
    log.write_text("".join(lines[:steps]))
