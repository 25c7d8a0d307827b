"""Weights laid out once for the many small products by which a language model draws its tokens.

A product of a few rows with a matrix takes a CPU's library as long to bring the matrix into the order that its kernels
read as to multiply, and it does so for every token anew. While `packed` is open every linear layer holds its weight in
that order, its adapter already added: one product of a third of the time where peft computes three. The weights
themselves are not touched, so nothing is left of it afterwards; until then it takes their memory once more.

Only the arithmetic's order differs: results agree to rounding (tested). Off the CPU, in another dtype than float32,
and where torch was built without oneDNN, layers stay as they are. Without gradient only. Called by `rlhf/trunk.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from peft.tuners.lora.layer import LoraLayer
from torch import Tensor, nn

_ROWS = 8
"""Rows of a product that the order is made for; others are as right."""


@contextmanager
def packed(model: nn.Module) -> Iterator[int]:
    """Hold the weights in the kernels' order; weights and active adapters must stay what they are inside.

    Args:
        model: with or without LoRA layers, those switched as they are to be asked.

    Yields:
        How many layers were laid out.
    """
    adapters = [module for module in model.modules() if isinstance(module, LoraLayer)]
    inside = {id(part) for layer in adapters for part in layer.modules() if part is not layer}
    count = 0
    with ExitStack() as restored, torch.no_grad():
        for module in model.modules():
            weight = None if id(module) in inside else _whole_weight(module)
            if weight is not None and _is_packable(weight[0]):
                restored.callback(_put_back, module, module.__dict__.get("forward"))
                module.forward = _packed_forward(*weight)
                count += 1
        yield count


def _whole_weight(module: nn.Module) -> tuple[Tensor, Tensor | None] | None:
    """Weight (out, in) and bias of a linear layer, its active adapter added; None = no such layer."""
    if isinstance(module, LoraLinear) and type(module.base_layer) is nn.Linear:
        base = module.base_layer
        if module.disable_adapters or module.merged:
            return base.weight, base.bias
        if len(module.active_adapters) != 1 or module.active_adapters[0] in module.lora_variant:
            return None
        name = module.active_adapters[0]
        a, b = module.lora_A[name].weight, module.lora_B[name].weight
        if a.dtype != base.weight.dtype:
            return None
        return torch.addmm(base.weight, b, a, alpha=module.scaling[name]), base.bias
    if type(module) is nn.Linear:
        return module.weight, module.bias
    return None


def _is_packable(weight: Tensor) -> bool:
    return weight.device.type == "cpu" and weight.dtype == torch.float32 and torch.backends.mkldnn.is_available()


def _packed_forward(weight: Tensor, bias: Tensor | None) -> Callable[..., Tensor]:
    # what torch.compile's CPU backend makes of a linear layer with frozen weights
    ordered = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS)

    def forward(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        result: Tensor = torch.ops.mkldnn._linear_pointwise(x, ordered, bias, "none", [], "")
        return result

    return forward


def _put_back(module: nn.Module, forward: Any) -> None:
    if forward is None:
        del module.forward
    else:
        module.forward = forward
