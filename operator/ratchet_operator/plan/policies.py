"""The rules of a policy: register versions, set the champion that was asked for, serve, stamp runs. Pure.

Numbers rise and are never used again. The champion changes when somebody asks for a registered version, or when a
version passed its trial on real traffic, which `plan.serving` has decided. Called once per pass by `reconcile`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from ratchet_api.base import API_VERSION, digest_of
from ratchet_api.conditions import ConditionType, Reason
from ratchet_api.names import (
    ANNOTATION_PROMOTE,
    LABEL_MANAGED_BY,
    LABEL_OWNER_KIND,
    LABEL_OWNER_NAME,
    LABEL_OWNER_UID,
    LABEL_POLICY,
    MANAGED_BY,
    asked_by,
    label_value,
    run_name_for_template,
)
from ratchet_api.policy import PolicyVersion, RLPolicySpec, RLPolicyStatus
from ratchet_api.rollout import RolloutStatus
from ratchet_operator.desired.child import owner_reference, with_hash
from ratchet_operator.plan import serving
from ratchet_operator.plan.rollout.world import Decision
from ratchet_operator.plan.say import Said, at_rest, progressing, settle, stalled, with_remedy
from ratchet_operator.plan.variants import asked_config, follow_generation, register_arms
from ratchet_operator.plan.versions import VERSIONS_LIMIT, make_room, served, with_champion
from ratchet_operator.plan.world import (
    NOW,
    CreateObject,
    Event,
    Meta,
    Plan,
    PolicyWorld,
    PublishableRun,
    Refusal,
)

PolicyPlan = Plan[RLPolicyStatus]
_METRICS_LIMIT = 16
_METRIC_KEY_LIMIT = 64
_REFUSED_SECONDS = 120.0
_BACKLOG_SECONDS = 30.0
_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


def plan_policy(world: PolicyWorld) -> PolicyPlan:
    """Decide what a pass does for a policy. Equal worlds give equal plans."""
    for rule in RULES:
        decided = rule(world)
        if decided is not None:
            return decided
    return _report(world)


def refused_policy(world: PolicyWorld, refusal: Refusal) -> PolicyPlan:
    """Record that the cluster refused to create the stamped run; tried again later."""
    message = with_remedy(refusal.reason, f"{world.meta.title}: {refusal.message}")
    said = (Said(ConditionType.READY, False, refusal.reason, message), *stalled(refusal.reason, message))
    return settle(world, world.status, "Stalled", said, requeue_after=world.settings.pause(_REFUSED_SECONDS))


def template_digest(spec: RLPolicySpec, dataset_digest: str, log_digest: str | None = None) -> str:
    """Digest of a run template and the snapshots it is stamped for; the run's name is a function of it."""
    if spec.training is None:
        raise ValueError("a policy without spec.training stamps nothing")
    template = spec.training.template.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_defaults=True)
    snapshots = {"dataset": dataset_digest} | ({} if log_digest is None else {"log": log_digest})
    return digest_of({"template": template, **snapshots})


def render_run(meta: Meta, spec: RLPolicySpec, name: str) -> dict[str, Any]:
    """Render the run that the policy stamps from its template."""
    if spec.training is None:
        raise ValueError(f"{meta.title}: there is no spec.training to stamp from")
    template = spec.training.template.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_defaults=True)
    labels = {
        LABEL_MANAGED_BY: MANAGED_BY,
        LABEL_OWNER_KIND: meta.kind,
        LABEL_OWNER_NAME: label_value(meta.name),
        LABEL_OWNER_UID: meta.uid,
        LABEL_POLICY: label_value(meta.name),
    }
    metadata = {
        "name": name,
        "namespace": meta.namespace,
        "labels": labels,
        "ownerReferences": [owner_reference(meta)],
    }
    run_spec = {**template, "policyType": spec.type, "publishTo": {"name": meta.name}}
    return with_hash({"apiVersion": API_VERSION, "kind": "RLTrainingRun", "metadata": metadata, "spec": run_spec})


