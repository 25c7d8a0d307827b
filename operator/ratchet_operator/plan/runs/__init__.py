"""The rules of a run, in the order in which they speak.

The order is the specification: the first that has something to say wins, and the last one always has.

Pure. `plan_run` is called once per pass by `reconcile`; `refused_run` instead when the cluster refused an action.
The state diagram is in docs/explanation/run-states.md.
"""

from __future__ import annotations

from collections.abc import Callable

from ratchet_api.training_run import RLTrainingRunStatus
from ratchet_operator.plan.runs.acceptance import refuse_changed_spec, refuse_invalid_spec, require_store
from ratchet_operator.plan.runs.data import await_data, report_dry_run
from ratchet_operator.plan.runs.finished import leave_deleted, leave_finished
from ratchet_operator.plan.runs.outcome import conclude
from ratchet_operator.plan.runs.refused import refused_run
from ratchet_operator.plan.runs.stages import run_stage
from ratchet_operator.plan.runs.suspension import account_for_stop, resume, suspend
from ratchet_operator.plan.world import Plan, RunWorld

RunPlan = Plan[RLTrainingRunStatus]
Rule = Callable[[RunWorld], RunPlan | None]

RULES: tuple[Rule, ...] = (
    leave_deleted,  # the garbage collector works; nothing is written to a dying object
    leave_finished,  # Complete and Failed are never left; only the TTL may act
    refuse_invalid_spec,  # a spec that cannot run, or asks for what is not allowed
    refuse_changed_spec,  # a started run whose immutable part was changed
    account_for_stop,  # a Job that we stopped is going: the next attempt, uncounted
    suspend,  # spec.suspend: stop the Job, start nothing
    resume,  # spec.suspend was taken back
    report_dry_run,  # spec.dryRun: the estimate, then the end
    require_store,  # nothing can start without a store
    await_data,  # wait for the dataset's snapshot, then fix the inputs
    run_stage,  # the current stage: children, waiting, progress, retry, failure
)


def plan_run(world: RunWorld) -> RunPlan:
    """Decide what a pass does for a run. Equal worlds give equal plans."""
    for rule in RULES:
        decided = rule(world)
        if decided is not None:
            return decided
    return conclude(world)  # every stage is committed: gates, publishing, Complete


__all__ = ["RULES", "RunPlan", "plan_run", "refused_run"]
