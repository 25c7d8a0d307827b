"""A whole world in virtual time: in-memory cluster, scripted Jobs, one or two operators, and rules that always hold.

The loop is the operator's own in small: a watch marks keys dirty, a pass may ask for another one later, a failed pass
is repeated after a second, a resync marks everything. Nothing sleeps; a tick is five seconds of the world's clock.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from ratchet_api.conditions import ConditionType
from ratchet_operator.cluster.memory import Call, Fault, MemoryCluster, NoFault
from ratchet_operator.cluster.memory_jobs import JobScript, Play, golden
from ratchet_operator.cluster.protocol import ClusterError, Conflict, KubeObject, Unavailable
from ratchet_operator.reconcile import Reconciler
from ratchet_operator.settings import Settings, StoreSettings
from ratchet_operator.sightings import Sightings
from ratchet_operator.wakes import OUR_RESOURCES, Key, dependents, key_of, keys_to_wake
from tests.world.builders import NAMESPACE

START = datetime(2026, 1, 1, tzinfo=UTC)
TICK = timedelta(seconds=5)
SETTINGS = Settings(
    stage_image="registry/jobs:1",
    allowed_images=("registry/custom:*",),
    allowed_priority_classes=("batch",),
    store=StoreSettings("s3://bucket/root", endpoint="http://s3:8333", secret_name="s3-credentials"),
)
PLURALS = {"FeedbackDataset": "feedbackdatasets", "RLTrainingRun": "rltrainingruns", "RLPolicy": "rlpolicies"}


class Crash(Exception):
    """The operator's process dies here."""


class Operator:
    """One operator process: its queue is lost when it dies."""

    def __init__(self, world: World, *, clock_error: timedelta = timedelta(0)) -> None:
        self.world = world
        self.due: dict[Key, datetime] = {}
        self.sightings = Sightings()
        self.reconciler = Reconciler(
            world.cluster, world.settings, lambda: world.now + clock_error, random.Random(0), self.sightings
        )

    def mark(self, key: Key, when: datetime | None = None) -> None:
        when = when or self.world.now
        self.due[key] = min(when, self.due.get(key, when))

    def restart(self) -> None:
        self.due.clear()
        for resource, obj in self.world.ours():
            self.sightings.gone(key_of(resource, obj))
            self.mark(key_of(resource, obj))

    async def work(self) -> None:
        """Do every pass that is due; a pass that wants to be repeated at once is, up to a bound."""
        for _ in range(60 * (1 + len(self.world.ours()))):
            ready = sorted(key for key, when in self.due.items() if when <= self.world.now)
            if not ready:
                return
            await self.one(ready[0])
        raise AssertionError(f"hot loop: {sorted(self.due)} at {self.world.now}")

    async def one(self, key: Key) -> None:
        del self.due[key]
        try:
            wait = await self.reconciler.reconcile(key)
        except Crash:
            self.world.crashes += 1
            self.restart()
            return
        except ClusterError:
            self.mark(key, self.world.now + timedelta(seconds=1))
            return
        if wait is not None:
            self.mark(key, self.world.now + wait)


