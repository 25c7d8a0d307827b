"""The log folded by subject: one row for each answer, vote and subject of an experiment, in a database of its own.

Decides which of two events with one id counts (the first by time, then by content), what a subject's row says, and
that the same events give the same rows in whatever order, however often and in however many pieces they are read: each
row is the least of all that claim its place, and a subject's row is made anew from its answers and votes whenever one
of them changes. Names of people, answers and votes are kept as 64 bits of a hash. Knows no store, no clock and no HTTP.

SQLite does the joins and keeps on disk what does not fit into its cache, so that memory stays the same however many
subjects there are. The file has no name and ends with the process: the log is the only truth.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from ratchet_api.feedback import score_of
from ratchet_gateway.analyst import pairs
from ratchet_gateway.analyst.pace import power_of
from ratchet_gateway.records import PAIR

SCALE = 100_000
"""Values are kept as whole numbers of this part of 1: sums of them are exact in whatever order they are taken."""
SLOT = 15_000
"""Milliseconds; subjects that were first answered in the same slot enter together."""
CACHE_KIB = 65_536
_SILENT = ("undo", "metric")
"""Feedback that says nothing about an answer."""

_SCHEMA = """
CREATE TABLE segment (id INTEGER PRIMARY KEY);
CREATE TABLE experiment (id INTEGER PRIMARY KEY, policy TEXT, name TEXT, newest INTEGER);
CREATE TABLE answer (id INTEGER PRIMARY KEY, at INTEGER, print INTEGER, experiment INTEGER, subject INTEGER,
    canary INTEGER, version INTEGER, abstained INTEGER, failed INTEGER, took INTEGER);
CREATE INDEX answer_of ON answer (experiment, subject);
CREATE INDEX answer_to ON answer (subject);
CREATE TABLE vote (id INTEGER PRIMARY KEY, at INTEGER, print INTEGER, answer INTEGER, score INTEGER, source INTEGER);
CREATE INDEX vote_on ON vote (answer);
CREATE TABLE undone (vote INTEGER, source INTEGER, at INTEGER, PRIMARY KEY (vote, source)) WITHOUT ROWID;
CREATE TABLE loss (experiment INTEGER, recorder INTEGER, dropped INTEGER, PRIMARY KEY (experiment, recorder))
    WITHOUT ROWID;
CREATE TABLE unit (experiment INTEGER, subject INTEGER, met INTEGER, canary INTEGER, version INTEGER, crossed INTEGER,
    answered INTEGER, abstained INTEGER, failed INTEGER, scored INTEGER, score INTEGER, spoke INTEGER, late INTEGER,
    took INTEGER, PRIMARY KEY (experiment, subject)) WITHOUT ROWID;
CREATE INDEX unit_at ON unit (experiment, met);
CREATE TABLE slot (experiment INTEGER, place INTEGER, canary INTEGER, met INTEGER, first INTEGER, last INTEGER,
    crossed INTEGER, late INTEGER, spoke INTEGER, scored INTEGER, score INTEGER, score2 INTEGER, failed INTEGER,
    answered INTEGER, abstained INTEGER, abstained2 INTEGER, PRIMARY KEY (experiment, place, canary)) WITHOUT ROWID;
CREATE TABLE pace (experiment INTEGER, place INTEGER, canary INTEGER, took INTEGER, subjects INTEGER,
    PRIMARY KEY (experiment, place, canary, took)) WITHOUT ROWID;
CREATE TEMP TABLE new_answer AS SELECT * FROM answer;
CREATE TEMP TABLE new_vote AS SELECT * FROM vote;
CREATE TEMP TABLE new_undone AS SELECT * FROM undone;
CREATE TEMP TABLE touched (experiment INTEGER, subject INTEGER, PRIMARY KEY (experiment, subject)) WITHOUT ROWID;
CREATE TEMP TABLE stale (experiment INTEGER, place INTEGER, PRIMARY KEY (experiment, place)) WITHOUT ROWID;
"""

# Whose row may change: who had a row under one of the names before, and who has one now.
_TOUCHED = """
INSERT OR IGNORE INTO touched SELECT experiment, subject FROM answer WHERE id IN (SELECT id FROM new_answer);
INSERT OR IGNORE INTO touched SELECT experiment, subject FROM answer WHERE id IN (
    SELECT answer FROM vote WHERE id IN (SELECT id FROM new_vote)
    UNION SELECT answer FROM new_vote
    UNION SELECT answer FROM vote WHERE id IN (SELECT vote FROM new_undone));
