"""What surrounds the reconcile core: health, heartbeat, index, resync, metrics and logs, without a cluster."""

from __future__ import annotations

import ast
import asyncio
import io
import json
import logging
import random
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog
from prometheus_client import CollectorRegistry, generate_latest

import ratchet_operator
from ratchet_operator import logs
from ratchet_operator.cluster.protocol import Conflict, Denied, KubeObject, Resource, Unavailable
from ratchet_operator.cluster.refusals import classify
from ratchet_operator.controllers.heartbeat import EVERY_SECONDS, LIMIT_SECONDS, Heartbeat
from ratchet_operator.controllers.index import Index
from ratchet_operator.controllers.resync import Resync
from ratchet_operator.controllers.watching import ERROR_BACKOFFS, Watching, make_settings
from ratchet_operator.health import Health, guard
from ratchet_operator.metrics import Metrics, result_of
from ratchet_operator.queue import KeyedQueue
from ratchet_operator.sightings import Sightings
from ratchet_operator.wakes import Key
from tests.unit.virtual_time import run_virtual

SOURCES = sorted(Path(ratchet_operator.__file__).parent.rglob("*.py"))


def run(name: str, *, uid: str = "u1", dataset: str = "d", policy: str | None = None, **status: Any) -> KubeObject:
    spec: dict[str, Any] = {"datasetRef": {"name": dataset}}
    if policy:
        spec["publishTo"] = {"name": policy}
    obj = {"metadata": {"namespace": "ns", "name": name, "uid": uid, "generation": 1}, "spec": spec}
    return obj | ({"status": status} if status else {})


def dataset(name: str, *, uid: str = "d1", digest: str = "", state: str = "", generation: int = 1) -> KubeObject:
    status = {"snapshot": {"digest": digest}, "state": state}
    return {"metadata": {"namespace": "ns", "name": name, "uid": uid, "generation": generation}, "status": status}


def key(plural: str, name: str) -> Key:
    return Key(plural, "ns", name)


def metrics() -> Metrics:
    return Metrics(CollectorRegistry(), version="test", now=lambda: 0.0)


# health and heartbeat


async def loop_health() -> Health:
    return Health(now=asyncio.get_running_loop().time, limit_seconds=LIMIT_SECONDS)


def test_a_dead_watch_turns_the_probe_red_and_ends_the_process_within_four_minutes() -> None:
    """P1, P2."""

    async def script() -> tuple[float, float]:
        health = await loop_health()
        ended = asyncio.get_running_loop().create_future()
        stored: list[KubeObject] = []

        async def store(manifest: KubeObject) -> KubeObject:
            stored.append(manifest)
            if len(stored) <= 3:  # the watch dies after the third beat
                heart.saw(manifest)
            return manifest

        heart = Heartbeat(store, health, namespace="ns", holder="me")
        tasks = [
            asyncio.create_task(heart.run()),
            asyncio.create_task(guard(health, every_seconds=5.0, end=ended.set_result)),
        ]
        died = 2 * EVERY_SECONDS  # the moment of the last beat that was seen
        red = 0.0
        while not ended.done():
            await asyncio.sleep(1)
            if health.sick() and not red:
                red = asyncio.get_running_loop().time() - died
        end = asyncio.get_running_loop().time() - died
        for task in tasks:
            task.cancel()
        return red, end

    red, end = run_virtual(script())
    assert 0 < red < end < 240


def test_an_api_server_that_refuses_the_heartbeat_never_looks_like_a_dead_watch() -> None:
    """P3: an outage is ridden out."""

    async def script() -> Health:
        health = await loop_health()

        async def refuse(_: KubeObject) -> KubeObject:
            raise Unavailable("down")

        beating = asyncio.create_task(Heartbeat(refuse, health, namespace="ns", holder="me").run())
        await asyncio.sleep(3600)
        beating.cancel()
        return health

    health = run_virtual(script())
    assert health.sick() is None
    assert health.must_exit() is None


