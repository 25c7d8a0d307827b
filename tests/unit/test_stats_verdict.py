"""The verdict: which rule speaks, and with which numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from ratchet_api.stats.errors import BadEvidence
from ratchet_api.stats.rare import RareCounts
from ratchet_api.stats.ratio import SampleRatio
from ratchet_api.stats.rules import Goal, Mean, Rare, Rules
from ratchet_api.stats.samples import Arms, Sample
from ratchet_api.stats.verdict import Evidence, Limit, Outcome, Verdict, Why, judge

PRIMARY = Mean("helpful")
ABSTAIN = Mean("abstain rate", higher_is_better=False, margin=0.05)
ERRORS = Rare("errors", ratio=1.5, ceiling=0.02)
RULES = Rules(PRIMARY, min_age_seconds=3600, deadline_seconds=10 * 86400)
GUARDED = replace(RULES, guardrails=(ABSTAIN, ERRORS))
DAY = 86400.0


def arms(candidate: int, champion: int, subjects: int = 3000) -> Arms:
    return Arms(Sample.of_counts(candidate, subjects), Sample.of_counts(champion, subjects))


def evidence(**more: Any) -> Evidence:
    """A day old, split evenly, fresh; the candidate is well ahead of its champion unless told otherwise."""
    means: Mapping[str, Arms] = more.pop("means", {"helpful": arms(2100, 1800)})
    plain = {"split": SampleRatio((0.5, 0.5)).seen((3000, 3000)), "age_seconds": DAY, "data_age_seconds": 10.0}
    return Evidence(**{**plain, "means": means, **more})


def guarded(*, abstain: Arms, errors: RareCounts, helpful: Arms | None = None) -> Verdict:
    means = {"helpful": helpful or arms(2100, 1800), "abstain rate": abstain}
    return judge(GUARDED, evidence(means=means, rare={"errors": errors}))


def said(verdict: Verdict) -> tuple[Outcome, Why, bool]:
    return verdict.outcome, verdict.why, verdict.final


def test_a_candidate_that_is_shown_to_be_better_is_successful_with_its_numbers() -> None:
    verdict = judge(RULES, evidence())
    assert said(verdict) == (Outcome.SUCCESSFUL, Why.GOOD_ENOUGH, True)
    assert verdict.sentence.startswith("better: helpful: 0.7 against 0.6, better by 0.1 (between +0.0")
    assert "; +16.7%, between +" in verdict.sentence
    assert verdict.readings[0].improvement == pytest.approx(0.1)


def test_a_candidate_that_is_shown_to_be_worse_fails_at_once_however_young_it_is() -> None:
    """P34."""
    verdict = judge(RULES, evidence(means={"helpful": arms(1800, 2100)}, age_seconds=1.0))
    assert said(verdict) == (Outcome.FAILED, Why.HARM, True)
    assert "helpful: 0.6 against 0.7, worse by 0.1" in verdict.sentence


def test_a_better_candidate_waits_for_its_least_age() -> None:
    verdict = judge(RULES, evidence(age_seconds=3599.0))
    assert said(verdict) == (Outcome.INCONCLUSIVE, Why.TOO_YOUNG, False)
    assert "3599 s, at least 3600 s" in verdict.sentence


def test_an_open_question_says_how_many_subjects_and_days_it_still_takes() -> None:
    verdict = judge(RULES, evidence(means={"helpful": arms(1860, 1800)}, subjects_per_day=1000.0))
    assert said(verdict) == (Outcome.INCONCLUSIVE, Why.UNDECIDED, False)
    assert verdict.more is not None
    assert verdict.more > 1000
    assert verdict.days == verdict.more / 1000
    assert verdict.sentence.endswith(f"about {verdict.more} more subjects, {verdict.days:.1f} days at this traffic")


def test_an_open_question_is_closed_at_the_deadline_and_neither_promoted_nor_failed() -> None:
    seen = evidence(means={"helpful": arms(1860, 1800)}, age_seconds=10 * DAY)
    assert said(judge(RULES, seen)) == (Outcome.INCONCLUSIVE, Why.DEADLINE, True)
    assert said(judge(replace(RULES, deadline_seconds=None), seen)) == (Outcome.INCONCLUSIVE, Why.UNDECIDED, False)
    late = evidence(age_seconds=10 * DAY)
    assert judge(RULES, late).outcome is Outcome.SUCCESSFUL, "what is decided by then is decided"


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"dropped": 1}, "1 records were dropped"),
        ({"data_age_seconds": 301.0}, "the newest evidence is 301 s old"),
        ({"split": SampleRatio((0.5, 0.5)).seen((3300, 2700))}, "does not split as told"),
    ],
    ids=["dropped", "stale", "split"],
)
def test_evidence_that_cannot_be_trusted_holds_no_longer_than_the_deadline(more: dict[str, Any], says: str) -> None:
    """P35: nor is anything concluded from it, however good it looks."""
    assert judge(RULES, evidence(age_seconds=10 * DAY - 1, **more)).outcome is Outcome.ERROR
    late = judge(RULES, evidence(age_seconds=10 * DAY, **more))
    assert said(late) == (Outcome.INCONCLUSIVE, Why.DEADLINE, True)
    assert late.sentence.startswith("no decision after 864000 s, the deadline was 864000 s: ")
    assert says in late.sentence
    endless = replace(RULES, deadline_seconds=None)
    assert judge(endless, evidence(age_seconds=99 * DAY, **more)).outcome is Outcome.ERROR


NOTHING = {
    "nobody yet": {"means": {}},
    "nobody yet, and nothing was ever folded": {"means": {}, "data_age_seconds": None},
    "99 subjects, however good": {"means": {"helpful": arms(99, 20, 99)}},
    "no complaint in a thousand": {"means": {"helpful": arms(1000, 1000, 1000)}},
    "traffic that stopped": {"data_age_seconds": 301.0},
    "a limit that Prometheus does not know": {"limits": (Limit("load", None, 0.3, beyond_seconds=999),)},
    "a limit that is no number": {"limits": (Limit("load", math.nan, 0.3, beyond_seconds=999),)},
    "records that were dropped": {"dropped": 1},
    "records that were dropped by a bad candidate": {"dropped": 1, "means": {"helpful": arms(1800, 2100)}},
    "a bad candidate and evidence that is frozen": {"data_age_seconds": 301.0, "means": {"helpful": arms(1800, 2100)}},
    "a split that is off": {"split": SampleRatio((0.5, 0.5)).seen((3300, 2700))},
}


@pytest.mark.parametrize("more", [pytest.param(more, id=name) for name, more in NOTHING.items()])
def test_no_data_never_promotes_and_never_rolls_back(more: dict[str, Any]) -> None:
    """P35."""
    verdict = judge(RULES, evidence(**more))
    assert verdict.outcome in (Outcome.INCONCLUSIVE, Outcome.ERROR)
    assert not verdict.final


def test_a_mean_of_almost_nothing_but_the_same_is_not_looked_at() -> None:
    few = judge(RULES, evidence(means={"helpful": arms(996, 995, 1000)}))
    assert said(few) == (Outcome.INCONCLUSIVE, Why.TOO_FEW, False)
    assert "9 of the rarer outcome; 100 in each arm and 10 are needed" in few.sentence
    assert judge(RULES, evidence(means={"helpful": arms(995, 995, 1000)})).why is Why.UNDECIDED


def test_a_split_that_is_off_is_an_error_that_names_the_counts() -> None:
    """P32."""
    verdict = judge(RULES, evidence(split=SampleRatio((0.5, 0.5)).seen((3300, 2700))))
    assert (verdict.outcome, verdict.why) == (Outcome.ERROR, Why.SAMPLE_RATIO_MISMATCH)
    assert "3300 subjects where the share is 0.5, 2700" in verdict.sentence


def test_a_candidate_that_does_not_answer_fails_whatever_the_evidence_is() -> None:
    verdict = judge(RULES, evidence(ready=False, dropped=7, means={}))
    assert said(verdict) == (Outcome.FAILED, Why.NOT_READY, True)


def test_a_value_that_stays_beyond_its_bound_fails_the_candidate_and_holds_it_before() -> None:
    """P34."""
    load = Limit("load", 0.9, most=0.3, least=0.1, beyond_seconds=119, allowed_seconds=120)
    held = judge(RULES, evidence(limits=(load,)))
    assert said(held) == (Outcome.INCONCLUSIVE, Why.LIMIT_BEYOND, False)
    assert held.sentence == "load is 0.9, above 0.3; the candidate fails after 120 s"
    failed = judge(RULES, evidence(limits=(load._replace(beyond_seconds=120),)))
    assert said(failed) == (Outcome.FAILED, Why.LIMIT_BREACHED, True)
    assert failed.sentence == "load is 0.9, above 0.3 for 120 s"
    low = judge(RULES, evidence(limits=(load._replace(value=0.05, beyond_seconds=120),)))
    assert low.sentence == "load is 0.05, below 0.1 for 120 s"
    for within in (0.1, 0.3):  # a bound is well
        assert judge(RULES, evidence(limits=(load._replace(value=within),))).outcome is Outcome.SUCCESSFUL


def test_what_is_not_known_says_why() -> None:
    verdict = judge(RULES, evidence(limits=(Limit("load", None, 0.3, problem="nobody answers"),)))
    assert (verdict.why, verdict.sentence) == (Why.LIMIT_UNKNOWN, "load is not known: nobody answers")


FEW_ERRORS, MANY_ERRORS = RareCounts(2, 3000, 3, 3000), RareCounts(60, 3000, 5, 3000)


def test_every_guardrail_must_be_shown_safe_before_a_promotion() -> None:
    assert guarded(abstain=arms(300, 300), errors=FEW_ERRORS).outcome is Outcome.SUCCESSFUL
    inside = guarded(abstain=arms(350, 300), errors=FEW_ERRORS)
    assert said(inside) == (Outcome.SUCCESSFUL, Why.GOOD_ENOUGH, True), "0.117 against 0.1 is inside the margin"
    unsafe = guarded(abstain=arms(435, 300), errors=FEW_ERRORS)
    assert said(unsafe) == (Outcome.INCONCLUSIVE, Why.UNDECIDED, False)
    assert "abstain rate: 0.145 against 0.1, worse by 0.045" in unsafe.sentence


def test_a_guardrail_that_is_shown_to_be_past_its_margin_rolls_back_whatever_the_primary_says() -> None:
    """P34."""
    for verdict in (
        guarded(abstain=arms(900, 300), errors=FEW_ERRORS),
        guarded(abstain=arms(300, 300), errors=MANY_ERRORS),
    ):
        assert said(verdict) == (Outcome.FAILED, Why.HARM, True)
    assert "errors: 60 of 3000 subjects against 5 of 3000" in verdict.sentence


def test_no_errors_at_all_are_safe_once_enough_subjects_had_none() -> None:
    ok, none = arms(300, 300), RareCounts(0, 3000, 0, 3000)
    assert guarded(abstain=ok, errors=none).outcome is Outcome.SUCCESSFUL
    assert guarded(abstain=ok, errors=RareCounts(0, 50, 0, 50)).outcome is Outcome.INCONCLUSIVE


def test_a_small_slice_holds_nothing_up_and_a_broken_one_rolls_back() -> None:
    rules = replace(RULES, guardrails=(Mean("helpful/de", margin=0.05, required=False),))
    for there, want in ((arms(5, 40, 40), Outcome.SUCCESSFUL), (arms(100, 400, 500), Outcome.FAILED)):
        means = {"helpful": arms(2100, 1800), "helpful/de": there}
        assert judge(rules, evidence(means=means)).outcome is want


def test_no_worse_than_a_margin_is_enough_where_the_goal_says_so() -> None:
    even = evidence(means={"helpful": arms(1830, 1830)})
    lenient = replace(RULES, primary=Mean("helpful", margin=0.06), goal=Goal.NON_INFERIOR)
    assert judge(lenient, even).outcome is Outcome.SUCCESSFUL
    assert judge(RULES, even).outcome is Outcome.INCONCLUSIVE


def test_every_metric_gets_its_part_of_the_risk_of_a_false_rollback() -> None:
    """P33: rollbacks share alpha; for promotions all metrics must err at once."""
    assert GUARDED.rollback_alpha == pytest.approx(0.05 / 3)
    assert GUARDED.promotion_alpha == 0.05
    alone, among = judge(RULES, evidence()).readings[0], guarded(abstain=arms(300, 300), errors=FEW_ERRORS).readings[0]
    assert alone.band is not None
    assert among.band is not None
    assert among.band.low == alone.band.low
    assert among.band.high > alone.band.high


@pytest.mark.parametrize(
    ("make", "want"),
    [
        pytest.param(lambda: judge(RULES, evidence(means={"speed": arms(1, 1)})), "speed, which the rules", id="name"),
        pytest.param(lambda: judge(RULES, evidence(age_seconds=-1.0)), "age_seconds is -1", id="a clock that ran back"),
        pytest.param(lambda: judge(RULES, evidence(data_age_seconds=math.nan)), "data_age_seconds is nan", id="no age"),
        pytest.param(lambda: judge(RULES, evidence(dropped=-1)), "dropped is -1", id="dropped below 0"),
        pytest.param(lambda: Rules(PRIMARY, (PRIMARY,)), "helpful more than once", id="a metric twice"),
        pytest.param(lambda: Rules(PRIMARY, alpha=0.5), "alpha is 0.5", id="alpha of a half"),
        pytest.param(lambda: Rules(PRIMARY, min_subjects=1), "min_subjects is 1", id="one subject"),
        pytest.param(lambda: Rules(PRIMARY, min_events=0), "min_events is 0", id="no event"),
        pytest.param(lambda: Rules(PRIMARY, goal=Goal.NON_INFERIOR), "margin above 0", id="non-inferior by nothing"),
        pytest.param(lambda: Mean("m", margin=-0.1), "margin is -0.1", id="a margin below 0"),
        pytest.param(lambda: Rare("e", ceiling=0), "'e': ceiling is 0", id="a ceiling of nothing"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_by_name(make: object, want: str) -> None:
    with pytest.raises(BadEvidence, match=want):
        make()  # type: ignore[operator]
