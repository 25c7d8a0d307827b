"""The rules of a test with fixed shares, each speaking or silent. Pure; their order is in `__init__`.

Shares never change while it lasts. A version that is shown to be worse, or does not answer, is taken out, and its
subjects get the champion; nobody else changes sides. What is not known takes nobody out, and promotes nobody.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ratchet_api.fixed_shares import AbTest, AbTestStatus, ArmShare, ArmStatus
from ratchet_api.names import short_hash
from ratchet_api.rollout import FEEDBACK
from ratchet_api.stats.verdict import Outcome, Verdict
from ratchet_api.verdicts import VerdictStatus
from ratchet_operator.plan.rollout.changes import deal, end, note, promote, refuse, take_arms_out, wait
from ratchet_operator.plan.rollout.judging import alike, arm_verdict, kept, with_verdicts
from ratchet_operator.plan.rollout.world import MOST_RESTARTS, Decision, RolloutWorld, Said, Trouble, Turn


def end_unwanted_test(world: RolloutWorld) -> Decision | None:
    """rollout.abTest was removed or changed while the test ran."""
    test = world.status.ab_test
    if test is None or not test.running or (world.trials and _asked(world) == test.asked):
        return None
    text = f"The test of {_names(test.arms)} is over: rollout.abTest was changed; version {world.status.serving} stays."
    return end(world, Said(Turn.ABORTED, text), by="user")


def watch_arms(world: RolloutWorld) -> Decision | None:
    """Remember since when versions have not answered, and take out those that are gone, silent, or shown worse."""
    test = world.status.ab_test
    if test is None or not test.running:
        return None
    arms = tuple(_watched(world, test, arm) for arm in test.arms)
    lost = [arm for arm, before in zip(arms, test.arms, strict=True) if arm.out and not before.out]
    if lost:
        said = Said(Turn.ROLLED_BACK, " ".join(arm.out for arm in lost))
        seen = _with_leaving(_with_arms(world, test, arms), tuple(arm.version for arm in lost))
        return end(seen, said, by="operator") if all(arm.out for arm in arms) else take_arms_out(seen, said)
    return note(world, "", ab_test=test.model_copy(update={"arms": arms})) if arms != test.arms else None


def begin_test(world: RolloutWorld) -> Decision | None:
    """A test that was not run yet begins, when nobody else is on trial."""
    status, asked = world.status, world.spec.ab_test
    if asked is None or not world.trials or status.candidate is not None or world.champion is None:
        return None
    before = status.ab_test
    if before is not None and before.asked == _asked(world):
        return None
    versions = [_version_of(world, place, arm) for place, arm in enumerate(asked.arms)]
    if why := next(_not_testable(world, asked, versions), None):
        return wait(world, "Holding", f"Held: {why}.")
    for version in versions:
        if version is not None and (refused := refuse(world, version, asked="rollout.abTest")) is not None:
            return refused
    number = status.experiments + 1
    name = f"{number}-ab-{short_hash(_asked(world), 8)}"
    arms = tuple(
        ArmStatus(version=version, digest=world.versions[version], percent=arm.percent)
        for version, arm in zip(versions, asked.arms, strict=True)
        if version is not None
    )
    changes: dict[str, Any] = {
        "ab_test": AbTestStatus(asked=_asked(world), experiment=name, running=True, arms=arms, began=world.now),
        "experiment": name,
        "experiments": number,
        "refused": None,
        "verdict": VerdictStatus(),
    }
    text = f"{_tested(arms)} tested against version {world.champion}; servers are started."
    return note(world, "Preparing", Said(Turn.CANDIDATE, text[:1].upper() + text[1:]), **changes)


def _version_of(world: RolloutWorld, place: int, arm: ArmShare) -> int | None:
    """The number of an arm; None = it has a config with which its version is not registered."""
    return arm.version if arm.generation is None else world.configured.get(place)


def _not_testable(world: RolloutWorld, asked: AbTest, versions: Sequence[int | None]) -> Iterator[str]:
    """Why the test cannot begin."""
    for arm, version in zip(asked.arms, versions, strict=True):
        named = f"rollout.abTest names version {arm.version}"
        told = named if arm.generation is None else f"{named} with {arm.generation.sentence}"
        if arm.version not in world.versions:
            yield f"{named}; there are {', '.join(map(str, sorted(world.versions))) or 'none'}"
        elif version is None:
            yield f"{told}, for which no row of status.versions is free; name fewer arms, or promote or abort what runs"
        elif version == world.champion:
            yield f"{told}, which is champion; every version is held against it"
        elif versions.count(version) > 1:
            yield f"{told}, which is version {version} and named twice; remove one of the arms"


def deal_test(world: RolloutWorld) -> Decision | None:
    """All shares at once, when every router reaches every version."""
    test = world.status.ab_test
    if test is None or not test.running or test.dealt:
        return None
    missing = [arm.version for arm in test.live if not world.answers(arm.version)]
    if missing:
        why = world.because(missing[0])
        return wait(world, "Preparing", f"Version {missing[0]} does not answer every router yet{why}.")
    began = tuple(arm.model_copy(update={"restarts": world.restarts(arm.version)}) for arm in test.arms)
    test = test.model_copy(update={"arms": began})
    shares = ", ".join(f"version {arm.version} {arm.percent:g} %" for arm in test.live)
    return deal(
        world, test, Said(Turn.EXPOSED, f"The test begins: {shares} of the subjects, and control as many each.")
    )


def run_test(world: RolloutWorld) -> Decision | None:
    """Show the verdicts while it lasts; then promote the best, if that was asked for, or leave it to people."""
    status, test, asked = world.status, world.status.ab_test, world.spec.ab_test
    if test is None or not test.running or asked is None:
        return None
    if test.exposed is None:
        return note(world, "Ramping", ab_test=test.model_copy(update={"exposed": world.now}))
    verdicts = {arm.version: arm_verdict(world, arm) for arm in test.live}
    seen = _with_arms(world, test, tuple(_with_verdict(world, arm, verdicts.get(arm.version)) for arm in test.arms))
    seen = with_verdicts(seen, verdicts)
    if not _is_over(world, test):
        if held := _held(world, verdicts):
            return wait(seen, "Holding", f"Held: {held}.")
        text = f"{_tested(test.live)} tested against version {status.serving}."
        return wait(seen, "Ramping", text[:1].upper() + text[1:])
    passed = {version: verdict for version, verdict in verdicts.items() if verdict.outcome is Outcome.SUCCESSFUL}
    if asked.promote_best and any(version not in world.arms for version in verdicts):
        return wait(seen, "Holding", f"Its time is over; held: {world.problem or 'the analyst has not counted it'}.")
    if not asked.promote_best or not passed:
        none = "none of them passed" if not passed else f"{_listed(tuple(passed))} passed, and people choose"
        return end(seen, Said(Turn.ENDED, f"The test of {_names(test.arms)} is over: {none}."), by="operator")
    best = max(passed, key=lambda version: (passed[version].readings[0].improvement or 0.0, version))
    if not world.answers(best):
        return wait(seen, "Holding", f"Version {best} is the best, but does not answer every router.")
    text = f"Version {best} is the best of {_names(test.arms)} and is promoted: {passed[best].sentence}."
    return promote(seen, best, Said(Turn.PROMOTED, text), by="operator")


def _watched(world: RolloutWorld, test: AbTestStatus, arm: ArmStatus) -> ArmStatus:
    if arm.out:
        return arm
    ready = arm.version in world.ready
    since = None if ready else arm.unready_since or world.now
    if arm.unready_since is not None and arm.unready_since > world.now:
        since = world.now  # the clock was set back
    arm = arm.model_copy(update={"unready_since": since})
    why = _why_out(world, test, arm)
    return arm.model_copy(update={"out": f"Version {arm.version} is taken out: {why}."[:256]}) if why else arm


def _why_out(world: RolloutWorld, test: AbTestStatus, arm: ArmStatus) -> str:
    if world.versions.get(arm.version) != arm.digest:
        return "it is no longer what it was when the test began"
    patience = world.spec.canary.unready_seconds if test.dealt else world.spec.canary.ready_seconds
    if arm.unready_since is not None and world.age(arm.unready_since) >= patience:
        return f"it did not answer for {patience} s{world.because(arm.version)}"
    trouble = world.troubles.get(arm.version, Trouble())
    if trouble.unloadable and arm.version not in world.ready:
        return f"it cannot be loaded: {trouble.text}"
    if test.dealt and (often := trouble.restarts - arm.restarts) > MOST_RESTARTS:
        return f"a pod of it restarted {often} times: {trouble.text}"
    verdict = arm_verdict(world, arm) if test.exposed is not None else None
    return verdict.sentence if verdict is not None and verdict.outcome is Outcome.FAILED else ""


def _is_over(world: RolloutWorld, test: AbTestStatus) -> bool:
    asked = world.spec.ab_test
    if asked is None:
        return False
    if asked.seconds is not None and world.age(test.exposed) >= asked.seconds:
        return True
    if asked.subjects is None:
        return False
    return all(
        (counted := world.arms.get(arm.version)) is not None and counted.feedback >= asked.subjects for arm in test.live
    )


def _with_verdict(world: RolloutWorld, arm: ArmStatus, verdict: Verdict | None) -> ArmStatus:
    if verdict is None or arm.version not in world.arms:
        return arm  # the last one that was known stays
    arms = world.arms[arm.version].evidence.means.get(FEEDBACK)
    now = kept(verdict, 0 if arms is None else arms.subjects, longest=400)
    return arm if alike(arm.verdict, now) else arm.model_copy(update={"verdict": now})


def _with_arms(world: RolloutWorld, test: AbTestStatus, arms: tuple[ArmStatus, ...]) -> RolloutWorld:
    changed = test.model_copy(update={"arms": arms})
    return replace(world, status=world.status.model_copy(update={"ab_test": changed}))


def _with_leaving(world: RolloutWorld, versions: tuple[int, ...]) -> RolloutWorld:
    leaving = tuple(sorted({*world.status.leaving, *versions}))
    return replace(world, status=world.status.model_copy(update={"leaving": leaving}))


def _asked(world: RolloutWorld) -> str:
    asked = world.spec.ab_test
    return "" if asked is None else asked.digest


def _held(world: RolloutWorld, verdicts: Mapping[int, Verdict]) -> str:
    """Say why the test learns nothing now; empty = it does."""
    if any(version not in world.arms for version in verdicts):
        return world.problem or "the analyst has not counted this test yet"
    wrong = (f"version {at}: {found.sentence}" for at, found in verdicts.items() if found.outcome is Outcome.ERROR)
    return "; ".join(wrong)


def _tested(arms: tuple[ArmStatus, ...]) -> str:
    return f"{_names(arms)} {'is' if len(arms) == 1 else 'are'}"


def _names(arms: tuple[ArmStatus, ...]) -> str:
    return _listed(tuple(arm.version for arm in arms))


def _listed(versions: tuple[int, ...]) -> str:
    if len(versions) == 1:
        return f"version {versions[0]}"
    return f"versions {', '.join(map(str, versions[:-1]))} and {versions[-1]}"
