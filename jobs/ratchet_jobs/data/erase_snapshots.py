"""Takes a person's rows out of the snapshots of feedback: each affected one is rewritten under a new digest.

Decides what becomes of the old digest: a small ERASED.json says why it refuses to load and what replaced it, then its
files are deleted. Any step may be repeated. Called by `erase`; `read_manifest` looks for the mark.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ratchet_api.snapshot_summary import LabelCount, Removed, SnapshotCounts
from ratchet_jobs.data.snapshots import (
    ERASED,
    MANIFEST,
    SPLITS,
    ErasedMark,
    Manifest,
    SnapshotFile,
    content_digest,
    store_snapshot,
)
from ratchet_jobs.runtime.store import Store, check_key, sha256_file

_WORDS = {"text", "label", "chosen", "rejected", "response"}
"""Columns that hold what somebody said."""


@dataclass(frozen=True, slots=True)
class Theirs:
    """Which rows are a person's.

    Attributes:
        subjects: the person's pseudonyms: rows of theirs, and about answers to them.
        votes: feedback of others whose rows go, too.
    """

    subjects: Collection[str]
    votes: Collection[str] = ()

    def rows(self, table: pa.Table) -> pa.ChunkedArray:
        """Return which rows of a snapshot of feedback these are, (N,) of booleans."""
        people, votes = pa.array(sorted(self.subjects), pa.string()), pa.array(sorted(self.votes), pa.string())
        of_person = pc.or_(pc.is_in(table["subject"], people), pc.is_in(table["about"], people))
        return pc.or_(of_person, pc.is_in(table["event"], votes))


def erase_from_snapshots(store: Store, namespace: str, erasure: str, theirs: Theirs, folder: Path) -> None:
    """Rewrite every snapshot that holds rows of a person.

    Args:
        store: where the snapshots are.
        namespace: whose.
        erasure: id, for the marks.
        theirs: which rows.
        folder: for one snapshot at a time.
    """
    keys = [info.key for info in store.list(f"{namespace}/snapshots")]
    marked = {key.rpartition("/")[0] for key in keys if key.endswith(f"/{ERASED}")}
    for prefix in sorted({key.rpartition("/")[0] for key in keys if key.endswith(f"/{MANIFEST}")} - marked):
        manifest = Manifest.model_validate_json(store.read(f"{prefix}/{MANIFEST}"))
        if "feedback" in manifest.settings:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            _rewrite(store, namespace, prefix, manifest, erasure, theirs, folder)
            marked.add(prefix)
    # what an earlier process marked and did not get to delete, and what this one marked
    for prefix in sorted(mark for mark in marked if store.exists(f"{mark}/{ERASED}")):
        store.delete([info.key for info in store.list(prefix) if info.key != f"{prefix}/{ERASED}"])
    shutil.rmtree(folder, ignore_errors=True)


def words_in_snapshots(store: Store, namespace: str, theirs: Theirs, folder: Path) -> tuple[set[str], set[str]]:
    """Return the texts of a person's rows, which are redacted where the log's are not, and every class's name."""
    texts: set[str] = set()
    labels: set[str] = set()
    folder.mkdir(parents=True, exist_ok=True)
    keys = {info.key for info in store.list(f"{namespace}/snapshots")}
    for key in sorted(key for key in keys if key.endswith(f"/{MANIFEST}")):
        prefix = key.rpartition("/")[0]
        manifest = Manifest.model_validate_json(store.read(key))
        labels.update(manifest.label_map)
        if "feedback" not in manifest.settings or f"{prefix}/{ERASED}" in keys:
            continue
        for file in manifest.files.values():
            path = folder / check_key(file.path)
            store.download(f"{prefix}/{file.path}", path)
            table = pq.read_table(path)
            said = table.filter(theirs.rows(table))
            for column in _WORDS & set(table.column_names):
                texts.update(said[column].to_pylist())
            path.unlink()
    return texts, labels


