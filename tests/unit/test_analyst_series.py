"""The analyst's curve: each point is what an analyst would have said at that moment, whoever draws it and when."""

from __future__ import annotations

import json
import random
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from ratchet_api.evidence import ExperimentSeries
from ratchet_gateway.analyst.app import create_app
from ratchet_gateway.analyst.series import MOST_POINTS
from ratchet_gateway.analyst.watch import NotCaughtUp
from ratchet_jobs.feedback_log.erasures import request_erasure
from ratchet_jobs.runtime.store_directory import DirectoryStore
from tests.analyst_log import EXPERIMENT, Analyst, TrialLog, analyst
from tests.feedback_events import START, stored_as


@pytest.fixture
def log(tmp_path: Path) -> TrialLog:
    return TrialLog(DirectoryStore(tmp_path / "store"))


def series(made: Analyst) -> ExperimentSeries:
    made.watch.look()
    return made.watch.series("router", EXPERIMENT)


def crowd(log: TrialLog, *, people: int, seconds: float, seed: int = 1) -> None:
    """People of both arms who ask once or twice and say something, some late, some to take it back."""
    draw = random.Random(seed)
    for number in range(people):
        arm, at = draw.choice(("canary", "control")), draw.uniform(0, seconds)
        signed = log.answer(f"s{number}", arm, at)
        if draw.random() < 0.3:
            log.answer(f"s{number}", arm, at + draw.uniform(0, 200))
        if draw.random() < 0.7:
            event = log.vote(signed, "rating", at + draw.uniform(0, 150), rating=draw.randint(1, 5))
            if draw.random() < 0.2:
                log.undo(event, at + draw.uniform(20, 150))


def test_each_point_is_what_an_analyst_would_have_said_at_that_moment(log: TrialLog, tmp_path: Path) -> None:
    """P36: it had read what had come by then, and nothing of the curve is kept, so that any reader draws it again."""
    crowd(log, people=120, seconds=900)
    log.tick(1200)
    events = list(log.lines)
    log.seal()
    curve = series(analyst(log.store)).points
    assert len(curve) > 15
    assert curve[-3].feedback != curve[0].feedback
    for number in (0, 3, 7, len(curve) - 2):
        at = datetime.fromisoformat(curve[number].at)
        past = TrialLog(DirectoryStore(tmp_path / f"past-{number}"))
        past.lines = [line for line in events if datetime.fromisoformat(json.loads(line)["received"]) < at]
        past.tick((at - START).total_seconds())
        past.seal()
        then = analyst(past.store).see()
        assert (then.split, then.means["feedback"]) == (curve[number].split, curve[number].feedback), number


def test_the_last_point_is_what_is_known_now(log: TrialLog) -> None:
    crowd(log, people=60, seconds=400)
    log.tick(450)
    log.seal()
    made = series(analyst(log.store, settle_seconds=10))
    assert made.points[-1].at == made.now.watermark
    assert (made.points[-1].split, made.points[-1].feedback) == (made.now.split, made.now.means["feedback"])
    assert made.points[-1].feedback.candidate.subjects > 0


def test_the_curve_ends_when_the_last_subject_has_entered(log: TrialLog) -> None:
    log.vote(log.answer("ann", "canary", 0), "thumbs_up", 1)
    log.tick(90_000)
    log.seal()
    made = series(analyst(log.store, seconds=100_000))
    assert datetime.fromisoformat(made.points[-1].at) == START + timedelta(seconds=160)
    assert made.points[-1].feedback.candidate.subjects == 1


@pytest.mark.parametrize("days", [0.001, 0.3, 1, 9, 59])
def test_a_curve_has_a_hundred_points_at_most_however_long_the_trial_is(log: TrialLog, days: float) -> None:
    for number in range(20):
        log.answer(f"s{number}", "canary" if number % 2 else "control", number / 19 * days * 86_400)
    log.tick(days * 86_400 + 200)
    log.seal()
    made = series(analyst(log.store, seconds=days * 86_400 + 300))
    moments = [datetime.fromisoformat(point.at) for point in made.points]
    assert moments == sorted(set(moments))
    assert min(30, days * 1440) <= len(moments) <= MOST_POINTS
    assert sum(made.points[-1].split.counts) == 20


def test_a_mismatch_stays_in_the_curve_after_the_shares_are_mended(log: TrialLog) -> None:
    for number in range(200):
        log.answer(f"s{number}", "canary", number / 10)
    for number in range(200, 600):
        log.answer(f"s{number}", "control" if number < 400 else ("canary", "control")[number % 2], 60 + number / 10)
    log.seal()
    loudness = [point.split.worst for point in series(analyst(log.store)).points]
    assert loudness == sorted(loudness)
    assert loudness[0] > 50


def test_an_experiment_that_nobody_met_has_no_curve(log: TrialLog) -> None:
    log.tick(0)
    log.seal()
    made = series(analyst(log.store))
    assert (made.points, made.now.split.counts) == ((), (0, 0))


def test_who_was_erased_is_in_no_point(log: TrialLog) -> None:
    log.vote(log.answer("ann", "canary", 0), "thumbs_up", 1)
    log.vote(log.answer("bob", "canary", 1), "thumbs_down", 2)
    log.tick(300)
    log.seal()
    made = analyst(log.store)
    assert series(made).points[-1].feedback.candidate.subjects == 2
    request_erasure(log.store, "ns", [stored_as("ann")], now=START)
    made.clock.seconds += 700
    last = series(made).points[-1]
    assert (last.feedback.candidate.subjects, last.feedback.candidate.total) == (1, 0.0)


def test_a_curve_is_asked_for_over_http_and_not_before_the_log_was_read(log: TrialLog) -> None:
    crowd(log, people=10, seconds=60)
    log.tick(300)
    log.seal()
    made = analyst(log.store)
    with pytest.raises(NotCaughtUp):
        made.watch.series("router", EXPERIMENT)
    url = f"/v1/policies/router/experiments/{EXPERIMENT}/series"
    client = TestClient(create_app(made.watch, made.metrics))
    assert client.get(url).status_code == 503
    made.watch.look()
    answer = client.get(url)
    assert ExperimentSeries.model_validate(answer.json()) == made.watch.series("router", EXPERIMENT)
    assert client.get("/v1/policies/router/experiments/no-id/series").status_code == 422
