"""The `Cluster` protocol: the only door through which observe and apply touch the world.

Implemented by `http` (a Kubernetes API server), `memory` (tests) and `local` (subprocesses on this machine);
one contract suite runs against all of them. Objects are plain JSON dicts exactly as the API server serves them.
Decides nothing about runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, Protocol

KubeObject = dict[str, Any]

Resource = Literal[
    "feedbackdatasets",
    "rltrainingruns",
    "rlpolicies",
    "jobs",
    "pods",
    "configmaps",
    "deployments",
    "services",
    "poddisruptionbudgets",
    "httproutes",
]
"""Plural names of every resource the operator touches (events have their own verb)."""


class ClusterError(Exception):
    """Base of what a cluster call can raise.

    ClusterError
    ├── Conflict        409: the object changed or exists; read again
    ├── Rejected        400/403/404-on-namespace/422: the server will not take this object as it is
    │   ├── Forbidden   403 from RBAC: the operator lacks a verb
    │   └── Denied      403/400/422 from admission, quota or validation: the object is at fault
    └── Unavailable     429, 5xx, network, timeout: try again later
    """

    def __init__(self, message: str, *, status: int | None = None, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_seconds = retry_after_seconds


class Conflict(ClusterError):
    """The object changed since it was read, or exists already."""


class Rejected(ClusterError):
    """The server refuses the request; repeating it unchanged is pointless until something else changes."""


class Forbidden(Rejected):
    """The operator lacks the permission; the message names verb and resource."""


class Denied(Rejected):
    """Admission, quota or validation refuses the object; the message is the server's."""


class Unavailable(ClusterError):
    """The server did not answer properly; the queue tries again with backoff."""


class Cluster(Protocol):
    """What observe and apply may do. Every method is safe to repeat."""

    async def get(self, resource: Resource, namespace: str, name: str) -> KubeObject | None:
        """Return the object, or None if it does not exist."""

    async def list(
        self, resource: Resource, namespace: str | None, *, labels: Mapping[str, str] | None = None
    ) -> Sequence[KubeObject]:
        """Return all objects with these labels; namespace None = every watched namespace."""

    async def create(self, resource: Resource, manifest: KubeObject) -> KubeObject:
        """Create the object.

        Raises:
            Conflict: it exists already (the caller reads it and adopts it or fails loudly).
        """

    async def apply(self, resource: Resource, manifest: KubeObject, *, uid: str | None) -> KubeObject:
        """Make the object of that uid say what the manifest says, and leave the rest of it; uid None = create it.

        Raises:
            Conflict: it exists already, or the object of that uid is gone (the caller reads again).
        """

    async def delete(
        self, resource: Resource, namespace: str, name: str, *, uid: str, foreground: bool = False
    ) -> None:
        """Delete the object if it still has that uid; gone already is success. foreground = dependents first."""

    async def patch_status(self, resource: Resource, obj: KubeObject, status: Mapping[str, Any]) -> KubeObject:
        """Replace the whole status of `obj` through the status subresource, with obj's resourceVersion as lock.

        Raises:
            Conflict: the object changed since it was read.
        """

    async def emit(self, obj: KubeObject, *, type: Literal["Normal", "Warning"], reason: str, message: str) -> None:
        """Record a Kubernetes Event about the object; failure is logged and never raised."""

    async def events(self, obj: KubeObject) -> Sequence[KubeObject]:
        """Return the Events about exactly this object (by uid), at most 50.

        Asked only when a Job has no pod: the Job controller says nowhere else that a quota or an admission rule
        refuses the pod.
        """

    async def new_feedback(self, namespace: str, policy: str, since: datetime) -> int | str:
        """Ask the namespace's gateway how many events of feedback about a policy arrived after a time.

        The operator reads no store; whoever writes the log counts it. A text says why there is no number.
        """

    async def progress(self, pod: KubeObject) -> Mapping[str, Any] | None:
        """Ask the pod's /progress; None if it does not answer within two seconds."""

    async def routed(self, pod: KubeObject, versions: Sequence[int]) -> tuple[str, frozenset[int]]:
        """Ask a router's pod which table it applied, and which of these versions' servers it reaches.

        An empty table means that it did not answer within two seconds.
        """

    async def evidence(self, namespace: str, policy: str, experiment: str) -> Mapping[str, Any] | str:
        """Ask the namespace's analyst what it counted of an experiment; a text says why it does not tell."""

    async def measured(self, namespace: str, query: str) -> float | str:
        """Ask Prometheus for one finite number; a text says why there is none."""
