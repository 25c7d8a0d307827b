"""The rules of a rollout, each speaking or silent. Pure.

Their order is in `__init__`. Protection comes before progress: a bad candidate is taken out while routers, analyst or
people are away, and whatever is not known only ever holds a step back.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ratchet_api.shadow import ShadowReport
from ratchet_api.stats.verdict import Outcome, Why
from ratchet_api.verdicts import VerdictStatus
from ratchet_operator.plan.rollout.changes import end, note, promote, refuse, serve, share, wait
from ratchet_operator.plan.rollout.judging import (
    exposed_subjects,
    failed,
    shadow_report,
    verdict_of,
    with_report,
    with_verdict,
)
from ratchet_operator.plan.rollout.measuring import held_by, rows_of
from ratchet_operator.plan.rollout.table import applied
from ratchet_operator.plan.rollout.world import MOST_RESTARTS, Decision, RolloutWorld, Said, Trouble, Turn

_CLOCKS = ("began", "exposed", "step_since", "shadow_since", "unready_since")


def mend_clock(world: RolloutWorld) -> Decision | None:
    """A time that is yet to come was written by a clock that was set back since: count from now on."""
    status = world.status
    ahead: dict[str, Any] = {name: world.now for name in _CLOCKS if (getattr(status, name) or world.now) > world.now}
    test = status.testing
    if test is not None and test.exposed is not None and test.exposed > world.now:
        ahead["ab_test"] = test.model_copy(update={"exposed": world.now})
    return note(world, "", **ahead) if ahead else None


def follow_champion(world: RolloutWorld) -> Decision | None:
    """Somebody made another version champion: a trial against the old one is over, and everybody shall get the new."""
    status, champion = world.status, world.champion
    if champion is None:
        return wait(world, "NoChampion", "No version is champion; promote one.", again=None)
    if status.serving == champion:
        return None
    if status.candidate is not None and status.candidate != champion:
        text = f"Version {champion} became champion, so that the trial of version {status.candidate} is over."
        return end(world, Said(Turn.ABORTED, text), by="user")
    tested = () if status.testing is None else tuple(arm.version for arm in status.testing.live)
    if tested and champion not in tested:
        text = f"Version {champion} became champion, so that the test against version {status.serving} is over."
        return end(world, Said(Turn.ABORTED, text), by="user")
    if not world.answers(champion):
        return wait(
            world, "Preparing", f"Version {champion} does not answer every router yet{world.because(champion)}."
        )
    if status.candidate == champion or champion in tested:
        said = Said(Turn.PROMOTED, f"Version {champion} is promoted on request, out of its trial.")
        return promote(world, champion, said, by="user")
    return serve(world, champion, Said(Turn.SERVING, f"Everybody gets version {champion}."))


def take_out_the_gone(world: RolloutWorld) -> Decision | None:
    """The version on trial was deleted, or is another one under the same number."""
    status = world.status
    if status.candidate is None or world.versions.get(status.candidate) == status.candidate_digest:
        return None
    text = f"Version {status.candidate} is no longer what it was when its trial began; version {status.serving} stays."
    return end(world, Said(Turn.ROLLED_BACK, text), by="operator")


def end_replaced(world: RolloutWorld) -> Decision | None:
    """spec.serving.generation was changed while a version was on trial: its files are tried with the new config."""
    candidate = world.status.candidate
    newer = (version for version, of in world.renewed.items() if of == candidate and version > of)
    if candidate is None or (version := next(newer, None)) is None:
        return None
    why = f"spec.serving.generation was changed, and version {version} is tried instead"
    text = f"Version {candidate} is taken out: {why}."
    return end(world, Said(Turn.ABORTED, text), by="user")


def end_untried(world: RolloutWorld) -> Decision | None:
    """spec.rollout was removed while a version was on trial."""
    status = world.status
    if world.trials or status.candidate is None:
        return None
    text = f"Version {status.candidate} is taken out: spec.rollout was removed; version {status.serving} stays."
    return end(world, Said(Turn.ABORTED, text), by="user")


def take_out_the_broken(world: RolloutWorld) -> Decision | None:
    """What was published cannot be loaded, or the servers of a candidate that is asked die again and again."""
    status = world.status
    if status.candidate is None:
        return None
    trouble = world.troubles.get(status.candidate, Trouble())
    if trouble.unloadable and status.candidate not in world.ready:
        text = f"Version {status.candidate} is taken out, since it cannot be loaded: {trouble.text}."
        return end(failed(world, Why.NOT_READY, text, Outcome.ERROR), Said(Turn.ROLLED_BACK, text), by="operator")
    often = trouble.restarts - status.restarts
    if often <= MOST_RESTARTS or (status.step < 0 and not status.shadowed):
        return None
    text = f"Version {status.candidate} is taken out: a pod of it restarted {often} times: {trouble.text}."
    return end(failed(world, Why.RESTARTED, text), Said(Turn.ROLLED_BACK, text), by="operator")


def watch_readiness(world: RolloutWorld) -> Decision | None:
    """Remember since when a candidate that is asked has not answered."""
    status = world.status
    if status.candidate is None or (status.step < 0 and not status.shadowed):
        return None
    state = "Shadowing" if status.shadowed else "Ramping"
    ready = status.candidate in world.ready
    if ready and status.unready_since is not None:
        return note(world, state, unready_since=None)
    if not ready and status.unready_since is None:
        return note(world, state, unready_since=world.now)
    return None


def measure(world: RolloutWorld) -> Decision | None:
    """Remember what the user's own numbers show of a candidate that somebody gets."""
    if world.status.candidate is None or world.status.step < 0:
        return None
    rows = rows_of(world)
    return note(world, "", queries=rows) if rows != world.status.queries else None


