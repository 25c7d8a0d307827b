"""Read what a policy's serving shows: our objects, what each router or Gateway says, what the analyst counted.

Never decides and never writes. Called by `observe` for policies with `spec.serving` alone, so that others cost nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ratchet_api.assign import experiment_of, salt_of
from ratchet_api.fixed_shares import arm_experiment
from ratchet_api.names import ANNOTATION_TABLE, LABEL_COMPONENT, LABEL_OWNER_UID, LABEL_VERSION
from ratchet_api.policy import RLPolicySpec, RLPolicyStatus
from ratchet_api.queries import Query
from ratchet_api.queries import text_of as query_text
from ratchet_api.rollout import RolloutStatus
from ratchet_operator.cluster.protocol import Cluster, KubeObject, Resource, Unavailable
from ratchet_operator.desired.http_route import lacking
from ratchet_operator.desired.serving import ROUTER, SERVER
from ratchet_operator.plan.rollout.table import wanted_servers
from ratchet_operator.plan.rollout.trouble import trouble_of
from ratchet_operator.plan.rollout.world import Measured, Trouble
from ratchet_operator.plan.serving import gateways_deal, ready_versions
from ratchet_operator.plan.sights import condition_of, controller_of, table_of, text_of
from ratchet_operator.plan.world import Meta, RouterSight, ServingSight

NOT_FOUND = 404
_HELD: tuple[tuple[Resource, str | None], ...] = (
    ("deployments", None),
    ("services", None),
    ("poddisruptionbudgets", None),
    ("configmaps", ROUTER),
)
"""What serves a policy, and the component by which it is told from what else we own."""


async def serving_sight(cluster: Cluster, meta: Meta, status: RLPolicyStatus, spec: RLPolicySpec) -> ServingSight:
    """Return what is seen, without the store.

    Args:
        cluster: is read.
        meta: of the policy.
        status: of it.
        spec: of it; it is served, by routers or by Gateways.
    """
    rollout = status.rollout or RolloutStatus()
    versions = wanted_servers(rollout, status.champion)
    evidence = await _evidence(cluster, meta, rollout)
    measured = await _measured(cluster, meta, rollout, () if spec.rollout is None else spec.rollout.judged.queries)
    arms = await _arms(cluster, meta, rollout)
    sight = ServingSight(evidence=evidence, arms=arms, measured=measured)
    asked = None if spec.serving is None else spec.serving.http_route
    if asked is None:
        children = await children_of(cluster, meta, status)
        routers = await _routers(cluster, meta, versions) if children else ()
        troubles = await _troubles(cluster, meta, rollout, children, versions)
        return replace(sight, children=children, routers=routers, troubles=troubles)
    try:
        children = await children_of(cluster, meta, status, routed=True)
    except Unavailable as error:
        if error.status != NOT_FOUND:
            raise
        return replace(sight, gateways="", no_routes=True)
    routes = [route for resource, route in children if resource == "httproutes"]
    lacks = "; ".join(lacking(route, asked.parent_refs) for route in routes) if routes else "it is not made"
    return replace(
        sight,
        children=children,
        routers=tuple(_route(route, versions, taken=not lacks) for route in routes),
        gateways=lacks,
        troubles=await _troubles(cluster, meta, rollout, children, versions),
    )


async def children_of(
    cluster: Cluster, meta: Meta, status: RLPolicyStatus, *, routed: bool = False
) -> tuple[tuple[Resource, KubeObject], ...]:
    """Return what serves the policy and is ours by its controlling owner, not by its label alone.

    Args:
        cluster: the world.
        meta: of the policy.
        status: of the policy; HTTPRoutes are looked for only if it remembers that Gateways deal.
        routed: look for them in any case.

    Raises:
        Unavailable: with status 404 where `routed` and the cluster knows no HTTPRoute.
    """
    found: list[tuple[Resource, KubeObject]] = []
    for resource, component in _HELD:
        labels = {LABEL_OWNER_UID: meta.uid} | ({LABEL_COMPONENT: component} if component else {})
        listed = await cluster.list(resource, meta.namespace, labels=labels)
        found += [(resource, obj) for obj in listed if controller_of(obj).get("uid") == meta.uid]
    if routed or gateways_deal(status):
        found += await _routes_of(cluster, meta, needed=routed)
    return tuple(found)


async def _routes_of(cluster: Cluster, meta: Meta, *, needed: bool) -> list[tuple[Resource, KubeObject]]:
    try:
        listed = await cluster.list("httproutes", meta.namespace, labels={LABEL_OWNER_UID: meta.uid})
    except Unavailable as error:
        if needed or error.status != NOT_FOUND:
            raise
        return []  # the kind was removed from the cluster, and all of its objects with it
    return [("httproutes", obj) for obj in listed if controller_of(obj).get("uid") == meta.uid]


def _route(route: KubeObject, versions: Sequence[int], *, taken: bool) -> RouterSight:
    """See the route as one router: Gateways tell whether they took it, and not whom they reach."""
    meta = table_of(route.get("metadata"))
    table = text_of(table_of(meta.get("annotations")).get(ANNOTATION_TABLE))
    return RouterSight(
        text_of(meta.get("name")), text_of(meta.get("uid")), table, table if taken else "", frozenset(versions)
    )


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


async def _troubles(
    cluster: Cluster,
    meta: Meta,
    rollout: RolloutStatus,
    children: Sequence[tuple[Resource, KubeObject]],
    versions: Sequence[int],
) -> Mapping[int, Trouble]:
    """Ask the servers' pods how they are, while somebody is on trial or somebody's servers do not answer."""
    trial = rollout.candidate is not None or rollout.testing is not None
    if not children or (not trial and set(versions) <= set(ready_versions(children))):
        return {}
    labels = {LABEL_OWNER_UID: meta.uid, LABEL_COMPONENT: SERVER}
    pods: dict[int, list[KubeObject]] = {}
    for pod in await cluster.list("pods", meta.namespace, labels=labels):
        said = table_of(pod.get("metadata"))
        version = text_of(table_of(said.get("labels")).get(LABEL_VERSION))
        if version.isdecimal() and not said.get("deletionTimestamp"):
            pods.setdefault(int(version), []).append(pod)
    return {version: trouble_of(found) for version, found in pods.items()}


async def _evidence(cluster: Cluster, meta: Meta, rollout: RolloutStatus) -> Mapping[str, Any] | str | None:
    """Nothing is asked before somebody asked the candidate."""
    if rollout.candidate is None or (rollout.step < 0 and not rollout.shadowed):
        return None
    experiment = experiment_of(salt_of(meta.uid, rollout.experiment))
    return await cluster.evidence(meta.namespace, meta.name, experiment)


async def _arms(cluster: Cluster, meta: Meta, rollout: RolloutStatus) -> Mapping[int, Mapping[str, Any] | str]:
    """Ask for the counts of every version of a test that subjects are dealt, all at once."""
    test = rollout.testing
    if test is None or not test.dealt:
        return {}
    versions = [arm.version for arm in test.live]
    ids = [arm_experiment(meta.uid, test.experiment, version) for version in versions]
    told = await asyncio.gather(*(cluster.evidence(meta.namespace, meta.name, each) for each in ids))
    return dict(zip(versions, told, strict=True))


async def _measured(
    cluster: Cluster, meta: Meta, rollout: RolloutStatus, queries: Sequence[Query]
) -> Mapping[tuple[str, int], Measured]:
    """Ask for the user's own numbers of a candidate that somebody gets, all at once."""
    version, champion = rollout.candidate, rollout.serving
    if version is None or champion is None or rollout.step < 0:
        return {}

    async def one(query: str) -> float | str:
        text = query_text(query, namespace=meta.namespace, policy=meta.name, version=version, champion=champion)
        return await cluster.measured(meta.namespace, text)

    async def read(query: Query) -> Measured:
        value = await one(query.query)
        alive = None if query.alive is None else await one(query.alive)
        problem = value if isinstance(value, str) else f"its query `alive`: {alive}" if isinstance(alive, str) else ""
        return Measured(None if isinstance(value, str) else value, None if isinstance(alive, str) else alive, problem)

    found = await asyncio.gather(*(read(query) for query in queries))
    return {(query.name, version): seen for query, seen in zip(queries, found, strict=True)}
