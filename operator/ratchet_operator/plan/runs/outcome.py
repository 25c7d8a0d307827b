"""The last rule: every stage is committed, so judge the gates, publish, and be Complete. Pure.

A failed gate completes the run without publishing. If RL failed or made nothing better, what it started from is
published in its place. A run that publishes waits until the policy lists its uid; the
policy alone gives numbers, so two runs can never take the same one.
"""

from __future__ import annotations

from ratchet_api.base import ObjectRef
from ratchet_api.conditions import ConditionType, Reason
from ratchet_api.gates import judge_gate, told
from ratchet_api.resolved import GateResult
from ratchet_api.stage import Stage
from ratchet_api.training_run import RLTrainingRunStatus
from ratchet_operator.plan.runs.lost import START, rl_lost
from ratchet_operator.plan.runs.state import FINISHED_STATES, poll, spec_of, stage_named
from ratchet_operator.plan.say import Said, at_rest, progressing, settle, stalled, with_remedy
from ratchet_operator.plan.world import Event, Plan, PolicySight, RunWorld

RunPlan = Plan[RLTrainingRunStatus]
_POLICY_RECHECK_SECONDS = 60.0


def conclude(world: RunWorld) -> RunPlan:
    """Judge the gates, then publish or end."""
    evaluated = stage_named(world.status, Stage.EVALUATE)
    if evaluated is None or evaluated.state not in FINISHED_STATES:
        raise ValueError(f"{world.meta.title}: concluded before every stage was finished")
    results = tuple(judge_gate(gate, evaluated.metrics) for gate in spec_of(world).evaluation.gates)
    status = world.status.model_copy(
        update={
            "metrics": dict(evaluated.metrics),
            "gates": results,
            "artifact": evaluated.artifact,
            "stage": Stage.EVALUATE.value,
        }
    )
    failed, lost = [result for result in results if not result.passed], rl_lost(world.status)
    if failed:
        words = [told(result) for result in failed] + ([lost.text] if lost is not None else [])
        return _not_published(world, status, Reason.GATE_FAILED, "; ".join(words))
    if lost is not None and lost.baseline == START:
        return _not_published(world, status, lost.reason, lost.text)  # it is published already
    passed = _passed(results) if lost is None else lost.said()
    publish_to = spec_of(world).publish_to
    if publish_to is None:
        return _complete(world, status, (passed,), "")
    return _publish(world, status, passed, publish_to)


def _passed(results: tuple[GateResult, ...]) -> Said:
    if not results:
        return Said(ConditionType.GATE_PASSED, True, Reason.NO_GATES, "spec.evaluation.gates is empty.")
    return Said(ConditionType.GATE_PASSED, True, Reason.GATE_PASSED, f"{len(results)} of {len(results)} gates hold.")


def _not_published(world: RunWorld, status: RLTrainingRunStatus, reason: Reason, detail: str) -> RunPlan:
    text = with_remedy(reason, detail)
    said = [
        Said(ConditionType.GATE_PASSED, False, reason, text),
        Said(ConditionType.COMPLETE, True, reason, text),
        *at_rest(reason),
    ]
    if spec_of(world).publish_to is not None:
        why = "A gate failed." if reason is Reason.GATE_FAILED else "The start policy is not published again."
        said.append(Said(ConditionType.PUBLISHED, False, reason, why))
    status = status.model_copy(update={"completion_time": world.now})
    return settle(world, status, "GateFailed", said, events=(Event(reason, text, "Warning"),))


def _publish(world: RunWorld, status: RLTrainingRunStatus, passed: Said, publish_to: ObjectRef) -> RunPlan:
    policy = world.policy
    if policy is None:
        text = f"spec.publishTo.name {publish_to.name!r}: no such RLPolicy in namespace {world.meta.namespace!r}"
        return _wait_for_policy(world, status, passed, Reason.POLICY_NOT_FOUND, text)
    wanted = spec_of(world).policy_type
    if policy.type != wanted:
        reason = Reason.POLICY_TYPE_MISMATCH
        text = f"spec.policyType is {wanted!r}, but RLPolicy {policy.name!r} has spec.type {policy.type!r}"
        return _wait_for_policy(world, status, passed, reason, text)
    version = policy.versions.get(world.meta.uid)
    if version is None:
        text = f"RLPolicy {policy.name!r} has not registered the run yet"
        return _wait_for_policy(world, status, passed, Reason.WAITING_FOR_POLICY, text)
    return _registered(world, status, passed, policy, version)


def _registered(
    world: RunWorld, status: RLTrainingRunStatus, passed: Said, policy: PolicySight, version: int
) -> RunPlan:
    text = f"Version {version} of RLPolicy {policy.name!r}."
    published = Said(ConditionType.PUBLISHED, True, Reason.VERSION_REGISTERED, text)
    status = status.model_copy(update={"version": version})
    return _complete(world, status, (passed, published), f" It is version {version} of policy {policy.name!r}.")


def _wait_for_policy(
    world: RunWorld, status: RLTrainingRunStatus, passed: Said, reason: Reason, detail: str
) -> RunPlan:
    text = with_remedy(reason, detail)
    kstatus = stalled if reason is Reason.POLICY_TYPE_MISMATCH else progressing
    said = (passed, Said(ConditionType.PUBLISHED, None, reason, text), *kstatus(reason, text))
    return settle(world, status, "Publishing", said, requeue_after=poll(world, _POLICY_RECHECK_SECONDS))


def _complete(world: RunWorld, status: RLTrainingRunStatus, said: tuple[Said, ...], where: str) -> RunPlan:
    without = "".join(f" but {row.name}" for row in status.stages if row.state == "Failed")
    text = f"Every stage{without} is committed.{where}"
    said = (*said, Said(ConditionType.COMPLETE, True, Reason.SUCCEEDED, text), *at_rest(Reason.SUCCEEDED))
    status = status.model_copy(update={"completion_time": world.now})
    return settle(world, status, "Complete", said, events=(Event(Reason.SUCCEEDED, f"{world.meta.title}: {text}"),))