def roll_back(world: RolloutWorld) -> Decision | None:
    """A candidate that is shown to be worse, or does not answer, or could not be decided upon in time."""
    status, canary = world.status, world.spec.canary
    if status.candidate is None:
        return None
    why = world.because(status.candidate)
    if status.shadowed:
        if status.unready_since is None or world.age(status.unready_since) < canary.unready_seconds:
            return None
        text = (
            f"Version {status.candidate} did not answer for {canary.unready_seconds} s as a shadow; nobody got it{why}."
        )
        return end(failed(world, Why.NOT_READY, text), Said(Turn.ROLLED_BACK, text), by="operator")
    if status.step < 0:
        if status.candidate in world.ready or world.age(status.began) < canary.ready_seconds:
            return None
        text = f"Version {status.candidate} was not ready within {canary.ready_seconds} s; nobody got it{why}."
        return end(failed(world, Why.NOT_READY, text), Said(Turn.ROLLED_BACK, text), by="operator")
    verdict = verdict_of(world)
    late = verdict.outcome is Outcome.INCONCLUSIVE and verdict.final
    if verdict.outcome is not Outcome.FAILED and not late:
        return None
    text = f"Version {status.candidate} is taken out: {verdict.sentence}."
    return end(with_verdict(world, verdict), Said(Turn.ROLLED_BACK, text), by="operator")


def await_routers(world: RolloutWorld) -> Decision | None:
    """Nothing goes on before every router applied the table; the clocks of a step begin when all did."""
    status = world.status
    if not applied(world) and world.gateways is not None:
        return wait(world, "Applying", f"Waiting for Gateways to take the table: {world.gateways or 'it was changed'}.")
    if not applied(world):
        missing = sum(1 for replica in world.replicas if not replica.table)
        silent = f", {missing} of them silent" if missing else ""
        return wait(world, "Applying", f"Waiting for {len(world.replicas)} routers to apply the table{silent}.")
    if status.leaving:
        text = f"Every router applied the table; {', '.join(map(str, status.leaving))} may end."
        return note(world, "", Said(Turn.APPLIED, text), leaving=())
    if status.shadowed and status.shadow_since is None:
        return note(world, "Shadowing", shadow_since=world.now)
    if status.candidate is not None and status.step >= 0 and status.step_since is None:
        subjects = max(exposed_subjects(world) or 0, status.step_subjects)
        began: dict[str, Any] = {
            "exposed": status.exposed or world.now,
            "step_since": world.now,
            "step_subjects": subjects,
        }
        return note(world, "Ramping", **began)
    return None


def choose(world: RolloutWorld) -> Decision | None:
    """The newest version goes on trial, one at a time; older ones that waited are passed over."""
    status = world.status
    if status.candidate is not None or world.champion is None or not world.trials or world.spec.ab_test is not None:
        return None
    newest = max((version for version in world.versions if version not in world.unasked), default=0)
    if newest <= max(world.champion, status.settled_up_to):
        return None
    if (refused := refuse(world, newest)) is not None:
        return refused
    number = status.experiments + 1
    changes: dict[str, Any] = {
        "candidate": newest,
        "candidate_digest": world.versions[newest],
        "experiment": f"{number}-v{world.champion}-v{newest}",
        "experiments": number,
        "began": world.now,
        "refused": None,
        "shadow": None,
        "verdict": VerdictStatus(),
    }
    text = f"Version {newest} goes on trial against version {world.champion}; its servers are started."
    return note(world, "Preparing", Said(Turn.CANDIDATE, text), **changes)