class World:
    """The world of one test."""

    def __init__(
        self,
        play: Play = golden,
        *,
        settings: Settings = SETTINGS,
        fault: Fault | None = None,
        operators: int = 1,
        clock_error: timedelta = timedelta(0),
        lossy: random.Random | None = None,
    ) -> None:
        self.now = START
        self.settings = settings
        self.crashes = 0
        self.lossy = lossy
        self.cluster = MemoryCluster(lambda: self.now, fault=fault or NoFault())
        self.script = JobScript(self.cluster, play)
        self.operators = [Operator(self, clock_error=clock_error) for _ in range(operators)]
        self.statuses: dict[str, list[dict[str, Any]]] = {}
        self.cluster.watchers.append(self._watch)
        self._ticks = 0

    def ours(self) -> list[tuple[str, KubeObject]]:
        return [(r, obj) for r in OUR_RESOURCES for obj in self.cluster.objects.select(r)]

    def submit(self, *manifests: KubeObject) -> None:
        for obj in manifests:
            self.cluster.objects.create(PLURALS[obj["kind"]], obj)

    def edit(self, kind: str, name: str, patch: dict[str, Any]) -> None:
        self.cluster.objects.update(PLURALS[kind], NAMESPACE, name, patch)

    def replace_spec(self, kind: str, name: str, spec: dict[str, Any]) -> None:
        gone = {key: None for key in self.object(kind, name)["spec"] if key not in spec}
        for key in spec:
            self.edit(kind, name, {"spec": {key: None}})
        self.edit(kind, name, {"spec": {**gone, **spec}})

    def delete(self, kind: str, name: str, *, foreground: bool = False) -> None:
        self.cluster.objects.delete(PLURALS[kind], NAMESPACE, name, foreground=foreground)

    def object(self, kind: str, name: str) -> KubeObject:
        found = self.cluster.objects.get(PLURALS[kind], NAMESPACE, name)
        assert found is not None, f"{kind} {name} is gone"
        return found

    def status(self, kind: str = "RLTrainingRun", name: str = "router") -> dict[str, Any]:
        return self.object(kind, name).get("status") or {}

    def condition(self, type: str, kind: str = "RLTrainingRun", name: str = "router") -> dict[str, Any]:
        rows = self.status(kind, name).get("conditions", [])
        return next((c for c in rows if c["type"] == type), {})

    def stage(self, stage: str, name: str = "router") -> dict[str, Any]:
        return next(s for s in self.status(name=name)["stages"] if s["name"] == stage)

    def jobs(self) -> list[str]:
        return [job["metadata"]["name"] for job in self.cluster.objects.select("jobs")]

    def job(self, name: str) -> KubeObject:
        found = self.cluster.objects.get("jobs", NAMESPACE, name)
        assert found is not None, f"no Job {name}; there are {self.jobs()}"
        return found

    async def tick(self) -> None:
        """Five seconds: every operator works off what is due, then Jobs and pods move on by one step."""
        for operator in self.operators:
            await operator.work()
        self.script.step()
        self.check()
        self.now += TICK
        self._ticks += 1
        if self._ticks % 60 == 0:
            for operator in self.operators:
                operator.restart()  # the resync: everything is looked at again

    async def run_until(self, done: Callable[[], bool], *, ticks: int = 400) -> None:
        for _ in range(ticks):
            if done():
                return
            await self.tick()
        states = {o["metadata"]["name"]: o.get("status", {}).get("state") for _, o in self.ours()}
        raise AssertionError(f"not done after {ticks} ticks; states {states}, Jobs {self.jobs()}")

    async def settle(self, ticks: int = 20) -> None:
        for _ in range(ticks):
            await self.tick()

    async def finish(self, name: str = "router", *, ticks: int = 400) -> dict[str, Any]:
        await self.run_until(lambda: self.over(name), ticks=ticks)
        await self.settle(4)
        return self.status(name=name)

    def over(self, name: str = "router") -> bool:
        rows = self.status(name=name).get("conditions", [])
        return any(c["type"] in ("Complete", "Failed") and c["status"] == "True" for c in rows)

    def check(self) -> None:
        """P5: never two live Jobs for one (owner, stage)."""
        live: dict[tuple[str, str], str] = {}
        for job in self.cluster.objects.select("jobs"):
            labels = job["metadata"]["labels"]
            over = any(c["status"] == "True" for c in (job.get("status") or {}).get("conditions", []))
            if over or "ratchet.dev/owner-uid" not in labels:
                continue
            key = (labels["ratchet.dev/owner-uid"], labels["ratchet.dev/stage"])
            assert key not in live, f"two live Jobs for {key}: {live[key]} and {job['metadata']['name']}"
            live[key] = job["metadata"]["name"]

    def _watch(self, change: str, resource: str, obj: KubeObject) -> None:
        if resource in OUR_RESOURCES and change == "MODIFIED":
            self._record(obj)
        if self.lossy is not None and self.lossy.random() < 0.5:
            return
        keys = keys_to_wake(resource, obj)
        if resource in OUR_RESOURCES:
            keys += dependents(key_of(resource, obj), self.ours())
        for operator in self.operators:
            if resource in OUR_RESOURCES and change != "DELETED":
                operator.sightings.saw(key_of(resource, obj), obj)
            for key in keys:
                operator.mark(key)

    def _record(self, obj: KubeObject) -> None:
        history = self.statuses.setdefault(obj["metadata"]["uid"], [])
        status = obj.get("status")
        if status and (not history or history[-1] != status):
            if history:
                check_step(history[-1], status, obj)
            history.append(status)


