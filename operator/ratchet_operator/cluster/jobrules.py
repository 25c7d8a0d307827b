"""What a Job controller concludes: from a pod's end to a Job's verdict, and how a Job's template is read.

Pure. Used by `cluster.jobrunner`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from ratchet_api.names import ANNOTATION_INDEX
from ratchet_api.stage import ExitCode
from ratchet_operator.cluster.protocol import KubeObject

Verdict = tuple[str, str, str]
"""Type, reason and message of a Job's last condition."""

_COMMITTED_STATES = {"Committed", "AlreadyCommitted", "Superseded"}


@dataclass(frozen=True, slots=True)
class Ended:
    """How a pod's process ended."""

    code: int
    message: str
    deadline_passed: bool = False


def job_finished(job: KubeObject) -> bool:
    """Tell whether a Job is Complete or Failed."""
    return any(
        c["type"] in ("Complete", "Failed") and c["status"] == "True"
        for c in job.get("status", {}).get("conditions", [])
    )


def nodes_of(job: KubeObject) -> int:
    """Return how many pods the Job runs at a time, each under an index of its own."""
    return int(job["spec"].get("parallelism", 1))


def index_of(pod: KubeObject) -> int:
    """Return a pod's number in its Job; 0 in a Job that does not number them."""
    return int(pod["metadata"].get("annotations", {}).get(ANNOTATION_INDEX, 0))


def judge(job: KubeObject, pod_name: str, ended: Ended) -> Verdict | None:
    """Return the Job's final condition (type, reason, message), or None if the pod is to be replaced.

    A pod of several that ended well completes the Job only once all have.

    Follows the Job controller: the deadline first, then podFailurePolicy rules in order, then backoffLimit.
    """
    meta = job["metadata"]
    if ended.code == 0:
        return "Complete", "CompletionsReached", "Reached expected number of succeeded pods"
    if ended.deadline_passed:
        return "Failed", "DeadlineExceeded", "Job was active longer than specified deadline"
    for index, rule in enumerate(job["spec"].get("podFailurePolicy", {}).get("rules", [])):
        codes = rule.get("onExitCodes")
        if codes is None:
            continue
        inside = ended.code in codes["values"]
        if inside != (codes["operator"] == "In"):
            continue
        if rule["action"] == "Ignore":
            return None
        container = job["spec"]["template"]["spec"]["containers"][0]["name"]
        where = f"Container {container} for pod {meta['namespace']}/{pod_name}"
        return (
            "Failed",
            "PodFailurePolicy",
            f"{where} failed with exit code {ended.code} matching {rule['action']} rule at index {index}",
        )
    return "Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit"


def cpu_request(job: KubeObject) -> float:
    """Return the cores that the Job's container requests."""
    text = str(
        job["spec"]["template"]["spec"]["containers"][0].get("resources", {}).get("requests", {}).get("cpu", "0")
    )
    return float(text[:-1]) / 1000 if text.endswith("m") else float(text)


def container_env(pod: KubeObject) -> dict[str, str]:
    """Return the plain values of the container's environment; what comes from the cluster is given otherwise."""
    return {e["name"]: str(e["value"]) for e in pod["spec"]["containers"][0].get("env", []) if "value" in e}


def code_from_message(message: str) -> int:
    """Exit code of a process whose end nobody saw: committed if it said so, else asked to leave (tried again)."""
    try:
        state = json.loads(message).get("state")
    except (ValueError, AttributeError):
        state = None
    return int(ExitCode.OK) if state in _COMMITTED_STATES else int(ExitCode.TERMINATED)
