"""Whether what RL made was kept, and if not, why. Pure; called by the last rule of runs.

RL loses in two ways: its numbers went wrong (RLFailed), or the evaluation did not show it to be as good as what it
started from (CandidateWorse). Either way the run goes well: the policy that it started from is the result.
"""

from __future__ import annotations

from typing import NamedTuple

from ratchet_api.conditions import ConditionType, Reason
from ratchet_api.stage import Stage
from ratchet_api.training_run import RLTrainingRunStatus
from ratchet_operator.plan.runs.state import stage_named
from ratchet_operator.plan.say import Said, with_remedy

START = "start"
"""The baseline of mode rl_only, as `Choice.baseline` has it."""


class Lost(NamedTuple):
    """Why what RL made was not kept."""

    reason: Reason
    text: str
    baseline: str
    """What was kept: supervised or start."""

    def said(self) -> Said:
        """The condition of a run whose baseline is published instead."""
        return Said(ConditionType.GATE_PASSED, False, self.reason, with_remedy(self.reason, self.text))


def rl_lost(status: RLTrainingRunStatus) -> Lost | None:
    """Return why what RL made was not kept; None = it was, or there was no RL."""
    rl, evaluated = stage_named(status, Stage.RL), stage_named(status, Stage.EVALUATE)
    if rl is not None and rl.state == "Failed":
        ended = rl.attempt.last_exit if rl.attempt is not None else None
        why = f"{ended.reason}: {ended.message}" if ended is not None else "it failed"
        kept = Stage.SUPERVISED.value
        return Lost(Reason.RL_FAILED, f"Stage 'rl' failed, the {kept} policy is kept: {why}", kept)
    choice = evaluated.choice if evaluated is not None else None
    if choice is None or choice.chosen == choice.candidate:
        return None
    text = f"The {choice.chosen} policy is kept, not that of RL: {choice.why}"
    return Lost(Reason.CANDIDATE_WORSE, text, choice.baseline)
