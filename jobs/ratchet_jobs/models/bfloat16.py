"""What torch must be told so that a bfloat16 model on a CPU is fast and does not grow.

 1. Attention is worked out in float32. torch's kernel for bfloat16 is made for long rows: with 47 tokens forward and
    backward take 7.5 ms in bfloat16 and 3.1 in float32, both casts included; from 256 tokens on nothing is gained or
    lost. Sums of products are more exact besides.
 2. oneDNN, which multiplies bfloat16, compiles a kernel for each number of rows and keeps it: 0.7 MiB each, by default
    up to 1,024 in each of two caches. Answers have a new number of rows in nearly every pass, so that a run would grow
    by gigabytes; here the caches hold what a few passes need.

Called by `rlhf/trunk.py`.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

IN_FLOAT32 = "sdpa_in_float32"
_KERNELS = "128"
_CACHES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
"""oneDNN's own, and that of torch beside it (https://uxlfoundation.github.io/oneDNN/dev_guide_primitive_cache.html)."""


def prepare_bfloat16(model: PreTrainedModel) -> bool:
    """Settle the module's two points for a model that is in bfloat16 on a CPU; others stay as they are.

    The caches are the process's: what the environment says of them already is left, and they are read once, at the
    first product of all.

    Returns:
        Whether the model is one.
    """
    if model.device.type != "cpu" or model.dtype != torch.bfloat16:
        return False
    for name in _CACHES:
        os.environ.setdefault(name, _KERNELS)
    if model.config._attn_implementation == "sdpa":
        model.set_attn_implementation(IN_FLOAT32)
    return True


def _in_float32(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **settings: Any
) -> tuple[Tensor, None]:
    wide = (each.float() for each in (query, key, value))
    answered, weights = sdpa_attention_forward(module, *wide, attention_mask, **settings)
    return answered.to(query.dtype), weights


AttentionInterface.register(IN_FLOAT32, _in_float32)
AttentionMaskInterface.register(IN_FLOAT32, sdpa_mask)
