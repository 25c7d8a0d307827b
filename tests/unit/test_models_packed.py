"""Weights laid out for drawing: the same answers, of whatever adapter is active, and nothing left of it afterwards."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from ratchet_jobs.models.lora import fold_lora
from ratchet_jobs.models.packed import packed

X = torch.randn(3, 2, 16, generator=torch.Generator().manual_seed(1))


class Model(nn.Module):
    """Two adapted layers, one with a bias, and a head without adapter."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(16, 24), nn.Linear(24, 16, bias=False), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        answered: Tensor = self.head(torch.tanh(self.second(torch.tanh(self.first(x)))))
        return answered


def adapted() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = LoraConfig(r=4, lora_alpha=8, target_modules=["first", "second"], init_lora_weights=False)
        model = get_peft_model(Model(), config, adapter_name="policy")
        model.add_adapter("reward", config)
        fold_lora(model, adapters=("policy", "reward"), least_rows=4)
    return model.eval()


@pytest.mark.parametrize("adapter", ["policy", "reward", None])
def test_answers_are_those_of_the_active_adapter(adapter: str | None) -> None:
    model = adapted()
    for layer in model.modules():
        if hasattr(layer, "set_adapter") and hasattr(layer, "lora_A"):
            layer.set_adapter(adapter or "policy")
            layer.enable_adapters(adapter is not None)
    with torch.no_grad():
        want = model(X)
        with packed(model) as count:
            got = model(X)
            assert count == (3 if torch.backends.mkldnn.is_available() else 0)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5)


def test_nothing_is_left_of_it_even_after_an_error() -> None:
    model = adapted()
    want, forwards = model(X), [module.__dict__.get("forward") for module in model.modules()]
    with pytest.raises(KeyError), packed(model):
        raise KeyError
    assert [module.__dict__.get("forward") for module in model.modules()] == forwards
    assert torch.equal(model(X), want)
    want.sum().backward()
    assert any(p.grad is not None and bool(p.grad.abs().sum() > 0) for n, p in model.named_parameters() if "lora" in n)


def test_other_dtypes_and_two_adapters_at_once_are_left_as_they_are() -> None:
    with packed(adapted().to(torch.bfloat16)) as count:
        assert count == 0
    both = adapted()
    both.base_model.set_adapter(["policy", "reward"])
    with torch.no_grad():
        want = both(X)
        with packed(both) as count:
            assert count == (1 if torch.backends.mkldnn.is_available() else 0)  # the head
            torch.testing.assert_close(both(X), want, rtol=0, atol=1e-5)
