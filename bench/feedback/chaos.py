"""A proxy before an S3 server that does what networks and stores do on a bad day, at random and by the clock.

Per PUT: answer 503 without forwarding, cut the connection before or in the middle, wait, or carry it out and then drop
the answer. GETs are cut now and then. `away` refuses everything while it is set.
"""

from __future__ import annotations

import http.client
import random
import socket
import threading
import time
from collections import Counter
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Odds:
    """Share of PUTs that meet each fault; the rest go through."""

    unavailable: float = 0.10
    reset_before: float = 0.05
    reset_in_body: float = 0.05
    answer_lost: float = 0.10
    slow: float = 0.10


class ChaosProxy:
    """Forwards to a server, or does not; use it as a context manager."""

    def __init__(self, target: str, *, odds: Odds, seed: int) -> None:
        self._target = urlsplit(target).netloc
        self._odds, self._random, self._lock = odds, random.Random(seed), threading.Lock()
        self.away = False
        self.seen: Counter[str] = Counter()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _handle(self) -> None:
                proxy.handle(self)

            do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _handle

            def log_message(self, format: str, *args: Any) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        """Carry one request out, or spoil it."""
        fault = self._draw(request.command)
        if fault == "reset_before":
            return self._cut(request)
        length = int(request.headers.get("Content-Length") or 0)
        if fault == "reset_in_body":
            request.rfile.read(length // 2)
            return self._cut(request)
        body = request.rfile.read(length)
        if fault == "unavailable":
            request.send_response(503, "SlowDown")
            request.send_header("Content-Length", "0")
            return request.end_headers()
        if fault == "slow":
            time.sleep(0.05 + self._random.random())
        self._forward(request, body, lose_answer=fault == "answer_lost")
        return None

    def _draw(self, method: str) -> str:
        with self._lock:
            draw, fault = self._random.random(), "through"
            if self.away:
                fault = "reset_before" if draw < 0.5 else "unavailable"
            elif method == "PUT":
                for name, share in vars(self._odds).items():
                    draw -= share
                    if draw < 0:
                        fault = name
                        break
            elif method == "GET" and draw < 0.02:
                fault = "reset_before"
            self.seen[fault] += 1
            return fault

    def _forward(self, request: BaseHTTPRequestHandler, body: bytes, *, lose_answer: bool) -> None:
        upstream = http.client.HTTPConnection(self._target, timeout=30)
        headers = {k: v for k, v in request.headers.items() if k.lower() not in {"expect", "connection"}}
        upstream.request(request.command, request.path, body, headers)
        answer = upstream.getresponse()
        data = answer.read()
        upstream.close()
        if lose_answer:
            return self._cut(request)
        request.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in {"transfer-encoding", "connection", "content-length"}:
                request.send_header(name, value)
        length = answer.getheader("Content-Length") if request.command == "HEAD" else str(len(data))
        request.send_header("Content-Length", length or "0")
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(data)
        return None

    @staticmethod
    def _cut(request: BaseHTTPRequestHandler) -> None:
        request.close_connection = True
        request.connection.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
