"""Every metric of the policy server, with its help text; names and labels are API.

Decides names, labels and buckets. Never a label with a value that a caller chooses freely: routes and reasons are
closed lists, tasks are the policy's own.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class ServingMetrics:
    """What is counted as it happens."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register everything."""
        self.registry = registry
        self.info = Gauge(
            "ratchet_serving_info",
            "1, with the policy, version and digest that this server answers with.",
            ("policy", "version", "digest"),
            registry=registry,
        )
        self.requests = Counter(
            "ratchet_serving_requests_total",
            "Requests by route and status code.",
            ("route", "code"),
            registry=registry,
        )
        self.seconds = Histogram(
            "ratchet_serving_request_seconds",
            "Seconds from a request's first byte to its answer.",
            ("route",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.refused = Counter(
            "ratchet_serving_refused_total",
            "Requests refused, by reason: malformed, size, unknown, busy, leaving, engine, numbers.",
            ("reason",),
            registry=registry,
        )
        self.queued = Gauge("ratchet_serving_queued_texts", "Texts that wait for the model.", registry=registry)
        self.batch_texts = Histogram(
            "ratchet_serving_batch_texts",
            "Texts that the model answered at once.",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
            registry=registry,
        )
        self.batch_seconds = Histogram(
            "ratchet_serving_batch_seconds",
            "Seconds of one batch, tokenising included.",
            buckets=_SECONDS,
            registry=registry,
        )
        self._of_answers(registry)

    def _of_answers(self, registry: CollectorRegistry) -> None:
        """Register what is counted once a text is answered."""
        self.answers = Counter(
            "ratchet_serving_answers_total",
            "Answers by task (empty = the only one) and whether the policy abstained.",
            ("task", "abstain"),
            registry=registry,
        )
        self.records = Counter(
            "ratchet_serving_records_total",
            "Records of answers, by what became of them: stored by the gateway, or dropped. A dropped record makes the "
            "verdict on a rollout hold.",
            ("outcome",),
            registry=registry,
        )
        self.records_waiting = Gauge(
            "ratchet_serving_records_waiting", "Records that wait for the gateway.", registry=registry
        )
        for outcome in ("stored", "dropped"):
            self.records.labels(outcome)
