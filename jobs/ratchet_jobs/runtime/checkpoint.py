"""Checkpoints: a folder per step, every file first and its manifest last, so a half-written one does not exist.

Each pod writes below its own directory; resuming takes the highest complete step of any attempt at the stage. What
is in a checkpoint is the recipe's business (safetensors and JSON only), but for the stage's history, which is in each.
Of several nodes the first alone saves, and all resume from the one that it chose. Torch-free.

Beside them may lie `last-good/`: what a stage that had to stop was worth before it went wrong, a policy's folder like a
committed one. Nobody resumes from it; a run may start from it, by its digest.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import structlog

from ratchet_api.attempts import Artifact
from ratchet_api.stage import artifact_digest
from ratchet_jobs.runtime.errors import StoreCorrupt, StoreNotFound
from ratchet_jobs.runtime.history import History
from ratchet_jobs.runtime.store import Store, download_verified, sha256_file
from ratchet_jobs.runtime.team import Solo, Team

MANIFEST = "MANIFEST.json"
LAST_GOOD = "last-good"
KEEP = 2
_ALLOWED_SUFFIXES = {".safetensors", ".json"}

log = structlog.get_logger(__name__)


class Found(NamedTuple):
    """A checkpoint that was read back whole."""

    step: int
    folder: Path


class Checkpoints:
    """The checkpoints of one stage, as one pod sees them."""

    def __init__(
        self,
        store: Store,
        *,
        prefix: str,
        directory: str,
        scratch: Path,
        history: History | None = None,
        team: Team | None = None,
    ) -> None:
        """Remember where.

        Args:
            store: of the stage.
            prefix: of the stage; every attempt's directory lies below.
            directory: of this pod.
            scratch: local folder for files on their way.
            history: saved with each checkpoint, and taken back to it by `latest`.
            team: the nodes that do the stage together; by default there is one.
        """
        self._store = store
        self._prefix = prefix
        self._directory = f"{directory}/checkpoints"
        self._last_good = f"{directory}/{LAST_GOOD}"
        self._scratch = scratch
        self._history = History() if history is None else history  # an empty one is falsy
        self._team = team or Solo()

    def save(self, step: int, write: Callable[[Path], None]) -> None:
        """Let the recipe write its files into a folder, store them, and then say so in the manifest.

        Raises:
            StoreError: the store failed for longer than its patience; earlier checkpoints are untouched.
        """
        if self._team.rank > 0:
            return
        folder = self._fresh(f"save-{step}")
        write(folder)
        self._history.save(folder)
        files = {}
        paths = sorted(folder.iterdir())
        if odd := next((path for path in paths if path.suffix not in _ALLOWED_SUFFIXES), None):
            raise ValueError(f"checkpoint file {odd.name}: only {sorted(_ALLOWED_SUFFIXES)} are written")
        for path in paths:
            self._store.upload(path, f"{self._directory}/step-{step}/{path.name}")
            files[path.name] = sha256_file(path)
        manifest = json.dumps({"step": step, "files": files}, sort_keys=True).encode()
        self._store.write(f"{self._directory}/step-{step}/{MANIFEST}", manifest)
        shutil.rmtree(folder)
        self._prune()
        log.info("checkpoint saved", step=step)

    def latest(self) -> Found | None:
        """Return the newest complete checkpoint of any attempt; damaged ones are passed over with a warning.

        Raises:
            StoreCorrupt: this node cannot read the checkpoint that the first one could.
            PeerLost: another node is gone.
        """
        found = self._read(lambda step: True) if self._team.rank == 0 else None
        chosen = self._team.number(found.step if found is not None else 0)
        if self._team.rank > 0 and chosen:
            found = self._read(lambda step: step == chosen)
            if found is None:
                raise StoreCorrupt(
                    f"checkpoint of step {chosen} below {self._prefix}: node 0 read it and node {self._team.rank} "
                    "cannot; look for who else writes there, and start the stage again"
                )
        return found

    def _read(self, wanted: Callable[[int], bool]) -> Found | None:
        """Download the newest of the wanted checkpoints that is whole, and take the history back to it."""
        for step, base in sorted(self._complete(self._prefix), reverse=True):
            if not wanted(step):
                continue
            folder = self._fresh(f"load-{step}")
            try:
                manifest = json.loads(self._store.read(f"{base}/{MANIFEST}"))
                for name, sha256 in manifest["files"].items():
                    if Path(name).name != name:
                        raise StoreCorrupt(f"checkpoint {base}: file name {name!r} is not plain; remove the checkpoint")
                    download_verified(self._store, f"{base}/{name}", folder / name, sha256=sha256)
            except (StoreCorrupt, StoreNotFound, ValueError, KeyError, TypeError, AttributeError) as error:
                log.warning("checkpoint passed over", step=step, where=base, error=str(error))
                continue
            self._history.restore(folder)
            log.info("resuming", step=step, where=base)
            return Found(step, folder)
        return None

    def keep_last_good(self, write: Callable[[Path], None]) -> Artifact:
        """Let the recipe write a policy's files into a folder, and store them for whoever starts from them.

        Args:
            write: fills the folder, nested or flat.

        Returns:
            Where they lie, and the digest over all of them.

        Raises:
            StoreError: the store failed for longer than its patience.
        """
        folder = self._fresh(LAST_GOOD)
        write(folder)
        files = {}
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            name = path.relative_to(folder).as_posix()
            self._store.upload(path, f"{self._last_good}/{name}")
            files[name] = sha256_file(path)
        shutil.rmtree(folder)
        return Artifact(uri=f"{self._store.uri}/{self._last_good}", digest=artifact_digest(files))

    def clear(self) -> None:
        """Delete every attempt's checkpoints: the stage is committed and nobody resumes it."""
        self._delete([base for _, base in self._complete(self._prefix)])

    def _prune(self) -> None:
        mine = sorted(self._complete(self._directory), reverse=True)
        self._delete([base for _, base in mine[KEEP:]])

    def _delete(self, bases: list[str]) -> None:
        for base in bases:
            # the manifest first: from then on the rest is no checkpoint
            self._store.delete([f"{base}/{MANIFEST}"])
            self._store.delete([info.key for info in self._store.list(base)])

    def _complete(self, below: str) -> list[tuple[int, str]]:
        found = []
        for info in self._store.list(below):
            match = re.fullmatch(r"(.*/checkpoints/step-(\d+))/" + re.escape(MANIFEST), info.key)
            if match:
                found.append((int(match.group(2)), match.group(1)))
        return found

    def _fresh(self, name: str) -> Path:
        folder = self._scratch / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder
