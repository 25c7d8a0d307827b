"""The generators' server with a model that is none: shapes, events, joining and leaving, refusals, records, the end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
from typing import Any

import httpx2
import pytest
import uvicorn

from ratchet_api.environment import SettingsError
from ratchet_jobs.runtime.errors import BadModelError
from ratchet_serving.generation.limits import StreamSettings
from ratchet_serving.generation.routes import unless_left
from ratchet_serving.settings import Settings
from tests.generator_server import (
    CHAT,
    CONTEXT,
    NOW,
    RING,
    WORDS,
    Counting,
    Gateway,
    application,
    events,
    said,
    server,
    step_until,
    until,
)

# shapes


async def test_a_conversation_is_answered_in_openais_shape() -> None:
    async with server(digest="ab" * 32) as client:
        answer = await client.post(CHAT, json=said("w5 w35", model="helper"))
    body = answer.json()
    assert body.pop("id").startswith("chatcmpl-")
    assert body == {
        "object": "chat.completion",
        "created": int(NOW.timestamp()),
        "model": "helper@2",
        "system_fingerprint": "fp_abababababab",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "w36 w37 w38 w39"}, "finish_reason": "stop"}
        ],
        # the fifth token is the end
        "usage": {"prompt_tokens": 2, "completion_tokens": 5, "total_tokens": 7},
    }
    assert (answer.headers["x-ratchet-policy"], answer.headers["x-ratchet-version"]) == ("helper", "2")


async def test_a_streamed_answer_is_the_same_answer_in_pieces() -> None:
    async with server() as client:
        answer = await client.post(CHAT, json=said("w35", stream=True, stream_options={"include_usage": True}))
    assert answer.headers["content-type"].startswith("text/event-stream")
    told = events(answer.text)
    assert {event["object"] for event in told} == {"chat.completion.chunk"}
    assert len({event["id"] for event in told}) == 1
    assert [choice["delta"] for event in told for choice in event["choices"]] == [
        {"role": "assistant", "content": ""},
        *({"content": text} for text in ("w36", " w37", " w38", " w39")),
        {},
    ]
    assert [choice["finish_reason"] for event in told for choice in event["choices"]] == [None] * 5 + ["stop"]
    assert [event["usage"] for event in told] == [None] * 6 + [
        {"prompt_tokens": 1, "completion_tokens": 5, "total_tokens": 6}
    ]


async def test_a_text_is_gone_on_with_as_it_is() -> None:
    async with server() as client:
        body = {"prompt": "w36", "temperature": 0}
        whole = (await client.post("/v1/completions", json=body)).json()
        parts = events((await client.post("/v1/completions", json=body | {"stream": True})).text)
    assert (whole["object"], whole["id"][:5]) == ("text_completion", "cmpl-")
    assert whole["choices"] == [{"index": 0, "text": "w37 w38 w39", "finish_reason": "stop"}]
    assert "".join(part["choices"][0]["text"] for part in parts) == "w37 w38 w39"


@pytest.mark.parametrize(
    ("more", "want", "finish", "tokens"),
    [
        pytest.param({"max_tokens": 2}, "w11 w12", "length", 2, id="as many tokens as were asked for"),
        pytest.param({"max_completion_tokens": 1}, "w11", "length", 1, id="by the newer name"),
        pytest.param({"stop": "w13"}, "w11 w12", "stop", 3, id="a stop is no part of the answer"),
        pytest.param({"stop": ["none", "2 w1"]}, "w11 w1", "stop", 3, id="a stop across words"),
        pytest.param({"stop": "w13 w15", "max_tokens": 4}, "w11 w12 w13 w14", "length", 4, id="only half a stop"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_ends_where_it_was_asked_to(
    more: dict[str, Any], want: str, finish: str, tokens: int, stream: bool
) -> None:
    async with server() as client:
        answer = await client.post(CHAT, json=said("w10", stream=stream, **more))
        if stream:
            deltas = [event["choices"][0] for event in events(answer.text)]
            got = ("".join(delta["delta"].get("content", "") for delta in deltas), deltas[-1]["finish_reason"])
        else:
            choice = answer.json()["choices"][0]
            got = (choice["message"]["content"], choice["finish_reason"])
            assert answer.json()["usage"]["completion_tokens"] == tokens
    assert got == (want, finish)


async def test_an_answer_is_cut_where_the_context_or_the_servers_own_limit_ends() -> None:
    async with server(Counting(), streams=StreamSettings(max_new_tokens=7)) as client:
        long = (await client.post(CHAT, json=said("w2 " * 60, max_tokens=50))).json()
        assert (long["usage"]["completion_tokens"], long["choices"][0]["finish_reason"]) == (CONTEXT - 60, "length")
        assert (await client.post(CHAT, json=said("w2"))).json()["usage"]["completion_tokens"] == 7


async def test_what_is_served_is_listed() -> None:
    async with server() as client:
        card = {"id": "helper@2", "object": "model", "created": int(NOW.timestamp()), "owned_by": "ratchet"}
        card["max_model_len"] = CONTEXT
        assert (await client.get("/v1/models")).json() == {"object": "list", "data": [card]}
        assert (await client.get("/v1/models/helper@2")).json() == card
        assert (await client.get("/v1/models/other")).status_code == 404
        routes = (await client.get("/openapi.json")).json()["paths"]
        assert sorted(routes) == ["/v1/chat/completions", "/v1/completions", "/v1/models", "/v1/models/{name}"]
        assert (await client.get("/docs")).status_code == 200


# refusals

BAD = [
    ("no JSON", b"{", None, "body: is no JSON in UTF-8"),
    ("no messages", {}, "messages", "Field required"),
    ("an empty list", {"messages": []}, "messages", "at least 1 item"),
    ("another role", {"messages": [{"role": "tool", "content": "a"}]}, "messages.0.role", "Input should be 'system'"),
    ("no content", {"messages": [{"role": "user"}]}, "messages.0.content", "Field required"),
    ("blank content", said(" "), "messages.0.content", "is blank"),
    ("an image", said([{"type": "image_url", "image_url": {"url": "x"}}]), "messages.0.content", "parts that are no"),
    ("ending with an answer", {"messages": [{"role": "assistant", "content": "w3"}]}, "messages", "assistant's own"),
    ("refused turns", {"messages": [{"role": "system", "content": "w3"}]}, "messages", "template refuses"),
    ("a tool", said("w3", tools=[]), "tools", "Extra inputs are not permitted"),
    ("two answers", said("w3", n=2), "n", "Input should be 1 (seen: 2)"),
    ("a penalty", said("w3", presence_penalty=0.5), "presence_penalty", "less than or equal to 0 (seen: 0.5)"),
    ("too hot", said("w3", temperature=2.5), "temperature", "less than or equal to 2 (seen: 2.5)"),
    ("no mass", said("w3", top_p=0), "top_p", "greater than 0 (seen: 0)"),
    ("no tokens", said("w3", max_tokens=0), "max_tokens", "greater than or equal to 1 (seen: 0)"),
    ("two limits", said("w3", max_tokens=1, max_completion_tokens=2), "max_completion_tokens", "is 2, but max"),
    ("five stops", said("w3", stop=["a"] * 5), "stop", "at most 4 items"),
    ("an empty stop", said("w3", stop=""), "stop.0", "at least 1 character"),
    ("a seed that is text", said("w3", seed="1"), "seed", "valid integer"),
    ("options of no stream", said("w3", stream_options={}), "stream_options", "is given without stream"),
    ("a long subject", said("w3", user="u" * 257), "user", "at most 256 characters"),
    ("the whole context", said("w2 " * CONTEXT), "messages", "has 64 tokens and the policy's context 64, so no answer"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "param", "want"), [pytest.param(*case[1:], id=case[0]) for case in BAD])
async def test_a_bad_request_is_refused_in_openais_shape_with_field_and_reason(
    body: Any, param: str | None, want: str
) -> None:
    async with server() as client:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        answer = await client.post(CHAT, content=raw)
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert want in error["message"]


async def test_refusals_that_clients_look_for_have_their_code() -> None:
    async with server(max_body_bytes=2048) as client:
        other = await client.post(CHAT, json=said("w3", model="gpt"))
        assert (other.status_code, other.json()["error"]["code"]) == (404, "model_not_found")
        assert "'gpt' is not served here; ask for 'helper@2'" in other.json()["error"]["message"]
        long = await client.post("/v1/completions", json={"prompt": "w2 " * 70})
        assert (long.status_code, long.json()["error"]["code"]) == (400, "context_length_exceeded")
        assert long.json()["error"]["message"].startswith("prompt: has 70 tokens and the policy's context 64")
        for path, method, code in (("/v1/none", "POST", 404), (CHAT, "GET", 405)):
            answer = await client.request(method, path)
            assert (answer.status_code, answer.json()["error"]["type"]) == (code, "invalid_request_error")
        big = await client.post(CHAT, content=b" " * 3000)
        assert (big.status_code, "larger than 2048" in big.json()["error"]["message"]) == (413, True)


async def test_a_full_queue_refuses_with_retry_after_and_takes_again_when_it_is_not() -> None:
    model = Counting()
    async with server(model, streams=StreamSettings(max_streams=1, max_queue=1)) as client:
        model.held = True
        asks = [asyncio.create_task(client.post(CHAT, json=said("w30")))]
        await until(client, "ratchet_serving_streams 1.0")
        asks += [asyncio.create_task(client.post(CHAT, json=said("w30")))]
        await until(client, "queued_requests 1.0")
        refused = await client.post(CHAT, json=said("w30"))
        model.turns.release(100)
        assert [(await ask).status_code for ask in asks] == [200, 200]
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
        assert refused.json()["error"]["type"] == "server_error"
        assert "1 requests wait already, at most 1 may" in refused.json()["error"]["message"]
        assert (await client.post(CHAT, json=said("w30"))).status_code == 200


async def test_a_failing_turn_fails_those_in_it_and_a_row_without_numbers_alone() -> None:
    async with server() as client:
        failed = await client.post(CHAT, json=said("w39 w3"))
        assert (failed.status_code, "(RuntimeError, see the server's log)" in failed.text) == (500, True)
        nan = asyncio.create_task(client.post(CHAT, json=said("w38 w3")))
        fine = asyncio.create_task(client.post(CHAT, json=said("w30")))
        assert ((await nan).status_code, "not all finite" in (await nan).text) == (500, True)
        assert (await fine).json()["choices"][0]["finish_reason"] == "stop"
        streamed = await client.post(CHAT, json=said("w38 w3", stream=True))
        assert streamed.status_code == 200
        last = json.loads(streamed.text.split("\n\n")[-2].removeprefix("data: "))
        assert (last["error"]["type"], "[DONE]" in streamed.text) == ("server_error", False)
        assert 'generations_total{finish="failed"} 3.0' in (await client.get("/metrics")).text


async def test_a_server_is_ready_when_its_model_proved_itself_and_says_why_it_is_not() -> None:
    model = Counting()
    model.problem = BadModelError("other numbers")
    async with server(model) as client:
        while "BadModelError: other numbers" not in (answer := await client.get("/readyz")).text:
            await asyncio.sleep(0.001)
        assert answer.status_code == 503
    async with server() as client:
        while (await client.get("/readyz")).status_code != 200:
            await asyncio.sleep(0.001)


# growing together


async def test_answers_join_and_leave_between_two_turns_and_each_is_as_it_would_be_alone() -> None:
    rng = random.Random(5)
    asked = [" ".join(rng.choice(WORDS[2:36]) for _ in range(rng.randint(1, 30))) for _ in range(40)]
    limits = [rng.randint(1, 20) for _ in asked]
    model = Counting()
    async with server(model, streams=StreamSettings(max_streams=5, max_queue=100, prompt_tokens=20)) as client:
        bodies = [said(words, max_tokens=limit) for words, limit in zip(asked, limits, strict=True)]
        model.held = True
        asks = [asyncio.create_task(client.post(CHAT, json=body)) for body in bodies]
        await until(client, "queued_requests 39.0")
        model.turns.release(10_000)
        answers = await asyncio.gather(*asks)
        page = (await client.get("/metrics")).text
    for words, limit, answer in zip(asked, limits, answers, strict=True):
        first = WORDS.index(words.split()[-1]) + 1
        assert answer.json()["choices"][0]["message"]["content"] == " ".join(WORDS[first:][:limit])
    assert set(model.steps) == {1, 2, 3, 4, 5}
    told = sum(answer.json()["usage"]["completion_tokens"] for answer in answers)
    assert f"generated_tokens_total {told}.0" in page
    assert f"prompt_tokens_total {sum(len(words.split()) for words in asked)}.0" in page
    assert "first_token_seconds_count 40.0" in page
    assert "ratchet_serving_streams 0.0" in page


async def test_the_oldest_that_waits_is_not_overtaken_by_one_that_would_fit() -> None:
    model = Counting()
    model.limit = 64
    order = []
    async with server(model) as client:
        model.held = True

        async def ask(words: str, limit: int) -> None:
            await client.post(CHAT, json=said(words, max_tokens=limit))
            order.append(limit)

        tasks = [asyncio.create_task(ask("w2", 20))]
        await until(client, "ratchet_serving_streams 1.0")
        for limit in (40, 3):  # the second needs 2 x 41 > 64, the third would fit at once
            tasks.append(asyncio.create_task(ask("w2", limit)))
            await until(client, f"queued_requests {len(tasks) - 1}.0")
        model.turns.release(1000)
        await asyncio.gather(*tasks)
    assert order == [20, 3, 40] or order == [20, 40, 3]
    assert model.steps[:19] == [1] * 19, "nobody stood beside the first"


async def test_a_drawn_answer_follows_from_its_seed_alone() -> None:
    async with server(Counting(flat=True), streams=StreamSettings(max_streams=4)) as client:

        async def ask(seed: int | None, **more: Any) -> str:
            body = said("w5", temperature=1.0, max_tokens=12, **more) | ({} if seed is None else {"seed": seed})
            return str((await client.post(CHAT, json=body)).json()["choices"][0]["message"]["content"])

        alone = [await ask(seed) for seed in range(4)]
        beside = await asyncio.gather(*(ask(seed) for seed in (2, 0, 3, 1)), ask(None), ask(9, top_p=0.5))
        assert beside[:4] == [alone[seed] for seed in (2, 0, 3, 1)]
        assert len({*alone, await ask(-1), await ask(1)}) == 5, "-1 draws otherwise than 1"
        assert await ask(None) != await ask(None)


# leaving


class Reader:
    """A client of an application that may leave in the middle of an answer."""

    def __init__(self, app: Any, body: dict[str, Any]) -> None:
        self._body, self._leaves, self._sent = json.dumps(body).encode(), asyncio.Event(), False
        self.read: list[bytes] = []
        self.task = asyncio.create_task(app(self._scope(), self._receive, self._send))

    @staticmethod
    def _scope() -> dict[str, Any]:
        about = {"type": "http", "method": "POST", "path": CHAT, "raw_path": CHAT.encode(), "query_string": b""}
        return about | {"headers": [], "http_version": "1.1", "scheme": "http", "server": ("t", 80), "client": ("t", 1)}

    async def _receive(self) -> dict[str, Any]:
        if not self._sent:
            self._sent = True
            return {"type": "http.request", "body": self._body, "more_body": False}
        await self._leaves.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        self.read.append(message.get("body", b""))

    async def leave(self) -> None:
        self._leaves.set()
        await asyncio.wait_for(self.task, 60)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_makes_room_and_harms_nobody(stream: bool) -> None:
    model, gateway = Counting(), Gateway()
    app = application(model, streams=StreamSettings(max_streams=2), ring=RING, gateway=gateway)
    async with app.router.lifespan_context(app):
        transport = httpx2.ASGITransport(app=app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
            model.held = True
            gone = Reader(app, said("w2 w2 w2", stream=stream))
            stays = asyncio.create_task(client.post(CHAT, json=said("w20")))
            await step_until(client, model, "ratchet_serving_streams 2.0")
            waits = Reader(app, said("w7", stream=stream))
            await until(client, "queued_requests 1.0")
            await waits.leave()
            await gone.leave()
            model.turns.release(1000)
            assert (await stays).json()["choices"][0]["message"]["content"] == " ".join(WORDS[21:])
            await until(client, 'generations_total{finish="cancelled"} 2.0')
            assert "ratchet_serving_streams 0.0" in (await client.get("/metrics")).text
    assert sum(model.steps) < 37 + 19, "nothing more was made for who had left"
    # who read a part was answered a part; who read nothing was not
    want = ["stop", "cancelled"] if stream else ["stop"]
    assert sorted(record["tags"]["finish"] for record in gateway.records) == sorted(want)


async def test_a_connection_that_breaks_is_noticed_over_a_socket() -> None:
    model = Counting()
    app = application(model)

    class Quiet(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Any:
            yield

    with socket.create_server(("127.0.0.1", 0)) as door:
        running = Quiet(uvicorn.Config(app, http="httptools", log_config=None, access_log=False))
        serving = asyncio.create_task(running.serve(sockets=[door]))
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{door.getsockname()[1]}") as client:
            while not running.started:
                await asyncio.sleep(0.001)
            model.held = True
            async with client.stream("POST", CHAT, json=said("w3", stream=True)) as answer:
                assert answer.status_code == 200
                async for line in answer.aiter_lines():
                    if "w4" in line:
                        break
            await until(client, f'requests_total{{code="200",route="{CHAT}"}} 1.0')  # it is over for the server
            model.turns.release(1)
            await until(client, 'generations_total{finish="cancelled"} 1.0')
        running.should_exit = True
        await asyncio.wait_for(serving, 60)


async def test_what_was_accepted_is_answered_at_the_end_and_nothing_more_is_taken() -> None:
    model = Counting()
    app = application(model)
    lifespan = app.router.lifespan_context(app)
    await lifespan.__aenter__()
    transport = httpx2.ASGITransport(app=app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
        model.held = True
        asks = [asyncio.create_task(client.post(CHAT, json=said(f"w{n}"))) for n in (3, 4)]
        await step_until(client, model, "ratchet_serving_streams 2.0")
        ending = asyncio.create_task(lifespan.__aexit__(None, None, None))
        refused = 200
        while refused == 200:
            await asyncio.sleep(0)
            late = Reader(app, said("w5 w3"))  # may be let in before the end is known, and must then harm nobody
            await asyncio.sleep(0.001)
            await late.leave()
            refused = 503 if b"the server is ending" in b"".join(late.read) else 200
        model.turns.release(1000)
        assert [(await ask).json()["choices"][0]["finish_reason"] for ask in asks] == ["stop", "stop"]
        await ending


async def test_unless_left_gives_the_result_or_cancels_the_work() -> None:
    never: asyncio.Event = asyncio.Event()
    cancelled = []

    async def work(result: int) -> int:
        try:
            if result < 0:
                await never.wait()
            return result
        except asyncio.CancelledError:
            cancelled.append(result)
            raise

    async def stays() -> Any:
        await never.wait()

    async def leaves() -> Any:
        await asyncio.sleep(0)
        return {"type": "http.disconnect"}

    assert await unless_left(stays, work(3)) == 3
    assert await unless_left(leaves, work(-1)) is None
    assert cancelled == [-1]


def test_settings_of_generators_are_read_and_bounded() -> None:
    environment = {"RATCHET_SERVING_POLICY": "helper"}
    more = {"STREAMS": "3", "QUEUE_REQUESTS": "5", "PROMPT_TOKENS": "7", "CACHE_TOKENS": "900", "NEW_TOKENS": "11"}
    read = Settings.from_env(environment | {f"RATCHET_SERVING_{name}": text for name, text in more.items()})
    assert read.streams == StreamSettings(3, 5, 7, 900, 11)
    assert Settings.from_env(environment).streams == StreamSettings()
    with pytest.raises(SettingsError, match="RATCHET_SERVING_STREAMS='0' is out of bounds"):
        Settings.from_env(environment | {"RATCHET_SERVING_STREAMS": "0"})
