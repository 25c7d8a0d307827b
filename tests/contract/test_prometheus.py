"""What a real Prometheus answers to a query, and what is made of it: one finite number, or the reason for none."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from bench.contenders import free_port
from ratchet_operator.cluster.prometheus import PrometheusAccess
from tests.lab import binaries


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a server that scrapes nothing; expressions of constants are answered as any other."""
    binaries.packages()
    folder, port = tmp_path_factory.mktemp("prometheus"), free_port()
    config = folder / "prometheus.yml"
    config.write_text("{}\n")
    command = [
        "prometheus",
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (folder / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as server:
        try:
            asyncio.run(until_ready(f"http://127.0.0.1:{port}", folder / "log"))
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()


async def until_ready(url: str, log: Path) -> None:
    async with aiohttp.ClientSession() as session:
        for _ in range(600):
            try:
                async with session.get(f"{url}/-/ready") as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.1)
    raise AssertionError(log.read_text())


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as made:
        yield made


@pytest.mark.parametrize(
    ("query", "want"),
    [
        pytest.param("vector(0.25)", 0.25, id="a series"),
        pytest.param("3 - 5", -2.0, id="a scalar"),
        pytest.param("vector(0) / vector(0)", "the query gives nan, as a share of nothing does", id="NaN"),
        pytest.param("vector(1) / vector(0)", "the query gives inf", id="infinite"),
        pytest.param('absent_requests{version="2"}', "the query gives no series", id="no series"),
        pytest.param('vector(1) or label_replace(vector(2), "a", "b", "", "")', "gives 2 series", id="two series"),
        pytest.param("vector(1)[5m:1m]", "the query gives a matrix; ask for one number", id="a range"),
        pytest.param('"text"', "the query gives a string; ask for one number", id="a text"),
        pytest.param("sum(", "answers 400: invalid parameter", id="no PromQL"),
    ],
)
async def test_only_one_finite_number_is_an_answer(
    prometheus: str, session: aiohttp.ClientSession, query: str, want: float | str
) -> None:
    """P35."""
    told = await PrometheusAccess(prometheus, 30).ask(session, "team", query)
    if isinstance(want, float):
        assert told == want
    else:
        assert want in str(told)


async def test_a_server_that_is_away_or_slow_is_told_so(session: aiohttp.ClientSession) -> None:
    assert "knows no Prometheus" in str(await PrometheusAccess().ask(session, "team", "1"))
    url = f"http://127.0.0.1:{free_port()}"
    assert f"Prometheus at {url} does not answer (Client" in str(await PrometheusAccess(url).ask(session, "team", "1"))

    async def never(request: web.Request) -> web.Response:
        await asyncio.sleep(1)
        return web.Response()

    async with listening(never) as slow:
        told = await PrometheusAccess(slow, 0.1).ask(session, "team", "1")
    assert "does not answer (TimeoutError)" in str(told)


@pytest.mark.parametrize(
    ("body", "want"),
    [
        pytest.param(b"<html>", "gives no answer that can be read", id="a page"),
        pytest.param(b"[1]", "answers 200: no reason", id="a list"),
        pytest.param(b"x" * 100_000, "larger than 65536 bytes", id="too much"),
        pytest.param({"data": {"resultType": "vector", "result": [{}]}}, "gives no value", id="no value"),
        pytest.param(
            {"warnings": ["a store is away"], "data": {"resultType": "scalar", "result": [0, "1"]}},
            "may lack something: ['a store is away']",
            id="a part of the stores",
        ),
    ],
)
async def test_an_answer_that_is_none_is_told_so(session: aiohttp.ClientSession, body: Any, want: str) -> None:
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(f"{request.path} {(await request.post())['query']}")
        sent = body if isinstance(body, bytes) else json.dumps({"status": "success"} | body).encode()
        return web.Response(body=sent)

    async with listening(answer) as url:
        assert want in str(await PrometheusAccess(f"{url}/of/{{namespace}}").ask(session, "team", "a + b"))
    assert asked == ["/of/team/api/v1/query a + b"]


class listening:
    """A server on the loopback that answers every request so."""

    def __init__(self, answer: Any) -> None:
        self._app = web.Application()
        self._app.router.add_route("*", "/{path:.*}", answer)

    async def __aenter__(self) -> str:
        self._runner = web.AppRunner(self._app, shutdown_timeout=0)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()
