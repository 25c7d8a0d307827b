"""Snapshot: source files to an immutable, content-addressed Parquet snapshot without leaks between splits.

    1 read      every source row by row; rows that cannot be used are counted by rule, never silently lost
    2 dedupe    equal text and labels once; conflicting labels of one text stay and count as kept; of a log all stay
    3 join      rows that share a group or a normalised text into components, which never part across splits
    4 filter    maxAgeDays, maxSubjectSharePercent, maxSamples; each choice by hash, so that a rebuild agrees
    5 split     by the file's own split where it names one, else by the component's hash
    6 check     per task: two classes, every class has train rows, no split is without labels; of a log and of
                demonstrations the last alone
    7 score     each response by the judge of spec.scoring, if there is one, split by split
    8 write     Parquet per split in hash order, MANIFEST.json last, below the digest of the content

Raw subjects are never written: a salted hash stands for each. Torch-free: its pod starts in about a second.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from statistics import fmean, pstdev
from typing import Any, NamedTuple, cast

from ratchet_api.base import digest_of
from ratchet_api.columns import InlineRow
from ratchet_api.feedback_dataset import DEMONSTRATIONS, RATINGS, Filters, SplitName
from ratchet_api.snapshot_summary import Removed, SnapshotCounts, SnapshotSummary
from ratchet_api.stage import SnapshotConfig, StageResult
from ratchet_jobs.data.demonstrations import (
    Demonstration,
    of_pair,
    shown_columns,
    shown_schema,
    to_demonstration,
)
from ratchet_jobs.data.label_counts import count_labels, count_tasks
from ratchet_jobs.data.ratings import RATINGS_SCHEMA, Rating, checked_rating, to_rating, with_names
from ratchet_jobs.data.reading import (
    Example,
    Refused,
    absent_columns,
    format_of,
    mapped_columns,
    read_rows,
    refuse_absent,
    to_example,
)
from ratchet_jobs.data.snapshots import (
    SPLITS,
    Manifest,
    SnapshotFile,
    SourceRead,
    content_digest,
    label_columns,
    store_snapshot,
    write_split,
)
from ratchet_jobs.data.splitting import PRIORITY, cap_of, components, hash64, normalised, split_of
from ratchet_jobs.judging.scoring import ResponseScorer
from ratchet_jobs.recipes import snapshot_feedback
from ratchet_jobs.runtime.context import StageContext
from ratchet_jobs.runtime.errors import BadDataError
from ratchet_jobs.runtime.store import resolve_uri, sha256_file

MIN_TRAIN_ROWS = 10

FIELD_OF: Mapping[str, str] = {
    "TextTooShort": "spec.filters.minTextChars",
    "TextTooLong": "spec.filters.maxTextChars",
    "TooOld": "spec.filters.maxAgeDays",
    "MissingTimestamp": "spec.filters.maxAgeDays",
    "SubjectShare": "spec.filters.maxSubjectSharePercent",
    "MaxSamples": "spec.filters.maxSamples",
    "UnknownLabel": "spec.labels",
    "ScoreOutOfRange": "spec.columns.score",
    "PropensityOutOfRange": "spec.columns.propensity",
    "EmptyPrompt": "spec.columns.text",
    "EmptyResponse": "spec.columns.response",
    "MissingTurns": "spec.columns.turns",
    "TurnsNotAList": "spec.columns.turns",
    "InvalidItem": "spec.columns.items",
    "TooManyItems": "spec.columns.items",
    "InvalidEmotion": "spec.columns.emotion",
}
"""Which setting stands behind a rule that removes rows; the other rules are about what the rows hold."""


@dataclass(slots=True)
class Row:
    """One kept row."""

    text: str
    labels: tuple[str | None, ...]
    """One per task, as the data call them; None = not said. Of a demonstration the response."""
    text_hash: int
    group_hash: int | None
    subject: str | None
    time: datetime | None
    fixed: SplitName | None
    where: str
    order: int
    rating: Rating | None
    shown: Demonstration | None
    component: int = 0

    @property
    def answers(self) -> str:
        """All labels as one string: for one task, its label."""
        return "\0".join(label or "" for label in self.labels)


class _Read(NamedTuple):
    """What a usable row holds."""

    example: Example
    rating: Rating | None = None
    shown: Demonstration | None = None


@dataclass(slots=True)
class Tally:
    """Rows removed, by rule, with the place of the first one."""

    count: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    def remove(self, rule: str, where: str) -> None:
        """Count one row."""
        self.count[rule] += 1
        self.first.setdefault(rule, where)

    def as_status(self) -> tuple[Removed, ...]:
        """The rules, most removals first."""
        return tuple(
            Removed(rule=rule, count=n, example=self.first[rule][:200]) for rule, n in self.count.most_common(16)
        )

    def sentence(self) -> str:
        """One line for messages."""
        parts = (
            f"{rule} {n} ({f'by {FIELD_OF[rule]}, ' if rule in FIELD_OF else ''}first: {self.first[rule]})"
            for rule, n in self.count.most_common(5)
        )
        return ", ".join(parts) or "none"


def run(ctx: StageContext, config: SnapshotConfig) -> StageResult:
    """Build the snapshot; see the module's docstring. A log of feedback has a recipe of its own."""
    if config.source.feedback is not None:
        return snapshot_feedback.run(ctx, config, config.source.feedback)
    tally = Tally()

    # 1 read
    sources: list[SourceRead] = []
    rows = list(_read(ctx, config, tally, sources))
    read = sum(source.rows for source in sources)
    rows = _keep(rows, tally, "TextTooShort", lambda r: len(r.text) >= config.filters.min_text_chars)
    rows = _keep(rows, tally, "TextTooLong", lambda r: len(r.text) <= config.filters.max_text_chars)
    if config.labels is not None:
        closed = set(config.labels)
        rows = _keep(rows, tally, "UnknownLabel", lambda r: r.labels[0] in closed)

    # 2 dedupe: of equal rows the one in the highest-priority split stays, so that held-out data are never thinned
    rank = {name: place for place, name in enumerate(PRIORITY)}
    rows.sort(key=lambda r: (rank[r.fixed] if r.fixed else 0, r.order))
    if config.type != RATINGS:  # the same answer to the same question twice is two answers, and two verdicts
        first: dict[tuple[int, str], int] = {}
        for row in rows:
            first.setdefault((row.text_hash, row.answers), row.order)
        rows = _keep(rows, tally, "Duplicate", lambda r: first[r.text_hash, r.answers] == r.order)

    # 3 join
    for row, component in zip(rows, components((r.text_hash, r.group_hash) for r in rows), strict=True):
        row.component = component
    best: dict[int, SplitName] = {}
    for row in rows:
        if row.fixed is not None:
            best.setdefault(row.component, row.fixed)  # rows are in priority order
    rows = _keep(rows, tally, "LeakAcrossSplits", lambda r: r.fixed in (None, best.get(r.component)))

    # 4 filter
    rows = _filtered(rows, tally, config.filters)

    # 5 split
    parts: dict[SplitName, list[Row]] = {name: [] for name in SPLITS}
    for row in rows:
        parts[row.fixed or best.get(row.component) or split_of(row.component, config.split)].append(row)

    # 6 check
    if len(parts["train"]) < MIN_TRAIN_ROWS:
        raise BadDataError(
            f"{len(parts['train'])} train rows are left of {read} read, at least {MIN_TRAIN_ROWS} are needed; "
            f"removed: {tally.sentence()}"
        )
    shown = config.type == DEMONSTRATIONS
    if shown:
        _check_held_out(parts, tally)
    labels = () if shown else count_labels(config, {name: [row.labels for row in parts[name]] for name in SPLITS})

    # 7 score and 8 write
    scorer = ResponseScorer(ctx, config.scoring, type=config.type) if config.scoring is not None else None
    tasks, folder = config.columns.task_names, ctx.folder("snapshot")
    schema = {RATINGS: RATINGS_SCHEMA, DEMONSTRATIONS: shown_schema(config.columns)}.get(config.type)
    files: dict[str, SnapshotFile] = {
        name: write_split(
            [_as_record(r, tasks, ctx.namespace) for r in parts[name]],
            folder / f"{name}.parquet",
            tasks=tasks,
            schema=schema,
            scored=scorer.scored if scorer is not None else None,
        )
        for name in SPLITS
    }
    scored = scorer.counted() if scorer is not None else None
    names = tuple(entry.label for entry in labels)
    counts = SnapshotCounts(read=read, kept=len(rows), **{name: len(parts[name]) for name in SPLITS})
    manifest = Manifest(
        type=config.type,
        digest=content_digest(config.type, names, files),
        files=files,
        labels=labels,
        task_names=tasks,
        counts=counts,
        removed=tally.as_status(),
        sources=tuple(sources),
        settings={
            "columns": config.columns.to_wire(),
            "filters": config.filters.to_wire(),
            "split": config.split.to_wire(),
            **({"scoring": scorer.settings} if scorer is not None else {}),
        },
    )
    key = store_snapshot(ctx.store, ctx.namespace, manifest, ctx.folder("snapshot"))
    times = [r.time for r in rows if r.time is not None]
    scores = [r.rating.score for r in rows if r.rating is not None]
    summary = SnapshotSummary(
        digest=manifest.digest,
        uri=f"{ctx.store.uri}/{key}",
        counts=counts,
        classes=len(labels),
        tasks=count_tasks(manifest.tasks, labels) if tasks else None,
        smallest_labels=tuple(sorted(labels, key=lambda entry: entry.train)[:10]),
        removed=manifest.removed,
        score_mean=round(fmean(scores), 6) if scores else None,
        score_std=round(pstdev(scores), 6) if scores else None,
        scored=scored,
        oldest=min(times, default=None),
        newest=max(times, default=None),
    )
    (ctx.output / "summary.json").write_text(summary.model_dump_json(by_alias=True, exclude_none=True, indent=1))
    asked = scorer.metrics() if scorer is not None else {}
    return StageResult(metrics={"rows": float(len(rows)), "classes": float(len(labels))} | asked, snapshot=summary)