"""

_MERGE = """
INSERT INTO answer SELECT * FROM new_answer WHERE true ON CONFLICT (id) DO UPDATE SET
    at = excluded.at, print = excluded.print, experiment = excluded.experiment, subject = excluded.subject,
    canary = excluded.canary, version = excluded.version, abstained = excluded.abstained, failed = excluded.failed,
    took = excluded.took WHERE (excluded.at, excluded.print) < (answer.at, answer.print);
INSERT INTO vote SELECT * FROM new_vote WHERE true ON CONFLICT (id) DO UPDATE SET
    at = excluded.at, print = excluded.print, answer = excluded.answer, score = excluded.score, source = excluded.source
    WHERE (excluded.at, excluded.print) < (vote.at, vote.print);
INSERT INTO undone SELECT * FROM new_undone WHERE true ON CONFLICT (vote, source) DO UPDATE SET
    at = min(excluded.at, undone.at);
"""

# A subject belongs to the arm of its first answer; what happens after its time has passed changes nothing any more.
_UNITS = """
WITH first AS MATERIALIZED (
    SELECT a.experiment, a.subject, min(2 * a.at + a.canary) / 2 AS met, min(2 * a.at + a.canary) % 2 AS canary,
        min(a.canary) <> max(a.canary) AS crossed
    FROM touched AS t CROSS JOIN answer AS a ON a.experiment = t.experiment AND a.subject = t.subject
    GROUP BY a.experiment, a.subject
), did AS MATERIALIZED (
    SELECT f.experiment, f.subject, min(a.version) AS version, count(a.abstained) AS answered,
        total(a.abstained) AS abstained, max(a.failed) AS failed, max(a.took) AS took
    FROM first AS f CROSS JOIN answer AS a ON a.experiment = f.experiment AND a.subject = f.subject
    WHERE a.at < f.met + :answers AND a.canary = f.canary
    GROUP BY f.experiment, f.subject
), said AS MATERIALIZED (
    SELECT f.experiment, f.subject, count(v.score) FILTER (WHERE v.at < f.met + :votes) AS scored,
        total(v.score) FILTER (WHERE v.at < f.met + :votes) AS score,
        max(v.at < f.met + :votes) AS spoke, sum(v.at >= f.met + :votes) AS late
    FROM first AS f CROSS JOIN answer AS a ON a.experiment = f.experiment AND a.subject = f.subject
    CROSS JOIN vote AS v ON v.answer = a.id
    WHERE a.canary = f.canary AND NOT EXISTS (
        SELECT 1 FROM undone AS u WHERE u.vote = v.id AND u.source = v.source AND u.at < f.met + :votes)
    GROUP BY f.experiment, f.subject
)
INSERT INTO unit
SELECT f.experiment, f.subject, f.met, f.canary, d.version, f.crossed,
    d.answered > 0, CASE WHEN d.answered > 0 THEN CAST(round(d.abstained * :scale / d.answered) AS INTEGER) END,
    d.failed,
    coalesce(s.scored, 0) > 0, CASE WHEN s.scored > 0 THEN CAST(round(s.score / s.scored) AS INTEGER) END,
    coalesce(s.spoke, 0), coalesce(s.late, 0),
    d.took
FROM first AS f JOIN did AS d USING (experiment, subject) LEFT JOIN said AS s USING (experiment, subject)
"""

# Sums over the subjects whose first answers fell into the same few seconds, so that an answer adds up thousands of
# rows where there are millions of subjects.
_STALE = """
INSERT OR IGNORE INTO stale SELECT experiment, met / :slot FROM unit
WHERE (experiment, subject) IN (SELECT * FROM touched)
"""
_SLOTS = """
INSERT INTO slot
SELECT u.experiment, s.place, u.canary, count(*), min(u.version), max(u.version), sum(u.crossed), sum(u.late),
    sum(u.spoke), sum(u.scored), coalesce(sum(u.score), 0), coalesce(sum(u.score * u.score), 0), sum(u.failed),
    sum(u.answered), coalesce(sum(u.abstained), 0), coalesce(sum(u.abstained * u.abstained), 0)
FROM stale AS s CROSS JOIN unit AS u
    ON u.experiment = s.experiment AND u.met >= s.place * :slot AND u.met < (s.place + 1) * :slot
GROUP BY u.experiment, s.place, u.canary
"""
_PACES = """
INSERT INTO pace
SELECT u.experiment, s.place, u.canary, u.took, count(*) FROM stale AS s CROSS JOIN unit AS u
    ON u.experiment = s.experiment AND u.met >= s.place * :slot AND u.met < (s.place + 1) * :slot