def test_a_beat_stored_just_before_an_outage_does_not_end_the_process_during_it_but_counts_after_it() -> None:
    """P1, P3."""

    async def script() -> tuple[bool, bool]:
        health = await loop_health()
        outage = False

        async def store(manifest: KubeObject) -> KubeObject:
            if outage:
                raise Unavailable("down")
            return manifest

        beating = asyncio.create_task(Heartbeat(store, health, namespace="ns", holder="me").run())
        await asyncio.sleep(1)
        outage = True
        sick_in_outage = False
        for _ in range(600):
            await asyncio.sleep(1)
            sick_in_outage |= health.sick() is not None
        outage = False
        await asyncio.sleep(LIMIT_SECONDS + EVERY_SECONDS)  # the watch never comes back
        beating.cancel()
        return sick_in_outage, health.must_exit() is not None

    assert run_virtual(script()) == (False, True)


def test_a_late_old_beat_or_somebody_elses_does_not_hide_a_dead_watch() -> None:
    async def script() -> list[bool]:
        health = await loop_health()
        beats: list[KubeObject] = []

        async def store(manifest: KubeObject) -> KubeObject:
            beats.append(manifest)
            return manifest

        heart = Heartbeat(store, health, namespace="ns", holder="me")
        await heart.beat()
        heart.saw(beats[0])
        await heart.beat()
        seen = []
        for shown in (beats[0], beats[1] | {"spec": beats[1]["spec"] | {"holderIdentity": "other"}}, beats[1]):
            heart.saw(shown)
            seen.append(health.unseen_since is None)
        return seen

    assert run_virtual(script()) == [False, False, True]


def test_a_beat_that_the_watch_shows_before_the_write_is_answered_counts() -> None:
    async def script() -> bool:
        health = await loop_health()

        async def store(manifest: KubeObject) -> KubeObject:
            heart.saw(manifest)
            return manifest

        heart = Heartbeat(store, health, namespace="ns", holder="me")
        await heart.beat()
        return health.unseen_since is None

    assert run_virtual(script())


def test_readiness_needs_the_first_list_and_the_first_heartbeat_and_ends_with_the_stop() -> None:
    health = Health(now=lambda: 0.0, limit_seconds=1)
    assert health.unready() == "the objects have not been listed yet"
    health.listed = True
    assert health.unready() == "the first heartbeat has not come back yet"
    health.beat_seen()
    assert health.unready() is None
    health.watches_died("watcher for pods: boom")
    assert health.unready() == health.sick() == "nothing is watched any more: watcher for pods: boom"
    health.stopping = True
    assert health.unready() == "stopping"


def test_kopf_repeats_a_failing_request_for_about_ten_minutes() -> None:
    """P3."""
    assert 590 <= sum(ERROR_BACKOFFS) <= 630
    settings = make_settings()
    assert settings.watching.client_timeout > settings.watching.server_timeout
    assert settings.posting.enabled is False


# who is woken


class Marks:
    def __init__(self) -> None:
        self.keys: list[Key] = []

    def __call__(self, marked: Key) -> None:
        self.keys.append(marked)

    def take(self) -> set[Key]:
        taken = set(self.keys)
        self.keys.clear()
        return taken


@pytest.fixture
def marks() -> Marks:
    return Marks()


@pytest.fixture
def watching(marks: Marks) -> Watching:
    return Watching(mark=marks, index=Index(), metrics=metrics(), saw_lease=lambda _: None)


def test_a_new_snapshot_wakes_the_runs_and_policies_that_name_the_dataset_and_no_others(
    watching: Watching, marks: Marks
) -> None:
    watching.kind_event("rltrainingruns", None, run("a"))
    watching.kind_event("rltrainingruns", None, run("b", uid="u2", dataset="other"))
    policy = {
        "metadata": {"namespace": "ns", "name": "p", "uid": "p1"},
        "spec": {"training": {"template": {"datasetRef": {"name": "d"}}}},
    }
    watching.kind_event("rlpolicies", None, policy)
    marks.take()
    watching.kind_event("feedbackdatasets", "MODIFIED", dataset("d", digest="1"))
    assert marks.take() == {key("feedbackdatasets", "d"), key("rltrainingruns", "a"), key("rlpolicies", "p")}


