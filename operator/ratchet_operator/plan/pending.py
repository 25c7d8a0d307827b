"""Why does the pod not run yet? The answer as a reason and a message that names what to mend.

Pure; called by `attempts.judge` for a Job that neither ended nor has a running pod. Never changes anything: waiting
heals by itself as soon as the cause is gone.
"""

from __future__ import annotations

import re

from ratchet_api.conditions import Reason
from ratchet_operator.plan.say import with_remedy
from ratchet_operator.plan.world import PodSight, StageSight

_PULL = frozenset({"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable"})
_CONFIG = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError", "StartError"})


# what the quota admission says; the word alone may be part of anybody's name
_QUOTA = re.compile(r"\b(exceeded|failed|insufficient) quota\b|\bstatus unknown for quota\b")


def refusal_reason(message: str) -> Reason:
    """Tell from the server's text why it refused to create an object."""
    text = message.lower()
    if _QUOTA.search(text):
        return Reason.QUOTA_EXCEEDED
    if "cannot create resource" in text or "cannot get resource" in text or "cannot delete resource" in text:
        return Reason.FORBIDDEN
    return Reason.ADMISSION_DENIED


def why_waiting(sight: StageSight) -> tuple[Reason, str]:
    """Return why the recorded attempt has no running pod.

    Args:
        sight: an attempt whose Job exists, is not over and has no running container.
    """
    job = sight.job
    name = job.name if job else ""
    if job and job.suspended:
        return Reason.WAITING_FOR_QUEUE, with_remedy(
            Reason.WAITING_FOR_QUEUE, f"Job {name!r} is suspended until its queue admits it"
        )
    if sight.pod is not None and not sight.pod.over and not sight.pod.started:
        return _why_pod_waits(sight.pod)
    if sight.refused_pods:
        reason = refusal_reason(sight.refused_pods)
        return reason, with_remedy(reason, f"Job {name!r} cannot create its pod: {sight.refused_pods}")
    what = f"{len(sight.team)} of {job.nodes} pods" if job and sight.team and sight.short else "no pod yet"
    return Reason.WAITING_FOR_POD, with_remedy(Reason.WAITING_FOR_POD, f"Job {name!r} has {what}")


def _why_pod_waits(pod: PodSight) -> tuple[Reason, str]:
    if pod.unschedulable:
        return Reason.UNSCHEDULABLE, with_remedy(
            Reason.UNSCHEDULABLE, f"No node takes pod {pod.name!r}: {pod.unschedulable}"
        )
    if pod.waiting_reason in _PULL:
        detail = f"Pod {pod.name!r} cannot get its image ({pod.waiting_reason}): {pod.waiting_message}"
        return Reason.IMAGE_PULL_FAILED, with_remedy(Reason.IMAGE_PULL_FAILED, detail)
    if pod.waiting_reason in _CONFIG:
        detail = f"Pod {pod.name!r} cannot start ({pod.waiting_reason}): {pod.waiting_message}"
        return Reason.POD_CONFIG_ERROR, with_remedy(Reason.POD_CONFIG_ERROR, detail)
    return Reason.WAITING_FOR_POD, with_remedy(Reason.WAITING_FOR_POD, f"Pod {pod.name!r} is starting")
