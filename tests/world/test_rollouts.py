"""Rollouts: a better version gets all of the traffic, a worse one gets a little of it for a while."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
from pydantic import ValidationError

from ratchet_api.label_sets import LabelSet
from ratchet_api.rollout import Rollout, rules_of
from ratchet_api.stats.ratio import SampleRatio
from ratchet_api.stats.samples import Arms, Sample
from ratchet_operator.plan.rollout.judging import exposed_subjects
from ratchet_operator.plan.rollout.table import wanted_servers
from ratchet_operator.plan.rollout.world import Turn
from tests.world.rollouts import SPEC, Simulation

BETTER, WORSE = {1: 0.5, 2: 0.75}, {1: 0.5, 2: 0.25}


def with_spec(**parts: dict[str, Any]) -> dict[str, Any]:
    return {name: SPEC.get(name, {}) | parts.get(name, {}) for name in {*SPEC, *parts}}


def over(sim: Simulation) -> bool:
    return bool({Turn.PROMOTED, Turn.ROLLED_BACK, Turn.ABORTED} & set(sim.turns)) and not sim.status.leaving


def test_the_first_champion_serves_everybody_as_soon_as_every_router_reaches_it() -> None:
    sim = Simulation({1: 0.5}, champion=None).run(1)
    assert sim.last is not None
    assert (sim.last.state, sim.status.serving) == ("NoChampion", None)
    sim.champion = 1
    sim.run(3)
    assert (sim.status.serving, sim.last.state) == (1, "Ready")
    assert [(row.version, row.percent) for row in sim.history] == [(1, 0)]


def test_a_better_candidate_rises_step_by_step_and_is_promoted() -> None:
    sim = Simulation(BETTER)
    sim.run(60, until=lambda: over(sim))
    assert (sim.champion, sim.status.serving, sim.status.candidate) == (2, 2, None)
    assert [(row.version, row.candidate, row.percent) for row in sim.history] == [
        (1, None, 0),
        (1, 2, 5),
        (1, 2, 25),
        (1, 2, 50),
        (2, None, 0),
    ]
    assert sim.turns.count(Turn.PROMOTED) == 1
    assert sim.status.verdict.outcome == "Successful"
    assert "better: feedback" in sim.history[-1].why
    assert wanted_servers(sim.status, sim.champion) == (2,)


def test_a_step_lasts_at_least_as_long_as_asked_from_when_every_router_applied_it() -> None:
    sim = Simulation(BETTER)
    sim.run(60, until=lambda: over(sim))
    rows = [row for row in sim.history if row.percent]
    for earlier, later in pairwise(rows):
        assert (later.since - earlier.since).total_seconds() >= SPEC["canary"]["stepSeconds"]


def test_a_worse_candidate_is_rolled_back_and_never_tried_again() -> None:
    """P34."""
    sim = Simulation(WORSE)
    sim.run(60, until=lambda: over(sim))
    assert (sim.champion, sim.status.serving, sim.status.candidate) == (1, 1, None)
    assert sim.turns[-2:] == [Turn.ROLLED_BACK, Turn.APPLIED]
    assert sim.served[2] < 0.2 * sim.served[1]
    sim.run(10)
    assert sim.turns.count(Turn.CANDIDATE) == 1


def test_a_candidate_as_good_as_the_champion_is_never_promoted_and_ends_at_the_deadline() -> None:
    """P33: on these people; the rates are bench/rollout_stats'."""
    sim = Simulation({1: 0.5, 2: 0.5}, spec=with_spec(judged={"deadlineSeconds": 1200}))
    sim.run(40, until=lambda: over(sim))
    assert (sim.champion, sim.status.candidate) == (1, None)
    assert Turn.PROMOTED not in sim.turns
    assert "no decision after" in sim.said[-2][1]


def test_a_candidate_that_never_becomes_ready_is_taken_out_before_anybody_got_it() -> None:
    sim = Simulation(BETTER, broken={2})
    sim.run(20, until=lambda: over(sim))
    assert sim.served[2] == 0
    assert sim.turns[-2:] == [Turn.ROLLED_BACK, Turn.APPLIED]
    assert "was not ready within 300 s" in sim.said[-2][1]
    assert sim.history[-1].why == sim.said[-2][1] == sim.status.verdict.message
    assert (sim.status.verdict.outcome, sim.status.verdict.reason, sim.champion) == ("Failed", "NotReady", 1)
    sim.likes |= {3: 0.9}
    sim.run(1, until=lambda: sim.status.candidate == 3)
    assert (sim.status.candidate, sim.status.verdict.outcome) == (3, ""), "what was thought of version 2 is over"


