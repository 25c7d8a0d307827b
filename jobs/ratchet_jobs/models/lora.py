"""LoRA linear layers that cost one matrix product forward and one backward, as the frozen layer alone does.

peft computes `x W' + b + s * (x A') B'`: four products, two extra tensors of the output's size and their adds, which
on a CPU is a fifth of a training step. The same function is `x (W + s B A)' + b`. Folding s B A into W costs
O(out * rank * in) whatever the batch, so it is done anew in every pass; the frozen weight itself is never changed.
Only the arithmetic's order differs from peft's: results agree to rounding (tested, gradients too).

Decides nothing about which layers are adapted; that is peft's configuration. Called by `classifier.py`.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import Tensor, nn


class _FoldedLinear(torch.autograd.Function):
    """y = x (W + s B A)' + b with gradients for x, A and B; W and b are frozen.

    Shapes: x (..., in), W (out, in), b (out) or None, A (r, in), B (out, r), y and its gradient g (..., out).

        u  = x A'           (N, r)
        gB = s (u' g)'      (out, r)
        gA = s (g B)' x     (r, in)
        gx = g (W + s B A)  (..., in)
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(x, weight, a, b)
        ctx.scale = scale
        return nn.functional.linear(x, torch.addmm(weight, b, a, alpha=scale), bias)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, a, b = ctx.saved_tensors
        scale: float = ctx.scale
        grad = grad_outputs[0].reshape(-1, weight.shape[0])  # (N, out)
        flat = x.reshape(-1, weight.shape[1])  # (N, in)
        grad_b = flat.mm(a.t()).t().mm(grad).t().mul_(scale)  # u' g, then turned: half the time of g' u
        grad_a = grad.mm(b).t().mm(flat).mul_(scale)
        grad_x = None
        if ctx.needs_input_grad[0]:
            # Folded again rather than kept: it would hold a copy of every adapted weight until here.
            grad_x = grad.mm(torch.addmm(weight, b, a, alpha=scale)).view_as(x)
        return grad_x, None, None, grad_a, grad_b, None


def fold_lora(model: nn.Module, *, adapter: str = "default") -> int:
    """Give every plain LoRA layer of a peft model the folded forward pass.

    A layer with adapter dropout is left to peft, since the dropped input has no folded form; so are layers that are
    merged, switched off, of another LoRA variant or on a GPU at the time of the call to `forward`.

    Returns:
        How many layers were changed.
    """
    changed = 0
    for layer in model.modules():
        if isinstance(layer, LoraLinear) and isinstance(layer.lora_dropout[adapter], nn.Identity):
            layer.forward = _folded_forward(layer, adapter)
            changed += 1
    return changed


def _folded_forward(layer: LoraLinear, adapter: str) -> Any:
    def forward(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        is_plain = layer.active_adapters == [adapter] and adapter not in layer.lora_variant
        is_exact = x.device.type == "cpu"  # under a GPU's bf16 autocast peft casts each product by itself
        if args or kwargs or layer.disable_adapters or layer.merged or not (is_plain and is_exact):
            result: Tensor = LoraLinear.forward(layer, x, *args, **kwargs)
            return result
        base, a, b = layer.base_layer, layer.lora_A[adapter], layer.lora_B[adapter]
        folded: Tensor = _FoldedLinear.apply(x, base.weight, base.bias, a.weight, b.weight, layer.scaling[adapter])
        return folded

    return forward
