"""The few ways in which a rollout changes; each writes its row of the history. Pure, called by the rules."""

from __future__ import annotations

from typing import Any, Literal

from ratchet_api.fixed_shares import AbTestStatus
from ratchet_api.generation import config_row
from ratchet_api.label_sets import difference
from ratchet_api.rollout import HISTORY_LIMIT, ArmRow, RolloutStatus, ShareRow
from ratchet_operator.plan.rollout.world import Decision, RolloutWorld, Said, Turn

_ARCHIVED_AT_ONCE = 10
_AGAIN_SECONDS = 5.0
By = Literal["operator", "user"]
_NO_CANDIDATE: dict[str, Any] = {
    "candidate": None,
    "candidate_digest": "",
    "step": -1,
    "percent": 0.0,
    "began": None,
    "exposed": None,
    "step_since": None,
    "step_subjects": 0,
    "shadow_since": None,
    "unready_since": None,
    "restarts": 0,
    "queries": (),
    "paused": False,
}


def no_trial(status: RolloutStatus, why: str) -> dict[str, Any]:
    """Return what is remembered when nobody is on trial any more."""
    if status.testing is None:
        return _NO_CANDIDATE
    over = {"running": False, "dealt": False, "result": why[:512]}
    return _NO_CANDIDATE | {"ab_test": status.testing.model_copy(update=over)}


def wait(world: RolloutWorld, state: str, message: str, *, again: float | None = _AGAIN_SECONDS) -> Decision:
    """Change nothing but what `world.status` holds already."""
    return Decision(world.status, world.champion, state, message, again_seconds=again)


def note(world: RolloutWorld, state: str, said: Said | None = None, **changes: Any) -> Decision:
    """Remember something that changes no share."""
    status = world.status.model_copy(update=changes)
    told = () if said is None else (said,)
    return Decision(status, world.champion, state, "" if said is None else said.text, told, again_seconds=0)


def refuse(world: RolloutWorld, version: int, *, asked: str = "") -> Decision | None:
    """Refuse a trial to a version whose labels are not the champion's; told once. None = it may be tried.

    Args:
        world: with a champion.
        version: that would go on trial.
        asked: the field that names it; empty = it is the newest.
    """
    ours, theirs = world.labels.get(world.champion or 0), world.labels.get(version)
    if world.spec.allow_other_labels or ours is None or theirs is None or not (found := difference(ours, theirs)):
        return None
    whose = f"Version {version}" + (f", which {asked} names," if asked else "")
    text = f"{whose} is not tried: its labels are not those of version {world.champion}, the champion: {found}."
    if world.status.refused == version:
        return wait(world, "OtherLabels", text, again=None)
    return note(world, "OtherLabels", Said(Turn.REFUSED, text), refused=version)


def share(world: RolloutWorld, said: Said, *, percent: float, step: int) -> Decision:
    """Give the candidate this share; the step's clock starts when every router applied it."""
    changes = {"percent": percent, "step": step, "step_since": None}
    return _change(world, world.champion, "Ramping", said, changes, by="operator")


def deal(world: RolloutWorld, test: AbTestStatus, said: Said) -> Decision:
    """Give every version of a test its share, for as long as it lasts."""
    changes = {"ab_test": test.model_copy(update={"dealt": True})}
    return _change(world, world.champion, "Ramping", said, changes, by="operator")


def take_arms_out(world: RolloutWorld, said: Said) -> Decision:
    """Give the champion to the subjects of those versions of a test of which `world` says that they are out."""
    return _change(world, world.champion, "Ramping", said, {}, by="operator")


def serve(world: RolloutWorld, version: int, said: Said) -> Decision:
    """Let everybody outside a trial get this version."""
    leaving = _leaving(world.status, world.status.serving, but=version)
    changes = {"serving": version, "leaving": leaving, "refused": None}
    return _change(world, world.champion, "Applying", said, changes, by="operator")


def promote(world: RolloutWorld, version: int, said: Said, *, by: By) -> Decision:
    """Make the candidate champion. Everybody gets it at once if it answers, else as soon as it does."""
    status = world.status
    serving = version if world.answers(version) else status.serving
    changes = no_trial(status, said.text) | {
        "serving": serving,
        "leaving": _leaving(status, status.serving, *_tested(status), but=serving),
        "settled_up_to": max(status.settled_up_to, version, *_tested(status, out=True)),
    }
    return _change(world, version, "Applying", said, changes, by=by)


def end(world: RolloutWorld, said: Said, *, by: By, champion: int | None = None) -> Decision:
    """Take the candidate out; nobody tries it again.

    Args:
        world: with a candidate or a test or, where a champion is given, without.
        said: why.
        by: who decided it.
        champion: that shall serve instead of the present one.
    """
    status = world.status
    settled = (status.settled_up_to, status.candidate or 0, (world.champion or 0) if champion is not None else 0)
    changes = no_trial(status, said.text) | {
        "leaving": _leaving(status, status.candidate, *_tested(status)),
        "settled_up_to": max(*settled, *_tested(status, out=True)),
    }
    served = world.champion if champion is None else champion
    return _change(world, served, "Applying", said, changes, by=by, told=status.candidate is not None)


def _tested(status: RolloutStatus, *, out: bool = False) -> tuple[int, ...]:
    """Versions of the test that runs; those that were taken out are asked for by name."""
    test = status.testing
    return () if test is None else tuple(arm.version for arm in (test.arms if out else test.live))


def _leaving(status: RolloutStatus, *versions: int | None, but: int | None = None) -> tuple[int, ...]:
    some = {*status.leaving, *versions} - {but}
    return tuple(sorted(version for version in some if version is not None))


def _change(
    world: RolloutWorld,
    champion: int | None,
    state: str,
    said: Said,
    changes: dict[str, Any],
    *,
    by: By,
    told: bool = False,
) -> Decision:
    status = world.status.model_copy(update=changes)
    status, archived = _with_row(world, status, said.text, by=by, told=told)
    return Decision(status, champion, state, said.text, (said,), archived, again_seconds=0)


def _with_row(
    world: RolloutWorld, status: RolloutStatus, why: str, *, by: By, told: bool
) -> tuple[RolloutStatus, tuple[ShareRow, ...]]:
    """Append a row if somebody gets something else than by the last one; the oldest leave when there is no room.

    A version that was taken out before anybody got it changes no share; it is `told` of all the same.
    """
    if status.serving is None:
        return status, ()
    candidate = status.candidate if status.percent else None
    last = status.history[-1] if status.history else None
    dealt = () if status.testing is None or not status.testing.dealt else status.testing.live
    arms = tuple(ArmRow(version=arm.version, percent=arm.percent) for arm in dealt)
    now_served = (status.serving, candidate, status.percent, arms)
    if not told and last is not None and (last.version, last.candidate, last.percent, last.arms) == now_served:
        return status, ()
    row = ShareRow(
        number=status.rows + 1,
        version=status.serving,
        candidate=candidate,
        percent=status.percent,
        arms=arms,
        since=world.now,
        why=why[:256],
        by=by,
    )
    configs = tuple(config_row(each, world.configs[each]) for each in row.versions if each in world.configs)
    row = row.model_copy(update={"configs": configs})
    kept: tuple[ShareRow, ...] = status.history
    archived: tuple[ShareRow, ...] = ()
    if len(kept) >= HISTORY_LIMIT:
        kept, archived = kept[_ARCHIVED_AT_ONCE:], kept[:_ARCHIVED_AT_ONCE]
    return status.model_copy(update={"history": (*kept, row), "rows": row.number}), archived
