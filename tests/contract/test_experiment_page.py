"""The experiment view of the review page in a real Chromium: all that is known is on it, readable, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from ratchet_gateway.policies import PolicyView
from tests.contract.desk import HOSTILE, LAPTOP, PHONE, Desk, RealClock
from tests.feedback_events import START
from tests.gateway_app import listening
from tests.rollout_case import CountedTrial, policy, split, under_test

MINUS, DASH = "\u2212", "\u2013"
pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


def ended(why: str = "Version 4 is taken out: worse by more than its margin.", **changes: Any) -> PolicyView:
    """The trial is over; further arguments change the last row of the ledger."""
    rollout = policy().rollout
    assert rollout is not None
    last = {"number": 13, "version": 3, "since": START + timedelta(hours=5), "why": why, "by": "operator"} | changes
    return policy(
        candidate=None,
        percent=0,
        step=-1,
        verdict={"outcome": "Failed", "reason": "Harm", "message": "feedback: 0.52 against 0.66", "samples": 480},
        history=[*rollout.history, last],
        rows=13,
    )


class Changing:
    """Policies of a list that a test changes."""

    def __init__(self, view: PolicyView) -> None:
        self.view = view

    async def find(self, name: str) -> PolicyView | None:
        return self.view if name == "router" else None


@pytest.fixture
def opened(browser: Browser, tmp_path: Path) -> Callable[..., Any]:
    """Make a desk whose policy and analyst the test chooses."""

    @contextmanager
    def made(view: PolicyView | Changing, analyst: CountedTrial) -> Iterator[Desk]:
        policies = view if isinstance(view, Changing) else Changing(view)
        with listening(tmp_path, clock=RealClock(), policies=policies, analyst=analyst) as url:
            desk = Desk(browser, url, tmp_path)
            yield desk
            for context in browser.contexts:
                context.close()
            assert desk.problems == []

    return made


def cells(page: Page, table: str) -> list[list[str]]:
    """The texts of a table's body."""
    rows = page.locator(f"{table} tbody tr").all()
    return [row.locator("th, td").all_text_contents() for row in rows]


def test_all_that_is_known_of_a_trial_is_on_the_page(opened: Any) -> None:
    with opened(policy(), CountedTrial(late=12)) as desk:
        page = desk.page("experiment")
        expect(page.locator("#stands")).to_have_text(
            "Version 4 is on trial against version 3: 25 % of the subjects get it and as many are held against it, "
            "step 3 of 4."
        )
        assert page.text_content("#verdict") == "Inconclusive"
        assert page.text_content("#verdict-message") == "feedback: 0.71 against 0.66 (Undecided)"
        facts = page.locator("#experiment-facts div").all_text_contents()
        assert {"Subjects heard480", "More that it takesabout 1,200", "New subjects a day4,000"} <= set(facts)
        goal, errors, rate = cells(page, "#metrics")
        assert (goal[0], goal[1], goal[5]) == ("Feedback (what decides)", "0.708 of 240", "not shown yet")
        assert (errors[1], errors[4]) == ("0.63 % of 480", "at most 2 times as many")
        assert rate[3].startswith(f"{MINUS}0.020 ({MINUS}")
        assert page.text_content("#metrics-aside") == "12 votes came after their subject's time and do not count."
        ledger = cells(page, "#ledger")
        assert [row[2] for row in ledger] == ["version 4 at 25 %", "version 4 at 5 %", "version 4 at 1 %", DASH]


def test_the_ledger_tells_the_config_that_makes_a_version(opened: Any) -> None:
    configs = ({"version": 3, "config": "temperature 0.2", "digest": "0" * 32},)
    with opened(ended(configs=configs), CountedTrial()) as desk:
        assert cells(desk.page("experiment"), "#ledger")[0][1] == "version 3 (temperature 0.2)"


def test_the_curves_show_the_bounds_that_decide_the_steps_and_the_split(opened: Any) -> None:
    """Each is an image with a name that says what it shows now, and has its numbers in a table."""
    with opened(policy(), CountedTrial()) as desk:
        page = desk.page("experiment")
        said = page.text_content("#difference-now") or ""
        assert re.fullmatch(rf"now \+0\.0\d\d, between {MINUS}0\.\d{{3}} and \+0\.\d{{3}}", said)
        names = [svg.get_attribute("aria-label") or "" for svg in page.locator("#curves svg[role=img]").all()]
        assert names[0].endswith(said)
        assert names[1] == "Percent of the subjects that got version 4: 1 %, 5 %, 25 %"
        assert "484 and 480 subjects" in names[2]
        band = (page.get_attribute("#plot-difference polygon", "points") or "").split()
        assert len(band) == 2 * 3, "two bounds for each moment at which enough had spoken, and the first is none"
        rows = cells(page, "#plot-difference")
        assert [row[1] == DASH for row in rows] == [True, False, False, False]
        assert rows[-1][4] == "240 and 240"
        upper, lower = (float(band[index].split(",")[1]) for index in (2, 3))
        line = float((page.get_attribute("#plot-difference polyline", "points") or "").split()[-1].split(",")[1])
        assert upper < line < lower
        assert page.locator("#split-now .chip.good").count() == 1


