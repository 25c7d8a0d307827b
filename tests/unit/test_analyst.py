"""The analyst: one observation per subject, the same numbers however the log is read, and no decision without data."""

from __future__ import annotations

import random
import sqlite3
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ratchet_api.environment import SettingsError
from ratchet_api.evidence import ExperimentEvidence
from ratchet_api.rollout import Judged, rules_of
from ratchet_api.signing import BadInteraction, verify_interaction
from ratchet_api.stats.verdict import Outcome, Why, judge
from ratchet_gateway.analyst.settings import Settings
from ratchet_gateway.analyst.watch import NotCaughtUp
from ratchet_jobs.feedback_log.erasures import request_erasure
from ratchet_jobs.runtime.errors import StoreUnavailable
from ratchet_jobs.runtime.store_directory import DirectoryStore
from ratchet_web.errors import Malformed
from tests.analyst_log import EXPERIMENT, TrialLog, analyst
from tests.feedback_events import RING, START, stored_as


@pytest.fixture
def log(tmp_path: Path) -> TrialLog:
    return TrialLog(DirectoryStore(tmp_path / "store"))


def feedback(seen: ExperimentEvidence) -> tuple[int, float, int, float]:
    """Subjects and sum of their scores, of candidate and champion."""
    metric = seen.means["feedback"]
    return metric.candidate.subjects, metric.candidate.total, metric.champion.subjects, metric.champion.total


def test_a_subject_is_one_observation_however_often_it_asked_and_spoke(log: TrialLog) -> None:
    # ann: thumbs up and 2 of 5 stars on two answers, mean (1 + 0.25) / 2; bob: down; cid says nothing
    one, two = log.answer("ann", "canary", 0), log.answer("ann", "canary", 10)
    log.vote(one, "thumbs_up", 20)
    log.vote(two, "rating", 30, rating=2)
    log.vote(log.answer("bob", "control", 5), "thumbs_down", 40)
    log.answer("cid", "control", 6)
    log.tick(200)
    log.seal()
    seen = analyst(log.store).see()
    assert seen.split.counts == (1, 2)
    assert feedback(seen) == (1, 0.625, 1, 0.0)
    assert seen.means["feedback"].candidate.squares == 0.390625
    rate = seen.means["feedbackRate"]
    assert (rate.candidate.subjects, rate.candidate.total, rate.champion.subjects, rate.champion.total) == (1, 1, 2, 1)
    assert (seen.candidate, seen.champion, seen.problem) == (2, 1, "")


def test_a_subject_enters_once_when_its_time_has_passed_by_the_events_own_clock(log: TrialLog) -> None:
    """P36: what the analyst's own clock says changes nothing. Those of the same 15 seconds enter together."""
    signed = log.answer("ann", "canary", 0)
    log.vote(signed, "thumbs_up", 50)
    log.tick(114)
    log.seal()
    for seconds in (0, 500, 10_000):
        seen = analyst(log.store, seconds=seconds).see()
        assert (seen.split.counts, feedback(seen)) == ((1, 0), (0, 0.0, 0, 0.0))
    watched = analyst(log.store)
    watched.see()
    log.tick(115)
    log.seal(10_000)
    assert feedback(watched.see()) == (1, 1.0, 0, 0.0)


def test_a_subject_is_as_slow_as_the_slowest_of_its_answers_in_the_first_minute(log: TrialLog) -> None:
    log.answer("ann", "canary", 0, milliseconds=10.0)
    log.answer("ann", "canary", 59, milliseconds=200.0)
    log.answer("ann", "canary", 60, milliseconds=900.0)  # after its minute
    log.answer("bob", "canary", 1, milliseconds=10.0)
    log.answer("cid", "control", 2, milliseconds=0.0)
    log.answer("dan", "control", 3, milliseconds=None)  # of a server that tells no time
    log.answer("eve", "control", 4, failed=True, milliseconds=800.0)  # not slow: it failed
    log.tick(200)
    log.seal()
    paces = analyst(log.store).see().paces
    assert [pace.subjects for pace in paces.candidate] == [1, 1]
    for pace, least in zip(paces.candidate, (10, 200), strict=True):
        assert least <= pace.milliseconds <= 1.0501 * least
    assert tuple(paces.beyond(100))[:4] == (1, 2, 0, 1)
    assert tuple(paces.beyond(9))[:4] == (2, 2, 0, 1)


