"""The gateway as a process: started from the environment, ended by SIGTERM without losing what it took."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from bench.feedback.load import Connection, requests
from bench.feedback.processes import NAMESPACE, GatewayProcess
from ratchet_api.client import GatewayClient
from ratchet_gateway.settings import Settings
from ratchet_jobs.feedback_log.reader import LogReader
from ratchet_jobs.runtime.store_directory import DirectoryStore
from tests.asked import names_asked
from tests.tools.files import ROOT

pytestmark = pytest.mark.slow
NEEDED = (
    "RATCHET_STORE_URI",
    "RATCHET_GATEWAY_NAMESPACE",
    "RATCHET_GATEWAY_SIGNING_KEYS",
    "RATCHET_GATEWAY_KEYS_FILE",
)


def test_a_clean_end_answers_what_it_took_and_stores_it(tmp_path: Path) -> None:
    """SIGTERM while 40 requests wait for a segment that would be sealed in a second."""
    store = {"RATCHET_STORE_URI": f"file://{tmp_path}/store"}
    gateway = GatewayProcess(tmp_path, store, RATCHET_GATEWAY_COMMIT_MILLISECONDS="1000")
    gateway.start()
    gateway.wait_ready()
    source = requests(1)

    async def send_and_end() -> list[int]:
        connections = [Connection(gateway.url) for _ in range(40)]
        codes: list[int] = []
        while True:
            answers = [asyncio.create_task(each.ask(next(source))) for each in connections]
            while not (all_wait := _queued(await asyncio.to_thread(_metrics, gateway.url)) >= 40 * 100):
                if any(each.done() for each in answers):
                    break
                await asyncio.sleep(0.01)
            if all_wait:
                os.kill(gateway.pid, signal.SIGTERM)
            codes += await asyncio.gather(*answers)
            if all_wait:  # else this machine was too slow to bring 40 within the second: once more
                break
        for each in connections:
            each.close()
        return codes

    codes = asyncio.run(send_and_end())
    assert codes == [200] * len(codes)
    gateway.stop()
    assert len(list(LogReader(DirectoryStore(tmp_path / "store"), NAMESPACE).events())) == len(codes)


def _metrics(url: str) -> str:
    with urllib.request.urlopen(f"{url}/metrics", timeout=60) as answer:
        return str(answer.read().decode())


def _queued(text: str) -> float:
    found = re.search(r"^ratchet_gateway_queued_bytes ([0-9.e+]+)$", text, re.MULTILINE)
    assert found is not None
    return float(found[1])


def test_without_authentication_on_loopback_no_token_is_needed(tmp_path: Path) -> None:
    gateway = GatewayProcess(tmp_path, {"RATCHET_STORE_URI": f"file://{tmp_path}/store"}, RATCHET_GATEWAY_AUTH="none")
    gateway.start()
    try:
        gateway.wait_ready()
        with GatewayClient(gateway.url) as client:
            answer = client.record({"policy": "router", "input": "q", "label": "x"})
            client.send({"type": "thumbs_up", "interactionId": answer.interaction_id})
            assert client.stats("router").interactions == 1
            assert client.versions("router") == []
    finally:
        gateway.stop()


def test_who_sends_too_much_gets_to_read_why(tmp_path: Path) -> None:
    """A connection closed with bytes unread is reset, and the answer on its way is lost with it."""
    gateway = GatewayProcess(tmp_path, {"RATCHET_STORE_URI": f"file://{tmp_path}/store"}, RATCHET_GATEWAY_AUTH="none")
    gateway.start()
    try:
        gateway.wait_ready()
        chunk = b"8000\r\n" + b"x" * 0x8000 + b"\r\n"
        for length, body in (
            (b"Content-Length: 8388608", b"x" * 8_388_608),
            (b"Transfer-Encoding: chunked", chunk * 256 + b"0\r\n\r\n"),
            (b"Content-Length: 8388608\r\nExpect: 100-continue", b""),
        ):
            answer = _said(
                gateway.url, b"POST /v1/feedback HTTP/1.1\r\nHost: localhost\r\n" + length + b"\r\n\r\n" + body
            )
            assert answer.startswith(b"HTTP/1.1 413 "), answer[:200]
            assert b"body: is larger than 1048576 bytes; send smaller batches" in answer
    finally:
        gateway.stop()


def _said(url: str, request: bytes) -> bytes:
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as peer:
        peer.sendall(request)
        answer = b""
        while piece := peer.recv(65_536):
            answer += piece
    return answer


@pytest.mark.parametrize(
    ("more", "want"),
    [
        ({}, "RATCHET_STORE_URI is not set"),
        ({"RATCHET_STORE_URI": "ftp://x"}, "expected s3://BUCKET"),
        ({"RATCHET_STORE_URI": "file:///x", "RATCHET_GATEWAY_SIGNING_KEYS": "absent"}, "mount the Secret there"),
        ({"RATCHET_STORE_URI": "file:///x", "RATCHET_GATEWAY_KEYS_FILE": "absent"}, "key file absent"),
        ({"RATCHET_STORE_URI": "file:///x", "RATCHET_GATEWAY_POLICIES": ""}, "no login to a cluster"),
    ],
    ids=["no store", "no such store", "no signing keys", "no API keys", "no cluster"],
)
def test_settings_that_cannot_be_used_end_it_with_one_line(tmp_path: Path, more: dict[str, str], want: str) -> None:
    (tmp_path / "signing").mkdir()
    (tmp_path / "signing" / "2026-11").write_text("s" * 40)
    (tmp_path / "keys.json").write_text(json.dumps({"keys": []}))
    environment = {
        "PATH": os.environ["PATH"],
        "KUBECONFIG": "absent",
        "RATCHET_GATEWAY_NAMESPACE": "ns",
        "RATCHET_GATEWAY_SIGNING_KEYS": "signing",
        "RATCHET_GATEWAY_KEYS_FILE": "keys.json",
        "RATCHET_GATEWAY_POLICIES": "router",
        **more,
    }
    command = [sys.executable, "-m", "ratchet_gateway"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (78, "")
    assert want in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_the_gateways_extra_is_enough_and_a_gateway_without_a_cluster_loads_no_client_of_it() -> None:
    missing = ["aiohttp", "kopf", "numpy", "pyarrow", "rich", "torch", "transformers", "typer", "kubernetes", "httpx2"]
    code = f"import sys; sys.modules.update(dict.fromkeys({missing!r})); import ratchet_gateway.__main__"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_the_how_to_lists_every_setting_with_its_default() -> None:
    page = (ROOT / "docs/how-to/feedback.md").read_text()
    read = names_asked(Settings.from_env, NEEDED)
    assert len(read) >= 20
    assert read == set(re.findall(r"`(RATCHET_[A-Z_]+)`", page.partition("## Settings")[2]))
    environment = {
        "RATCHET_STORE_URI": "file:///x",
        "RATCHET_GATEWAY_NAMESPACE": "n",
        "RATCHET_GATEWAY_SIGNING_KEYS": "k",
    }
    defaults = Settings.from_env(environment | {"RATCHET_GATEWAY_KEYS_FILE": "f"})
    for name, value in {
        "KEY_EVENTS_PER_MINUTE": defaults.key_events_per_minute,
        "SUBJECT_EVENTS_PER_MINUTE": defaults.subject_events_per_minute,
        "MAX_BODY_BYTES": defaults.max_body_bytes,
        "QUEUE_BYTES": defaults.log.queue_bytes,
        "SEGMENT_BYTES": defaults.log.segment_bytes,
    }.items():
        assert f"| `RATCHET_GATEWAY_{name}` | `{value}` |" in page
