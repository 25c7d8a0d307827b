"""Read what a policy's serving shows: our objects, what each router says of itself, what the analyst counted.

Never decides and never writes. Called by `observe` for policies with `spec.serving` alone, so that others cost nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from ratchet_api.assign import experiment_of, salt_of
from ratchet_api.names import ANNOTATION_TABLE, LABEL_COMPONENT, LABEL_OWNER_UID
from ratchet_api.policy import RLPolicyStatus
from ratchet_api.rollout import RolloutStatus
from ratchet_operator.cluster.protocol import Cluster, KubeObject, Resource
from ratchet_operator.plan.rollout.table import wanted_servers
from ratchet_operator.plan.sights import condition_of, controller_of, table_of, text_of
from ratchet_operator.plan.world import Meta, RouterSight, ServingSight

ROUTER, SERVER = "router", "server"
_HELD: tuple[tuple[Resource, str | None], ...] = (("deployments", None), ("services", None), ("configmaps", ROUTER))
"""What serves a policy, and the component by which it is told from what else we own."""


async def serving_sight(cluster: Cluster, meta: Meta, status: RLPolicyStatus) -> ServingSight:
    """Return what is seen, without the store."""
    rollout = status.rollout or RolloutStatus()
    children = await children_of(cluster, meta)
    versions = wanted_servers(rollout, status.champion)
    routers = await _routers(cluster, meta, versions) if children else ()
    evidence = await _evidence(cluster, meta, rollout)
    return ServingSight(children=children, routers=routers, evidence=evidence)


async def children_of(cluster: Cluster, meta: Meta) -> tuple[tuple[Resource, KubeObject], ...]:
    """Return what serves the policy and is ours by its controlling owner, not by its label alone."""
    found: list[tuple[Resource, KubeObject]] = []
    for resource, component in _HELD:
        labels = {LABEL_OWNER_UID: meta.uid} | ({LABEL_COMPONENT: component} if component else {})
        listed = await cluster.list(resource, meta.namespace, labels=labels)
        found += [(resource, obj) for obj in listed if controller_of(obj).get("uid") == meta.uid]
    return tuple(found)


async def _routers(cluster: Cluster, meta: Meta, versions: Sequence[int]) -> tuple[RouterSight, ...]:
    """Ask the pods that take traffic, all at once: those that are ready and do not end."""
    labels = {LABEL_OWNER_UID: meta.uid, LABEL_COMPONENT: ROUTER}
    pods = [pod for pod in await cluster.list("pods", meta.namespace, labels=labels) if _takes_traffic(pod)]
    answers = await asyncio.gather(*(cluster.routed(pod, versions) for pod in pods))
    return tuple(_router(pod, *answer) for pod, answer in zip(pods, answers, strict=True))


def _takes_traffic(pod: KubeObject) -> bool:
    ready = condition_of(table_of(pod.get("status")).get("conditions"), "Ready")
    return bool(ready) and not table_of(pod.get("metadata")).get("deletionTimestamp")


def _router(pod: KubeObject, table: str, reaches: frozenset[int]) -> RouterSight:
    meta = table_of(pod.get("metadata"))
    told = text_of(table_of(meta.get("annotations")).get(ANNOTATION_TABLE))
    return RouterSight(text_of(meta.get("name")), text_of(meta.get("uid")), told, table, reaches)


async def _evidence(cluster: Cluster, meta: Meta, rollout: RolloutStatus) -> Mapping[str, Any] | str | None:
    """Nothing is asked before somebody got the candidate."""
    if rollout.candidate is None or rollout.step < 0:
        return None
    experiment = experiment_of(salt_of(meta.uid, rollout.experiment))
    return await cluster.evidence(meta.namespace, meta.name, experiment)
