"""Job controller, queue, scheduler and kubelet of the in-memory cluster, as a test's script says.

`JobScript.step` moves every Job and pod on by one step, so a test decides when anything happens; nothing here waits
or sleeps. What each pod does is answered by `play`, a function of the Job's labels; the statuses that are written are
those of a real controller and kubelet. For tests only.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from ratchet_api.base import digest_of, format_time
from ratchet_api.label_sets import LabelSet
from ratchet_api.names import ANNOTATION_INDEX, ANNOTATION_STAGE_INPUT, LABEL_ATTEMPT, LABEL_STAGE, STAGE_CONTAINER
from ratchet_api.stage import UNCOUNTED_EXITS, EvaluateConfig, StageInput
from ratchet_operator.cluster.jobrules import index_of, nodes_of
from ratchet_operator.cluster.memory import MemoryCluster
from ratchet_operator.cluster.protocol import KubeObject


@dataclass(frozen=True, slots=True)
class Act:
    """What one pod does.

    Attributes:
        exit_code: how it ends; None = it runs until the script says otherwise.
        message: its termination message.
        steps: how many steps it runs before it ends.
        exit_reason: the kubelet's word, such as OOMKilled.
        disrupted: it carries the DisruptionTarget condition when it ends.
        waiting: it never starts: the container's waiting reason and message.
        unschedulable: it never gets a node: the scheduler's message.
        refused: its Job never gets a pod: the Job controller's event.
        nodes: what single nodes of a stage of several do instead, by index.
    """

    exit_code: int | None = 0
    message: str = ""
    steps: int = 1
    exit_reason: str = ""
    disrupted: bool = False
    waiting: tuple[str, str] | None = None
    unschedulable: str = ""
    refused: str = ""
    nodes: Mapping[int, Act] = field(default_factory=dict)

    def of(self, index: int) -> Act:
        """What the node of that index does."""
        return self.nodes.get(index, self)


Play = Callable[[StageInput, int], Act]
"""What the n-th pod (from 1) of an attempt's node does, told its stage.json."""


def committed(stage: StageInput, *, metrics: Mapping[str, float] | None = None, **result: Any) -> Act:
    """A pod that commits and exits 0, with a message as a real stage writes it."""
    digest = digest_of([stage.config.stage, stage.input_digest])
    artifact = {"uri": f"{stage.store.uri}/{stage.prefix}/1-00000000", "digest": digest}
    said: dict[str, Any] = {"state": "Committed", "result": {"metrics": dict(metrics or {}), **result}}
    if stage.config.stage in ("supervised", "reward-model", "rl", "evaluate"):
        said["artifact"] = artifact
    return Act(message=json.dumps(said))


def snapshot_result(digest: str, uri: str = "file:///store/snapshots", train: int = 80) -> dict[str, Any]:
    """The result of a snapshot stage."""
    counts = {"read": train + 20, "kept": train + 20, "train": train, "validation": 10, "test": 10}
    return {"digest": digest, "uri": f"{uri}/{digest}", "counts": counts, "classes": 2}


def choice_of(config: EvaluateConfig, *, chosen: str, why: str = "") -> dict[str, Any]:
    """The choice in an evaluation's result; none where there is nothing to choose from."""
    if len(config.candidates) + (config.start is not None) < 2:
        return {}
    baseline = "start" if config.start is not None else "supervised"
    return {"choice": {"candidate": "rl", "baseline": baseline, "chosen": chosen, "why": why}}


def golden(stage: StageInput, _: int) -> Act:
    """Every stage succeeds at once, with good numbers."""
    if stage.config.stage == "snapshot":
        return committed(stage, snapshot=snapshot_result(digest_of(stage.config.to_wire())))
    if stage.config.stage == "resolve":
        return committed(stage, hits={})
    if stage.config.stage == "evaluate":
        metrics = {"accuracy": 0.9, "macro_f1": 0.85, "ece": 0.02, "f1/spam": 0.8}
        labels = LabelSet.of(("ham", "spam")).to_wire()
        return committed(stage, metrics=metrics, labels=labels, **choice_of(stage.config, chosen="rl"))
    return committed(stage, metrics={"loss": 0.1})


