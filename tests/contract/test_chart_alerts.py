"""The chart's alerts about rollouts, on Prometheus' own engine: what fires, when, and what it says."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from ratchet_operator.metrics import Metrics
from tests.contract.chart import SERVING, Object, render
from tests.lab import binaries

MONITORED = (*SERVING, "monitoring.enabled=true", "monitoring.labels.release=prometheus", "crds.enabled=false")
POLICY = {"namespace": "team", "policy": "desk"}


@pytest.fixture(scope="module")
def rule() -> Object:
    return render(*MONITORED).one("PrometheusRule")


def series(name: str, **labels: str) -> str:
    shown = ",".join(f'{key}="{value}"' for key, value in (POLICY | labels).items())
    return f"{name}{{{shown}}}"


def info(state: str, verdict: str) -> str:
    return series("ratchet_policy_info", state=state, champion="1", candidate="2", verdict=verdict)


def judged(rule: Object, folder: Path, values: dict[str, str], alert: str, *, at: str, fires: bool) -> str:
    """Let promtool compare whether the alert fires for the policy at that time; returns what is not as wanted."""
    folder.joinpath("rules.yaml").write_text(yaml.safe_dump(rule["spec"]))
    query = f'count(ALERTS{{alertname="{alert}",alertstate="firing",namespace="team",policy="desk"}})'
    samples = [{"labels": "{}", "value": 1}] if fires else []
    case = {
        "interval": "1m",
        "input_series": [{"series": name, "values": shown} for name, shown in values.items()],
        "promql_expr_test": [{"expr": query, "eval_time": at, "exp_samples": samples}],
    }
    tests: dict[str, Any] = {"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": [case]}
    folder.joinpath("test.yaml").write_text(json.dumps(tests))
    command = ["promtool", "test", "rules", "test.yaml"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=60)
    return "" if done.returncode == 0 else done.stdout + done.stderr


@pytest.fixture(scope="module", autouse=True)
def promtool() -> None:
    binaries.packages()


HELD = {
    # the verdict changes meanwhile, and with it the series: it is held all the same
    info("Holding", "Error"): "1x15 _x30",
    info("Holding", "Inconclusive"): "_x15 1x30",
}
ENDED = "ratchet_rollouts_ended_total"


@pytest.mark.parametrize(
    ("values", "at", "fires"),
    [
        pytest.param(HELD, "32m", True, id="half an hour"),
        pytest.param(HELD, "28m", False, id="not yet half an hour"),
        pytest.param({info("Ramping", "Inconclusive"): "1x60"}, "50m", False, id="it goes on"),
        pytest.param({info("Holding", "Error"): "1x20 stale 1x40"}, "44m", False, id="it went on in between"),
    ],
)
def test_a_rollout_that_is_held_for_half_an_hour_fires(
    rule: Object, tmp_path: Path, values: dict[str, str], at: str, fires: bool
) -> None:
    assert not judged(rule, tmp_path, values, "RatchetRolloutHeld", at=at, fires=fires)


@pytest.mark.parametrize(
    ("result", "at", "fires"),
    [("RolledBack", "8m", True), ("RolledBack", "70m", False), ("Promoted", "8m", False), ("Aborted", "8m", False)],
)
def test_the_first_rollback_of_a_policy_fires_for_an_hour_and_no_other_end_does(
    rule: Object, tmp_path: Path, result: str, at: str, fires: bool
) -> None:
    values = {series(ENDED, result=result): "0x5 1x120"}
    assert not judged(rule, tmp_path, values, "RatchetRolledBack", at=at, fires=fires)


def test_alerts_name_series_of_the_operator_and_the_policy_in_question(rule: Object) -> None:
    registry = CollectorRegistry()
    Metrics(registry, version="", now=lambda: 0.0)
    names = {f"{each.name}_total" if each.type == "counter" else each.name for each in registry.collect()}
    (group,) = rule["spec"]["groups"]
    assert len(group["rules"]) == 2
    for each in group["rules"]:
        assert any(name in each["expr"] for name in names), each["expr"]
        for text in each["annotations"].values():
            assert "{{ $labels.policy }}" in text
            assert "{{ $labels.namespace }}" in text
    assert rule["metadata"]["labels"]["release"] == "prometheus"


def test_there_are_none_where_nothing_is_served() -> None:
    assert not render("monitoring.enabled=true", "crds.enabled=false").all("PrometheusRule")
    assert not render(*SERVING, "crds.enabled=false").all("PrometheusRule")