class _Form:
    """How rows of the dataset's type are read."""

    def __init__(self, config: SnapshotConfig) -> None:
        self.rated, self.shows = config.type == RATINGS, config.type == DEMONSTRATIONS
        self.columns = with_names(config.columns) if self.rated else config.columns
        self.wanted = shown_columns(self.columns) if self.shows else mapped_columns(self.columns)
        """Columns that a file must have."""

    def read(self, fields: Mapping[str, Any]) -> _Read | str:
        """Read a row of a file, or return the rule that refuses it."""
        if self.shows:
            found = to_demonstration(fields, self.columns)
            return found if isinstance(found, str) else _Read(found[0], shown=found[1])
        example = to_example(fields, self.columns)
        rating = to_rating(fields, self.columns) if self.rated else None
        for refused in (example, rating):
            if isinstance(refused, str):
                return refused
        return _Read(cast(Example, example), rating=cast("Rating | None", rating))

    def of_inline(self, entry: InlineRow) -> _Read | str:
        """Read a row of the manifest; likewise."""
        if entry.response is not None:
            shown = of_pair(entry.text, entry.response)
            if isinstance(shown, str):
                return shown
            return _Read(Example(shown.prompt, (shown.response,), entry.group, None, None), shown=shown)
        said: Mapping[str, str | None] = entry.labels or {"": entry.label}
        labels = tuple(said.get(task) for task in self.columns.label_paths)
        rating = checked_rating(entry.score, entry.propensity, None) if self.rated else None
        if isinstance(rating, str):
            return rating
        return _Read(Example(entry.text.strip(), labels, entry.group, None, None), rating=rating)


