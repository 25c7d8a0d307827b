"""kopf as alarm clock: every event of our kinds and our children marks keys dirty, and nothing more.

Decides which resources are watched, how kopf rides out trouble, and which keys an event concerns. No kopf
annotation, finalizer, daemon, timer or patch is used, so nothing of kopf is ever stored in the cluster. Called by
`__main__`, which runs what `operator_tasks` returns.

How each kind of trouble ends in kopf 1.45.2 (tests/contract/test_cluster_outage.py shows each):
- the stream breaks, times out or is silent for 70 s, or says 410: kopf watches on, or lists anew;
- 5xx, 403, 429 or no connection: kopf repeats for ten minutes (`ERROR_BACKOFFS`); after that the task fails and the
  process exits, except that a refused connection while listing is repeated for ever;
- an error object other than 410 in the stream, 410 for a page of a list, 404: the task fails, the process exits;
- a watch that was cancelled is never replaced: the heartbeat notices and the process exits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import Any, cast

import kopf

from ratchet_api.base import GROUP, VERSION
from ratchet_api.names import FIELD_MANAGER, LABEL_MANAGED_BY, MANAGED_BY
from ratchet_operator.cluster.connect import Connection
from ratchet_operator.cluster.protocol import Resource
from ratchet_operator.controllers.heartbeat import LEASE_NAME
from ratchet_operator.controllers.index import Index
from ratchet_operator.metrics import Metrics
from ratchet_operator.sightings import Sightings
from ratchet_operator.wakes import OUR_RESOURCES, Key, key_of, keys_to_wake

CHILDREN: tuple[Resource, ...] = ("jobs", "pods")
SERVING_CHILDREN: tuple[Resource, ...] = (*CHILDREN, "deployments")
"""Where policies are served; elsewhere we have no right to watch Deployments."""
ERROR_BACKOFFS = (1.0, 2.0, 4.0, 8.0, 15.0, *([30.0] * 19))
"""Pauses between repeats of a failed request: ten minutes in all, then the process exits and is started anew."""

_CHILD_GROUPS = {"jobs": ("batch", "v1"), "pods": ("", "v1"), "deployments": ("apps", "v1")}
_PAGE = 100


class _NoDiffs(kopf.DiffBaseStorage):
    """Spares kopf from copying every object twice per event for handlers of differences, which we have none of."""

    def build(self, *, body: Any, extra_fields: Any = None) -> Any:
        """Return nothing to compare."""
        return {}

    def fetch(self, *, body: Any) -> Any:
        """Return nothing remembered."""
        return None

    def store(self, *, body: Any, patch: Any, essence: Any) -> None:
        """Keep nothing."""


class Watching:
    """Turns watch events into marks.

    Args:
        mark: asks for a pass over a key.
        index: who names whom.
        metrics: hears of every event.
        saw_lease: takes the heartbeat's Lease.
        sightings: get every new run.
        is_echo: whether a revision is our own last write. It wakes nobody who made it: the pass that wrote it knew
            it, and asked for another pass if it wanted one.
    """

    def __init__(
        self,
        *,
        mark: Callable[[Key], None],
        index: Index,
        metrics: Metrics,
        saw_lease: Callable[[dict[str, Any]], None],
        sightings: Sightings | None = None,
        is_echo: Callable[[str, dict[str, Any]], bool] = lambda _resource, _obj: False,
    ) -> None:
        self._mark = mark
        self._index = index
        self._metrics = metrics
        self._saw_lease = saw_lease
        self._sightings = sightings or Sightings()
        self._is_echo = is_echo

    def kind_event(self, resource: Resource, type: str | None, obj: dict[str, Any]) -> None:
        """Take an event of one of our kinds."""
        self._metrics.watch_event(resource)
        key = key_of(resource, obj)
        if type == "DELETED":
            self._sightings.gone(key)
            concerns_others = self._index.remove(key, str(obj["metadata"].get("uid", "")))
            if concerns_others and resource == "rltrainingruns":
                self._metrics.run_gone(key.namespace, key.name)
            if concerns_others and resource == "rlpolicies":
                self._metrics.policy_gone(key.namespace, key.name)
        else:
            self._sightings.saw(key, obj)
            concerns_others = self._index.update(key, obj)
            if resource == "rltrainingruns":
                self._metrics.run_seen(obj)
            if resource == "rlpolicies":
                self._metrics.policy_seen(obj)
        # The key itself even when it is gone: its pass sees that and drops what it had planned for later.
        woken = {key, *keys_to_wake(resource, obj), *(self._index.namers(key) if concerns_others else ())}
        if type != "DELETED" and self._is_echo(resource, obj):
            woken.discard(key)
        for each in woken:
            self._mark(each)

    def child_event(self, resource: Resource, type: str | None, obj: dict[str, Any]) -> None:
        """Take an event of a Job or Pod that carries our label."""
        self._metrics.watch_event(resource)
        if type != "DELETED" and self._is_echo(resource, obj):
            return
        for key in keys_to_wake(resource, obj):
            self._mark(key)

    def lease_event(self, obj: dict[str, Any]) -> None:
        """Take an event of the heartbeat's Lease."""
        self._metrics.watch_event("leases")
        self._saw_lease(obj)


