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
from datetime import datetime, timedelta

import duckdb
import pyarrow as pa

from ratchet_api.feedback_dataset import DatasetType, Filters, Split, SplitName
from ratchet_api.feedback_source import FeedbackSource, Quarantine
from ratchet_api.snapshot_summary import DisputedCount, Removed
from ratchet_jobs.data.feedback_components import join_components
from ratchet_jobs.data.feedback_disputes import DISPUTES
from ratchet_jobs.data.feedback_events import drop_events
from ratchet_jobs.data.redaction import SUSPECT, redact
from ratchet_jobs.data.splitting import cap_of, hash64, normalised
from ratchet_jobs.runtime.errors import BadDataError

BATCH = 65_536
"""Rows of a table that is written at once: those of a row group."""
_CLEANED = 8_192
"""Rows that Python looks at together; as objects they take several times their room."""
_PIECE = 8_192
"""Rows that come out of the database at a time: what is over when a table is full waits in memory, and is small."""
_SORTED = 200_000
"""Rows that are sorted together, about."""
_SAMPLE = 20_000
"""Rows of which the bounds of what is sorted together are taken."""
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
# Texts without anything to find are cleaned and hashed here at once; the odd ones are told apart for Python. What
# people said, as they said it, stays beside that only where somebody asks who agreed with whom.
_ROWS = """
CREATE TABLE row AS
WITH made AS NOT MATERIALIZED (SELECT *, {first} AS first, {second} AS second FROM vote),
ruled AS NOT MATERIALIZED (
    SELECT *, {odd} AS odd, CASE
        WHEN superseded THEN 'Superseded'
        WHEN $types IS NOT NULL AND NOT list_contains($types, type) THEN 'OtherType'
        WHEN $versions IS NOT NULL AND NOT coalesce(list_contains($versions, version), false) THEN 'OtherVersion'
        WHEN NOT ({tags}) THEN 'OtherTags'
        WHEN first IS NULL THEN 'NoVerdict'
        WHEN prompt IS NULL THEN 'MissingText'
        {needs}
    END AS why FROM made
),
plain AS NOT MATERIALIZED (SELECT *, CASE WHEN why IS NULL AND NOT odd THEN {plain} END AS normalised FROM ruled),
hashed AS NOT MATERIALIZED (SELECT *, {hash} AS text_hash FROM plain)
SELECT event, o, {texts}, text_hash, is_class, score, propensity, version, subject, about, received, {kept}odd, why,
    CASE WHEN text_hash IS NOT NULL THEN {split} END AS split
FROM hashed
"""
_SAID = "prompt, answer, correction, superseded, 0.0::DOUBLE AS dispute, "
_AGREEMENT = """
WITH item AS (SELECT sha256(prompt) || sha256(answer) AS item, subject, avg(score) AS score FROM row
              WHERE NOT superseded AND score IS NOT NULL AND subject IS NOT NULL AND prompt IS NOT NULL
                    AND answer IS NOT NULL GROUP BY ALL),
     whole AS (SELECT item, sum(score) AS total, count(*) AS raters FROM item GROUP BY item HAVING count(*) >= 2)
SELECT subject, count(*) AS comparisons,
       round(1 - avg(abs(score - (total - score) / (raters - 1))), 6) AS agreement
FROM item JOIN whole USING (item) GROUP BY subject HAVING count(*) >= $least AND agreement < $most ORDER BY subject
"""
_TEXTS = {"prompt": "text", "first": "first", "second": "second"}
"""What a row holds of people's words, by the name that it has before it is cleaned."""


def needs(type: DatasetType, source: FeedbackSource) -> tuple[str, ...]:
    """Return which of `feedback_events.NOT_ALWAYS` a data set looks at."""
    looks = {
        "propensity": type == "ratings",
        "correction": type != "ratings" or source.sampling is not None,
        "chosen": type == "preferences",
        "rejected": type == "preferences",
        "tags": bool(source.tags),
    }
    return tuple(name for name, wanted in looks.items() if wanted)


