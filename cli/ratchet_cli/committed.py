"""One file of a version's evaluation, out of the folder or the store that it was committed to.

Decides what is believed: what comes out of a store is compared with the digest that the stage committed, or with what
an erasure left of it. Reads one file and never weights. Used by `ratchet report` and `ratchet feedback samples`.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from ratchet_cli.errors import CliError, NotFound
from ratchet_cli.versions import Version
from ratchet_jobs.runtime.commit import COMMIT_FILE, erased_files, find_commit
from ratchet_jobs.runtime.errors import StageError, StoreNotFound
from ratchet_jobs.runtime.store import open_store

PATIENCE_SECONDS = 20.0


def read_committed(version: Version, name: str) -> bytes:
    """Return a file that lies beside a version's policy.

    Raises:
        NotFound: it has none.
        CliError: the store fails, or has another file than was committed.
    """
    if isinstance(version.files, Path):
        try:
            return (version.files / name).read_bytes()
        except OSError as error:
            raise NotFound(_missing(version, name, str(version.files))) from error
    try:
        return _fetched(version, name)
    except ImportError as error:
        raise CliError(f"an S3 store needs the package {error.name}; install ratchet[jobs]") from error
    except StageError as error:
        raise CliError(f"{version.title}: {error}") from error


def _fetched(version: Version, name: str) -> bytes:
    """Read it out of the store, checked against the commit and that against the digest that the object names."""
    assert not isinstance(version.files, Path)
    artifact, store = version.files, open_store(version.store, patience_seconds=PATIENCE_SECONDS)
    directory = artifact.uri.removeprefix(f"{store.uri}/")
    prefix = directory.rpartition("/")[0]
    commit = find_commit(store, prefix=prefix, namespace=version.namespace, input_digest=None)
    if commit is None or commit.digest != artifact.digest:
        raise CliError(
            f"{version.title}: {store.uri}/{prefix}/{COMMIT_FILE} is not the one of digest {artifact.digest[:12]}…; "
            "restore the store, or make a new run"
        )
    wanted = next((file.sha256 for file in commit.files if file.path == name), None)
    if wanted is None:
        raise NotFound(_missing(version, name, artifact.uri))
    try:
        data = store.read(f"{directory}/{name}")
    except StoreNotFound as error:
        raise NotFound(_missing(version, name, artifact.uri)) from error
    seen = hashlib.sha256(data).hexdigest()
    if seen != wanted and seen != erased_files(store, directory).now.get(name):
        raise CliError(f"{version.title}: {artifact.uri}/{name} was changed after it was committed; restore it")
    return data


def _missing(version: Version, name: str, where: str) -> str:
    return f"{version.title}: no {name} in {where}; evaluate it again by a new run"