def test_a_candidate_that_stops_answering_is_taken_out_and_a_short_pause_is_forgiven() -> None:
    sim = Simulation({1: 0.5, 2: 0.5})
    sim.run(10, until=lambda: sim.status.percent == 25)
    sim.broken = {2}
    sim.run(0.4)
    sim.broken = set()
    sim.run(1)
    assert (sim.status.candidate, sim.status.unready_since) == (2, None)
    sim.broken = {2}
    sim.run(2, until=lambda: over(sim))
    assert sim.status.candidate is None
    assert "does not answer" in sim.history[-1].why


def test_a_candidate_that_answers_with_errors_is_taken_out() -> None:
    """P34."""
    sim = Simulation(BETTER, fails={2})
    sim.run(20, until=lambda: over(sim))
    assert sim.champion == 1
    assert "errors: " in sim.history[-1].why


def test_of_two_candidates_one_is_tried_at_a_time_and_the_newest_next() -> None:
    sim = Simulation(BETTER)
    sim.run(3, until=lambda: sim.status.percent > 0)
    sim.likes |= {3: 0.9, 4: 0.1}
    sim.run(40, until=lambda: sim.champion == 2 and sim.status.candidate is not None)
    assert (sim.status.candidate, sim.status.experiment) == (4, "2-v2-v4")
    sim.run(40, until=lambda: sim.status.candidate is None)
    sim.run(5)
    assert (sim.champion, sim.status.candidate, sim.status.settled_up_to) == (2, None, 4)


def test_a_version_deleted_on_trial_is_taken_out() -> None:
    sim = Simulation(BETTER)
    sim.run(10, until=lambda: sim.status.percent == 25)
    del sim.likes[2]
    sim.run(1)
    assert (sim.status.candidate, sim.status.percent, sim.champion) == (None, 0, 1)
    assert "no longer what it was" in sim.history[-1].why


def spoilt(**changes: Any) -> Any:
    return lambda evidence: replace(evidence, **changes)


@pytest.mark.parametrize(
    ("spoil", "want"),
    [
        pytest.param(spoilt(dropped=3), "3 records were dropped", id="records are dropped"),
        pytest.param(spoilt(data_age_seconds=3600.0), "old, older than", id="the evidence is old"),
        pytest.param(
            spoilt(split=SampleRatio((0.5, 0.5)).seen((900, 500))), "does not split as told", id="the split is off"
        ),
        pytest.param(spoilt(means={"other": Arms(Sample(), Sample())}), "do not name", id="another metric is counted"),
        pytest.param(spoilt(data_age_seconds=math.nan), "take both times from one clock", id="an age is no number"),
    ],
)
def test_evidence_that_cannot_be_trusted_holds_the_share(spoil: Any, want: str) -> None:
    """P32, P35: neither promoted nor rolled back, and it goes on when the evidence is mended."""
    sim = Simulation(BETTER)
    sim.run(10, until=lambda: sim.status.percent == 25)
    sim.spoil = spoil
    sim.run(8)
    assert sim.last is not None
    assert (sim.status.percent, sim.last.state, sim.status.verdict.outcome) == (25, "Holding", "Error")
    assert want in sim.last.message
    sim.spoil = lambda evidence: evidence
    sim.run(40, until=lambda: over(sim))
    assert sim.champion == 2


@pytest.mark.parametrize(
    "spoil", [spoilt(dropped=1), spoilt(means={"other": Arms(Sample(), Sample())})], ids=["dropped", "impossible"]
)
def test_a_held_trial_ends_at_its_deadline_and_the_champion_stays(spoil: Any) -> None:
    sim = Simulation(BETTER, spec=with_spec(judged={"deadlineSeconds": 1200}))
    sim.spoil = spoil
    sim.run(18)
    assert sim.last is not None
    assert (sim.status.candidate, sim.last.state) == (2, "Holding")
    sim.run(10, until=lambda: over(sim))
    assert (sim.champion, sim.status.candidate, Turn.PROMOTED in sim.turns) == (1, None, False)
    assert "the deadline was 1200 s" in sim.history[-1].why


