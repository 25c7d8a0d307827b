"""What vLLM's OpenAI server says on the wire, on loopback: it counts on from word to word, and fails as it is told to.

It restates `/v1/models` and streamed `/v1/completions` as far as the policy server reads them: events with several
tokens, tokens by their ids, the token that stops among them, a last event without choices.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tests.generator_server import CONTEXT, WORDS

LIKELY = -0.5
"""Logarithm of the probability of each drawn token."""


class Peer:
    """An engine.

    Attributes:
        asked: bodies of the requests that it was sent.
        acts: first token of a prompt -> how that request fails.
        left: requests whose client did not wait for their end.
        ties: whether the first token of each answer is one of two that are exactly as likely.
    """

    def __init__(
        self, *, name: str = "policy", longest: int | None = CONTEXT, processed: bool = True, ties: bool = False
    ) -> None:
        self.name, self.longest, self.processed, self.ties = name, longest, processed, ties
        self.asked: list[dict[str, Any]] = []
        self.acts: dict[int, str] = {}
        self.left = 0
        self.going = asyncio.Event()
        """Whether tokens are given; cleared, requests are held."""
        self.going.set()
        self.url = ""
        self._open: set[asyncio.StreamWriter] = set()

    @asynccontextmanager
    async def up(self, port: int = 0) -> AsyncIterator[Peer]:
        """Listen."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()
            for writer in list(self._open):
                writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                if head.startswith("get"):
                    row = {"id": self.name, "object": "model", "max_model_len": self.longest}
                    self._whole(writer, 200, {"object": "list", "data": [row]})
                    continue
                size = int(head.partition("content-length: ")[2].partition("\r\n")[0])
                ask = json.loads(await reader.readexactly(size))
                self.asked.append(ask)
                if not await self._complete(ask, reader, writer):
                    break
        self._open.discard(writer)
        writer.transport.abort()

    async def _complete(self, ask: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; false = the connection is of no more use."""
        act = self.acts.get(ask["prompt"][0], "")
        if act == "refuses":
            self._whole(writer, 500, {"error": {"message": "EngineCore encountered an issue", "code": 500}})
            return True
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        if act == "is silent":
            await reader.read(1)
            return False
        await self.going.wait()
        for place, tokens in enumerate(self._tokens(ask, act)):
            if place and act == "dies":
                return False
            _chunk(writer, "data: " + json.dumps(self._event(ask, tokens, act)))
            try:
                await writer.drain()
            except ConnectionError:
                self.left += 1
                return False
            if act == "endless":
                await asyncio.sleep(0.002)
            if reader.at_eof():
                self.left += 1
                return False
        if act == "breaks off":
            _chunk(writer, 'data: {"error": {"message": "w39 is too long", "code": 500}}')
        _chunk(writer, 'data: {"id": "cmpl-1", "choices": [], "usage": {"prompt_tokens": 1}}')
        _chunk(writer, "data: [DONE]")
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True

    def _tokens(self, ask: dict[str, Any], act: str) -> Any:
        """Tokens of each event: one, then two at a time, up to a stop or the last that was asked for."""
        if act == "endless":
            while True:
                yield [5]
        made: list[int] = []
        last, stops = ask["prompt"][-1], ask["stop_token_ids"]
        while len(made) < ask["max_tokens"] and (not made or made[-1] not in stops):
            last = (last + 1) % len(WORDS)
            made.append(last)
        if act in ("ends early", "breaks off"):
            made = made[:1]
        yield made[:1]
        for place in range(1, len(made), 2):
            yield made[place : place + 2]

    def _event(self, ask: dict[str, Any], tokens: list[int], act: str) -> dict[str, Any]:
        sure = ask["temperature"] == 0 or ask["top_p"] < 0.01
        numbers: list[float | None] = [0.0 if sure and self.processed else LIKELY for _ in tokens]
        if self.ties and tokens[0] == ask["prompt"][-1] + 1:
            numbers[0] = math.log(0.5)
        names = [f"token_id:{token}" for token in tokens]
        match act:
            case "says a foreign token":
                names = ["token_id:4000" for _ in tokens]
            case "says words":
                names = [f" w{token}" for token in tokens]
            case "says no probability":
                numbers = [None for _ in tokens]
            case "says more than certain":
                numbers = [0.7 for _ in tokens]
            case "says too few probabilities":
                numbers = numbers[1:]
            case "says nonsense":
                return {"choices": "none"}
        logprobs = {"tokens": names, "token_logprobs": numbers, "top_logprobs": [None], "text_offset": [0]}
        return {"id": "cmpl-1", "choices": [{"index": 0, "text": "?", "logprobs": logprobs, "finish_reason": None}]}

    def _whole(self, writer: asyncio.StreamWriter, status: int, said: dict[str, Any]) -> None:
        body = json.dumps(said).encode()
        head = f"HTTP/1.1 {status} x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)


def _chunk(writer: asyncio.StreamWriter, line: str) -> None:
    text = f"{line}\n\n".encode()
    writer.write(f"{len(text):x}\r\n".encode() + text + b"\r\n")
