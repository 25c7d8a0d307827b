"""The store behind one small interface: flat keys to bytes, in S3 or in a directory.

Decides how a write becomes all-or-nothing, how "create if absent" is answered when the answer itself is ambiguous,
and which failure is whose. Never interprets what it stores. One contract suite runs against every implementation.
Called by the commit protocol, checkpoints and recipes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Protocol
from urllib.parse import unquote, urlsplit

from ratchet_api.stage import StoreConfig
from ratchet_jobs.runtime.errors import BadConfigError, StoreCorrupt


class ObjectInfo(NamedTuple):
    """One object of a listing."""

    key: str
    size: int


class Store(Protocol):
    """What a stage may do with its store. Keys are slash-separated, relative to the store's root.

    Every method may raise StoreUnavailable, StoreAccessDenied or StoreNotFound; they have already been patient.
    """

    @property
    def uri(self) -> str:
        """The store's root, without a trailing slash."""

    def read(self, key: str) -> bytes:
        """Return a small object's bytes."""

    def write(self, key: str, data: bytes) -> None:
        """Store the bytes; readers see the old object or the new one, never a part."""

    def create(self, key: str, data: bytes) -> bool:
        """Store the bytes unless the key exists. Returns whether the key now holds exactly these bytes.

        An answer that leaves it open who won (412, 409, a lost connection) is resolved by reading back, so the
        bytes must name their writer.
        """

    def download(self, key: str, path: Path) -> None:
        """Copy an object of any size into a file."""

    def upload(self, path: Path, key: str) -> None:
        """Copy a file of any size into an object; all or nothing."""

    def list(self, prefix: str) -> list[ObjectInfo]:
        """Return every object below the prefix (a folder, without its slash), sorted by key."""

    def exists(self, key: str) -> bool:
        """Tell whether the object exists."""

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; missing ones are fine."""


def open_store(config: StoreConfig, *, patience_seconds: float) -> Store:
    """Open the store that a stage's input names.

    Args:
        config: where it is.
        patience_seconds: how long an S3 outage is waited out before StoreUnavailable.

    Raises:
        BadConfigError: the URI is neither s3://BUCKET[/PREFIX] nor file:///DIR.
    """
    parts = urlsplit(config.uri)
    if parts.scheme == "file" and parts.path.startswith("/"):
        from ratchet_jobs.runtime.store_directory import DirectoryStore

        return DirectoryStore(Path(unquote(parts.path)))
    if parts.scheme == "s3" and parts.netloc:
        from ratchet_jobs.runtime.store_s3 import S3Store

        return S3Store(config, patience_seconds=patience_seconds)
    raise BadConfigError(f"store.uri {config.uri!r}: expected s3://BUCKET[/PREFIX] or file:///DIRECTORY")


def check_key(key: str) -> str:
    """Return the key if it stays below the root.

    Raises:
        BadConfigError: a segment is empty, `.` or `..`, or holds a character that no key of ours has.
    """
    segments = key.split("/")
    if any(s in ("", ".", "..") or "\\" in s or "\0" in s for s in segments):
        raise BadConfigError(f"store key {key!r}: segments must not be empty, '.' or '..'; write the plain path")
    return key


def resolve_uri(uri: str, *, store: Store, namespace: str, field: str) -> str:
    """Turn a URI of a manifest into a key of the store.

    `store://PATH` lies below the namespace's own prefix, and so must `s3://BUCKET/KEY`: the stages of all namespaces
    may share one set of credentials, so a foreign prefix is refused here and not left to the store.

    Args:
        uri: as in the spec.
        store: the stage's store.
        namespace: of the object that names the URI.
        field: path of the field, for the message.

    Raises:
        BadConfigError: the URI leaves the namespace's prefix or the store.
    """
    parts = PurePosixPath(uri)
    if any(p == ".." for p in parts.parts):
        raise BadConfigError(f"{field} {uri!r}: '..' is not allowed; write the plain path")
    scheme, _, rest = uri.partition("://")
    if scheme == "store":
        return check_key(f"{namespace}/{rest.strip('/')}")
    if scheme == "s3" and uri.startswith(f"{store.uri}/{namespace}/"):
        return check_key(uri[len(store.uri) + 1 :].rstrip("/"))
    raise BadConfigError(
        f"{field} {uri!r}: is not in this namespace's part of the store, {store.uri}/{namespace}/; "
        f"copy the data there and name it by store://PATH (= {store.uri}/{namespace}/PATH)"
    )


def sha256_file(path: Path) -> str:
    """SHA-256 of a file, 64 hex digits."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def download_verified(store: Store, key: str, path: Path, *, sha256: str) -> None:
    """Download and compare with the recorded checksum.

    Raises:
        StoreCorrupt: the bytes differ; the file is removed.
    """
    store.download(key, path)
    if (seen := sha256_file(path)) != sha256:
        path.unlink()
        raise StoreCorrupt(
            f"object {store.uri}/{key}: sha256 is {seen}, recorded was {sha256}; "
            "something else wrote to it: restore the object, or remove its COMMIT.json and index entry to train again"
        )
