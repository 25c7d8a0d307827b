"""Answers of two versions to the same texts, from the log to a report.

Decides which of two records of one answer counts (the least, by time and then by content), what another answer is, and
how long answers took. Kept beside the subjects' rows, in the same database; nothing of it is of a person. Pure but for
the database, which `tables` owns and `counts` reads.
"""

from __future__ import annotations

import sqlite3
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from itertools import accumulate
from typing import Any

from ratchet_api.shadow import MOST_CONFUSIONS, Confusion, ShadowReport
from ratchet_gateway.analyst.pace import milliseconds_of, power_of

SCHEMA = """
CREATE TABLE pair (experiment INTEGER, request INTEGER, shadow INTEGER, at INTEGER, print INTEGER, said TEXT,
    took INTEGER, PRIMARY KEY (experiment, request, shadow)) WITHOUT ROWID;
"""
_MERGE = """
INSERT INTO pair VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (experiment, request, shadow) DO UPDATE SET
    at = excluded.at, print = excluded.print, said = excluded.said, took = excluded.took
    WHERE (excluded.at, excluded.print) < (pair.at, pair.print)
"""
# said: NULL = no answer, empty = the version abstained. What the champion gave no answer to compares with nothing.
_BOTH = """
FROM pair AS c JOIN pair AS s ON s.experiment = c.experiment AND s.request = c.request AND s.shadow = 1
WHERE c.experiment = :experiment AND c.shadow = 0 AND c.said IS NOT NULL
"""
Row = tuple[int, int, int, int, int, str | None, int]


def row_of(event: Mapping[str, Any], *, experiment: int, request: int, at: int, fingerprint: int) -> Row:
    """Return a stored record of a pair as a row.

    Raises:
        KeyError: a field is missing.
    """
    said: str | None = str(event.get("label", ""))
    if event.get("failed") is True:
        said = None
    elif event.get("abstained") is True:
        said = ""
    took = power_of(float(event["pair"]["milliseconds"]))
    return experiment, request, int(event["pair"]["shadow"] is True), at, fingerprint, said, took


def merge(database: sqlite3.Connection, rows: list[Row]) -> None:
    """Take rows into account, in whatever order they come."""
    database.executemany(_MERGE, rows)


def report(database: sqlite3.Connection, experiment: int) -> ShadowReport:
    """Return what is known of a trial's pairs."""
    known = {"experiment": experiment}
    cells = database.execute(f"SELECT c.said, s.said, count(*) {_BOTH} GROUP BY 1, 2", known).fetchall()
    classes = Counter[str]()
    for champion, _, pairs in cells:
        classes[champion] += pairs
    others = [(champion, candidate, pairs) for champion, candidate, pairs in cells if champion != candidate]
    moved = sorted((-pairs, champion, candidate) for champion, candidate, pairs in others if candidate is not None)
    slow = [_quantiles(database, f"SELECT {side}.took, count(*) {_BOTH} GROUP BY 1", known) for side in "cs"]
    return ShadowReport(
        pairs=classes.total(),
        flips=sum(pairs for _, _, pairs in others),
        failures=sum(pairs for _, candidate, pairs in others if candidate is None),
        confusions=tuple(
            Confusion(champion=champion, candidate=candidate, pairs=-less, of=classes[champion])
            for less, champion, candidate in moved[:MOST_CONFUSIONS]
        ),
        champion_p50_ms=slow[0][0],
        champion_p99_ms=slow[0][1],
        candidate_p50_ms=slow[1][0],
        candidate_p99_ms=slow[1][1],
    )


def _quantiles(database: sqlite3.Connection, query: str, known: Mapping[str, int]) -> list[float | None]:
    """Times that half of the answers, and 99 % of them, did not exceed; a failed one took its time, too."""
    rows = sorted(database.execute(query, known).fetchall())
    if not rows:
        return [None, None]
    reached = list(accumulate(count for _, count in rows))
    wanted = [-(-percent * reached[-1] // 100) for percent in (50, 99)]
    return [milliseconds_of(rows[bisect_left(reached, answers)][0]) for answers in wanted]
