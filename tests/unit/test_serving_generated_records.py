"""What the gateway is told of a generator's answers."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta

import pytest

from ratchet_api.feedback import InteractionBatch
from ratchet_api.signing import verify_interaction
from ratchet_serving.generation.limits import StreamSettings
from tests.generator_server import (
    CHAT,
    NOW,
    RING,
    Counting,
    Gateway,
    said,
    server,
    until,
)


async def test_every_answer_is_signed_and_recorded_with_its_propensity_as_the_gateway_takes_it() -> None:
    gateway = Gateway()
    headers = {"x-ratchet-arm": "canary", "x-ratchet-propensity": "0.05", "x-ratchet-subject": "ann"}
    began = time.perf_counter()
    async with server(Counting(flat=True), ring=RING, gateway=gateway, behind_router=True) as client:
        body = {"messages": [{"role": "user", "content": "w3"}, {"role": "assistant", "content": "w4"}]}
        body["messages"].append({"role": "user", "content": [{"type": "text", "text": "w5"}]})  # type: ignore[dict-item]
        whole = await client.post(CHAT, json=body | {"max_tokens": 2, "seed": 7, "user": "bob"}, headers=headers)
        streamed = await client.post(CHAT, json=body | {"max_tokens": 2, "seed": 7, "stream": True}, headers=headers)
        greedy = await client.post(CHAT, json=said("w3", max_tokens=1), headers=headers)
    batch = InteractionBatch.model_validate({"events": gateway.records})
    took = [event.milliseconds or 0 for event in batch.events]
    assert min(took) > 0
    assert sum(took) < 1000 * (time.perf_counter() - began)
    assert [event.interaction_id for event in batch.events] == [
        answer.headers["x-ratchet-interaction"] for answer in (whole, streamed, greedy)
    ]
    assert whole.json()["interaction_id"] == whole.headers["x-ratchet-interaction"]
    assert batch.events[0].input == "user: w3\nassistant: w4\nuser: w5"
    assert batch.events[0].response == batch.events[1].response == whole.json()["choices"][0]["message"]["content"]
    assert {event.subject for event in batch.events} == {"ann"}, "the router's subject, not the body's"
    # two of 39 words, each as likely: the end has no probability
    assert batch.events[0].action_propensity == pytest.approx(1 / 39**2)
    assert batch.events[2].action_propensity == 1.0
    assert batch.events[0].tags == {"finish": "length", "tokens": "2", "temperature": "1", "seed": "7"}
    exposure = verify_interaction(streamed.headers["x-ratchet-interaction"], RING, now=NOW + timedelta(days=29))
    assert (exposure.policy, exposure.version, exposure.arm, exposure.propensity) == ("helper", 2, "canary", 0.05)


async def test_who_got_no_answer_in_a_trial_is_recorded_too() -> None:
    """P34: leaving them out would make a version that fails look good. Outside a trial nobody compares."""
    gateway, model = Gateway(), Counting()
    headers = {"x-ratchet-arm": "canary", "x-ratchet-subject": "ann", "x-ratchet-experiment": "0" * 16}
    one = StreamSettings(max_streams=1, max_queue=1)
    async with server(model, ring=RING, gateway=gateway, behind_router=True, streams=one) as client:
        for trial in ({}, headers):
            assert (await client.post(CHAT, json=said("w38 w3"), headers=trial)).status_code == 500
        await client.post(CHAT, json=said("w38 w3", stream=True), headers=headers)
        model.held = True
        asks = [asyncio.create_task(client.post(CHAT, json=said("w37"), headers=headers))]
        await until(client, "ratchet_serving_streams 1.0")
        asks += [asyncio.create_task(client.post(CHAT, json=said("w38")))]
        await until(client, "queued_requests 1.0")
        assert (await client.post(CHAT, json=said("w36"), headers=headers)).status_code == 503
        model.turns.release(100)
        await asyncio.gather(*asks)
    batch = InteractionBatch.model_validate({"events": gateway.records})
    seen = [(event.input, event.failed, event.experiment) for event in batch.events]
    trial = "0" * 16
    assert seen == [
        ("w38 w3", True, trial),
        ("w38 w3", True, trial),
        ("w36", True, trial),
        ("w37", None, trial),
        ("w38", None, None),
    ]


async def test_an_empty_answer_is_recorded_too() -> None:
    gateway = Gateway()
    async with server(ring=RING, gateway=gateway) as client:
        answer = await client.post(CHAT, json=said("w3 w39"))  # behind the last word comes the end
    assert answer.json()["choices"][0]["message"]["content"] == ""
    batch = InteractionBatch.model_validate({"events": gateway.records})
    assert (batch.events[0].response, batch.events[0].tags["finish"]) == (" ", "stop")
