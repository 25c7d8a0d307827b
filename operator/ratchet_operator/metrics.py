"""Every metric of the operator: name, help, labels, and the only code that sets it.

Names are API: renaming one is a changelog entry. Labels are bounded: kinds, results, reasons and conditions come
from closed lists, and the series of one object go when it goes. Decides nothing. `Metrics` is made once by
`__main__` (or by a test, with a registry of its own) and handed to whoever observes something.
"""

from __future__ import annotations

import asyncio
import platform
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from ratchet_operator.cluster.protocol import ClusterError

RunKey = tuple[str, str]
"""Namespace and name of a run."""

_PASS_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_STAGE_SECONDS = (10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 4 * 3600.0, 24 * 3600.0)


def _stage_metrics(registry: CollectorRegistry) -> tuple[Histogram, Counter]:
    """What is known of stages only when one ends: how long it took, and each new attempt."""
    seconds = Histogram(
        "ratchet_stage_duration_seconds", "Active time of ended stages, all attempts together.",
        ["stage", "state"], buckets=_STAGE_SECONDS, registry=registry,
    )  # fmt: skip
    retries = Counter(
        "ratchet_stage_retries_total", "New attempts at a stage, by stage and reason of the last exit.",
        ["stage", "reason"], registry=registry,
    )  # fmt: skip
    return seconds, retries


def _rollout_metric(registry: CollectorRegistry) -> Counter:
    """What is known of a trial only when it ends."""
    return Counter(
        "ratchet_rollouts_ended_total",
        "Trials that ended since this operator started, by result: Promoted, RolledBack, or Aborted by somebody.",
        ["namespace", "policy", "result"],
        registry=registry,
    )


