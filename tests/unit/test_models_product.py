"""Products with frozen weights: torch's values and gradients, by whichever library."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from ratchet_jobs.models import product as module
from ratchet_jobs.models.product import FrozenLinear, product, quicken
from ratchet_jobs.models.turned import turn_weights

SIZE, OUT = 256, 512
"""Above what is left to torch."""


def rows(count: int) -> Tensor:
    return torch.randn(count, 3, SIZE, generator=torch.Generator().manual_seed(1))


def layer(*, bias: bool) -> nn.Linear:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Linear(SIZE, OUT, bias=bias).requires_grad_(False)


@pytest.mark.parametrize("turned", [False, True], ids=["by rows", "by columns"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("count", [1, 60])
def test_values_and_gradients_are_torchs(count: int, bias: bool, turned: bool) -> None:
    plain, quick = layer(bias=bias), nn.Sequential(layer(bias=bias))
    if turned:
        turn_weights(quick)
    assert quicken(quick) == 1
    told = []
    for model in (plain, quick):
        x = rows(count).requires_grad_()
        y = model(x)
        # a gradient that is not laid out as it is shaped, as of a sum
        (y.square().mean() + y[..., :9].sum()).backward()
        told.append((y.detach(), x.grad))
    for got, want in zip(told[1], told[0], strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_large_frozen_weights_are_not_multiplied_by_torchs_own_product(monkeypatch: pytest.MonkeyPatch) -> None:
    if module._ONEDNN is None:
        pytest.skip("this torch was built without oneDNN")
    asked: list[tuple[int, ...]] = []
    given = module._ONEDNN

    def noted(x: Tensor, weight: Tensor, *rest: object) -> Tensor:
        asked.append(tuple(weight.shape))
        answered: Tensor = given(x, weight, *rest)
        return answered

    monkeypatch.setattr(module, "_ONEDNN", noted)
    model = layer(bias=False)
    quicken(model)
    x = rows(2).requires_grad_()
    model(x).sum().backward()
    assert asked == [(OUT, SIZE), (SIZE, OUT)], "forward, and its gradient"


def test_without_the_library_torch_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = layer(bias=True), rows(2).flatten(0, 1)
    want = model(x)
    monkeypatch.setattr(module, "_ONEDNN", None)
    quicken(model)
    assert torch.equal(model(x), want)
    assert torch.equal(product(x, model.weight, model.bias), want)


def test_a_weight_that_is_trained_gets_its_gradient() -> None:
    model = layer(bias=True)
    quicken(model)
    copied = copy.deepcopy(model).requires_grad_(True)
    assert isinstance(copied, FrozenLinear)
    copied(rows(2)).sum().backward()
    assert all(p.grad is not None and float(p.grad.abs().sum()) > 0 for p in copied.parameters())
    assert all(p.grad is None for p in model.parameters())


def test_same_rows_are_answered_with_the_same_bits() -> None:
    """P13: what is resumed multiplies as what never stopped."""
    first, second = layer(bias=False), layer(bias=False)
    for each in (first, second):
        turn_weights(each)
        quicken(each)
    assert torch.equal(first(rows(40)), second(rows(40).clone()))
