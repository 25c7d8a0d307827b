"""Rows in parts: nothing is lost, nothing comes twice, and a part's rows keep their order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from ratchet_jobs.data.feedback_order import _Ranges
from ratchet_jobs.data.parted import Parted

SCHEMA = pa.schema({"n": pa.int64(), "text": pa.string()})


def rows(numbers: range) -> pa.Table:
    return pa.table({"more": [0] * len(numbers), "text": [f"t{n}" for n in numbers], "n": [*numbers]})


def test_rows_come_back_by_part_in_the_order_in_which_they_came(tmp_path: Path) -> None:
    parted = Parted(tmp_path / "rows", 4, SCHEMA)
    for start in (0, 100, 200):
        numbers = range(start, start + 100)
        parted.add(rows(numbers), np.array([n % 5 for n in numbers]))  # 4 is beyond the last, 3 too
    assert parted.rows == 240
    for part in (2, 0, 3, 1):
        taken = parted.take(part)
        assert taken.schema == SCHEMA
        assert taken.to_pylist() == [{"n": n, "text": f"t{n}"} for n in range(300) if n % 5 == part]
    assert not list((tmp_path / "rows").iterdir()), "what was taken needs room no more"


def test_a_part_without_rows_is_a_table_without_rows(tmp_path: Path) -> None:
    parted = Parted(tmp_path / "rows", 2, SCHEMA)
    parted.add(rows(range(3)), np.zeros(3, int))
    assert parted.take(1) == SCHEMA.empty_table()


PAIRS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=12)


@given(PAIRS, PAIRS)
def test_a_pair_lies_in_the_range_of_the_bounds_that_are_not_above_it(
    bounds: list[tuple[int, int]], pairs: list[tuple[int, int]]
) -> None:
    ranges = _Ranges(sorted(bounds))
    first, second = np.array([*pairs], np.uint64).reshape(-1, 2).T
    assert ranges.of(first, second).tolist() == [sum(bound <= pair for bound in bounds) for pair in pairs]
    assert ranges.parts == len(bounds) + 1