def test_a_datasets_progress_wakes_only_itself(watching: Watching, marks: Marks) -> None:
    watching.kind_event("rltrainingruns", None, run("a"))
    watching.kind_event("feedbackdatasets", None, dataset("d", digest="1", state="Running"))
    marks.take()
    watching.kind_event("feedbackdatasets", "MODIFIED", dataset("d", digest="1", state="Ready"))
    assert marks.take() == {key("feedbackdatasets", "d")}


def test_a_deleted_dataset_wakes_the_runs_that_name_it(watching: Watching, marks: Marks) -> None:
    watching.kind_event("rltrainingruns", None, run("a"))
    watching.kind_event("feedbackdatasets", None, dataset("d"))
    marks.take()
    watching.kind_event("feedbackdatasets", "DELETED", dataset("d"))
    assert key("rltrainingruns", "a") in marks.take()


def test_a_run_that_stops_naming_a_dataset_is_not_woken_by_it(watching: Watching, marks: Marks) -> None:
    watching.kind_event("rltrainingruns", None, run("a"))
    watching.kind_event("rltrainingruns", "MODIFIED", run("a", dataset="other"))
    marks.take()
    watching.kind_event("feedbackdatasets", "ADDED", dataset("d"))
    assert marks.take() == {key("feedbackdatasets", "d")}


def test_the_deletion_of_a_former_object_does_not_forget_its_successor() -> None:
    index = Index()
    index.update(key("rltrainingruns", "a"), run("a", uid="new"))
    assert not index.remove(key("rltrainingruns", "a"), "old")
    assert index.namers(key("feedbackdatasets", "d")) == (key("rltrainingruns", "a"),)


def test_only_a_run_without_a_status_is_kept_as_a_sighting_and_only_its_newest_state_once(marks: Marks) -> None:
    sightings, a = Sightings(), key("rltrainingruns", "a")
    watching = Watching(mark=marks, index=Index(), metrics=metrics(), saw_lease=lambda _: None, sightings=sightings)
    watching.kind_event("rltrainingruns", "ADDED", run("a"))
    watching.kind_event("rltrainingruns", "MODIFIED", newest := run("a", dataset="other"))
    assert sightings.take(a) is newest
    assert sightings.take(a) is None
    watching.kind_event("rltrainingruns", "ADDED", run("a"))
    watching.kind_event("rltrainingruns", "MODIFIED", run("a", state="Starting"))
    assert sightings.take(a) is None
    watching.kind_event("rltrainingruns", "ADDED", run("a"))
    watching.kind_event("rltrainingruns", "DELETED", run("a"))
    assert sightings.take(a) is None
    watching.kind_event("feedbackdatasets", "ADDED", dataset("d") | {"status": {}})
    assert sightings.take(key("feedbackdatasets", "d")) is None


def test_sightings_are_bounded_and_the_oldest_falls_out() -> None:
    sightings = Sightings()
    for number in range(2000):
        sightings.saw(key("rltrainingruns", f"r{number}"), run(f"r{number}"))
    kept = [number for number in range(2000) if sightings.take(key("rltrainingruns", f"r{number}")) is not None]
    assert 100 < len(kept) < 1000
    assert kept[-1] == 1999


def test_our_own_write_wakes_those_who_name_the_object_but_not_itself(marks: Marks) -> None:
    watching = Watching(
        mark=marks,
        index=Index(),
        metrics=metrics(),
        saw_lease=lambda _: None,
        is_echo=lambda _, obj: obj["metadata"].get("resourceVersion") == "7",
    )
    watching.kind_event("rltrainingruns", None, run("a"))
    marks.take()
    ours, theirs = dataset("d", digest="1"), dataset("d", digest="1")
    ours["metadata"]["resourceVersion"], theirs["metadata"]["resourceVersion"] = "7", "8"
    watching.kind_event("feedbackdatasets", "MODIFIED", ours)
    assert marks.take() == {key("rltrainingruns", "a")}
    watching.kind_event("feedbackdatasets", "MODIFIED", theirs)
    assert marks.take() == {key("feedbackdatasets", "d")}
    watching.kind_event("feedbackdatasets", "DELETED", ours)
    assert key("feedbackdatasets", "d") in marks.take()


