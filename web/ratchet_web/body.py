"""The outermost layer of the application: how large a request may be, how long it took, how it was answered.

Decides that a body beyond the limit is refused without being kept (413), and counts every request by the route it
matched. Plain ASGI, because a body must be stopped while it arrives. The framework's own limit does the same, but
answers in plain text, which is no answer of the API. Put on by each server's `app`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ratchet_web.counting import RequestCounts

_SWALLOWED_BYTES = 16 << 20
_SWALLOWED_SECONDS = 5.0
"""Of a body that is refused: read and dropped, so that its sender gets to read why."""


class Guard:
    """Limits bodies and counts requests.

    Args:
        app: what is inside.
        max_bytes: of a body.
        metrics: where requests are counted.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int, metrics: RequestCounts) -> None:
        self._app, self._max_bytes, self._metrics = app, max_bytes, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection's request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, code, seen = time.perf_counter(), 500, 0

        async def counted_receive() -> Message:
            nonlocal seen
            if seen == 0 and _declared(scope) > self._max_bytes:
                if not _asks_first(scope):
                    await _swallow(receive)
                raise self._too_large()
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._max_bytes:
                if message.get("more_body", False):
                    await _swallow(receive)
                raise self._too_large()
            return message

        async def noted_send(message: Message) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = message["status"]
            await send(message)

        try:
            await self._app(scope, counted_receive, noted_send)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            self._metrics.requests.labels(route, str(code)).inc()
            self._metrics.seconds.labels(route).observe(time.perf_counter() - began)

    def _too_large(self) -> HTTPException:
        self._metrics.refused.labels("size").inc()
        return HTTPException(
            413, f"body: is larger than {self._max_bytes} bytes; send smaller batches", {"Connection": "close"}
        )


async def _swallow(receive: Receive) -> None:
    """Read on for a while: the peer of a connection that is closed with bytes unread may lose the answer to a reset."""
    left = _SWALLOWED_BYTES
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_SWALLOWED_SECONDS):
            while left > 0:
                message = await receive()
                left -= len(message.get("body", b""))
                if not message.get("more_body", False):
                    return


def _asks_first(scope: Scope) -> bool:
    """Whether the sender waits for leave to send the body (RFC 9110, section 10.1.1): then none is on its way."""
    return any(name == b"expect" and value.lower() == b"100-continue" for name, value in scope["headers"])


def _declared(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value) if value.isdigit() else 0
    return 0
