"""Rules that refuse a run which cannot or may not start: invalid, not allowed, changed after the start, no store. Pure.

Each refusal is a condition with the remedy and heals by itself when the cause is gone.
"""

from __future__ import annotations

from ratchet_api.conditions import ConditionType, Reason
from ratchet_api.training_run import RLTrainingRunStatus
from ratchet_operator.plan.allowed import not_allowed
from ratchet_operator.plan.runs.state import current_stage, image_of, immutable_digest, spec_of
from ratchet_operator.plan.say import Said, settle, stalled, with_remedy
from ratchet_operator.plan.world import Plan, RunWorld

RunPlan = Plan[RLTrainingRunStatus]
_STORE_RECHECK_SECONDS = 60.0


def refuse_invalid_spec(world: RunWorld) -> RunPlan | None:
    """A spec that the models or the allow-lists refuse starts nothing (the API server's schema may be older or off)."""
    if world.spec is None:
        return _refuse(world, "Invalid", Reason.INVALID_SPEC, world.spec_error)
    refused = not_allowed(world.meta.title, image_of(world), world.spec.placement, world.settings)
    return None if refused is None else _refuse(world, "Invalid", *refused)


def refuse_changed_spec(world: RunWorld) -> RunPlan | None:
    """A started run whose immutable part changed starts nothing new until the change is reverted."""
    resolved = world.status.resolved
    if resolved is None or resolved.spec_digest == immutable_digest(spec_of(world)):
        return None
    text = f"{world.meta.title}: spec was changed after the run started (only suspend and ttlSecondsAfterFinished may)"
    return _refuse(world, "Invalid", Reason.SPEC_CHANGED, text)


def require_store(world: RunWorld) -> RunPlan | None:
    """Without a store nothing can be read or committed; with another than at the start, nothing would be found."""
    resolved, store = world.status.resolved, world.store
    starting = current_stage(world.status) is not None and world.sight.job is None
    if resolved is not None and not starting:
        return None
    if store is None:
        text = f"{world.meta.title}: namespace {world.meta.namespace!r} has no store"
    elif resolved is not None and store.uri != resolved.store_uri:
        text = f"{world.meta.title}: the store is {store.uri} now, but the run began in {resolved.store_uri}, where its"
        text += " inputs and stages are; name that one again, or make a new run"
    else:
        return None
    return _refuse(world, "Pending", Reason.STORE_NOT_CONFIGURED, text, recheck=_STORE_RECHECK_SECONDS)


def _refuse(world: RunWorld, state: str, reason: Reason, detail: str, *, recheck: float | None = None) -> RunPlan:
    message = with_remedy(reason, detail)
    said = list(stalled(reason, message))
    if any(c.type == ConditionType.RUNNING for c in world.status.conditions) and world.sight.job is None:
        said.append(Said(ConditionType.RUNNING, False, reason))
    requeue = None if recheck is None else world.settings.pause(recheck)
    return settle(world, world.status, state, said, requeue_after=requeue)