@pytest.mark.parametrize("shape", [None, [], "text", {"datasetRef": 5}, {"datasetRef": {"name": ["x"]}}])
def test_an_object_of_any_shape_is_indexed_without_harm(watching: Watching, marks: Marks, shape: Any) -> None:
    """P15: a poison object wakes itself and nobody else."""
    obj = {"metadata": {"namespace": "ns", "name": "a", "uid": "u"}, "spec": shape, "status": shape}
    for plural in ("rltrainingruns", "feedbackdatasets", "rlpolicies"):
        watching.kind_event(plural, "ADDED", obj)  # type: ignore[arg-type] # literal in a loop
        assert marks.take() == {key(plural, "a")}


# resync


class Lists:
    """A cluster that can only be listed."""

    def __init__(self, *objects: tuple[Resource, KubeObject]) -> None:
        self.objects = list(objects)
        self.fail = False

    async def pages(self, resource: Resource, namespace: str | None) -> AsyncIterator[Sequence[KubeObject]]:
        if self.fail:
            raise Unavailable("down")
        yield [obj for kind, obj in self.objects if kind == resource]


class Walks:
    """A resync over lists, with the queue it feeds."""

    def __init__(self, lists: Lists, period: float = 300.0) -> None:
        self.index, self.metrics = Index(), metrics()
        self.passes: list[tuple[float, Key]] = []
        self.queue: KeyedQueue[Key] = KeyedQueue(self._work, workers=4, rng=random.Random(1))
        self.resync = Resync(lists, self.queue, self.index, self.metrics, period_seconds=period, rng=random.Random(2))

    async def _work(self, marked: Key) -> timedelta | None:
        self.passes.append((asyncio.get_running_loop().time(), marked))
        return None

    async def for_seconds(self, seconds: float) -> None:
        tasks = [asyncio.create_task(self.queue.run()), asyncio.create_task(self.resync.run())]
        await asyncio.sleep(seconds)
        for task in tasks:
            task.cancel()


def test_the_first_walk_marks_at_once_and_later_ones_spread_their_marks() -> None:
    lists = Lists(*(("rltrainingruns", run(f"r{number}", uid=str(number))) for number in range(50)))

    async def script() -> Walks:
        walks = Walks(lists)
        await walks.for_seconds(500)
        return walks

    walks = run_virtual(script())
    assert [at for at, _ in walks.passes[:50]] == [0.0] * 50
    later = [at for at, _ in walks.passes[50:]]
    assert len(later) == 50
    assert max(later) - min(later) > 100
    assert min(later) >= 270


def test_a_deletion_that_no_event_told_of_is_swept(caplog: pytest.LogCaptureFixture) -> None:
    """T3: the index, the metrics and the later passes of a vanished run go."""
    lists = Lists(("rltrainingruns", run("a")), ("feedbackdatasets", dataset("d")))

    async def script() -> Walks:
        walks = Walks(lists)
        await walks.resync.walk(spread_seconds=0)
        assert walks.metrics.runs_known() == (("ns", "a"),)
        lists.objects = [("rltrainingruns", run("b", uid="u2"))]
        await walks.resync.walk(spread_seconds=0)
        return walks

    walks = run_virtual(script())
    assert set(walks.index.snapshot()) == {key("rltrainingruns", "b")}
    assert walks.metrics.runs_known() == (("ns", "b"),)


def test_a_failed_walk_sweeps_nothing_and_is_tried_again_soon() -> None:
    lists = Lists(("rltrainingruns", run("a")))

    async def script() -> tuple[int, int]:
        walks = Walks(lists)
        await walks.for_seconds(1)
        lists.fail = True
        await walks.for_seconds(10)
        known = len(walks.index)
        lists.fail = False
        before = len(walks.passes)
        await walks.for_seconds(20)
        return known, len(walks.passes) - before

    known, passes = run_virtual(script())
    assert known == 1
    assert passes >= 1