class Metrics:
    """The operator's metrics in one registry.

    Args:
        registry: where they are registered.
        version: of the operator, for build info.
        now: seconds of a monotonic clock, for ages.
    """

    def __init__(self, registry: CollectorRegistry, *, version: str, now: Callable[[], float]) -> None:
        self._now = now
        self._last_event: dict[str, float] = {}
        self._run_facts: dict[RunKey, Mapping[str, Any]] = {}
        self._policy_facts: dict[RunKey, Mapping[str, Any]] = {}

        self.build_info = Gauge(
            "ratchet_build_info", "Constant 1, labelled with the versions.", ["version", "python"], registry=registry
        )
        self.build_info.labels(version=version, python=platform.python_version()).set(1)
        self.reconcile_total = Counter(
            "ratchet_reconcile_total", "Passes ended, by kind and result.", ["kind", "result"], registry=registry
        )
        self.reconcile_seconds = Histogram(
            "ratchet_reconcile_duration_seconds", "Time of one pass.", ["kind"], buckets=_PASS_SECONDS,
            registry=registry,
        )  # fmt: skip
        self.queue_wait_seconds = Histogram(
            "ratchet_queue_wait_seconds", "Time a key waited for a worker.", buckets=_PASS_SECONDS, registry=registry
        )
        self.queue_depth = Gauge("ratchet_queue_depth", "Keys that wait for a worker.", registry=registry)
        self.queue_in_work = Gauge("ratchet_queue_in_work", "Keys whose pass runs now.", registry=registry)
        self.queue_oldest_seconds = Gauge(
            "ratchet_queue_oldest_wait_seconds", "How long the first waiting key has waited.", registry=registry
        )
        self.api_calls = Counter(
            "ratchet_api_requests_total", "Requests to the API server, by verb, resource and status code.",
            ["verb", "resource", "code"], registry=registry,
        )  # fmt: skip
        self.api_seconds = Histogram(
            "ratchet_api_request_duration_seconds", "Time of one request to the API server.", ["verb", "resource"],
            buckets=_PASS_SECONDS, registry=registry,
        )  # fmt: skip
        self.watch_events = Counter(
            "ratchet_watch_events_total", "Events received from watches, by resource.", ["resource"], registry=registry
        )
        self.loop_lag_seconds = Gauge(
            "ratchet_event_loop_lag_seconds", "How late the event loop ran its last check; high when something blocks.",
            registry=registry,
        )  # fmt: skip
        self.heartbeat_age_seconds = Gauge(
            "ratchet_heartbeat_age_seconds", "Time since a heartbeat that was written came back on the watch.",
            registry=registry,
        )  # fmt: skip
        self.resync_total = Counter(
            "ratchet_resync_total", "Walks over all objects, by result.", ["result"], registry=registry
        )
        self.stage_seconds, self.stage_retries = _stage_metrics(registry)
        self.rollouts_ended = _rollout_metric(registry)
        registry.register(_Live(self))

    def api_call(self, verb: str, resource: str, code: str, seconds: float) -> None:
        """Count one request (the `on_call` of HttpCluster)."""
        self.api_calls.labels(verb=verb, resource=resource, code=code).inc()
        self.api_seconds.labels(verb=verb, resource=resource).observe(seconds)

    def watch_event(self, resource: str) -> None:
        """Note that the watch of a resource delivered something."""
        self.watch_events.labels(resource=resource).inc()
        self._last_event[resource] = self._now()

    def pass_ended(self, kind: str, *, waited: float, took: float, error: Exception | None) -> None:
        """Count one pass of the queue."""
        self.reconcile_total.labels(kind=kind, result=result_of(error)).inc()
        self.reconcile_seconds.labels(kind=kind).observe(took)
        self.queue_wait_seconds.observe(waited)

    def depth(self, *, waiting: int, in_work: int) -> None:
        """Set the queue's depths."""
        self.queue_depth.set(waiting)
        self.queue_in_work.set(in_work)

    def run_seen(self, obj: Mapping[str, Any]) -> None:
        """Take a run's newest state from the watch; counts stage ends and retries against what was known before."""
        metadata = obj["metadata"]
        key = (metadata["namespace"], metadata["name"])
        known = self._run_facts.get(key)
        facts = run_facts(obj)
        self._run_facts[key] = facts
        if known is None or known["uid"] != facts["uid"]:
            return  # the past of a run that was there before us is not counted again
        for stage, new in facts["stages"].items():
            old = known["stages"].get(stage, {})
            if new["attempt"] > max(old.get("attempt", 1), 1):
                self.stage_retries.labels(stage=stage, reason=new["exit"] or "Unknown").inc()
            if new["seconds"] is not None and old.get("seconds") is None:
                self.stage_seconds.labels(stage=stage, state=new["state"]).observe(new["seconds"])

    def run_gone(self, namespace: str, name: str) -> None:
        """Drop every series of a run that no longer exists."""
        self._run_facts.pop((namespace, name), None)

    def policy_seen(self, obj: Mapping[str, Any]) -> None:
        """Take a policy's newest state from the watch; counts a trial that ended against what was known before."""
        metadata = obj["metadata"]
        key = (metadata["namespace"], metadata["name"])
        known, facts = self._policy_facts.get(key), policy_facts(obj)
        self._policy_facts[key] = facts
        if facts["tried"]:
            for result in _RESULTS:  # from 0 on, since the first rise of a series that was not there is none
                self.rollouts_ended.labels(*key, result)
        if known is not None and known["uid"] == facts["uid"] and (result := _ended(known, facts)):
            self.rollouts_ended.labels(*key, result).inc()

    def policy_gone(self, namespace: str, name: str) -> None:
        """Drop every series of a policy that no longer exists."""
        gone = self._policy_facts.pop((namespace, name), None)
        for result in _RESULTS if gone is not None and gone["tried"] else ():
            self.rollouts_ended.remove(namespace, name, result)

    def runs_known(self) -> Iterable[RunKey]:
        """The runs that have series."""
        return tuple(self._run_facts)

    def families(self) -> Iterator[GaugeMetricFamily]:
        """The metrics that are computed when somebody asks for them."""
        now = self._now()
        age = GaugeMetricFamily(
            "ratchet_watch_last_event_age_seconds", "Time since the last event of a watch.", labels=["resource"]
        )
        for resource, at in sorted(self._last_event.items()):
            age.add_metric([resource], max(0.0, now - at))
        yield age
        states = GaugeMetricFamily("ratchet_runs", "Runs by state.", labels=["state"])
        condition = GaugeMetricFamily(
            "ratchet_run_condition",
            "1 when the condition of a run is True, 0 when False; absent when Unknown.",
            labels=["namespace", "run", "condition"],
        )
        info = GaugeMetricFamily(
            "ratchet_run_info",
            "Constant 1 per run, labelled with what it trains on and where it stands.",
            labels=["namespace", "run", "dataset", "state", "stage"],
        )
        for (namespace, name), facts in sorted(self._run_facts.items()):
            info.add_metric([namespace, name, facts["dataset"], facts["state"], facts["stage"]], 1)
            for kind, value in facts["conditions"].items():
                condition.add_metric([namespace, name, kind], value)
        for state, count in sorted(Tally(facts["state"] for facts in self._run_facts.values()).items()):
            states.add_metric([state], count)
        yield from (states, condition, info)
        yield from _rollouts(self._policy_facts)


def _rollouts(policies: Mapping[RunKey, Mapping[str, Any]]) -> Iterator[GaugeMetricFamily]:
    """Where each policy stands; the numbers of a trial only while there is one."""
    names = ["namespace", "policy"]
    info = GaugeMetricFamily(
        "ratchet_policy_info",
        "Constant 1 per policy, labelled with its state, its champion, the version on trial and the verdict on it.",
        labels=[*names, "state", "champion", "candidate", "verdict"],
    )
    numbers = {
        "percent": GaugeMetricFamily(
            "ratchet_rollout_percent", "Share of the subjects that get the version on trial.", labels=names
        ),
        "samples": GaugeMetricFamily(
            "ratchet_rollout_samples", "Subjects of both arms whose feedback counts.", labels=names
        ),
        "needed": GaugeMetricFamily(
            "ratchet_rollout_needed_samples",
            "How many more a decision takes; absent when nobody can say.",
            labels=names,
        ),
    }
    for key, facts in sorted(policies.items()):
        info.add_metric([*key, facts["state"], facts["champion"], facts["candidate"], facts["verdict"]], 1)
        for name, family in numbers.items():
            if facts["candidate"] and facts[name] is not None:
                family.add_metric(list(key), facts[name])
    yield from (info, *numbers.values())


