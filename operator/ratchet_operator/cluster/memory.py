"""The `Cluster` protocol in memory: for tests, with a log of every call and a place to inject faults before each.

Object rules are `objects.ObjectStore`'s. Never starts anything: `memory_jobs.JobScript` plays Job controller, queue,
scheduler and kubelet, as a test's script says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, Protocol

from ratchet_operator.cluster.objects import ChangeType, ObjectStore
from ratchet_operator.cluster.protocol import KubeObject, Resource

WRITES = frozenset({"create", "apply", "delete", "patch_status", "emit"})


@dataclass(frozen=True, slots=True)
class Call:
    """One call of the `Cluster` protocol, as the log keeps it."""

    number: int
    verb: str
    resource: str
    namespace: str = ""
    name: str = ""

    @property
    def writes(self) -> bool:
        """Whether the call may change something."""
        return self.verb in WRITES


@dataclass(frozen=True, slots=True)
class Emitted:
    """One Event that was sent."""

    about: str
    type: str
    reason: str
    message: str


class Fault(Protocol):
    """What a test does to calls; each method may raise instead of returning."""

    def before(self, call: Call) -> None:
        """Run before the call acts: raising means that it never reached the server."""

    def after(self, call: Call) -> None:
        """Run after the call acted: raising means that its answer was lost."""

    def read(self, call: Call, fresh: KubeObject | None, history: Sequence[KubeObject | None]) -> KubeObject | None:
        """Return what a get answers; `history` holds the object's earlier revisions, oldest first."""


class NoFault:
    """Leaves every call alone; base class of the tests' faults."""

    def before(self, call: Call) -> None:
        """Do nothing."""

    def after(self, call: Call) -> None:
        """Do nothing."""

    def read(self, call: Call, fresh: KubeObject | None, history: Sequence[KubeObject | None]) -> KubeObject | None:
        """Answer with the truth."""
        return fresh


Watcher = Callable[[ChangeType, str, KubeObject], None]


