"""Erases a person: from the log, from the snapshots of feedback, and from all training to come; writes the proof.

    1 record    who; from here on nothing of them is read (`feedback_log.erasures`)
    2 plan      which answers were given to them, or copied from an evaluation that quotes them, and which segments
                hold their events, kept before anything is deleted
    3 artifacts what runs stored beside their weights and quotes them is blotted out, and what judges were asked about
                them is forgotten, while their words are still known
    4 log       each of these segments is written anew without them
    5 snapshots each affected one is rewritten under a new digest; the old digest refuses to load
    6 report    what was removed where, and that a last look at log and snapshots found nothing

Each step may be cut anywhere and repeated; a second erasure of the same person removes what came since. Marking the
runs and versions that had learned from them is the caller's, who can reach the cluster.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field

from ratchet_api.base import StatusModel
from ratchet_api.erasure import ErasureReport, RewrittenSnapshot
from ratchet_jobs.data.erase_artifacts import beginnings_of, blot_out, quoting_files
from ratchet_jobs.data.erase_judge import forget_entries, quoting_entries
from ratchet_jobs.data.erase_snapshots import Theirs, erase_from_snapshots, marks_of, words_in_snapshots
from ratchet_jobs.data.redaction import redact
from ratchet_jobs.data.snapshots import ERASED, MANIFEST, Manifest
from ratchet_jobs.feedback_log.compaction import (
    affected_segments,
    compact,
    copies_of,
    interactions_of,
    texts_of,
    votes_on,
)
from ratchet_jobs.feedback_log.erasures import ErasureRecord, erasures_prefix, record_key
from ratchet_jobs.feedback_log.segment import Segment
from ratchet_jobs.runtime.errors import StoreCorrupt
from ratchet_jobs.runtime.store import Store, check_key


class _Plan(StatusModel):
    """What must be known after parts of it are deleted."""

    interactions: tuple[str, ...] = Field(default=(), strict=False)
    segments: dict[str, int] = Field(default_factory=dict)
    """Writer and number of each segment, and how many events were the person's."""
    artifacts: tuple[str, ...] = Field(default=(), strict=False)
    """Keys of the files of runs that quoted the person."""
    votes: tuple[str, ...] = Field(default=(), strict=False)
    """Feedback of others on evaluated answers that quote the person."""
    judged: dict[str, int] = Field(default_factory=dict)
    """Keys of the objects of the judge's cache, and how many entries were about the person's texts."""

    def with_more(
        self,
        interactions: Collection[str],
        segments: Mapping[Segment, int],
        artifacts: Collection[str],
        votes: Collection[str],
        judged: Mapping[str, int],
    ) -> _Plan:
        """Return the plan with what this pass found besides."""
        found = {f"{segment.epoch}-{segment.seq}": count for segment, count in segments.items()}
        return _Plan(
            interactions=tuple(sorted({*self.interactions, *interactions})),
            segments=self.segments | found,
            artifacts=tuple(sorted({*self.artifacts, *artifacts})),
            votes=tuple(sorted({*self.votes, *votes})),
            judged=self.judged | dict(judged),
        )


class _Words(NamedTuple):
    """Texts, without outer blanks, and by what the long ones are found inside others."""

    texts: Collection[str]
    beginnings: Collection[str]

    @classmethod
    def of(cls, texts: Collection[str], labels: Collection[str]) -> _Words:
        """Return the words of these texts; names of classes are nobody's."""
        stripped = {text.strip() for text in texts} - {""}
        return cls(stripped, beginnings_of(stripped, labels))


def pending(store: Store, namespace: str) -> list[ErasureRecord]:
    """Return the recorded erasures that have no report yet."""
    keys = {info.key for info in store.list(erasures_prefix(namespace))}
    names = sorted(key.split("/")[-2] for key in keys if key.endswith("/request.json"))
    open_ = [name for name in names if f"{erasures_prefix(namespace)}/{name}/report.json" not in keys]
    return [ErasureRecord.model_validate_json(store.read(record_key(namespace, name))) for name in open_]