def test_late_feedback_is_counted_apart_and_changes_nothing(log: TrialLog) -> None:
    signed = log.answer("ann", "canary", 0)
    first = log.vote(signed, "thumbs_up", 99.9)
    log.vote(signed, "rating", 100, rating=1)
    log.undo(first, 101)
    log.tick(115)
    log.seal()
    seen = analyst(log.store).see()
    assert (feedback(seen), seen.late) == ((1, 1.0, 0, 0.0), 1)


def test_what_its_sender_took_back_in_time_was_never_said(log: TrialLog) -> None:
    signed = log.answer("ann", "canary", 0)
    log.undo(log.vote(signed, "thumbs_down", 10), 20)
    log.tick(200)
    log.seal()
    seen = analyst(log.store).see()
    assert feedback(seen) == (0, 0.0, 0, 0.0)
    assert seen.means["feedbackRate"].candidate.total == 0


def test_nobody_takes_back_what_another_said(log: TrialLog) -> None:
    signed = log.answer("ann", "canary", 0)
    log.undo(log.vote(signed, "thumbs_down", 10), 20, source="stranger")
    log.tick(200)
    log.seal()
    assert feedback(analyst(log.store).see()) == (1, 0.0, 0, 0.0)


def test_failures_and_abstentions_count_for_the_first_minute(log: TrialLog) -> None:
    """Whoever got no answer stays in the comparison."""
    log.answer("ann", "canary", 0, failed=True, abstained=None)
    log.answer("ann", "canary", 59, abstained=True)
    log.answer("ann", "canary", 60, abstained=False)
    log.answer("bob", "control", 0)
    log.answer("bob", "control", 61, failed=True, abstained=None)
    log.tick(75)
    log.seal()
    seen = analyst(log.store).see()
    errors, abstentions = seen.rare["errors"], seen.means["abstentions"]
    assert (errors.candidate_events, errors.candidate_subjects) == (1, 1)
    assert (errors.champion_events, errors.champion_subjects) == (0, 1)
    assert (abstentions.candidate.subjects, abstentions.candidate.total, abstentions.champion.total) == (1, 1.0, 0.0)


def test_only_signed_ids_of_the_experiment_count(log: TrialLog) -> None:
    """P29: forged and expired feedback never reaches the log, and what cites no answer of the trial counts nowhere."""
    signed = log.answer("ann", "canary", 0)
    head, mac = signed.rsplit(".", 1)
    for forged, at in ((f"{head}.{'A' * len(mac)}", 10.0), (signed, 2 * 86_400.0)):
        with pytest.raises(Malformed):
            log.vote(forged, "thumbs_down", at)
    with pytest.raises(BadInteraction):
        verify_interaction(head + "." + mac[::-1], RING, now=START)
    other = log.answer("bob", "control", 0, experiment="f" * 16)
    log.vote(other, "thumbs_down", 10)
    log.vote(log.answer("cid", "champion", 0, experiment=None), "thumbs_down", 10)
    log.lines.append(
        b'{"id":"' + b"1" * 32 + b'","source":"x","received":"2026-11-21T12:00:09.000Z","kind":"feedback",'
        b'"type":"thumbs_down","policy":"router","version":2,"fingerprint":"0"}'
    )  # cites nothing
    log.tick(200)
    log.seal()
    seen = analyst(log.store).see()
    assert (seen.split.counts, feedback(seen)) == ((1, 0), (0, 0.0, 0, 0.0))


