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
