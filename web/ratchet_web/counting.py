"""What every server of ours counts of its requests, whatever the metrics are called. Filled by `body` and `errors`."""

from __future__ import annotations

from typing import Protocol

from prometheus_client import Counter, Histogram


class RequestCounts(Protocol):
    """The part of a server's metrics that is the same everywhere."""

    @property
    def requests(self) -> Counter:
        """Requests, by route and status code."""

    @property
    def seconds(self) -> Histogram:
        """From a request's first byte to its answer, by route."""

    @property
    def refused(self) -> Counter:
        """Refused requests, by a word that says why."""
