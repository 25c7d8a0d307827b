"""What routers and the analyst answer the operator, however they answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from ratchet_operator.cluster import rollouts
from ratchet_operator.cluster.rollouts import ask_analyst, ask_router

SAYS: dict[str, tuple[int, str]] = {}


async def _answer(request: web.Request) -> web.Response:
    status, body = SAYS.get(request.path, (404, ""))
    return web.Response(status=status, text=body)


@pytest.fixture
async def port(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    SAYS.clear()
    app = web.Application()
    app.router.add_get("/{path:.*}", _answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server: Any = site._server
    found: int = server.sockets[0].getsockname()[1]
    monkeypatch.setattr(rollouts, "ROUTER_PORT", found)
    yield found
    await runner.cleanup()


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as made:
        yield made


async def test_a_router_says_its_table_and_whom_it_reaches(port: int, session: aiohttp.ClientSession) -> None:
    SAYS.update({"/ratchet/table": (200, "abc\n"), "/ratchet/ready/1": (200, "ok"), "/ratchet/ready/2": (503, "")})
    assert await ask_router(session, "127.0.0.1", (1, 2, 3)) == ("abc", frozenset({1}))


@pytest.mark.parametrize("answer", [(503, "abc"), (200, "x" * 5000), (404, "")], ids=["503", "too long", "404"])
async def test_a_router_that_does_not_answer_properly_is_silent(
    port: int, session: aiohttp.ClientSession, answer: tuple[int, str]
) -> None:
    SAYS.update({"/ratchet/table": answer, "/ratchet/ready/1": (200, "ok")})
    assert await ask_router(session, "127.0.0.1", (1,)) == ("", frozenset())


EXPERIMENT = "0" * 16
PATH = f"/v1/policies/support/experiments/{EXPERIMENT}"


async def test_the_analysts_answer_is_handed_on(port: int, session: aiohttp.ClientSession) -> None:
    SAYS[PATH] = (200, '{"experiment": "x"}')
    assert await ask_analyst(session, f"http://127.0.0.1:{port}", "ns", "support", EXPERIMENT) == {"experiment": "x"}


@pytest.mark.parametrize(
    ("answer", "want"),
    [
        ((503, "{}"), "answers 503"),
        ((200, "not json"), "gives no JSON"),
        ((200, "[]"), "gives no object"),
        ((200, "x" * 300_000), "gives no JSON"),
    ],
    ids=["503", "no JSON", "a list", "too long"],
)
async def test_an_answer_of_the_analyst_that_cannot_be_used_is_a_text(
    port: int, session: aiohttp.ClientSession, answer: tuple[int, str], want: str
) -> None:
    """P35."""
    SAYS[PATH] = answer
    assert want in str(await ask_analyst(session, f"http://127.0.0.1:{port}", "ns", "support", EXPERIMENT))


async def test_an_analyst_that_is_away_or_unknown_is_a_text(session: aiohttp.ClientSession) -> None:
    """P35."""
    assert "RATCHET_OPERATOR_ANALYST_URL is empty" in str(await ask_analyst(session, "", "ns", "p", EXPERIMENT))
    assert "does not answer" in str(await ask_analyst(session, "http://127.0.0.1:9", "ns", "p", EXPERIMENT))