def test_no_traffic_and_no_analyst_never_raise_a_share() -> None:
    """P35."""
    quiet = Simulation(BETTER, people=0).run(20)
    assert (quiet.status.percent, quiet.champion) == (5, 1)
    assert quiet.last is not None
    assert "nobody got version 2" in quiet.last.message
    blind = Simulation(BETTER, analyst=False, people=20).run(20)
    assert (blind.status.percent, blind.champion) == (5, 1)
    assert blind.last is not None
    assert "the analyst has not counted" in blind.last.message


def test_traffic_that_stops_stops_the_ramp() -> None:
    """P35: a frozen counter."""
    sim = Simulation(BETTER)
    sim.run(10, until=lambda: sim.status.percent == 25)
    sim.people = 0
    sim.run(15)
    assert (sim.status.percent, sim.champion) == (25, 1)


def test_evidence_of_an_earlier_trial_decides_nothing() -> None:
    sim = Simulation(WORSE)
    sim.run(10, until=lambda: sim.status.percent == 5)
    world = sim.world()
    assert world.counted is not None
    sim.status = sim.status.model_copy(update={"experiment": "9-v1-v2"})
    stale = replace(sim.world(), counted=world.counted._replace(experiment="1-v1-v2"))
    assert exposed_subjects(stale) is None


def test_a_router_that_hangs_holds_every_step_and_no_rollback() -> None:
    sim = Simulation(BETTER)
    sim.run(10, until=lambda: sim.status.percent == 5)
    sim.routers[1].hangs = True
    sim.run(8)
    assert sim.status.percent == 5
    bad = Simulation(WORSE)
    bad.run(10, until=lambda: bad.status.percent == 5)
    bad.routers[1].hangs = True
    bad.run(60, until=lambda: bad.status.candidate is None)
    assert bad.status.candidate is None
    bad.run(5)
    assert wanted_servers(bad.status, bad.champion) == (1, 2)  # the router that hangs may still ask it
    bad.routers[1].hangs = False
    bad.run(1)
    assert wanted_servers(bad.status, bad.champion) == (1,)


@pytest.mark.parametrize("seed", range(4))
def test_an_operator_that_dies_all_the_time_comes_to_the_same_end(seed: int) -> None:
    """P6: every second decision is lost before it is stored; the rows of the history are those of the quiet life."""
    sim = Simulation(BETTER, loses_decisions=0.5, seed=seed)
    sim.run(120, until=lambda: over(sim))
    assert sim.champion == 2
    assert [row.percent for row in sim.history] == [0, 5, 25, 50, 0]


@pytest.mark.parametrize(
    "error", [timedelta(minutes=10), timedelta(minutes=-10), timedelta(days=300), timedelta(days=-300)]
)
@pytest.mark.parametrize(("likes", "want"), [(BETTER, 2), (WORSE, 1)])
def test_a_clock_that_jumps_changes_no_outcome(error: timedelta, likes: dict[int, float], want: int) -> None:
    """P36."""
    sim = Simulation(likes)
    sim.run(10, until=lambda: sim.status.percent == 5)
    sim.clock_error = error
    sim.run(1)
    sim.clock_error = timedelta(0)
    sim.run(60, until=lambda: over(sim))
    assert sim.champion == want


# what people tell it


def test_a_paused_rollout_keeps_its_share_and_is_rolled_back_all_the_same() -> None:
    sim = Simulation({1: 0.5, 2: 0.5})
    sim.run(10, until=lambda: sim.status.percent == 5)
    sim.command = "pause"
    sim.run(20)
    assert sim.last is not None
    assert (sim.status.percent, sim.last.state) == (5, "Paused")
    sim.likes[2] = 0.0
    sim.people = 400
    sim.run(60, until=lambda: over(sim))
    assert sim.turns[-2] is Turn.ROLLED_BACK


def test_a_resumed_rollout_goes_on() -> None:
    sim = Simulation(BETTER, command="pause")
    sim.run(0.2)
    assert sim.turns == [Turn.NOT_OBEYED]  # there was nothing to pause yet
    sim.run(10, until=lambda: sim.status.percent == 5)
    sim.command = "pause:2"
    sim.run(5)
    assert (sim.status.percent, sim.status.paused) == (5, True)
    sim.command = "resume"
    sim.run(60, until=lambda: over(sim))
    assert sim.champion == 2


def test_abort_takes_the_candidate_out_and_promote_after_it_finds_none() -> None:
    sim = Simulation(BETTER)
    sim.run(10, until=lambda: sim.status.percent == 5)
    sim.command = "abort"
    sim.run(0.2)
    sim.command = "promote"
    sim.run(5)
    assert (sim.champion, sim.status.candidate, sim.history[-1].by) == (1, None, "user")
    assert (Turn.NOT_OBEYED, "promote: no version is on trial") in sim.said


