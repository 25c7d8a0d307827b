"""What people tell a rollout to do: pause, resume, abort, promote, undo; each new value of the annotation once.

Pure.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ratchet_operator.plan.rollout.changes import end, note, promote
from ratchet_operator.plan.rollout.world import Decision, RolloutWorld, Said, Turn

LONGEST = 64
_LONGEST_ANSWER = 256


def obey(world: RolloutWorld) -> Decision | None:
    """Act on a command that was not acted upon: `VERB`, or `VERB:ANYTHING` to say the same again."""
    told = world.command[:LONGEST]
    if told == world.status.observed_command:
        return None
    seen = _with_command(world, told)
    if not told:
        return note(seen, "", answer="")
    verb = _VERBS.get(told.partition(":")[0], _unknown)
    decision = verb(seen)
    answer = decision.said[-1].text[:_LONGEST_ANSWER]
    return replace(decision, status=decision.status.model_copy(update={"answer": answer}))


def _with_command(world: RolloutWorld, told: str) -> RolloutWorld:
    return replace(world, status=world.status.model_copy(update={"observed_command": told}))


def _unknown(world: RolloutWorld) -> Decision:
    told = world.status.observed_command
    return _not_obeyed(world, f"{told!r} is no command; there are {', '.join(sorted(_VERBS))}")


def _pause(world: RolloutWorld) -> Decision:
    if world.status.testing is not None:
        return _not_obeyed(world, "pause: a test with fixed shares has no steps that could be held")
    if world.status.candidate is None:
        return _not_obeyed(world, "pause: no version is on trial")
    text = f"Version {world.status.candidate} stays at {world.status.percent:g} %."
    return note(world, "Paused", Said(Turn.PAUSED, text), paused=True)


def _resume(world: RolloutWorld) -> Decision:
    if not world.status.paused:
        return _not_obeyed(world, "resume: nothing is paused")
    return note(world, "Ramping", Said(Turn.RESUMED, f"Version {world.status.candidate} goes on."), paused=False)


def _abort(world: RolloutWorld) -> Decision:
    if world.status.testing is not None:
        text = f"The test was ended {_on_request(world)}; version {world.status.serving} stays."
        return end(world, Said(Turn.ABORTED, text), by="user")
    if world.status.candidate is None:
        return _not_obeyed(world, "abort: no version is on trial")
    text = f"Version {world.status.candidate} was taken out {_on_request(world)}; version {world.status.serving} stays."
    return end(world, Said(Turn.ABORTED, text), by="user")


def _promote(world: RolloutWorld) -> Decision:
    candidate = world.status.candidate
    if world.status.testing is not None:
        return _not_obeyed(world, "promote: several versions are tested; say which, as in `ratchet promote POLICY 2`")
    if candidate is None:
        return _not_obeyed(world, "promote: no version is on trial")
    if world.status.percent and not world.answers(candidate):
        return _not_obeyed(world, f"promote: version {candidate} does not answer every router; abort it, or wait")
    text = f"Version {candidate} is promoted {_on_request(world)}."
    return promote(world, candidate, Said(Turn.PROMOTED, text), by="user")


def _undo(world: RolloutWorld) -> Decision:
    """Back to whom everybody got before, by the rows that are at hand."""
    before = (row.version for row in reversed(world.status.history) if row.version != world.champion)
    version = next((version for version in before if version in world.versions), None)
    if version is None:
        return _not_obeyed(world, "undo: no earlier version that served is still there")
    text = f"Back to version {version} {_on_request(world)}, instead of version {world.champion}."
    return end(world, Said(Turn.UNDONE, text), by="user", champion=version)


def _on_request(world: RolloutWorld) -> str:
    return f"on request of {world.asked_by}" if world.asked_by else "on request"


def _not_obeyed(world: RolloutWorld, why: str) -> Decision:
    return note(world, "", Said(Turn.NOT_OBEYED, why))


_VERBS: dict[str, Callable[[RolloutWorld], Decision]] = {
    "pause": _pause,
    "resume": _resume,
    "abort": _abort,
    "promote": _promote,
    "undo": _undo,
}