WHERE u.took IS NOT NULL GROUP BY u.experiment, s.place, u.canary, u.took
"""


class Tables:
    """The database; one thread at a time.

    Args:
        attribution_seconds: how long feedback counts after a subject's first answer.
        answer_seconds: how long its failures and abstentions do.
    """

    def __init__(self, *, attribution_seconds: float, answer_seconds: float) -> None:
        self.attribution, self.answers = round(1000 * attribution_seconds), round(1000 * answer_seconds)
        self.newest: int | None = None
        """Time of the newest event, in milliseconds since 1970."""
        self.generation = 0
        """Rises when something changes."""
        self._erased: frozenset[int] = frozenset()
        # no name: a file in TMPDIR that is of no use to another process, so that a crash loses nothing but time
        self.database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        for setting in (
            "journal_mode = MEMORY",
            "synchronous = OFF",
            "temp_store = MEMORY",
            f"cache_size = -{CACHE_KIB}",
        ):
            self.database.execute(f"PRAGMA {setting}").fetchall()
        self.database.executescript(_SCHEMA + pairs.SCHEMA)

    def close(self) -> None:
        """Close the file."""
        self.database.close()

    def has_read(self, segment: str) -> bool:
        """Tell whether a segment, named by its writer and number, was folded."""
        return self.database.execute("SELECT 1 FROM segment WHERE id = ?", (hashed(segment),)).fetchone() is not None

    def fold(self, segments: Mapping[str, Iterable[Mapping[str, Any]]]) -> int:
        """Take the events of segments into account, all or nothing; return how many there were.

        Args:
            segments: events by the segment's writer and number; those folded before may come again.
        """
        staged = _Staged(self._erased)
        for events in segments.values():
            for event in events:
                staged.take(event)
        with self._at_once():
            staged.write(self.database)
            self._script(_TOUCHED)
            self._script(_MERGE)
            self._script(_TOUCHED)
            self._renew()
            self.database.executemany(
                "INSERT OR IGNORE INTO segment VALUES (?)", [(hashed(segment),) for segment in segments]
            )
        self.newest = max((each for each in (self.newest, staged.newest) if each is not None), default=None)
        self.generation += 1
        return staged.events

    def forget(self, *, erased: Collection[str], before: int) -> None:
        """Take people and old experiments out.

        Args:
            erased: pseudonyms of everybody who was erased; nothing of them is taken in any more.
            before: milliseconds; experiments without an answer since then are forgotten.
        """
        gone = frozenset(map(hashed, erased)) - self._erased
        old = self.database.execute("SELECT id FROM experiment WHERE newest < ?", (before,)).fetchall()
        if not gone and not old:
            return
        with self._at_once():
            for column, names in (("subject", [(name,) for name in gone]), ("experiment", old)):
                self.database.executemany(
                    f"DELETE FROM vote WHERE answer IN (SELECT id FROM answer WHERE {column} = ?)", names
                )
                self.database.executemany(
                    f"INSERT OR IGNORE INTO touched SELECT experiment, subject FROM answer WHERE {column} = ?", names
                )
                self.database.executemany(f"DELETE FROM answer WHERE {column} = ?", names)
            self._renew()
            for table, column in (("experiment", "id"), ("loss", "experiment"), ("pair", "experiment")):
                self.database.executemany(f"DELETE FROM {table} WHERE {column} = ?", old)
        self._erased |= gone
        self.generation += 1

    def _renew(self) -> None:
        """Make the rows of the touched subjects anew, and the sums that they are part of."""
        slot = {"slot": SLOT}
        self.database.execute(_STALE, slot)
        self.database.execute("DELETE FROM unit WHERE (experiment, subject) IN (SELECT * FROM touched)")
        self.database.execute(_UNITS, {"answers": self.answers, "votes": self.attribution, "scale": SCALE})
        self.database.execute(_STALE, slot)
        for sums, made in (("slot", _SLOTS), ("pace", _PACES)):
            self.database.execute(f"DELETE FROM {sums} WHERE (experiment, place) IN (SELECT * FROM stale)")
            self.database.execute(made, slot)
        for table in ("touched", "stale", "new_answer", "new_vote", "new_undone"):
            self.database.execute(f"DELETE FROM {table}")

    def _script(self, text: str) -> None:
        # executescript would end the transaction
        for statement in text.split(";")[:-1]:
            self.database.execute(statement)

    @contextmanager
    def _at_once(self) -> Iterator[None]:
        self.database.execute("BEGIN")
        try:
            yield
        except BaseException:
            self.database.execute("ROLLBACK")
            raise
        self.database.execute("COMMIT")


class _Staged:
    """Events on their way into the database."""

    def __init__(self, erased: frozenset[int]) -> None:
        self._erased = erased
        self.events = 0
        self.newest: int | None = None
        self._answers: list[tuple[int | None, ...]] = []
        self._votes: list[tuple[int | None, ...]] = []
        self._undone: list[tuple[int, int, int]] = []
        self._experiments: dict[int, tuple[str, str, int]] = {}
        self._losses: list[tuple[int, int, int]] = []
        self._pairs: list[pairs.Row] = []

    def take(self, event: Mapping[str, Any]) -> None:
        self.events += 1
        at = milliseconds(str(event["received"]))
        self.newest = at if self.newest is None else max(self.newest, at)
        experiment = event.get("experiment")
        if event["kind"] == "feedback":
            self._take_feedback(event, at, experiment is not None)
        elif event["kind"] == PAIR:
            self._take_pair(event, at)
        elif experiment is not None and "arm" in event and "subject" in event and "interaction" in event:
            self._take_answer(event, at, str(experiment))

    def _take_answer(self, event: Mapping[str, Any], at: int, experiment: str) -> None:
        policy = str(event["policy"])
        name, subject = experiment_key(policy, experiment), hashed(str(event["subject"]))
        if event["arm"] not in ("canary", "control") or subject in self._erased:
            return
        self._met(name, policy, experiment, at)
        failed, abstained, took = event.get("failed") is True, event.get("abstained"), event.get("milliseconds")
        self._answers.append(
            (
                hashed(str(event["interaction"])),
                at,
                hashed(str(event.get("fingerprint", ""))),
                name,
                subject,
                int(event["arm"] == "canary"),
                event.get("version"),
                None if failed or abstained is None else int(abstained),
                int(failed),
                None if failed or took is None else power_of(float(took)),
            )
        )
        if "recorder" in event and "dropped" in event:
            self._losses.append((name, hashed(str(event["recorder"])), int(event["dropped"])))

    def _take_pair(self, event: Mapping[str, Any], at: int) -> None:
        policy, pair = str(event["policy"]), event["pair"]
        name = experiment_key(policy, str(pair["experiment"]))
        self._met(name, policy, str(pair["experiment"]), at)
        request, fingerprint = hashed(str(pair["request"])), hashed(str(event.get("fingerprint", "")))
        self._pairs.append(pairs.row_of(event, experiment=name, request=request, at=at, fingerprint=fingerprint))

    def _met(self, name: int, policy: str, experiment: str, at: int) -> None:
        known = self._experiments.get(name)
        self._experiments[name] = (policy, experiment, at if known is None else max(known[2], at))

    def _take_feedback(self, event: Mapping[str, Any], at: int, compared: bool) -> None:
        source = hashed(str(event["source"]))
        if (old := event.get("supersedes")) is not None:
            self._undone.append((hashed(str(old)), source, at))
        if not compared or "interaction" not in event or event["type"] in _SILENT:
            return
        score = score_of(event)
        self._votes.append(
            (
                hashed(str(event["id"])),
                at,
                hashed(str(event.get("fingerprint", ""))),
                hashed(str(event["interaction"])),
                None if score is None else round(score * SCALE),
                source,
            )
        )

    def write(self, database: sqlite3.Connection) -> None:
        database.executemany("INSERT INTO new_answer VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", self._answers)
        database.executemany("INSERT INTO new_vote VALUES (?, ?, ?, ?, ?, ?)", self._votes)
        pairs.merge(database, self._pairs)
        database.executemany("INSERT INTO new_undone VALUES (?, ?, ?)", self._undone)
        database.executemany(
            "INSERT INTO experiment VALUES (?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET "
            "newest = max(newest, excluded.newest)",
            [(name, *rest) for name, rest in self._experiments.items()],
        )
        database.executemany(
            "INSERT INTO loss VALUES (?, ?, ?) ON CONFLICT (experiment, recorder) DO UPDATE SET "
            "dropped = max(dropped, excluded.dropped)",
            self._losses,
        )


def hashed(name: str) -> int:
    """Return 64 bits of a name's hash; two of a million names share one with a chance of 3 in 100 million."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), signed=True)


def experiment_key(policy: str, experiment: str) -> int:
    """Return the key of an experiment's rows."""
    return hashed(f"{policy}\0{experiment}")


def milliseconds(text: str) -> int:
    """Return a stored time in milliseconds since 1970.

    Raises:
        ValueError: the text is no time with a zone.
    """
    return round(datetime.fromisoformat(text).timestamp() * 1000)
