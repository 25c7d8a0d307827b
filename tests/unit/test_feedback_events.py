"""What the feedback API takes and what it refuses, before anything is stored."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from ratchet_api.feedback import (
    FEEDBACK_TYPES,
    FeedbackBatch,
    FeedbackBody,
    InteractionBody,
    PolicyFeedback,
    Score,
    score_of,
)

FEEDBACK: TypeAdapter[Any] = TypeAdapter(FeedbackBody)
INTERACTION: TypeAdapter[Any] = TypeAdapter(InteractionBody)

GOOD: dict[str, dict[str, Any]] = {
    "thumbs_up": {"type": "thumbs_up", "rating": 5},
    "thumbs_down": {"type": "thumbs_down"},
    "rating": {"type": "rating", "rating": 1},
    "score": {"type": "score", "score": 0},
    "correction": {"type": "correction", "correction": "refund"},
    "preference": {"type": "preference", "chosen": "a", "rejected": "b"},
    "comment": {"type": "comment", "comment": "two\nlines\tand a tab, ünïcödé 👍"},
    "metric": {"type": "metric", "name": "seconds_to_resolution", "value": -3},
    "undo": {"type": "undo", "supersedes": "0" * 32},
}


def test_every_type_has_an_example_here() -> None:
    assert set(GOOD) == set(FEEDBACK_TYPES)


@pytest.mark.parametrize("event", GOOD.values(), ids=GOOD)
def test_every_type_is_taken_alone_and_in_a_batch(event: dict[str, Any]) -> None:
    assert FEEDBACK.validate_python(event).type == event["type"]
    batch = FEEDBACK.validate_python({"events": [event, event]})
    assert isinstance(batch, FeedbackBatch)
    assert len(batch.events) == 2


BAD = {
    "an undo of nothing": b'{"type":"undo"}',
    "an undo of no id": b'{"type":"undo","supersedes":"the last one"}',
    "an undo with a verdict": b'{"type":"undo","supersedes":"00000000000000000000000000000000","score":1}',
    "score 1.5": b'{"type":"score","score":1.5}',
    "a negative score": b'{"type":"score","score":-0.1}',
    "a score of NaN": b'{"type":"score","score":NaN}',
    "an infinite score": b'{"type":"score","score":Infinity}',
    "an infinite metric": b'{"type":"metric","name":"m","value":1e999}',
    "a score in quotes": b'{"type":"score","score":"0.5"}',
    "rating 0": b'{"type":"rating","rating":0}',
    "rating 6": b'{"type":"rating","rating":6}',
    "rating 3.5": b'{"type":"rating","rating":3.5}',
    "rating true": b'{"type":"rating","rating":true}',
    "a rating without stars": b'{"type":"rating"}',
    "a correction without text": b'{"type":"correction"}',
    "a blank correction": b'{"type":"correction","correction":" \\n "}',
    "a comment of no character": b'{"type":"comment","comment":""}',
    "a preference for the same text": b'{"type":"preference","chosen":"a","rejected":"a"}',
    "an unknown type": b'{"type":"applause"}',
    "no type": b'{"rating":3}',
    "a field of another type": b'{"type":"score","score":1,"rating":5}',
    "a misspelt field": b'{"type":"score","score":1,"idempotency":"x"}',
    "a null character": b'{"type":"comment","comment":"a\\u0000b"}',
    "an escape character": b'{"type":"comment","comment":"\\u001b[31mred"}',
    "half a surrogate pair": b'{"type":"comment","comment":"\\ud800"}',
    "broken UTF-8": b'{"type":"comment","comment":"\xff\xfe"}',
    "a text beyond the limit": b'{"type":"comment","comment":"' + b"x" * 32_769 + b'"}',
    "seventeen tags": b'{"type":"thumbs_up","tags":{' + b",".join(b'"t%d":"v"' % i for i in range(17)) + b"}}",
    "a tag with a line break in its name": b'{"type":"thumbs_up","tags":{"a\\nb":"v"}}',
    "a key with a blank": b'{"type":"thumbs_up","idempotencyKey":"a b"}',
    "a time without zone": b'{"type":"thumbs_up","timestamp":"2026-01-01T00:00:00"}',
    "a time that is before the year 1 in UTC": b'{"type":"thumbs_up","timestamp":"0001-01-01T01:00:00+10:00"}',
    "an empty batch": b'{"events":[]}',
    "a batch of 1001": b'{"events":[' + b",".join([b'{"type":"thumbs_up"}'] * 1001) + b"]}",
    "a list": b"[]",
    "half a body": b'{"type":"score","sco',
}


@pytest.mark.parametrize("body", BAD.values(), ids=BAD)
def test_feedback_is_refused_for(body: bytes) -> None:
    with pytest.raises(ValidationError):
        FEEDBACK.validate_json(body)


@pytest.mark.parametrize(
    ("body", "want"),
    [
        pytest.param({"policy": "p", "input": "q"}, "neither response nor label", id="no answer"),
        pytest.param(
            {"policy": "p", "input": "q", "label": "a", "dropped": 1}, "one of dropped and recorder", id="who lost them"
        ),
        pytest.param({"policy": "p", "input": "q", "failed": False}, "failed", id="failed is true or absent"),
        pytest.param({"policy": "p", "input": "q", "label": "a", "experiment": "1"}, "experiment", id="a trial's id"),
        pytest.param({"input": "q", "label": "refund"}, "neither policy nor interactionId", id="no policy"),
        pytest.param(
            {"policy": "p", "input": "q", "label": "x", "actionPropensity": 0}, "greater than 0", id="propensity 0"
        ),
        pytest.param(
            {"policy": "p", "input": "q", "label": "x", "probabilities": {"x": 1.1}},
            "less than or equal",
            id="probability 1.1",
        ),
        pytest.param(
            {"policy": "../x", "input": "q", "label": "x"}, "match pattern", id="a policy's name that is a path"
        ),
    ],
)
def test_an_interaction_is_refused_for(body: dict[str, Any], want: str) -> None:
    with pytest.raises(ValidationError, match=want):
        INTERACTION.validate_python(body)


@pytest.mark.parametrize(
    ("event", "want"),
    [
        ({"type": "thumbs_up"}, 1.0),
        ({"type": "thumbs_down"}, 0.0),
        ({"type": "thumbs_up", "rating": 2}, 0.25),
        ({"type": "rating", "rating": 1}, 0.0),
        ({"type": "rating", "rating": 3}, 0.5),
        ({"type": "rating", "rating": 5}, 1.0),
        ({"type": "score", "score": 0.7}, 0.7),
        ({"type": "correction"}, None),
        ({"type": "correction", "rating": 4}, 0.75),
        ({"type": "comment"}, None),
        ({"type": "preference"}, None),
        ({"type": "metric", "value": 3}, None),
    ],
    ids=str,
)
def test_what_an_event_says_about_the_answer(event: dict[str, Any], want: float | None) -> None:
    """Stars s give (s - 1) / 4; an unrated correction or comment is neither good nor bad."""
    assert score_of(event) == want


def test_the_short_form_of_a_policy_is_a_score_event() -> None:
    body = PolicyFeedback(prompt="q", response="r", score=0.5, run_id="7", notes="n")
    want = Score(type="score", policy="p", prompt="q", response="r", score=0.5, run_id="7", notes="n")
    assert body.as_event("p") == want


def test_a_whole_number_may_be_written_with_a_point() -> None:
    """JSON has one kind of number, and 4.0 is 4."""
    assert FEEDBACK.validate_json(b'{"type":"rating","rating":4.0}').rating == 4
