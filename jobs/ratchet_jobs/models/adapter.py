"""LoRA adapters of one kind of model or the other: put on, written, read and put back.

Decides which bytes an adapter becomes, in peft's own format, and that one which does not fit its base is refused.
Never decides which layers are adapted, never trains. Called by the classifier and the generators.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from ratchet_jobs.models.lora import fold_lora
from ratchet_jobs.runtime.errors import BadModelError

ADAPTER_FILE = "adapter_model.safetensors"
ADAPTER_CONFIG_FILE = "adapter_config.json"


def adapt(model: PreTrainedModel, config: LoraConfig) -> PeftModel:
    """Put new adapters onto a model, drawn by torch's generator as it stands."""
    with warnings.catch_warnings():
        # peft asks the model for a property that transformers has renamed; nothing of ours is deprecated.
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
        adapted: PeftModel = get_peft_model(model, config)
    fold_lora(adapted)
    return adapted


def write_adapter(model: PeftModel, folder: Path) -> None:
    """Write the adapter's two files. Equal weights and settings give equal bytes."""
    # peft notes the local folder that the base was read from; an artifact names its base by digest, in policy.json.
    config = model.peft_config["default"].to_dict() | {"base_model_name_or_path": None, "inference_mode": True}
    config = {key: sorted(value) if isinstance(value, set | frozenset) else value for key, value in config.items()}
    write_adapter_files(get_peft_model_state_dict(model), config, folder)


def write_adapter_files(tensors: Mapping[str, Tensor], config: Mapping[str, Any], folder: Path) -> None:
    """Write an adapter that no model carries.

    Args:
        tensors: by peft's names, of any device and type; written as float32.
        config: what peft's `LoraConfig.to_dict` gives, ready for JSON.
        folder: exists; files of the same names are replaced.
    """
    save_file({name: plain(tensor) for name, tensor in tensors.items()}, folder / ADAPTER_FILE)
    ready = {**config, "target_modules": sorted(config["target_modules"])}
    (folder / ADAPTER_CONFIG_FILE).write_text(json.dumps(ready, indent=2, sort_keys=True) + "\n")


def read_adapter(folder: Path) -> tuple[LoraConfig, dict[str, Tensor]]:
    """Read what `write_adapter` wrote; more can be trained on it.

    Raises:
        BadModelError: a file is missing or malformed.
    """
    try:
        config = LoraConfig.from_pretrained(str(folder))
        tensors = load_file(folder / ADAPTER_FILE)
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        raise BadModelError(f"policy: its files cannot be read: {error}; take a committed policy folder") from error
    config.inference_mode = False
    return config, tensors


def put_adapter(model: PeftModel, tensors: Mapping[str, Tensor]) -> None:
    """Give an adapted model the tensors of an adapter that was read.

    Raises:
        BadModelError: names or shapes are not those of this model's adapter.
    """
    wanted = {name: tuple(tensor.shape) for name, tensor in get_peft_model_state_dict(model).items()}
    given = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if wanted != given:
        odd = sorted(wanted.items() ^ given.items())[0]
        raise BadModelError(f"policy: adapter does not fit the base model, first at {odd[0]}; use the base it names")
    set_peft_model_state_dict(model, dict(tensors))


def plain(tensor: Tensor) -> Tensor:
    """Return the tensor as it is written: on the CPU, float32, in one piece, without gradients."""
    return tensor.detach().to("cpu", torch.float32).contiguous()
