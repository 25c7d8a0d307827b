"""The review page in a real Chromium: judged by keyboard and by finger, read by axe, and deaf to hostile texts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from ratchet_api.client import GatewayClient
from ratchet_gateway.datasets import LocalDatasets
from tests.contract.desk import HOSTILE, LAPTOP, PHONE, Desk, RealClock
from tests.gateway_app import dataset_of_feedback, key_of, listening

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


@pytest.fixture
def desk(browser: Browser, tmp_path: Path) -> Iterator[Desk]:
    with listening(tmp_path, clock=RealClock()) as url:
        made = Desk(browser, url, tmp_path)
        yield made
        for context in browser.contexts:
            context.close()
        assert made.problems == []


def test_what_a_reviewer_presses_is_what_is_stored(desk: Desk) -> None:
    desk.answers(*((f"question {number}", "billing") for number in range(5)))
    page = desk.page()
    assert page.text_content("#rate-count") == "0 of 5 judged"
    page.keyboard.press("y")
    page.keyboard.press("n")
    page.keyboard.press("m")
    page.keyboard.type("so-so, yes")
    page.keyboard.press("Escape")
    page.keyboard.press("3")
    page.keyboard.press("c")
    page.keyboard.type("shipping")
    page.keyboard.press("Enter")
    assert page.text_content("#rate-count") == "4 of 5 judged"
    assert page.text_content("#toast-text") == "Judged: corrected"
    page.click("nav a[href='#numbers']")
    votes = desk.wait_votes(5)
    assert [vote["type"] for vote in votes] == ["thumbs_up", "thumbs_down", "rating", "comment", "correction"]
    assert (votes[2]["rating"], votes[3]["comment"], votes[4]["correction"]) == (3, "so-so, yes", "shipping")
    assert len({vote["interaction"] for vote in votes}) == 4
    assert votes[2]["interaction"] == votes[3]["interaction"]
    page.wait_for_selector("#plot-bands svg")
    assert "Events" in (page.text_content("#totals") or "")


def test_the_reviewer_may_begin_with_what_is_disputed(desk: Desk) -> None:
    for version, label in ((1, "billing"), (2, "login")):
        desk.answers(("disputed", label), version=version)
    desk.answers(("calm", "billing"))
    page = desk.page()
    expect(page.locator("#rate-input")).to_have_text("calm")
    page.get_by_label("First").select_option("most disputed")
    expect(page.locator("#rate-input")).to_have_text("disputed")
    page.keyboard.press("Escape")
    page.keyboard.press("y")
    expect(page.locator("#rate-input")).to_have_text("disputed")
    assert desk.wait_votes(1)[0]["type"] == "thumbs_up"


def test_undo_takes_the_last_vote_back_with_all_that_was_typed_and_another_vote_counts(desk: Desk) -> None:
    """By superseding events: the log keeps what was said, its readers count what holds."""
    desk.answers(("first", "billing"))
    page = desk.page()
    page.fill("#rate-comment", "careful")
    page.click("[data-vote=thumbs_down]")
    page.click("#undo")
    page.wait_for_selector("#rate-card:not([hidden])")
    assert (page.text_content("#rate-input"), page.input_value("#rate-comment")) == ("first", "careful")
    assert page.text_content("#rate-count") == "0 of 1 judged"
    page.click("[data-vote=thumbs_up]")
    down, comment, undo, undo_comment, up, comment_again = desk.wait_votes(6)
    assert [down["type"], comment["type"], up["type"]] == ["thumbs_down", "comment", "thumbs_up"]
    assert [undo["supersedes"], undo_comment["supersedes"]] == [down["id"], comment["id"]]
    assert [up["supersedes"], comment_again["supersedes"]] == [down["id"], comment["id"]]
    with GatewayClient(desk.url, token=key_of("all")) as client:
        assert client.stats("router").by_type == {"comment": 1, "thumbs_up": 1}


def test_a_stranger_is_asked_for_a_key_and_a_wrong_one_again(desk: Desk) -> None:
    desk.answers(("first", "billing"))
    page = desk.page(token=False)
    page.wait_for_selector("#door[open]")
    page.fill("#token", "wrong")
    page.keyboard.press("Enter")
    expect(page.locator("#door-text")).to_contain_text("not known here")
    page.fill("#token", key_of("all"))
    page.click("#door button")
    page.wait_for_selector("#rate-card:not([hidden])")
    desk.problems[:] = [each for each in desk.problems if "401" not in each]  # the browser tells of each refusal
    assert page.text_content("#rate-input") == "first"


def test_hostile_texts_are_shown_as_texts(desk: Desk) -> None:
    """Nothing that an application recorded becomes markup, script or address."""
    desk.answers(*((text, "billing") for text in HOSTILE), *((text, "shipping") for text in HOSTILE))
    page = desk.page()
    seen = set()
    for _ in range(2 * len(HOSTILE)):
        seen.add(page.text_content("#rate-input"))
        page.keyboard.press("s")
    assert seen == set(HOSTILE)
    page.goto(f"{desk.url}/review?policy=router#compare")
    page.reload()
    page.wait_for_selector("#compare-card:not([hidden])")
    assert page.title() == "Review answers · Ratchet"
    assert page.locator("main script, main img, main h1").count() == 0


def test_an_answer_that_breaks_off_is_said_and_nothing_throws(desk: Desk) -> None:
    desk.answers(("first", "billing"))
    page = desk.page("numbers")
    page.route("**/v1/review/router?*", lambda route: route.fulfill(status=200, body='{"items": ['))
    page.click("nav a[href='#rate']")
    expect(page.locator("#notice")).to_contain_text("broke off")
    page.unroute_all()
    page.reload()
    expect(page.locator("#rate-input")).to_have_text("first")


def draw(page: Page, lot: int) -> None:
    """Let every lot of one byte fall so; longer draws are keys."""
    page.evaluate(
        """lot => {
            const real = crypto.getRandomValues.bind(crypto);
            crypto.getRandomValues = (array) => array.length === 1 ? array.fill(lot) : real(array);
        }""",
        lot,
    )


def test_each_comparison_is_stored_with_the_side_that_won(desk: Desk) -> None:
    desk.answers(("first", "billing"), ("second", "billing"), ("first", "shipping"), ("second", "shipping"))
    page = desk.page("compare")
    draw(page, 1)
    shown = []
    for side, press in (("a", "a"), ("b", "b")):
        page.wait_for_selector("#compare-card:not([hidden])")
        shown.append({name: page.text_content(f"#compare-{name}") for name in ("a", "b")} | {"won": side})
        page.keyboard.press(press)
    page.click("nav a[href='#numbers']")
    votes = desk.wait_votes(2)
    for vote, was in zip(votes, shown, strict=True):
        assert vote["tags"]["position"] == was["won"]
        assert vote["chosen"] == was[str(was["won"])]
        assert {vote["chosen"], vote["rejected"]} == {"billing", "shipping"}


@pytest.mark.parametrize(("lot", "first"), [(0, "billing"), (1, "shipping")])
def test_the_lot_decides_which_answer_comes_first(desk: Desk, lot: int, first: str) -> None:
    desk.answers(("first", "billing"))
    desk.answers(("first", "shipping"))
    page = desk.page("numbers")
    draw(page, lot)
    page.click("nav a[href='#compare']")
    page.wait_for_selector("#compare-card:not([hidden])")
    assert page.text_content("#compare-a") == first


def test_somebody_elses_vote_in_between_is_said_and_the_queue_goes_on(desk: Desk) -> None:
    desk.answers(("first", "billing"), ("second", "billing"))
    one, other = desk.page(), desk.page()
    one.keyboard.press("y")
    desk.wait_votes(1)
    other.keyboard.press("n")
    other.wait_for_selector("#notice:not([hidden])")
    assert "was used for another content" in (other.text_content("#notice") or "")
    other.keyboard.press("y")
    assert [vote["type"] for vote in desk.wait_votes(2)] == ["thumbs_up", "thumbs_up"]
    desk.problems[:] = [each for each in desk.problems if "409" not in each]


def test_the_numbers_tell_what_data_sets_kept_and_what_each_rule_removed(browser: Browser, tmp_path: Path) -> None:
    """Two more plots with their numbers as tables; another data set is one choice away."""
    rules = [{"rule": "<img src=x>", "count": 3, "example": ""}]
    bodies = [dataset_of_feedback("votes"), dataset_of_feedback("older", taken="2026-11-20T10:00:00Z", removed=rules)]
    with listening(tmp_path, clock=RealClock(), datasets=LocalDatasets(lambda: bodies)) as url:
        desk = Desk(browser, url, tmp_path)
        page = desk.page("numbers", size=PHONE, dark=True)
        expect(page.locator("#dataset-facts")).to_contain_text("Rows kept900")
        choice, state = (page.locator(name).bounding_box() for name in ("#dataset", "#dataset-state"))
        assert choice is not None
        assert state is not None
        assert choice["width"] >= 150
        assert state["x"] >= choice["x"] + choice["width"] or state["y"] >= choice["y"] + choice["height"], (
            "one on the other"
        )
        expect(page.locator("#plot-rows tr", has_text="no verdict").locator("td")).to_have_text(["0", "0", "0", "500"])
        expect(page.locator("#plot-rows tr", has_text="kept").locator("td")).to_have_text(["720", "95", "85", "0"])
        expect(page.locator("#plot-classes tr", has_text="shipping").locator("td")).to_have_text(["80", "10", "5"])
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
        page.get_by_label("Shown").select_option("older")
        expect(page.locator("#plot-rows svg[role=img]")).to_contain_text("<img src=x>")
        assert page.locator("#datasets img").count() == 0
        for context in browser.contexts:
            context.close()
        assert desk.problems == []


def test_where_no_data_set_can_be_told_the_page_says_why(desk: Desk) -> None:
    page = desk.page("numbers")
    expect(page.locator("#dataset-empty")).to_contain_text("RATCHET_GATEWAY_POLICIES")
    expect(page.locator("#dataset-card")).to_be_hidden()


VIEWS: dict[str, tuple[str, Callable[[Page], object]]] = {
    "rating": ("rate", lambda page: None),
    "rating, undo shown": ("rate", lambda page: page.keyboard.press("y")),
    "comparing": ("compare", lambda page: None),
    "numbers": ("numbers", lambda page: page.wait_for_selector("#plot-labels svg")),
    "help": ("rate", lambda page: page.keyboard.press("?")),
}


@pytest.mark.parametrize("name", VIEWS)
def test_axe_finds_nothing_wrong_in_light_and_dark_on_laptop_and_phone(desk: Desk, name: str) -> None:
    """Labels, names, roles, contrast, order of headings, landmarks: WCAG 2.2 as far as a program can see."""
    desk.answers(("first", "billing"), ("second", "billing"), probabilities={"billing": 0.5})
    desk.answers(("first", "shipping"), version=2)
    view, prepare = VIEWS[name]
    for size, dark in ((LAPTOP, False), (PHONE, True)):
        page = desk.page(view, size=size, dark=dark)
        prepare(page)
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()


def test_on_a_phone_nothing_is_cut_off_and_everything_can_be_hit(desk: Desk) -> None:
    desk.answers(("w" * 400, "billing"), ("w" * 400, "shipping"))
    for view in ("rate", "compare", "numbers"):
        page = desk.page(view, size=PHONE)
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], view
        for button in page.locator("button:visible, nav a:visible, select:visible, input:visible").all():
            box = button.bounding_box()
            assert box is not None
            assert box["height"] >= 44, button.inner_html()


def test_the_keyboard_reaches_everything_and_is_never_trapped(desk: Desk) -> None:
    desk.answers(("first", "billing"))
    page = desk.page()
    page.keyboard.press("?")
    assert page.evaluate("document.querySelector('#help').open")
    page.keyboard.press("Escape")
    assert not page.evaluate("document.querySelector('#help').open")
    wanted = page.locator("a:visible, button:visible, select:visible, input:visible, textarea:visible").count()
    seen = set()
    for _ in range(wanted + 12):
        page.keyboard.press("Tab")
        seen.add(page.evaluate("[...document.querySelectorAll('*')].indexOf(document.activeElement)"))
    assert len(seen) >= wanted, "a control that Tab never comes to"
    page.focus("#rate-correction")
    page.keyboard.type("yn123")
    assert page.input_value("#rate-correction") == "yn123", "shortcuts are text where text is written"
    assert page.text_content("#rate-count") == "0 of 1 judged"


def test_shortcuts_can_be_switched_off(desk: Desk) -> None:
    """WCAG 2.1.4: for whoever speaks to the machine, or rests a hand on it."""
    desk.answers(("first", "billing"))
    page = desk.page()
    page.click("#help-open")
    page.uncheck("#keys-on")
    page.click("#help-close")
    page.keyboard.press("y")
    assert page.text_content("#rate-count") == "0 of 1 judged"
    assert page.is_visible("#rate-card")


def test_what_happens_is_said_to_screen_readers(desk: Desk) -> None:
    desk.answers(("first", "billing"))
    page = desk.page()
    assert page.get_attribute("#live", "aria-live") == "polite"
    page.keyboard.press("4")
    assert page.text_content("#live") == "Judged: 4 of 5 stars. Undo with z."
    page.keyboard.press("z")
    expect(page.locator("#live")).to_have_text("taken back")
    assert page.text_content("#rate-count") == "0 of 1 judged"
