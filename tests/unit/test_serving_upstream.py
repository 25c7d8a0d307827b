"""A generator whose tokens vLLM makes: the same answers and records as by the builtin engine, and every fault told."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest

from ratchet_api.environment import SettingsError
from ratchet_api.feedback import InteractionBatch
from ratchet_serving.generation.limits import StreamSettings
from ratchet_serving.generation.upstream import Remote
from ratchet_serving.settings import Settings
from tests.generator_server import CHAT, CONTEXT, RING, WORDS, Counting, Gateway, events, said, server, until
from tests.vllm_peer import LIKELY, Peer

TRIAL = {"x-ratchet-arm": "canary", "x-ratchet-subject": "ann", "x-ratchet-experiment": "0" * 16}


def remote(url: str, **more: Any) -> Any:
    return Remote(url, **{"context": CONTEXT, "vocabulary": len(WORDS), "pause_seconds": 0.01, **more})


@asynccontextmanager
async def served(peer: Peer, *, quiet: float = 30.0, **more: Any) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of a server that has warmed up, before a peer."""
    async with peer.up(), server(remote(peer.url, quiet_seconds=quiet), **more) as client:
        await ready(client)
        peer.asked.clear()
        yield client


async def ready(client: httpx2.AsyncClient, status: int = 200, text: str = "") -> None:
    async with asyncio.timeout(60):
        while (seen := await client.get("/readyz")).status_code != status or text not in seen.text:
            await asyncio.sleep(0.001)


# answers


async def test_an_answer_by_vllm_is_the_answer_of_the_builtin_engine() -> None:
    found = []
    peer = Peer()
    async with served(peer) as by_vllm, server(Counting()) as builtin:
        for client in (by_vllm, builtin):
            answers = [
                await client.post(CHAT, json=said("w5 w35")),
                await client.post(CHAT, json=said("w5", max_tokens=3)),
                await client.post(CHAT, json=said("w5", stop=["w8"])),
                await client.post("/v1/completions", json={"prompt": "w30 w36", "temperature": 0, "max_tokens": 9}),
            ]
            streamed = await client.post(CHAT, json=said("w5 w35", stream=True))
            found.append([answer.json()["choices"] + [answer.json()["usage"]] for answer in answers])
            found[-1].append([event["choices"] for event in events(streamed.text)])
    assert found[0] == found[1]
    assert found[0][0][0]["message"]["content"] == "w36 w37 w38 w39"
    assert found[0][1][0]["finish_reason"] == "length"
    assert found[0][2][0]["message"]["content"] == "w6 w7"


async def test_the_engine_is_told_tokens_and_our_own_end_and_never_a_text_or_a_subject() -> None:
    peer = Peer()
    async with served(peer, behind_router=True) as client:
        body = said("w5 w35", temperature=0.7, top_p=0.9, seed=-3, max_tokens=6, stop=["w9"], user="bob")
        await client.post(CHAT, json=body, headers=TRIAL)
    assert peer.asked == [
        {
            "model": "policy",
            "prompt": [5, 35],
            "max_tokens": 6,
            "temperature": 0.7,
            "top_p": 0.9,
            "seed": 2**63 - 3,
            "stream": True,
            "logprobs": 1,
            "return_tokens_as_token_ids": True,
            "ignore_eos": True,
            "stop_token_ids": [0],
        }
    ]


async def test_the_record_has_the_probability_of_the_draws_and_1_where_nothing_was_drawn() -> None:
    gateway, peer = Gateway(), Peer()
    async with served(peer, ring=RING, gateway=gateway, behind_router=True) as client:
        drawn = await client.post(CHAT, json=said("w5", temperature=1, max_tokens=3, seed=7), headers=TRIAL)
        # the engine says how likely the likeliest was; that it came was certain
        peer.processed = False
        await client.post(CHAT, json=said("w5", max_tokens=3), headers=TRIAL)
    batch = InteractionBatch.model_validate({"events": gateway.records})
    assert [event.action_propensity for event in batch.events] == [pytest.approx(math.exp(3 * LIKELY)), 1.0]
    assert batch.events[0].interaction_id == drawn.headers["x-ratchet-interaction"]
    assert batch.events[0].tags == {"finish": "length", "tokens": "3", "temperature": "1", "seed": "7"}


# joining and leaving


async def test_a_reader_who_leaves_and_a_stop_that_is_met_end_the_engines_work() -> None:
    peer = Peer()
    peer.acts = {5: "endless", 6: "endless"}
    async with served(peer) as client:
        met = await client.post(CHAT, json=said("w5", stop=["w5 w5"], max_tokens=60))
        assert met.json()["choices"][0]["finish_reason"] == "stop"
        reading = asyncio.create_task(client.post(CHAT, json=said("w6", max_tokens=60)))
        async with asyncio.timeout(60):
            while len(peer.asked) < 2:
                await asyncio.sleep(0.001)
        reading.cancel()
        await until(client, 'generations_total{finish="cancelled"} 1.0')
        await until(client, "ratchet_serving_streams 0.0")
        async with asyncio.timeout(60):
            while peer.left < 2:
                await asyncio.sleep(0.001)


