"""Erases a person: from the log, from the snapshots of feedback, and from all training to come; writes the proof.

    1 record    who; from here on nothing of them is read (`feedback_log.erasures`)
    2 plan      which answers were given to them, or copied from an evaluation that quotes them, and which segments
                hold their events, kept before anything is deleted
    3 artifacts what runs stored beside their weights and quotes them is blotted out, while their words are still known
    4 log       each of these segments is written anew without them
    5 snapshots each affected one is rewritten under a new digest; the old digest refuses to load
    6 report    what was removed where, and that a last look at log and snapshots found nothing

Each step may be cut anywhere and repeated; a second erasure of the same person removes what came since. Marking the
runs and versions that had learned from them is the caller's, who can reach the cluster.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field

from ratchet_api.base import StatusModel
from ratchet_api.erasure import ErasureReport, RewrittenSnapshot
from ratchet_jobs.data.erase_artifacts import beginnings_of, blot_out, quoting_files
from ratchet_jobs.data.erase_snapshots import Theirs, erase_from_snapshots, marks_of, words_in_snapshots
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

    def with_more(
        self,
        interactions: Collection[str],
        segments: Mapping[Segment, int],
        artifacts: Collection[str],
        votes: Collection[str],
    ) -> _Plan:
        """Return the plan with what this pass found besides."""
        found = {f"{segment.epoch}-{segment.seq}": count for segment, count in segments.items()}
        return _Plan(
            interactions=tuple(sorted({*self.interactions, *interactions})),
            segments=self.segments | found,
            artifacts=tuple(sorted({*self.artifacts, *artifacts})),
            votes=tuple(sorted({*self.votes, *votes})),
        )


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
    beginnings = _known_by(store, namespace, record.subjects, interactions, folder)
    quoting = quoting_files(store, namespace, beginnings)
    copies = copies_of(store, namespace, beginnings)
    interactions |= copies
    affected = affected_segments(store, namespace, record.subjects, interactions)
    plan = before.with_more(interactions, affected, quoting, votes_on(store, namespace, copies))
    if plan != before:
        store.write(key, plan.model_dump_json(by_alias=True).encode())

    # 3 artifacts
    for quoted in quoting:
        blot_out(store, quoted, beginnings, record.id)

    # 4 log
    for segment in affected:
        compact(store, segment, record.subjects, interactions)

    # 5 snapshots
    theirs = Theirs(record.subjects, plan.votes)
    erase_from_snapshots(store, namespace, record.id, theirs, folder)

    # 6 report
    left = sum(affected_segments(store, namespace, record.subjects, interactions).values())
    left += _rows_left(store, namespace, theirs, folder)
    if left:
        raise StoreCorrupt(
            f"erasure {record.id}: {left} events or rows of the person are still there; somebody writes them back: "
            "erase again when it is quiet"
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
        left=left,
    )


def _known_by(
    store: Store, namespace: str, subjects: Collection[str], interactions: Collection[str], folder: Path
) -> Sequence[str]:
    """Return by what the person's words are found in files of runs, as far as log and snapshots still have them."""
    said, labels = words_in_snapshots(store, namespace, Theirs(subjects), folder)
    return beginnings_of(said | texts_of(store, namespace, subjects, interactions), labels)


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
