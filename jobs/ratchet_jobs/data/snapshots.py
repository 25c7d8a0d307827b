"""Snapshots in the store: Parquet per split and a MANIFEST.json, below the digest of their content.

Decides the layout, writes it once, and reads it back with every checksum verified. Equal digest, equal bytes: the
digest is taken of the Parquet files themselves. Torch-free. Called by `snapshot` (write), `resolve` (look) and the
training stages (read).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, ValidationError

from ratchet_api.base import StatusModel, digest_of
from ratchet_api.feedback_dataset import SplitName
from ratchet_api.names import snapshot_prefix
from ratchet_api.snapshot_summary import LabelCount, Removed, SnapshotCounts
from ratchet_api.stage import DatasetRef
from ratchet_api.tasks import Task, tasks_of
from ratchet_jobs.runtime.errors import BadDataError, StoreCorrupt
from ratchet_jobs.runtime.store import Store, check_key, download_verified, sha256_file

MANIFEST = "MANIFEST.json"
ERASED = "ERASED.json"
"""Stands where a snapshot was from which a person had to be erased."""
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")
LABEL_COLUMN = "label"
"""Of a task NAME, if there are named tasks: `label/NAME`."""


def label_columns(tasks: Sequence[str] | None) -> tuple[str, ...]:
    """Return the columns of a split that hold labels, one per task."""
    return tuple(f"{LABEL_COLUMN}/{task}" for task in tasks) if tasks else (LABEL_COLUMN,)


def schema_of(tasks: Sequence[str] | None) -> pa.Schema:
    """Return the columns of a split; a row may lack the labels of some of several tasks, never its only one."""
    return pa.schema(
        [
            pa.field("text", pa.string(), nullable=False),
            *(pa.field(column, pa.string(), nullable=bool(tasks)) for column in label_columns(tasks)),
            pa.field("component", pa.uint64(), nullable=False),
            pa.field("subject", pa.string()),
            pa.field("time", pa.timestamp("s", tz="UTC")),
        ]
    )


class ErasedMark(StatusModel):
    """Why a digest refuses to load, and what replaced it."""

    erasure: str
    replaced_by: str
    rows: int


class SnapshotFile(StatusModel):
    """One Parquet file of a snapshot."""

    path: str
    sha256: str
    rows: int


class SourceRead(StatusModel):
    """One source as it was read."""

    uri: str
    sha256: str
    rows: int


class Manifest(StatusModel):
    """MANIFEST.json: what a snapshot holds and where it came from."""

    format: Literal["ratchet.dev/snapshot-v1"] = "ratchet.dev/snapshot-v1"
    type: str
    digest: str
    files: dict[str, SnapshotFile]
    labels: tuple[LabelCount, ...]
    """Every class with its rows per split; the order is the label map."""
    task_names: tuple[str, ...] | None = None
    """In the order of the label map, where a class is then called `task/label`; None = one task without a name."""
    counts: SnapshotCounts
    removed: tuple[Removed, ...] = ()
    sources: tuple[SourceRead, ...] = ()
    settings: dict[str, Any] = Field(default_factory=dict)
    """columns, filters and split as they were."""

    @property
    def label_map(self) -> tuple[str, ...]:
        """Class names; a class's place is its number."""
        return tuple(entry.label for entry in self.labels)

    @property
    def tasks(self) -> tuple[Task, ...]:
        """What a text is asked, and the classes of each task."""
        return tasks_of(self.label_map, self.task_names)


class Snapshot(NamedTuple):
    """A snapshot on the local disk."""

    manifest: Manifest
    folder: Path

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names in the order of the label map."""
        return self.manifest.label_map

    @property
    def tasks(self) -> tuple[Task, ...]:
        """What a text is asked, and the classes of each task."""
        return self.manifest.tasks

    def table(self, split: SplitName) -> pa.Table:
        """Read one split: columns text, label (one per task), component, subject, time; of ratings more."""
        return pq.read_table(self.folder / self.manifest.files[split].path, memory_map=True)


def content_digest(kind: str, labels: tuple[str, ...], files: Mapping[str, SnapshotFile]) -> str:
    """Digest of a snapshot: its type, its label map and its files' bytes."""
    return digest_of(
        {"type": kind, "labels": list(labels), "files": {name: file.sha256 for name, file in files.items()}}
    )


def write_split(
    rows: list[dict[str, Any]],
    path: Path,
    *,
    tasks: Sequence[str] | None = None,
    schema: pa.Schema | None = None,
    scored: Callable[[pa.Table], pa.Table] | None = None,
) -> SnapshotFile:
    """Write one split's rows as Parquet with settings that give equal bytes for equal rows.

    Args:
        rows: by column.
        path: of the file.
        tasks: names of the tasks; None = one without a name.
        schema: columns; None = those of labelled texts in these tasks.
        scored: adds a judge's columns; None = there are none.
    """
    table = pa.Table.from_pylist(rows, schema=schema or schema_of(tasks))
    if scored is not None:
        table = scored(table)
    dictionary = list(label_columns(tasks))
    pq.write_table(table, path, compression="zstd", version="2.6", row_group_size=65_536, use_dictionary=dictionary)
    return SnapshotFile(path=path.name, sha256=sha256_file(path), rows=len(rows))


def store_snapshot(store: Store, namespace: str, manifest: Manifest, folder: Path) -> str:
    """Put a snapshot below its digest, the manifest last; an equal one that is there already stays as it is.

    Returns:
        The manifest's key.
    """
    prefix = snapshot_prefix(namespace, manifest.digest)
    key = f"{prefix}/{MANIFEST}"
    if not store.exists(key):
        for file in manifest.files.values():
            store.upload(folder / file.path, f"{prefix}/{file.path}")
        store.create(key, manifest.model_dump_json(by_alias=True, exclude_none=True, indent=1).encode())
    return key


def read_manifest(store: Store, ref: DatasetRef) -> Manifest:
    """Read a pinned snapshot's manifest and check that it is the one pinned.

    Raises:
        BadDataError: a person was erased from it.
        StoreNotFound: the snapshot is gone.
        StoreCorrupt: the manifest is not one, or of another snapshot.
    """
    key = f"{ref.prefix}/{MANIFEST}"
    if store.exists(f"{ref.prefix}/{ERASED}"):
        mark = ErasedMark.model_validate_json(store.read(f"{ref.prefix}/{ERASED}"))
        raise BadDataError(
            f"snapshot {ref.digest[:12]}… holds rows of a person who was erased (erasure {mark.erasure}) and loads no "
            f"more; it was rewritten as {mark.replaced_by[:12]}…: refresh the dataset and make a new run"
        )
    try:
        manifest = Manifest.model_validate_json(store.read(key))
    except ValidationError as error:
        raise StoreCorrupt(
            f"object {store.uri}/{key}: is no snapshot manifest; restore it or refresh the dataset"
        ) from error
    if not manifest.digest == ref.digest == content_digest(manifest.type, manifest.label_map, manifest.files):
        raise StoreCorrupt(
            f"object {store.uri}/{key}: describes snapshot {manifest.digest[:12]}…, the run pinned {ref.digest[:12]}…; "
            "something else wrote it: refresh the dataset and make a new run"
        )
    return manifest


def open_snapshot(store: Store, ref: DatasetRef, *, into: Path) -> Snapshot:
    """Download a pinned snapshot, every file checked against its SHA-256."""
    manifest = read_manifest(store, ref)
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir(parents=True)
    for file in manifest.files.values():
        download_verified(store, f"{ref.prefix}/{file.path}", into / check_key(file.path), sha256=file.sha256)
    return Snapshot(manifest, into)