def _leave_deleted(world: PolicyWorld) -> PolicyPlan | None:
    return Plan() if world.meta.deleting else None


def _refuse_invalid(world: PolicyWorld) -> PolicyPlan | None:
    if world.spec is not None:
        return None
    message = with_remedy(Reason.INVALID_SPEC, world.spec_error)
    said = (Said(ConditionType.READY, False, Reason.INVALID_SPEC, message), *stalled(Reason.INVALID_SPEC, message))
    return settle(world, world.status, "Invalid", said)


def _register(world: PolicyWorld) -> PolicyPlan | None:
    """Give numbers to runs that passed their gates, oldest first; one that still waits for its number is kept."""
    status = world.status
    known = {v.run_uid for v in status.versions}
    waiting = sorted(
        (run for run in world.runs if run.waiting and run.uid not in known),
        key=lambda run: (run.finished or _LONG_AGO, run.name, run.uid),
    )
    if not waiting:
        return None
    taken = {run.uid for run in world.runs if not run.numbered}
    versions, number, events = list(status.versions), status.next_version, []
    for run in waiting:
        room = make_room(versions, needed=served(status), taken=taken)
        if room is None:
            break
        versions = [*room, _version(world, run, number)]
        events.append(Event(Reason.VERSION_REGISTERED, f"Run {run.name!r} is version {number}."))
        number += 1
    if not events:
        # every row is the champion or waits to be read by its run: look again when those have read theirs
        return None
    status = status.model_copy(update={"versions": tuple(versions), "next_version": number})
    said = progressing(Reason.VERSION_REGISTERED, events[-1].message)
    return settle(world, status, world.status.state or "Ready", said, events=events, requeue_after=NOW)


def _version(world: PolicyWorld, run: PublishableRun, number: int) -> PolicyVersion:
    return PolicyVersion(
        version=number,
        run=run.name,
        run_uid=run.uid,
        uri=run.uri,
        digest=run.digest,
        dataset_digest=run.dataset_digest,
        code_version=run.code_version,
        base_model=run.base_model,
        labels=run.labels,
        metrics=_kept(run.metrics),
        published=world.now,
        generation=asked_config(world.spec),
    )


def _kept(metrics: Mapping[str, float]) -> dict[str, float]:
    """The numbers that a version's row holds: those of the whole before those of a class.

    The server returns them sorted by name, not in the order in which the stage said them. What the row cannot hold
    stands in the run's status and in evaluation.json.
    """
    fitting = sorted((name for name in metrics if len(name) <= _METRIC_KEY_LIMIT), key=lambda name: "/" in name)
    return {name: metrics[name] for name in fitting[:_METRICS_LIMIT]}


def _promote(world: PolicyWorld) -> PolicyPlan | None:
    """Act once on a new value of the promote annotation."""
    asked = world.meta.annotations.get(ANNOTATION_PROMOTE, "")[:64]
    status = world.status
    if asked == status.observed_promote:
        return None
    version = _asked_version(world, asked)
    refused = asked if version is None else ""
    seen = status.model_copy(update={"observed_promote": asked, "refused_promote": refused})
    if version is None or version.version == status.champion:
        return settle(world, seen, world.status.state or "Pending", (), requeue_after=NOW)
    who = asked_by(world.meta.annotations, asked)
    why = f"asked for by {who or ANNOTATION_PROMOTE}"
    event = Event(Reason.CHAMPION_SET, f"Version {version.version} is champion ({why}).")
    seen = with_champion(seen, version.version, world.now, why)
    return settle(world, seen, "Ready", (), events=(event,), requeue_after=NOW)


def _asked_version(world: PolicyWorld, asked: str) -> PolicyVersion | None:
    if not asked.isascii() or not asked.isdecimal():
        return None
    return next((v for v in world.status.versions if v.version == int(asked)), None)


