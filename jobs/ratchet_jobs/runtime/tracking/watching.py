"""A stage under the eyes of its trackers: what they are told of it, and where their files go.

Decides which stages are tracked, the names of steps' and results' metrics, and that local files are copied into the
store below the stage's prefix, beside what it commits and never in it: event files hold times and would change digests.
Called by `runtime.main`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import structlog

from ratchet_api.stage import Stage, StageInput
from ratchet_jobs.runtime.errors import StoreError
from ratchet_jobs.runtime.store import Store
from ratchet_jobs.runtime.tracking.background import BackgroundTrackers, trackers_of
from ratchet_jobs.runtime.tracking.base import Tracked

UNTRACKED = frozenset({Stage.SNAPSHOT, Stage.RESOLVE})
"""They learn and measure nothing."""

log = structlog.get_logger(__name__)


class Watcher:
    """Takes a stage's numbers to its trackers."""

    def __init__(self, trackers: BackgroundTrackers) -> None:
        self._trackers = trackers
        self._last = 0

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Numbers of one step, under their own names."""
        self._last = max(self._last, step)
        if metrics:
            self._trackers.log(step, metrics)

    def result(self, metrics: Mapping[str, float]) -> None:
        """What the stage found out in the end, as `result/NAME` at the last step."""
        if metrics:
            self._trackers.log(self._last, {f"result/{name}": value for name, value in metrics.items()})


@contextmanager
def watched(
    store: Store, job: StageInput, pod_uid: str, folder: Path, *, count_failure: Callable[[str], None]
) -> Iterator[Watcher]:
    """Open the run's trackers for the block; they learn whether it ended well.

    Args:
        store: for the files that trackers write.
        job: the stage.
        pod_uid: of this pod: each has its own files.
        folder: local, made if a tracker is on.
        count_failure: called with a tracker's name for each thing it did not take.
    """
    stage = Stage(job.config.stage)
    trackers = [] if stage in UNTRACKED else trackers_of(job.tracking)
    if trackers:
        folder.mkdir(parents=True, exist_ok=True)
    running = BackgroundTrackers(trackers, _about(job, stage, folder), count_failure=count_failure)
    succeeded = False
    try:
        yield Watcher(running)
        succeeded = True
    finally:
        running.finish(succeeded=succeeded)
        _keep(store, folder, f"{job.prefix}/tracking/{job.attempt}-{pod_uid[:8]}")


def _about(job: StageInput, stage: Stage, folder: Path) -> Tracked:
    owner = job.owner
    labels = {"namespace": owner.namespace, "run": owner.name, "stage": stage.value, "attempt": str(job.attempt)}
    settings = dict(_flat(job.config.to_wire(), ""))
    return Tracked(title="/".join(labels.values()), labels=labels, settings=settings, folder=folder)


def _flat(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for name, part in value.items():
            yield from _flat(part, f"{path}.{name}".lstrip("."))
    elif isinstance(value, list) and any(isinstance(part, Mapping | list) for part in value):
        for place, part in enumerate(value):
            yield from _flat(part, f"{path}.{place}")
    else:
        yield path, ", ".join(map(str, value)) if isinstance(value, list) else value


def _keep(store: Store, folder: Path, prefix: str) -> None:
    """Copy the trackers' files into the store; a store that fails here costs them, not the stage."""
    if not folder.is_dir():
        return
    try:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not path.is_symlink():
                store.upload(path, f"{prefix}/{path.relative_to(folder).as_posix()}")
    except StoreError as error:
        log.warning("tracking files are not stored", prefix=prefix, error=str(error))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
