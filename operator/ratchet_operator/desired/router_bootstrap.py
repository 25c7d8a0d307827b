"""What a router is started with: its ports, where its table lies, and the subject it gives to those who have none.

Decides everything of the router that no rollout changes; the table is `router_table`'s. Pure.
"""

from __future__ import annotations

import json
import re
from typing import Any

from ratchet_operator.desired.router_table import CLUSTERS_FILE, ISSUING, ROUTES_FILE, ROUTES_NAME, SUBJECT_HEADER

BOOTSTRAP_FILE = "envoy.json"
ADMIN_PATH_ALLOWED = "/stats/prometheus"
COOKIE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
COOKIE_SECONDS = 365 * 24 * 3600
EDGE = {
    "use_remote_address": True,
    "normalize_path": True,
    "merge_slashes": True,
    "path_with_escaped_slashes_action": "REJECT_REQUEST",
    "request_headers_timeout": "10s",
    "stream_idle_timeout": "300s",
}
"""What a listener that strangers reach needs, whatever it routes to
(https://www.envoyproxy.io/docs/envoy/latest/configuration/best_practices/edge)."""
_FILTERS = "type.googleapis.com/envoy.extensions.filters."

_ISSUE = """\
local cookie_name = "COOKIE"
local header = "HEADER"
local uuid = "^%x%x%x%x%x%x%x%x%-%x%x%x%x%-%x%x%x%x%-%x%x%x%x%-%x%x%x%x%x%x%x%x%x%x%x%x$"

function envoy_on_request(handle)
  local headers = handle:headers()
  if headers:get(header) ~= nil or string.sub(headers:get(":path"), 1, 4) ~= "/v1/" then return end
  local cookies = "; " .. (headers:get("cookie") or "")
  local subject = string.match(cookies, "[;,]%s*" .. cookie_name .. "=([%x%-]+)")
  if subject == nil or string.match(subject, uuid) == nil then
    subject = headers:get("x-request-id") or ""
    if string.match(subject, uuid) == nil then return end
    handle:streamInfo():dynamicMetadata():set("ratchet", "issued", subject)
  end
  headers:add(header, subject)
end

function envoy_on_response(handle)
  local ours = handle:streamInfo():dynamicMetadata():get("ratchet")
  if ours == nil or ours["issued"] == nil then return end
  local value = cookie_name .. "=" .. ours["issued"]
  handle:headers():add("set-cookie", value .. "; Path=/; Max-Age=SECONDS; HttpOnly; SameSite=Lax")
end
"""
"""Before the route is chosen: who has neither header nor cookie gets a subject at once, and is dealt an arm by it; the
cookie brings it back. A hash policy on a cookie would deal the first answer by dice and the second by the cookie."""


def bootstrap(
    policy: str, *, table_dir: str, port: int = 8080, stats_port: int = 9902, cookie: str | None = None
) -> str:
    """Return the text of the file that the router is started with.

    Args:
        policy: name of the policy, the router's name in its metrics.
        table_dir: where the table's files lie; they are read again when the directory changes.
        port: of the traffic.
        stats_port: of /stats/prometheus, and of nothing else.
        cookie: name of the cookie that carries a subject of ours; None = who names no subject gets the champion.

    Raises:
        ValueError: the cookie's name could end the script that it stands in.
    """
    if cookie is not None and not COOKIE.fullmatch(cookie):
        raise ValueError(f"router of {policy!r}: cookie {cookie!r} is no name; give letters, digits and _, at most 64")
    traffic = {"rds": {"route_config_name": ROUTES_NAME, "config_source": _watched(table_dir, ROUTES_FILE)}}
    stats = {"match": {"path": ADMIN_PATH_ALLOWED}, "route": {"cluster": "admin"}}
    pages = {"route_config": {"virtual_hosts": [{"name": "stats", "domains": ["*"], "routes": [stats]}]}}
    return _text(
        {
            "node": {"id": policy, "cluster": policy},
            "admin": {"address": _at("127.0.0.1", 9901)},
            "dynamic_resources": {"cds_config": _watched(table_dir, CLUSTERS_FILE)},
            "static_resources": {
                "listeners": [
                    _listener("traffic", port, {**traffic, "http_filters": [*_issuing(cookie), _ROUTER]}),
                    _listener("stats", stats_port, {**pages, "http_filters": [_ROUTER]}),
                ],
                "clusters": [_admin()],
            },
        }
    )


_ROUTER = {
    "name": "router",
    # x-envoy-*: Envoy's own times and limits, which nobody behind or before it asks for; telling them costs a little
    "typed_config": {"@type": f"{_FILTERS}http.router.v3.Router", "suppress_envoy_headers": True},
}


def _issuing(cookie: str | None) -> list[dict[str, Any]]:
    if cookie is None:
        return []
    code = _ISSUE.replace("COOKIE", cookie).replace("HEADER", SUBJECT_HEADER).replace("SECONDS", str(COOKIE_SECONDS))
    script = {"@type": f"{_FILTERS}http.lua.v3.Lua", "default_source_code": {"inline_string": code}}
    # a script costs a tenth of all that the router does for a request: routes of those who name a subject skip it
    return [{"name": ISSUING, "typed_config": script}]


def _listener(name: str, port: int, more: dict[str, Any]) -> dict[str, Any]:
    manager = {
        "@type": f"{_FILTERS}network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        **EDGE,
        **more,
    }
    chain = {"filters": [{"name": "http", "typed_config": manager}]}
    return {"name": name, "address": _at("0.0.0.0", port), "filter_chains": [chain]}


def _admin() -> dict[str, Any]:
    endpoint = {"endpoint": {"address": _at("127.0.0.1", 9901)}}
    return {
        "name": "admin",
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": "admin", "endpoints": [{"lb_endpoints": [endpoint]}]},
    }


def _watched(directory: str, name: str) -> dict[str, Any]:
    """A mounted ConfigMap changes by a link in its directory, which a watch on the file would miss."""
    source = {"path": f"{directory}/{name}", "watched_directory": {"path": directory}}
    return {"path_config_source": source, "resource_api_version": "V3"}


def _at(host: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": port}}


def _text(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=1, sort_keys=True) + "\n"
