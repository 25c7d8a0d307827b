"""What a rollout thinks of its candidate: the evidence read by the statistics, and the sentence kept for people.

Pure.
"""

from __future__ import annotations

from dataclasses import replace

from ratchet_api.rollout import FEEDBACK, RolloutStatus, VerdictStatus, rules_of
from ratchet_api.stats.errors import BadEvidence
from ratchet_api.stats.ratio import SampleRatio
from ratchet_api.stats.verdict import Evidence, Outcome, Verdict, Why, judge
from ratchet_operator.plan.rollout.world import RolloutWorld

_NOBODY = SampleRatio((0.5, 0.5))
_SAME = 0.01
"""Change of the number of samples below which a verdict is not written anew."""


def verdict_of(world: RolloutWorld) -> Verdict:
    """Return the verdict on the candidate at this moment.

    Evidence of another trial is none; evidence that contradicts itself decides nothing, readiness aside.
    """
    rules, gone = rules_of(world.spec.judged), world.age(world.status.unready_since)
    ready = world.status.unready_since is None or gone < world.spec.canary.unready_seconds
    age = world.age(world.status.exposed)
    try:
        return judge(rules, replace(_evidence(world), age_seconds=age, ready=ready))
    except BadEvidence as error:
        if not ready:
            return judge(rules, Evidence(_NOBODY, ready=False))
        return Verdict(Outcome.ERROR, Why.STALE, f"the evidence cannot be: {error}", False, ())


def exposed_subjects(world: RolloutWorld) -> int | None:
    """Subjects that got the candidate; None = nobody can say."""
    counted = world.counted
    if counted is None or counted.experiment != world.status.experiment:
        return None
    counts = counted.evidence.split.counts
    return counts[0] if counts else 0


def with_verdict(world: RolloutWorld, verdict: Verdict) -> RolloutWorld:
    """Return the world whose status shows the verdict; a hardly changed one stays as it was, which saves writes."""
    status = world.status
    arms = _evidence(world).means.get(FEEDBACK)
    now = VerdictStatus(
        outcome=verdict.outcome.value,
        reason=verdict.why.value,
        message=verdict.sentence[:1024],
        samples=0 if arms is None else arms.subjects,
        needed=verdict.more,
    )
    return world if _alike(status, now) else replace(world, status=status.model_copy(update={"verdict": now}))


def _alike(status: RolloutStatus, now: VerdictStatus) -> bool:
    before = status.verdict
    same = (before.outcome, before.reason) == (now.outcome, now.reason)
    return same and abs(now.samples - before.samples) <= _SAME * before.samples


def _evidence(world: RolloutWorld) -> Evidence:
    counted = world.counted
    if counted is None or counted.experiment != world.status.experiment:
        return Evidence(_NOBODY)
    return counted.evidence
