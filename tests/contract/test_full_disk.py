"""A gateway whose log lies on a disk that is really full: a small file system of its own, over HTTP."""

from __future__ import annotations

import secrets
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from ratchet_gateway.log.writer import LogSettings
from ratchet_jobs.runtime.store_directory import DirectoryStore
from tests.gateway_app import key_of, listening, read_log

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

SMALL = "256k"
"""Each segment takes a page of it."""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "store"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SMALL}", "none", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_refuses_and_what_was_acknowledged_stays(tmp_path: Path, disk: Path) -> None:
    """P25: 503 and Retry-After while it is full; with room again the same events are stored, each once."""
    comments = [secrets.token_hex(2000) for _ in range(100)]  # that compress to 2,000 bytes

    def stored() -> list[str]:
        return sorted(each["comment"] for each in read_log(DirectoryStore(disk), "ns"))

    (disk / "of somebody else").write_bytes(bytes(128 << 10))
    impatient = LogSettings(window_seconds=0, pause_seconds=0.01, max_pause_seconds=0.02, patience_seconds=0.2)
    with (
        listening(tmp_path, log=impatient) as url,
        httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key_of('all')}"}) as client,
    ):

        def send(number: int) -> httpx.Response:
            event = {"type": "comment", "policy": "router", "idempotencyKey": f"k{number}", "comment": comments[number]}
            return client.post("/v1/feedback", json=event)

        taken = 0
        while (answer := send(taken)).status_code == 200:
            taken += 1
        assert (answer.status_code, int(answer.headers["Retry-After"]) >= 1) == (503, True), answer.text
        assert 0 < taken < 64
        ready = client.get("/readyz")
        assert (ready.status_code, "No space left" in ready.text) == (503, True), ready.text
        assert stored() == sorted(comments[:taken])
        (disk / "of somebody else").unlink()
        end = time.monotonic() + 60
        for number in range(taken + 5):  # as a sender does who does not know what came through
            while send(number).status_code != 200:
                assert time.monotonic() < end
        assert stored() == sorted(comments[: taken + 5])
