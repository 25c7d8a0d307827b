"""From votes to the rows of a data set: one rule after the other, each removal counted with the place of the first.

Decides what each type of data set takes from an event, and in which order rules remove rows:

    classification  text, label             a correction; an answer rated at least minRating
    ratings         text, label, score      whatever scores the answer; a class also needs its propensity
    preferences     text, chosen, rejected  a preference; a correction against the answer
    demonstrations  text, response          a correction; an answer rated at least minRating

An event makes at most one row. A comment, a metric and an unrated correction score nothing. Every choice is by hash
and every order is total, so a rebuild agrees. Takes the votes of `feedback_events` part by part into the table `row` of
the database, which lies on the disk as far as it does not fit. Called by the snapshot recipe.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from threading import Lock

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
from duckdb import sqltype
from duckdb.func import ARROW, SPECIAL
from duckdb.sqltypes import BOOLEAN, VARCHAR

from ratchet_api.feedback_dataset import DatasetType, Filters, Split, SplitName
from ratchet_api.feedback_source import FeedbackSource, Quarantine
from ratchet_api.snapshot_summary import DisputedCount, Removed
from ratchet_jobs.data.feedback_components import join_components
from ratchet_jobs.data.feedback_disputes import DISPUTES
from ratchet_jobs.data.feedback_events import Events
from ratchet_jobs.data.feedback_order import WHOLE, WholeRows
from ratchet_jobs.data.redaction import SUSPECT, redact
from ratchet_jobs.data.splitting import cap_of, hash64, normalised
from ratchet_jobs.runtime.errors import BadDataError

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
# Texts without anything to find are cleaned and hashed by the database, the odd ones among them by Python.
_ROWS = """
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
plain AS NOT MATERIALIZED (
    SELECT *, CASE WHEN why IS NULL AND odd THEN cleaned(prompt, first, second, is_class) END AS odds,
        CASE WHEN why IS NULL AND NOT odd THEN {plain} END AS normalised
    FROM ruled
),
hashed AS NOT MATERIALIZED (SELECT *, CASE WHEN odd THEN odds.text_hash ELSE {hash} END AS text_hash FROM plain)
SELECT {whole}, {said}why, {found}, CASE WHEN why IS NULL THEN {split} END AS split
FROM hashed
"""
# What rules look at is in the table `row`; the whole rows lie in files until they are sorted.
_ROW = """
SELECT o, event, {person} AS person, text_hash, score, received, split, length(text) AS text_chars,
    length(first) AS first_chars, {label} AS label, {same} AS same
FROM part WHERE why IS NULL
"""
_REUSED = "KeyReused"
_REMOVED = f"""
SELECT why, count(*), min(o), arg_min(event, o) FROM part WHERE why IS NOT NULL GROUP BY why UNION ALL
SELECT '{_REUSED}', count(*), min(o), arg_min(event, o) FROM reused HAVING count(*) > 0
"""
# What people said, as they said it, is kept only where somebody asks who agreed with whom.
_VOTES = "o, prompt, answer, correction, subject, version, score, superseded"
_AGREEMENT = """
WITH item AS (SELECT sha256(prompt) || sha256(answer) AS item, subject, avg(score) AS score FROM votes
              WHERE NOT superseded AND score IS NOT NULL AND subject IS NOT NULL AND prompt IS NOT NULL
                    AND answer IS NOT NULL GROUP BY ALL),
     whole AS (SELECT item, sum(score) AS total, count(*) AS raters FROM item GROUP BY item HAVING count(*) >= 2)
SELECT subject, count(*) AS comparisons,
       round(1 - avg(abs(score - (total - score) / (raters - 1))), 6) AS agreement