def shadow(world: RolloutWorld) -> Decision | None:
    """Before anybody gets it, the candidate is asked what the champion is asked; then its first share, or none."""
    status, asked = world.status, world.spec.shadow
    if asked is None or status.candidate is None or status.step >= 0 or not world.answers(status.candidate):
        return None
    if status.shadow is None:
        text = f"Version {status.candidate} is asked {asked.percent:g} % of the requests, too; nobody gets its answers."
        restarts = world.restarts(status.candidate)
        return note(world, "Shadowing", Said(Turn.SHADOWED, text), shadow=ShadowReport(), restarts=restarts)
    found = shadow_report(world)
    if found is None:
        return wait(world, "Holding", f"Held: {world.problem or 'the analyst has not counted this trial yet'}.")
    enough = found.pairs >= asked.min_pairs and world.age(status.shadow_since) >= asked.seconds
    if status.paused or not enough:
        seen = with_report(world, found)
        told = "no report yet" if seen.status.shadow is None else seen.status.shadow.sentence
        state = "Paused" if status.paused else "Shadowing"
        return wait(seen, state, f"Version {status.candidate} is only asked besides: {told}.")
    seen = with_report(world, found, exact=True)
    if asked.max_flip_rate is not None and found.flip_rate > asked.max_flip_rate:
        text = f"Version {status.candidate} is taken out, and nobody got it: {found.sentence}."
        return end(failed(seen, Why.LIMIT_BREACHED, text), Said(Turn.ROLLED_BACK, text), by="operator")
    return expose(seen)


def expose(world: RolloutWorld) -> Decision | None:
    """The first share, when every router reaches the candidate."""
    status = world.status
    if status.candidate is None or status.step >= 0:
        return None
    if not world.answers(status.candidate):
        why = world.because(status.candidate)
        return wait(world, "Preparing", f"Version {status.candidate} does not answer every router yet{why}.")
    if status.paused:
        return wait(world, "Paused", f"Version {status.candidate} is paused before anybody got it.", again=None)
    percent = world.spec.canary.steps[0]
    said = Said(Turn.EXPOSED, f"Version {status.candidate} gets {percent:g} % of the subjects.")
    if not status.shadowed:
        world = replace(world, status=status.model_copy(update={"restarts": world.restarts(status.candidate)}))
    return share(world, said, percent=percent, step=0)


def hold(world: RolloutWorld) -> Decision | None:
    """No step while it is paused, or while the evidence is not there or cannot be trusted."""
    if world.status.candidate is None:
        return None
    verdict = verdict_of(world)
    seen = with_verdict(world, verdict)
    if verdict.outcome is Outcome.ERROR:
        return wait(seen, "Holding", f"Held: {_thought(seen)}.")
    if exposed_subjects(world) is None:
        return wait(seen, "Holding", f"Held: {world.problem or 'the analyst has not counted this trial yet'}.")
    if why := held_by(world):
        return wait(seen, "Holding", f"Held at {world.status.percent:g} %: {why}.")
    if world.status.paused:
        return wait(seen, "Paused", f"Paused at {world.status.percent:g} %: {_thought(seen)}.")
    return None


def finish(world: RolloutWorld) -> Decision | None:
    """Promote after the last step, when the statistics say so and nobody wants to be asked."""
    status = world.status
    if status.candidate is None or _next_step(world) is not None:
        return None
    verdict = verdict_of(world)
    seen = with_verdict(world, verdict)
    if verdict.outcome is not Outcome.SUCCESSFUL or _too_soon(world):
        return wait(seen, "Ramping", f"At {status.percent:g} %, the last step: {_thought(seen)}.")
    if world.spec.promotion == "manual":
        return wait(seen, "WaitingForPromotion", f"Passed, and waits for `ratchet promote`: {_thought(seen)}.")
    if not world.answers(status.candidate):
        return wait(seen, "Holding", f"Passed, but version {status.candidate} does not answer every router.")
    said = Said(Turn.PROMOTED, f"Version {status.candidate} is promoted: {verdict.sentence}.")
    return promote(seen, status.candidate, said, by="operator")


def step(world: RolloutWorld) -> Decision | None:
    """The next share, when this one lasted long enough and somebody got the candidate in the meantime."""
    status, following = world.status, _next_step(world)
    if status.candidate is None or following is None:
        return None
    seen = with_verdict(world, verdict_of(world))
    if _too_soon(world):
        return wait(seen, "Ramping", f"At {status.percent:g} %: {_thought(seen)}.")
    if (exposed_subjects(world) or 0) <= status.step_subjects:
        return wait(seen, "Holding", f"Held at {status.percent:g} %: nobody got version {status.candidate} since.")
    percent = world.spec.canary.steps[following]
    said = Said(Turn.STEPPED, f"Version {status.candidate} gets {percent:g} % of the subjects.")
    return share(seen, said, percent=percent, step=following)


def rest(world: RolloutWorld) -> Decision:
    """Nothing is on trial."""
    if world.champion is not None and (why := world.because(world.champion)):
        return wait(world, "Preparing", f"Version {world.champion} is champion, and none of its servers answers{why}.")
    return wait(world, "Ready", f"Version {world.champion} serves everybody.", again=None)


def _thought(seen: RolloutWorld) -> str:
    """The verdict as the status keeps it: it changes less often than the numbers do, which saves writes."""
    return seen.status.verdict.message


def _too_soon(world: RolloutWorld) -> bool:
    return world.age(world.status.step_since) < world.spec.canary.step_seconds


def _next_step(world: RolloutWorld) -> int | None:
    """Index of the first step above the present share; steps may have been edited since."""
    above = (place for place, percent in enumerate(world.spec.canary.steps) if percent > world.status.percent)
    return next(above, None)