def test_a_manual_promotion_waits_for_somebody() -> None:
    sim = Simulation(BETTER, spec={**SPEC, "promotion": "manual"})
    sim.run(60, until=lambda: sim.last is not None and sim.last.state == "WaitingForPromotion")
    sim.run(5)
    assert (sim.champion, sim.status.percent) == (1, 50)
    sim.command = "promote"
    sim.run(2)
    assert (sim.champion, sim.status.serving, sim.history[-1].by) == (2, 2, "user")


def test_undo_brings_back_who_served_before_and_nothing_is_tried_again() -> None:
    sim = Simulation(BETTER)
    sim.run(60, until=lambda: over(sim))
    sim.command = "undo"
    sim.run(10)
    assert (sim.champion, sim.status.serving, sim.status.candidate) == (1, 1, None)
    assert [row.version for row in sim.history][-2:] == [2, 1]
    assert sim.turns.count(Turn.CANDIDATE) == 1


def test_nobody_is_sent_to_an_old_champion_before_its_servers_run_again() -> None:
    sim = Simulation(BETTER)
    sim.run(60, until=lambda: over(sim))
    sim.broken, before, sim.command = {1}, sim.served[1], "undo"
    sim.run(10)
    assert (sim.champion, sim.status.serving, sim.served[1]) == (1, 2, before)
    assert sim.last is not None
    assert sim.last.message == "Version 1 does not answer every router yet."
    sim.broken = set()
    sim.run(2)
    assert sim.status.serving == 1


def test_another_champion_chosen_by_hand_ends_the_trial_and_serves() -> None:
    sim = Simulation({1: 0.5, 2: 0.5, 3: 0.5}, champion=2)
    sim.run(10, until=lambda: sim.status.percent == 5)
    sim.champion = 1
    sim.run(5, until=lambda: sim.status.serving == 1)
    sim.run(5)
    assert (sim.champion, sim.status.serving, sim.status.candidate) == (1, 1, None)
    assert Turn.ABORTED in sim.turns


def test_a_candidate_made_champion_by_hand_serves_everybody() -> None:
    sim = Simulation(BETTER)
    sim.run(10, until=lambda: sim.status.percent == 5)
    sim.champion = 2
    sim.run(2)
    assert (sim.status.serving, sim.status.candidate, sim.status.percent) == (2, None, 0)


@pytest.mark.parametrize("told", ["halt", "PAUSE", "pausee", ":", "x" * 300, "٢"])
def test_an_unknown_command_is_told_once_and_changes_nothing(told: str) -> None:
    sim = Simulation({1: 0.5}, command=told).run(3)
    assert sim.turns.count(Turn.NOT_OBEYED) == 1
    assert sim.status.serving == 1


def test_the_history_keeps_every_row_of_a_long_life() -> None:
    """No row is lost: those that leave the status were archived before, whatever the operator lost."""
    sim = Simulation({1: 0.5}, loses_decisions=0.3, people=4, spec=with_spec(canary={"stepSeconds": 10}))
    for version in range(2, 16):
        sim.likes[version] = 0.5
        sim.run(30, until=lambda: sim.status.percent >= 25)
        sim.command = f"abort:{version}"
        sim.run(10, until=lambda: sim.status.candidate is None and not sim.status.leaving)
    assert sim.status.rows > 30
    assert [row.number for row in sim.history] == list(range(1, sim.status.rows + 1))
    assert all(earlier.since <= later.since for earlier, later in pairwise(sim.history))
    assert len(sim.status.model_dump_json()) < 12_000


# the spec


@pytest.mark.parametrize(
    ("spec", "want"),
    [
        ({"canary": {"steps": [5, 5]}}, "each must be above the one before"),
        ({"canary": {"steps": [50, 1]}}, "each must be above the one before"),
        ({"canary": {"steps": [51]}}, "less than or equal to 50"),
        ({"canary": {"steps": [0]}}, "greater than or equal to 0.01"),
        ({"canary": {"steps": []}}, "at least 1 item"),
        ({"canary": {"stepSeconds": 0}}, "greater than or equal to 1"),
        ({"judged": {"goal": "nonInferior", "margin": 0}}, "above 0, or ask for superior"),
        ({"judged": {"goal": "better"}}, "superior"),
        ({"judged": {"alpha": 0.5}}, "less than or equal to 0.2"),
        ({"judged": {"margin": math.nan}}, "finite"),
        ({"promotion": "Auto"}, "automatic"),
        ({"weights": [1]}, "Extra inputs"),
    ],
)
def test_a_rollout_that_cannot_be_is_refused_by_field(spec: dict[str, Any], want: str) -> None:
    with pytest.raises(ValidationError, match=want):
        Rollout.model_validate(spec)


