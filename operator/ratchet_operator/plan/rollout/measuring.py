"""What is remembered of a user's own numbers: since when one is beyond a bound, and whether what it counts still moves.

Decides when a value is believed, and that a gap in what is known ends what it had shown: nothing that is not known
rolls a version back, and nothing that is not known lets it rise. Pure; called by the rules and by `judging`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import datetime

from ratchet_api.queries import Query, QuerySeen
from ratchet_api.stats.verdict import Limit
from ratchet_operator.plan.rollout.world import Measured, RolloutWorld

FROZEN_SECONDS = 300.0
"""What should move and has stood still for so long is dead."""
KEEP_SECONDS = 20.0
"""How often a row is written at most while nothing turns."""
GAP_SECONDS = 60.0
"""Whoever was not looked at for so long may have been well meanwhile; a clock that jumps is such a gap, too."""


def rows_of(world: RolloutWorld) -> tuple[QuerySeen, ...]:
    """Return what to remember of every query about the version on trial, after what was measured now."""
    version = world.status.candidate
    return () if version is None else tuple(_rows(world, version))


def limits_of(world: RolloutWorld) -> tuple[Limit, ...]:
    """Return what is known of every query about the version on trial, as the statistics take it."""
    rows = {(row.name, row.version): row for row in world.status.queries}
    asked = world.spec.judged.queries
    return tuple(_limit(world, query, rows.get((query.name, world.status.candidate or 0))) for query in asked)


def held_by(world: RolloutWorld) -> str:
    """Say why a query lets the version not rise; empty = none does."""
    return "; ".join(limit.sentence for limit in limits_of(world) if limit.beyond or not limit.known)


def _rows(world: RolloutWorld, version: int) -> Iterator[QuerySeen]:
    before = {(row.name, row.version): row for row in world.status.queries}
    for query in world.spec.judged.queries:
        measured = world.measured.get((query.name, version), Measured(problem="nobody was asked"))
        yield _row(query, version, measured, before.get((query.name, version)), world.now)


def _row(query: Query, version: int, measured: Measured, before: QuerySeen | None, now: datetime) -> QuerySeen:
    changed = _changed(query, measured, before, now)
    problem = measured.problem or _frozen(query, changed, now)
    value = None if problem else measured.value
    row = QuerySeen(
        name=query.name,
        version=version,
        value=value,
        problem=problem[:256],
        beyond_since=_beyond_since(query, value, before, now),
        alive=measured.alive if query.alive is not None else None,
        changed=changed,
        at=now,
    )
    return row if before is None or _worth_writing(before, row, now) else before


def _changed(query: Query, measured: Measured, before: QuerySeen | None, now: datetime) -> datetime | None:
    """When what must move was last seen to move."""
    if query.alive is None or before is None:
        return None
    moved = None not in (measured.alive, before.alive) and measured.alive != before.alive
    return now if moved else before.changed and min(before.changed, now)


def _frozen(query: Query, changed: datetime | None, now: datetime) -> str:
    if query.alive is None:
        return ""
    if changed is None:
        return "what its query `alive` asks for has not changed yet"
    if (now - changed).total_seconds() > FROZEN_SECONDS:
        return f"what its query `alive` asks for has stood still for {FROZEN_SECONDS / 60:g} minutes"
    return ""


def _beyond_since(query: Query, value: float | None, before: QuerySeen | None, now: datetime) -> datetime | None:
    least, most = _bounds(query)
    if value is None or least <= value <= most:
        return None
    if before is None or before.beyond_since is None or not 0 <= (now - before.at).total_seconds() <= GAP_SECONDS:
        return now
    return before.beyond_since


def _worth_writing(before: QuerySeen, row: QuerySeen, now: datetime) -> bool:
    """At once when something turns; else a while after the last time, and only if there is something new."""
    if (before.value is None, before.beyond_since) != (row.value is None, row.beyond_since):
        return True
    age = (now - before.at).total_seconds()
    if 0 <= age < KEEP_SECONDS:
        return False
    # a row that is beyond is written all the same: that is how a gap is seen
    return row.beyond_since is not None or before != row.model_copy(update={"at": before.at})


def _limit(world: RolloutWorld, query: Query, row: QuerySeen | None) -> Limit:
    least, most = _bounds(query)
    return Limit(
        query.name,
        None if row is None else row.value,
        most,
        least,
        beyond_seconds=0.0 if row is None else world.age(row.beyond_since),
        allowed_seconds=query.seconds,
        problem="nobody was asked yet" if row is None else row.problem,
    )


def _bounds(query: Query) -> tuple[float, float]:
    return (
        -math.inf if query.least is None else query.least,
        math.inf if query.most is None else query.most,
    )
