"""`make generate` and its check: everything that follows from code, in one go.

CRDs, chart README, API reference and reasons come from `ratchet_api.crdgen`; this adds the page of metrics, whose
sources the vocabulary may not import. Run as `python -m tests.tools.generate [--check]`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.metrics_core import Metric

from ratchet_api import crdgen
from ratchet_gateway.analyst.metrics import AnalystMetrics
from ratchet_gateway.log.writer import WriterStats
from ratchet_gateway.metrics import GatewayMetrics, WriterCollector
from ratchet_jobs.runtime.progress import StageMetrics
from ratchet_operator.metrics import Metrics
from ratchet_serving.generation.metrics import GenerationMetrics
from ratchet_serving.metrics import ServingMetrics

_PAGE = """# Metrics

<!-- Generated from the code by `make generate`. Do not edit. -->

All names start with `ratchet_`. Names and labels are part of the API: a change stands in the changelog.

## Of the operator
Port 9400, `/metrics`; the chart's `monitoring.enabled` makes a ServiceMonitor. Memory and CPU of its process stand
beside them as `process_…`. The series of a run go when the run goes.

| metric | type | labels | meaning |
| --- | --- | --- | --- |
{operator}

## Of a stage's pod
Port 9402 (`progress`), `/metrics`, as long as the pod runs; the chart makes a PodMonitor. `/progress` on the same port
gives step, steps, loss and seconds left as JSON.

| metric | type | labels | meaning |
| --- | --- | --- | --- |
{stage}

## Of the gateway
On the port of its API, `/metrics`, without a token.

| metric | type | labels | meaning |
| --- | --- | --- | --- |
{gateway}

## Of the analyst
On the port of its answers, `/metrics`, without a token.

| metric | type | labels | meaning |
| --- | --- | --- | --- |
{analyst}

## Of the policy server
On the port of its API, `/metrics`. Those about tokens, streams and generations are of generators alone.

| metric | type | labels | meaning |
| --- | --- | --- | --- |
{serving}
"""


def metrics_page() -> str:
    """Return docs/reference/metrics.md."""
    operator, stage = CollectorRegistry(), StageMetrics(namespace="", run="", stage="").registry
    Metrics(operator, version="", now=lambda: 0.0)
    gateway = CollectorRegistry()
    GatewayMetrics(gateway)
    gateway.register(WriterCollector(WriterStats()))
    serving = ServingMetrics(CollectorRegistry()).registry
    GenerationMetrics(serving)
    analyst = AnalystMetrics(CollectorRegistry()).registry
    pages = {"operator": operator, "stage": stage, "gateway": gateway, "analyst": analyst, "serving": serving}
    return _PAGE.format(**{name: "\n".join(_rows(registry)) for name, registry in pages.items()})


def _rows(registry: CollectorRegistry) -> Iterator[str]:
    labels = _labels(registry)
    for family in sorted(registry.collect(), key=_name):
        shown = ", ".join(f"`{label}`" for label in _labels_of(family, labels))
        yield f"| `{_name(family)}` | {family.type} | {shown} | {_sentence(family)} |"


def _labels_of(family: Metric, known: Mapping[str, tuple[str, ...]]) -> Sequence[str]:
    return known.get(family.name) or getattr(family, "_labelnames", None) or ()


def _name(family: Metric) -> str:
    return f"{family.name}_total" if family.type == "counter" else family.name


def _labels(registry: CollectorRegistry) -> dict[str, tuple[str, ...]]:
    # The library shows labels only on samples, and a fresh registry has none.
    collectors: Mapping[Any, list[str]] = getattr(registry, "_collector_to_names", {})
    return {c._name: tuple(c._labelnames) for c in collectors if isinstance(c, MetricWrapperBase)}


def _sentence(family: Metric) -> str:
    return family.documentation.replace("|", "\\|")


def main() -> int:
    """Entry point."""
    arguments = crdgen.parser("Generate CRDs, chart README and reference pages.").parse_args()
    files = {**crdgen.outputs(arguments.root), "docs/reference/metrics.md": metrics_page()}
    return crdgen.run(files, arguments.root, check=arguments.check)


if __name__ == "__main__":
    sys.exit(main())
