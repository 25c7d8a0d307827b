"""Tests with fixed shares: several versions beside each other, each against a control group of its own."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from ratchet_api.assign import Slot
from ratchet_api.fixed_shares import arm_experiment
from ratchet_api.label_sets import LabelSet
from ratchet_api.rollout import Rollout, rules_of_arm
from ratchet_operator.plan.rollout.table import wanted_servers
from ratchet_operator.plan.rollout.world import Turn
from tests.world.rollouts import SPEC, Simulation

ARMS = [{"version": 2, "percent": 20}, {"version": 3, "percent": 15}]
ALIKE = {1: 0.5, 2: 0.5, 3: 0.5}


def asked(**more: Any) -> dict[str, Any]:
    return SPEC | {"abTest": {"arms": ARMS, "seconds": 600} | more}


def trial(likes: dict[int, float] = ALIKE, *, spec: dict[str, Any] | None = None, **more: Any) -> Simulation:
    return Simulation(likes, spec=asked() if spec is None else spec, **({"people": 60} | more))


def dealt(sim: Simulation) -> Simulation:
    """Run until people are dealt the versions."""
    sim.run(5, until=lambda: sim.status.testing is not None and sim.status.testing.exposed is not None)
    assert sim.status.testing is not None
    return sim


def ended(sim: Simulation) -> bool:
    return sim.status.ab_test is not None and not sim.status.ab_test.running and not sim.status.leaving


def test_every_version_gets_its_share_at_once_and_a_control_group_of_the_same_size() -> None:
    """P31."""
    sim = dealt(trial())
    table = sim.routers[0].table
    assert table is not None
    assert table.split is not None
    two, three = (arm_experiment("uid-1", sim.status.experiment, version) for version in (2, 3))
    assert table.split.slots == (
        Slot("canary", 2, 2000, two),
        Slot("control", 1, 2000, two),
        Slot("canary", 3, 1500, three),
        Slot("control", 1, 1500, three),
        Slot("champion", 1, 3000),
    )
    assert [[(arm.version, arm.percent) for arm in row.arms] for row in sim.history] == [[], [(2, 20), (3, 15)]]
    sim.run(5)
    assert sim.served[2] > 1.1 * sim.served[3] > 0
    assert len(sim.history) == 2, "shares stay"


def test_a_test_ends_after_its_time_and_people_choose() -> None:
    sim = dealt(trial({1: 0.4, 2: 0.4, 3: 0.9}, people=120))
    began = sim.now
    sim.run(15, until=lambda: ended(sim))
    assert timedelta(seconds=590) <= sim.now - began <= timedelta(seconds=640)
    assert (sim.champion, sim.status.serving, wanted_servers(sim.status, sim.champion)) == (1, 1, (1,))
    assert (sim.turns[-2], sim.status.testing) == (Turn.ENDED, None)
    test = sim.status.ab_test
    assert test is not None
    assert test.result == "The test of versions 2 and 3 is over: version 3 passed, and people choose."
    assert [arm.verdict.outcome for arm in test.arms] == ["Inconclusive", "Successful"]
    sim.run(5)
    assert sim.turns.count(Turn.CANDIDATE) == 1, "it is run once, and its versions are not tried again"


def test_a_test_ends_when_enough_people_spoke_of_every_version() -> None:
    sim = trial(spec=SPEC | {"abTest": {"arms": ARMS, "subjects": 80}})
    sim.run(20, until=lambda: ended(sim))
    assert sim.status.ab_test is not None
    assert 160 <= min(arm.verdict.samples for arm in sim.status.ab_test.arms) <= 260
    assert sim.turns[-2] is Turn.ENDED


def test_the_best_of_those_that_passed_is_promoted_where_that_is_asked_for() -> None:
    sim = trial({1: 0.3, 2: 0.7, 3: 0.95}, spec=asked(promoteBest=True), people=120)
    sim.run(20, until=lambda: ended(sim))
    assert (sim.champion, sim.status.serving, wanted_servers(sim.status, sim.champion)) == (3, 3, (3,))
    assert "Version 3 is the best of versions 2 and 3 and is promoted: better: feedback" in sim.history[-1].why


def test_nobody_is_promoted_where_nobody_passed() -> None:
    """P33."""
    sim = trial(spec=asked(promoteBest=True))
    sim.run(20, until=lambda: ended(sim))
    assert (sim.champion, sim.turns[-2]) == (1, Turn.ENDED)
    assert sim.history[-1].why.endswith("none of them passed.")


def test_a_version_that_is_worse_is_taken_out_and_the_others_stay_as_they_are() -> None:
    """P34."""
    sim = dealt(trial({1: 0.7, 2: 0.1, 3: 0.7}))
    sim.run(8, until=lambda: Turn.ROLLED_BACK in sim.turns)
    test = sim.status.testing
    assert test is not None
    assert [bool(arm.out) for arm in test.arms] == [True, False]
    assert "Version 2 is taken out: worse by more than its margin: feedback" in test.arms[0].out
    assert wanted_servers(sim.status, 1) == (1, 2, 3), "its servers answer until every router knows"
    sim.run(1)
    assert wanted_servers(sim.status, 1) == (1, 3)
    before = sim.served.copy()
    sim.run(1)
    assert sim.served[2] == before[2]
    assert sim.served[3] > before[3]
    sim.run(15, until=lambda: ended(sim))
    assert sim.champion == 1


def test_a_test_whose_versions_are_all_out_is_over() -> None:
    sim = dealt(trial({1: 0.7, 2: 0.1, 3: 0.1}))
    sim.run(9, until=lambda: ended(sim))
    assert (sim.champion, sim.status.testing, wanted_servers(sim.status, 1)) == (1, None, (1,))
    assert sim.turns[-2] is Turn.ROLLED_BACK
    sim.spec = SPEC
    sim.run(2)
    assert sim.turns.count(Turn.CANDIDATE) == 1, "nobody is tried again"


@pytest.mark.parametrize("dealt_before", [False, True], ids=["before its share", "with its share"])
def test_a_version_that_does_not_answer_is_taken_out_and_the_rest_goes_on(dealt_before: bool) -> None:
    sim = trial(broken=set() if dealt_before else {2})
    if dealt_before:
        sim = dealt(sim)
        sim.broken = {2}
        sim.run(0.3)
        assert Turn.ROLLED_BACK not in sim.turns, "a short pause is forgiven"
    sim.run(8, until=lambda: Turn.ROLLED_BACK in sim.turns)
    assert sim.status.ab_test is not None
    seconds = 30 if dealt_before else 300
    assert sim.status.ab_test.arms[0].out == f"Version 2 is taken out: it did not answer for {seconds} s."
    sim.run(3)
    assert sim.served[3] > 0
    assert sim.status.testing is not None


def test_a_version_deleted_during_the_test_is_taken_out() -> None:
    sim = dealt(trial())
    del sim.likes[3]
    sim.run(1)
    assert sim.status.testing is not None
    assert "no longer what it was" in sim.status.testing.arms[1].out


def test_a_changed_test_is_another_test_with_another_salt() -> None:
    sim = dealt(trial())
    first = sim.status.experiment
    sim.spec = asked(arms=[{"version": 3, "percent": 5}])
    sim.run(3, until=lambda: sim.status.experiment != first and sim.status.testing is not None)
    assert Turn.ABORTED in sim.turns
    sim = dealt(sim)
    table = sim.routers[0].table
    assert table is not None
    assert table.split is not None
    assert [slot.version for slot in table.split.slots] == [3, 1, 1]


def test_a_test_that_is_removed_is_over_and_newer_versions_go_on_trial_again() -> None:
    sim = dealt(trial())
    sim.likes[4] = 0.5
    sim.run(1)
    assert sim.status.candidate is None
    sim.spec = SPEC
    sim.run(3)
    assert (sim.status.testing, sim.status.candidate) == (None, 4)


def test_a_champion_chosen_by_hand_out_of_the_test_serves_everybody_at_once() -> None:
    sim = dealt(trial())
    sim.champion = 3
    sim.run(2)
    assert (sim.status.serving, sim.status.testing) == (3, None)
    assert sim.turns[-2:] == [Turn.PROMOTED, Turn.APPLIED]
    assert [row.version for row in sim.history] == [1, 1, 3], "nobody went back in between"


def test_another_champion_chosen_by_hand_ends_the_test() -> None:
    sim = dealt(trial(ALIKE | {4: 0.5}))
    sim.champion = 4
    sim.run(2)
    assert (sim.status.serving, sim.status.testing) == (4, None)
    assert Turn.ABORTED in sim.turns


@pytest.mark.parametrize(
    ("command", "want"),
    [
        ("abort", "ended on request"),
        ("pause", "no steps"),
        ("promote", "say which"),
        ("resume", "nothing"),
    ],
)
def test_a_command_about_a_test_is_obeyed_or_refused_with_a_sentence(command: str, want: str) -> None:
    sim = dealt(trial(people=5))
    sim.command = command
    sim.run(1)
    assert want in sim.status.answer
    assert (sim.status.testing is None) == (command == "abort")


@pytest.mark.parametrize(
    ("version", "want"), [(9, "names version 9; there are 1, 2, 3"), (1, "names version 1, which is champion")]
)
def test_a_test_of_a_version_that_cannot_be_tried_waits_with_a_sentence(version: int, want: str) -> None:
    sim = trial(spec=asked(arms=[{"version": version, "percent": 5}]), people=5)
    sim.run(2)
    assert sim.last is not None
    assert (sim.last.state, sim.status.ab_test) == ("Holding", None)
    assert want in sim.last.message


def test_without_an_analyst_nobody_is_taken_out_and_nobody_is_promoted() -> None:
    """P35."""
    sim = dealt(trial({1: 0.5, 2: 0.0, 3: 1.0}, spec=asked(promoteBest=True), people=120))
    sim.analyst = False
    sim.run(15)
    assert sim.last is not None
    assert (sim.champion, sim.last.state, Turn.ROLLED_BACK in sim.turns) == (1, "Holding", False)
    assert sim.status.testing is not None, "it waits for the counts of those who came"
    sim.analyst = True
    sim.run(2, until=lambda: ended(sim))
    assert sim.champion == 3


def test_the_verdict_of_a_test_is_that_of_its_versions_and_not_of_the_trial_before() -> None:
    sim = trial({1: 0.5, 2: 0.1}, spec=SPEC)
    sim.run(60, until=lambda: Turn.ROLLED_BACK in sim.turns and not sim.status.leaving)
    assert sim.status.verdict.outcome == "Failed"
    sim.likes |= {3: 0.5}
    sim.spec = asked()
    sim.run(1, until=lambda: sim.status.testing is not None)
    assert (sim.status.verdict.outcome, sim.status.verdict.samples) == ("", 0)
    sim.run(6)
    test, verdict = sim.status.testing, sim.status.verdict
    assert test is not None
    assert verdict.outcome == "Inconclusive"
    assert verdict.samples == pytest.approx(min(arm.verdict.samples for arm in test.live), rel=0.05)
    assert "version 3: " in verdict.message


@pytest.mark.parametrize(
    ("wrong", "says"), [("dropped", "version 2: 3 records were dropped"), ("analyst", "has not counted this test")]
)
def test_a_test_that_learns_nothing_is_held_and_says_why(wrong: str, says: str) -> None:
    """P35."""
    sim = dealt(trial(people=20))
    sim.run(2)
    assert sim.last is not None
    assert (sim.last.state, sim.last.message) == ("Ramping", "Versions 2 and 3 are tested against version 1.")
    if wrong == "dropped":
        sim.spoil = lambda evidence: replace(evidence, dropped=3)
    else:
        sim.analyst = False
    sim.run(2)
    assert sim.last.state == "Holding"
    assert says in sim.last.message
    assert (sim.status.verdict.outcome == "Error") == (wrong == "dropped")


def test_a_test_has_no_deadline_beside_its_end() -> None:
    with pytest.raises(ValidationError, match=r"abTest and judged\.deadlineSeconds exclude each other"):
        Rollout.model_validate(asked() | {"judged": {"deadlineSeconds": 60}})


@pytest.mark.parametrize("seed", range(2))
def test_an_operator_that_dies_all_the_time_comes_to_the_same_end(seed: int) -> None:
    """P6."""
    sim = trial({1: 0.3, 2: 0.3, 3: 0.95}, spec=asked(promoteBest=True), people=120, seed=seed, loses_decisions=0.4)
    sim.run(25, until=lambda: ended(sim))
    assert (sim.champion, sim.turns.count(Turn.PROMOTED)) == (3, 1)


def test_alpha_is_shared_among_all_versions_that_began() -> None:
    """P33."""
    rules = rules_of_arm(Rollout.model_validate(asked() | {"judged": {"alpha": 0.1}}))
    assert (rules.alpha, rules.deadline_seconds) == (0.05, None)


def test_a_test_of_a_version_with_other_labels_is_not_begun_until_it_is_allowed() -> None:
    labels = {1: LabelSet.of("ab"), 2: LabelSet.of("ba"), 3: LabelSet.of("ac")}
    sim = trial(labels=labels).run(5)
    assert sim.last is not None
    assert (sim.last.state, sim.status.refused, sim.status.ab_test) == ("OtherLabels", 3, None)
    assert "Version 3, which rollout.abTest names, is not tried" in sim.last.message
    assert "added 'c', removed 'b'" in sim.last.message
    assert sim.turns.count(Turn.REFUSED) == 1
    sim.spec = asked() | {"allowOtherLabels": True}
    assert dealt(sim).status.refused is None