def _stop_serving(world: PolicyWorld) -> PolicyPlan | None:
    """spec.serving was removed: nobody is on trial any more, then the children go."""
    status, rollout = world.status, world.status.rollout
    if world.spec is None or world.spec.serving is not None or rollout is None:
        return None
    stopped = serving.stopped(rollout)
    if stopped != rollout:
        text = "spec.serving was removed; servers and routers end."
        event = Event(Reason.SERVING_STOPPED, text)
        seen = status.model_copy(update={"rollout": stopped})
        said = progressing(Reason.SERVING_STOPPED, text)
        return settle(world, seen, status.state or "Ready", said, events=(event,), requeue_after=NOW)
    if actions := serving.children_actions(world):
        return settle(world, status, status.state or "Ready", (), actions=actions, requeue_after=_again(world, 5.0))
    return None


def _remember_who_deals(world: PolicyWorld) -> PolicyPlan | None:
    """Gateways begin or have ended to deal; stored first, so that no route is ever forgotten."""
    if world.settings.serving is None or world.serving.no_routes or (said := serving.stickiness(world)) is None:
        return None
    return settle(world, world.status, world.status.state or "Pending", (said,), requeue_after=NOW)


def _roll_out(world: PolicyWorld) -> PolicyPlan | None:
    """What the rollout decided is remembered; then the children are made as it wants them."""
    if not serving.serves(world) or world.serving.store is None or world.serving.no_routes:
        return None
    decision = serving.decide(world)
    before = world.status.rollout or RolloutStatus()
    if (decision.status, decision.champion) != (before, world.status.champion):
        seen = world.status.model_copy(update={"rollout": decision.status})
        seen = with_champion(seen, decision.champion, world.now, decision.message)
        return settle(
            world,
            seen,
            decision.state or world.status.state or "Pending",
            (),
            actions=serving.archives(world, decision),
            events=serving.events_of(decision),
            requeue_after=NOW,
        )
    if actions := serving.children_actions(world):
        said, state = _served_as(world, decision)
        return settle(world, world.status, state, said, actions=actions, requeue_after=_again(world, 1.0))
    return None


def _served_as(world: PolicyWorld, decision: Decision) -> tuple[tuple[Said, ...], str]:
    """What is said of a policy that is served, and its state."""
    rollout, told = world.status.rollout, serving.said_of(decision)
    state = decision.state or world.status.state or "Pending"
    if world.status.champion is None:
        return (told, *_no_champion(world)), "NoChampion"
    kstatus = at_rest(told.reason) if state in serving.AT_REST else progressing(told.reason, told.message)
    if rollout is None or rollout.serving is None:
        return (Said(ConditionType.READY, False, told.reason, told.message), told, *kstatus), state
    text = f"Version {world.status.champion} is champion."
    return (Said(ConditionType.READY, True, Reason.CHAMPION_SET, text), told, *kstatus), state


def _again(world: PolicyWorld, seconds: float | None) -> timedelta | None:
    return None if seconds is None else world.settings.pause(seconds)


def _stamp(world: PolicyWorld) -> PolicyPlan | None:
    """Create the template's run for the present snapshots of what it learns from, once."""
    spec, dataset = world.spec, world.dataset
    if spec is None or spec.training is None or spec.training.suspend or dataset is None:
        return None
    if not dataset.ready or dataset.snapshot is None:
        return None
    log = world.log.snapshot if world.log is not None and world.log.ready else None
    if spec.training.template.log_ref is not None and log is None:
        return None
    digest = template_digest(spec, dataset.snapshot.digest, None if log is None else log.digest)
    name = run_name_for_template(world.meta.name, digest)
    if world.status.latest_run == name:
        return None
    run = CreateObject("rltrainingruns", render_run(world.meta, spec, name))
    status = world.status.model_copy(update={"latest_run": name})
    text = f"Run {name!r} is stamped for snapshot {dataset.snapshot.digest[:12]}."
    event = Event(Reason.RUN_STAMPED, text)
    said = progressing(Reason.RUN_STAMPED, text)
    state = world.status.state or "Pending"
    return settle(world, status, state, said, actions=(run,), events=(event,), requeue_after=NOW)


