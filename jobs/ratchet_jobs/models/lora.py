"""LoRA linear layers at the least cost: one large matrix product forward and one backward, as the frozen layer alone.

peft computes `x W' + b + s * (x A') B'` with two extra tensors of the output's size and their adds, which on a CPU is
a fifth of a training step. The same function is had in two ways, and each pass takes the cheaper one:

    folded   x (W + s B A)' + b: folding s B A into W costs O(out * rank * in) whatever the rows, so it is for many
    beside   the two thin products are added into the large one's result: O(rows * rank * (in + out)), for few rows,
             and the weight is never copied

The frozen weight itself is never changed. Only the arithmetic's order differs from peft's: results agree to rounding
(tested, gradients too).

Decides nothing about which layers are adapted; that is peft's configuration. Called by `adapter.py` and
by what trains two adapters on one trunk.
"""

from __future__ import annotations

from collections.abc import Sequence
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


class _BesideLinear(torch.autograd.Function):
    """y = x W' + s (x A') B' + b with gradients for x, A and B; W and b are frozen. Shapes as in `_FoldedLinear`.

    u  = x A'                  (N, r)
    v  = g B                   (N, r)
    gB = s (u' g)'             (out, r)
    gA = s v' x                (r, in)
    gx = g W + s v A           (..., in)
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float) -> Tensor:
        flat = x.reshape(-1, weight.shape[1])  # (N, in)
        u = flat.mm(a.t())
        ctx.save_for_backward(x, u, weight, a, b)
        ctx.scale = scale
        result = nn.functional.linear(flat, weight, bias).addmm_(u, b.t(), alpha=scale)
        return result.view(*x.shape[:-1], weight.shape[0])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        x, u, weight, a, b = ctx.saved_tensors
        scale: float = ctx.scale
        grad = grad_outputs[0].reshape(-1, weight.shape[0])  # (N, out)
        v = grad.mm(b)
        grad_b = u.t().mm(grad).t().mul_(scale)
        grad_a = v.t().mm(x.reshape(-1, weight.shape[1])).mul_(scale)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = grad.mm(weight).addmm_(v, a, alpha=scale).view_as(x)
        return grad_x, None, None, grad_a, grad_b, None


def _is_cheaper_folded(rows: int, weight: Tensor) -> bool:
    """Whether folding twice, forward and backward, takes fewer operations than what the thin products add to them."""
    out, size = weight.shape
    return rows * (out + size) > 2 * out * size


def fold_lora(model: nn.Module, *, adapters: Sequence[str] = ("default",)) -> int:
    """Give every plain LoRA layer of a peft model the forward pass of this module.

    A layer with adapter dropout is left to peft, since the dropped input has no such form; so are layers that are
    merged, switched off, of another LoRA variant or on a GPU at the time of the call to `forward`.

    Args:
        model: with its adapters.
        adapters: to fold; of a model with several, whichever is active counts.

    Returns:
        How many layers were changed.
    """
    changed = 0
    for layer in model.modules():
        if not isinstance(layer, LoraLinear) or not isinstance(layer.base_layer, nn.Linear):
            continue
        foldable = frozenset(name for name in adapters if isinstance(layer.lora_dropout[name], nn.Identity))
        if foldable:
            layer.forward = _cheap_forward(layer, foldable)
            changed += 1
    return changed


def _cheap_forward(layer: LoraLinear, adapters: frozenset[str]) -> Any:
    def forward(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        active = layer.active_adapters
        adapter = active[0] if len(active) == 1 else ""
        is_plain = adapter in adapters and adapter not in layer.lora_variant
        base = layer.base_layer
        # under a GPU's bf16 autocast peft casts each product by itself
        is_exact = x.device.type == "cpu" and x.dtype == base.weight.dtype == torch.float32
        if args or kwargs or layer.disable_adapters or layer.merged or not (is_plain and is_exact):
            result: Tensor = LoraLinear.forward(layer, x, *args, **kwargs)
            return result
        a, b = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
        form = _FoldedLinear if _is_cheaper_folded(x.numel() // x.shape[-1], base.weight) else _BesideLinear
        answered: Tensor = form.apply(x, base.weight, base.bias, a, b, layer.scaling[adapter])
        return answered

    return forward
