"""A folder that appears whole or not at all.

Decides what may be replaced: nothing, unless asked to, and then only an earlier export. Knows no layout and no torch.
Called by `exporting`.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ratchet_jobs.export.record import RECORD_FILE
from ratchet_jobs.runtime.errors import BadConfigError


def check_target(target: Path, *, force: bool) -> None:
    """Refuse a target that must not be written, before any work is done.

    Args:
        target: the folder that the export shall become.
        force: whether an earlier export there may be replaced.

    Raises:
        BadConfigError: something is there that would be lost, or the place cannot hold a folder.
    """
    if target.name in ("", "..") or target.resolve() == Path.cwd():
        raise BadConfigError(f"output {str(target)!r} is a folder that you stand in; name a new one")
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise BadConfigError(f"output {target} exists and is no folder; name another, or remove it")
    if not target.exists():
        above = next((each for each in target.absolute().parents if each.exists()), None)
        if above is None or not above.is_dir() or not os.access(above, os.W_OK):
            raise BadConfigError(f"output {target}: {above} is no folder that can be written to; name another")
        return
    if not any(target.iterdir()):
        return
    if not force:
        raise BadConfigError(f"output {target} is not empty; name another folder, or replace an export with --force")
    if not (target / RECORD_FILE).is_file():
        raise BadConfigError(
            f"output {target} holds no {RECORD_FILE}, so it is no export and --force will not replace it; "
            "name another folder, or remove it yourself"
        )


@contextmanager
def whole_folder(target: Path, *, force: bool) -> Iterator[Path]:
    """Yield an empty folder that becomes the target when the block ends, or vanishes when it fails.

    Args:
        target: as in `check_target`.
        force: likewise.

    Raises:
        BadConfigError: as `check_target`, also when the target came to be meanwhile.
    """
    check_target(target, force=force)
    target = target.absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    token = secrets.token_hex(4)
    partial = target.parent / f".{target.name}.{token}.partial"
    partial.mkdir()
    try:
        yield partial
        _to_disk(partial)
        check_target(target, force=force)
        _take_place(partial, target, old=target.parent / f".{target.name}.{token}.old")
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _take_place(partial: Path, target: Path, *, old: Path) -> None:
    if not target.exists():
        partial.rename(target)
        return
    target.rename(old)
    try:
        partial.rename(target)
    except OSError:
        old.rename(target)
        raise
    shutil.rmtree(old)


def _to_disk(folder: Path) -> None:
    """Write every file through to the disk: a power cut after the renaming leaves no empty file behind."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