RULES: tuple[Callable[[PolicyWorld], PolicyPlan | None], ...] = (
    _leave_deleted,  # the garbage collector works
    _refuse_invalid,  # a spec that the models refuse
    _register,  # runs that passed their gates get the next numbers
    _promote,  # a new value of the promote annotation is acted upon once
    _stop_serving,  # spec.serving was removed
    _remember_who_deals,  # whether a subject keeps its version, and whether there may be a route
    follow_generation,  # spec.serving.generation was changed
    register_arms,  # a test is about to begin whose arms have configs of their own
    _roll_out,  # which version people get, and the servers and routers for it
    _stamp,  # the template's run for the present snapshot
)


def _report(world: PolicyWorld) -> PolicyPlan:
    """The last rule: say which version is champion, or why none is, or what the annotation asks for in vain."""
    status = world.status
    backlog = any(run.waiting for run in world.runs) and len(status.versions) >= VERSIONS_LIMIT
    requeue = world.settings.pause(_BACKLOG_SECONDS) if backlog else None
    if status.refused_promote:
        return _report_refused(world, requeue)
    if world.spec is not None and world.spec.serving is not None:
        return _report_served(world, requeue)
    if status.champion is None:
        return settle(world, status, "NoChampion", _no_champion(world), requeue_after=requeue)
    text = f"Version {status.champion} is champion."
    said = Said(ConditionType.READY, True, Reason.CHAMPION_SET, text)
    return settle(world, status, "Ready", (said, *at_rest(Reason.CHAMPION_SET)), requeue_after=requeue)


def _report_refused(world: PolicyWorld, requeue: timedelta | None) -> PolicyPlan:
    status = world.status
    newest = max((v.version for v in status.versions), default=None)
    text = (
        f"{ANNOTATION_PROMOTE}: {status.refused_promote!r} was no version of {world.meta.title} when it was asked for"
    )
    text += f" (the newest is {newest})" if newest else " (it has none yet)"
    text += "; the champion stays. Take the annotation away or set another number"
    message = with_remedy(Reason.VERSION_NOT_FOUND, text)
    said = Said(ConditionType.READY, False, Reason.VERSION_NOT_FOUND, message)
    kstatus = stalled(Reason.VERSION_NOT_FOUND, message)
    if serving.serves(world) and world.serving.store is not None:
        decision = serving.decide(world)
        requeue = requeue or _again(world, decision.again_seconds)
        kstatus = (serving.said_of(decision), *kstatus)
    return settle(world, status, "VersionNotFound", (said, *kstatus), requeue_after=requeue)


def _report_served(world: PolicyWorld, requeue: timedelta | None) -> PolicyPlan:
    """Say how the rollout stands, or why nothing can be served."""
    if not serving.serves(world):
        return _cannot_serve(world, Reason.SERVING_NOT_CONFIGURED, "spec.serving is set")
    if world.serving.store is None:
        return _cannot_serve(world, Reason.STORE_NOT_CONFIGURED, "there is no store to load versions from")
    if world.serving.no_routes:
        return _cannot_serve(world, Reason.GATEWAY_API_MISSING, "spec.serving.httpRoute is set")
    decision = serving.decide(world)
    said, state = _served_as(world, decision)
    return settle(world, world.status, state, said, requeue_after=requeue or _again(world, decision.again_seconds))


def _cannot_serve(world: PolicyWorld, reason: Reason, what: str) -> PolicyPlan:
    message = with_remedy(reason, f"{world.meta.title}: {what}")
    said = (Said(ConditionType.READY, False, reason, message), *stalled(reason, message))
    return settle(world, world.status, "Stalled", said, requeue_after=world.settings.pause(_REFUSED_SECONDS))


def _no_champion(world: PolicyWorld) -> tuple[Said, ...]:
    text = f"{world.meta.title} has {len(world.status.versions)} version(s) and no champion"
    said = Said(ConditionType.READY, False, Reason.NO_VERSION, with_remedy(Reason.NO_VERSION, text))
    return (said, *at_rest(Reason.NO_VERSION))
