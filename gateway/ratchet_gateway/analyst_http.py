"""Asks the namespace's analyst over HTTP, and says in words what came instead of an answer.

Decides how long and how much is waited for. No credential of ours travels here. Called by `experiments`.
"""

from __future__ import annotations

import asyncio

import urllib3
from pydantic import ValidationError

from ratchet_api.evidence import ExperimentSeries
from ratchet_gateway.experiments import Silent

_MAX_BYTES = 1 << 20
_TIMEOUT = urllib3.Timeout(connect=2, read=5)


class HttpAnalyst:
    """The analyst at an address.

    Args:
        url: without a slash at its end.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._http = urllib3.PoolManager(timeout=_TIMEOUT, retries=False)

    async def series(self, policy: str, experiment: str) -> ExperimentSeries:
        """Return what is known of an experiment, and how it came about."""
        return await asyncio.to_thread(self._series, policy, experiment)

    def _series(self, policy: str, experiment: str) -> ExperimentSeries:
        path = f"/v1/policies/{policy}/experiments/{experiment}/series"
        try:
            answer = self._http.request("GET", self._url + path, redirect=False, preload_content=False)
            try:
                body = answer.read(_MAX_BYTES + 1)
            finally:
                answer.close()
        except urllib3.exceptions.HTTPError as error:
            why = type(error).__name__
            raise Silent(f"the analyst at {self._url} does not answer ({why}); its counts come back with it") from error
        if answer.status == 503:
            raise Silent(f"the analyst at {self._url} reads the log; what is counted is shown when it has read it all")
        if answer.status != 200 or len(body) > _MAX_BYTES:
            raise Silent(f"the analyst at {self._url} answers {answer.status}; is it one, and of this version?")
        try:
            return ExperimentSeries.model_validate_json(body)
        except ValidationError as error:
            raise Silent(f"the analyst at {self._url} gives no counts; is it one, and of this version?") from error