def marks_of(store: Store, namespace: str, erasure: str) -> Iterator[tuple[str, ErasedMark]]:
    """Yield the digests that an erasure took away, with their marks."""
    return ((digest, mark) for digest, mark in _marks(store, namespace) if mark.erasure == erasure)


def with_earlier(store: Store, namespace: str, digests: Collection[str]) -> set[str]:
    """Return these digests and those which they replaced at erasures before; these held the same rows, and more.

    Args:
        store: where the snapshots were.
        namespace: whose.
        digests: of snapshots.
    """
    marks, found = list(_marks(store, namespace)), set(digests)
    while more := {digest for digest, mark in marks if mark.replaced_by in found} - found:
        found |= more
    return found


def _marks(store: Store, namespace: str) -> Iterator[tuple[str, ErasedMark]]:
    for info in store.list(f"{namespace}/snapshots"):
        if info.key.endswith(f"/{ERASED}"):
            yield info.key.split("/")[-2], ErasedMark.model_validate_json(store.read(info.key))


def _rewrite(
    store: Store,
    namespace: str,
    prefix: str,
    manifest: Manifest,
    erasure: str,
    theirs: Theirs,
    folder: Path,
) -> None:
    tables: dict[str, pa.Table] = {}
    removed = 0
    for name, file in manifest.files.items():
        path = folder / check_key(file.path)
        store.download(f"{prefix}/{file.path}", path)
        table = pq.read_table(path)
        tables[name] = table.filter(pc.invert(theirs.rows(table)))
        removed += len(table) - len(tables[name])
    settings = _without(manifest.settings, theirs.subjects)
    if not removed and settings == manifest.settings:
        return
    files = {}
    for name, table in tables.items():
        path = folder / manifest.files[name].path
        pq.write_table(table, path, compression="zstd", version="2.6", row_group_size=65_536, use_dictionary=["label"])
        files[name] = SnapshotFile(path=path.name, sha256=sha256_file(path), rows=len(table))
    labels = _recounted(manifest, tables)
    rows = {name: len(tables[name]) for name in SPLITS}
    # a snapshot that differs in its settings alone has the same files, and so the same digest but for this
    renewed = manifest.model_copy(
        update={
            "digest": content_digest(manifest.type, tuple(entry.label for entry in labels), files),
            "files": files,
            "labels": labels,
            "counts": SnapshotCounts(read=manifest.counts.read, kept=sum(rows.values()), **rows),
            "removed": (*manifest.removed[:15], *([Removed(rule="Erased", count=removed)] if removed else [])),
            "settings": settings | {"rewrites": manifest.digest},
        }
    )
    if renewed.digest == manifest.digest:
        store.write(f"{prefix}/{MANIFEST}", _json(renewed))
        return
    store_snapshot(store, namespace, renewed, folder)
    mark = ErasedMark(erasure=erasure, replaced_by=renewed.digest, rows=removed)
    store.create(f"{prefix}/{ERASED}", mark.model_dump_json(by_alias=True).encode())


def _recounted(manifest: Manifest, tables: dict[str, pa.Table]) -> tuple[LabelCount, ...]:
    if not manifest.labels:
        return ()
    count = {name: Counter(table["label"].to_pylist()) for name, table in tables.items()}
    return tuple(
        LabelCount(label=each.label, **{name: count[name][each.label] for name in SPLITS})
        for each in manifest.labels
        if any(count[name][each.label] for name in SPLITS)  # a class that nobody else named is the person's own word
    )


def _without(value: Any, subjects: Collection[str]) -> Any:
    """Return settings without the lists' entries that name a person."""
    if isinstance(value, dict):
        return {key: _without(part, subjects) for key, part in value.items()}
    if isinstance(value, list):
        return [_without(part, subjects) for part in value if not _names(part, subjects)]
    return value


def _names(part: Any, subjects: Collection[str]) -> bool:
    return part in subjects if isinstance(part, str) else isinstance(part, dict) and part.get("subject") in subjects


def _json(manifest: Manifest) -> bytes:
    return manifest.model_dump_json(by_alias=True, exclude_none=True, indent=1).encode()
