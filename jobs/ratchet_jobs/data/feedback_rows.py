"""From votes to the rows of a data set: one rule after the other, each removal counted with the place of the first.

Decides what each type of data set takes from an event, and in which order rules remove rows:

    classification  text, label             a correction; an answer rated at least minRating
    ratings         text, label, score      whatever scores the answer; a class also needs its propensity
    preferences     text, chosen, rejected  a preference; a correction against the answer
    demonstrations  text, response          a correction; an answer rated at least minRating

An event makes at most one row. A comment, a metric and an unrated correction score nothing. Every choice is by hash
and every order is total, so a rebuild agrees. Works on the tables of `feedback_events`; called by the snapshot recipe.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import timedelta

import duckdb
import pyarrow as pa

from ratchet_api.feedback_dataset import DatasetType, Filters, Removed, Split
from ratchet_api.feedback_source import FeedbackSource, Quarantine
from ratchet_jobs.data.redaction import redact
from ratchet_jobs.data.splitting import cap_of, components, hash64, normalised, split_of
from ratchet_jobs.runtime.errors import BadDataError

BATCH = 65_536
_LONGEST_LABEL = 128

_GOOD = "coalesce($least IS NOT NULL AND score >= ($least - 1) / 4, false)"
_FIRST = {
    "classification": f"CASE WHEN correction IS NOT NULL THEN correction WHEN {_GOOD} THEN answer END",
    "demonstrations": f"CASE WHEN correction IS NOT NULL THEN correction WHEN {_GOOD} THEN answer END",
    "ratings": "CASE WHEN score IS NOT NULL THEN answer END",
    "preferences": "CASE WHEN type = 'preference' THEN chosen ELSE correction END",
}
"""What the row holds besides the text."""
_SECOND = "CASE WHEN type = 'preference' THEN rejected ELSE answer END"
_NEEDS = {
    "ratings": "WHEN {less} THEN 'BelowMinRating' WHEN is_class AND propensity IS NULL THEN 'MissingPropensity'",
    "preferences": "WHEN first = second THEN 'SameAnswer' WHEN second IS NULL THEN 'MissingAnswer'",
}
_CANDIDATES = """
CREATE TABLE candidate AS
WITH made AS (SELECT *, {first} AS first, {second} AS second FROM vote)
SELECT *, CASE
    WHEN superseded THEN 'Superseded'
    WHEN $types IS NOT NULL AND NOT list_contains($types, type) THEN 'OtherType'
    WHEN $versions IS NOT NULL AND NOT coalesce(list_contains($versions, version), false) THEN 'OtherVersion'
    WHEN NOT ({tags}) THEN 'OtherTags'
    WHEN first IS NULL THEN 'NoVerdict'
    WHEN prompt IS NULL THEN 'MissingText'
    {needs}
END AS why
FROM made
"""
_AGREEMENT = """
WITH item AS (SELECT sha256(prompt) || sha256(answer) AS item, subject, avg(score) AS score FROM candidate
              WHERE NOT superseded AND score IS NOT NULL AND subject IS NOT NULL AND prompt IS NOT NULL
                    AND answer IS NOT NULL GROUP BY ALL),
     whole AS (SELECT item, sum(score) AS total, count(*) AS raters FROM item GROUP BY item HAVING count(*) >= 2)
SELECT subject, count(*) AS comparisons,
       round(1 - avg(abs(score - (total - score) / (raters - 1))), 6) AS agreement
