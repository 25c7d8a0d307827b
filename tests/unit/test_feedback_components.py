"""Components by tables are those by union-find, whatever the shape of who rated what."""

from __future__ import annotations

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ratchet_jobs.data.feedback_components import join_components
from ratchet_jobs.data.splitting import components, hash64

Pairs = list[tuple[int, int | None]]


def _joined(pairs: Pairs) -> dict[int, int]:
    with duckdb.connect(config={"threads": 2}) as database:
        columns = {"text": [text for text, _ in pairs], "person": [person for _, person in pairs]}
        table = pa.table({name: pa.array(values, pa.uint64()) for name, values in columns.items()})
        database.register("pairs", table)
        join_components(database, "SELECT text, person FROM pairs")
        left = {name for (name,) in database.execute("SELECT table_name FROM duckdb_tables()").fetchall()}
        found = database.execute("SELECT text, component FROM joined").fetchall()
    assert left == {"joined"}
    assert len(found) == len(dict(found)), "a text more than once"
    return dict(found)


def _expected(pairs: Pairs) -> dict[int, int]:
    return dict(zip((text for text, _ in pairs), components(pairs), strict=True))


@given(st.lists(st.tuples(st.integers(0, 60), st.none() | st.integers(1000, 1030)), min_size=1, max_size=80))
@settings(max_examples=25, deadline=None)
def test_tables_join_what_union_find_joins(numbers: Pairs) -> None:
    pairs = [(hash64("t", str(a)), None if b is None else hash64("g", str(b))) for a, b in numbers]
    assert _joined(pairs) == _expected(pairs)


@pytest.mark.parametrize("hashed", [True, False])
def test_a_long_chain_is_one_component(hashed: bool) -> None:
    """One in the order of its names takes the most rounds."""
    length = 2_000 if hashed else 20
    names = [hash64("n", str(number)) if hashed else number for number in range(2 * length + 1)]
    pairs: Pairs = [(names[2 * k], names[2 * k + 1]) for k in range(length)]
    pairs += [(names[2 * k + 2], names[2 * k + 1]) for k in range(length)]
    assert _joined(pairs) == _expected(pairs)
    assert set(_joined(pairs).values()) == {min(names)}
