"""A judge on the loopback for tests: an OpenAI-compatible endpoint that says what a function of the question says."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

Answer = str | int | bytes | None
"""The text of a chat completion, a status, the bytes of a body, or None = silence until the test ends."""


class Asked(NamedTuple):
    """One request."""

    question: str
    body: dict[str, Any]
    headers: dict[str, str]


class JudgeServer(ThreadingHTTPServer):
    """Remembers what it was asked."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, says: Callable[[str], Answer]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.says = says
        self.asked: list[Asked] = []
        self.lock = threading.Lock()
        self.over = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: JudgeServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        question = body["messages"][0]["content"]
        with self.server.lock:
            self.server.asked.append(Asked(question, body, dict(self.headers)))
            said = self.server.says(question)
        if said is None:
            self.server.over.wait(30)
            return
        status = said if isinstance(said, int) else 200
        completion = {"choices": [{"message": {"role": "assistant", "content": said}}]}
        data = said if isinstance(said, bytes) else json.dumps(completion).encode()
        self.send_response(status)
        if 300 <= status < 400:
            self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def judge_server(says: Callable[[str], Answer]) -> Iterator[JudgeServer]:
    """Serve until the block ends."""
    server = JudgeServer(says)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        thread.join()
        server.server_close()
