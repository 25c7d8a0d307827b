"""The order in which a policy under training is asked."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratchet_jobs.data.traffic import Traffic

groupings = st.lists(st.integers(0, 5), min_size=1, max_size=30).map(np.array)


@given(groupings, st.integers(0, 3), st.integers(0, 99), st.integers(1, 99))
def test_a_stretch_is_the_same_however_it_is_cut(groups: np.ndarray, seed: int, start: int, count: int) -> None:
    """P12: a resumed stage asks what the interrupted one would have asked."""
    whole = Traffic(groups, seed=seed).take(start, count)
    again = Traffic(groups, seed=seed)
    parts = [again.take(place, 1) for place in range(start, start + count)]
    assert whole.rows.tolist() == [int(part.rows[0]) for part in parts]
    assert whole.ends.tolist() == [bool(part.ends[0]) for part in parts]


@given(groupings, st.integers(0, 3), st.integers(0, 4))
def test_a_pass_asks_every_row_once_and_keeps_the_turns_of_a_group_in_order(
    groups: np.ndarray, seed: int, number: int
) -> None:
    queries = Traffic(groups, seed=seed).take(number * len(groups), len(groups))
    assert sorted(queries.rows) == list(range(len(groups)))
    episodes = np.split(queries.rows, np.flatnonzero(queries.ends)[:-1] + 1)
    assert len(episodes) == len(set(groups))
    for rows in episodes:
        assert rows.tolist() == np.flatnonzero(groups == groups[rows[0]]).tolist()


def test_each_pass_and_each_seed_has_an_order_of_its_own() -> None:
    rows = np.arange(50)
    orders = [Traffic(rows, seed=seed).take(50 * number, 50).rows.tolist() for seed in (0, 1) for number in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4


@pytest.mark.parametrize("groups", [[0, 1, 2], [7, 7, 7]], ids=["all apart", "all together"])
def test_an_episode_ends_with_its_last_turn(groups: list[int]) -> None:
    ends = Traffic(np.array(groups), seed=0).take(0, 3).ends
    assert ends.tolist() == ([True] * 3 if len(set(groups)) == 3 else [False, False, True])