@pytest.mark.parametrize(
    ("last", "word"),
    [({}, "25 %, then taken out"), ({"version": 4, "why": "Version 4 is promoted."}, "25 %, then promoted")],
    ids=["rolled back", "promoted"],
)
def test_a_trial_that_is_over_is_told_with_its_end(opened: Any, last: dict[str, Any], word: str) -> None:
    with opened(ended(**last), CountedTrial(means=(0.5, 0.66), split=split(600, 300))) as desk:
        page = desk.page("experiment")
        assert page.text_content("#shares-now") == word
        assert (page.text_content("#verdict-message") or "").startswith("Last trial: feedback: 0.52")
        assert page.text_content("#split-now .chip.bad") == "not as told"
        assert page.text_content("#ledger-aside") == "8 older rows: ratchet history lists them."


@pytest.mark.parametrize(
    ("running", "said"),
    [
        (True, "Tested against version 3: version 4 (20 %)."),
        (False, "Everybody gets version 3; no version is on trial."),
    ],
    ids=["running", "over"],
)
def test_every_version_of_a_test_is_on_the_page(opened: Any, running: bool, said: str) -> None:
    with opened(under_test(running=running), CountedTrial()) as desk:
        page = desk.page("experiment")
        said = (
            "Tested against version 3: version 4 (20 %)."
            if running
            else "Everybody gets version 3; no version is on trial."
        )
        expect(page.locator("#stands")).to_have_text(said)
        four, five = cells(page, "#arms-table")
        assert four == ["version 4", "20 %", "480", "Inconclusive", "feedback: 0.70 against 0.66"]
        assert five[3:] == ["taken out", "Version 5 is taken out: it did not answer for 60 s."]
        assert page.text_content("#arms-aside") == ("" if running else "none of them passed")
        assert cells(page, "#ledger")[0][2] == "version 4 at 20 %, version 5 at 10 %"
        assert not page.is_visible("#guardrails")


def test_an_analyst_that_is_away_leaves_shares_and_ledger(opened: Any) -> None:
    with opened(policy(), CountedTrial(silent="the analyst does not answer")) as desk:
        page = desk.page("experiment")
        expect(page.locator("#experiment-problem")).to_have_text("the analyst does not answer")
        assert page.locator("#plot-shares svg").count() == 1
        assert not page.is_visible("#figure-difference")
        assert not page.is_visible("#guardrails")
        assert len(cells(page, "#ledger")) == 4


def test_a_policy_that_is_not_served_says_what_to_do(opened: Any) -> None:
    with opened(PolicyView("router"), CountedTrial()) as desk:
        page = desk.page("experiment")
        assert "spec.serving and spec.rollout" in (page.text_content("#experiment-empty") or "")
        assert not page.is_visible("#experiment-card")


def test_hostile_words_are_shown_as_words(opened: Any) -> None:
    """A reason that a user gave, or a counted sentence, becomes no markup."""
    verdict = {"outcome": HOSTILE[0][:16], "reason": "Why", "message": HOSTILE[1], "samples": 1}
    view = policy(
        verdict=verdict, history=[{"number": 1, "version": 3, "since": START, "why": HOSTILE[2], "by": "user"}]
    )
    with opened(view, CountedTrial(problem=HOSTILE[0])) as desk:
        page = desk.page("experiment")
        assert page.text_content("#experiment-problem") == HOSTILE[0]
        assert HOSTILE[1] in (page.text_content("#verdict-message") or "")
        assert cells(page, "#ledger")[0][3:] == [HOSTILE[2], "people"]
        assert page.locator("main script, main img, main h1").count() == 0
        assert page.title() == "Review answers · Ratchet"


def test_news_are_said_and_drawn_and_what_was_opened_stays_open(opened: Any) -> None:
    view, analyst = Changing(policy()), CountedTrial()
    with opened(view, analyst) as desk:
        page = desk.page("experiment")
        page.click("#plot-difference summary")
        page.focus("#plot-difference summary")
        assert page.text_content("#live") == ""
        analyst.pairs = (*analyst.pairs, 400)
        view.view = ended()
        expect(page.locator("#live")).to_contain_text("Everybody gets version 3")
        expect(page.locator("#live")).to_contain_text("Last trial: feedback: 0.52")
        expect(page.locator("#plot-difference tbody tr")).to_have_count(5)
        assert page.get_attribute("#plot-difference details", "open") == ""
        assert page.evaluate("document.activeElement.tagName") == "SUMMARY"


@pytest.mark.parametrize("case", ["on trial", "over"])
def test_axe_finds_nothing_wrong_and_nothing_is_cut_off(opened: Any, case: str) -> None:
    """Laptop in light, phone in dark, with every table open."""
    view, analyst = (policy(), CountedTrial()) if case == "on trial" else (ended("w" * 250), CountedTrial(late=3))
    with opened(view, analyst) as desk:
        for size, dark in ((LAPTOP, False), (PHONE, True)):
            page = desk.page("experiment", size=size, dark=dark)
            for summary in page.locator("summary:visible").all():
                summary.click()
            found = Axe().run(page)
            assert found.violations_count == 0, found.generate_report()
            assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
            for link in page.locator("nav a").all():
                box = link.bounding_box()
                assert box is not None
                assert box["height"] >= 44 or size is LAPTOP
                assert box["x"] + box["width"] <= size["width"]