@dataclass
class MemoryCluster:
    """A cluster in memory.

    Attributes:
        clock: the servers' clock.
        fault: asked around every call.
        log: every call so far.
        emitted: every Event sent.
        event_objects: Events that `events` answers with, by uid of the object they are about.
        told: what a pod's /progress answers, by the pod's name.
        feedback: when events of feedback arrived, by policy; None = nobody counts them.
        routers: what the pod of a router says, by its name: table and the versions that it reaches; absent = silent.
        counts: answers for an analyst, given policy and experiment; None = there is none.
        gauges: answers for Prometheus, given a query; None = there is none.
    """

    clock: Callable[[], datetime]
    fault: Fault = field(default_factory=NoFault)
    log: list[Call] = field(default_factory=list)
    emitted: list[Emitted] = field(default_factory=list)
    event_objects: dict[str, list[KubeObject]] = field(default_factory=dict)
    told: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    feedback: dict[str, list[datetime]] | None = None
    routers: dict[str, tuple[str, frozenset[int]]] = field(default_factory=dict)
    counts: Callable[[str, str], Mapping[str, Any] | str] | None = None
    gauges: Callable[[str], float | str] | None = None
    watchers: list[Watcher] = field(default_factory=list)
    history: dict[tuple[str, str, str], list[KubeObject | None]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # a test that changed an object it was given would be in error: copies cost most of a test's time
        self.objects = ObjectStore(self.clock, self._changed, shared=True)

    async def get(self, resource: Resource, namespace: str, name: str) -> KubeObject | None:
        """Return the object, or None; a fault may serve an older revision."""
        call = self._call("get", resource, namespace, name)
        found = self.objects.get(resource, namespace, name)
        answer = self.fault.read(call, found, self.history.get((resource, namespace, name), []))
        self.fault.after(call)
        return answer

    async def list(
        self, resource: Resource, namespace: str | None, *, labels: Mapping[str, str] | None = None
    ) -> Sequence[KubeObject]:
        """Return all objects with these labels."""
        call = self._call("list", resource, namespace or "")
        found = self.objects.select(resource, namespace, labels)
        self.fault.after(call)
        return found

    async def create(self, resource: Resource, manifest: KubeObject) -> KubeObject:
        """Create the object."""
        meta = manifest.get("metadata", {})
        call = self._call("create", resource, str(meta.get("namespace", "")), str(meta.get("name", "")))
        made = self.objects.create(resource, manifest)
        self.fault.after(call)
        return made

    async def apply(self, resource: Resource, manifest: KubeObject, *, uid: str | None) -> KubeObject:
        """Create the object, or change the one of that uid."""
        meta = manifest["metadata"]
        call = self._call("apply", resource, str(meta.get("namespace", "")), str(meta.get("name", "")))
        made = self.objects.apply(resource, manifest, uid=uid)
        self.fault.after(call)
        return made

    async def delete(
        self, resource: Resource, namespace: str, name: str, *, uid: str, foreground: bool = False
    ) -> None:
        """Delete the object of that uid."""
        call = self._call("delete", resource, namespace, name)
        self.objects.delete(resource, namespace, name, uid=uid, foreground=foreground)
        self.fault.after(call)

    async def patch_status(self, resource: Resource, obj: KubeObject, status: Mapping[str, Any]) -> KubeObject:
        """Replace the status under lock."""
        call = self._call("patch_status", resource, obj["metadata"]["namespace"], obj["metadata"]["name"])
        made = self.objects.set_status(resource, obj, status)
        self.fault.after(call)
        return made

    async def emit(self, obj: KubeObject, *, type: Literal["Normal", "Warning"], reason: str, message: str) -> None:
        """Keep the Event in `emitted`."""
        meta = obj["metadata"]
        call = self._call("emit", "events", meta["namespace"], meta["name"])
        self.emitted.append(Emitted(f"{obj['kind']}/{meta['name']}", type, reason, message))
        self.fault.after(call)

    async def events(self, obj: KubeObject) -> Sequence[KubeObject]:
        """Return the scripted Events about the object."""
        call = self._call("list", "events", obj["metadata"]["namespace"])
        self.fault.after(call)
        return list(self.event_objects.get(obj["metadata"]["uid"], []))

    async def new_feedback(self, namespace: str, policy: str, since: datetime) -> int | str:
        """Count what the test put into `feedback`."""
        self._call("new_feedback", "rlpolicies", namespace, policy)
        if self.feedback is None:
            return "no gateway"
        return sum(at > since for at in self.feedback.get(policy, ()))

    async def progress(self, pod: KubeObject) -> Mapping[str, Any] | None:
        """Return what the script lets the pod tell."""
        self._call("progress", "pods", pod["metadata"]["namespace"], pod["metadata"]["name"])
        return self.told.get(pod["metadata"]["name"])

    async def routed(self, pod: KubeObject, versions: Sequence[int]) -> tuple[str, frozenset[int]]:
        """Return what the test lets the router say."""
        meta = pod["metadata"]
        self._call("routed", "pods", meta["namespace"], meta["name"])
        table, reaches = self.routers.get(meta["name"], ("", frozenset()))
        return table, reaches & frozenset(versions)

    async def evidence(self, namespace: str, policy: str, experiment: str) -> Mapping[str, Any] | str:
        """Return what the test's analyst counted."""
        self._call("evidence", "rlpolicies", namespace, policy)
        return "there is no analyst" if self.counts is None else self.counts(policy, experiment)

    async def measured(self, namespace: str, query: str) -> float | str:
        """Return what the test's Prometheus says."""
        self._call("measured", "rlpolicies", namespace)
        return "there is no Prometheus" if self.gauges is None else self.gauges(query)

    def _call(self, verb: str, resource: str, namespace: str = "", name: str = "") -> Call:
        call = Call(len(self.log) + 1, verb, resource, namespace, name)
        self.log.append(call)
        self.fault.before(call)
        return call

    def _changed(self, change: ChangeType, resource: str, obj: KubeObject) -> None:
        meta = obj["metadata"]
        past = self.history.setdefault((resource, meta["namespace"], meta["name"]), [None])
        past.append(None if change == "DELETED" else obj)
        for watcher in self.watchers:
            watcher(change, resource, obj)