def test_what_is_asked_for_becomes_the_statistics_rules() -> None:
    plain = rules_of(Rollout.model_validate({}).judged)
    assert ([metric.name for metric in plain.metrics], plain.alpha, plain.deadline_seconds) == (
        ["feedback", "errors"],
        0.05,
        None,
    )
    asked = {
        "goal": "nonInferior",
        "margin": 0.03,
        "abstentionMargin": 0.05,
        "feedbackRateMargin": 0.1,
        "errorRatio": 3,
        "alpha": 0.1,
        "minSubjects": 7,
        "minAgeSeconds": 9,
        "deadlineSeconds": 99,
    }
    rules = rules_of(Rollout.model_validate({"judged": asked}).judged)
    assert [(metric.name, getattr(metric, "margin", None)) for metric in rules.metrics] == [
        ("feedback", 0.03),
        ("errors", None),
        ("abstentions", 0.05),
        ("feedbackRate", 0.1),
    ]
    assert (rules.goal, rules.alpha, rules.min_subjects) == ("nonInferior", 0.1, 7)
    assert (rules.min_age_seconds, rules.deadline_seconds) == (9, 99)


SHADOWED = with_spec(shadow={"percent": 20, "seconds": 120, "minPairs": 300, "maxFlipRate": 0.3})


def test_a_shadow_is_asked_for_its_time_and_its_texts_before_anybody_gets_the_candidate() -> None:
    sim = Simulation(BETTER, spec=SHADOWED)
    sim.run(30, until=lambda: sim.status.shadow_since is not None)
    began = sim.now
    assert [router.table.shadow.version for router in sim.routers if router.table and router.table.shadow] == [2, 2]
    sim.run(30, until=lambda: sim.status.percent > 0 or sim.served[2] > 0)
    assert sim.status.percent == 5
    assert sim.now - began >= timedelta(seconds=120)
    assert sim.status.shadow is not None
    assert sim.status.shadow.pairs >= 300
    assert sim.turns[-2:] == [Turn.SHADOWED, Turn.EXPOSED]
    assert all(router.told is not None and router.told.shadow is None for router in sim.routers)
    sim.run(60, until=lambda: over(sim))
    assert (sim.champion, sim.turns.count(Turn.SHADOWED)) == (2, 1)
    assert sim.status.shadow.pairs >= 300, "the last report stays"


def test_a_shadow_that_answers_too_much_otherwise_is_taken_out_and_nobody_ever_got_it() -> None:
    """P34."""
    sim = Simulation(BETTER, spec=SHADOWED, flips={2: 0.5})
    sim.run(60, until=lambda: over(sim))
    assert (sim.champion, sim.served[2], sim.status.candidate) == (1, 0, None)
    assert "were answered otherwise" in sim.said[-2][1]
    assert [(row.version, row.candidate) for row in sim.history] == [(1, None), (1, None)], "the ledger tells of it"
    assert sim.history[-1].why == sim.said[-2][1] == sim.status.verdict.message
    assert (sim.status.verdict.outcome, sim.status.verdict.reason) == ("Failed", "LimitBreached")
    sim.run(10)
    assert sim.turns.count(Turn.CANDIDATE) == 1


def test_a_shadow_without_a_limit_is_only_reported() -> None:
    sim = Simulation(BETTER, spec=with_spec(shadow={"seconds": 10, "minPairs": 10}), flips={2: 1.0})
    sim.run(60, until=lambda: sim.status.percent > 0)
    assert sim.status.shadow is not None
    assert sim.status.shadow.flip_rate == 1


@pytest.mark.parametrize("lacking", ["traffic", "analyst", "a router"])
def test_a_shadow_of_which_nothing_is_known_waits(lacking: str) -> None:
    """P33: nothing known is never a reason to go on."""
    sim = Simulation(BETTER, spec=SHADOWED)
    sim.run(10, until=lambda: sim.status.shadow is not None)
    if lacking == "traffic":
        sim.people = 0
    sim.analyst = lacking != "analyst"
    sim.routers[1].hangs = lacking == "a router"
    sim.run(60)
    assert (sim.status.percent, sim.status.candidate, sim.served[2]) == (0, 2, 0)
    sim.people, sim.analyst, sim.routers[1].hangs = 120, True, False
    sim.run(30, until=lambda: sim.status.percent > 0)
    assert sim.status.percent == 5


