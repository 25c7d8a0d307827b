"""Snapshot of feedback: a policy's log to an immutable, content-addressed Parquet snapshot without leaks.

    1 position  which segments are read: all that are there, or those that an earlier snapshot read (asOf)
    2 load      every event once; what was superseded or erased is out; feedback joined to the answer it is about
    3 take      what makes a row of this type, by the source's rules; people who disagree with everybody set aside;
            how much the others disagree about each prompt, if sampling asks for it
    4 clean     e-mail addresses, telephone and card numbers and keys redacted; length and label rules
    5 filter    duplicates, maxAgeDays, maxSubjectSharePercent, maxSamples; each choice by hash
    6 split     equal prompts (and a person's rows, if wanted) fall together by a hash
    7 check     enough train rows, no split empty, and for classification what every snapshot of classes must hold
    8 score     each response by the judge of spec.scoring, if there is one, piece by piece as it is written
    9 write     Parquet per split in hash order, MANIFEST.json last, below the digest of the content

The log never passes through memory as a whole: it lies on the scratch disk in parts that fit, and DuckDB takes there
what does not. bench/snapshot measures speed and memory. Torch-free.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from ratchet_api.feedback_dataset import DatasetType, SplitName
from ratchet_api.feedback_source import FeedbackSource
from ratchet_api.names import snapshot_prefix
from ratchet_api.snapshot_summary import LabelCount, SnapshotCounts, SnapshotSummary
from ratchet_api.stage import DatasetRef, SnapshotConfig, StageResult
from ratchet_jobs.data.feedback_events import load_events, open_tables
from ratchet_jobs.data.feedback_order import ahead
from ratchet_jobs.data.feedback_rows import FeedbackRows, needs
from ratchet_jobs.data.snapshots import (
    SPLITS,
    Manifest,
    SnapshotFile,
    SourceRead,
    content_digest,
    read_manifest,
    store_snapshot,
)
from ratchet_jobs.feedback_log.erasures import erased_subjects
from ratchet_jobs.feedback_log.position import LogPosition
from ratchet_jobs.feedback_log.reader import list_segments
from ratchet_jobs.feedback_log.segment import Segment
from ratchet_jobs.judging.scoring import ResponseScorer
from ratchet_jobs.runtime.context import StageContext
from ratchet_jobs.runtime.errors import BadDataError, BadLabelsError
from ratchet_jobs.runtime.store import sha256_file

MIN_TRAIN_ROWS = 10
MAX_CLASSES = 2000
_SHOWN_PEOPLE = 1000


class _Layout(NamedTuple):
    """How rows of a type are written: the select list and the schema."""

    columns: str
    schema: pa.Schema


def _layout(*pairs: tuple[str, str, pa.DataType, bool]) -> _Layout:
    tail = (
        ("component", "component", pa.uint64(), False),
        ("subject", "subject", pa.string(), True),
        ("time", "date_trunc('second', received)::TIMESTAMP_S", pa.timestamp("s", tz="UTC"), True),
        ("event", "event", pa.string(), True),
        ("about", "about", pa.string(), True),
    )
    whole = (("text", "text", pa.string(), False), *pairs, *tail)
    select = ", ".join(f"{sql} AS {name}" for name, sql, _, _ in whole)
    return _Layout(select, pa.schema([pa.field(name, kind, nullable=null) for name, _, kind, null in whole]))


_LAYOUTS: Mapping[DatasetType, _Layout] = {
    "classification": _layout(("label", "first", pa.string(), False)),
    "ratings": _layout(
        ("label", "first", pa.string(), False),
        ("score", "score", pa.float64(), False),
        ("propensity", "propensity", pa.float64(), True),
        ("policy", "'{policy}' || coalesce('@' || version, '')", pa.string(), True),
    ),
    "preferences": _layout(("chosen", "first", pa.string(), False), ("rejected", "second", pa.string(), False)),
    "demonstrations": _layout(("response", "first", pa.string(), False)),
}


def run(ctx: StageContext, config: SnapshotConfig, source: FeedbackSource) -> StageResult:
    """Build the snapshot; see the module's docstring."""
    steps, policy = 5, source.policy_ref.name

    # 1 position
    segments = _segments(ctx, source)
    position = LogPosition.of(segments)
    ctx.progress.report(1, steps)

    # 2 load
    folder = ctx.folder("feedback")
    database = open_tables(folder, threads=ctx.threads)
    erased = erased_subjects(ctx.store, ctx.namespace)
    wanted = needs(config.type, source)
    events = load_events(database, ctx.store, segments, policy=policy, erased=erased, needs=wanted, folder=folder)
    ctx.progress.report(2, steps)

    # 3 take
    rows = FeedbackRows(database, events, config.type, source, config.split, config.labels, folder=folder)
    outliers = rows.outliers(source.quarantine) if source.quarantine is not None else []

    if source.sampling is not None:
        rows.dispute()

    # 4 clean
    rows.clean(config.filters)
    ctx.progress.report(3, steps)

    # 5 filter
    rows.dedupe()
    rows.filter(config.filters)

    # 6 split
    rows.split()
    ctx.progress.report(4, steps)

    # 7 check
    parts = dict(database.execute("SELECT split, count(*) FROM placed GROUP BY split").fetchall())
    _check_splits(parts, rows, policy)
    labels = _labels(database, config.labels) if config.type == "classification" else ()

    # 8 score and 9 write
    layout = _LAYOUTS[config.type]
    scorer = ResponseScorer(ctx, config.scoring, type=config.type) if config.scoring is not None else None
    schema = layout.schema if scorer is None else pa.schema([*layout.schema, *scorer.fields])
    files: dict[str, SnapshotFile] = {}
    for name in SPLITS:
        ordered = rows.sorted(layout.columns.replace("{policy}", policy), name)
        path = ctx.folder("snapshot") / f"{name}.parquet"
        with pq.ParquetWriter(path, schema, compression="zstd", version="2.6", use_dictionary=["label"]) as out:
            for batch in ahead(ordered):
                whole = batch.cast(layout.schema)
                out.write_table(whole if scorer is None else scorer.scored(whole))
        files[name] = SnapshotFile(path=path.name, sha256=sha256_file(path), rows=parts[name])
    scored = scorer.counted() if scorer is not None else None
    counts = SnapshotCounts(read=rows.read, kept=sum(parts.values()), **{name: parts[name] for name in SPLITS})
    manifest = Manifest(
        type=config.type,
        digest=content_digest(config.type, tuple(entry.label for entry in labels), files),
        files=files,
        labels=labels,
        counts=counts,
        removed=rows.as_status(),
        sources=(SourceRead(uri=f"log of policy {policy}", sha256=position.digest, rows=rows.read),),
        settings={
            "feedback": source.to_wire(),
            "filters": config.filters.to_wire(),
            "split": config.split.to_wire(),
            "position": position.to_wire(),
            "redacted": dict(sorted(rows.redacted.items())),
            "quarantined": outliers[:_SHOWN_PEOPLE],
            **({"scoring": scorer.settings} if scorer is not None else {}),
        },
    )
    key = store_snapshot(ctx.store, ctx.namespace, manifest, ctx.folder("snapshot"))
    mean, std, oldest, newest = database.execute(
        # of decimals: a sum of doubles depends on which thread came first
        "SELECT round(mean, 6), CASE WHEN mean IS NOT NULL THEN round(sqrt(greatest(0, square - mean * mean)), 6) END, "
        "least, most FROM (SELECT avg(exact) AS mean, avg(exact * exact) AS square, min(received) AS least, "
        "max(received) AS most FROM (SELECT received, score::DECIMAL(18, 9) AS exact FROM placed))"
    ).fetchall()[0]
    summary = SnapshotSummary(
        digest=manifest.digest,
        uri=f"{ctx.store.uri}/{key}",
        counts=counts,
        classes=len(labels),
        smallest_labels=tuple(sorted(labels, key=lambda entry: entry.train)[:10]),
        removed=manifest.removed,
        score_mean=mean,
        score_std=std,
        disputed=rows.disputed(),
        scored=scored,
        log_position=position.digest,
        log_newest=f"{rows.newest.isoformat()}Z" if rows.newest else None,
        oldest=f"{oldest.isoformat()}Z" if oldest else None,
        newest=f"{newest.isoformat()}Z" if newest else None,
    )
    (ctx.output / "summary.json").write_text(summary.model_dump_json(by_alias=True, exclude_none=True, indent=1))
    database.close()
    asked = scorer.metrics() if scorer is not None else {}
    return StageResult(metrics={"rows": float(counts.kept), "classes": float(len(labels))} | asked, snapshot=summary)


