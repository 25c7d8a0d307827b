"""Weights by columns: the same numbers in the same place, for all who hold them."""

from __future__ import annotations

import torch
from torch import nn

from ratchet_jobs.models.turned import turn_weights
from ratchet_jobs.rl.learner import Stepper

X = torch.randn(3, 16, generator=torch.Generator().manual_seed(1))


def test_turned_weights_say_the_same_and_take_no_more_memory() -> None:
    first = nn.Linear(16, 24)
    model = nn.Sequential(first, nn.Tanh(), nn.Linear(24, 5, bias=False))
    want, given, place = model(X), first.weight.detach().clone(), first.weight.data_ptr()
    assert turn_weights(model) == 2
    assert torch.equal(first.weight, given)
    assert first.weight.stride() == (1, 24)
    assert first.weight.data_ptr() == place
    torch.testing.assert_close(model(X), want, rtol=0, atol=1e-6)
    assert turn_weights(model) == 2, "what lies by columns may be turned again"
    assert first.weight.stride() == (1, 24)
    assert torch.equal(first.weight, given)


def test_an_embedding_goes_on_sharing_its_weight() -> None:
    table, head = nn.Embedding(24, 16), nn.Linear(16, 24, bias=False)
    head.weight = table.weight
    given = table.weight.detach().clone()
    turn_weights(nn.Sequential(table, head))
    assert head.weight is table.weight
    assert torch.equal(table(torch.arange(24)), given)


def test_what_is_trained_takes_the_same_steps_after_a_checkpoint() -> None:
    """P13: Adam's moments lie in memory as their parameter does, on either side of it."""

    def stepper() -> tuple[nn.Linear, Stepper]:
        layer = nn.Linear(16, 24)
        turn_weights(layer)
        parameters = dict(layer.named_parameters())
        return layer, Stepper(parameters, torch.optim.AdamW(parameters.values(), lr=0.1))

    def step(layer: nn.Linear, taken: Stepper) -> None:
        layer(X).square().sum().backward()
        taken.step()

    whole, first = stepper()
    step(whole, first)
    resumed, second = stepper()
    second.load_state({name: tensor.contiguous() for name, tensor in first.state().items()})
    assert second.optimizer.state[resumed.weight]["exp_avg"].stride() == resumed.weight.stride() == (1, 24)
    step(whole, first)
    step(resumed, second)
    assert torch.equal(whole.weight, resumed.weight)


def test_weights_in_bfloat16_stay_as_they_lie() -> None:
    layer = nn.Linear(16, 24).to(torch.bfloat16)
    assert turn_weights(layer) == 0
    assert layer.weight.stride() == (16, 1)