def test_a_shadow_that_stops_answering_is_taken_out_and_a_short_pause_is_forgiven() -> None:
    sim = Simulation(BETTER, spec=SHADOWED)
    sim.run(10, until=lambda: sim.status.shadow_since is not None)
    sim.broken = {2}
    sim.run(0.4)
    sim.broken = set()
    sim.run(0.5)
    assert (sim.status.candidate, sim.status.unready_since) == (2, None)
    sim.broken = {2}
    sim.run(2, until=lambda: over(sim))
    assert sim.status.candidate is None
    assert "did not answer for 30 s as a shadow" in sim.said[-2][1]
    assert (sim.history[-1].why, sim.status.verdict.reason) == (sim.said[-2][1], "NotReady")


def test_a_paused_shadow_goes_on_being_asked_and_gets_no_share_until_it_is_resumed() -> None:
    sim = Simulation(BETTER, spec=SHADOWED)
    sim.run(10, until=lambda: sim.status.shadow_since is not None)
    sim.command = "pause"
    sim.run(20)
    assert sim.last is not None
    assert (sim.status.percent, sim.last.state) == (0, "Paused")
    sim.command = "resume"
    sim.run(5, until=lambda: sim.status.percent > 0)
    assert sim.status.percent == 5


def test_a_shadow_whose_wish_is_taken_back_gets_its_first_share_and_the_next_trial_has_a_report_of_its_own() -> None:
    sim = Simulation({1: 0.5, 2: 0.25}, spec=SHADOWED)
    sim.run(10, until=lambda: sim.status.shadow is not None and sim.status.shadow.pairs > 0)
    sim.spec = SPEC
    sim.run(5, until=lambda: sim.status.percent > 0)
    assert sim.status.percent == 5
    sim.run(60, until=lambda: over(sim))
    sim.likes[3] = 0.9
    sim.run(5, until=lambda: sim.status.percent > 0)
    assert (sim.status.candidate, sim.status.shadow) == (3, None)


OTHER = {1: LabelSet.of(["billing", "login"]), 2: LabelSet.of(["billing", "delivery", "login"])}


def test_a_version_with_other_labels_is_not_tried_until_it_is_allowed() -> None:
    sim = Simulation(BETTER, labels=OTHER, spec=with_spec(shadow={"minPairs": 10, "seconds": 10})).run(10)
    assert sim.last is not None
    assert sim.turns.count(Turn.REFUSED) == 1
    assert Turn.CANDIDATE not in sim.turns
    assert (sim.served[2], sim.status.candidate, sim.status.refused, sim.status.shadow) == (0, None, 2, None)
    assert wanted_servers(sim.status, sim.champion) == (1,), "no servers are started for it"
    assert sim.last.state == "OtherLabels"
    assert sim.last.message == (
        "Version 2 is not tried: its labels are not those of version 1, the champion: added 'delivery' (2 labels "
        "before, 3 now)."
    )
    sim.spec = SPEC | {"allowOtherLabels": True}
    sim.run(60, until=lambda: over(sim))
    assert (sim.champion, sim.status.refused) == (2, None)


@pytest.mark.parametrize("known", [{1}, {2}, set()])
def test_a_version_of_which_no_labels_were_kept_is_tried(known: set[int]) -> None:
    sim = Simulation(BETTER, labels={version: OTHER[version] for version in known})
    sim.run(3, until=lambda: sim.status.percent > 0)
    assert sim.status.candidate == 2


def test_a_newer_version_with_the_champions_labels_is_tried_in_place_of_a_refused_one() -> None:
    sim = Simulation(BETTER, labels=OTHER).run(3)
    assert sim.status.refused == 2
    sim.likes |= {3: 0.9}
    sim.labels = OTHER | {3: LabelSet.of(["login", "billing"])}
    sim.run(60, until=lambda: over(sim))
    assert (sim.champion, sim.status.refused) == (3, None)


def test_a_version_with_other_labels_can_be_made_champion_by_hand() -> None:
    sim = Simulation(BETTER, labels=OTHER).run(3)
    sim.champion = 2
    sim.run(60, until=lambda: sim.status.serving == 2)
    assert (sim.status.serving, sim.status.refused) == (2, None)