def _read(ctx: StageContext, config: SnapshotConfig, tally: Tally, sources: list[SourceRead]) -> Iterable[Row]:
    """Yield usable rows of every source and record what was read."""
    form = _Form(config)
    if config.source.inline is not None:
        for number, entry in enumerate(config.source.inline, 1):
            where, found = f"spec.source.inline row {number}", form.of_inline(entry)
            if isinstance(found, str):
                tally.remove(found, where)
            else:
                yield _row(found, None, where, number)
        sources.append(
            SourceRead(
                uri="inline",
                sha256=digest_of([row.to_wire() for row in config.source.inline]),
                rows=len(config.source.inline),
            )
        )
        return
    objects = config.source.objects or ()
    order = 0
    for place, source in enumerate(objects):
        name = source.uri
        key = resolve_uri(
            source.uri, store=ctx.store, namespace=ctx.namespace, field=f"spec.source.objects[{place}].uri"
        )
        path = ctx.folder("sources") / str(place)
        ctx.store.download(key, path)
        sha256 = sha256_file(path)
        if source.sha256 is not None and source.sha256 != sha256:
            raise BadDataError(
                f"spec.source.objects[{place}].sha256 is {source.sha256}, but {name} has {sha256}; correct one of them"
            )
        absent, fmt, number = form.wanted, format_of(name, source.format), 0
        seen: Mapping[str, Any] = {}
        for raw in read_rows(path, fmt, name=name):
            number += 1
            if isinstance(raw, Refused):
                tally.remove(raw.rule, raw.where)
                continue
            if absent:
                absent, seen = absent_columns(raw.fields, absent), raw.fields
                if fmt != "jsonl":  # there every row has every column; a JSON object may lack what it has no value for
                    refuse_absent(absent, seen, name=name)
            found = form.read(raw.fields)
            order += 1
            if isinstance(found, str):
                tally.remove(found, f"{name} row {raw.number}")
            else:
                yield _row(found, source.split, f"{name} row {raw.number}", order)
        refuse_absent(absent if seen else {}, seen, name=name)
        path.unlink()
        sources.append(SourceRead(uri=name, sha256=sha256, rows=number))
        ctx.progress.report(place + 1, len(objects))


