"""bench/reward_model: how ratings are read and parted, and which pairs a score is judged by."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench.reward_model.task import SETS, Rating, pair_accuracy, parted, read_ratings


def test_sentences_of_one_text_stand_on_one_side() -> None:
    ratings = [Rating(f"reviews/{n // 5}", f"sentence number {n}", 0.0) for n in range(2000)]
    train, held_out = parted(ratings)
    assert not {each.document for each in train} & {each.document for each in held_out}
    assert sorted([*train, *held_out]) == sorted(ratings)
    assert 0.12 < len(held_out) / len(ratings) < 0.28


def test_lines_are_an_id_a_mean_and_a_text_and_one_word_is_none(tmp_path: Path) -> None:
    for name in SETS:
        (tmp_path / f"{name}.txt").write_text("3_1\t-4\tas bad as can be\n3_2\t4\tgreat\n4_1\t2\ta tab\tin it \n")
    found = read_ratings(tmp_path)
    assert len(found) == 2 * len(SETS)
    first, second = found[:2]
    assert (first.document, first.text, first.score) == ("amazonReviewSnippets/3", "as bad as can be", 0.0)
    assert (second.document, second.text, second.score) == ("amazonReviewSnippets/4", "a tab\tin it", 0.75)


@pytest.mark.parametrize(
    ("scores", "gap", "want"),
    [
        pytest.param([0, 1, 2, 3], 1.0, 1.0, id="as people did"),
        pytest.param([3, 2, 1, 0], 1.0, 0.0, id="the other way round"),
        pytest.param([0, 0, 0, 0], 1.0, 0.5, id="all alike"),
        pytest.param([1, 0, 2, 3], 0.4, 5 / 6, id="one pair of six wrong"),
        pytest.param([1, 0, 2, 3], 1.0, 1.0, id="which is too near to count"),
    ],
)
def test_only_pairs_as_far_apart_as_the_gap_are_judged(scores: list[float], gap: float, want: float) -> None:
    means = np.array([-3.0, -2.5, 0.0, 2.0])
    found = pair_accuracy(np.array(scores, dtype=np.float64), means, gap=gap, pairs=20_000)
    assert found == pytest.approx(want, abs=0.02)
