"""How plans speak: conditions, one-word states and messages that end with the remedy.

Every rule of every kind ends in `settle`, so `observedGeneration`, transition times and kstatus meaning are kept in
one place. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple, Protocol, TypeVar

from ratchet_api.conditions import REASONS, Condition, ConditionType, Reason, find_condition, set_condition
from ratchet_api.feedback_dataset import FeedbackDatasetStatus
from ratchet_api.policy import RLPolicyStatus
from ratchet_api.training_run import RLTrainingRunStatus
from ratchet_operator.plan.world import Action, Event, Meta, Plan

AnyStatus = TypeVar("AnyStatus", RLTrainingRunStatus, FeedbackDatasetStatus, RLPolicyStatus)

_ORDER = {kind.value: place for place, kind in enumerate(ConditionType)}
"""Conditions stand in the enum's order, whatever the order in which they were first said."""

_ONLY_WHEN_TRUE = (ConditionType.RECONCILING, ConditionType.STALLED, ConditionType.SUSPENDED)
"""kstatus: these are worth a row only once they were True."""


class Said(NamedTuple):
    """One condition as a rule wants it; status None = Unknown."""

    type: ConditionType
    status: bool | None
    reason: Reason
    message: str = ""


class World(Protocol):
    """What `settle` needs of any world."""

    @property
    def now(self) -> datetime:
        """The pass's time."""

    @property
    def meta(self) -> Meta:
        """The object's metadata."""


def with_remedy(reason: Reason, detail: str) -> str:
    """Return the detail followed by the reason's next step, if there is one to take."""
    remedy = REASONS[reason].remedy
    text = detail.strip() or REASONS[reason].meaning
    text = text if text.endswith((".", "!", "?")) else f"{text}."
    return text if remedy.startswith("Nothing") else f"{text} {remedy}"


def progressing(reason: Reason, message: str) -> tuple[Said, ...]:
    """Work goes on by itself: Reconciling=True, Stalled=False."""
    return (Said(ConditionType.RECONCILING, True, reason, message), Said(ConditionType.STALLED, False, reason))


def stalled(reason: Reason, message: str) -> tuple[Said, ...]:
    """Somebody must act: Stalled=True, Reconciling=False."""
    return (Said(ConditionType.STALLED, True, reason, message), Said(ConditionType.RECONCILING, False, reason))


def at_rest(reason: Reason) -> tuple[Said, ...]:
    """Nothing is left to do: Reconciling=False, Stalled=False."""
    return (Said(ConditionType.RECONCILING, False, reason), Said(ConditionType.STALLED, False, reason))


def settle(
    world: World,
    status: AnyStatus,
    state: str,
    said: Sequence[Said],
    *,
    actions: Sequence[Action] = (),
    events: Sequence[Event] = (),
    requeue_after: timedelta | None = None,
) -> Plan[AnyStatus]:
    """Return the plan whose status is `status` with these conditions, this state and the generation just read."""
    conditions: tuple[Condition, ...] = status.conditions
    for row in said:
        if row.status is False and row.type in _ONLY_WHEN_TRUE and find_condition(conditions, row.type) is None:
            continue
        conditions = set_condition(
            conditions, row.type, row.status, row.reason, row.message, generation=world.meta.generation, now=world.now
        )
    conditions = tuple(sorted(conditions, key=lambda c: _ORDER.get(c.type, len(_ORDER))))
    final = status.model_copy(
        update={"conditions": conditions, "state": state, "observed_generation": world.meta.generation}
    )
    return Plan(actions=tuple(actions), status=final, events=tuple(events), requeue_after=requeue_after)
