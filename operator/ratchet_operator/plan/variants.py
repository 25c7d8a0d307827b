"""Generation configs as versions: the same files answering otherwise get a number of their own. Pure.

A number stands for files and config together and for nothing else ever, so that servers, table, log, verdict and
history tell two configs apart as they tell two versions apart. Nothing here decides who gets a version: what is
registered goes on trial as any other, and an arm of a test is tried by that test alone. Called by `plan.policies`.
"""

from __future__ import annotations

from collections.abc import Sequence, Set

from ratchet_api.conditions import Reason
from ratchet_api.generation import KeptGeneration, config_digest, kept
from ratchet_api.policy import PolicyVersion, RLPolicySpec, RLPolicyStatus
from ratchet_api.rollout import RolloutStatus
from ratchet_operator.plan.say import progressing, settle
from ratchet_operator.plan.versions import make_room, served, with_champion
from ratchet_operator.plan.world import NOW, Event, Plan, PolicyWorld

_FIELD = "spec.serving.generation"


def asked_config(spec: RLPolicySpec | None) -> KeptGeneration | None:
    """Return the config with which versions are registered now."""
    return None if spec is None or spec.serving is None else kept(spec.serving.generation)


def follow_generation(world: PolicyWorld) -> Plan[RLPolicyStatus] | None:
    """Act once on each change of spec.serving.generation: what is the newest that people shall get, by the new config.

    Once, since a version with another config may be promoted since, and keeps its own.
    """
    if world.spec is None or world.spec.serving is None:
        return None
    status, config = world.status, asked_config(world.spec)
    if config_digest(config) == status.observed_generation_config:
        return None
    seen = status.model_copy(update={"observed_generation_config": config_digest(config)})
    source = _source(world)
    if source is None or source.generation == config:
        return settle(world, seen, status.state or "Pending", (), requeue_after=NOW)
    made = _register(world, seen, [(source, config)])
    if made is None:
        return None  # every row is in use: as soon as one is free
    seen, (row,) = made
    text = f"Version {row.version} is {row.sentence} ({_FIELD} was changed)."
    if world.spec.rollout is None and status.champion is not None:
        seen = with_champion(seen, row.version, world.now, f"{_FIELD} was changed, and spec.rollout asks for no trial")
    return _told(world, seen, [text])


def register_arms(world: PolicyWorld) -> Plan[RLPolicyStatus] | None:
    """Give numbers to the arms of a test that is about to begin and has configs of its own."""
    spec, status = world.spec, world.status
    rollout = status.rollout or RolloutStatus()
    if spec is None or spec.rollout is None or (test := spec.rollout.ab_test) is None:
        return None
    run_before = rollout.ab_test is not None and rollout.ab_test.asked == test.digest
    if status.champion is None or rollout.candidate is not None or rollout.testing is not None or run_before:
        return None
    rows = {row.version: row for row in status.versions}
    if any(arm.version not in rows for arm in test.arms):
        return None  # the rollout says so
    known = arm_numbers(spec, status.versions)
    wanted = [
        (rows[arm.version], kept(arm.generation.over(rows[arm.version].generation)))
        for place, arm in enumerate(test.arms)
        if arm.generation is not None and place not in known
    ]
    if not wanted:
        return None
    needed = {arm.version for arm in test.arms} | set(known.values())
    made = _register(world, status, wanted, needed=needed)
    if made is None:
        return None  # the rollout says which has no number
    seen, new = made
    return _told(world, seen, [f"Version {row.version} is {row.sentence} (an arm of rollout.abTest)." for row in new])


def arm_numbers(spec: RLPolicySpec | None, versions: Sequence[PolicyVersion]) -> dict[int, int]:
    """Return the numbers of a test's arms with a config, by their place; those that have none are left out."""
    test = None if spec is None or spec.rollout is None else spec.rollout.ab_test
    rows = {row.version: row for row in versions}
    found = {}
    for place, arm in enumerate(() if test is None else test.arms):
        base = rows.get(arm.version)
        if arm.generation is None or base is None:
            continue
        config = kept(arm.generation.over(base.generation))
        alike = [row for row in versions if (row.digest, row.generation) == (base.digest, config)]
        if alike:
            found[place] = base.version if base in alike else alike[-1].version
    return found


def _source(world: PolicyWorld) -> PolicyVersion | None:
    """Return whose files the new config is for: of the version on trial, else of one that waits, else the champion."""
    status = world.status
    rollout = status.rollout or RolloutStatus()
    rows = {row.version: row for row in status.versions}
    newest, champion = max(rows, default=0), status.champion
    if champion is None:
        return rows.get(newest)
    asked = None if world.spec is None else world.spec.rollout
    if asked is None:
        return rows.get(champion)  # it is promoted at once, which files that nobody tried must not be
    if rollout.candidate in rows:
        return rows[rollout.candidate]
    waits = asked.ab_test is None and newest > max(champion, rollout.settled_up_to)
    return rows.get(newest if waits else champion)


def _register(
    world: PolicyWorld,
    status: RLPolicyStatus,
    wanted: Sequence[tuple[PolicyVersion, KeptGeneration | None]],
    *,
    needed: Set[int] = frozenset(),
) -> tuple[RLPolicyStatus, list[PolicyVersion]] | None:
    """Return the status with a row for each, and the rows; None if there is no room for them."""
    taken = {run.uid for run in world.runs if not run.numbered}
    versions, number, made = list(status.versions), status.next_version, list[PolicyVersion]()
    for source, config in wanted:
        keep = served(status) | needed | {source.version} | {row.version for row in made}
        room = make_room(versions, needed=keep, taken=taken)
        if room is None:
            return None
        update = {"version": number, "generation": config, "variant_of": source.version, "published": world.now}
        made.append(source.model_copy(update=update))
        versions, number = [*room, made[-1]], number + 1
    return status.model_copy(update={"versions": tuple(versions), "next_version": number}), made


def _told(world: PolicyWorld, status: RLPolicyStatus, texts: Sequence[str]) -> Plan[RLPolicyStatus]:
    events = [Event(Reason.VERSION_REGISTERED, text) for text in texts]
    said = progressing(Reason.VERSION_REGISTERED, texts[-1])
    return settle(world, status, world.status.state or "Ready", said, events=events, requeue_after=NOW)
