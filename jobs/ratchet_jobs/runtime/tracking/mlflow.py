"""MLflow: one run per pod, through its client; nothing of its global state is used."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ratchet_api.tracking import MlflowTracking
from ratchet_jobs.runtime.tracking.base import Tracked

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_PARAMS_AT_ONCE = 100
_PARAM_LENGTH = 6000
"""Both limits are the server's."""
_PATIENCE = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
"""Where the image says nothing else: its own defaults try for minutes."""


class MlflowTracker:
    """Metrics with steps, the settings as params, the object's names as tags."""

    name = "mlflow"
    _client: MlflowClient
    _run: str

    def __init__(self, settings: MlflowTracking) -> None:
        self._settings = settings

    def start(self, tracked: Tracked) -> None:
        """Find or make the experiment and open a run in it."""
        for variable, value in _PATIENCE.items():
            os.environ.setdefault(variable, value)
        from mlflow.entities import Param
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient(tracking_uri=self._settings.uri)
        found = self._client.get_experiment_by_name(self._settings.experiment)
        experiment = found.experiment_id if found else self._client.create_experiment(self._settings.experiment)
        tags = {f"ratchet.{name}": value for name, value in tracked.labels.items()}
        self._run = self._client.create_run(experiment, run_name=tracked.title, tags=tags).info.run_id
        params = [Param(name, str(value)[:_PARAM_LENGTH]) for name, value in tracked.settings.items()]
        for start in range(0, len(params), _PARAMS_AT_ONCE):
            self._client.log_batch(self._run, params=params[start : start + _PARAMS_AT_ONCE])

    def log(self, step: int, metrics: Mapping[str, float], time_seconds: float) -> None:
        """Send one batch."""
        from mlflow.entities import Metric

        stamp = round(1000 * time_seconds)
        self._client.log_batch(self._run, metrics=[Metric(name, v, stamp, step) for name, v in metrics.items()])

    def finish(self, *, succeeded: bool) -> None:
        """Say how the run ended."""
        self._client.set_terminated(self._run, status="FINISHED" if succeeded else "FAILED")