@dataclass
class JobScript:
    """Plays the controllers for one `MemoryCluster`.

    Attributes:
        cluster: whose Jobs and pods are moved.
        play: what each pod does.
        queue_admits: whether suspended Jobs with a queue are admitted.
        grace_steps: how many steps a deleted pod takes to write its checkpoint and leave.
        started: (owner uid, stage, attempt, pod) of every pod that ever ran, in order.
    """

    cluster: MemoryCluster
    play: Play = golden
    queue_admits: bool = True
    grace_steps: int = 0
    started: list[tuple[str, str, str, str]] = field(default_factory=list)
    _age: dict[str, int] = field(default_factory=dict)
    _pods: dict[str, int] = field(default_factory=dict)
    _leaving: dict[str, int] = field(default_factory=dict)

    def step(self) -> None:
        """Garbage-collect, end deleted pods, then move every Job and pod on by one step."""
        objects = self.cluster.objects
        objects.collect()
        for pod in objects.select("pods"):
            self._step_pod(pod)
        for job in objects.select("jobs"):
            self._step_job(job)
        objects.collect()

    def _now(self) -> str:
        return format_time(self.cluster.clock())

    def _step_job(self, job: KubeObject) -> None:
        status = dict(job.get("status") or {})
        if "deletionTimestamp" in job["metadata"] or _ended(status):
            return
        if job["spec"].get("suspend"):
            if self.queue_admits:
                self.cluster.objects.update("jobs", *_name(job), {"spec": {"suspend": False}})
            return
        status.setdefault("startTime", self._now())
        pods = self._pods_of(job)
        verdict = _job_verdict(pods, job)
        if verdict is None:
            self._make_missing(job, pods)
        live = [pod for pod in self._pods_of(job) if _phase(pod) not in ("Succeeded", "Failed")]
        if verdict is not None and verdict[0] != "Complete":
            for pod in live:  # the Job is over for the other nodes, too
                self.cluster.objects.delete("pods", *_name(pod), uid=pod["metadata"]["uid"])
        status["active"] = len(live)
        if verdict is not None and not live:
            status |= self._conclusion(*verdict)
        elif self._past_deadline(job, status):
            for pod in live:
                self.cluster.objects.delete("pods", *_name(pod), uid=pod["metadata"]["uid"])
            status |= self._conclusion("DeadlineExceeded", "Job was active longer than specified deadline")
        self.cluster.objects.set_status("jobs", job, status, locked=False)

    def _conclusion(self, reason: str, message: str) -> dict[str, Any]:
        kind = "Complete" if reason == "Complete" else "Failed"
        condition = {"type": kind, "status": "True", "reason": reason, "message": message}
        done: dict[str, Any] = {"active": 0, "conditions": [{**condition, "lastTransitionTime": self._now()}]}
        return done | ({"succeeded": 1, "completionTime": self._now()} if kind == "Complete" else {"failed": 1})

    def _past_deadline(self, job: KubeObject, status: Mapping[str, Any]) -> bool:
        started = datetime.fromisoformat(status["startTime"].replace("Z", "+00:00"))
        allowed: int | None = job["spec"].get("activeDeadlineSeconds")
        return allowed is not None and (self.cluster.clock() - started).total_seconds() >= allowed

    def _pods_of(self, job: KubeObject) -> list[KubeObject]:
        uid = job["metadata"]["uid"]
        pods = self.cluster.objects.select("pods", job["metadata"]["namespace"])
        return [p for p in pods if any(o["uid"] == uid for o in p["metadata"].get("ownerReferences", []))]

    def _make_missing(self, job: KubeObject, pods: list[KubeObject]) -> None:
        """Give every node a pod that has none, or of which the last one failed."""
        for index in range(nodes_of(job)):
            of_node = [pod for pod in pods if index_of(pod) == index]
            if all(_phase(pod) == "Failed" for pod in of_node):
                self._make_pod(job, index, len(of_node))

    def _make_pod(self, job: KubeObject, index: int, number: int) -> None:
        act = self.play(self._stage(job), number + 1).of(index)
        if act.refused:
            event = {"reason": "FailedCreate", "message": act.refused, "lastTimestamp": self._now()}
            self.cluster.event_objects[job["metadata"]["uid"]] = [event]
            return
        template = job["spec"]["template"]
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": job["metadata"]["name"], "controller": True}
        name = f"{job['metadata']['name']}-{number:05d}"
        template_metadata = template["metadata"]
        if job["spec"].get("completionMode") == "Indexed":
            name = f"{job['metadata']['name']}-{index}-{number:05d}"
            numbered = {**template_metadata["annotations"], ANNOTATION_INDEX: str(index)}
            template_metadata = {**template_metadata, "annotations": numbered}
        metadata = {
            **template_metadata,
            "name": name,
            "namespace": job["metadata"]["namespace"],
            "ownerReferences": [{**owner, "uid": job["metadata"]["uid"]}],
        }
        pod = self.cluster.objects.create("pods", {"kind": "Pod", "metadata": metadata, "spec": template["spec"]})
        self._pods[pod["metadata"]["uid"]] = number + 1
        self.cluster.objects.set_status("pods", pod, {"phase": "Pending"}, locked=False)

    def _stage(self, obj: KubeObject) -> StageInput:
        """Read stage.json as the pod does: from the annotation that its volume names."""
        pod = obj["spec"].get("template", obj)
        return StageInput.model_validate_json(pod["metadata"]["annotations"][ANNOTATION_STAGE_INPUT])

    def _step_pod(self, pod: KubeObject) -> None:
        status = pod.get("status") or {"phase": "Pending"}
        uid, over = pod["metadata"]["uid"], status["phase"] in ("Succeeded", "Failed")
        if "deletionTimestamp" in pod["metadata"]:
            self._leaving[uid] = self._leaving.get(uid, 0) + 1
            if over or self._leaving[uid] > self.grace_steps:
                self.cluster.objects.remove("pods", *_name(pod))
            return
        if over or LABEL_STAGE not in pod["metadata"].get("labels", {}):
            return
        act = self.play(self._stage(pod), self._pods.get(uid, 1)).of(index_of(pod))
        if status["phase"] == "Pending":
            self.cluster.objects.set_status("pods", pod, self._starting(pod, act), locked=False)
            return
        self._age[uid] = self._age.get(uid, 0) + 1
        if act.exit_code is not None and self._age[uid] >= act.steps:
            self.cluster.objects.set_status("pods", pod, self._ending(act), locked=False)

    def _starting(self, pod: KubeObject, act: Act) -> dict[str, Any]:
        if act.unschedulable:
            row = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": act.unschedulable}
            return {"phase": "Pending", "conditions": [row]}
        if act.waiting:
            state = {"waiting": {"reason": act.waiting[0], "message": act.waiting[1]}}
            return {"phase": "Pending", "containerStatuses": [{"name": STAGE_CONTAINER, "state": state}]}
        labels = pod["metadata"]["labels"]
        owner = labels["ratchet.dev/owner-uid"]
        self.started.append((owner, labels[LABEL_STAGE], labels[LABEL_ATTEMPT], pod["metadata"]["name"]))
        spec = {"spec": {"nodeName": f"node-{len(self.started)}"}}
        self.cluster.objects.update("pods", *_name(pod), spec)
        state = {"running": {"startedAt": self._now()}}
        return {"phase": "Running", "containerStatuses": [{"name": STAGE_CONTAINER, "state": state}]}

    def _ending(self, act: Act) -> dict[str, Any]:
        ended = {
            "exitCode": act.exit_code,
            "message": act.message,
            "reason": act.exit_reason or ("Completed" if act.exit_code == 0 else "Error"),
            "finishedAt": self._now(),
        }
        status: dict[str, Any] = {
            "phase": "Succeeded" if act.exit_code == 0 else "Failed",
            "containerStatuses": [{"name": STAGE_CONTAINER, "state": {"terminated": ended}}],
        }
        if act.disrupted:
            status["conditions"] = [{"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}]
        return status


def _name(obj: KubeObject) -> tuple[str, str]:
    return obj["metadata"]["namespace"], obj["metadata"]["name"]


def _phase(pod: KubeObject) -> str:
    return str((pod.get("status") or {}).get("phase", "Pending"))


def _job_verdict(pods: list[KubeObject], job: KubeObject) -> tuple[str, str] | None:
    """A pod that fails for good fails the Job; it is complete once a pod of every node ended well."""
    verdicts = {index_of(pod): v for pod in pods if (v := _verdict(pod, job["spec"]))}
    failed = next((v for v in verdicts.values() if v[0] != "Complete"), None)
    return failed or (verdicts[0] if len(verdicts) == nodes_of(job) else None)


def _ended(status: Mapping[str, Any]) -> bool:
    return any(c["status"] == "True" for c in status.get("conditions", []))


def _verdict(pod: KubeObject, spec: Mapping[str, Any]) -> tuple[str, str] | None:
    """What the Job's failure policy makes of an ended pod: Complete, a failure, or None = replaced."""
    status = pod.get("status") or {}
    if status.get("phase") not in ("Succeeded", "Failed"):
        return None
    ended = status["containerStatuses"][0]["state"]["terminated"]
    code = ended["exitCode"]
    if code == 0:
        return "Complete", "Reached expected number of succeeded pods"
    disrupted = any(c["type"] == "DisruptionTarget" for c in status.get("conditions", []))
    if disrupted or code in UNCOUNTED_EXITS:
        return None
    rules = len(spec["podFailurePolicy"]["rules"])
    return (
        "PodFailurePolicy",
        f"Container stage failed with exit code {code} matching FailJob rule at index {rules - 1}",
    )
