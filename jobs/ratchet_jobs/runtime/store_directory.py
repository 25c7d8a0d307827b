"""A directory as a store: for laptops, tests and shared file systems with atomic rename and link.

Writes go to a temporary file beside the target, are flushed to disk, and appear by rename (write) or link (create),
so a reader or a crash never sees a part. The folder is flushed too: what was confirmed is there after a power cut.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ratchet_jobs.runtime.errors import StoreAccessDenied, StoreNotFound, StoreUnavailable
from ratchet_jobs.runtime.store import ObjectInfo, check_key

_PARTIAL = ".partial-"
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EXDEV, errno.EMLINK}


class DirectoryStore:
    """Objects are files below a root directory."""

    def __init__(self, root: Path) -> None:
        """Name the root; it is made on the first write."""
        self._root = root

    @property
    def uri(self) -> str:
        """The root as a file URI: blanks and whatever else a URI cannot hold are written as %XX."""
        return self._root.as_uri()

    def read(self, key: str) -> bytes:
        """Return the object's bytes."""
        with self._explained(key):
            return self._path(key).read_bytes()

    def write(self, key: str, data: bytes) -> None:
        """Store the bytes by rename."""
        with self._explained(key), self._partial(key) as partial:
            partial.write_bytes(data)
            self._settle(partial)
            partial.replace(self._path(key))
            self._settle_name(key)

    def create(self, key: str, data: bytes) -> bool:
        """Store the bytes by link, which fails when the name exists."""
        with self._explained(key), self._partial(key) as partial:
            partial.write_bytes(data)
            self._settle(partial)
            ours = True
            try:
                os.link(partial, self._path(key))
            except FileExistsError:
                ours = False
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                raise StoreAccessDenied(
                    f"store {self.uri}: its file system has no hard links ({error.strerror}), which decide who is "
                    "first; put the store on another one, such as ext4, xfs or NFS"
                ) from error
            self._settle_name(key)
            # what we have just made is not read again: whoever erases may have replaced it by now
            return ours or self._path(key).read_bytes() == data

    def download(self, key: str, path: Path) -> None:
        """Copy the object into a file."""
        with self._explained(key):
            shutil.copyfile(self._path(key), path)

    def upload(self, path: Path, key: str) -> None:
        """Copy a file into an object."""
        with self._explained(key), self._partial(key) as partial:
            shutil.copyfile(path, partial)
            self._settle(partial)
            partial.replace(self._path(key))
            self._settle_name(key)

    def list(self, prefix: str) -> list[ObjectInfo]:
        """Return every object below the prefix."""
        found = []
        with self._explained(prefix):
            for path in self._path(prefix).rglob("*"):
                try:
                    seen = path.stat()
                except FileNotFoundError:  # deleted since the folder was read, by another pod
                    continue
                if stat.S_ISREG(seen.st_mode) and not path.name.startswith(_PARTIAL):
                    found.append(ObjectInfo(path.relative_to(self._root).as_posix(), seen.st_size))
        return sorted(found)

    def exists(self, key: str) -> bool:
        """Tell whether the object exists."""
        with self._explained(key):
            return self._path(key).is_file()

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects."""
        for key in keys:
            with self._explained(key):
                self._path(key).unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self._root / check_key(key)

    @contextmanager
    def _partial(self, key: str) -> Iterator[Path]:
        folder = self._path(key).parent
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=_PARTIAL, dir=folder)
        os.close(handle)
        try:
            yield Path(name)
        finally:
            Path(name).unlink(missing_ok=True)

    def _settle_name(self, key: str) -> None:
        folder = os.open(self._path(key).parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    @staticmethod
    def _settle(path: Path) -> None:
        path.chmod(0o644)
        with path.open("rb") as handle:
            os.fsync(handle.fileno())

    @contextmanager
    def _explained(self, key: str) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise StoreNotFound(f"object {self.uri}/{key}: does not exist; put it there or correct the URI") from error
        except PermissionError as error:
            raise StoreAccessDenied(f"object {self.uri}/{key}: {error.strerror}; give this user access") from error
        except OSError as error:
            raise StoreUnavailable(
                f"object {self.uri}/{key}: {error.strerror or error}; free space or mend the disk"
            ) from error
