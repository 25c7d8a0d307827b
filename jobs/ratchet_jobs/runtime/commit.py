"""The commit protocol: a stage is done when one conditional PUT of its COMMIT.json succeeded, and never before.

    <prefix>/<attempt>-<pod>/…     the files, written first, by any number of pods, each in its own directory
    <prefix>/COMMIT.json           names the winning directory with every file's SHA-256; the first writer wins
    <ns>/index/<input-digest>      points later runs with equal inputs to that COMMIT; also first writer wins

A pod that loses throws its own work away and reports the winner's. Called by `main` before and after a recipe, and by
recipes that read another stage's result.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, TypeVar

import structlog
from pydantic import BaseModel, Field, ValidationError

from ratchet_api.attempts import Artifact
from ratchet_api.base import StatusModel
from ratchet_api.names import index_key
from ratchet_api.stage import (
    Commit,
    CommittedFile,
    EndState,
    IndexEntry,
    Stage,
    StageInput,
    StageRef,
    StageResult,
    artifact_digest,
)
from ratchet_jobs.runtime.errors import StoreCorrupt, StoreError, StoreNotFound
from ratchet_jobs.runtime.store import Store, check_key, download_verified, sha256_file

COMMIT_FILE = "COMMIT.json"
ERASED_FILE = "ERASED.json"
"""In a committed directory from whose files a person's words had to be taken."""

log = structlog.get_logger(__name__)

ModelT = TypeVar("ModelT", bound=BaseModel)


class ErasedFiles(StatusModel):
    """ERASED.json: which committed files were changed for an erasure; the commit and its digest stay as they are."""

    erasures: tuple[str, ...] = Field(default=(), strict=False)
    committed: dict[str, str] = Field(default_factory=dict)
    """SHA-256 that each of these files was committed with."""
    now: dict[str, str] = Field(default_factory=dict)
    """SHA-256 that it has instead; while it is changed, either."""


class Outcome(NamedTuple):
    """Which commit holds, and whether it is ours."""

    state: EndState
    commit: Commit

    def artifact(self, store: Store) -> Artifact:
        """The committed directory as status shows it."""
        return Artifact(uri=f"{store.uri}/{self.commit.directory}", digest=self.commit.digest)


def find_commit(store: Store, *, prefix: str, namespace: str, input_digest: str | None) -> Commit | None:
    """Return the commit of this very stage, or of any stage with equal inputs, or None.

    An index entry whose COMMIT is gone, unreadable or of another digest counts as none: the stage then runs again.

    Raises:
        StoreCorrupt: this stage's own COMMIT.json is not one.
    """
    own = f"{prefix}/{COMMIT_FILE}"
    if (data := _read(store, own)) is not None:
        return _parsed(Commit, data, f"{store.uri}/{own}")
    return None if input_digest is None else _indexed(store, namespace=namespace, input_digest=input_digest)


def _indexed(store: Store, *, namespace: str, input_digest: str) -> Commit | None:
    if (data := _read(store, index_key(namespace, input_digest))) is None:
        return None
    try:
        entry = _parsed(IndexEntry, data, index_key(namespace, input_digest))
        indexed = _read(store, entry.commit)
        commit = _parsed(Commit, indexed, entry.commit) if indexed is not None else None
    except StoreCorrupt:
        return None
    return commit if commit is not None and commit.digest == entry.digest and _complete(store, commit) else None


def commit_stage(
    store: Store, job: StageInput, *, folder: Path, directory: str, writer: str, result: StageResult
) -> Outcome:
    """Upload a folder's files, then try to become the stage's commit.

    Args:
        store: where to.
        job: the stage's input.
        folder: local files, flat or nested.
        directory: store prefix of this pod's own directory.
        writer: token that no other pod has.
        result: what the recipe found.

    Returns:
        COMMITTED with our commit, or SUPERSEDED with the one that was first.
    """
    files = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder).as_posix()
        store.upload(path, f"{directory}/{name}")
        files.append(CommittedFile(path=name, size=path.stat().st_size, sha256=sha256_file(path)))
    commit = Commit(
        stage=Stage(job.config.stage),
        input_digest=job.input_digest,
        directory=directory,
        files=tuple(files),
        digest=artifact_digest({f.path: f.sha256 for f in files}),
        writer=writer,
        result=result,
    )
    outcome = publish(store, job, commit)
    if outcome.commit.directory != directory:
        _discard(store, directory)
    return outcome


