"""The rules of a dataset: which snapshot is wanted, the Job that makes it, and when the dataset is Ready. Pure.

A snapshot is wanted for a *target*: the digest of what decides its content (sources, columns, rules, split), of the
refresh annotation and of the number of refreshes that spec.refresh made due. A change of resources or of suspend wants
no new snapshot. While a new one is made, or after it failed, the last snapshot stays in status, but the dataset is
Ready only for its present target.
"""

from __future__ import annotations

from collections.abc import Callable

from ratchet_api.conditions import Reason
from ratchet_api.feedback_dataset import FeedbackDatasetStatus
from ratchet_operator.plan.datasets.refresh import refresh_when_due
from ratchet_operator.plan.datasets.rules import (
    account_for_stop,
    leave_deleted,
    refuse_invalid,
    report_ready,
    require_store,
    resume,
    retarget,
    stay_failed,
    suspend,
)
from ratchet_operator.plan.datasets.snapshot import make_snapshot
from ratchet_operator.plan.datasets.state import not_ready
from ratchet_operator.plan.say import progressing, settle, stalled, with_remedy
from ratchet_operator.plan.world import DatasetWorld, Plan, Refusal

DatasetPlan = Plan[FeedbackDatasetStatus]
_REFUSED_SECONDS = 120.0

RULES: tuple[Callable[[DatasetWorld], DatasetPlan | None], ...] = (
    leave_deleted,  # the garbage collector works
    refuse_invalid,  # a spec that cannot run, or asks for what is not allowed
    account_for_stop,  # a Job that we stopped is going: the next attempt, uncounted
    refresh_when_due,  # spec.refresh wants a new snapshot from now on
    report_ready,  # the wanted snapshot is there
    suspend,  # spec.suspend: stop the Job, start nothing
    resume,  # spec.suspend was taken back
    stay_failed,  # the wanted snapshot failed for good
    require_store,  # nothing can start without a store
    retarget,  # record an attempt for the wanted snapshot
)


def plan_dataset(world: DatasetWorld) -> DatasetPlan:
    """Decide what a pass does for a dataset. Equal worlds give equal plans."""
    for rule in RULES:
        decided = rule(world)
        if decided is not None:
            return decided
    return make_snapshot(world)


def refused_dataset(world: DatasetWorld, refusal: Refusal) -> DatasetPlan:
    """Record that the cluster refused one of the plan's actions; tried again later."""
    message = with_remedy(refusal.reason, f"{world.meta.title}: {refusal.message}")
    hard = refusal.reason in (Reason.FORBIDDEN, Reason.CHILD_CONFLICT)
    said = (*(stalled if hard else progressing)(refusal.reason, message), not_ready(refusal.reason, message))
    return settle(world, world.status, "Starting", said, requeue_after=world.settings.pause(_REFUSED_SECONDS))
