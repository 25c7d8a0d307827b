"""Adapters by either form: values and gradients are peft's, for few rows and for many."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from ratchet_jobs.models import lora
from ratchet_jobs.models.lora import fold_lora
from ratchet_jobs.models.turned import turn_weights


class Model(nn.Module):
    """Two adapted layers, one with a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(16, 24), nn.Linear(24, 8, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        answered: Tensor = self.second(torch.tanh(self.first(x)))
        return answered


def adapted(*, ours: bool) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Model()
        if ours:
            turn_weights(model)
        config = LoraConfig(r=4, lora_alpha=8, target_modules=["first", "second"], init_lora_weights=False)
        wrapped = get_peft_model(model, config)
    if ours:
        assert fold_lora(wrapped) == 2
    return wrapped


@pytest.mark.parametrize(("rows", "form"), [(2, "_BesideLinear"), (50, "_FoldedLinear")])
def test_values_and_gradients_are_pefts(rows: int, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in {"_BesideLinear", "_FoldedLinear"} - {form}:
        monkeypatch.delattr(lora, name)  # the form that is not meant cannot be taken
    told = []
    for ours in (True, False):
        model = adapted(ours=ours)
        x = torch.randn(rows, 1, 16, generator=torch.Generator().manual_seed(1)).requires_grad_()
        y = model(x)
        y.square().sum().backward()
        told.append([y, x.grad, *(p.grad for n, p in sorted(model.named_parameters()) if "lora_" in n)])
    assert len(told[0]) == 6
    for got, want in zip(*told, strict=True):
        assert float(want.detach().abs().max()) > 0.01
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rows", [2, 100])
def test_adapters_beside_bfloat16_weights_say_and_learn_what_float32_does(rows: int) -> None:
    told = []
    for dtype in (torch.bfloat16, torch.float32):
        model = adapted(ours=dtype == torch.bfloat16)
        for name, parameter in model.named_parameters():
            if "lora_" not in name:
                parameter.data = parameter.data.to(torch.bfloat16).to(dtype)
        x = torch.randn(rows, 1, 16, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16).to(dtype)
        x.requires_grad_()
        y = model(x)
        assert y.dtype == dtype
        y.float().square().sum().backward()
        adapters = [p.grad for n, p in sorted(model.named_parameters()) if "lora_" in n]
        assert [grad.dtype for grad in adapters if grad is not None] == [torch.float32] * 4
        told.append([y, x.grad, *adapters])
    for got, want in zip(*told, strict=True):
        size = float(want.detach().abs().max())
        assert size > 0.01
        torch.testing.assert_close(got.float(), want, rtol=0, atol=0.04 * size)


def test_an_adapter_far_below_a_bfloat16_weight_is_not_rounded_away() -> None:
    layer = nn.Sequential(nn.Linear(64, 1, bias=False))
    nn.init.ones_(layer[0].weight)
    wrapped = get_peft_model(layer.to(torch.bfloat16), LoraConfig(r=1, lora_alpha=1, target_modules=["0"]))
    fold_lora(wrapped)
    signs = torch.tensor([1.0, -1.0]).repeat(32)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                parameter.data = signs.unsqueeze(0) if "lora_A" in name else torch.full((1, 1), 2.0**-10)
        y = wrapped(signs.to(torch.bfloat16).expand(200, 64))  # the ones cancel out, and 1 + 2^-10 is 1 in bfloat16
    assert y.flatten().tolist() == [64 * 2.0**-10] * 200
