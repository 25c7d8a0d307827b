"""Over a vocabulary: log-probabilities and draws are those of the plain formula, gradients included."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ratchet_jobs.rl import picked
from ratchet_jobs.rl.categorical import log_prob_of
from ratchet_jobs.rl.picked import draw, picked_log_probs

ROWS, WORDS = 7, 11


def drawn() -> tuple[Tensor, Tensor, Tensor]:
    """Logits that ask for a gradient, actions, and a gradient of each result."""
    draws = torch.Generator().manual_seed(0)
    logits = 3.0 * torch.randn(ROWS, WORDS, generator=draws)
    actions = torch.randint(WORDS, (ROWS,), generator=draws)
    return logits.requires_grad_(), actions, torch.randn(ROWS, generator=draws)


@pytest.mark.parametrize("cells", [1, 3 * WORDS, 100 * WORDS], ids=["a row at a time", "an uneven end", "all at once"])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_values_and_gradients_are_those_of_the_log_softmax(
    monkeypatch: pytest.MonkeyPatch, cells: int, temperature: float
) -> None:
    monkeypatch.setattr(picked, "_CELLS", cells)
    logits, actions, weight = drawn()
    plain, _, _ = drawn()
    want = log_prob_of(plain / temperature, actions)
    got = picked_log_probs(logits, actions, temperature=temperature)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5)
    want.backward(weight)
    got.backward(weight)
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, plain.grad, rtol=0, atol=1e-5)


def test_a_word_that_does_not_exist_has_no_probability_and_no_gradient() -> None:
    logits = torch.tensor([[0.0, float("-inf"), 0.0]], requires_grad=True)
    got = picked_log_probs(logits, torch.tensor([0]))
    got.sum().backward()
    torch.testing.assert_close(got, torch.tensor([0.5]).log())
    torch.testing.assert_close(logits.grad, torch.tensor([[0.5, 0.0, -0.5]]))


def test_bfloat16_logits_are_normalised_in_float32_and_get_gradients_of_their_own_kind() -> None:
    logits = torch.tensor([[1.0, 2.0, 4.0]], dtype=torch.bfloat16, requires_grad=True)  # exact in bfloat16
    got = picked_log_probs(logits, torch.tensor([0]))
    torch.testing.assert_close(got, log_prob_of(torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([0])), rtol=0, atol=1e-6)
    got.sum().backward()
    assert logits.grad is not None
    assert logits.grad.dtype == torch.bfloat16


def test_no_rows_have_no_log_probabilities() -> None:
    assert picked_log_probs(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)).shape == (0,)


def test_several_actions_of_a_row_are_refused() -> None:
    with pytest.raises(ValueError, match=r"logits \(2, 3\), actions \(2, 1\); give \(N, V\) and \(N,\)"):
        picked_log_probs(torch.zeros(2, 3), torch.zeros(2, 1, dtype=torch.int64))


def test_draws_have_the_probabilities_and_never_what_does_not_exist() -> None:
    gone, rows = float("-inf"), 40_000
    logits = torch.tensor([gone, 0.1, gone, 0.2, 0.7, gone]).clamp_min(0).log().expand(rows, -1)
    drawn = draw(logits, generator=torch.Generator().manual_seed(0))
    shares = torch.bincount(drawn, minlength=6) / rows
    # standard errors are below 0.0025
    torch.testing.assert_close(shares, torch.tensor([0.0, 0.1, 0.0, 0.2, 0.7, 0.0]), rtol=0, atol=0.01)
    assert shares[[0, 2, 5]].sum() == 0


@pytest.mark.parametrize(("uniform", "want"), [(0.0, 1), (0.499, 1), (0.5, 3), (1.0, 3)])
def test_a_draw_is_where_the_cumulated_probabilities_pass_the_number(
    monkeypatch: pytest.MonkeyPatch, uniform: float, want: int
) -> None:
    monkeypatch.setattr(torch, "rand", lambda shape, **kwargs: torch.full(shape, uniform, dtype=torch.float64))
    logits = torch.tensor([[0.0, 0.5, 0.0, 0.5, 0.0]]).log()
    assert draw(logits, generator=torch.Generator()).tolist() == [want]
