"""What the review page gets to show: unjudged answers, the unsure ones first, pairs to compare, and honest counts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from ratchet_api.signing import pseudonym
from ratchet_gateway.recent import Answer, RecentLog, Vote
from ratchet_gateway.review import PolicyReview, ReviewIndex
from ratchet_gateway.routes.review import FILES
from ratchet_jobs.feedback_log.erasures import ErasureRecord, record_key
from ratchet_jobs.runtime.store_directory import DirectoryStore
from tests.gateway_app import RING, Clock, Gateway, running


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    with running(tmp_path) as made:
        yield made


def record(gateway: Gateway, text: str, answer: str, confidence: float | None = None, **more: Any) -> str:
    """Record an answer of the policy `router`; returns its signed id."""
    probabilities = {} if confidence is None else {answer: confidence}
    body = {"policy": "router", "input": text, "label": answer, "probabilities": probabilities, **more}
    found: str = gateway.post("/v1/interactions", body).json()["events"][0]["interactionId"]
    return found


def send(gateway: Gateway, **event: Any) -> None:
    answer = gateway.post("/v1/feedback", event)
    assert answer.status_code == 200, answer.text


def review(gateway: Gateway, path: str = "/router") -> Any:
    gateway.clock.pass_(seconds=1)
    answer = gateway.get(f"/v1/review{path}", token="reader")
    assert answer.status_code == 200, answer.text
    return answer.json()


def inputs(gateway: Gateway) -> list[str]:
    return [item["input"] for item in review(gateway)["items"]]


def test_the_answers_that_the_policy_was_least_sure_of_come_first_then_the_newest(gateway: Gateway) -> None:
    record(gateway, "old", "a")
    record(gateway, "sure", "a", 0.9)
    record(gateway, "unsure", "b", 0.4)
    record(gateway, "new", "a")
    assert inputs(gateway) == ["unsure", "sure", "new", "old"]
    found = review(gateway)
    assert (found["waiting"], found["judged"], found["labels"]) == (4, 0, ["a", "b"])
    assert [item.get("confidence") for item in found["items"]] == [0.4, 0.9, None, None]


@pytest.mark.parametrize(
    ("event", "judged"),
    [
        ({"type": "thumbs_down"}, True),
        ({"type": "rating", "rating": 3}, True),
        ({"type": "score", "score": 0.5}, True),
        ({"type": "correction", "correction": "b"}, True),
        ({"type": "comment", "comment": "hm"}, False),
        ({"type": "metric", "name": "seconds", "value": 2}, False),
    ],
    ids=lambda value: value["type"] if isinstance(value, dict) else "",
)
def test_a_verdict_ends_the_review_of_an_answer_and_nothing_else_does(
    gateway: Gateway, event: dict[str, Any], judged: bool
) -> None:
    send(gateway, interactionId=record(gateway, "q", "a"), **event)
    found = review(gateway)
    assert (found["judged"], len(found["items"])) == ((1, 0) if judged else (0, 1))


def test_a_vote_that_cites_the_queues_id_is_joined_to_the_answer_with_its_arm(gateway: Gateway) -> None:
    """The id is signed anew: what it says must be what the first one said."""
    record(gateway, "q", "a", version=3, arm="canary", assignmentPropensity=0.25)
    (item,) = review(gateway)["items"]
    send(gateway, type="thumbs_up", interactionId=item["interactionId"])
    interaction, vote = gateway.log()
    for name in ("interaction", "version", "arm", "assignmentPropensity", "policy"):
        assert vote[name] == interaction[name], name
    assert inputs(gateway) == []
    again = gateway.post("/v1/feedback", {"type": "thumbs_down", "interactionId": item["interactionId"]})
    assert again.status_code == 409, "one thumb counts per answer, whoever gives it"


def test_the_queue_begins_with_what_people_or_versions_dispute_if_asked(gateway: Gateway) -> None:
    """Numbers by hand: 1 against 0.5 is a deviation of 0.25, twice that 0.5; two versions, two answers: 1 bit of 1."""
    for name, score in (("anna", 1.0), ("bert", 0.5), ("bert", 0.5)):
        about = record(gateway, "by people", "a", 0.9)
        send(gateway, type="score", score=score, interactionId=about, subject=name)
    record(gateway, "by people", "a", 0.9)
    record(gateway, "calm", "a", 0.2, version=1)
    record(gateway, "calm", "a", 0.3, version=2)
    record(gateway, "by versions", "a", 0.95, version=1)
    record(gateway, "by versions", "b", 0.99, version=2)
    orders = {
        order: [item["input"] for item in review(gateway, f"/router?order={order}")["items"]]
        for order in ("unsure", "disputed", "newest")
    }
    assert orders == {
        "unsure": ["calm", "calm", "by people", "by versions", "by versions"],
        "disputed": ["by versions", "by versions", "by people", "calm", "calm"],
        "newest": ["by versions", "by versions", "calm", "calm", "by people"],
    }
    refused = gateway.get("/v1/review/router?order=oldest", token="reader")
    assert (refused.status_code, "order" in refused.json()["detail"]) == (422, True)


def test_who_gives_no_name_disputes_nothing() -> None:
    answer = Answer("1", "router", None, None, "asked", "a", True, None, None, None, "2026-11-21T12:00:00Z")
    votes = [
        Vote(str(score), "router", "app", "score", who, "1", score, None, None, "2026-11-21T12:00:00Z")
        for who, score in ((None, 0.0), (None, 1.0), ("anna", 1.0))
    ]
    assert PolicyReview({"1": answer}, votes).disputes() == {}
    assert PolicyReview({"1": answer}, [*votes, replace(votes[0], id="2", subject="bert")]).disputes() == {"asked": 1.0}


def test_two_different_answers_to_one_input_are_a_pair_until_somebody_compared_them(gateway: Gateway) -> None:
    record(gateway, "same", "a", version=1)
    record(gateway, "same", "a", version=2)
    record(gateway, "other", "a", version=1)
    assert review(gateway)["pairs"] == []
    record(gateway, "same", "b", version=2)
    (pair,) = review(gateway)["pairs"]
    assert (pair["input"], [each["answer"] for each in pair["answers"]]) == ("same", ["a", "b"])
    chosen = pair["answers"][1]
    tags = {"pair": pair["id"], "position": "left"}
    send(gateway, type="preference", interactionId=chosen["interactionId"], chosen="b", rejected="a", tags=tags)
    assert review(gateway)["pairs"] == []
    assert gateway.log()[-1]["tags"] == tags


def test_answers_without_texts_and_of_other_policies_are_not_shown(tmp_path: Path) -> None:
    with running(tmp_path, collection_rate=0) as gateway:
        record(gateway, "q", "a")
        assert (inputs(gateway), review(gateway, "")["policies"]) == ([], {})
    with running(tmp_path) as gateway:
        record(gateway, "q", "a")
        assert review(gateway, "/bare")["items"] == []
        assert review(gateway, "")["policies"] == {"router": 1}


def test_the_plotted_numbers_are_those_of_the_log(gateway: Gateway) -> None:
    first, second = record(gateway, "1", "a"), record(gateway, "2", "b")
    send(gateway, type="rating", rating=5, interactionId=first)  # 1.0: good, fifth band
    send(gateway, type="thumbs_down", interactionId=second)  # 0.0: bad, first band
    send(gateway, type="score", score=0.4, policy="router")  # middling, third band
    gateway.clock.pass_(days=1)
    send(gateway, type="rating", rating=4, interactionId=second)  # 0.75: good, fourth band
    send(gateway, type="comment", comment="hm", policy="router")
    found = review(gateway, "/router/stats")
    assert found["bands"] == [1, 0, 1, 1, 1]
    assert found["days"] == [
        {"day": "2026-11-21", "good": 1, "middling": 1, "bad": 1, "unscored": 0},
        {"day": "2026-11-22", "good": 1, "middling": 0, "bad": 0, "unscored": 1},
    ]
    assert found["labels"] == [
        {"label": "a", "answers": 1, "rated": 1, "scoreMean": 1.0},
        {"label": "b", "answers": 1, "rated": 2, "scoreMean": 0.375},
    ]


def test_a_vote_that_was_taken_back_was_never_given_and_another_may_be(gateway: Gateway) -> None:
    first = record(gateway, "q", "a")
    vote = gateway.post("/v1/feedback", {"type": "thumbs_up", "interactionId": first}).json()["events"][0]["id"]
    assert inputs(gateway) == []
    send(gateway, type="undo", policy="router", supersedes=vote)
    assert inputs(gateway) == ["q"]
    assert sum(review(gateway, "/router/stats")["bands"]) == 0
    send(gateway, type="thumbs_down", interactionId=first, supersedes=vote)
    assert inputs(gateway) == []
    assert review(gateway, "/router/stats")["bands"] == [1, 0, 0, 0, 0]


def test_nobody_takes_back_what_another_said(gateway: Gateway) -> None:
    first = record(gateway, "q", "a")
    vote = gateway.post("/v1/feedback", {"type": "thumbs_up", "interactionId": first}).json()["events"][0]["id"]
    undo = {"type": "undo", "policy": "router", "supersedes": vote}
    assert gateway.post("/v1/feedback", undo, token="app").status_code == 200
    assert inputs(gateway) == []


def test_what_an_erased_person_asked_and_said_is_not_shown(gateway: Gateway) -> None:
    """P30: from the moment the record stands, whatever the segments still hold."""
    about = record(gateway, "of anna", "a", subject="anna")
    record(gateway, "of bob", "a", subject="bob")
    send(gateway, type="thumbs_up", interactionId=record(gateway, "said by anna", "a"), subject="anna")
    send(gateway, type="thumbs_down", interactionId=about, subject="bob")
    record_ = ErasureRecord(subjects=(pseudonym("anna", RING),), requested=gateway.clock.now())
    gateway.store.write(record_key("ns", record_.id), record_.model_dump_json(by_alias=True).encode())
    assert inputs(gateway) == ["said by anna", "of bob"]
    assert sum(review(gateway, "/router/stats")["bands"]) == 0


def recent(gateway: Gateway, **bounds: int) -> RecentLog:
    return RecentLog(gateway.store, "ns", now=gateway.clock.now, monotonic=gateway.clock.monotonic, **bounds)


@pytest.mark.parametrize("bounds", [{"max_bytes": 3_500}, {"max_events": 3}, {"max_segments": 3}], ids=str)
async def test_what_is_kept_of_the_log_is_bounded_and_the_newest(gateway: Gateway, bounds: dict[str, int]) -> None:
    for number in range(14, 20):
        record(gateway, f"{number:02} " + "x" * 1000, "a")
        gateway.clock.pass_(minutes=1)
    kept = recent(gateway, **bounds)
    await kept.refresh()
    assert [each.input[:2] for each in kept.entries() if isinstance(each, Answer)] == ["17", "18", "19"]
    record(gateway, "20", "a")
    gateway.clock.pass_(seconds=1)
    await kept.refresh()
    assert [each.input[:2] for each in kept.entries() if isinstance(each, Answer)][-1] == "20"


async def test_answers_of_last_month_are_past(gateway: Gateway) -> None:
    record(gateway, "old", "a")
    gateway.clock.pass_(days=29)
    assert inputs(gateway) == ["old"]
    gateway.clock.pass_(days=2)
    record(gateway, "new", "a")
    assert inputs(gateway) == ["new"]


async def test_the_log_is_read_at_most_once_a_second_and_no_segment_twice(tmp_path: Path) -> None:
    class Counting(DirectoryStore):
        reads = 0

        def read(self, key: str) -> bytes:
            self.reads += "/log/" in key
            return super().read(key)

    store, clock = Counting(tmp_path / "store"), Clock()
    with running(tmp_path, store=store, clock=clock) as gateway:
        index = ReviewIndex(recent(gateway))
        record(gateway, "1", "a")
        assert len((await index.of("router")).answers) == 1
        record(gateway, "2", "a")
        assert len((await index.of("router")).answers) == 1
        clock.pass_(seconds=1)
        assert len((await index.of("router")).answers) == 2
        assert store.reads == 2


@pytest.mark.parametrize("name", ["", *(f"/{name}" for name in FILES)])
def test_the_page_needs_no_token_and_may_load_nothing_but_its_own_files(gateway: Gateway, name: str) -> None:
    answer = gateway.get(f"/review{name}", token=None)
    assert answer.status_code == 200
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert {policy[part] for part in ("script-src", "style-src", "img-src", "connect-src")} == {"'self'"}
    assert policy["frame-ancestors"] == "'none'"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("name", ["index.html", "nothing.js", "%2e%2e%2fapp.py", "..%2F..%2Fapp.py", "x" * 100])
def test_there_are_no_other_files(gateway: Gateway, name: str) -> None:
    assert gateway.get(f"/review/{name}", token=None).status_code in (404, 422)


def test_every_file_of_the_page_is_served_and_names_no_other_address() -> None:
    folder = files("ratchet_gateway") / "pages"
    assert sorted(each.name for each in folder.iterdir()) == sorted(["index.html", *FILES])
    for each in folder.iterdir():
        text = each.read_text().replace("http://www.w3.org/2000/svg", "")
        assert "://" not in text, each.name
        assert "innerHTML" not in text, each.name
        assert 'style="' not in text, each.name
