"""LoRA linear layers at the least cost: one large matrix product forward and one backward, as the frozen layer alone.

peft computes `x W' + b + s * (x A') B'` with two extra tensors of the output's size and their adds, which on a CPU is
a fifth of a training step. The same function is had in two ways, and each pass takes the cheaper one:

    folded   x (W + s B A)' + b: folding s B A into W costs O(out * rank * in) whatever the rows, so it is for many
    beside   the two thin products are added into the large one's result: O(rows * rank * (in + out)), for few rows,
             and the weight is never copied

A frozen weight in bfloat16 takes the second way whatever the rows: an adapter folded into it would be rounded away
where it is small beside the weight. A, B and their gradients are float32 there, too.

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

_DTYPES = (torch.float32, torch.bfloat16)
FEW_ROWS = 64
"""Of bfloat16: below, a thin product in float32 takes a third of the time (8 rows: 9 us against 30), above it takes
more (188 rows: 77 against 53)."""


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


def _beside(
    x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """Results y and u of `_BesideLinear`."""
    flat = x.reshape(-1, weight.shape[1])  # (N, in)
    result = nn.functional.linear(flat, weight, bias)
    thin = torch.float32 if len(flat) < FEW_ROWS else flat.dtype
    u = flat.to(thin).mm(a.to(thin).t())
    if thin == result.dtype:
        result.addmm_(u, b.to(thin).t(), alpha=scale)
    else:
        result.add_(u.mm(b.t()), alpha=scale)
    return result.view(*x.shape[:-1], weight.shape[0]), u


class _BesideLinear(torch.autograd.Function):
    """y = x W' + s (x A') B' + b with gradients for x, A and B; W and b are frozen. Shapes as in `_FoldedLinear`.

    u  = x A'                  (N, r)
    v  = g B                   (N, r)
    gB = s (u' g)'             (out, r)
    gA = s v' x                (r, in)
    gx = g W + s v A           (..., in)

    x, W and g may be bfloat16 beside A and B in float32; the thin products are then bfloat16, for few rows float32.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float) -> Tensor:
        result, u = _beside(x, weight, bias, a, b, scale)
        ctx.save_for_backward(x, u, weight, a, b)
        ctx.scale = scale
        return result

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        x, u, weight, a, b = ctx.saved_tensors
        scale: float = ctx.scale
        grad = grad_outputs[0].reshape(-1, weight.shape[0])  # (N, out)
        v = grad.mm(b.to(grad.dtype))
        grad_b = u.to(grad.dtype).t().mm(grad).t().to(b.dtype).mul_(scale)
        grad_a = v.t().mm(x.reshape(-1, weight.shape[1])).to(a.dtype).mul_(scale)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = grad.mm(weight).addmm_(v, a.to(grad.dtype), alpha=scale).view_as(x)
        return grad_x, None, None, grad_a, grad_b, None


def _is_cheaper_folded(rows: int, weight: Tensor) -> bool:
    """Whether folding twice, forward and backward, takes fewer operations than what the thin products add to them."""
    out, size = weight.shape
    return weight.dtype == torch.float32 and rows * (out + size) > 2 * out * size


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


def adapter_on(layer: LoraLinear) -> tuple[Tensor, Tensor, float] | None:
    """A, B and s of the one adapter that is switched on, if it adds s (x A') B' to the layer's result and no more.

    None where there are none or several, or one with dropout, of another variant or merged into the weight.
    """
    active = layer.active_adapters
    if layer.disable_adapters or layer.merged or len(active) != 1 or active[0] not in layer.lora_A:
        return None
    name = active[0]
    if name in layer.lora_variant or not isinstance(layer.lora_dropout[name], nn.Identity):
        return None
    return layer.lora_A[name].weight, layer.lora_B[name].weight, layer.scaling[name]


def _cheap_forward(layer: LoraLinear, adapters: frozenset[str]) -> Any:
    def forward(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        active = layer.active_adapters
        adapter = active[0] if len(active) == 1 else ""
        is_plain = adapter in adapters and adapter not in layer.lora_variant
        base = layer.base_layer
        # under a GPU's bf16 autocast peft casts each product by itself
        is_ours = x.device.type == "cpu" and x.dtype == base.weight.dtype and x.dtype in _DTYPES
        if args or kwargs or layer.disable_adapters or layer.merged or not (is_plain and is_ours):
            result: Tensor = LoraLinear.forward(layer, x, *args, **kwargs)
            return result
        a, b = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
        parts = (x, base.weight, base.bias, a, b, layer.scaling[adapter])
        if _is_cheaper_folded(x.numel() // x.shape[-1], base.weight):
            answered: Tensor = _FoldedLinear.apply(*parts)
        elif torch.is_grad_enabled():
            answered = _BesideLinear.apply(*parts)
        else:  # a token is drawn by hundreds of these, and autograd's bookkeeping is a tenth of their time
            answered, _ = _beside(*parts)
        return answered

    return forward