FROM item JOIN whole USING (item) GROUP BY subject HAVING count(*) >= $least AND agreement < $most ORDER BY subject
"""
_TEXTS = {"prompt": "text", "first": "first", "second": "second"}
"""What a row holds of people's words, by the name that it has before it is cleaned."""
_KINDS = ("card", "email", "key", "phone")
"""What `redact` counts."""
_CLEAN = (
    {name: pa.string() for name in _TEXTS.values()} | {"text_hash": pa.uint64()} | dict.fromkeys(_KINDS, pa.int64())
)


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
        database: of the events.
        events: whose votes are taken, all of them.
        type: of the data set.
        source: its rules about events.
        split: how large the splits are. Where only equal prompts must stay together, a row's text decides its split
            as soon as it is known.
        labels: the classes, where the data set names them.
        folder: for whole rows.
    """

    def __init__(
        self,
        database: duckdb.DuckDBPyConnection,
        events: Events,
        type: DatasetType,
        source: FeedbackSource,
        split: Split,
        labels: tuple[str, ...] | None = None,
        *,
        folder: Path,
    ) -> None:
        self._removed: dict[str, tuple[int, int, str]] = {}
        """Per rule how many, and place and name of the first event."""
        self.redacted: Counter[str] = Counter()
        """What was taken out of rows that nobody but a filter removed."""
        self.read = 0
        self.newest: datetime | None = None
        """The whole second after the arrival of the newest event, whatever became of it."""
        self._lock = Lock()
        self._db, self._type, self._source, self._labels = database, type, source, labels
        self._disputed, self._sizes = 0, split
        self._aside: list[str] = []
        by_text = source.group_by == "prompt"
        self._whole = WholeRows(database, folder, rows=events.count, split=split if by_text else None)
        self._split = _split_sql(split, "text_hash") if by_text else "NULL::VARCHAR"
        hashed = "hash(subject)" if by_text else hash_sql(_text("group"), "subject")
        self._person = f"CASE WHEN subject IS NOT NULL THEN {hashed} END"  # nobody has a hash, too
        _add_cleaned(database, frozenset(labels or ()))
        self._query, self._given = self._ruled()
        database.execute("CREATE TABLE removed (o BIGINT, text_hash UBIGINT)")
        self._take(events, 0, into="CREATE TABLE {} AS")
        with ThreadPoolExecutor(self._number("SELECT current_setting('threads')")) as pool:
            for _ in pool.map(lambda part: self._take(events, part, into="INSERT INTO {}"), range(1, events.parts)):
                pass  # one that fails ends the others

    def _ruled(self) -> tuple[str, Mapping[str, object]]:
        """Return what makes rows of votes, and its parameters."""
        paths = ((f"$.{_text(tag.name, chr(34))}", tag.value) for tag in self._source.tags)
        tags = " AND ".join(f"tags ->> {_text(path)} = {_text(value)}" for path, value in paths)
        less = f"$least IS NOT NULL AND NOT {_GOOD}"
        texts = (f"CASE WHEN odd THEN odds.{name} ELSE {_trimmed(raw)} END AS {name}" for raw, name in _TEXTS.items())
        query = _ROWS.format(
            first=_FIRST[self._type],
            second=_SECOND if self._type == "preferences" else "NULL::VARCHAR",
            tags=f"coalesce({tags}, false)" if tags else "true",
            needs=_NEEDS.get(self._type, "").format(less=less),
            odd=_ODD,
            plain=_PLAIN,
            whole=", ".join([*(name for name in WHOLE.names if name not in _TEXTS.values()), *texts]),
            hash=hash_sql(_text("text"), "normalised"),
            said="prompt, answer, correction, superseded, " if self._asks else "",
            found=", ".join(f"odds.{kind} AS {kind}" for kind in _KINDS),
            split=self._split,
        )
        given: dict[str, object] = {
            "types": self._source.types and list(self._source.types),
            "versions": self._source.versions and list(self._source.versions),
            "labels": list(self._labels or ()),
        }
        if self._type != "preferences":  # of which no rule asks for a rating
            given["least"] = self._source.min_rating
        return query, given

    @property
    def _asks(self) -> bool:
        """Whether somebody asks who agreed with whom."""
        return bool(self._source.quarantine or self._source.sampling)

    def _take(self, events: Events, part: int, *, into: str) -> None:
        """Note what becomes of the votes of a part, and add those that are rows; by several threads at once."""
        newest = "date_trunc('second', max(received)) + INTERVAL 1 SECOND"
        same = hash_sql(_text("same"), "first", "coalesce(second, '')")
        row = _ROW.format(
            person=self._person,
            label="first" if self._type == "classification" else "NULL::VARCHAR",
            same="NULL::UBIGINT" if self._type == "ratings" else same,
        )
        with self._db.cursor() as own:
            events.lay(own, part)
            votes = own.sql(self._query, params=self._given).to_arrow_table()
            own.register("part", votes)
            read, newest = own.execute(f"SELECT count(*), {newest} FROM part").fetchall()[0]
            removed = own.execute(_REMOVED).fetchall()
            own.execute(f"{into.format('row')} {row}")
            own.execute(
                f"{into.format('found')} SELECT subject, {', '.join(_KINDS)} FROM part WHERE {' + '.join(_KINDS)} > 0"
            )
            if self._asks:
                own.execute(f"{into.format('votes')} SELECT {_VOTES} FROM part")
        self._whole.add(votes.filter(pc.is_null(votes["why"])))
        with self._lock:
            self.read += read + sum(count for why, count, _, _ in removed if why == _REUSED)
            self.newest = max((each for each in (self.newest, newest) if each is not None), default=None)
            for why, count, place, event in removed:
                self._add_removed(why, count, place, event)

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
        self._aside = [subject for subject, _, _ in found if subject not in rules.release]
        self._mark(
            "Quarantined",
            f"person IN (SELECT {self._person} FROM (SELECT unnest($aside) AS subject))",
            aside=self._aside,
        )
        return people

    def dispute(self) -> None:
        """Measure how much people or versions disagree about each prompt; people set aside are not heard."""
        self._db.execute(DISPUTES, {"aside": self._aside})
        self._replace(
            "SELECT row.*, coalesce(disputed.dispute, 0.0) AS dispute "
            "FROM row JOIN votes USING (o) LEFT JOIN disputed ON votes.prompt = disputed.prompt"
        )
        self._db.execute("DROP TABLE disputed")

    def clean(self, filters: Filters) -> None:
        """Count what was redacted, and measure what is left."""
        sums = ", ".join(f"sum({kind})" for kind in _KINDS)
        query = f"SELECT {sums} FROM found WHERE list_contains($aside, subject) IS NOT TRUE"
        counts = self._db.execute(query, {"aside": self._aside}).fetchall()[0]
        self.redacted.update({kind: int(count) for kind, count in zip(_KINDS, counts, strict=True) if count})
        for table in ("votes", "found"):
            self._db.execute(f"DROP TABLE IF EXISTS {table}")
        self._mark("TextTooShort", "text_chars < $least", least=filters.min_text_chars)
        self._mark("TextTooLong", "text_chars > $most", most=filters.max_text_chars)
        most = _LONGEST_LABEL if self._type == "classification" else 1 << 30
        self._mark("InvalidLabel", "first_chars NOT BETWEEN 1 AND $most", most=most)
        if self._labels is not None:
            self._mark("UnknownLabel", "label NOT IN (SELECT unnest($labels))", labels=list(self._labels))

    def dedupe(self) -> None:
        """Keep the first of equal rows. Ratings are votes, of which each one counts."""
        if self._type != "ratings":
            self._mark("Duplicate", "o NOT IN (SELECT min(o) FROM row GROUP BY text_hash, same)")

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
            "SELECT amount, count(*) FROM (SELECT count(*) AS amount FROM row GROUP BY coalesce(person, hash(event))) "
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
            "event IN (SELECT event FROM (SELECT event, row_number() OVER (PARTITION BY coalesce(person, hash(event)) "
            f"ORDER BY text_hash, event) AS place FROM row) WHERE place > {cap})",
        )

    def split(self) -> None:
        """Show the rows as `placed` in their splits: equal prompts together, and all of a person's rows if wanted."""
        if self._source.group_by == "prompt":
            self._db.execute("CREATE VIEW placed AS SELECT *, text_hash AS component FROM row")
            return
        # whoever shares a prompt with somebody shares the split
        join_components(self._db, "SELECT text_hash AS text, person FROM row")
        split = _split_sql(self._sizes, "component")
        self._db.execute(
            f"CREATE TABLE placed AS SELECT row.* EXCLUDE split, component, {split} AS split "
            "FROM row JOIN joined ON text_hash = joined.text"
        )
        for table in ("row", "joined"):
            self._db.execute(f"DROP TABLE {table}")
        self._whole.place()

    def sorted(self, columns: str, split: SplitName) -> Iterator[pa.Table]:
        """Yield the rows of a split in the order of a snapshot, in tables of BATCH rows and a rest; once only."""
        return self._whole.sorted(columns, split)

    def as_status(self) -> tuple[Removed, ...]:
        """The rules, most removals first."""
        rules = sorted(self._removed.items(), key=lambda each: (-each[1][0], each[0]))
        return tuple(
            Removed(rule=rule, count=count, example=f"event {first}") for rule, (count, _, first) in rules[:16]
        )

    def _mark(self, rule: str, condition: str, **given: object) -> None:
        """Count what a rule removes, and go on without it."""
        query = f"SELECT count(*), min(o), arg_min(event, o) FROM row WHERE {condition}"
        count, place, first = self._db.execute(query, given).fetchall()[0]
        if count:
            self._add_removed(rule, count, place, first)
            self._db.execute(f"INSERT INTO removed SELECT o, text_hash FROM row WHERE {condition}", given)
            self._replace(f"SELECT * FROM row WHERE ({condition}) IS NOT TRUE", **given)

    def _replace(self, query: str, **given: object) -> None:
        """Put the answer to a query in the place of the rows.

        Rows that are updated or deleted leave marks in memory instead, which never go to disk.
        """
        self._db.execute(f"CREATE TABLE kept AS {query}", given)
        self._db.execute("DROP TABLE row")
        self._db.execute("ALTER TABLE kept RENAME TO row")

    def _add_removed(self, rule: str, count: int, place: int, event: str) -> None:
        before, earlier, first = self._removed.get(rule, (0, place, event))
        self._removed[rule] = (before + count, *min((place, event), (earlier, first)))

    def _number(self, query: str) -> int:
        found = self._db.execute(query).fetchone()
        return int(found[0]) if found else 0


