"""The plan after the cluster refused one of a plan's actions: say so in status, try again later. Pure."""

from __future__ import annotations

from ratchet_api.conditions import ConditionType, Reason
from ratchet_api.training_run import RLTrainingRunStatus
from ratchet_operator.plan.runs.finished import ended
from ratchet_operator.plan.runs.state import current_stage, poll
from ratchet_operator.plan.say import Said, progressing, settle, stalled, with_remedy
from ratchet_operator.plan.world import Event, Plan, Refusal, RunWorld

REFUSED_SECONDS = 120.0
"""A refused pass costs at most seven calls; every two minutes keeps a run below six calls a minute."""
STALLING = frozenset({Reason.FORBIDDEN, Reason.CHILD_CONFLICT})
"""Refusals that only an administrator can mend; quota and admission may change by themselves."""


def refused_run(world: RunWorld, refusal: Refusal) -> Plan[RLTrainingRunStatus]:
    """Record the refusal; nothing is counted, and it heals as soon as the cluster accepts.

    A finished run's status is never written again: that it cannot be deleted is said by an event alone.
    """
    if world.frozen or ended(world.status):
        message = with_remedy(refusal.reason, f"{world.meta.title} is past its time to live: {refusal.message}")
        event = Event(refusal.reason, message, "Warning")
        return Plan(events=(event,), requeue_after=poll(world, REFUSED_SECONDS))
    row = current_stage(world.status)
    where = f"{world.meta.title}, stage {row.name!r}" if row is not None else world.meta.title
    message = with_remedy(refusal.reason, f"{where}: {refusal.message}")
    kstatus = stalled if refusal.reason in STALLING else progressing
    said = [*kstatus(refusal.reason, message)]
    if row is not None:
        said.append(Said(ConditionType.RUNNING, False, refusal.reason, message))
    state = "Pending" if row is None else "Starting"
    return settle(world, world.status, state, said, requeue_after=poll(world, REFUSED_SECONDS))
