"""Runs the pods of Jobs as subprocesses of this machine: what kubelet and Job controller are in a cluster.

Decides nothing about runs: it reads Jobs as the operator renders them, starts their container's stage as a process
group of its own, and writes back the Pod and Job status that a real cluster would write (container exit codes,
termination messages, podFailurePolicy verdicts). It survives its own death: processes are recorded with pid and
start time, and the next runner adopts those that still live. Used by `cluster.local` only.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import secrets
import shutil
import signal
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from ratchet_api.base import format_time, parse_time
from ratchet_api.names import ANNOTATION_INDEX, ANNOTATION_STAGE_INPUT, STAGE_FILE
from ratchet_operator.cluster.jobrules import (
    Ended,
    Verdict,
    code_from_message,
    container_env,
    cpu_request,
    index_of,
    job_finished,
    judge,
    nodes_of,
)
from ratchet_operator.cluster.processes import ProcessGroup, find_by_pod_uid, free_port, start_ticks, write_json
from ratchet_operator.cluster.protocol import KubeObject, Resource

log = logging.getLogger(__name__)

NODE_NAME = "localhost"
CANNOT_START = 128
"""What container runtimes report when a process cannot be started; outside the stage contract."""
STAGE_COMMAND = (sys.executable, "-m", "ratchet_jobs.runtime.main")


class ObjectTable(Protocol):
    """Where the runner finds Jobs and keeps the pods; writes wake whoever watches."""

    def find(self, resource: Resource, namespace: str, name: str) -> KubeObject | None:
        """Return the object or None."""

    def find_all(self, resource: Resource) -> list[KubeObject]:
        """Return every object of the resource."""

    def insert(self, resource: Resource, manifest: KubeObject) -> KubeObject:
        """Store a new object with uid, times and version filled in."""

    def set_status(self, resource: Resource, namespace: str, name: str, status: Mapping[str, Any]) -> None:
        """Replace the status; an object that is gone is left alone."""

    def patch(self, resource: Resource, namespace: str, name: str, patch: Mapping[str, Any]) -> KubeObject | None:
        """Merge a JSON merge patch into the object; None if it is gone."""

    def remove(self, resource: Resource, namespace: str, name: str) -> None:
        """Remove the object for good; gone already is success."""


class JobRunner:
    """Runs every unfinished Job of the table until `stop`.

    Args:
        objects: the table of objects.
        home: state directory; pods' files go to `pods/`, logs to `logs/`.
        command: what a stage pod runs.
        environment: base environment of the stages.
        cores: CPU that the pods may request together; one alone may exceed it.
        wants: tells whether a Job is to be run at all; others wait for a runner that wants them.
        now: the clock.
    """

    def __init__(
        self,
        objects: ObjectTable,
        home: Path,
        *,
        command: tuple[str, ...] = STAGE_COMMAND,
        environment: Mapping[str, str] | None = None,
        cores: float | None = None,
        wants: Callable[[KubeObject], bool] = lambda job: True,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._objects = objects
        self._home = home
        self._command = command
        self._environment = dict(os.environ if environment is None else environment)
        self._cores = float(cores or os.cpu_count() or 1)
        self._wants = wants
        self._now = now
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._processes: dict[tuple[str, int], ProcessGroup] = {}  # by the Job's uid and the node's index
        self._used: dict[str, float] = {}
        self._holders: dict[str, int] = {}  # how many nodes of a Job hold its room
        self._failed: set[str] = set()  # Jobs of which one node failed for good, while the others still leave
        self._room = asyncio.Condition()
        self._poke: asyncio.Task[None] | None = None
        self._stopping = False

    def start(self) -> None:
        """Take up every unfinished Job, adopting processes that an earlier runner left behind."""
        for job in self._objects.find_all("jobs"):
            self.wake(job)

    def wake(self, job: KubeObject) -> None:
        """Look at a Job that was created, changed or is to be deleted."""
        uid = job["metadata"]["uid"]
        if "deletionTimestamp" in job["metadata"] and uid in self._tasks:
            self._end(uid, job)
            self._poke = asyncio.get_running_loop().create_task(self._look_again())  # it may wait for room
        if uid in self._tasks:
            return
        if "deletionTimestamp" in job["metadata"] and not self._left_behind(job):
            self._forget(job)
            return
        if self._stopping or job_finished(job) or not self._wants(job):
            return
        if job["spec"].get("suspend"):  # it waits for a queue to admit it, and this machine's queue is never full
            meta = job["metadata"]
            self._objects.patch("jobs", meta["namespace"], meta["name"], {"spec": {"suspend": False}})
            return
        task = asyncio.get_running_loop().create_task(self._job(job), name=f"job {job['metadata']['name']}")
        self._tasks[uid] = task
        task.add_done_callback(lambda done: self._task_ended(uid, done))

    async def stop(self, grace_seconds: float) -> None:
        """Ask every pod to checkpoint and leave, wait for it, and kill what stays longer than the grace."""
        self._stopping = True
        await self._look_again()
        for process in self._processes.values():
            process.send(signal.SIGTERM)
        waiting = set(self._tasks.values())
        if waiting:
            _, late = await asyncio.wait(waiting, timeout=grace_seconds)
            for process in self._processes.values():
                process.send(signal.SIGKILL)
            if late:
                await asyncio.wait(late)

    def kill(self) -> None:
        """End every process at once; what is newer than its last checkpoint is lost."""
        for process in self._processes.values():
            process.send(signal.SIGKILL)

    @property
    def live(self) -> int:
        """How many processes run."""
        return len(self._processes)

    # -- one Job ------------------------------------------------------------------------------------------------

    async def _job(self, job: KubeObject) -> None:
        namespace, name = job["metadata"]["namespace"], job["metadata"]["name"]
        if not job.get("status", {}).get("startTime"):
            self._objects.set_status("jobs", namespace, name, {"startTime": self._time(), "active": 0})
        self._job_status(job, active=nodes_of(job))
        async with asyncio.TaskGroup() as nodes:
            tasks = [nodes.create_task(self._node(job, index)) for index in range(nodes_of(job))]
        verdicts = [task.result() for task in tasks]
        self._failed.discard(job["metadata"]["uid"])
        if self._going(job):
            self._forget(job)
            return
        reached = [verdict for verdict in verdicts if verdict is not None]
        failed = next((verdict for verdict in reached if verdict[0] == "Failed"), None)
        if failed is not None:
            self._finish_job(job, failed)
        elif len(reached) == len(tasks):
            self._finish_job(job, reached[0])
        else:  # the runner stops
            self._job_status(job, active=0)

    async def _node(self, job: KubeObject, index: int) -> Verdict | None:
        """Run one node's pods, one after the other, to the end that counts; None = it does not come to it here."""
        uid = job["metadata"]["uid"]
        if any(pod["status"].get("phase") == "Succeeded" for pod in self._pods(job, index)):
            return judge(job, "", Ended(0, ""))
        while True:
            pod = self._pod_to_go_on_with(job, index) or self._new_pod(job, index)
            ended = await self._pod(job, index, pod)
            if ended is None or self._leaving(job):
                return None
            verdict = judge(job, pod["metadata"]["name"], ended)
            if verdict is None:
                continue
            if verdict[0] == "Failed":  # for the other nodes, too
                self._failed.add(uid)
                self._end(uid, job)
                await self._look_again()
            return verdict

    async def _pod(self, job: KubeObject, index: int, pod: KubeObject) -> Ended | None:
        """Run the pod to its end; None if it was never started because the runner stops or the Job goes."""
        uid = job["metadata"]["uid"]
        process = self._adopt(pod)
        if process is not None:
            self._hold_room(job)
        else:
            if pod["status"].get("phase") == "Running":
                return self._finish_pod(pod, None)  # it ended while nobody was looking
            if not await self._take_room(job):
                self._objects.remove("pods", pod["metadata"]["namespace"], pod["metadata"]["name"])
                return None
        try:
            if process is None:
                process = await self._spawn(job, pod)
        except OSError as error:  # no memory, no disk, no interpreter: the table of exits decides what follows
            await self._give_room(uid)
            return self._finish_pod(pod, CANNOT_START, message=f"the stage's process could not be started: {error}")
        try:
            self._processes[uid, index] = process
            if self._leaving(job):
                self._end(uid, job)
            passed, code = await self._wait(job, index, process)
        finally:
            self._processes.pop((uid, index), None)
            await self._give_room(uid)
        return self._finish_pod(pod, code, deadline_passed=passed)

    async def _wait(self, job: KubeObject, index: int, process: ProcessGroup) -> tuple[bool, int | None]:
        deadline = job["spec"].get("activeDeadlineSeconds")
        left = None if deadline is None else max(0.0, deadline - self._spent_seconds(job, index))
        try:
            async with asyncio.timeout(left):
                return False, await process.wait()
        except TimeoutError:
            self._end(job["metadata"]["uid"], job)
            return True, await process.wait()

    def _end(self, uid: str, job: KubeObject) -> None:
        """Ask a Job's processes to leave; kill those that still run when their grace is over."""
        grace = job["spec"]["template"]["spec"].get("terminationGracePeriodSeconds", 30)
        for process in [each for (owner, _), each in self._processes.items() if owner == uid]:
            process.send(signal.SIGTERM)
            asyncio.get_running_loop().call_later(grace, process.send, signal.SIGKILL)

    def _leaving(self, job: KubeObject) -> bool:
        """Tell whether no pod of the Job is to be started any more."""
        return self._stopping or job["metadata"]["uid"] in self._failed or self._going(job)

    def _going(self, job: KubeObject) -> bool:
        current = self._objects.find("jobs", job["metadata"]["namespace"], job["metadata"]["name"])
        return current is None or "deletionTimestamp" in current["metadata"]

    def _task_ended(self, uid: str, task: asyncio.Task[None]) -> None:
        self._tasks.pop(uid, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("running Job uid=%s failed: %s", uid, error, exc_info=error)

    # -- room on the machine ------------------------------------------------------------------------------------

    async def _take_room(self, job: KubeObject) -> bool:
        """Wait for room for all nodes of the Job at once: half a team would wait for the rest and hold its cores."""
        uid, wanted = job["metadata"]["uid"], cpu_request(job) * nodes_of(job)
        async with self._room:
            await self._room.wait_for(
                lambda: (
                    self._leaving(job)
                    or uid in self._used
                    or not self._used
                    or sum(self._used.values()) + wanted <= self._cores
                )
            )
            if self._leaving(job):
                return False
            self._hold_room(job)
            return True

    def _hold_room(self, job: KubeObject) -> None:
        uid = job["metadata"]["uid"]
        self._used[uid] = cpu_request(job) * nodes_of(job)
        self._holders[uid] = self._holders.get(uid, 0) + 1

    async def _give_room(self, uid: str) -> None:
        self._holders[uid] -= 1
        if not self._holders[uid]:
            del self._holders[uid], self._used[uid]
        await self._look_again()

    async def _look_again(self) -> None:
        async with self._room:
            self._room.notify_all()

    # -- processes ----------------------------------------------------------------------------------------------

    def _adopt(self, pod: KubeObject) -> ProcessGroup | None:
        record = self._folder(pod) / "process.json"
        try:
            seen = json.loads(record.read_text())
        except (OSError, ValueError):
            return find_by_pod_uid(pod["metadata"]["uid"]) if pod["status"].get("phase") == "Running" else None
        process = ProcessGroup(seen["pid"], seen["startTicks"], None)
        return process if process.alive() else None

    async def _spawn(self, job: KubeObject, pod: KubeObject) -> ProcessGroup:
        folder = self._folder(pod)
        scratch = folder / "scratch"
        scratch.mkdir(parents=True, exist_ok=True)
        (folder / STAGE_FILE).write_text(self._stage_file(job))
        port = free_port()
        environment = self._environment | container_env(pod) | {
            "RATCHET_POD_UID": pod["metadata"]["uid"],
            "RATCHET_POD_NAME": pod["metadata"]["name"],
            "RATCHET_NODE_NAME": NODE_NAME,
            "RATCHET_STAGE_FILE": str(folder / STAGE_FILE),
            "RATCHET_TERMINATION_PATH": str(folder / "termination-log"),
            "RATCHET_PROGRESS_PORT": str(port),
            "RATCHET_PROGRESS_HOST": "127.0.0.1",
            "RATCHET_SCRATCH": str(scratch),
            "HOME": str(scratch),
            "PYTHONUNBUFFERED": "1",
            # each stage is a process of its own: without compiled files every one of them compiles torch for 15 s
            "PYTHONDONTWRITEBYTECODE": "",
            # nothing limits a process here as a pod's CPU limit would, so a stage takes the whole machine
            "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // nodes_of(job))),
            # as Kubernetes has it for a pod of an indexed Job, and the one address that no other machine reaches
            "JOB_COMPLETION_INDEX": str(index_of(pod)),
            "RATCHET_POD_IP": "127.0.0.1",
        }  # fmt: skip
        self._pod_running(pod, port)  # recorded before it exists: a crash here is seen as a pod that was lost
        logfile = self.log_path(pod)
        logfile.parent.mkdir(parents=True, exist_ok=True)
        with logfile.open("ab") as out:
            ours = await asyncio.create_subprocess_exec(
                *self._command,
                cwd=scratch,
                env=environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        ticks = start_ticks(ours.pid) or 0
        write_json(folder / "process.json", {"pid": ours.pid, "startTicks": ticks})
        return ProcessGroup(ours.pid, ticks, ours)

    def _stage_file(self, job: KubeObject) -> str:
        """Return the text of the stage file, which the pod template carries as an annotation."""
        annotations = job["spec"]["template"]["metadata"].get("annotations", {})
        if ANNOTATION_STAGE_INPUT not in annotations:
            title = f"Job {job['metadata']['namespace']}/{job['metadata']['name']}"
            raise FileNotFoundError(f"{title}: its pod template has no annotation {ANNOTATION_STAGE_INPUT}")
        return str(annotations[ANNOTATION_STAGE_INPUT])

    # -- what the cluster would write ---------------------------------------------------------------------------

    def _left_behind(self, job: KubeObject) -> bool:
        """Tell whether an earlier runner's process still works for this Job."""
        pods = (self._pod_to_go_on_with(job, index) for index in range(nodes_of(job)))
        return any(pod is not None and self._adopt(pod) is not None for pod in pods)

    def _pod_to_go_on_with(self, job: KubeObject, index: int) -> KubeObject | None:
        return next((p for p in self._pods(job, index) if p["status"].get("phase") in ("Pending", "Running")), None)

    def _pods(self, job: KubeObject, index: int | None = None) -> list[KubeObject]:
        """Pods of the Job, of one node or of all."""
        uid = job["metadata"]["uid"]
        owned = [
            p
            for p in self._objects.find_all("pods")
            if any(o["uid"] == uid for o in p["metadata"].get("ownerReferences", [])) and index in (None, index_of(p))
        ]
        return sorted(owned, key=lambda p: str(p["metadata"]["creationTimestamp"]))

    def _new_pod(self, job: KubeObject, index: int) -> KubeObject:
        meta = job["metadata"]
        numbered = job["spec"].get("completionMode") == "Indexed"
        template = job["spec"]["template"]
        labels = {
            **template.get("metadata", {}).get("labels", {}),
            "job-name": meta["name"],
            "batch.kubernetes.io/job-name": meta["name"],
        }
        owner = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "name": meta["name"],
            "uid": meta["uid"],
            "controller": True,
            "blockOwnerDeletion": True,
        }
        manifest: KubeObject = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": f"{meta['name']}-{f'{index}-' if numbered else ''}{secrets.token_hex(3)[:5]}",
                "namespace": meta["namespace"],
                "labels": labels,
                "annotations": {ANNOTATION_INDEX: str(index)} if numbered else {},
                "ownerReferences": [owner],
            },
            "spec": {**template["spec"], "nodeName": NODE_NAME},
        }
        pod = self._objects.insert("pods", manifest)
        pod["status"] = {
            "phase": "Pending",
            "conditions": [{"type": "PodScheduled", "status": "True", "lastTransitionTime": self._time()}],
        }
        self._objects.set_status("pods", meta["namespace"], pod["metadata"]["name"], pod["status"])
        return pod

    def _pod_running(self, pod: KubeObject, port: int) -> None:
        now = self._time()
        container = pod["spec"]["containers"][0]["name"]
        pod["status"] = {
            "phase": "Running",
            "podIP": "127.0.0.1",
            "startTime": now,
            "conditions": [
                {"type": kind, "status": "True", "lastTransitionTime": now} for kind in ("PodScheduled", "Ready")
            ],
            "containerStatuses": [
                {"name": container, "ready": True, "restartCount": 0, "state": {"running": {"startedAt": now}}}
            ],
        }
        write_json(self._folder(pod) / "port.json", {"port": port})
        self._objects.set_status("pods", pod["metadata"]["namespace"], pod["metadata"]["name"], pod["status"])

    def _finish_pod(
        self, pod: KubeObject, code: int | None, *, deadline_passed: bool = False, message: str = ""
    ) -> Ended:
        folder = self._folder(pod)
        with contextlib.suppress(OSError):
            message = (folder / "termination-log").read_text(errors="replace")[:4096]
        if code is None:
            code = code_from_message(message)
        now = self._time()
        status = pod["status"]
        started = status.get("startTime", now)
        name = pod["spec"]["containers"][0]["name"]
        terminated = {
            "exitCode": code,
            "reason": "Completed" if code == 0 else "Error",
            "message": message,
            "startedAt": started,
            "finishedAt": now,
        }
        ready = {"type": "Ready", "status": "False", "lastTransitionTime": now}
        pod["status"] = {
            **status,
            "phase": "Succeeded" if code == 0 else "Failed",
            "conditions": [*(c for c in status.get("conditions", []) if c["type"] != "Ready"), ready],
            "containerStatuses": [
                {"name": name, "ready": False, "restartCount": 0, "state": {"terminated": terminated}}
            ],
        }
        self._objects.set_status("pods", pod["metadata"]["namespace"], pod["metadata"]["name"], pod["status"])
        shutil.rmtree(folder, ignore_errors=True)
        return Ended(code, message, deadline_passed)

    def _job_status(self, job: KubeObject, *, active: int, **more: Any) -> None:
        meta = job["metadata"]
        current = self._objects.find("jobs", meta["namespace"], meta["name"])
        if current is not None:
            status = {**current.get("status", {}), "active": active, "ready": active, **more}
            self._objects.set_status("jobs", meta["namespace"], meta["name"], status)

    def _finish_job(self, job: KubeObject, verdict: Verdict) -> None:
        kind, reason, message = verdict
        now = self._time()
        early = "SuccessCriteriaMet" if kind == "Complete" else "FailureTarget"
        conditions = [
            {
                "type": each,
                "status": "True",
                "reason": reason,
                "message": message,
                "lastTransitionTime": now,
                "lastProbeTime": now,
            }
            for each in (early, kind)
        ]
        count = {"succeeded": nodes_of(job), "completionTime": now} if kind == "Complete" else {"failed": 1}
        self._job_status(job, active=0, conditions=conditions, terminating=0, **count)

    def _forget(self, job: KubeObject) -> None:
        for pod in self._pods(job):
            self._objects.remove("pods", pod["metadata"]["namespace"], pod["metadata"]["name"])
        self._objects.remove("jobs", job["metadata"]["namespace"], job["metadata"]["name"])

    def _spent_seconds(self, job: KubeObject, index: int) -> float:
        """Time that a node's ended pods ran; a laptop that was off does not use up a deadline."""
        spent = 0.0
        for pod in self._pods(job, index):
            for container in pod["status"].get("containerStatuses", []):
                ended = container["state"].get("terminated")
                if ended:
                    spent += (parse_time(ended["finishedAt"]) - parse_time(ended["startedAt"])).total_seconds()
        return spent

    # -- paths --------------------------------------------------------------------------------------------------

    def _folder(self, pod: KubeObject) -> Path:
        return self._home / "pods" / str(pod["metadata"]["uid"])

    def log_path(self, pod: KubeObject) -> Path:
        """Return the file that the pod's output goes to."""
        return self._home / "logs" / str(pod["metadata"]["namespace"]) / f"{pod['metadata']['name']}.log"

    def progress_port(self, pod: KubeObject) -> int | None:
        """Return the port at which the pod's progress is served, or None if it does not run."""
        try:
            return int(json.loads((self._folder(pod) / "port.json").read_text())["port"])
        except (OSError, ValueError, KeyError):
            return None

    def _time(self) -> str:
        return format_time(self._now())