def check_step(old: dict[str, Any], new: dict[str, Any], obj: KubeObject) -> None:
    """P8: status never goes backwards from terminal and is honest about generations; it stays small."""
    name, generation = obj["metadata"]["name"], obj["metadata"]["generation"]
    for ending in (ConditionType.COMPLETE, ConditionType.FAILED):
        before = [c for c in old["conditions"] if c["type"] == ending and c["status"] == "True"]
        assert not before, f"{name}: status was written after {ending.value}"
    assert new["observedGeneration"] <= generation
    assert all(c["observedGeneration"] <= generation for c in new["conditions"])
    assert new.get("nextVersion", 1) >= old.get("nextVersion", 1)
    assert len(json.dumps(new)) <= 32 * 1024
    for before_row, after_row in zip(old.get("stages", []), new.get("stages", []), strict=False):
        first, second = before_row.get("attempt"), after_row.get("attempt")
        assert not first or (second and second["number"] >= first["number"]), f"{name}: an attempt went backwards"
        assert before_row["state"] not in ("Succeeded", "Cached") or after_row["state"] == before_row["state"]


def masked(world: World, *, deadlines: bool = True) -> dict[str, Any]:
    """The end state without what may differ between two equal histories: uids, versions and times."""
    text = json.dumps({"/".join(key): obj for key, obj in world.cluster.objects.snapshot().items()}, sort_keys=True)
    text = re.sub(r"[0-9a-f]{8}-0000-4000-8000-[0-9a-f]{12}", "UID", text)
    text = re.sub(r"(router|complaints|support(?:-[0-9a-f]{10})?)-[0-9a-f]{8}/", r"\1-UID8/", text)
    text = re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "TIME", text)
    text = re.sub(r'"resourceVersion": "\d+"', '"resourceVersion": "N"', text)
    text = re.sub(r'"ratchet.dev/spec-hash": "[0-9a-f]+"', '"ratchet.dev/spec-hash": "H"', text)
    text = re.sub(r'"nodeName": "node-\d+"', '"nodeName": "NODE"', text)
    text = re.sub(r"on node 'node-\d+'", "on node 'NODE'", text)
    # how long a Job waited for the operator is time, too
    text = re.sub(r'"activeSeconds": \d+', '"activeSeconds": "S"', text)
    if deadlines:
        text = re.sub(r'"activeDeadlineSeconds": \d+', '"activeDeadlineSeconds": "S"', text)
    result: dict[str, Any] = json.loads(text)
    return result


class CrashAt(NoFault):
    """The operator dies before or after its n-th call, once."""

    def __init__(self, number: int, *, after: bool) -> None:
        self.number = number
        self.is_after = after

    def before(self, call: Call) -> None:
        if call.number == self.number and not self.is_after:
            raise Crash(f"before {call}")

    def after(self, call: Call) -> None:
        if call.number == self.number and self.is_after:
            raise Crash(f"after {call}")


class HalfConflicts(NoFault):
    """Half of all status writes and creates fail with 409, some of them although they were carried out."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.hits = 0

    def before(self, call: Call) -> None:
        if call.verb == "patch_status" and self.rng.random() < 0.5:
            self.hits += 1
            raise Conflict("injected: the object was changed", status=409)

    def after(self, call: Call) -> None:
        if call.verb in ("create", "patch_status") and self.rng.random() < 0.2:
            self.hits += 1
            raise Unavailable("injected: the answer was lost", status=503)


class StaleReads(NoFault):
    """A get may answer with the object's last revision but one."""

    def __init__(self, rng: random.Random, share: float = 0.3) -> None:
        self.rng = rng
        self.share = share
        self.hits = 0

    def read(self, call: Call, fresh: KubeObject | None, history: Sequence[KubeObject | None]) -> KubeObject | None:
        if len(history) < 2 or self.rng.random() >= self.share:
            return fresh
        self.hits += 1
        return history[-2]
