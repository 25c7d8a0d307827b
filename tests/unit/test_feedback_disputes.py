"""How much people or versions disagree about a prompt, with numbers derived by hand."""

from __future__ import annotations

from math import log2

import duckdb
import pytest

from ratchet_jobs.data.feedback_disputes import DISPUTES

Vote = tuple[str, str | None, int | None, str | None, float | None, str | None, bool]


def vote(
    answer: str | None = "a",
    *,
    version: int | None = None,
    by: str | None = None,
    score: float | None = None,
    correction: str | None = None,
    superseded: bool = False,
) -> Vote:
    return ("q", answer, version, by, score, correction, superseded)


TWO_TO_ONE = -(2 / 3 * log2(2 / 3) + 1 / 3 * log2(1 / 3)) / log2(3)
"""Entropy of two votes against one, over that of three that all differ: 0.918 / 1.585."""
CASES: dict[str, tuple[list[Vote], float | None]] = {
    "up against down is the most that scores can disagree": ([vote(by="x", score=1), vote(by="y", score=0)], 1),
    "five stars against three": ([vote(by="x", score=1), vote(by="y", score=0.5)], 0.5),
    "equal scores": ([vote(by="x", score=1), vote(by="y", score=1)], None),
    "scores of different answers": ([vote("a", by="x", score=1), vote("b", by="y", score=0)], None),
    "one person twice": ([vote(by="x", score=1), vote(by="x", score=0)], None),
    "nobody in particular": ([vote(score=1), vote(score=0)], None),
    "what was taken back": ([vote(by="x", score=1), vote(by="y", score=0, superseded=True)], None),
    "who was set aside": ([vote(by="x", score=1), vote(by="aside", score=0)], None),
    "two wishes": ([vote(by="x", correction="b"), vote(by="y", correction="c")], 1),
    "equal wishes": ([vote(by="x", correction="b"), vote(by="y", correction="b")], None),
    "two wishes against one": ([vote(by=p, correction=c) for p, c in ("xb", "yb", "zc")], TWO_TO_ONE),
    "two versions": ([vote("a", version=1), vote("b", version=2)], 1),
    "two versions against one": ([vote(a, version=n) for n, a in enumerate("aab")], TWO_TO_ONE),
    "one version that answers by lot": ([vote("a", version=1), vote("b", version=1)], None),
    "the greatest counts": (
        [vote(by="x", score=1, version=1), vote(by="y", score=0.5, version=1), vote("b", version=2)],
        1,
    ),
}


@pytest.mark.parametrize(("votes", "want"), CASES.values(), ids=CASES.keys())
def test_the_dispute_about_a_prompt_is_between_none_and_each_saying_something_else(
    votes: list[Vote], want: float | None
) -> None:
    database = duckdb.connect()
    database.execute(
        "CREATE TABLE votes (prompt VARCHAR, answer VARCHAR, version BIGINT, subject VARCHAR, score DOUBLE, "
        "correction VARCHAR, superseded BOOLEAN)"
    )
    database.executemany("INSERT INTO votes VALUES (?, ?, ?, ?, ?, ?, ?)", votes)
    database.execute(DISPUTES, {"aside": ["aside"]})
    found = database.execute("SELECT dispute FROM disputed").fetchone()
    assert (found and found[0]) == (None if want is None else pytest.approx(want, abs=1e-6))