def _discard(store: Store, directory: str) -> None:
    """Delete a loser's files, which no COMMIT names; what cannot be deleted only takes room."""
    try:
        store.delete([info.key for info in store.list(directory)])
    except StoreError as error:
        log.warning("files of a superseded attempt not deleted", where=directory, error=str(error))


def publish(store: Store, job: StageInput, commit: Commit) -> Outcome:
    """Write COMMIT.json and the index entry; return whichever commit holds."""
    key, namespace = f"{job.prefix}/{COMMIT_FILE}", job.owner.namespace
    data = _dumped(commit)
    ours = store.create(key, data)
    if not ours:
        commit = _parsed(Commit, store.read(key), f"{store.uri}/{key}")
    if job.input_digest is not None:
        entry, where = _dumped(IndexEntry(commit=key, digest=commit.digest)), index_key(namespace, job.input_digest)
        if (
            not store.create(where, entry)
            and _indexed(store, namespace=namespace, input_digest=job.input_digest) is None
        ):
            store.write(where, entry)  # the entry that was first points to nothing any more
    return Outcome(EndState.COMMITTED if ours else EndState.SUPERSEDED, commit)


def open_committed(store: Store, ref: StageRef, *, namespace: str, into: Path) -> Commit:
    """Download another stage's committed files, each checked against its SHA-256.

    Raises:
        StoreNotFound: the stage has no commit.
        StoreCorrupt: a file's bytes are not the committed ones.
    """
    commit = find_commit(store, prefix=ref.prefix, namespace=namespace, input_digest=ref.input_digest)
    if commit is None:
        raise StoreNotFound(
            f"stage {ref.stage.value}: no {COMMIT_FILE} below {store.uri}/{ref.prefix} and no index entry for "
            f"{ref.input_digest[:12]}…; it was removed from the store: make a new run"
        )
    for file in commit.files:
        target = into / check_key(file.path)
        target.parent.mkdir(parents=True, exist_ok=True)
        key = f"{commit.directory}/{file.path}"
        try:
            download_verified(store, key, target, sha256=file.sha256)
        except StoreCorrupt:
            renewed = erased_files(store, commit.directory).now.get(file.path)
            if renewed is None:
                raise
            download_verified(store, key, target, sha256=renewed)
    return commit


def erased_files(store: Store, directory: str) -> ErasedFiles:
    """Return what was changed for erasures in a committed directory; nothing where there is no mark.

    Raises:
        StoreCorrupt: the mark is not one.
    """
    data = _read(store, f"{directory}/{ERASED_FILE}")
    return ErasedFiles() if data is None else _parsed(ErasedFiles, data, f"{store.uri}/{directory}/{ERASED_FILE}")


def _complete(store: Store, commit: Commit) -> bool:
    """Every committed file is still there in its size; a pruned artifact must not be taken for a result."""
    there = {info.key: info.size for info in store.list(commit.directory)}
    return all(there.get(f"{commit.directory}/{f.path}") == f.size for f in commit.files)


def _read(store: Store, key: str) -> bytes | None:
    try:
        return store.read(key)
    except StoreNotFound:
        # a missing bucket is not a missing key: a listing tells them apart by raising. Below the key itself lies
        # nothing; the folder around it may be the index, which grows for ever
        store.list(key)
        return None


def _dumped(model: BaseModel) -> bytes:
    return model.model_dump_json(by_alias=True, exclude_none=True, indent=1).encode()


def _parsed(model: type[ModelT], data: bytes, where: str) -> ModelT:
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        raise StoreCorrupt(
            f"object {where}: is no {model.__name__} ({error.error_count()} findings); remove what somebody put there"
        ) from error
