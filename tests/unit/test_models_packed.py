"""Weights kept in oneDNN's order: the same numbers, for few rows and many, and no second copy."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ratchet_jobs.models import packed
from ratchet_jobs.models.packed import pack_weights


def values(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("dtype", "within"), [(torch.float32, 1e-5), (torch.bfloat16, 0.02)])
def test_packed_weights_say_the_same_of_few_rows_and_of_many(dtype: torch.dtype, within: float) -> None:
    torch.manual_seed(0)
    first, last = nn.Linear(48, 80).to(dtype), nn.Linear(80, 5, bias=False).to(dtype)
    model = nn.Sequential(first, nn.Tanh(), last)
    gains = dtype == torch.float32 or packed.is_there()  # not every processor multiplies bfloat16
    inputs = [values(*shape).to(dtype) for shape in ((1, 48), (8, 48), (2, 37, 48))]
    with torch.inference_mode():
        wanted = [model(x) for x in inputs]
        assert pack_weights(model, [first, last], rows=8) == (2 if gains else 0)
        for x, want in zip(inputs, wanted, strict=True):
            torch.testing.assert_close(model(x), want, rtol=0, atol=within)
    if gains:
        assert [each.numel() for each in model.parameters()] == [0, 80, 0], "a bias stays, weights lie nowhere twice"
    assert {each.dtype for each in model.parameters()} == {dtype}
    assert pack_weights(model, [first, last], rows=8) == 0, "what is packed is not packed again"


def test_an_embedding_keeps_the_weight_that_it_shares() -> None:
    table, head = nn.Embedding(24, 16), nn.Linear(16, 24, bias=False)
    head.weight = table.weight
    given, x = table.weight.detach().clone(), values(3, 16)
    with torch.inference_mode():
        want = head(x)
        assert pack_weights(nn.Sequential(table, head), [head], rows=8) == 1
        torch.testing.assert_close(head(x), want, rtol=0, atol=1e-5)
        assert torch.equal(table(torch.arange(24)), given)


def test_a_torch_without_that_order_packs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "_NAMES", ("_of_no_release_of_torch",))
    layer = nn.Linear(16, 24)
    assert pack_weights(layer, [layer], rows=8) == 0
    assert layer.weight.shape == (24, 16)


def test_weights_in_other_numbers_stay() -> None:
    layer = nn.Linear(16, 24).double()
    assert pack_weights(layer, [layer], rows=8) == 0
    assert layer.weight.shape == (24, 16)
