"""The `Cluster` of this machine: objects in files, Jobs as subprocesses, one owner at a time.

What the operator sees is what a real cluster would show it, so the same observe, plan and apply run above it. Decides
nothing about runs. Used by `ratchet run` and `ratchet up`, and by the CLI's local verbs for single changes.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Literal

from ratchet_api.base import format_time
from ratchet_api.kinds import KINDS
from ratchet_api.training_run import RLTrainingRunSpec
from ratchet_operator.cluster.disk import DiskObjects, Watcher
from ratchet_operator.cluster.jobrunner import STAGE_COMMAND, JobRunner
from ratchet_operator.cluster.protocol import Conflict, Denied, KubeObject, Resource

MUTABLE = ("suspend", "ttlSecondsAfterFinished")
CountFeedback = Callable[[str, str, datetime], int | str]
"""Takes namespace, policy and time; returns how many events came later, or why nobody knows."""
_PLURALS = {kind.kind: kind.plural for kind in KINDS.values()} | {
    "Job": "jobs",
    "Pod": "pods",
    "ConfigMap": "configmaps",
    "Deployment": "deployments",
    "Service": "services",
    "HTTPRoute": "httproutes",
}


_LOCK_TRIES, _LOCK_PAUSE_SECONDS = 6, 0.02
"""Who only asks whether somebody works here (`is_owned`) has the lock for that moment, and is no owner."""


class HomeBusy(Exception):
    """Another process owns the state directory."""


class LocalCluster:
    """Objects and processes below one state directory; implements `Cluster`.

    Use as a context manager: it holds the directory's lock meanwhile.

    Args:
        home: the state directory; made if it does not exist.
        environment: base environment of the stages; None = this process's own.
        wants: tells whether a Job is to be run; others keep waiting.
        command: what a stage's process runs.
        now: the clock.
    """

    def __init__(
        self,
        home: Path,
        *,
        environment: Mapping[str, str] | None = None,
        wants: Callable[[KubeObject], bool] = lambda job: True,
        command: tuple[str, ...] = STAGE_COMMAND,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.home = home
        self.count_feedback: CountFeedback | None = None
        """Set by whoever runs a gateway beside us."""
        self._now = now
        self._lock: IO[str] | None = None
        home.mkdir(parents=True, exist_ok=True)
        self._acquire()
        self.objects = DiskObjects(home, now)
        self.runner = JobRunner(self.objects, home, environment=environment, wants=wants, command=command, now=now)
        self.objects.watch(self._job_changed)
        self._running = False

    # -- lifetime -----------------------------------------------------------------------------------------------

    def __enter__(self) -> LocalCluster:
        """Return the cluster, whose lock is held already."""
        return self

    def __exit__(self, *_: object) -> None:
        """Give the state directory back."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def start(self) -> None:
        """Begin to run Jobs, old ones first; needs a running event loop."""
        self._running = True
        self.runner.start()

    async def stop(self, grace_seconds: float) -> None:
        """Let every stage checkpoint and leave; its Job goes on at the next start."""
        await self.runner.stop(grace_seconds)
        self._running = False

    def _acquire(self) -> None:
        lock = (self.home / "lock").open("a+")
        for tries_left in reversed(range(_LOCK_TRIES)):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if tries_left == 0:
                    lock.close()
                    raise HomeBusy(f"{self.home} is in use by process {owner_of(self.home)}") from None
                time.sleep(_LOCK_PAUSE_SECONDS)
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        self._lock = lock

    def watch(self, watcher: Watcher) -> None:
        """Tell a function about every change of an object."""
        self.objects.watch(watcher)

    def _job_changed(self, resource: Resource, obj: KubeObject, gone: bool) -> None:
        if resource == "jobs" and not gone and self._running:
            self.runner.wake(obj)

    # -- what a user's client does ------------------------------------------------------------------------------

    def submit(self, manifest: KubeObject) -> str:
        """Create or change a user's object; return created, configured or unchanged.

        Raises:
            Denied: the run started with another spec.
        """
        resource, meta = _resource(manifest), manifest["metadata"]
        old = self.objects.find(resource, meta["namespace"], meta["name"])
        if old is not None:
            refuse_change(old, manifest)
        new = self.objects.merge(resource, manifest)
        if old is None:
            return "created"
        return "unchanged" if new["metadata"]["resourceVersion"] == old["metadata"]["resourceVersion"] else "configured"

    # -- the Cluster protocol -----------------------------------------------------------------------------------

    async def get(self, resource: Resource, namespace: str, name: str) -> KubeObject | None:
        """Return the object, or None if it does not exist."""
        return self.objects.find(resource, namespace, name)

    async def list(
        self, resource: Resource, namespace: str | None, *, labels: Mapping[str, str] | None = None
    ) -> Sequence[KubeObject]:
        """Return all objects with these labels."""
        wanted = (labels or {}).items()
        return [
            each
            for each in self.objects.find_all(resource)
            if namespace in (None, each["metadata"]["namespace"])
            and wanted <= each["metadata"].get("labels", {}).items()
        ]

    async def create(self, resource: Resource, manifest: KubeObject) -> KubeObject:
        """Create the object, without a status as an API server does; Conflict if it exists."""
        return self.objects.insert(resource, {key: value for key, value in manifest.items() if key != "status"})

    async def apply(self, resource: Resource, manifest: KubeObject, *, uid: str | None) -> KubeObject:
        """Create the object, or change the one of that uid; Conflict if it is not there."""
        meta = manifest["metadata"]
        found = self.objects.find(resource, meta["namespace"], meta["name"])
        if uid is None:
            return await self.create(resource, manifest)
        if found is None or found["metadata"]["uid"] != uid:
            raise Conflict(f"{resource} {meta['name']!r} is not the object of uid {uid} any more", status=409)
        return self.objects.merge(resource, manifest)

    async def delete(
        self, resource: Resource, namespace: str, name: str, *, uid: str, foreground: bool = False
    ) -> None:
        """Delete the object if it still has that uid; a Job always goes after its process, foreground or not."""
        found = self.objects.find(resource, namespace, name)
        if found is not None and found["metadata"]["uid"] == uid:
            self.objects.end(resource, found)

    async def patch_status(self, resource: Resource, obj: KubeObject, status: Mapping[str, Any]) -> KubeObject:
        """Replace the whole status, with obj's resourceVersion as lock."""
        return self.objects.lock_status(resource, obj, status)

    async def emit(self, obj: KubeObject, *, type: Literal["Normal", "Warning"], reason: str, message: str) -> None:
        """Append the event to events.jsonl of the state directory."""
        meta = obj["metadata"]
        row = {
            "time": format_time(self._now()),
            "type": type,
            "kind": obj.get("kind", ""),
            "namespace": meta["namespace"],
        }
        row |= {"name": meta["name"], "reason": reason, "message": message}
        with suppress(OSError), (self.home / "events.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")

    async def events(self, obj: KubeObject) -> Sequence[KubeObject]:
        """Return nothing: no quota and no admission rule ever refuses a pod here."""
        return ()

    async def new_feedback(self, namespace: str, policy: str, since: datetime) -> int | str:
        """Count events of the log below the state directory, if a gateway of this process writes it."""
        if self.count_feedback is None:
            return "no gateway runs in this process; `ratchet up` has one"
        return await asyncio.to_thread(self.count_feedback, namespace, policy, since)

    async def progress(self, pod: KubeObject) -> Mapping[str, Any] | None:
        """Ask the process's /progress; None if it does not answer within two seconds."""
        port = self.runner.progress_port(pod)
        return None if port is None else await asyncio.to_thread(_fetch_json, f"http://127.0.0.1:{port}/progress")

    async def routed(self, pod: KubeObject, versions: Sequence[int]) -> tuple[str, frozenset[int]]:
        """Return silence: no router runs here."""
        return "", frozenset()

    async def evidence(self, namespace: str, policy: str, experiment: str) -> Mapping[str, Any] | str:
        """Say that nobody counts: nothing is rolled out here."""
        return "no analyst runs in this process"

    async def measured(self, namespace: str, query: str) -> float | str:
        """Say that nobody measures: nothing is rolled out here."""
        return "no Prometheus is asked in this process"