def erase(store: Store, namespace: str, record: ErasureRecord, *, folder: Path, now: datetime) -> ErasureReport:
    """Carry a recorded erasure out; see the module's docstring.

    Args:
        store: with the right to delete below the log and the snapshots.
        namespace: whose log.
        record: of `request_erasure`.
        folder: scratch.
        now: for the report.

    Raises:
        StoreCorrupt: something of the person is still there after everything was rewritten.
    """
    # 2 plan
    key = f"{erasures_prefix(namespace)}/{record.id}/plan.json"
    before = _Plan.model_validate_json(store.read(key)) if store.exists(key) else _Plan()
    interactions = interactions_of(store, namespace, record.subjects) | set(before.interactions)
    words, asked = _words_of(store, namespace, record.subjects, interactions, folder)
    judged = quoting_entries(store, namespace, asked.beginnings, asked.texts)
    quoting = quoting_files(store, namespace, words.beginnings)
    interactions |= (copies := copies_of(store, namespace, words.beginnings))
    affected = affected_segments(store, namespace, record.subjects, interactions)
    plan = before.with_more(interactions, affected, quoting, votes_on(store, namespace, copies), judged)
    if plan != before:
        store.write(key, plan.model_dump_json(by_alias=True).encode())

    # 3 artifacts
    _take_words_out(store, record.id, quoting, judged, words=words, asked=asked)

    # 4 log
    for segment in affected:
        compact(store, segment, record.subjects, interactions)

    # 5 snapshots
    theirs = Theirs(record.subjects, plan.votes)
    erase_from_snapshots(store, namespace, record.id, theirs, folder)

    # 6 report
    left = sum(affected_segments(store, namespace, record.subjects, interactions).values())
    left += _rows_left(store, namespace, theirs, folder)
    left += sum(quoting_entries(store, namespace, asked.beginnings, asked.texts).values())
    if left:
        raise StoreCorrupt(
            f"erasure {record.id}: {left} events or rows of the person are still there; erase again when it is quiet"
        )
    return ErasureReport(
        id=record.id,
        subjects=record.subjects,
        requested=record.requested,
        finished=now,
        answers=len(plan.interactions),
        events=sum(plan.segments.values()),
        segments=len(plan.segments),
        snapshots=tuple(
            RewrittenSnapshot(digest=digest, replaced_by=mark.replaced_by, rows=mark.rows)
            for digest, mark in marks_of(store, namespace, record.id)
        ),
        artifacts=plan.artifacts,
        judged=sum(plan.judged.values()),
        left=left,
    )


def _take_words_out(
    store: Store, erasure: str, quoting: Iterable[str], judged: Iterable[str], *, words: _Words, asked: _Words
) -> None:
    """Blot the person's words out of these files of runs, and forget these objects' entries about them."""
    for quoted in quoting:
        blot_out(store, quoted, words.beginnings, erasure)
    for cached in judged:
        forget_entries(store, cached, asked.beginnings, asked.texts)


def _words_of(
    store: Store, namespace: str, subjects: Collection[str], interactions: Collection[str], folder: Path
) -> tuple[_Words, _Words]:
    """Return the person's words, as far as log and snapshots still have them, and what judges may have been asked.

    A snapshot that failed may have asked a judge about texts of the log as it would have had them. These are for the
    judges' cache alone: redacted, one person's text may be another's, and there it costs but a question asked again.
    """
    said, labels = words_in_snapshots(store, namespace, Theirs(subjects), folder)
    logged = texts_of(store, namespace, subjects, interactions)
    redacted = {redact(text, Counter()) for text in logged}
    return _Words.of(said | logged, labels), _Words.of(said | logged | redacted, labels)


def _rows_left(store: Store, namespace: str, theirs: Theirs, folder: Path) -> int:
    """Count rows of a person in every snapshot of feedback that loads."""
    folder.mkdir(parents=True, exist_ok=True)
    left = 0
    keys = {info.key for info in store.list(f"{namespace}/snapshots")}
    for key in sorted(key for key in keys if key.endswith(f"/{MANIFEST}")):
        prefix = key.rpartition("/")[0]
        manifest = Manifest.model_validate_json(store.read(key))
        if "feedback" not in manifest.settings or f"{prefix}/{ERASED}" in keys:
            continue
        for file in manifest.files.values():
            path = folder / check_key(file.path)
            store.download(f"{prefix}/{file.path}", path)
            left += pc.sum(theirs.rows(pq.read_table(path, columns=["subject", "about", "event"]))).as_py() or 0
            path.unlink()
    return left
