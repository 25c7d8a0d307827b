"""When a dataset's snapshot is taken anew by itself: by the clock, by the number of new events, or both. Pure.

A refresh that is due rises a number in status, and the number is part of what a snapshot is wanted for: from there on
everything is as if somebody had asked for a new snapshot. Only a dataset at rest is asked whether it is due, and its
last refresh is what the next one is counted from; so however many were missed while nobody looked, one makes up for
them, and a snapshot that fails is not tried in a circle. Never counts events and never reads a clock: both are seen.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from cronsim import CronSim, CronSimError

from ratchet_api.conditions import Reason
from ratchet_api.feedback_dataset import FeedbackDatasetStatus
from ratchet_api.refresh import RefreshStatus
from ratchet_operator.plan.datasets.state import failure_digest, settled, spec_of
from ratchet_operator.plan.say import settle, with_remedy
from ratchet_operator.plan.world import NOW, DatasetWorld, Event, Plan

COUNT_SECONDS = 60.0
"""How often new events are counted."""
_LOOK_SECONDS = 120.0
"""Longest pause before a time of the schedule, since pauses are lengthened to spread them."""
_SECOND = timedelta(seconds=1)


def schedule_problem(schedule: str, now: datetime) -> str:
    """Return what is wrong with a schedule that the field's pattern lets pass; empty = nothing."""
    try:
        next_time(schedule, now)
    except CronSimError as error:
        return f"spec.refresh.schedule {schedule!r} is no time that ever comes: {str(error).lower()}"
    return ""


def next_time(schedule: str, after: datetime) -> datetime:
    """Return the first time of the schedule after the given one.

    Raises:
        CronSimError: there is none.
    """
    return next(CronSim(schedule, after))


def counted_since(world: DatasetWorld) -> datetime | None:
    """Return after which time an event is new; None = nobody need count.

    After a success that is the newest event in the snapshot, by the log's own clock; after a failure, its beginning.
    """
    refresh = world.spec.refresh if world.spec is not None else None
    if refresh is None or refresh.every_events is None or not _asked(world):
        return None
    snapshot = world.status.snapshot
    if settled(world) and snapshot is not None and snapshot.log_newest is not None:
        return snapshot.log_newest
    return _last(world) + _SECOND  # status holds whole seconds: what came in this one is not new


def refresh_when_due(world: DatasetWorld) -> Plan[FeedbackDatasetStatus] | None:
    """Rise the number as soon as spec.refresh says so."""
    refresh = spec_of(world).refresh
    if refresh is None or not _asked(world):
        return None
    before, counted, why = world.status.refresh or RefreshStatus(), world.new_events, ""
    if refresh.every_events is not None and isinstance(counted, int) and counted >= refresh.every_events:
        why = f"{counted} new events are in the log, spec.refresh.everyEvents is {refresh.every_events}"
    elif refresh.schedule is not None and (due := next_time(refresh.schedule, _last(world))) <= world.now:
        why = f"{due:%Y-%m-%d %H:%M} UTC has come by spec.refresh.schedule {refresh.schedule!r}"
    if not why:
        return None
    text = f"Refresh {before.number + 1} of {world.meta.title}: {why}."
    after = RefreshStatus(
        number=before.number + 1,
        last_refresh=world.now,
        new_events=counted if isinstance(counted, int) else None,
        reason=Reason.REFRESH_DUE,
        message=text,
    )
    status = world.status.model_copy(update={"refresh": after})
    return settle(world, status, status.state, (), events=(Event(Reason.REFRESH_DUE, text),), requeue_after=NOW)


def begun(world: DatasetWorld) -> RefreshStatus | None:
    """Return status.refresh as it is when an attempt at a snapshot is recorded, for whatever reason."""
    if spec_of(world).refresh is None:
        return world.status.refresh
    return (world.status.refresh or RefreshStatus()).model_copy(update={"last_refresh": world.now})


def looking_ahead(world: DatasetWorld) -> tuple[RefreshStatus | None, timedelta | None]:
    """Return status.refresh of a dataset at rest, and when to look again; the number outlives spec.refresh."""
    refresh, before = spec_of(world).refresh, world.status.refresh
    if refresh is None:
        kept = RefreshStatus(number=before.number, last_refresh=before.last_refresh) if before is not None else None
        return kept, None
    last, pauses = _last(world), list[timedelta]()
    following: datetime | None = None
    if refresh.schedule is not None:
        following = next_time(refresh.schedule, last)
        pauses.append(min(following - world.now, world.settings.pause(_LOOK_SECONDS)))
    if refresh.every_events is not None:
        pauses.append(world.settings.pause(COUNT_SECONDS))
    reason, message = _waits_for(world, refresh.every_events, following)
    if spec_of(world).suspend:
        reason, message, pauses = Reason.SUSPENDED_BY_USER, "spec.suspend is true.", []
    status = RefreshStatus(
        number=before.number if before is not None else 0,
        last_refresh=last,
        next_refresh=following,
        new_events=world.new_events if isinstance(world.new_events, int) else None,
        reason=reason,
        message=message,
    )
    return status, max(min(pauses), _SECOND) if pauses else None


def _waits_for(world: DatasetWorld, every: int | None, following: datetime | None) -> tuple[Reason, str]:
    if every is not None and isinstance(world.new_events, str):
        return Reason.LOG_NOT_COUNTED, with_remedy(Reason.LOG_NOT_COUNTED, world.new_events)[:1024]
    if every is not None:
        return Reason.WAITING_FOR_EVENTS, f"The next snapshot is due after {every} new events."
    return Reason.WAITING_FOR_SCHEDULE, f"The next snapshot is due at {following:%Y-%m-%d %H:%M} UTC."


def _asked(world: DatasetWorld) -> bool:
    """Whether the dataset is at rest, with a snapshot or with a failure, and not suspended."""
    if spec_of(world).suspend:
        return False
    return settled(world) or world.status.failed_target == failure_digest(world)


def _last(world: DatasetWorld) -> datetime:
    """When the last snapshot was begun; a clock that stepped back since then must not put the next one off."""
    refresh = world.status.refresh
    last = (refresh.last_refresh if refresh is not None else None) or world.status.snapshot_time or world.now
    return min(last, world.now)
