"""The generators' server with a model that is none, so that every turn of it can be held and looked at."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import httpx2
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor

from ratchet_api.signing import KeyRing
from ratchet_jobs.data.turns import Turn
from ratchet_jobs.runtime.errors import BadDataError
from ratchet_serving.app import GeneratorParts, create_app
from ratchet_serving.settings import Settings

NOW = datetime(2026, 11, 22, tzinfo=UTC)
RING = KeyRing({"2026-11": b"k" * 32})
WORDS = ("<end>", "<unk>", *(f"w{number}" for number in range(2, 40)))
END, CONTEXT = 0, 64
CHAT = "/v1/chat/completions"


class Words:
    """A template whose prompt is the words of all turns, one token each."""

    def __init__(self) -> None:
        self.tokenizer = self
        self.backend_tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, "<unk>"))
        self.backend_tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        self.eos_id = END

    def plain(self, text: str) -> list[int]:
        return list(self.backend_tokenizer.encode(text).ids)

    def prompt(self, turns: Sequence[Turn]) -> list[int]:
        if turns[0].role == "system":
            raise BadDataError("the base model's chat template refuses the turns system")
        return self.plain(" ".join(turn.content for turn in turns))


class Counting:
    """Counts on: behind word n comes n + 1, behind the last the end; each row is kept and checked.

    A prompt that begins with `w39` fails its pass, one with `w38` has no number. With `flat`, every word is as likely.
    """

    context = CONTEXT

    def __init__(self, *, flat: bool = False) -> None:
        self.flat = flat
        self.rows: list[list[int]] = [[] for _ in range(32)]
        self.steps: list[int] = []
        """How many rows each step had."""
        self.turns = threading.Semaphore(0)
        """How many more steps are let through, once `held`."""
        self.held = False
        self.entered = threading.Semaphore(0)
        self.problem: Exception | None = None
        self.limit = 10**9

    def reset(self) -> None:
        self.rows = [[] for _ in range(32)]

    def check(self) -> None:
        if self.problem is not None:
            raise self.problem

    def fits(self, *, count: int, length: int) -> bool:
        return count * length <= self.limit

    def reserve(self, *, count: int, length: int) -> None:
        assert self.fits(count=count, length=length)

    def move(self, source: int, target: int, *, length: int) -> None:
        assert len(self.rows[source]) == length
        self.rows[target] = list(self.rows[source])

    def fill(self, row: int, ids: Sequence[int], *, start: int) -> Tensor:
        self.rows[row] = [*self.rows[row][:start], *ids]
        assert len(self.rows[row]) == start + len(ids)
        if self.rows[row][0] == 39:
            raise RuntimeError("out of memory")
        return self._next(row)

    def step(self, tokens: Sequence[int], lengths: Sequence[int]) -> Tensor:
        self.entered.release()
        if self.held:
            assert self.turns.acquire(timeout=60)
        self.steps.append(len(tokens))
        for row, (token, length) in enumerate(zip(tokens, lengths, strict=True)):
            self.rows[row] = [*self.rows[row][:length], token]
            assert len(self.rows[row]) == length + 1
        return torch.stack([self._next(row) for row in range(len(tokens))])

    def _next(self, row: int) -> Tensor:
        if self.rows[row][0] == 38 and len(self.rows[row]) > 2:
            return torch.full((len(WORDS),), float("nan"))
        logits = torch.zeros(len(WORDS))
        if self.flat:
            logits[END] = float("-inf")
        else:
            logits[(self.rows[row][-1] + 1) % len(WORDS)] = 20.0
        return logits


class Gateway:
    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []

    def record_all(self, interactions: Sequence[dict[str, Any]]) -> None:
        self.records += interactions


def application(model: Counting, **more: Any) -> Any:
    parts = {name: more.pop(name) for name in ("ring", "gateway", "digest", "wording") if name in more}
    settings = Settings(**{"policy": "helper", "version": 2, **more})
    return create_app(settings, GeneratorParts(**{"model": model, "wording": Words(), "now": lambda: NOW, **parts}))


@asynccontextmanager
async def server(model: Counting | None = None, **more: Any) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of a server that has started, and is ended behind it."""
    app = application(model or Counting(), **more)
    async with app.router.lifespan_context(app):
        transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
            yield client


def said(words: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": words}], "temperature": 0} | more


def events(text: str) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


async def until(client: httpx2.AsyncClient, line: str) -> None:
    async with asyncio.timeout(60):
        while line not in (await client.get("/metrics")).text:
            await asyncio.sleep(0.001)


async def step_until(client: httpx2.AsyncClient, model: Counting, line: str) -> None:
    """Let the held model go on step by step until the metrics say that."""
    async with asyncio.timeout(60):
        while line not in (await client.get("/metrics")).text:
            model.turns.release()
            await asyncio.sleep(0.001)
