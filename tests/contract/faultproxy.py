"""An HTTP proxy in front of an API server that answers, delays, cuts or silences what a test tells it to.

Runs in the test's own loop on loopback. Requests that no fault claims go upstream unchanged, watches included,
byte by byte as they come. Each fault counts how often it struck, so a test can prove that it did.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

import aiohttp
from aiohttp import web

Match = Callable[[web.Request], bool]


def any_request(_: web.Request) -> bool:
    return True


def watches(request: web.Request) -> bool:
    return request.query.get("watch") == "true"


def lists_of(plural: str) -> Match:
    return lambda request: request.method == "GET" and request.path.endswith(f"/{plural}") and not watches(request)


def watches_of(plural: str) -> Match:
    return lambda request: request.path.endswith(f"/{plural}") and watches(request)


def writes(request: web.Request) -> bool:
    return request.method not in {"GET", "HEAD"}


@dataclass
class Fault:
    """What happens instead of, or to, a matching request.

    Attributes:
        match: which requests.
        status: answer with this code and a Status object that carries `message`.
        headers: of that answer.
        hang: never answer.
        reset: cut the connection before an answer.
        reset_after: send the request upstream, then cut the connection instead of answering.
        stream_event: first thing that a watch says instead of what upstream says.
        times: how often it strikes; None = until removed.
    """

    match: Match = any_request
    status: int = 0
    message: str = "injected"
    headers: dict[str, str] = field(default_factory=dict)
    hang: bool = False
    reset: bool = False
    reset_after: bool = False
    stream_event: dict[str, Any] | None = None
    times: int | None = None
    struck: int = 0

    def claims(self, request: web.Request) -> bool:
        return (self.times is None or self.struck < self.times) and self.match(request)


class FaultProxy:
    """The proxy; use it as an async context manager."""

    def __init__(self, upstream: str, tls: ssl.SSLContext | None) -> None:
        self._upstream = upstream
        self._tls = tls
        self.faults: list[Fault] = []
        self.log: list[tuple[str, str]] = []
        self.silent = asyncio.Event()
        """Set: open and new watches stay connected but carry nothing more, as behind a dead load balancer."""
        self.url = ""
        self._session: aiohttp.ClientSession | None = None
        self._runner: web.AppRunner | None = None
        self._streams: dict[int, web.Request] = {}

    async def __aenter__(self) -> Self:
        timeout = aiohttp.ClientTimeout(total=None)
        connector = aiohttp.TCPConnector(ssl=self._tls or True, limit=0)
        self._session = aiohttp.ClientSession(timeout=timeout, connector=connector, auto_decompress=False)
        app = web.Application(client_max_size=64 * 2**20)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cut_streams()
        if self._runner is not None:
            await self._runner.cleanup()
        if self._session is not None:
            await self._session.close()

    def add(self, fault: Fault) -> Fault:
        """Let a fault strike from now on."""
        self.faults.append(fault)
        return fault

    def clear(self) -> None:
        """Let everything through again."""
        self.faults.clear()
        self.silent.clear()

    def cut_streams(self) -> None:
        """Cut every watch that arrived, be it open or still waiting for upstream's first byte."""
        for request in list(self._streams.values()):
            if request.transport is not None:
                request.transport.abort()

    def count(self, method: str, part: str) -> int:
        """How many requests of a method had this in their path."""
        return sum(seen == method and part in path for seen, path in self.log)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.log.append((request.method, request.path_qs))
        fault = next((fault for fault in self.faults if fault.claims(request)), None)
        if fault is None:
            # From its arrival, not from upstream's first byte: a watch that is still being opened is cut as well,
            # or it would live on unhurt beside a fault that was added a moment ago.
            if watches(request):
                self._streams[id(request)] = request
            try:
                return await self._forward(request)
            finally:
                self._streams.pop(id(request), None)
        fault.struck += 1
        if fault.hang:
            await asyncio.Event().wait()
        if fault.reset_after:
            await self._exchange(request)
        if fault.reset or fault.reset_after:
            assert request.transport is not None
            request.transport.abort()
            raise asyncio.CancelledError
        if fault.stream_event is not None:
            return await self._say(request, fault.stream_event)
        body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": fault.message}
        return web.json_response(body | {"code": fault.status}, status=fault.status, headers=fault.headers)

    async def _say(self, request: web.Request, event: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        await response.write(json.dumps(event).encode() + b"\n")
        await response.write_eof()
        return response

    async def _exchange(self, request: web.Request) -> tuple[int, dict[str, str], bytes]:
        async with self._upstream_request(request) as upstream:
            return upstream.status, dict(upstream.headers), await upstream.read()

    def _upstream_request(self, request: web.Request) -> Any:
        assert self._session is not None
        headers = {
            key: value for key, value in request.headers.items() if key.lower() not in {"host", "content-length"}
        }
        return self._session.request(
            request.method,
            f"{self._upstream}{request.path_qs}",
            headers=headers,
            data=request.content if request.can_read_body else None,
        )

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        async with self._upstream_request(request) as upstream:
            headers = {
                key: value
                for key, value in upstream.headers.items()
                if key.lower() not in {"content-length", "transfer-encoding", "connection"}
            }
            response = web.StreamResponse(status=upstream.status, headers=headers)
            await response.prepare(request)
            streaming = watches(request)
            async for chunk in upstream.content.iter_any():
                if streaming and self.silent.is_set():
                    await asyncio.Event().wait()
                await response.write(chunk)
            with contextlib.suppress(ConnectionError):
                await response.write_eof()
            return response
