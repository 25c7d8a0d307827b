"""From logits to tokens and from tokens to text, as the generators' server does both."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from ratchet_serving.generation.drawing import Manner, choose, probabilities
from ratchet_serving.generation.writing import Writer


def byte_tokenizer() -> Tokenizer:
    """A token for every byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: number for number, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


@pytest.mark.parametrize(
    ("text", "stops", "want"),
    [
        ("  Grüße an 東京 🎉  ", (), "Grüße an 東京 🎉"),
        ("one STOP two", ("STOP",), "one"),
        ("one ST", ("STOP",), "one ST"),
        ("aab", ("ab", "b"), "a"),
        ("end\n\nUser: x", ("\n\nUser:", "\n\n\n"), "end"),
        ("", ("a",), ""),
        ("   ", (), ""),
    ],
)
def test_the_pieces_of_an_answer_are_its_text_and_none_is_taken_back(
    text: str, stops: tuple[str, ...], want: str
) -> None:
    tokenizer = byte_tokenizer()
    writer = Writer(tokenizer, stops=stops)
    pieces = []
    for token in tokenizer.encode(text).ids:
        pieces.append(writer.push(token))
        if writer.stopped:
            break
    pieces.append(writer.end())
    assert "".join(pieces) == want
    assert writer.stopped == any(stop in text for stop in stops)
    assert "\ufffd" not in "".join(pieces)


def test_blanks_stay_where_a_text_is_gone_on_with_and_half_a_character_is_shown_as_such() -> None:
    tokenizer = byte_tokenizer()
    writer = Writer(tokenizer, trimmed=False)
    pieces = [writer.push(token) for token in tokenizer.encode("  ü ").ids[:3]] + [writer.end()]
    assert pieces == [" ", " ", "", "\ufffd"]


def draws(probs: Sequence[float], manner: Manner, points: Sequence[float]) -> list[tuple[int, float]]:
    logits = torch.tensor(probs).log().expand(len(points), -1)
    return [(c.token, round(c.propensity, 6)) for c in choose(logits, [manner] * len(points), list(points))]


def test_tokens_are_drawn_by_temperature_and_top_p() -> None:
    probs = (0.1, 0.6, 0.3)
    # in the order of the vocabulary: [0, .1) [.1, .7) [.7, 1)
    assert draws(probs, Manner(1.0, 1.0), (0.05, 0.1001, 0.69, 0.71, 1 - 2**-53)) == [
        (0, 0.1), (1, 0.6), (1, 0.6), (2, 0.3), (2, 0.3)
    ]  # fmt: skip
    # 0.6 < 0.7, so 0.3 stays, too: 0.6 / 0.9 and 0.3 / 0.9
    assert draws(probs, Manner(1.0, 0.7), (0.0, 0.66, 0.67)) == [(1, 0.666667), (1, 0.666667), (2, 0.333333)]
    assert draws(probs, Manner(1.0, 0.6), (0.999,)) == [(1, 1.0)]
    # at 1/2 the squares: .01 .36 .09 of .46
    assert draws(probs, Manner(0.5, 1.0), (0.0,)) == [(0, round(0.01 / 0.46, 6))]
    assert draws(probs, Manner(1e-9, 1.0), (0.999,)) == [(1, 1.0)]
    assert draws(probs, Manner(0.0, 0.1), (0.999,)) == [(1, 1.0)]


def test_top_p_keeps_the_smallest_set_of_its_mass_in_a_large_vocabulary() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(3, 2000, generator=generator) * torch.tensor([[0.2], [1.0], [4.0]])
    for top_p in (0.05, 0.5, 0.99):
        got = probabilities(logits, [Manner(1.0, top_p)] * 3).numpy()
        for row, probs in zip(got, logits.double().softmax(-1).numpy(), strict=True):
            order = np.argsort(-probs)
            kept = order[: int(np.searchsorted(np.cumsum(probs[order]), top_p)) + 1]
            assert set(np.flatnonzero(row)) == set(kept)
            assert math.isclose(row.sum(), 1.0)