def _segments(ctx: StageContext, source: FeedbackSource) -> list[Segment]:
    """List what is read.

    Raises:
        BadDataError: the log is empty, asOf names no snapshot of feedback, or segments of its position are gone.
    """
    segments, _ = list_segments(ctx.store, ctx.namespace)
    if source.as_of is not None:
        ref = DatasetRef(digest=source.as_of, prefix=snapshot_prefix(ctx.namespace, source.as_of))
        said = read_manifest(ctx.store, ref).settings.get("position")
        if said is None:
            raise BadDataError(
                f"spec.source.feedback.asOf {source.as_of}: is no snapshot of feedback; name one, or remove it"
            )
        segments, missing = LogPosition.model_validate(said).select(segments)
        if missing:
            raise BadDataError(
                f"spec.source.feedback.asOf {source.as_of}: {missing} of the segments that it read are no longer in "
                "the log; restore them, or remove asOf"
            )
    if not segments:
        raise BadDataError(
            f"the feedback log of namespace {ctx.namespace!r} is empty; send feedback to the gateway first"
        )
    return segments


def _check_splits(parts: Mapping[SplitName, int], rows: FeedbackRows, policy: str) -> None:
    """Refuse what nothing can be learned from."""
    train = parts.get("train", 0)
    removed = ", ".join(f"{each.rule} {each.count} (first: {each.example})" for each in rows.as_status()[:5]) or "none"
    if train < MIN_TRAIN_ROWS:
        raise BadDataError(
            f"{train} train rows are left of {rows.read} events of policy {policy!r}, at least {MIN_TRAIN_ROWS} are "
            f"needed; removed: {removed}"
        )
    for name in ("validation", "test"):
        if not parts.get(name):
            raise BadDataError(
                f"the {name} split is empty ({sum(parts.values())} rows in all; removed: {removed}); collect more "
                f"feedback, or raise spec.split.{name}Percent"
            )