def _add_cleaned(database: duckdb.DuckDBPyConnection, labels: frozenset[str]) -> None:
    """Let the database call Python for what it cannot redact and hash itself.

    A function that knew the rows would hold them, and they the database, which nobody would ever end.
    """

    def cleaned(prompts: pa.Array, firsts: pa.Array, seconds: pa.Array, are_classes: pa.Array) -> pa.Array:
        rows: list[dict[str, object]] = []
        columns = (each.to_pylist() for each in (prompts, firsts, seconds, are_classes))
        for prompt, first, second, is_class in zip(*columns, strict=True):
            found: Counter[str] = Counter(dict.fromkeys(_KINDS, 0))
            text = redact(prompt, found).strip()
            # a class is one of a list and says nothing of a person; what somebody typed as one may
            known = is_class and first in labels
            texts = {
                "text": text,
                "first": first.strip() if known else redact(first, found).strip(),
                "second": None if second is None else redact(second, found).strip(),
            }
            rows.append(texts | {"text_hash": hash64("text", normalised(text))} | found)
        return pa.array(rows, pa.struct(list(_CLEAN.items())))

    kinds = "".join(f", {kind} BIGINT" for kind in _KINDS)
    made = sqltype(f"STRUCT(text VARCHAR, first VARCHAR, second VARCHAR, text_hash UBIGINT{kinds})")
    given = [VARCHAR, VARCHAR, VARCHAR, BOOLEAN]
    database.create_function("cleaned", cleaned, [*given], made, type=ARROW, null_handling=SPECIAL)


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
