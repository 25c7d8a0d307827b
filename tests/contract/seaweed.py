"""A real S3 server on loopback: SeaweedFS from the lab's tools, with credentials of its own, that can be stopped."""

from __future__ import annotations

import json
import random
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING

import boto3

from tests.lab import binaries

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

BUCKET = "ratchet-tests"
ACCESS_KEY, SECRET_KEY = "seaweed-tester", "seaweed-tester-secret"
ADDER_KEY, ADDER_SECRET = "seaweed-adder", "seaweed-adder-secret"
"""Of somebody who is no administrator: SeaweedFS lets those past a bucket's policy in a bulk deletion."""
_FIRST_PORT = 20_100
_START_SECONDS = 120.0  # seconds on an idle machine; CI builds beside it


class SeaweedServer:
    """One `weed server -s3`; use it as a context manager.

    Args:
        folder: for its data.
        others: identities besides the administrator and one who may add, each a name, which is its key and with
            `-secret` its secret, and its actions.
    """

    def __init__(self, folder: Path, others: Mapping[str, Sequence[str]] = MappingProxyType({})) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._ports = dict(zip(("master", "volume", "filer", "s3"), _free_ports(4), strict=True))
        self.endpoint = f"http://127.0.0.1:{self._ports['s3']}"
        keys = [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}]
        identity = {"name": "tester", "credentials": keys, "actions": ["Admin", "Read", "Write", "List", "Tagging"]}
        adder = {
            "name": "adder",
            "credentials": [{"accessKey": ADDER_KEY, "secretKey": ADDER_SECRET}],
            "actions": [f"{action}:{BUCKET}" for action in ("Read", "Write", "List")],
        }
        named = [
            {"name": name, "credentials": [{"accessKey": name, "secretKey": f"{name}-secret"}], "actions": [*actions]}
            for name, actions in others.items()
        ]
        (folder / "s3.json").write_text(json.dumps({"identities": [identity, adder, *named]}))
        (folder / "data").mkdir()

    def start(self) -> None:
        """Start, or start again over the same data; returns when S3 answers."""
        ports = [f"-{name}.port={port}" for name, port in self._ports.items()]
        # every service's gRPC port is its port + 10000 unless said otherwise
        ports += [f"-{name}.port.grpc={port + 10_000}" for name, port in self._ports.items()]
        log = (self._folder / "weed.log").open("ab")
        self._process = subprocess.Popen(
            [
                binaries.tools() / "weed",
                "server",
                f"-dir={self._folder / 'data'}",
                "-ip=127.0.0.1",
                "-ip.bind=127.0.0.1",
                "-master.volumeSizeLimitMB=64",
                "-volume.max=0",
                "-volume.preStopSeconds=0",
                "-filer",
                "-s3",
                f"-s3.config={self._folder / 's3.json'}",
                # services of fixed ports that nobody here asks: a second server would end over them
                "-s3.port.iceberg=0",
                "-s3.port.lance=0",
                *ports,
            ],
            stdout=log,
            stderr=log,
        )
        log.close()
        self._wait()

    def stop(self) -> None:
        """Kill it, as a node that loses power does."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def client(self, key: str = ACCESS_KEY, secret: str = SECRET_KEY) -> S3Client:
        """Return a client, the administrator's unless said otherwise."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=key,
            aws_secret_access_key=secret,
        )

    def make_bucket(self) -> None:
        """Make the bucket; the volumes behind it may need a moment longer than the S3 port."""
        self.client().create_bucket(Bucket=BUCKET)

    def _wait(self) -> None:
        assert self._process is not None
        end = time.monotonic() + _START_SECONDS
        while True:
            # asked before the answer counts: while we were stopped, another server may have taken our port
            if self._process.poll() is not None or time.monotonic() > end:
                tail = (self._folder / "weed.log").read_text(errors="replace")[-2000:]
                raise RuntimeError(f"SeaweedFS did not come up (exit code {self._process.poll()}): {tail}")
            if self._answers():
                return
            time.sleep(0.1)

    def _answers(self) -> bool:
        try:
            urllib.request.urlopen(f"{self.endpoint}/healthz", timeout=2).close()
        except urllib.error.HTTPError:
            return True  # an answer is an answer
        except OSError:
            return False
        return True

    def __enter__(self) -> SeaweedServer:
        self.start()
        self.make_bucket()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _free_ports(count: int) -> list[int]:
    """Ports that are free together with the port 10,000 above them."""
    found: list[int] = []
    # at random: two servers that start at the same moment must not find the same ones free
    for port in random.sample(range(_FIRST_PORT, _FIRST_PORT + 9_000), 9_000):
        if all(_is_free(each) for each in (port, port + 10_000)):
            found.append(port)
            if len(found) == count:
                return found
    raise RuntimeError("no free ports on loopback")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