def _labels(database: duckdb.DuckDBPyConnection, closed: tuple[str, ...] | None) -> tuple[LabelCount, ...]:
    """Count classes per split and refuse what cannot be trained on."""
    count: dict[SplitName, dict[str, int]] = {name: {} for name in SPLITS}
    found = database.execute("SELECT split, label, count(*) FROM placed GROUP BY ALL ORDER BY ALL").fetchall()
    for split, label, rows in found:
        count[split][label] = rows
    names = closed if closed is not None else tuple(sorted(count["train"]))
    if len(names) > MAX_CLASSES:
        raise BadLabelsError(
            f"{len(names)} classes in the corrections, at most {MAX_CLASSES} are possible; list spec.labels, so that "
            "whatever else people typed is left out"
        )
    if len(count["train"]) < 2:
        raise BadLabelsError(
            f"every train row has the label {next(iter(count['train']))!r}; a classifier needs at least two classes in "
            "train"
        )
    for name in SPLITS:
        for label in sorted(count[name]):
            if label not in names:
                raise BadLabelsError(
                    f"label {label!r} has {count[name][label]} rows in {name} but none in train; change "
                    "spec.split.salt, or list spec.labels without it"
                )
    for label in names:
        if label not in count["train"]:
            raise BadLabelsError(f"label {label!r} of spec.labels has no train row; collect some, or take it off")
    return tuple(LabelCount(label=label, **{name: count[name].get(label, 0) for name in SPLITS}) for label in names)
