"""A rollout judged by a user's own numbers: what is beyond its bound for long is taken out, what is not known holds."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from ratchet_operator.plan.rollout.world import Measured, Turn
from tests.world.rollouts import SPEC, START, Simulation

Gauge = Callable[[datetime], Measured]
QUERY: dict[str, Any] = {"name": "lost carts", "query": "lost", "most": 0.2, "seconds": 100}
WELL, TOO_MUCH = Measured(0.1), Measured(0.3)


def trial(gauge: Gauge | Measured, **more: Any) -> Simulation:
    """A better candidate whose number is as told."""
    query = QUERY | more.pop("query", {})
    spec = SPEC | {"judged": SPEC["judged"] | {"queries": [query]}}
    says = gauge if callable(gauge) else (lambda now: gauge)
    return Simulation({1: 0.4, 2: 0.9}, spec=spec, gauges={query["name"]: says}, **({"people": 30} | more))


def over(sim: Simulation) -> bool:
    return sim.status.candidate is None and bool({Turn.PROMOTED, Turn.ROLLED_BACK} & set(sim.turns))


def test_a_number_within_its_bounds_lets_a_better_candidate_be_promoted() -> None:
    sim = trial(WELL, query={"least": 0.1})
    sim.run(3, until=lambda: bool(sim.status.queries))
    assert [(row.name, row.version, row.value, row.problem) for row in sim.status.queries] == [
        ("lost carts", 2, 0.1, "")
    ]
    sim.run(60, until=lambda: over(sim))
    assert (sim.champion, sim.status.queries) == (2, ())


@pytest.mark.parametrize(
    ("measured", "query", "want"),
    [
        pytest.param(TOO_MUCH, {}, "lost carts is 0.3, above 0.2 for", id="above the most"),
        pytest.param(WELL, {"least": 0.15}, "lost carts is 0.1, below 0.15 for", id="below the least"),
    ],
)
def test_a_number_that_stays_beyond_its_bound_takes_a_better_candidate_out(
    measured: Measured, query: dict[str, Any], want: str
) -> None:
    """P34."""
    sim = trial(measured, query=query)
    sim.run(10, until=lambda: sim.status.percent > 0)
    began = sim.now
    sim.run(20, until=lambda: over(sim))
    assert sim.champion == 1
    assert want in sim.history[-1].why
    assert timedelta(seconds=100) <= sim.now - began <= timedelta(seconds=140)
    assert sim.turns.count(Turn.STEPPED) == 0, "no further share meanwhile"


@pytest.mark.parametrize(
    "problem",
    [
        pytest.param("Prometheus at http://p does not answer (ClientConnectorError)", id="away"),
        pytest.param("the query gives nan, as a share of nothing does", id="NaN"),
        pytest.param("the query gives no series", id="no rows"),
    ],
)
@pytest.mark.parametrize("before", [WELL, TOO_MUCH], ids=["after it was well", "after it was not"])
def test_a_number_that_is_not_known_holds_the_share_and_blames_nobody(problem: str, before: Measured) -> None:
    """P35."""
    gone = START + timedelta(seconds=90)
    sim = trial(lambda now: before if now < gone else Measured(problem=problem), people=10)
    sim.run(10)
    assert sim.last is not None
    assert (sim.status.percent, sim.champion, sim.last.state) == (5, 1, "Holding")
    assert problem in sim.last.message
    sim.gauges, sim.people = {"lost carts": lambda now: WELL}, 30
    sim.run(60, until=lambda: over(sim))
    assert sim.champion == 2


def test_a_number_whose_sign_of_life_stands_still_is_not_believed() -> None:
    """P35: a frozen counter."""
    frozen = START + timedelta(minutes=3)

    def alive(now: datetime) -> Measured:
        return Measured(0.1, alive=min(now, frozen).timestamp())

    sim = trial(alive, query={"alive": "asked"}, people=1)  # with few people it takes a while
    sim.run(7)
    assert sim.status.queries[0].value == 0.1
    sim.run(5)
    assert sim.last is not None
    assert (sim.status.candidate, sim.last.state) == (2, "Holding")
    assert "has stood still for 5 minutes" in sim.last.message
    sim.gauges = {"lost carts": lambda now: Measured(0.1, alive=now.timestamp())}
    sim.run(1)
    assert (sim.status.queries[0].value, sim.status.queries[0].problem) == (0.1, "")


def test_a_sign_of_life_that_never_moved_holds_the_first_share() -> None:
    sim = trial(Measured(0.1, alive=7.0), query={"alive": "asked"}, people=10)
    sim.run(20)
    assert sim.status.percent == 5
    assert sim.last is not None
    assert "has not changed yet" in sim.last.message


def test_a_gap_in_what_is_known_ends_what_it_had_shown() -> None:
    def seldom(now: datetime) -> Measured:
        """Beyond for a minute and a half, then away for a moment, and so on."""
        return Measured(problem="away") if (now - START).total_seconds() % 100 < 20 else TOO_MUCH

    sim = trial(seldom, people=10)
    sim.run(15)
    assert (sim.status.candidate, sim.status.percent, sim.champion) == (2, 5, 1)


@pytest.mark.parametrize("minutes", [10, -10])
def test_a_clock_that_jumps_takes_nothing_for_a_lasting_breach(minutes: int) -> None:
    """P36."""
    sim = trial(TOO_MUCH)
    sim.run(10, until=lambda: bool(sim.status.queries) and sim.status.queries[0].beyond_since is not None)
    sim.run(0.5)
    sim.clock_error = timedelta(minutes=minutes)
    sim.run(1)
    assert sim.status.candidate == 2
    sim.run(2, until=lambda: over(sim))
    assert sim.champion == 1


def test_a_number_is_written_seldom_and_its_turns_at_once() -> None:
    values = iter(range(10_000))
    sim = trial(lambda now: Measured(next(values) / 1e6), people=2)
    sim.run(10, until=lambda: bool(sim.status.queries))
    written: list[datetime] = []
    for _ in range(30):
        sim.run(10 / 60)
        if sim.status.queries and sim.status.queries[0].at not in written:
            written.append(sim.status.queries[0].at)
    assert 5 < len(written) <= 16
    sim.gauges = {"lost carts": lambda now: TOO_MUCH}
    sim.run(10 / 60)
    assert sim.status.queries[0].value == 0.3


def test_a_query_that_is_added_and_removed_during_a_trial_counts_from_then_on() -> None:
    sim = Simulation({1: 0.4, 2: 0.9}, people=30, gauges={"lost carts": lambda now: TOO_MUCH})
    sim.run(10, until=lambda: sim.status.percent == 25)
    sim.spec = SPEC | {"judged": SPEC["judged"] | {"queries": [QUERY]}}
    sim.run(1)
    assert sim.status.queries[0].beyond_since is not None
    sim.spec = SPEC
    sim.run(60, until=lambda: over(sim))
    assert sim.champion == 2


def test_a_query_whose_bounds_are_moved_is_read_by_the_new_ones() -> None:
    sim = trial(TOO_MUCH)
    sim.run(10, until=lambda: bool(sim.status.queries))
    sim.spec = SPEC | {"judged": SPEC["judged"] | {"queries": [QUERY | {"most": 0.5}]}}
    sim.run(60, until=lambda: over(sim))
    assert sim.champion == 2
