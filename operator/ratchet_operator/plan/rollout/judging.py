"""What a rollout thinks of its candidate: the evidence read by the statistics, and the sentence kept for people.

Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ratchet_api.fixed_shares import ArmStatus
from ratchet_api.rollout import FEEDBACK, rules_of, rules_of_arm
from ratchet_api.shadow import ShadowReport
from ratchet_api.stats.errors import BadEvidence
from ratchet_api.stats.ratio import SampleRatio
from ratchet_api.stats.verdict import Evidence, Outcome, Verdict, Why, closed_if_late, judge
from ratchet_api.verdicts import VerdictStatus
from ratchet_operator.plan.rollout.measuring import limits_of
from ratchet_operator.plan.rollout.world import RolloutWorld

_NOBODY = SampleRatio((0.5, 0.5))
_SAME = 0.01
"""Change of the number of samples below which a verdict is not written anew."""


def verdict_of(world: RolloutWorld) -> Verdict:
    """Return the verdict on the candidate at this moment.

    Evidence of another trial is none; evidence that contradicts itself decides nothing, readiness and the user's own
    numbers aside.
    """
    rules, gone = rules_of(world.spec.judged), world.age(world.status.unready_since)
    ready = world.status.unready_since is None or gone < world.spec.canary.unready_seconds
    age = world.age(world.status.exposed)
    limits = limits_of(world)
    try:
        return _explained(world, judge(rules, replace(_evidence(world), age_seconds=age, ready=ready, limits=limits)))
    except BadEvidence as error:
        if not ready or any(limit.broken for limit in limits):
            return _explained(world, judge(rules, Evidence(_NOBODY, ready=ready, limits=limits)))
        return closed_if_late(rules, age, _impossible(error))


def _explained(world: RolloutWorld, verdict: Verdict) -> Verdict:
    """Name the pod and what it ended with where a candidate does not answer."""
    candidate = world.status.candidate
    why = world.because(candidate) if candidate is not None and verdict.why is Why.NOT_READY else ""
    return replace(verdict, sentence=f"the candidate does not answer{why}") if why else verdict


def _impossible(error: BadEvidence) -> Verdict:
    return Verdict(Outcome.ERROR, Why.STALE, f"the evidence cannot be: {error}", False, ())


def arm_verdict(world: RolloutWorld, arm: ArmStatus) -> Verdict:
    """Return the verdict on one version of a test against its control group; nothing counted decides nothing."""
    counted, test = world.arms.get(arm.version), world.status.testing
    evidence = Evidence(_NOBODY) if counted is None else counted.evidence
    age = world.age(None if test is None else test.exposed)
    try:
        return judge(rules_of_arm(world.spec), replace(evidence, age_seconds=age))
    except BadEvidence as error:
        return _impossible(error)


def exposed_subjects(world: RolloutWorld) -> int | None:
    """Subjects that got the candidate; None = nobody can say."""
    counted = world.counted
    if counted is None or counted.experiment != world.status.experiment:
        return None
    counts = counted.evidence.split.counts
    return counts[0] if counts else 0


def shadow_report(world: RolloutWorld) -> ShadowReport | None:
    """What the candidate answered beside the champion; None = nobody can say."""
    counted = world.counted
    return None if counted is None or counted.experiment != world.status.experiment else counted.shadow


def with_report(world: RolloutWorld, found: ShadowReport, *, exact: bool = False) -> RolloutWorld:
    """Return the world whose status shows the report; a hardly changed one stays as it was unless it must be exact."""
    before = world.status.shadow
    alike = before is not None and abs(found.pairs - before.pairs) <= _SAME * before.pairs
    if alike and not exact:
        return world
    return replace(world, status=world.status.model_copy(update={"shadow": found}))


def with_verdict(world: RolloutWorld, verdict: Verdict) -> RolloutWorld:
    """Return the world whose status shows the verdict; a hardly changed one stays as it was, which saves writes."""
    status = world.status
    now = kept(verdict, _samples(_evidence(world)))
    return world if alike(status.verdict, now) else replace(world, status=status.model_copy(update={"verdict": now}))


def failed(world: RolloutWorld, why: Why, sentence: str, outcome: Outcome = Outcome.FAILED) -> RolloutWorld:
    """Return the world whose status says that the candidate failed by what no statistics tell."""
    verdict = VerdictStatus(outcome=outcome.value, reason=why.value, message=sentence[:1024])
    return replace(world, status=world.status.model_copy(update={"verdict": verdict}))


def with_verdicts(world: RolloutWorld, verdicts: Mapping[int, Verdict]) -> RolloutWorld:
    """Return the world whose status shows the verdicts on the versions of a test as one.

    One that cannot be trusted comes before one that passed, and that before the open ones. Samples are those of the
    version with the fewest, and what is needed that of the one that needs the most.
    """
    if not verdicts:
        return world
    order = (Outcome.ERROR, Outcome.SUCCESSFUL, Outcome.INCONCLUSIVE, Outcome.FAILED)
    first = min(verdicts.values(), key=lambda verdict: order.index(verdict.outcome))
    more = [verdict.more for verdict in verdicts.values()]
    now = VerdictStatus(
        outcome=first.outcome.value,
        reason=first.why.value,
        message="; ".join(f"version {version}: {verdict.sentence}" for version, verdict in verdicts.items())[:1024],
        samples=min(_samples(world.arms[version].evidence) if version in world.arms else 0 for version in verdicts),
        needed=None if None in more else max(count for count in more if count is not None),
    )
    status = world.status
    return world if alike(status.verdict, now) else replace(world, status=status.model_copy(update={"verdict": now}))


def kept(verdict: Verdict, samples: int, *, longest: int = 1024) -> VerdictStatus:
    """Return what a status keeps of a verdict."""
    return VerdictStatus(
        outcome=verdict.outcome.value,
        reason=verdict.why.value,
        message=verdict.sentence[:longest],
        samples=samples,
        needed=verdict.more,
    )


def alike(before: VerdictStatus, now: VerdictStatus) -> bool:
    """Whether the two hardly differ, so that writing it anew says nothing."""
    same = (before.outcome, before.reason) == (now.outcome, now.reason)
    return same and abs(now.samples - before.samples) <= _SAME * before.samples


def _samples(evidence: Evidence) -> int:
    arms = evidence.means.get(FEEDBACK)
    return 0 if arms is None else arms.subjects


def _evidence(world: RolloutWorld) -> Evidence:
    counted = world.counted
    if counted is None or counted.experiment != world.status.experiment:
        return Evidence(_NOBODY)
    return counted.evidence