def owner_of(home: Path) -> str:
    """Return the id of the process that holds the state directory, or what the last one was."""
    return (home / "lock").read_text().strip() or "?"


def is_owned(home: Path) -> bool:
    """Tell whether some process holds the state directory right now."""
    try:
        with (home / "lock").open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def refuse_change(old: KubeObject, new: KubeObject) -> None:
    """Let a user's change of an object pass, unless it is a run that has started with another spec.

    Raises:
        Denied: names the fields that cannot change.
    """
    if old["kind"] != "RLTrainingRun" or not old.get("status", {}).get("startTime"):
        return
    if changed := changed_fields(old["spec"], new["spec"]):
        fields = ", ".join(f"spec.{field}" for field in changed)
        raise Denied(
            f"RLTrainingRun {new['metadata']['name']!r} has started with another spec; {fields} cannot change. "
            "Give the new run another metadata.name, revert the change, or delete the old run first",
            status=422,
        )


def changed_fields(old: Mapping[str, Any], new: Mapping[str, Any]) -> Sequence[str]:
    """Return the fields of a run's spec that differ, defaults filled in, mutable ones left out."""
    before, after = (RLTrainingRunSpec.model_validate(dict(spec)).to_wire() for spec in (old, new))
    return [f for f in sorted({*before, *after}) if f not in MUTABLE and before.get(f) != after.get(f)]


def _resource(manifest: KubeObject) -> Resource:
    return _PLURALS[manifest["kind"]]  # type: ignore[return-value]  # the table's values are the resources


def _fetch_json(url: str) -> Mapping[str, Any] | None:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy has no business with loopback
    try:
        with direct.open(url, timeout=2) as answer:
            found = json.loads(answer.read(65_536))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
