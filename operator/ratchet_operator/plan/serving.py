"""Serve a policy: the rollout decided, and the children that it needs told apart from those that are there. Pure.

A pass either changes what the rollout remembers or changes children, so that a crash between the two leaves nothing
that the next pass does not see. Never decides who gets what: `plan.rollout` does. Called by `plan.policies`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from ratchet_api.assign import WHOLE
from ratchet_api.attempts import Artifact
from ratchet_api.conditions import ConditionType, Reason, find_condition
from ratchet_api.evidence import ExperimentEvidence
from ratchet_api.names import (
    ANNOTATION_ROLLOUT,
    ANNOTATION_SPEC_HASH,
    ANNOTATION_TABLE,
    LABEL_COMPONENT,
    LABEL_VERSION,
    asked_by,
    route_name,
    server_name,
)
from ratchet_api.placement import Resources
from ratchet_api.policy import RLPolicyStatus
from ratchet_api.rollout import Rollout, RolloutStatus, rules_of
from ratchet_api.serving import Serving
from ratchet_api.stats.errors import BadEvidence
from ratchet_operator.cluster.protocol import KubeObject, Resource
from ratchet_operator.desired.http_route import COMPONENT as ROUTE
from ratchet_operator.desired.http_route import render_http_route
from ratchet_operator.desired.router_table import RouterTable, table_version
from ratchet_operator.desired.serving import (
    ROUTER,
    SERVER,
    Routers,
    Servers,
    render_budget,
    render_history,
    render_routers,
    render_servers,
)
from ratchet_operator.plan.rollout import plan_rollout
from ratchet_operator.plan.rollout.changes import no_trial
from ratchet_operator.plan.rollout.table import applied, wanted_servers, wanted_table
from ratchet_operator.plan.rollout.world import Counted, Decision, Replica, RolloutWorld, Turn
from ratchet_operator.plan.say import Said, with_remedy
from ratchet_operator.plan.sights import table_of, text_of
from ratchet_operator.plan.variants import arm_numbers, asked_config
from ratchet_operator.plan.world import Action, ApplyObject, CreateObject, DeleteObject, Event, PolicyWorld
from ratchet_operator.settings import Platform, StoreSettings

_TOUCH_SECONDS = 5
_BUDGETS: Resource = "poddisruptionbudgets"
_PLURALS: Mapping[str, Resource] = {
    "Deployment": "deployments",
    "Service": "services",
    "ConfigMap": "configmaps",
    "PodDisruptionBudget": _BUDGETS,
    "HTTPRoute": "httproutes",
}
_WARNINGS = frozenset({Turn.ROLLED_BACK, Turn.REFUSED, Turn.NOT_OBEYED})
REASON_OF_STATE: Mapping[str, Reason] = {
    "NoChampion": Reason.NO_VERSION,
    "Preparing": Reason.PREPARING,
    "Applying": Reason.APPLYING,
    "Shadowing": Reason.SHADOWING,
    "Ramping": Reason.RAMPING,
    "Holding": Reason.HOLDING,
    "Paused": Reason.PAUSED,
    "OtherLabels": Reason.OTHER_LABELS,
    "WaitingForPromotion": Reason.WAITING_FOR_PROMOTION,
    "Ready": Reason.CHAMPION_SET,
}
"""Why not everybody gets the champion with nobody on trial, by the state of the rollout."""
AT_REST = frozenset({"NoChampion", "Paused", "OtherLabels", "WaitingForPromotion", "Ready"})
"""States in which nothing happens by itself."""


def serves(world: PolicyWorld) -> bool:
    """Whether this policy is to be served, and can be here."""
    return world.spec is not None and world.spec.serving is not None and world.settings.serving is not None


def decide(world: PolicyWorld) -> Decision:
    """Return what the rollout does now."""
    return plan_rollout(rollout_world(world))


def rollout_world(world: PolicyWorld, status: RLPolicyStatus | None = None) -> RolloutWorld:
    """Return the policy's world as its rollout sees it.

    Args:
        world: what was read.
        status: in place of the stored one.
    """
    status, spec = status or world.status, world.spec
    rollout = status.rollout or RolloutStatus()
    asked = (spec.rollout if spec is not None else None) or Rollout()
    counted, problem = _counted(world.serving.evidence, rollout, asked)
    arms = {version: _counted(told, rollout, asked) for version, told in world.serving.arms.items()}
    problem = problem or next((why for _, why in arms.values() if why), "")
    serving = spec.serving if spec is not None else None
    command = world.meta.annotations.get(ANNOTATION_ROLLOUT, "")
    config, variants = asked_config(spec), [row for row in status.versions if row.variant_of is not None]
    return RolloutWorld(
        now=world.now,
        namespace=world.meta.namespace,
        policy=world.meta.name,
        uid=world.meta.uid,
        spec=asked,
        status=rollout,
        champion=status.champion,
        versions={row.version: row.identity for row in status.versions},
        configs={row.version: row.generation for row in status.versions if row.generation is not None},
        renewed={row.version: row.variant_of for row in variants if row.variant_of and row.generation == config},
        unasked=frozenset(row.version for row in variants if row.generation != config),
        configured=arm_numbers(spec, status.versions),
        labels={version.version: version.labels for version in status.versions if version.labels is not None},
        troubles=world.serving.troubles,
        ready=frozenset(ready_versions(world.serving.children)),
        replicas=tuple(Replica(router.table, router.reaches) for router in world.serving.routers),
        counted=counted,
        arms={version: known for version, (known, _) in arms.items() if known is not None},
        command=command,
        asked_by=asked_by(world.meta.annotations, command),
        trials=spec is not None and spec.rollout is not None,
        problem=problem,
        measured=world.serving.measured,
        tester_header=None if serving is None else (serving.http_route or serving.routers).tester_header,
        explore=round(serving.explore_percent * WHOLE / 100) if serving is not None else 0,
        gateways=world.serving.gateways,
    )


def events_of(decision: Decision) -> tuple[Event, ...]:
    """Return the events of a decision."""
    return tuple(
        Event(Reason(said.turn.value), said.text, "Warning" if said.turn in _WARNINGS else "Normal")
        for said in decision.said
    )


def archives(world: PolicyWorld, decision: Decision) -> tuple[Action, ...]:
    """Return what keeps the rows that leave the status; it is stored before the status is."""
    if not decision.archived:
        return ()
    return (CreateObject("configmaps", render_history(world.meta, decision.archived)),)


def stopped(rollout: RolloutStatus) -> RolloutStatus:
    """Return what is remembered when nothing is served any more: numbers and rows, and no trial."""
    return rollout.model_copy(update=no_trial(rollout, "spec.serving was removed") | {"serving": None, "leaving": ()})


def said_of(decision: Decision) -> Said:
    """Return the condition RolledOut."""
    done = decision.state == "Ready"
    reason = Reason.CHAMPION_SET if done else REASON_OF_STATE.get(decision.state, Reason.RAMPING)
    return Said(
        ConditionType.ROLLED_OUT, done, reason, decision.message if done else with_remedy(reason, decision.message)
    )


def gateways_deal(status: RLPolicyStatus) -> bool:
    """Whether it is remembered that Gateways deal or dealt, so that there may be a route."""
    sticky = find_condition(status.conditions, ConditionType.STICKY)
    return sticky is not None and sticky.status == "False"


def stickiness(world: PolicyWorld) -> Said | None:
    """Return the condition Sticky where it is to change; it is stored before there is a route, and after it is gone."""
    serving = world.spec.serving if world.spec is not None else None
    asked = serving is not None and serving.http_route is not None
    if asked == gateways_deal(world.status):
        return None
    if asked:
        text = (
            f"HTTPRoute {route_name(world.meta.name)!r} deals each request by itself: who comes twice during a trial "
            "may get both versions, and with more than one such subject in a thousand nothing is decided."
        )
        told = with_remedy(Reason.DEALT_BY_GATEWAYS, text)
        return Said(ConditionType.STICKY, False, Reason.DEALT_BY_GATEWAYS, told)
    if any(resource == "httproutes" for resource, _ in world.serving.children):
        return None
    return Said(ConditionType.STICKY, True, Reason.DEALT_BY_ROUTERS, "No Gateway deals requests any more.")


def children_actions(world: PolicyWorld) -> tuple[Action, ...]:
    """Return what makes the children be as the stored status wants them; none = they are."""
    spec, platform, store = world.spec, world.settings.serving, world.serving.store
    if spec is not None and spec.serving is None:
        return tuple(_deletions(world, wanted=(), budgets=frozenset(), dealing=()))
    if spec is None or spec.serving is None or platform is None or store is None:
        return ()
    seen = rollout_world(world)
    versions, table = wanted_servers(seen.status, seen.champion), wanted_table(seen)
    if table is None:
        return ()  # no champion yet, or one that was forgotten: whatever runs goes on
    servers = _servers(world, spec.serving, platform, store, versions)
    gateways = spec.serving.http_route
    if gateways is None:
        dealing, before, deals = ROUTER, ROUTE, _routers(world, spec.serving, platform, table)
    else:
        dealing, before, deals = ROUTE, ROUTER, (render_http_route(world.meta, gateways, table),)
    wanted = [*servers, *deals]
    budgets = [made for each in wanted if each["kind"] == "Deployment" and (made := render_budget(each)) is not None]
    kept = (dealing,) if applied(seen) else (dealing, before)
    return (
        *_applications(world, [*wanted, *budgets]),
        *(_touches(world, table) if gateways is None else ()),
        *_deletions(world, wanted=versions, budgets=frozenset(map(_name, budgets)), dealing=kept),
    )


def _servers(
    world: PolicyWorld, serving: Serving, platform: Platform, store: StoreSettings, versions: Sequence[int]
) -> Iterator[dict[str, Any]]:
    """Servers of the versions whose rows are there; those of a forgotten version stay as they are."""
    rows = {row.version: row for row in world.status.versions}
    for version in versions:
        if (row := rows.get(version)) is not None:
            request = Servers(
                owner=world.meta,
                version=version,
                artifact=Artifact(uri=row.uri, digest=row.digest),
                store=store,
                replicas=serving.replicas,
                resources=serving.resources,
                placement=serving.placement,
                engine=serving.engine,
                generation=row.generation,
            )
            yield from render_servers(request, platform)


def _routers(world: PolicyWorld, serving: Serving, platform: Platform, table: RouterTable) -> Sequence[dict[str, Any]]:
    asked = serving.routers
    resources = Resources(cpu=asked.cpu, memory_gi=asked.memory_gi, ephemeral_storage_gi=0.1)
    request = Routers(owner=world.meta, replicas=asked.replicas, resources=resources, cookie=asked.subject_cookie)
    return render_routers(request, table, platform)


def _applications(world: PolicyWorld, wanted: Sequence[dict[str, Any]]) -> Iterator[ApplyObject]:
    there = {(resource, _name(obj)): obj for resource, obj in world.serving.children}
    for manifest in wanted:
        resource = _PLURALS[manifest["kind"]]
        found = there.get((resource, _name(manifest)))
        if found is None:
            yield ApplyObject(resource, manifest)
        elif _drifted(manifest, found):
            yield ApplyObject(resource, manifest, uid=text_of(table_of(found.get("metadata")).get("uid")))


def _drifted(manifest: dict[str, Any], found: KubeObject) -> bool:
    """Whether the child is not as we render it, or somebody changed by hand what must never be otherwise."""
    if _hash(manifest) != _hash(found):
        return True
    if "data" in manifest:
        return bool(table_of(found.get("data")) != manifest["data"])
    mine, theirs = manifest["spec"], table_of(found.get("spec"))
    if manifest["kind"] == "HTTPRoute":
        return not _holds(theirs, mine)
    return any(theirs.get(part) != mine[part] for part in ("replicas", "selector", "maxUnavailable") if part in mine)


def _holds(theirs: Any, mine: Any) -> bool:
    """Whether a stored value says all of ours; a server adds the defaults of what we leave out."""
    if isinstance(mine, dict):
        return isinstance(theirs, Mapping) and all(_holds(theirs.get(key), part) for key, part in mine.items())
    if isinstance(mine, list):
        return isinstance(theirs, list) and len(theirs) == len(mine) and all(map(_holds, theirs, mine))
    return bool(theirs == mine)


def _touches(world: PolicyWorld, table: RouterTable) -> Iterator[ApplyObject]:
    """Pods with another table are annotated anew, by which their kubelets look at the ConfigMap at once."""
    version = table_version(table)
    note = f"{version}.{int(world.now.timestamp()) // _TOUCH_SECONDS}"
    for router in world.serving.routers:
        if router.table not in ("", version) and router.told != note:
            meta = {"name": router.name, "namespace": world.meta.namespace, "annotations": {ANNOTATION_TABLE: note}}
            yield ApplyObject("pods", {"apiVersion": "v1", "kind": "Pod", "metadata": meta}, uid=router.uid)


def _deletions(
    world: PolicyWorld, *, wanted: Sequence[int], budgets: frozenset[str], dealing: Sequence[str]
) -> Iterator[DeleteObject]:
    """What nobody needs: servers of other versions, budgets of single pods, whoever deals when another does.

    Args:
        world: what was read.
        wanted: versions whose servers stay.
        budgets: names of budgets that stay.
        dealing: components that deal: the one that was asked for and, until it does, the one before.
    """
    names = {server_name(world.meta.name, version) for version in wanted}
    for resource, obj in world.serving.children:
        meta = table_of(obj.get("metadata"))
        labels = table_of(meta.get("labels"))
        kept = _name(obj) in names if LABEL_VERSION in labels else labels.get(LABEL_COMPONENT) in dealing
        if resource == _BUDGETS and labels.get(LABEL_COMPONENT) in (*dealing[:1], SERVER):
            kept = kept and _name(obj) in budgets
        if not kept and not meta.get("deletionTimestamp"):
            yield DeleteObject(resource, world.meta.namespace, _name(obj), uid=text_of(meta.get("uid")))


def ready_versions(children: Sequence[tuple[Resource, KubeObject]]) -> Iterator[int]:
    """Return versions with a server that answers: its pod is ready, which it is after a request to warm up."""
    for resource, obj in children:
        meta = table_of(obj.get("metadata"))
        version = text_of(table_of(meta.get("labels")).get(LABEL_VERSION))
        ready = table_of(obj.get("status")).get("readyReplicas")
        if resource == "deployments" and version.isdecimal() and isinstance(ready, int) and ready > 0:
            yield int(version)


def _counted(
    told: Mapping[str, Any] | str | None, rollout: RolloutStatus, asked: Rollout
) -> tuple[Counted | None, str]:
    """Return what was counted, or None and why nothing can be decided by it."""
    if told is None or isinstance(told, str):
        return None, told or ""
    try:
        seen = ExperimentEvidence.model_validate(told)
        latency = asked.judged.latency
        counted = seen.evidence(rules_of(asked.judged), slow=None if latency is None else latency.p99_milliseconds)
    except ValidationError as error:
        return None, f"the analyst's answer cannot be read: {json.dumps(error.errors()[0]['loc'])}"
    except BadEvidence as error:
        return None, f"the analyst's answer contradicts itself: {error}"
    if seen.problem:
        return None, seen.problem
    return Counted(rollout.experiment, counted, seen.shadow), ""


def _name(obj: Mapping[str, Any]) -> str:
    return text_of(table_of(obj.get("metadata")).get("name"))


def _hash(obj: Mapping[str, Any]) -> str:
    return text_of(table_of(table_of(obj.get("metadata")).get("annotations")).get(ANNOTATION_SPEC_HASH))