class FeedbackRows:
    """The rows of one data set while its rules are applied, in the table `row` of the database.

    Args:
        database: with the view `vote` over the table `event`; both are gone afterwards.
        type: of the data set.
        source: its rules about events.
        split: how large the splits are. Where only equal prompts must stay together, a row's text decides its split
            as soon as it is known.
        labels: the classes, where the data set names them.
    """

    def __init__(
        self,
        database: duckdb.DuckDBPyConnection,
        type: DatasetType,
        source: FeedbackSource,
        split: Split,
        labels: tuple[str, ...] | None = None,
    ) -> None:
        self.removed: dict[str, tuple[int, str]] = {}
        """Per rule how many, and the first event."""
        self.redacted: Counter[str] = Counter()
        self._db, self._type, self._source, self._labels = database, type, source, labels
        self._disputed, self._sizes = 0, split
        by_text = source.group_by == "prompt"
        self._split = _split_sql(split, "text_hash") if by_text else "NULL::VARCHAR"
        paths = ((f"$.{_text(tag.name, chr(34))}", tag.value) for tag in source.tags)
        tags = " AND ".join(f"tags ->> {_text(path)} = {_text(value)}" for path, value in paths)
        less = f"$least IS NOT NULL AND NOT {_GOOD}"
        texts = (f"CASE WHEN odd THEN {raw} ELSE {_trimmed(raw)} END AS {name}" for raw, name in _TEXTS.items())
        query = _ROWS.format(
            first=_FIRST[type],
            second=_SECOND if type == "preferences" else "NULL::VARCHAR",
            tags=f"coalesce({tags}, false)" if tags else "true",
            needs=_NEEDS.get(type, "").format(less=less),
            odd=_ODD,
            plain=_PLAIN,
            texts=", ".join(texts),
            hash=hash_sql(_text("text"), "normalised"),
            kept=_SAID if source.quarantine or source.sampling else "",
            split=self._split,
        )
        given: dict[str, object] = {
            "types": source.types and list(source.types),
            "versions": source.versions and list(source.versions),
            "labels": list(labels or ()),
        }
        if type != "preferences":  # of which no rule asks for a rating
            given["least"] = source.min_rating
        database.execute(query, given)
        drop_events(database)
        newest = "date_trunc('second', max(received)) + INTERVAL 1 SECOND"
        counted = database.execute(f"SELECT count(*), {newest} FROM row").fetchall()[0]
        self.read: int = counted[0]
        self.newest: datetime | None = counted[1]
        """The whole second after the arrival of the newest event, whatever became of it."""
        self._count_removed()

    def outliers(self, rules: Quarantine) -> list[dict[str, str | int | float]]:
        """Set people aside who disagree with everybody, and return them, those released included."""
        found = self._db.execute(_AGREEMENT, {"least": rules.min_comparisons, "most": rules.min_agreement}).fetchall()
        people: list[dict[str, str | int | float]] = [
            {
                "subject": subject,
                "comparisons": comparisons,
                "agreement": agreement,
                "released": subject in rules.release,
            }
            for subject, comparisons, agreement in found
        ]
        aside = [each["subject"] for each in people if not each["released"]]
        if aside:
            why = "CASE WHEN why IS NULL AND list_contains($aside, subject) THEN 'Quarantined' ELSE why END AS why"
            self._replace(f"SELECT * REPLACE ({why}) FROM row", aside=aside)
            self._count_removed(rule="Quarantined")
        return people

    def dispute(self) -> None:
        """Measure how much people or versions disagree about each prompt; people set aside are not heard."""
        self._db.execute(DISPUTES)
        self._replace(
            "SELECT row.* REPLACE (coalesce(disputed.dispute, 0.0) AS dispute) "
            "FROM row LEFT JOIN disputed ON row.prompt = disputed.prompt"
        )
        self._db.execute("DROP TABLE disputed")

    def clean(self, filters: Filters) -> None:
        """Redact and measure what is left.

        Most texts are plain ASCII without anything that a pattern could find: those never leave the database.
        """
        self._db.execute("CREATE TABLE clean AS SELECT * FROM row WHERE why IS NULL AND NOT odd")
        for batch in self.batches("SELECT * FROM row WHERE why IS NULL AND odd", rows=_CLEANED):
            self._db.register("cleaned", self._cleaned(batch))
            self._db.execute(
                f"INSERT INTO clean BY NAME SELECT * REPLACE (false AS odd, {self._split} AS split) FROM cleaned"
            )
            self._db.unregister("cleaned")
        self._replace()
        self._db.execute("CHECKPOINT")  # compresses what is left
        self._mark("TextTooShort", "length(text) < $least", least=filters.min_text_chars)
        self._mark("TextTooLong", "length(text) > $most", most=filters.max_text_chars)
        most = _LONGEST_LABEL if self._type == "classification" else 1 << 30
        self._mark("InvalidLabel", "first = '' OR length(first) > $most", most=most)
        if self._labels is not None:
            self._mark("UnknownLabel", "first NOT IN (SELECT unnest($labels))", labels=list(self._labels))

    def _cleaned(self, batch: pa.Table) -> pa.Table:
        columns = {name: batch.column(name).to_pylist() for name in ("text", "first", "second", "is_class")}
        made: dict[str, list[object]] = {"text": [], "first": [], "second": [], "text_hash": []}
        labels = frozenset(self._labels or ())
        for raw, first, second, is_class in zip(*columns.values(), strict=True):
            text = redact(raw, self.redacted).strip()
            # a class is one of a list and says nothing of a person; what somebody typed as one may
            known = is_class and first in labels
            made["text"].append(text)
            made["first"].append(first.strip() if known else redact(first, self.redacted).strip())
            made["second"].append(None if second is None else redact(second, self.redacted).strip())
            made["text_hash"].append(hash64("text", normalised(text)))
        for name, values in made.items():
            field = pa.field(name, pa.uint64() if name == "text_hash" else pa.string())
            batch = batch.set_column(batch.schema.get_field_index(name), field, pa.array(values, field.type))
        return batch

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
            self._sample(filters.max_samples)

    def _sample(self, most: int) -> None:
        """Keep so many rows: of disputed prompts up to their share, the most disputed first; the others by hash."""
        # ids that follow from a key could be chosen by the sender: hashed again, they cannot be steered cheaply
        by_hash = "sha256('sample' || event), event"
        self._db.execute("CREATE TABLE sample (event VARCHAR)")
        sampling, first = self._source.sampling, 0
        if sampling is not None:
            self._disputed = self._number("SELECT count(*) FROM row WHERE dispute > 0")
            first = min(int(most * sampling.disagreement.share_percent / 100), self._disputed)
            self._db.execute(
                "INSERT INTO sample SELECT event FROM row WHERE dispute > 0 "
                f"ORDER BY dispute DESC, {by_hash} LIMIT {first}"
            )
        self._db.execute(
            "INSERT INTO sample SELECT event FROM row WHERE event NOT IN (SELECT event FROM sample) "
            f"ORDER BY {by_hash} LIMIT {most - first}"
        )
        self._mark("MaxSamples", "event NOT IN (SELECT event FROM sample)")
        self._db.execute("DROP TABLE sample")

    def disputed(self) -> DisputedCount | None:
        """Return how many rows were disputed, and how many of them are kept; None = nobody asked."""
        if self._source.sampling is None:
            return None
        kept = self._number("SELECT count(*) FROM placed WHERE dispute > 0")
        return DisputedCount(found=self._disputed, kept=kept)

    def _cap(self, share_percent: float) -> None:
        """Let nobody have more than their share; a row without a subject counts as a subject of its own."""
        counts = self._db.execute(
            "SELECT amount, count(*) FROM (SELECT count(*) AS amount FROM row GROUP BY coalesce(subject, event)) "
            "GROUP BY amount ORDER BY amount"
        ).fetchall()
        cap, people = cap_of(dict(counts), share_percent), sum(many for _, many in counts)
        if cap == 0 and people:
            raise BadDataError(
                f"spec.filters.maxSubjectSharePercent is {share_percent:g}, but there are only {people} subjects, "
                f"so nobody could have that little; raise it to {100 / people:.3g} or more"
            )
        self._mark(
            "SubjectShare",
            "event IN (SELECT event FROM (SELECT event, row_number() OVER (PARTITION BY coalesce(subject, event) "
            f"ORDER BY text_hash, event) AS place FROM row) WHERE place > {cap})",
        )

    def split(self) -> None:
        """Show the rows as `placed` in their splits: equal prompts together, and all of a person's rows if wanted."""
        if self._source.group_by == "prompt":
            self._db.execute("CREATE VIEW placed AS SELECT *, text_hash AS component FROM row")
            return
        # whoever shares a prompt with somebody shares the split
        join_components(self._db, f"SELECT text_hash AS text, {hash_sql(_text('group'), 'subject')} AS person FROM row")
        split = _split_sql(self._sizes, "component")
        self._db.execute(
            f"CREATE TABLE placed AS SELECT row.* EXCLUDE split, component, {split} AS split "
            "FROM row JOIN joined ON text_hash = joined.text"
        )
        for table in ("row", "joined"):
            self._db.execute(f"DROP TABLE {table}")

    def batches(self, *queries: str, rows: int = BATCH) -> Iterator[pa.Table]:
        """Yield the answers to queries, one after the other, in tables of exactly so many rows and a rest.

        Each table is one piece: where pieces end, Parquet may end a page, and equal rows had other bytes.
        """
        waiting: list[pa.RecordBatch] = []
        for query in queries:
            for piece in self._db.cursor().sql(query).to_arrow_reader(min(rows, _PIECE)):
                waiting.append(piece)
                if sum(each.num_rows for each in waiting) >= rows:
                    table = pa.Table.from_batches(waiting).combine_chunks()
                    yield table.slice(0, rows)
                    waiting = table.slice(rows).to_batches()
        if waiting:
            yield pa.Table.from_batches(waiting).combine_chunks()

    def sorted(self, columns: str, split: SplitName) -> Iterator[pa.Table]:
        """Yield the rows of a split in the order of a snapshot.

        They are sorted by ranges of their order's first two columns, each small enough to be sorted in memory: a sort
        that goes to disk holds blocks of every run at once, of which a longer log makes more, until none is left.
        Every range costs a pass over the rows.
        """
        rows = self._number(f"SELECT count(*) FROM placed WHERE split = '{split}'")
        sample = self._db.execute(
            "SELECT component, text_hash FROM (SELECT component, text_hash FROM placed "
            f"WHERE split = '{split}' USING SAMPLE reservoir({_SAMPLE} ROWS) REPEATABLE (1)) ORDER BY ALL"
        ).fetchall()
        pieces = -(-rows // _SORTED)
        bounds = [sample[len(sample) * piece // pieces] for piece in range(1, pieces)]
        least = [f"(component > {one} OR component = {one} AND text_hash >= {two})" for one, two in bounds]
        ranges = zip(["true", *least], [*(f"NOT {each}" for each in least), "true"], strict=True)
        yield from self.batches(
            *(
                f"SELECT {columns} FROM placed WHERE split = '{split}' AND {low} AND {high} "
                "ORDER BY component, text_hash, first, event"
                for low, high in ranges
            )
        )

    def as_status(self) -> tuple[Removed, ...]:
        """The rules, most removals first."""
        rules = sorted(self.removed.items(), key=lambda each: (-each[1][0], each[0]))
        return tuple(Removed(rule=rule, count=count, example=f"event {first}") for rule, (count, first) in rules[:16])

    def _mark(self, rule: str, condition: str, **given: object) -> None:
        """Count what a rule removes, and go on without it."""
        query = f"SELECT count(*), arg_min(event, o) FROM row WHERE {condition}"
        count, first = self._db.execute(query, given).fetchall()[0]
        if count:
            self._add_removed(rule, count, first)
            self._replace(f"SELECT * FROM row WHERE ({condition}) IS NOT TRUE", **given)

    def _replace(self, query: str | None = None, **given: object) -> None:
        """Put the table `clean`, or the answer to a query, in the place of the rows.

        Rows that are updated or deleted leave marks in memory instead, which never go to disk.
        """
        if query is not None:
            self._db.execute(f"CREATE TABLE clean AS {query}", given)
        self._db.execute("DROP TABLE row")
        self._db.execute("ALTER TABLE clean RENAME TO row")

    def _count_removed(self, *, rule: str | None = None) -> None:
        only = f"AND why = '{rule}'" if rule else ""
        query = f"SELECT why, count(*), arg_min(event, o) FROM row WHERE why IS NOT NULL {only} GROUP BY why"
        for why, count, first in self._db.execute(query).fetchall():
            self._add_removed(why, count, first)

    def _add_removed(self, rule: str, count: int, first: str) -> None:
        before, earlier = self.removed.get(rule, (0, first))
        self.removed[rule] = (before + count, earlier)

    def _number(self, query: str) -> int:
        found = self._db.execute(query).fetchone()
        return int(found[0]) if found else 0


def hash_sql(*parts: str) -> str:
    """Return SQL for `splitting.hash64` of SQL expressions.

    Each part follows its number of bytes, in eight bytes. Of a part below 128 bytes those are text, too, so that short
    parts need no blobs, which would be copies of them.
    """
    short = " || ".join(f"repeat(chr(0), 7) || chr(strlen({part})::INTEGER) || {part}" for part in parts)
    long = " || ".join(f"unhex(printf('%016x', strlen({part}))) || encode({part})" for part in parts)
    fits = " AND ".join(f"strlen({part}) < 128" for part in parts)
    return f"('0x' || left(CASE WHEN {fits} THEN sha256({short}) ELSE sha256({long}) END, 16))::UBIGINT"


def _split_sql(split: Split, component: str) -> str:
    """Return SQL for `splitting.split_of` of a component."""
    point = f"{hash_sql(_text(split.salt), f'{component}::VARCHAR')}::DOUBLE / 18446744073709551616.0 * 100"
    until = split.train_percent + split.validation_percent
    return (
        f"CASE WHEN {point} < {split.train_percent} THEN 'train' "
        f"WHEN {point} < {until} THEN 'validation' ELSE 'test' END"
    )


def _text(value: str, quote: str = "'") -> str:
    """Quote a text for SQL, or with double quotes for a JSON path."""
    return quote + value.replace(quote, quote * 2) + quote


def _tight(column: str) -> str:
    """Return SQL that tells that there is nothing to strip: much cheaper than to strip, which few texts need."""
    return f"ascii({column}) > 32 AND ascii(right({column}, 1)) > 32"


def _trimmed(column: str) -> str:
    """Return SQL for an ASCII text's `strip()`; other controls than these are in no stored text."""
    return f"CASE WHEN {_tight(column)} THEN {column} ELSE trim({column}, E' \\t\\n\\r') END"


_BLANKS = " OR ".join(f"contains(prompt, {blank})" for blank in ("'  '", "chr(9)", "chr(10)", "chr(12)", "chr(13)"))
_PLAIN = (
    f"lower(CASE WHEN {_tight('prompt')} AND NOT ({_BLANKS}) THEN prompt "
    r"ELSE trim(regexp_replace(prompt, '\s+', ' ', 'g'), ' ') END)"
)
"""SQL for `splitting.normalised` of an ASCII text."""
_READ = (
    "concat_ws(chr(10), prompt, CASE WHEN is_class AND list_contains($labels, first) THEN '' ELSE first END, second)"
)
_ODD = f"(length({_READ}) <> strlen({_READ}) OR regexp_matches({_READ}, {_text(SUSPECT)}))"
"""SQL for texts that Python must look at: not ASCII, or perhaps with something to redact."""