# metrics and logs


def attributes(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Yield (metric attribute, method) for every call like `….name.labels(…).inc()` or `….name.set(…)`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            target = node.func.value
            if isinstance(target, ast.Call) and isinstance(target.func, ast.Attribute) and target.func.attr == "labels":
                target = target.func.value
            if isinstance(target, ast.Attribute):
                yield target.attr, node.func.attr


def test_every_metric_is_set_somewhere() -> None:
    declared = {
        name for name, value in vars(metrics()).items() if type(value).__name__ in {"Counter", "Gauge", "Histogram"}
    }
    assert len(declared) >= 14
    used = {
        name
        for file in SOURCES
        for name, method in attributes(ast.parse(file.read_text()))
        if method in {"inc", "set", "observe"}
    }
    assert declared - used == set()


def test_every_metric_has_the_prefix_help_and_a_unit_where_it_has_one() -> None:
    registry = CollectorRegistry()
    Metrics(registry, version="test", now=lambda: 0.0)
    families = list(registry.collect())
    assert len(families) >= 18
    for family in families:
        assert family.name.startswith("ratchet_"), family.name
        assert family.documentation.endswith("."), family.name
        assert not re.search(r"_(ms|millis|minutes)$", family.name), family.name


def sample(found: Metrics, name: str, /, **labels: str) -> float | None:
    for family in found.families():
        for item in family.samples:
            if item.name == name and item.labels == labels:
                return float(item.value)
    return None


def condition(kind: str, status: str) -> dict[str, str]:
    return {"type": kind, "status": status}


def test_a_runs_state_and_conditions_are_series_that_go_with_it() -> None:
    found = metrics()
    found.run_seen(run("a", state="Running", stage="supervised", conditions=[condition("DataReady", "True")]))
    found.run_seen(run("b", uid="u2"))
    assert sample(found, "ratchet_runs", state="Running") == 1
    assert sample(found, "ratchet_runs", state="Pending") == 1
    assert sample(found, "ratchet_run_condition", namespace="ns", run="a", condition="DataReady") == 1
    found.run_seen(run("a", state="Failed", conditions=[condition("Failed", "True"), condition("DataReady", "False")]))
    assert sample(found, "ratchet_runs", state="Running") is None
    assert sample(found, "ratchet_run_condition", namespace="ns", run="a", condition="DataReady") == 0
    found.run_gone("ns", "a")
    assert sample(found, "ratchet_runs", state="Failed") is None
    assert sample(found, "ratchet_run_condition", namespace="ns", run="a", condition="Failed") is None


def test_a_policys_share_and_verdict_are_series_while_a_version_is_on_trial() -> None:
    found, named = metrics(), {"namespace": "ns", "policy": "p"}
    trial = {"candidate": 2, "percent": 5, "verdict": {"outcome": "Inconclusive", "samples": 80, "needed": 400}}
    policy = {
        "metadata": {"namespace": "ns", "name": "p"},
        "status": {"state": "Ramping", "champion": 1, "rollout": trial},
    }
    found.policy_seen(policy)
    labels = {"state": "Ramping", "champion": "1", "candidate": "2", "verdict": "Inconclusive"}
    assert sample(found, "ratchet_policy_info", **named, **labels) == 1
    assert sample(found, "ratchet_rollout_percent", **named) == 5
    assert sample(found, "ratchet_rollout_samples", **named) == 80
    assert sample(found, "ratchet_rollout_needed_samples", **named) == 400
    found.policy_seen({**policy, "status": {"state": "Ready", "champion": 2, "rollout": {"percent": "?"}}})
    assert sample(found, "ratchet_rollout_percent", **named) is None
    labels = {"state": "Ready", "champion": "2", "candidate": "", "verdict": ""}
    assert sample(found, "ratchet_policy_info", **named, **labels) == 1
    found.policy_gone("ns", "p")
    assert sample(found, "ratchet_policy_info", **named, **labels) is None


def stage(attempt: int, *, reason: str = "", finished: str = "", state: str = "Running") -> dict[str, Any]:
    tried: dict[str, Any] = {"number": attempt, "started": "2026-01-01T00:00:10Z", "activeSeconds": 5}
    if reason:
        tried["lastExit"] = {"reason": reason}
    return {"name": "supervised", "state": state, "attempt": tried} | ({"finished": finished} if finished else {})


def test_retries_and_stage_ends_are_counted_once_and_the_past_before_our_start_is_not() -> None:
    registry = CollectorRegistry()
    found = Metrics(registry, version="test", now=lambda: 0.0)
    found.run_seen(run("old", uid="u2", stages=[stage(3, reason="Killed", finished="2026-01-01T00:01:00Z")]))
    for item in (stage(1), stage(2, reason="StoreUnavailable"), stage(2, reason="StoreUnavailable")):
        found.run_seen(run("a", stages=[item]))
    for _ in range(2):
        found.run_seen(run("a", stages=[stage(2, finished="2026-01-01T00:00:40Z", state="Succeeded")]))
    text = generate_latest(registry).decode()
    retries = [line for line in text.splitlines() if line.startswith("ratchet_stage_retries_total{")]
    assert retries == ['ratchet_stage_retries_total{reason="StoreUnavailable",stage="supervised"} 1.0']
    # 30 s of the last attempt and 5 s of those before it
    assert 'ratchet_stage_duration_seconds_sum{stage="supervised",state="Succeeded"} 35.0' in text
    assert 'ratchet_stage_duration_seconds_count{stage="supervised",state="Succeeded"} 1.0' in text


@pytest.mark.parametrize("status", [{"conditions": "x"}, {"stages": [1]}, {"stages": [{"attempt": []}]}, {"state": 5}])
def test_a_status_of_any_shape_does_no_harm_to_the_metrics(status: dict[str, Any]) -> None:
    found = metrics()
    found.run_seen(run("a", **status))
    assert found.runs_known() == (("ns", "a"),)


@pytest.mark.parametrize(
    ("error", "want"),
    [
        (None, "ok"),
        (Conflict("x"), "conflict"),
        (Unavailable("x"), "unavailable"),
        (Denied("x"), "rejected"),
        (TimeoutError(), "timeout"),
        (KeyError("x"), "bug"),
    ],
)
def test_a_passs_result_comes_from_a_closed_list(error: Exception | None, want: str) -> None:
    assert result_of(error) == want


@pytest.mark.parametrize("wish", ["3", "", "Wed, 21 Oct 2026 07:28:00 GMT"])
def test_only_seconds_are_taken_from_a_wish_to_wait(wish: str) -> None:
    error = classify(503, "busy", {"Retry-After": wish} if wish else {}, what="get x")
    assert isinstance(error, Unavailable)
    assert error.retry_after_seconds == (3.0 if wish == "3" else None)


@pytest.fixture
def log_lines() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    stream = io.StringIO()
    logs.configure("info", stream=stream)
    yield stream
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()


def test_a_line_is_one_json_object_with_the_pass_bound_and_a_traceback_without_locals(log_lines: io.StringIO) -> None:
    secret = "a whole object"
    with logs.pass_context(kind="rltrainingruns", namespace="ns", name="a"):
        try:
            raise ValueError("broken")
        except ValueError:
            logging.getLogger("kopf.test").warning("from a library", exc_info=True)
        structlog.get_logger("ours").info("stage_started", stage="resolve", attempt=1)
    structlog.get_logger("ours").debug("not at this level")
    library, ours = (json.loads(line) for line in log_lines.getvalue().splitlines())
    assert (ours["event"], ours["name"], ours["stage"], ours["attempt"]) == ("stage_started", "a", "resolve", 1)
    assert library["exception"][0]["exc_type"] == "ValueError"
    assert secret not in json.dumps(library)


def test_an_unknown_log_level_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="'loud' is unknown"):
        logs.configure("loud")
