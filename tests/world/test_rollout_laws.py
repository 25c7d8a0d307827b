"""Laws of every rollout, over random lives: people, faults, clocks and commands in any order."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from ratchet_operator.plan.rollout.table import wanted_servers
from tests.world.rollouts import SPEC, Simulation

COMMANDS = ("pause", "resume", "abort", "promote", "undo", "nonsense", "")
STEPS = ([5], [1, 2, 3], [5, 25, 50], [50])


def disturb(sim: Simulation, rng: random.Random, number: int) -> None:
    """Do one thing that users, clusters or clocks do."""
    sim.command = rng.choice([sim.command, rng.choice(COMMANDS) + rng.choice(["", f":{number}"])])
    sim.broken = rng.choice([sim.broken, set(), {rng.choice(list(sim.likes))}])
    sim.routers[1].hangs = rng.random() < 0.2
    sim.analyst = rng.random() < 0.8
    sim.spoil = rng.choice([lambda evidence: evidence, lambda evidence: replace(evidence, dropped=1)])
    sim.clock_error = timedelta(minutes=rng.choice([0, 0, 10, -10, 1000, -1000]))
    canary: dict[str, Any] = SPEC["canary"]
    sim.spec = {**SPEC, "canary": {**canary, "steps": rng.choice(STEPS)}}
    if rng.random() < 0.3:
        arms = [{"version": v, "percent": rng.choice([1, 10])} for v in rng.sample(sorted(sim.likes), k=1)]
        sim.spec["abTest"] = {"arms": arms, "seconds": rng.choice([60, 600]), "promoteBest": rng.random() < 0.5}
    if rng.random() < 0.2:
        sim.likes[max(sim.likes) + 1] = rng.random()
    if rng.random() < 0.1:
        gone = rng.choice(list(sim.likes))
        if gone not in (sim.champion, sim.status.serving):
            del sim.likes[gone]
    if rng.random() < 0.1:
        sim.champion = rng.choice(list(sim.likes))


@pytest.mark.parametrize("seed", range(10))
def test_whatever_happens_a_rollout_comes_to_rest_and_everybody_gets_the_champion(seed: int) -> None:
    """P6, P31, P36: no hot loop, no arm changed, no row lost on the way (`Simulation` checks after every pass)."""
    rng = random.Random(seed)
    sim = Simulation({1: 0.5, 2: rng.random()}, people=5, seed=seed, loses_decisions=rng.choice([0.0, 0.3]))
    for number in range(25):
        disturb(sim, rng, number)
        sim.run(rng.choice([0.2, 1, 2]))
    assert sim.status.rows > 0
    sim.routers[1].hangs, sim.broken, sim.clock_error, sim.loses_decisions = False, set(), timedelta(0), 0.0
    sim.run(2)
    assert sim.status.serving == sim.champion
    tested = () if sim.status.testing is None else (arm.version for arm in sim.status.testing.live)
    assert set(wanted_servers(sim.status, sim.champion)) <= {sim.champion, sim.status.candidate, *tested}