FROM item JOIN whole USING (item) GROUP BY subject HAVING count(*) >= $least ORDER BY subject
"""


class FeedbackRows:
    """The rows of one data set while its rules are applied, in tables of the database.

    Args:
        database: with the table `vote`.
        type: of the data set.
        source: its rules about events.
    """

    def __init__(self, database: duckdb.DuckDBPyConnection, type: DatasetType, source: FeedbackSource) -> None:
        self.removed: dict[str, tuple[int, str]] = {}
        """Per rule how many, and the first event."""
        self.redacted: Counter[str] = Counter()
        self._db, self._type, self._source = database, type, source
        paths = ((f"$.{_text(tag.name, chr(34))}", tag.value) for tag in source.tags)
        tags = " AND ".join(f"tags ->> {_text(path)} = {_text(value)}" for path, value in paths)
        less = f"$least IS NOT NULL AND NOT {_GOOD}"
        query = _CANDIDATES.format(
            first=_FIRST[type],
            second=_SECOND if type == "preferences" else "NULL::VARCHAR",
            tags=f"coalesce({tags}, false)" if tags else "true",
            needs=_NEEDS.get(type, "").format(less=less),
        )
        given = {"types": source.types, "versions": source.versions, "least": source.min_rating}
        used = {name: _list(value) for name, value in given.items() if f"${name}" in query}
        database.execute(query, used)
        self.read = self._number("SELECT count(*) FROM candidate")
        self._count_removed("candidate")

    def outliers(self, rules: Quarantine) -> list[dict[str, str | int | float]]:
        """Set people aside who disagree with everybody, and return them, those released included."""
        found = self._db.execute(_AGREEMENT, {"least": rules.min_comparisons}).fetchall()
        people: list[dict[str, str | int | float]] = [
            {
                "subject": subject,
                "comparisons": comparisons,
                "agreement": agreement,
                "released": subject in rules.release,
            }
            for subject, comparisons, agreement in found
            if agreement < rules.min_agreement
        ]
        aside = [each["subject"] for each in people if not each["released"]]
        query = "UPDATE candidate SET why = 'Quarantined' WHERE why IS NULL AND list_contains($aside, subject)"
        self._db.execute(query, {"aside": aside})
        self._count_removed("candidate", rule="Quarantined")
        return people

    def clean(self, filters: Filters, labels: tuple[str, ...] | None) -> None:
        """Redact and measure what is left, into the table `row`."""
        self._db.execute(
            "CREATE TABLE row (event VARCHAR, o BIGINT, text VARCHAR, first VARCHAR, second VARCHAR, score DOUBLE, "
            "propensity DOUBLE, version BIGINT, subject VARCHAR, about VARCHAR, received TIMESTAMP, text_hash UBIGINT, "
            "subject_hash UBIGINT, why VARCHAR)"
        )
        query = (
            "SELECT event, o, prompt, first, second, score, propensity, version, subject, about, received, is_class "
            "FROM candidate WHERE why IS NULL ORDER BY o"
        )
        closed = None if labels is None else frozenset(labels)
        for batch in self.batches(query):
            cleaned = self._cleaned(batch, filters, closed)
            self._db.register("cleaned", cleaned)
            self._db.execute("INSERT INTO row BY NAME SELECT * FROM cleaned")
            self._db.unregister("cleaned")
        self._db.execute("DROP TABLE candidate")
        self._take_out("row")

    def _cleaned(self, batch: pa.Table, filters: Filters, labels: frozenset[str] | None) -> pa.Table:
        named = self._type in ("classification", "ratings")
        wanted = ("prompt", "first", "second", "is_class", "subject")
        columns = {name: batch.column(name).to_pylist() for name in wanted}
        made: dict[str, list[object]] = {"text": [], "first": [], "second": [], "text_hash": [], "why": []}
        for prompt, first, second, is_class in zip(
            columns["prompt"], columns["first"], columns["second"], columns["is_class"], strict=True
        ):
            text = redact(prompt, self.redacted).strip()
            # a class is one of a list and says nothing of a person; what somebody typed as one may
            first = first.strip() if is_class and labels and first in labels else redact(first, self.redacted).strip()
            why = None
            if len(text) < filters.min_text_chars:
                why = "TextTooShort"
            elif len(text) > filters.max_text_chars:
                why = "TextTooLong"
            elif not first or (self._type == "classification" and len(first) > _LONGEST_LABEL):
                why = "InvalidLabel"
            elif named and labels is not None and first not in labels:
                why = "UnknownLabel"
            made["text"].append(text)
            made["first"].append(first)
            made["second"].append(None if second is None else redact(second, self.redacted).strip())
            made["text_hash"].append(hash64("text", normalised(text)))
            made["why"].append(why)
        kept = ("event", "o", "score", "propensity", "version", "subject", "about", "received")
        people = [None if each is None else hash64("group", each) for each in columns["subject"]]
        table = pa.table(
            {
                **{name: batch.column(name) for name in kept},
                **{name: pa.array(made[name], pa.string()) for name in ("text", "first", "second", "why")},
                "text_hash": pa.array(made["text_hash"], pa.uint64()),
                "subject_hash": pa.array(people, pa.uint64()),
            }
        )
        return table

    def dedupe(self) -> None:
        """Keep the first of equal rows. Ratings are votes, of which each one counts."""
        if self._type != "ratings":
            key = "text_hash, first, coalesce(second, '')"
            self._mark("Duplicate", f"o NOT IN (SELECT min(o) FROM row GROUP BY {key})")

    def filter(self, filters: Filters) -> None:
        """Apply the age, share and size filters in this order."""
        if filters.max_age_days is not None:
            newest = self._db.execute("SELECT max(received) FROM row").fetchone()
            if newest is not None and newest[0] is not None:
                self._mark("TooOld", "received < $oldest", oldest=newest[0] - timedelta(days=filters.max_age_days))
        if filters.max_subject_share_percent is not None:
            self._cap(filters.max_subject_share_percent)
        if filters.max_samples is not None:
            # ids that follow from a key could be chosen by the sender: hashed again, they cannot be steered cheaply
            chosen = f"SELECT event FROM row ORDER BY sha256('sample' || event), event LIMIT {filters.max_samples}"
            self._mark("MaxSamples", f"event NOT IN ({chosen})")

    def _cap(self, share_percent: float) -> None:
        """Let nobody have more than their share; a row without a subject counts as a subject of its own."""
        counts = self._db.execute("SELECT count(*) FROM row GROUP BY coalesce(subject, event) ORDER BY 1").fetchall()
        cap = cap_of([count for (count,) in counts], share_percent)
        if cap == 0 and counts:
            raise BadDataError(
                f"spec.filters.maxSubjectSharePercent is {share_percent:g}, but there are only {len(counts)} subjects, "
                f"so nobody could have that little; raise it to {100 / len(counts):.3g} or more"
            )
        self._mark(
            "SubjectShare",
            "event IN (SELECT event FROM (SELECT event, row_number() OVER (PARTITION BY coalesce(subject, event) "
            f"ORDER BY text_hash, event) AS place FROM row) WHERE place > {cap})",
        )

    def split(self, split: Split) -> None:
        """Put each row into a split, into the table `placed`: equal prompts together, and a person's rows if wanted."""
        by_subject = self._source.group_by == "subject"
        self._db.execute("CREATE TABLE part (text_hash UBIGINT, component UBIGINT, split VARCHAR)")
        query = "SELECT DISTINCT text_hash, {} AS person FROM row ORDER BY text_hash, person"
        # a person's texts must be seen together; without people each batch of texts stands for itself
        if by_subject:
            pairs = self._db.execute(query.format("subject_hash")).fetchall()
            joined = dict(zip((text for text, _ in pairs), components(pairs), strict=True))
            self._place(list(joined), list(joined.values()), split)
        else:
            for batch in self.batches(query.format("NULL")):
                texts = batch.column("text_hash").to_pylist()
                self._place(texts, texts, split)
        self._db.execute("CREATE TABLE placed AS SELECT * FROM row JOIN part USING (text_hash)")
        self._db.execute("DROP TABLE row")

    def _place(self, texts: list[int], members: list[int], split: Split) -> None:
        parts = pa.table(
            {
                "text_hash": pa.array(texts, pa.uint64()),
                "component": pa.array(members, pa.uint64()),
                "split": pa.array([split_of(member, split) for member in members], pa.string()),
            }
        )
        self._db.register("new_parts", parts)
        self._db.execute("INSERT INTO part SELECT * FROM new_parts")
        self._db.unregister("new_parts")

    def batches(self, query: str) -> Iterator[pa.Table]:
        """Yield the answer to a query in tables of exactly BATCH rows and a rest, whatever pieces the engine makes."""
        waiting: list[pa.RecordBatch] = []
        for piece in self._db.cursor().sql(query).to_arrow_reader(BATCH):
            waiting.append(piece)
            if sum(each.num_rows for each in waiting) >= BATCH:
                table = pa.Table.from_batches(waiting)
                yield table.slice(0, BATCH)
                waiting = table.slice(BATCH).to_batches()
        if waiting:
            yield pa.Table.from_batches(waiting)

    def as_status(self) -> tuple[Removed, ...]:
        """The rules, most removals first."""
        rules = sorted(self.removed.items(), key=lambda each: (-each[1][0], each[0]))
        return tuple(Removed(rule=rule, count=count, example=f"event {first}") for rule, (count, first) in rules[:16])

    def _mark(self, rule: str, condition: str, **given: object) -> None:
        self._db.execute(f"UPDATE row SET why = '{rule}' WHERE {condition}", given)
        self._take_out("row")

    def _take_out(self, table: str) -> None:
        self._count_removed(table)
        self._db.execute(f"DELETE FROM {table} WHERE why IS NOT NULL")

    def _count_removed(self, table: str, *, rule: str | None = None) -> None:
        only = f"AND why = '{rule}'" if rule else ""
        query = f"SELECT why, count(*), arg_min(event, o) FROM {table} WHERE why IS NOT NULL {only} GROUP BY why"
        for why, count, first in self._db.execute(query).fetchall():
            before, earlier = self.removed.get(why, (0, first))
            self.removed[why] = (before + count, earlier)

    def _number(self, query: str) -> int:
        found = self._db.execute(query).fetchone()
        return int(found[0]) if found else 0


def _list(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _text(value: str, quote: str = "'") -> str:
    """Quote a text for SQL, or with double quotes for a JSON path."""
    return quote + value.replace(quote, quote * 2) + quote
