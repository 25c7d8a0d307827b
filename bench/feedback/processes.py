"""Gateway processes as they are deployed: started, asked whether they are ready, killed."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from bench.contenders import free_port, wait_ready

TOKEN = "bench-key-bench-key-bench-key"
NAMESPACE = "bench"
POLICY = "router"


class GatewayProcess:
    """`ratchet-gateway` on a loopback port.

    Args:
        folder: for keys and the log file.
        store: environment that names the store and its credentials.
        cpus: as `taskset` takes them; empty = all.
        module: what is run.
        more: further settings.
    """

    def __init__(
        self,
        folder: Path,
        store: Mapping[str, str],
        *,
        cpus: str = "",
        module: str = "ratchet_gateway",
        **more: str,
    ) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._command = [*(["taskset", "-c", cpus] if cpus else []), sys.executable, "-m", module]
        self._log = folder / f"gateway-{self.port}.log"
        keys = folder / "signing"
        keys.mkdir(exist_ok=True)
        (keys / "2026-01").write_text("s" * 40)
        entry = {"name": "bench", "sha256": hashlib.sha256(TOKEN.encode()).hexdigest(), "roles": ["ingest", "read"]}
        (folder / "keys.json").write_text(json.dumps({"keys": [entry]}))
        self._environment = {
            **os.environ,
            "RATCHET_GATEWAY_NAMESPACE": NAMESPACE,
            "RATCHET_GATEWAY_SIGNING_KEYS": str(keys),
            "RATCHET_GATEWAY_KEYS_FILE": str(folder / "keys.json"),
            "RATCHET_GATEWAY_POLICIES": POLICY,
            "RATCHET_GATEWAY_PORT": str(self.port),
            "RATCHET_GATEWAY_KEY_EVENTS_PER_MINUTE": "1000000000",
            "RATCHET_GATEWAY_SUBJECT_EVENTS_PER_MINUTE": "1000000000",
            **store,
            **more,
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; returns at once."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, env=self._environment, stdout=log, stderr=log)

    def wait_ready(self, seconds: float = 120.0, *, path: str = "/readyz") -> None:
        """Wait until it is ready, or alive (`/healthz`) where the store may be away.

        Raises:
            RuntimeError: it ended, or was not ready in time; with the end of its log.
        """
        assert self._process is not None
        wait_ready(self.url, self._process, seconds=seconds, log=self._log, path=path)

    @property
    def pid(self) -> int:
        """Process id."""
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """SIGKILL: nothing is flushed."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """SIGTERM: everything that was accepted is stored; returns the exit code."""
        return self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> int:
        if self._process is None:
            return 0
        if self._process.poll() is None:
            self._process.send_signal(how)
        return self._process.wait(60)
