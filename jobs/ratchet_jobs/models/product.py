"""Products with frozen float32 weights on a CPU, by the library that makes them fastest.

torch gives a float32 product to MKL. oneDNN, which torch also carries, takes the same weights where they lie, by rows
or by columns and without a second copy, and is faster on some processors. Results of the two differ by rounding.

Decides which library multiplies, from the tensors alone, so a run that is resumed is answered by the same one. Weights
that are trained, small ones, other dtypes and GPUs are left to torch. Called by `lora.py` and `rlhf/trunk.py`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

_ONEDNN: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
"""None where torch was built without oneDNN."""

_BACKEND: Any = torch.backends.mkldnn

_SMALLEST = 2**16
"""Numbers of a weight below which asking costs more than it saves."""


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Multiply and add, x W' + b, without gradient of its own.

    Args:
        x: (N, in).
        weight: (out, in), by rows or by columns.
        bias: (out) or None.

    Returns:
        (N, out).
    """
    if _is_faster(x, weight):
        result: Tensor = _ONEDNN(x.contiguous(), weight, bias, "none", [], "")
        return result
    return nn.functional.linear(x, weight, bias)


class _Frozen(torch.autograd.Function):
    """y = x W' + b with a gradient for x alone: gx = g W. Shapes: x (..., in), W (out, in), y and g (..., out)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        flat = x.reshape(-1, weight.shape[1])  # (N, in)
        return product(flat, weight, bias).view(*x.shape[:-1], weight.shape[0])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        grad = grad_outputs[0]
        flat = grad.reshape(-1, weight.shape[0])  # (N, out)
        return product(flat, weight.t()).view(*grad.shape[:-1], weight.shape[1]), None, None


class FrozenLinear(nn.Linear):
    """A linear layer whose weight has no gradient; while it has one, it is torch's own."""

    def forward(self, input: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        trained = self.weight.requires_grad or (self.bias is not None and self.bias.requires_grad)
        if trained or not _is_faster(input, self.weight):
            return super().forward(input)
        answered: Tensor = _Frozen.apply(input, self.weight, self.bias)
        return answered


def quicken(model: nn.Module) -> int:
    """Let every plain linear layer of a model multiply by `product` while its weight is frozen.

    Args:
        model: changed in place; its weights and their names stay.

    Returns:
        How many layers were changed.
    """
    layers = [module for module in model.modules() if type(module) is nn.Linear]
    for layer in layers:
        layer.__class__ = FrozenLinear
    return len(layers)


def _is_faster(x: Tensor, weight: Tensor) -> bool:
    return (
        _ONEDNN is not None
        and x.device.type == weight.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and weight.numel() >= _SMALLEST
        and x.numel() > 0
        and bool(_BACKEND.enabled)
        and not torch.is_autocast_enabled("cpu")
    )