class _Live(Collector):
    """Asks `Metrics` for its computed families at each scrape."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[GaugeMetricFamily]:
        return self._metrics.families()


def result_of(error: Exception | None) -> str:
    """Name a pass's end from a closed list: ok, conflict, unavailable, rejected, timeout, bug."""
    if error is None:
        return "ok"
    if isinstance(error, TimeoutError):
        return "timeout"
    if isinstance(error, ClusterError):
        name = type(error).__name__.lower()
        return name if name in {"conflict", "unavailable"} else "rejected"
    return "bug"


def run_facts(obj: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what the metrics need of a run, tolerating any status an older version may have written."""
    status = _dict(obj.get("status"))
    conditions, stages = status.get("conditions"), status.get("stages")
    return {
        "uid": obj["metadata"].get("uid"),
        "dataset": str(_dict(_dict(obj.get("spec")).get("datasetRef")).get("name", "")),
        "state": str(status.get("state") or "Pending")[:32],
        "stage": str(status.get("stage") or "")[:32],
        "conditions": {
            str(item.get("type"))[:64]: 1 if item.get("status") == "True" else 0
            for item in (conditions if isinstance(conditions, list) else ())
            if isinstance(item, dict) and item.get("status") in {"True", "False"}
        },
        "stages": {
            str(item.get("name")): _stage_facts(item)
            for item in (stages if isinstance(stages, list) else ())
            if isinstance(item, dict)
        },
    }


def policy_facts(obj: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what the metrics need of a policy, tolerating any status an older version may have written."""
    status = _dict(obj.get("status"))
    rollout = _dict(status.get("rollout"))
    verdict = _dict(rollout.get("verdict"))
    counts = {"percent": rollout.get("percent"), "samples": verdict.get("samples"), "needed": verdict.get("needed")}
    rows = rollout.get("history")
    last = _dict(rows[-1]) if isinstance(rows, list) and rows else {}
    return {
        "uid": obj["metadata"].get("uid"),
        "tried": bool(rollout.get("experiments")),
        "row": last.get("number"),
        "by": last.get("by"),
        "command": rollout.get("observedCommand"),
        "wanted": _dict(obj.get("spec")).get("rollout") is not None,
        "state": str(status.get("state") or "Pending")[:32],
        "champion": _number(status.get("champion")),
        "candidate": _number(rollout.get("candidate")),
        "verdict": str(verdict.get("outcome") or "")[:16] if rollout.get("candidate") else "",
        **{name: count if isinstance(count, int | float) else None for name, count in counts.items()},
    }


_RESULTS = ("Promoted", "RolledBack", "Aborted")


def _ended(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What became of the trial that there was before; empty while it goes on, or if there was none.

    A trial that somebody got leaves a row that says who ended it. One that nobody got was ended by a person if it was
    asked for: by a command, another champion, or a spec without rollout.
    """
    if not before["candidate"] or now["candidate"] == before["candidate"]:
        return ""
    if now["champion"] == before["candidate"]:
        return "Promoted"
    if now["row"] != before["row"]:
        return "Aborted" if now["by"] == "user" else "RolledBack"
    asked = (now["command"], now["champion"]) != (before["command"], before["champion"]) or not now["wanted"]
    return "Aborted" if asked else "RolledBack"


def _number(value: object) -> str:
    return str(value) if isinstance(value, int) else ""


def _stage_facts(item: Mapping[str, Any]) -> Mapping[str, Any]:
    attempt = _dict(item.get("attempt"))
    number = attempt.get("number", 0)
    return {
        "state": str(item.get("state", ""))[:32],
        "attempt": number if isinstance(number, int) else 0,
        "exit": str(_dict(attempt.get("lastExit")).get("reason", ""))[:64],
        "seconds": _active_seconds(attempt, item.get("finished")),
    }


def _active_seconds(attempt: Mapping[str, Any], finished: object) -> float | None:
    """Return the seconds of the last attempt and those before it, or None if the stage has not run and ended."""
    started, before = attempt.get("started"), attempt.get("activeSeconds", 0)
    if not isinstance(started, str) or not isinstance(finished, str) or not isinstance(before, int):
        return None
    try:
        return before + (datetime.fromisoformat(finished) - datetime.fromisoformat(started)).total_seconds()
    except (TypeError, ValueError):
        return None


def _dict(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


async def measure_loop_lag(metrics: Metrics, *, every_seconds: float = 5.0) -> None:
    """Record for ever how late the loop wakes this task."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + every_seconds
        await asyncio.sleep(every_seconds)
        metrics.loop_lag_seconds.set(max(0.0, loop.time() - due))
