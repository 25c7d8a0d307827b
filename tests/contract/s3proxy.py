"""A proxy before an S3 server that carries requests out and then drops the answer: the ambiguous half of a failure."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit


class DroppingProxy:
    """Forwards to a server; the first `times` answers to the given methods are thrown away with the connection."""

    def __init__(self, target: str, *, drop_answers_to: Sequence[str], times: int) -> None:
        self._target = urlsplit(target).netloc
        self._methods = set(drop_answers_to)
        self._left = times
        self._lock = threading.Lock()
        self.dropped = 0
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _forward(self) -> None:
                proxy.forward(self)

            do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _forward

            def log_message(self, format: str, *args: Any) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def forward(self, request: BaseHTTPRequestHandler) -> None:
        """Carry one request out; answer it or drop the connection."""
        length = int(request.headers.get("Content-Length") or 0)
        body = request.rfile.read(length)
        upstream = http.client.HTTPConnection(self._target, timeout=30)
        headers = {k: v for k, v in request.headers.items() if k.lower() not in {"expect", "connection"}}
        upstream.request(request.command, request.path, body, headers)
        answer = upstream.getresponse()
        data = answer.read()
        upstream.close()
        with self._lock:
            drop = request.command in self._methods and self._left > 0
            self._left -= drop
            self.dropped += drop
        if drop:
            request.close_connection = True
            request.connection.close()
            return
        request.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in {"transfer-encoding", "connection", "content-length"}:
                request.send_header(name, value)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(data)

    def __enter__(self) -> DroppingProxy:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
