"""Every metric of a server of generators besides those that all servers have; names and labels are API."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
FINISHES = ("stop", "length", "cancelled", "failed")


class GenerationMetrics:
    """What is counted as it happens."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register everything."""
        self.tokens = Counter(
            "ratchet_serving_generated_tokens_total",
            "Tokens of answers; its rate is tokens per second.",
            registry=registry,
        )
        self.prompt_tokens = Counter(
            "ratchet_serving_prompt_tokens_total", "Tokens of prompts that the model has read.", registry=registry
        )
        self.generations = Counter(
            "ratchet_serving_generations_total",
            "Answers by how they ended: stop, length, cancelled (the client left), failed.",
            ("finish",),
            registry=registry,
        )
        self.queued = Gauge(
            "ratchet_serving_queued_requests",
            "Requests that wait for a place beside those being answered.",
            registry=registry,
        )
        self.streams = Gauge("ratchet_serving_streams", "Requests being answered at the moment.", registry=registry)
        self.step_streams = Histogram(
            "ratchet_serving_step_streams",
            "Answers that one pass of the model made longer by a token; empty where vLLM makes them.",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128),
            registry=registry,
        )
        self.step_seconds = Histogram(
            "ratchet_serving_step_seconds",
            "Seconds of such a pass, choosing the tokens included; empty where vLLM makes them.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.first_token_seconds = Histogram(
            "ratchet_serving_first_token_seconds",
            "Seconds from a request to the first token of its answer.",
            buckets=_SECONDS,
            registry=registry,
        )
        for finish in FINISHES:
            self.generations.labels(finish)
