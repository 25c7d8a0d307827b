"""What a gateway without authentication asks of a request: that it was meant for it, and no other website sent it.

Listening on loopback keeps other machines out, not the pages that are open in this machine's browser: any of them can
send a request here, and one whose name was made to point to 127.0.0.1 can read the answer. Decides from the headers
`Host` and `Origin`, which a page cannot choose. Added by `app` where everybody is let in; programs send no `Origin`
and are let pass.
"""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from ratchet_gateway.metrics import GatewayMetrics
from ratchet_gateway.settings import is_loopback


class LoopbackOnly:
    """Refuses with 403 what another website made this machine's browser send.

    Args:
        app: what is inside.
        metrics: where refusals are counted.
    """

    def __init__(self, app: ASGIApp, *, metrics: GatewayMetrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection's request."""
        if scope["type"] == "http" and (problem := foreign(Headers(scope=scope))):
            self._metrics.refused.labels("origin").inc()
            await JSONResponse({"detail": problem}, 403)(scope, receive, send)
            return
        await self._app(scope, receive, send)


def foreign(headers: Headers) -> str:
    """Return what is wrong with where a request comes from; empty if nothing."""
    host, origin = headers.get("host", ""), headers.get("origin")
    name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
    if not is_loopback(name.strip("[]")):
        return f"Host {host[:100]!r}: this gateway asks for no token and answers to loopback names only; use 127.0.0.1"
    if origin is not None and origin != f"http://{host}":
        return f"Origin {origin[:100]!r}: this gateway asks for no token and takes nothing from other websites"
    return ""
