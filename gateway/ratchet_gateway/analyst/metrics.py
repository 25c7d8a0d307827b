"""Every metric of the analyst, with its help text; names and labels are API."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 1800)


class AnalystMetrics:
    """What is counted as it happens."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register everything."""
        self.registry = registry
        self.segments = Counter(
            "ratchet_analyst_segments_total", "Segments of the log that were folded.", registry=registry
        )
        self.events = Counter("ratchet_analyst_events_total", "Events in these segments.", registry=registry)
        self.look_seconds = Histogram(
            "ratchet_analyst_look_seconds",
            "Seconds of one look for new segments, reading and folding included.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.failures = Counter(
            "ratchet_analyst_look_failures_total",
            "Looks that the store did not answer; each is repeated.",
            registry=registry,
        )
        self.caught_up = Gauge(
            "ratchet_analyst_caught_up",
            "1 when the whole log was read at least once; before, nothing is answered.",
            registry=registry,
        )
        self.troubled = Gauge(
            "ratchet_analyst_troubled_segments",
            "Segments that cannot be trusted; while there are any, every rollout of the namespace holds.",
            registry=registry,
        )
        self.answers = Counter(
            "ratchet_analyst_answers_total", "Answers about experiments, by status code.", ("code",), registry=registry
        )
