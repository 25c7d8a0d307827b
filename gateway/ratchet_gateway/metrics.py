"""Every metric of the gateway, with its help text; names and labels are API.

Decides names, labels and buckets. Never a label with a value that a caller chooses freely: policies are known ones,
types and reasons are closed lists. Filled by the routes and from the writer's own counts.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ratchet_gateway.log.writer import WriterStats

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2.5, 5, 10, 30)


class GatewayMetrics:
    """What is counted as it happens."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register everything."""
        self.registry = registry
        self.requests = Counter(
            "ratchet_gateway_requests_total",
            "Requests by route and status code.",
            ("route", "code"),
            registry=registry,
        )
        self.seconds = Histogram(
            "ratchet_gateway_request_seconds",
            "Seconds from a request's first byte to its answer.",
            ("route",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.events = Counter(
            "ratchet_gateway_events_total",
            "Acknowledged events by policy and type; retries of stored events are not counted.",
            ("policy", "type"),
            registry=registry,
        )
        self.duplicates = Counter(
            "ratchet_gateway_duplicates_total",
            "Events that were stored before and were not stored again.",
            registry=registry,
        )
        self.refused = Counter(
            "ratchet_gateway_refused_total",
            "Requests refused, by reason: malformed, samples, token, role, policy, conflict, rate, size, origin, "
            "unavailable.",
            ("reason",),
            registry=registry,
        )
        self.commit_seconds = Histogram(
            "ratchet_gateway_commit_seconds",
            "Seconds from sealing a segment to its confirmation by the store, retries included.",
            buckets=_SECONDS,
            registry=registry,
        )


class WriterCollector(Collector):
    """The log writer's counts, read when they are asked for."""

    def __init__(self, stats: WriterStats) -> None:
        """Name them."""
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        """Yield one family per count."""
        stats = self._stats
        yield CounterMetricFamily("ratchet_gateway_segments", "Segments in the store.", value=stats.segments)
        yield CounterMetricFamily(
            "ratchet_gateway_stored_bytes", "Bytes of these segments, compressed.", value=stats.stored_bytes
        )
        yield CounterMetricFamily(
            "ratchet_gateway_store_failures",
            "Writes that the store did not confirm; each is repeated.",
            value=stats.failures,
        )
        yield CounterMetricFamily(
            "ratchet_gateway_segment_collisions",
            "Segments whose name somebody else had taken; never in a healthy store.",
            value=stats.collisions,
        )
        yield GaugeMetricFamily(
            "ratchet_gateway_queued_bytes", "Events waiting for the store, in bytes.", value=stats.queued_bytes
        )
        yield GaugeMetricFamily(
            "ratchet_gateway_store_failing",
            "1 while the last write was not confirmed.",
            value=float(bool(stats.failing)),
        )
