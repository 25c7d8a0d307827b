"""Weights & Biases: one run per pod, through its own library."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ratchet_api.tracking import WandbTracking
from ratchet_jobs.runtime.tracking.base import Tracked

_PATIENCE_SECONDS = 20.0


class WandbTracker:
    """Metrics with steps, the settings as config."""

    name = "wandb"
    _run: Any

    def __init__(self, settings: WandbTracking) -> None:
        self._settings = settings

    def start(self, tracked: Tracked) -> None:
        """Open a run; offline ones write below the folder alone."""
        import wandb

        folder = tracked.folder / self.name
        folder.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=self._settings.project,
            entity=self._settings.entity,
            mode=self._settings.mode,
            name=tracked.title,
            config=dict(tracked.settings),
            tags=[tracked.labels["stage"]],
            group=tracked.labels["run"],
            dir=str(folder),
            reinit="create_new",
            # nothing about the machine, its code or its console is sent; only what the stage measures
            settings=wandb.Settings(
                silent=True,
                console="off",
                disable_git=True,
                disable_code=True,
                x_disable_meta=True,
                x_disable_stats=True,
                init_timeout=_PATIENCE_SECONDS,
            ),
        )

    def log(self, step: int, metrics: Mapping[str, float], time_seconds: float) -> None:
        """Hand one step over; the library sends it."""
        self._run.log(dict(metrics), step=step)

    def finish(self, *, succeeded: bool) -> None:
        """Close the run."""
        self._run.finish(exit_code=0 if succeeded else 1)
