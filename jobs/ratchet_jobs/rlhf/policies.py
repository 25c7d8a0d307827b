"""Committed generators as the start of PPO, and what PPO made of them as generators again.

    open_trunk    a generator's adapter is added to its base's weights: what it says is the reference
    save_policy   both adapters, the start's and PPO's, as one on the same base, of the sum of their ranks: for
                  y = x (W + s1 B1 A1 + s2 B2 A2)' they are A = [A1; A2] and B = [s1 B1, s2 B2] with scale 1

So a generator that learned from rewards is one like any other: `evaluate`, the servers and a further run read it as
they read the supervised stage's. Called by the stages; the Python door has whole models (`saving.py`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from peft.tuners.lora.layer import LoraLayer
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel

from ratchet_jobs.generators.artifact import copy_wording
from ratchet_jobs.generators.card import GeneratorCard, write_generator_card
from ratchet_jobs.generators.loading import load_generator
from ratchet_jobs.models.adapter import ADAPTER_CONFIG_FILE, ADAPTER_FILE, write_adapter_files
from ratchet_jobs.rlhf.trunk import Trunk

_PREFIX = "base_model.model."
"""How peft's files begin the names of a model's layers."""


def open_trunk(
    folder: Path,
    base: Path,
    *,
    digest: str,
    rank: int,
    reward_rank: int | None = None,
    reward_dropout: float = 0.0,
    seed: int,
    device: torch.device,
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
    agents: Sequence[str] = (),
) -> tuple[Trunk, GeneratorCard]:
    """Read a committed generator and make it the trunk that PPO and the reward model stand on.

    Args:
        folder: of the policy.
        base: of its base model.
        digest: of the policy; a reward model taught on it fits no other.
        rank: see `Trunk`.
        reward_rank: see `Trunk`.
        reward_dropout: see `Trunk`.
        seed: see `Trunk`.
        device: to compute on.
        dtype: of the frozen weights; auto = bfloat16 on a GPU, else float32.
        agents: see `Trunk`.

    Raises:
        BadModelError: policy or base cannot be used.
    """
    adapted, wording, card = load_generator(folder, base)
    model: PreTrainedModel = adapted.merge_and_unload()
    if hasattr(model, "peft_config"):  # what is left of the adapter would let peft warn of a second one
        del model.peft_config
    native = "bfloat16" if device.type == "cuda" else "float32"
    trunk = Trunk(
        model.to(device=device, dtype=getattr(torch, native if dtype == "auto" else dtype)),
        wording,
        digest=digest,
        rank=rank,
        reward_rank=reward_rank,
        reward_dropout=reward_dropout,
        seed=seed,
        agents=agents,
    )
    return trunk, card


def save_policy(trunk: Trunk, folder: Path, *, start: Path, card: GeneratorCard) -> None:
    """Write card, adapter and tokenizer of what PPO made. Equal weights and card give equal bytes.

    Args:
        trunk: that `open_trunk` made of `start`, its policy trained.
        folder: exists; files of the same names are replaced.
        start: folder of the policy that PPO started from.
        card: becomes policy.json.
    """
    config: dict[str, Any] = json.loads((start / ADAPTER_CONFIG_FILE).read_bytes())
    before = load_file(start / ADAPTER_FILE)
    scale = float(config["lora_alpha"]) / int(config["r"])
    tensors: dict[str, Tensor] = {}
    modules, own = [], trunk.policy_adapter
    for name, layer in trunk.base.named_modules():
        if not isinstance(layer, LoraLayer):
            continue
        down, up = (part[own].weight.detach().cpu().float() for part in (layer.lora_A, layer.lora_B))
        own_down = before.pop(f"{_PREFIX}{name}.lora_A.weight", torch.zeros(int(config["r"]), down.shape[1]))
        own_up = before.pop(f"{_PREFIX}{name}.lora_B.weight", torch.zeros(up.shape[0], int(config["r"])))
        tensors[f"{_PREFIX}{name}.lora_A.weight"] = torch.cat([own_down, down])
        tensors[f"{_PREFIX}{name}.lora_B.weight"] = torch.cat([scale * own_up, layer.scaling[own] * up], 1)
        modules.append(name)
    rank = int(config["r"]) + int(trunk.rank or 0)
    for name in [key for key in before if key.endswith(".lora_A.weight")]:  # layers that PPO leaves alone
        layer_name = name.removesuffix(".lora_A.weight")
        own_down, own_up = before[name], before[f"{layer_name}.lora_B.weight"]
        more = rank - int(config["r"])
        tensors[name] = torch.cat([own_down, torch.zeros(more, own_down.shape[1])])
        tensors[f"{layer_name}.lora_B.weight"] = torch.cat([scale * own_up, torch.zeros(own_up.shape[0], more)], 1)
        modules.append(layer_name.removeprefix(_PREFIX))
    config |= {"r": rank, "lora_alpha": rank, "lora_dropout": 0.0, "target_modules": modules}
    write_adapter_files(tensors, config, folder)
    write_generator_card(folder, card)
    copy_wording(start, folder)
