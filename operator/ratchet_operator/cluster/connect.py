"""Where the API server is and who we are there: the pod's service account, or a developer's kubeconfig.

Decides nothing else. Both clients of the operator (kopf's watches and `cluster.http`) log in through here, so
they cannot disagree. A service account's token is read again from its file whenever a header is made, because the
kubelet rotates it. Called by `__main__` and `cluster.http`.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import kopf

ACCOUNT_DIR = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class LoginError(Exception):
    """There is no way to log in to an API server; the message says what was looked for."""


@dataclass(frozen=True)
class Connection:
    """An API server and our credentials there.

    Attributes:
        server: base URL without a trailing slash.
        tls: context with the server's CA and, from a kubeconfig, our client certificate; None for plain HTTP.
        namespace: the namespace we run in, or the kubeconfig's; None if unknown.
        token_file: file with the bearer token of a service account.
        fixed_headers: authorization of a kubeconfig that holds a token or a password.
        info: the same in the shape that kopf wants.
    """

    server: str
    tls: ssl.SSLContext | None
    namespace: str | None
    token_file: Path | None
    fixed_headers: Mapping[str, str]
    info: kopf.ConnectionInfo

    def headers(self) -> dict[str, str]:
        """Return the authorization header as it must be now."""
        if self.token_file is None:
            return dict(self.fixed_headers)
        return {"Authorization": f"Bearer {self.token_file.read_text(encoding='utf-8').strip()}"}


def connect(*, account_dir: Path = ACCOUNT_DIR, env: Mapping[str, str] = os.environ) -> Connection:
    """Find the API server: the pod's service account first, else the kubeconfig of KUBECONFIG or the home directory.

    Raises:
        LoginError: neither exists, or the kubeconfig needs a plug-in.
    """
    token_file = account_dir / "token"
    if token_file.exists():
        return _from_service_account(account_dir, env)
    info = kopf.login_with_kubeconfig(settings=kopf.OperatorSettings())
    if info is None:
        raise LoginError(
            f"no API server to talk to: {token_file} does not exist and neither KUBECONFIG nor ~/.kube/config is set; "
            "run inside a pod with a service account, or point KUBECONFIG to a file"
        )
    headers = info.as_http_headers()
    if not headers and not (info.certificate_path or info.certificate_data) and info.server.startswith("https:"):
        raise LoginError(
            f"the kubeconfig gives no token, password or client certificate for {info.server}; exec and auth-provider "
            "plug-ins are not supported here: use a service-account token or a client certificate"
        )
    return Connection(
        server=info.server.rstrip("/"),
        tls=info.as_ssl_context() if info.server.startswith("https:") else None,
        namespace=info.default_namespace,
        token_file=None,
        fixed_headers=headers,
        info=info,
    )


def _from_service_account(account_dir: Path, env: Mapping[str, str]) -> Connection:
    # The environment's address works while cluster DNS is down; the name is for pods with other hosts' network.
    host, port = env.get("KUBERNETES_SERVICE_HOST"), env.get("KUBERNETES_SERVICE_PORT", "443")
    if host and ":" in host:
        host = f"[{host}]"
    server = f"https://{host}:{port}" if host else "https://kubernetes.default.svc"
    namespace_file = account_dir / "namespace"
    namespace = namespace_file.read_text(encoding="utf-8").strip() if namespace_file.exists() else None
    info = kopf.ConnectionInfo(
        server=server,
        ca_path=str(account_dir / "ca.crt"),
        token=(account_dir / "token").read_text(encoding="utf-8").strip(),
        default_namespace=namespace,
    )
    return Connection(
        server=server,
        tls=info.as_ssl_context(),
        namespace=namespace,
        token_file=account_dir / "token",
        fixed_headers={},
        info=info,
    )