def random_log(log: TrialLog, rng: random.Random, subjects: int = 60) -> list[list[bytes]]:
    """Events of a trial in pieces: retries with another time of arrival, conflicts, crossings, undos, losses."""
    for number in range(subjects):
        arm = rng.choice(("canary", "control"))
        for _ in range(rng.randint(1, 3)):
            at = rng.uniform(0, 300)
            more: dict[str, Any] = {"abstained": rng.random() < 0.3}
            if rng.random() < 0.1:
                more = {"failed": True, "abstained": None}
            if rng.random() < 0.1:
                more |= {"recorder": rng.choice(("0" * 16, "1" * 16)), "dropped": rng.randint(1, 5)}
            signed = log.answer(f"subject-{number}", "canary" if rng.random() < 0.02 else arm, at, **more)
            if rng.random() < 0.6:
                vote = log.vote(signed, "score", at + rng.uniform(0, 200), score=rng.random())
                if rng.random() < 0.2:
                    log.undo(vote, at + rng.uniform(0, 200))
                if rng.random() < 0.2:  # two replicas took another content under one name
                    log.vote(signed, "score", at + rng.uniform(0, 200), score=rng.random())
    log.tick(1000)
    lines = log.lines + rng.sample(log.lines, len(log.lines) // 5)
    log.lines = []
    rng.shuffle(lines)
    pieces: list[list[bytes]] = [[] for _ in range(12)]
    for line in lines:
        rng.choice(pieces).append(line)
    return pieces


@pytest.mark.parametrize("seed", range(4))
def test_the_same_log_gives_the_same_numbers_in_whatever_order_and_pieces_it_is_read(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    pieces = random_log(TrialLog(DirectoryStore(tmp_path)), rng)
    want = None
    for life in range(4):
        store = DirectoryStore(tmp_path / f"store-{life}")
        log = TrialLog(store)
        watched = analyst(store)
        rng.shuffle(pieces)
        for number, piece in enumerate(pieces):
            log.seal(rng.uniform(0, 1000), writer=rng.choice("abc"), lines=piece)
            if life and rng.random() < 0.5:
                watched.clock.seconds += rng.choice((1, 700))
                watched.see()
            if life > 1 and rng.random() < 0.2:
                log.seal(number, writer="again", lines=piece)
        watched.clock.seconds += 700
        seen = watched.see()
        assert seen.split.counts[0] + seen.split.counts[1] == 60
        want = want or seen.model_copy(update={"age_seconds": None})
        assert seen.model_copy(update={"age_seconds": None}) == want, f"life {life}"


@pytest.mark.parametrize("place", range(8))
def test_an_analyst_that_breaks_off_anywhere_goes_on_without_loss(tmp_path: Path, place: int) -> None:
    """The statement after which it breaks off is another one in each case."""
    rng, store = random.Random(9), DirectoryStore(tmp_path / "store")
    log = TrialLog(store)
    for piece in random_log(TrialLog(store), rng):
        log.seal(lines=piece)
    want = analyst(store).see().digest
    broken = analyst(store)
    whole, left = broken.tables.database, [place * 2]

    class Breaking:
        """A database that breaks off once."""

        def __getattr__(self, name: str) -> Any:
            real = getattr(whole, name)
            if name not in ("execute", "executemany"):
                return real

            def call(*arguments: Any) -> Any:
                if not str(arguments[0]).startswith(("ROLLBACK", "SELECT")):
                    left[0] -= 1
                    if left[0] == -1:
                        raise sqlite3.OperationalError("disk I/O error")
                return real(*arguments)

            return call

    broken.tables.database = Breaking()  # type: ignore[assignment]  # the same methods, one failure
    with pytest.raises(sqlite3.OperationalError):
        broken.watch.look()
    assert broken.see().digest == want


def test_a_subject_in_both_arms_is_counted_in_the_first_and_many_of_them_are_a_problem(
    log: TrialLog,
) -> None:
    """P31: a subject that changes its arm is noticed."""
    for number in range(1100):
        log.answer(f"s{number}", "canary" if number % 2 else "control", number / 10)
    log.answer("s1", "control", 500)
    log.seal()
    watched = analyst(log.store)
    seen = watched.see()
    assert (seen.crossed, seen.split.counts, seen.problem) == (1, (550, 550), "")
    log.answer("s3", "control", 501)
    log.seal(10_000)
    assert "2 of 1100 subjects met both arms" in watched.see().problem


def test_a_split_that_was_off_once_stays_noticed(log: TrialLog) -> None:
    """P32: 200 of the first 200 subjects in one arm; the other arm catches up later."""
    for number in range(200):
        log.answer(f"s{number}", "canary", number / 10)
    for number in range(200):
        log.answer(f"t{number}", "control", 300 + number / 10)
    log.tick(1000)
    log.seal()
    seen = analyst(log.store).see()
    assert seen.split.counts == (200, 200)
    verdict = judge(rules_of(Judged.model_validate({})), seen.evidence(rules_of(Judged.model_validate({}))))
    assert (verdict.outcome, verdict.why) == (Outcome.ERROR, Why.SAMPLE_RATIO_MISMATCH)


def test_losses_that_servers_told_of_are_added_up_over_processes(log: TrialLog) -> None:
    for recorder, dropped in (("a" * 16, 2), ("a" * 16, 5), ("b" * 16, 1)):
        log.answer("ann", "canary", 0, recorder=recorder, dropped=dropped)
    log.seal()
    seen = analyst(log.store).see()
    assert seen.dropped == 6
    rules = rules_of(Judged.model_validate({}))
    assert judge(rules, seen.evidence(rules)).why is Why.RECORDS_DROPPED


def test_two_versions_in_one_arm_are_a_problem(log: TrialLog) -> None:
    log.answer("ann", "canary", 0)
    log.answer("bob", "canary", 0, version=3)
    log.seal()
    assert "versions 2 to 3; an arm is one version" in analyst(log.store).see().problem


def test_evidence_ages_by_the_analysts_own_clock_since_something_new_was_seen(log: TrialLog) -> None:
    """P35, P36: a log that stands still is noticed, and clocks that are ten minutes apart are no age."""
    log.answer("ann", "canary", 0)
    log.seal()
    watched = analyst(log.store, seconds=500)
    assert watched.see().age_seconds == 0.0, "a gateway's clock may be ten minutes behind"
    watched.clock.seconds = 800
    log.tick(799)
    log.seal(800)
    assert watched.see().age_seconds == 300.0, "what happens elsewhere is no news of this trial"
    log.answer("bob", "control", 801)
    log.seal(802)
    assert watched.see().age_seconds == 0.0
    assert analyst(log.store, seconds=2000).see().age_seconds == 2000 - 801 - 600
    assert analyst(log.store).see("e" * 16).age_seconds is None


def test_nothing_is_answered_before_the_whole_log_was_read(log: TrialLog) -> None:
    """P35: the store is away while the analyst starts."""
    log.answer("ann", "canary", 0)
    key = log.seal()
    watched = analyst(log.store)
    with pytest.raises(NotCaughtUp, match="is being read"):
        watched.watch.evidence("router", EXPERIMENT)
    read = log.store.read

    def away(wanted: str) -> bytes:
        raise StoreUnavailable(f"object {wanted}: no answer")

    log.store.read = away  # type: ignore[method-assign]
    with pytest.raises(StoreUnavailable):
        watched.watch.look()
    with pytest.raises(NotCaughtUp, match=f"object {key}: no answer"):
        watched.watch.evidence("router", EXPERIMENT)
    log.store.read = read  # type: ignore[method-assign]
    assert watched.see().split.counts == (1, 0)


@pytest.mark.parametrize(
    ("lines", "want"),
    [
        pytest.param([b"{}"], "KeyError", id="an event without a time"),
        pytest.param([b'{"received":"2026-11-21T12:00:00Z"}'], "KeyError", id="an event of no kind"),
        pytest.param([b'{"received":"soon","kind":"exposure"}'], "Invalid isoformat", id="a time that is none"),
        pytest.param([b'{"received":"2026-11-21T12:00:00Z"'], "cannot be read", id="no JSON"),
        pytest.param([b'{"received":"2031-11-21T12:00:00Z","kind":"exposure"}'], "yet to come", id="from the future"),
    ],
)
def test_a_segment_that_cannot_be_trusted_is_named_and_everything_holds_until_it_can(
    log: TrialLog, lines: list[bytes], want: str
) -> None:
    log.answer("ann", "canary", 0)
    log.seal()
    key = log.seal(lines=lines)
    watched = analyst(log.store)
    seen = watched.see()
    assert seen.split.counts == (1, 0), "the others are folded all the same"
    assert want in seen.problem
    assert key.rsplit("/", 1)[1][:41] in seen.problem
    log.store.delete([key])
    watched.clock.seconds += 700
    assert watched.see().problem == ""


def test_a_segment_whose_bytes_changed_holds_everything(log: TrialLog) -> None:
    log.answer("ann", "canary", 0)
    key = log.seal()
    data = log.store.read(key)
    log.store.write(key, data[:-1])
    watched = analyst(log.store)
    assert "are not those that were written" in watched.see().problem
    log.store.write(key, data)
    watched.clock.seconds += 700
    assert (watched.see().problem, watched.see().split.counts) == ("", (1, 0))


def test_a_segment_that_comes_hours_late_is_found(log: TrialLog) -> None:
    watched = analyst(log.store, seconds=20_000)
    assert watched.see().split.counts == (0, 0)
    log.answer("ann", "canary", 0)
    log.seal(0)
    watched.clock.seconds += 5
    assert watched.see().split.counts == (0, 0)
    watched.clock.seconds += 600
    assert watched.see().split.counts == (1, 0)


def test_a_person_who_was_erased_is_taken_out_and_stays_out(log: TrialLog) -> None:
    """P30."""
    log.vote(log.answer("ann", "canary", 0), "thumbs_up", 10)
    log.answer("bob", "canary", 1)
    log.tick(200)
    log.seal()
    watched = analyst(log.store)
    assert (watched.see().split.counts, feedback(watched.see())[0]) == ((2, 0), 1)
    request_erasure(log.store, "ns", [stored_as("ann")], now=START + timedelta(hours=3))
    log.answer("ann", "canary", 300)
    log.seal(10_000)
    watched.clock.seconds += 700
    assert (watched.see().split.counts, feedback(watched.see())[0]) == ((1, 0), 0)
    assert analyst(log.store).see().split.counts == (1, 0)


def test_a_trial_that_began_before_what_is_read_cannot_be_judged(log: TrialLog) -> None:
    log.answer("ann", "canary", 0)
    log.seal()
    log.answer("bob", "canary", 2 * 86_400)
    log.seal(2 * 86_400)
    seen = analyst(log.store, seconds=2 * 86_400, days=2).see()
    assert "raise RATCHET_ANALYST_DAYS" in seen.problem


def test_a_trial_that_nobody_met_for_long_is_forgotten(log: TrialLog) -> None:
    log.answer("ann", "canary", 0)
    log.seal()
    watched = analyst(log.store, days=2)
    assert watched.see().split.counts == (1, 0)
    watched.clock.seconds = 4 * 86_400
    assert watched.see().split.counts == (0, 0)


def test_the_numbers_lead_to_a_verdict(log: TrialLog) -> None:
    """P34: of 400 subjects each, 20 % like the candidate and 60 % the champion."""
    for number in range(800):
        arm = "canary" if number % 2 else "control"
        signed = log.answer(f"s{number}", arm, number / 10)
        likes = number % 10 < (2 if arm == "canary" else 6)
        log.vote(signed, "thumbs_up" if likes else "thumbs_down", number / 10 + 5)
    log.tick(500)
    log.seal()
    seen = analyst(log.store, seconds=600).see()
    rules = rules_of(Judged.model_validate({}))
    verdict = judge(rules, seen.evidence(rules))
    assert (verdict.outcome, verdict.why) == (Outcome.FAILED, Why.HARM)
    assert seen.subjects_per_day == 800 * 1440 / 2, "within two minutes"


@pytest.mark.parametrize(
    ("name", "value", "want"),
    [
        ("RATCHET_ANALYST_NAMESPACE", "", "RATCHET_ANALYST_NAMESPACE is not set"),
        ("RATCHET_STORE_URI", "", "RATCHET_STORE_URI is not set"),
        ("RATCHET_ANALYST_PORT", "http", "RATCHET_ANALYST_PORT='http' is not a number"),
        ("RATCHET_ANALYST_ATTRIBUTION_SECONDS", "0", "RATCHET_ANALYST_ATTRIBUTION_SECONDS='0' is out of bounds"),
        ("RATCHET_ANALYST_SETTLE_SECONDS", "nan", "RATCHET_ANALYST_SETTLE_SECONDS='nan' is out of bounds"),
        ("RATCHET_ANALYST_DAYS", "500", "RATCHET_ANALYST_DAYS='500' is out of bounds"),
        ("RATCHET_LOG_LEVEL", "loud", "RATCHET_LOG_LEVEL='loud' is unknown"),
    ],
)
def test_a_setting_that_cannot_be_used_is_refused_by_name(name: str, value: str, want: str) -> None:
    environment = {"RATCHET_STORE_URI": "file:///x", "RATCHET_ANALYST_NAMESPACE": "ns", name: value}
    with pytest.raises(SettingsError, match=want):
        Settings.from_env(environment)
