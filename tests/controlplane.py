"""A real API server without nodes: etcd and kube-apiserver on loopback ports, for tests of clients and for benches.

Comes up in seconds and needs no root. Nothing schedules or runs here, and no controller collects garbage; whoever
needs that uses the one-node cluster of `tests.lab`. Binaries come from the same cache.
"""

from __future__ import annotations

import base64
import ctypes
import json
import secrets
import signal
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import kopf
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from bench.contenders import free_ports
from ratchet_operator.cluster.connect import Connection
from tests.lab import binaries

ADMIN = "admin"


def _end_with_parent() -> None:
    """Ask the kernel to end this process when the one that started it is gone, even by SIGKILL."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


class ControlPlane:
    """etcd and kube-apiserver in one directory; use it as a context manager.

    Args:
        directory: where data, logs, keys and kubeconfigs go.
        users: names that get a token besides `admin` (a member of system:masters).
        apiserver_flags: further flags of kube-apiserver.
    """

    def __init__(self, directory: Path, *, users: Sequence[str] = (), apiserver_flags: Sequence[str] = ()) -> None:
        self.directory = directory
        self._flags = tuple(apiserver_flags)
        self._etcd_port, self._peer_port, self._port = free_ports(3)
        self.url = f"https://127.0.0.1:{self._port}"
        self.tokens = {name: secrets.token_hex(16) for name in (ADMIN, *users)}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._write_keys()
            self.start_etcd()
            self.start_apiserver()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start_etcd(self) -> None:
        """Start etcd and wait until it is healthy."""
        client, peer = (f"http://127.0.0.1:{port}" for port in (self._etcd_port, self._peer_port))
        self._start(
            "etcd",
            binaries.ensure(binaries.ETCD) / "etcd",
            f"--data-dir={self.directory / 'etcd'}",
            "--unsafe-no-fsync",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--log-level=warn",
        )
        self._wait("etcd", f"{client}/health", context=None)

    def start_apiserver(self) -> None:
        """Start kube-apiserver and wait until it is ready."""
        key = self.directory / "service-account.key"
        self._start(
            "kube-apiserver",
            binaries.ensure(binaries.KUBERNETES) / "kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{self._etcd_port}",
            "--bind-address=127.0.0.1",
            f"--secure-port={self._port}",
            f"--cert-dir={self.directory / 'tls'}",
            f"--token-auth-file={self.directory / 'tokens.csv'}",
            "--authorization-mode=RBAC",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={key}",
            f"--service-account-signing-key-file={key}",
            # No controller makes the default service accounts that this plug-in waits for.
            "--disable-admission-plugins=ServiceAccount",
            *self._flags,
        )
        self._wait("kube-apiserver", f"{self.url}/readyz", context=ssl._create_unverified_context())
        for name in self.tokens:
            self._write_kubeconfig(name)

    def stop_process(self, name: str) -> None:
        """End one process and wait for it."""
        process = self._processes.pop(name, None)
        if process is None:
            return
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def stop(self) -> None:
        """End both processes."""
        self.stop_process("kube-apiserver")
        self.stop_process("etcd")

    def pid(self, name: str) -> int:
        """Process id of `etcd` or `kube-apiserver`."""
        return self._processes[name].pid

    def kubeconfig(self, user: str = ADMIN) -> Path:
        """Path of the user's kubeconfig."""
        return self.directory / f"{user}.kubeconfig"

    def connection(self, user: str = ADMIN, *, server: str | None = None) -> Connection:
        """Return the user's connection, through another address (a proxy's plain HTTP) if one is given."""
        tls = ssl.create_default_context(cadata=self.authority()) if server is None else None
        url, token = server or self.url, self.tokens[user]
        authority = None if server else self.authority()
        return Connection(
            server=url,
            tls=tls,
            namespace="default",
            token_file=None,
            fixed_headers={"Authorization": f"Bearer {token}"},
            info=kopf.ConnectionInfo(server=url, ca_data=authority, token=token, default_namespace="default"),
        )

    def request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        content_type: str = "application/json",
        accept: str = "application/json",
    ) -> Any:
        """Send one request as admin and return the parsed answer; an HTTP error is raised with the server's text."""
        request = urllib.request.Request(
            f"{self.url}{path}", method=method, data=None if body is None else json.dumps(body).encode()
        )
        request.add_header("Authorization", f"Bearer {self.tokens[ADMIN]}")
        request.add_header("Content-Type", content_type)
        request.add_header("Accept", accept)
        context = ssl.create_default_context(cadata=self.authority())
        try:
            with urllib.request.urlopen(request, context=context, timeout=30) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                raise RuntimeError(f"{method} {path}: {error.code} {error.read().decode()}") from None

    def apply(self, path: str, manifest: Mapping[str, Any]) -> Any:
        """Server-side apply a manifest to its own path."""
        return self.request(
            "PATCH", f"{path}?fieldManager=tests&force=true", manifest, content_type="application/apply-patch+yaml"
        )

    def install_crd(self, crd: Mapping[str, Any]) -> None:
        """Apply a CustomResourceDefinition and wait until its kind is served."""
        name = crd["metadata"]["name"]
        path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}"
        self.apply(path, crd)
        served = f"/apis/{crd['spec']['group']}/{crd['spec']['versions'][0]['name']}/{crd['spec']['names']['plural']}"
        deadline = time.monotonic() + 30
        while True:
            try:
                self.request("GET", served)
                return
            except RuntimeError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def namespace(self, name: str) -> str:
        """Create a namespace and return its name."""
        manifest = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        self.apply(f"/api/v1/namespaces/{name}", manifest)
        return name

    def _start(self, name: str, *command: str | Path) -> None:
        with (self.directory / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [str(part) for part in command],
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_end_with_parent if sys.platform == "linux" else None,
            )

    def _wait(self, name: str, url: str, *, context: ssl.SSLContext | None, seconds: float = 90.0) -> None:
        deadline = time.monotonic() + seconds
        while True:
            try:
                request = urllib.request.Request(url, headers={"Authorization": f"Bearer {self.tokens[ADMIN]}"})
                with urllib.request.urlopen(request, context=context, timeout=5) as answer:
                    if answer.status == 200:
                        return
            except OSError:
                pass
            ended = self._processes[name].poll()
            if ended is not None or time.monotonic() > deadline:
                tail = (self.directory / f"{name}.log").read_text(errors="replace")[-2000:]
                state = f"ended with {ended}" if ended is not None else f"did not answer within {seconds:.0f} s"
                raise RuntimeError(f"{name} {state}; the end of its log:\n{tail}")
            time.sleep(0.1)

    def _write_keys(self) -> None:
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        (self.directory / "service-account.key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        rows = [
            f"{token},{name},{name}{',system:masters' if name == ADMIN else ''}" for name, token in self.tokens.items()
        ]
        (self.directory / "tokens.csv").write_text("\n".join(rows) + "\n")

    def authority(self) -> str:
        """Return the PEM of the authority that signed the server's certificate."""
        # kube-apiserver signs its serving certificate with an authority that it puts into the same file.
        return (self.directory / "tls" / "apiserver.crt").read_text()

    def _write_kubeconfig(self, user: str) -> None:
        authority = base64.b64encode(self.authority().encode()).decode()
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u", "namespace": "default"}}],
            "clusters": [{"name": "c", "cluster": {"server": self.url, "certificate-authority-data": authority}}],
            "users": [{"name": "u", "user": {"token": self.tokens[user]}}],
        }
        self.kubeconfig(user).write_text(json.dumps(config))