async def test_no_more_answers_grow_at_once_than_the_engine_was_started_for() -> None:
    peer = Peer()
    async with served(peer, streams=StreamSettings(max_streams=2, max_queue=1)) as client:
        peer.going.clear()
        asks = [asyncio.create_task(client.post(CHAT, json=said("w5", max_tokens=2))) for _ in range(2)]
        await until(client, "ratchet_serving_streams 2.0")
        asks.append(asyncio.create_task(client.post(CHAT, json=said("w7", max_tokens=2))))
        await until(client, "queued_requests 1.0")
        refused = await client.post(CHAT, json=said("w5"))
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
        assert len(peer.asked) <= 2
        peer.going.set()
        answers = await asyncio.gather(*asks)
        assert [answer.status_code for answer in answers] == [200, 200, 200]
        assert peer.asked[-1]["prompt"] == [7]
        await until(client, 'generations_total{finish="length"} 3.0')


async def test_what_was_accepted_is_answered_before_the_end() -> None:
    peer = Peer()
    async with served(peer) as client:
        peer.going.clear()
        ask = asyncio.create_task(client.post(CHAT, json=said("w5", max_tokens=2)))
        await until(client, "ratchet_serving_streams 1.0")
        asyncio.get_running_loop().call_later(0.05, peer.going.set)
    answer = await ask  # the server has ended here
    assert answer.json()["choices"][0]["message"]["content"] == "w6 w7"


# faults

FAULTS = {
    "refuses": (503, "the engine answered 500"),
    "dies": (503, "the engine is gone"),
    "is silent": (503, "the engine said nothing for 2 seconds"),
    "breaks off": (500, "the engine broke off"),
    "ends early": (500, "the engine ended after 1 of 9 tokens"),
    "says a foreign token": (500, "the engine said token 4000, but the policy has 40"),
    "says words": (500, "a token in words"),
    "says no probability": (500, "the engine said None for the logarithm"),
    "says more than certain": (500, "the engine said 0.7 for the logarithm"),
    "says too few probabilities": (500, "1 tokens with 0 probabilities"),
    "says nonsense": (500, "the engine's stream cannot be read"),
}


@pytest.mark.parametrize(("act", "want"), FAULTS.items(), ids=FAULTS.keys())
async def test_an_engine_that_fails_is_told_recorded_and_asked_again(act: str, want: tuple[int, str]) -> None:
    """P34: in a trial the failure counts against the version."""
    gateway, peer = Gateway(), Peer()
    peer.acts = {5: act}
    quiet = 2.0 if act == "is silent" else 30.0
    async with served(peer, quiet=quiet, ring=RING, gateway=gateway, behind_router=True) as client:
        failed = await client.post(CHAT, json=said("w5", max_tokens=9), headers=TRIAL)
        assert (failed.status_code, failed.headers.get("Retry-After")) == (want[0], "1" if want[0] == 503 else None)
        assert want[1] in failed.json()["error"]["message"]
        assert "w39" not in failed.text, "what the engine says may repeat a text"
        streamed = await client.post(CHAT, json=said("w5", max_tokens=9, stream=True), headers=TRIAL)
        assert want[1] in streamed.text
        assert "[DONE]" not in streamed.text
        await until(client, 'generations_total{finish="failed"} 2.0')
        well = await client.post(CHAT, json=said("w6", max_tokens=1), headers=TRIAL)
        assert well.json()["choices"][0]["message"]["content"] == "w7"
    batch = InteractionBatch.model_validate({"events": gateway.records})
    assert [event.failed for event in batch.events] == [True, True, None]


# the beginning


async def test_a_server_is_ready_when_its_engine_has_started_and_not_before() -> None:
    peer = Peer()
    async with peer.up():
        url = peer.url
    async with server(remote(url)) as client:
        assert (await client.get("/healthz")).status_code == 200
        await ready(client, 503, "not ready: the engine")
        assert (await client.post(CHAT, json=said("w5"))).status_code == 503
        async with peer.up(int(url.rpartition(":")[2])):
            await ready(client)


async def test_two_tokens_that_are_as_likely_as_each_other_are_no_reason_to_distrust_an_engine() -> None:
    async with served(Peer(ties=True)) as client:
        assert (await client.get("/readyz")).status_code == 200


NOT_THIS = {
    "other probabilities": (Peer(processed=False), "--logprobs-mode processed_logprobs"),
    "less context": (Peer(longest=CONTEXT - 1), "has 64 tokens, the engine takes 63"),
    "another model": (
        Peer(name="opt-125m"),
        "serves opt-125m, and says no max_model_len of 'policy'",
    ),
    "no context": (Peer(longest=None), "says no max_model_len of 'policy'"),
}


@pytest.mark.parametrize(("peer", "want"), NOT_THIS.values(), ids=NOT_THIS.keys())
async def test_an_engine_that_cannot_be_relied_on_is_never_ready(peer: Peer, want: str) -> None:
    """Records with probabilities that are not those of the draws would teach a later run what nobody did."""
    async with peer.up(), server(remote(peer.url)) as client:
        await ready(client, 503, want)


@pytest.mark.parametrize("url", ["http://10.0.0.1:8081", "https://127.0.0.1:8081", "127.0.0.1:8081", "http://vllm"])
def test_an_engine_elsewhere_is_refused(url: str) -> None:
    environ = {"RATCHET_SERVING_POLICY": "helper", "RATCHET_SERVING_ENGINE_URL": url}
    with pytest.raises(SettingsError, match=r"RATCHET_SERVING_ENGINE_URL='.*' is not on this machine"):
        Settings.from_env(environ)
    assert Settings.from_env(environ | {"RATCHET_SERVING_ENGINE_URL": ""}).engine_url is None