def _row(read: _Read, fixed: SplitName | None, where: str, order: int) -> Row:
    example = read.example
    return Row(
        text=example.text,
        labels=example.labels,
        text_hash=hash64("text", normalised(example.text)),
        group_hash=None if example.group is None else hash64("group", example.group),
        subject=example.subject,
        time=example.time,
        fixed=fixed,
        where=where,
        order=order,
        rating=read.rating,
        shown=read.shown,
    )


def _check_held_out(parts: Mapping[SplitName, list[Row]], tally: Tally) -> None:
    """Refuse demonstrations on which nothing could be measured."""
    for name in ("validation", "test"):
        if not parts[name]:
            total = sum(len(rows) for rows in parts.values())
            raise BadDataError(
                f"the {name} split is empty ({total} rows in all; removed: {tally.sentence()}); add rows, raise "
                f"spec.split.{name}Percent, or mark a source file with its split"
            )


def _keep(rows: list[Row], tally: Tally, rule: str, wanted: Callable[[Row], object]) -> list[Row]:
    kept = []
    for row in rows:
        if wanted(row):
            kept.append(row)
        else:
            tally.remove(rule, row.where)
    return kept


def _filtered(rows: list[Row], tally: Tally, filters: Filters) -> list[Row]:
    """Apply the age, share and size filters in this order."""
    if filters.max_age_days is not None:
        rows = _keep(rows, tally, "MissingTimestamp", lambda r: r.time is not None)
        newest = max((r.time for r in rows if r.time is not None), default=None)
        if newest is not None:
            oldest_kept = newest - timedelta(days=filters.max_age_days)
            rows = _keep(rows, tally, "TooOld", lambda r: r.time is not None and r.time >= oldest_kept)
    rows.sort(key=_place)
    if filters.max_subject_share_percent is not None:
        rows = _capped(rows, tally, filters.max_subject_share_percent)
    if filters.max_samples is not None:
        chosen = {
            id(r)
            for r in sorted(rows, key=lambda r: hash64("sample", str(r.text_hash), r.answers))[: filters.max_samples]
        }
        rows = _keep(rows, tally, "MaxSamples", lambda r: id(r) in chosen)
    return rows


def _place(row: Row) -> tuple[Any, ...]:
    """Where a row stands, whatever file and line it came from; of a log's equal answers those differ by the rest."""
    if row.rating is None:
        return (row.text_hash, row.answers)
    score, propensity, policy = row.rating
    time = "" if row.time is None else row.time.isoformat()
    return (row.text_hash, row.answers, score, propensity, policy or "", time, row.subject or "")


def _capped(rows: list[Row], tally: Tally, share_percent: float) -> list[Row]:
    """Let no subject have more than its share; a row without a subject counts as a subject of its own."""
    owner = [row.subject if row.subject is not None else f"\0{place}" for place, row in enumerate(rows)]
    cap = cap_of(Counter(Counter(owner).values()), share_percent)
    if cap == 0 and rows:
        raise BadDataError(
            f"spec.filters.maxSubjectSharePercent is {share_percent:g}, but there are only {len(set(owner))} subjects, "
            f"so nobody could have that little; raise it to {100 / len(set(owner)):.3g} or more, or add people"
        )
    given: Counter[str] = Counter()
    kept = []
    for row, subject in zip(rows, owner, strict=True):
        given[subject] += 1
        if given[subject] <= cap:
            kept.append(row)
        else:
            tally.remove("SubjectShare", row.where)
    return kept


def _as_record(row: Row, tasks: Sequence[str] | None, namespace: str) -> dict[str, object]:
    subject = None if row.subject is None else f"{hash64('subject', namespace, row.subject):016x}"
    labels = (
        dict(zip(label_columns(tasks), row.labels, strict=True))
        if row.shown is None
        else {
            "response": row.shown.response,
            "messages": row.shown.messages,
            "items": row.shown.items,
            "emotion": row.shown.emotion,
        }
    )
    known: dict[str, object] = {
        "text": row.text,
        **labels,
        "component": row.component,
        "subject": subject,
        "time": row.time,
    }
    return known if row.rating is None else known | row.rating._asdict()
