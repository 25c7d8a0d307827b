"""Weights in oneDNN's own order: frozen bfloat16 ones for as long as answers are drawn, or all of them for good.

oneDNN multiplies bfloat16 by weights in an order of its own and lays a weight out anew for every product. With the
handful of rows of a draw that takes as long as the product itself, and a draw multiplies by every weight once for each
token. In training they are laid out once for a draw, and thrown away afterwards: passes with gradient have rows enough
that it makes no difference, and a second copy of the weights would stay in memory. What an adapter adds is looked up
once, too: a draw calls hundreds of them for each token, and half of their time went by with asking which one is on.
A server trains nothing, so it keeps weights in that order only. There float32 gains as well: MKL, which multiplies it
otherwise, takes several times as long for a few rows, and on some processors the longer the better weights lie for it.

torch knows that order under private names only, by which its own compiler calls it. Where one of them is missing, or
the processor has no bfloat16, nothing is packed; answers are the same to the bit either way (tested).

Called by `rlhf/trunk.py` and by policy servers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import Tensor, nn

from ratchet_jobs.models.lora import FEW_ROWS, adapter_on

Forward = Callable[[Tensor], Tensor]

_NAMES = ("_reorder_linear_weight", "_linear_pointwise", "_is_mkldnn_bf16_supported")


@contextmanager
def packed(model: nn.Module, *, rows: int) -> Iterator[int]:
    """Let a model's frozen bfloat16 linear layers on a CPU multiply by packed weights; others stay as they are.

    Weights and adapters must neither change nor be switched meanwhile, and no gradient passes such a layer.

    Args:
        model: whose layers are served.
        rows: of most products.

    Yields:
        How many weights are packed.
    """
    before: list[tuple[nn.Module, Any]] = []

    def give(layer: nn.Module, forward: Forward) -> None:
        before.append((layer, layer.__dict__.get("forward")))
        layer.forward = forward

    frozen = [module for module in model.modules() if isinstance(module, nn.Linear) and _gains(module)]
    try:
        for layer in frozen:
            give(layer, _product(layer, rows))
        for module in model.modules():
            if isinstance(module, LoraLinear) and module.base_layer in frozen and (on := adapter_on(module)):
                give(module, _adapted(module, *on))
        yield len(frozen)
    finally:
        for module, forward in reversed(before):
            if forward is None:
                del module.forward
            else:
                module.forward = forward


def pack_weights(model: nn.Module, layers: Iterable[nn.Linear], *, rows: int) -> int:
    """Keep float32 and bfloat16 weights on a CPU packed from now on; others stay as they are.

    A weight that nothing else uses is given up, so none lies in memory twice but those that embeddings share.

    Args:
        model: that nobody will train, save or merge again.
        layers: of it, all of whose weights are used by calling them.
        rows: of most products.

    Returns:
        How many weights are packed.
    """
    users = Counter(id(each) for module in model.modules() for each in module.parameters(recurse=False))
    count = 0
    for layer in layers:
        if _may_stay_packed(layer):
            setattr(layer, "forward", _product(layer, rows))  # noqa: B010 - mypy knows no other way
            if users[id(layer.weight)] == 1:
                layer.weight.data = layer.weight.new_empty(0)
            count += 1
    return count


def _product(layer: nn.Linear, rows: int) -> Forward:
    product, bias = torch.ops.mkldnn._linear_pointwise, layer.bias
    weight = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), rows)

    def forward(x: Tensor) -> Tensor:
        result: Tensor = product(x, weight, bias, "none", [], "")
        return result

    return forward


def _adapted(layer: LoraLinear, a: Tensor, b: Tensor, scale: float) -> Forward:
    """Return x W' + s (x A') B' for few rows, A (r, in) and B (out, r) in float32; more rows go the layer's own way."""
    frozen, own = layer.base_layer.forward, layer.forward
    a_turned, b_turned = a.detach().t(), b.detach().t()

    def forward(x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        if len(flat) >= FEW_ROWS:
            wide: Tensor = own(x)
            return wide
        result = frozen(flat).add_(flat.float().mm(a_turned).mm(b_turned), alpha=scale)
        return result.view(*x.shape[:-1], -1)

    return forward


def _gains(layer: nn.Linear) -> bool:
    weight = layer.weight
    fits = weight.device.type == "cpu" and weight.dtype == torch.bfloat16 and not weight.requires_grad
    return fits and "forward" not in layer.__dict__ and is_there()


def _may_stay_packed(layer: nn.Linear) -> bool:
    weight = layer.weight
    can = _packs() if weight.dtype == torch.float32 else weight.dtype == torch.bfloat16 and is_there()
    return weight.device.type == "cpu" and can and "forward" not in layer.__dict__


def is_there() -> bool:
    """Whether this torch and this processor can pack bfloat16."""
    return _packs() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _packs() -> bool:
    return torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, name) for name in _NAMES)