def make_registry(
    watching: Watching, connection: Callable[[], Connection], children: Collection[Resource] = CHILDREN
) -> kopf.OperatorRegistry:
    """Return kopf's registry of our handlers; an empty one of our own, so kopf adds no login of its choice.

    Handlers are coroutines although they never wait: kopf would run plain functions in threads.
    """
    registry = kopf.OperatorRegistry()

    def login(**_: Any) -> kopf.ConnectionInfo:
        # Asked again whenever a request was refused with 401, so a rotated token is read anew.
        return connection().info

    kopf.on.login(registry=registry, id="login")(login)

    def on_kind(resource: Resource) -> None:
        async def handle(*, event: Any, **_: Any) -> None:
            watching.kind_event(resource, event["type"], event["object"])

        kopf.on.event(GROUP, VERSION, resource, registry=registry, id=resource)(handle)

    def on_child(resource: Resource) -> None:
        async def handle(*, event: Any, **_: Any) -> None:
            watching.child_event(resource, event["type"], event["object"])

        group, version = _CHILD_GROUPS[resource]
        kopf.on.event(group, version, resource, registry=registry, id=resource)(handle)

    for kind in OUR_RESOURCES:
        on_kind(kind)
    for child in children:
        on_child(child)

    async def on_lease(*, event: Any, **_: Any) -> None:
        if event["type"] != "DELETED":
            watching.lease_event(event["object"])

    kopf.on.event("coordination.k8s.io", "v1", "leases", registry=registry, id="leases")(on_lease)
    return registry


def make_settings(*, time_scale: float = 1.0) -> kopf.OperatorSettings:
    """Return kopf's settings; its own waits scale as ours do."""
    settings = kopf.OperatorSettings()
    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 5
    settings.networking.error_backoffs = [pause * time_scale for pause in ERROR_BACKOFFS]
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 330  # above the server's, so that the server ends a stream, orderly
    settings.watching.connect_timeout = 10
    settings.watching.reconnect_backoff = 1.0 * time_scale
    settings.watching.inactivity_timeout = 70 * max(time_scale, 0.02)
    settings.watching.chunk_size = _PAGE
    ours = f"{LABEL_MANAGED_BY}={MANAGED_BY}"
    for child, (group, version) in _CHILD_GROUPS.items():
        settings.watching.label_selectors[group, version, child] = ours
    # By name, so that RBAC can allow this one Lease and no other.
    settings.watching.field_selectors["coordination.k8s.io", "v1", "leases"] = f"metadata.name={LEASE_NAME}"
    settings.queueing.idle_timeout = 1.0  # a task per object lives this long after its last event
    settings.queueing.exit_timeout = 2.0
    settings.persistence.diffbase_storage = _NoDiffs()
    settings.posting.enabled = False
    settings.peering.standalone = True
    settings.scanning.disabled = True  # namespaces and kinds are fixed at start; needs no right to watch either
    settings.process.ultimate_exiting_timeout = None  # it would kill the whole process, whoever hosts us
    return settings


async def operator_tasks(
    watching: Watching,
    *,
    connection: Callable[[], Connection],
    namespaces: Collection[str],
    children: Collection[Resource] = CHILDREN,
    time_scale: float = 1.0,
) -> Collection[Any]:
    """Start kopf's tasks; empty namespaces = the whole cluster. They end only in failure or when cancelled."""
    tasks: Collection[Any] = await kopf.spawn_tasks(
        registry=make_registry(watching, connection, children),
        settings=make_settings(time_scale=time_scale),
        clusterwide=not namespaces,
        namespaces=list(namespaces),
        # only peering would use it, which is off; left out, kopf asks for the user's name, and a pod's uid has none
        identity=cast(Any, FIELD_MANAGER),
    )
    return tasks


def watch_tasks() -> Collection[asyncio.Task[Any]]:
    """Return kopf's tasks that watch one resource each.

    They must be cancelled before anything else of kopf's: when its orchestrator fails it leaves them running, and
    one that is cancelled together with the helpers it waits for never ends.
    """
    return {task for task in asyncio.all_tasks() if task.get_name().startswith("watcher for ")}
