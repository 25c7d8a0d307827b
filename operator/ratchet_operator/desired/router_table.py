"""The router's table: who gets which version, as the two files that Envoy watches.

Decides routes and clusters from a `RouterTable`, and the version by which every replica says which table it applied.
Never decides a weight; `plan` does. Pure and deterministic: equal tables give equal bytes.

A request is dealt an arm by the hash of its salted subject alone, so that replicas agree without knowing each other.
Raw subjects go into the hash and to the server, nowhere else: the router writes no access log.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ratchet_api.assign import SUBJECT_PATTERN, WHOLE, Slot, Split
from ratchet_api.base import canonical_json, digest_of

SUBJECT_HEADER = "x-ratchet-subject"
ARM_HEADER = "x-ratchet-arm"
PROPENSITY_HEADER = "x-ratchet-propensity"
EXPERIMENT_HEADER = "x-ratchet-experiment"
EXPLORE_HEADER = "x-ratchet-explore"
SHADOW_HEADER = "x-ratchet-shadow"
"""VERSION/EXPERIMENT: this version is asked, too, and what both answer is recorded to be compared."""
OURS = (ARM_HEADER, PROPENSITY_HEADER, EXPERIMENT_HEADER, EXPLORE_HEADER, SHADOW_HEADER)
"""Headers that only the router may say; what a client sends under these names reaches no server."""

TABLE_PATH = "/ratchet/table"
"""Answers with the version of the applied table; an operator asks every replica."""
ISSUING = "issue"
"""Name of the filter that gives a subject to those who name none."""
READY_PATH = "/ratchet/ready/"
"""Followed by a version: whether this replica reaches it."""

ROUTES_FILE, CLUSTERS_FILE = "routes.json", "clusters.json"
ROUTES_NAME = "policy"
_TYPES = "type.googleapis.com/envoy.config."
_DNS = {
    "@type": "type.googleapis.com/envoy.extensions.clusters.dns.v3.DnsCluster",
    "dns_refresh_rate": "2s",
    "dns_lookup_family": "ALL",
}
_NAMED = {"name": SUBJECT_HEADER, "string_match": {"safe_regex": {"regex": SUBJECT_PATTERN}}}
_TIMEOUT = "120s"
_MOST_AT_ONCE = 100_000


class BadTable(ValueError):
    """A table that would route to nowhere; a defect of the caller. The text names the version."""


@dataclass(frozen=True, slots=True)
class Backend:
    """The servers of one version.

    Attributes:
        version: of the policy.
        host: DNS name with one address for every ready pod (a headless Service).
        port: of the server.
    """

    version: int
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Shadow:
    """A version that is asked, too, and whose answers nobody gets.

    Attributes:
        version: of the policy.
        share: of the requests, in hundredths of a percent.
        experiment: id of the trial for which it is asked.
    """

    version: int
    share: int
    experiment: str


@dataclass(frozen=True, slots=True)
class RouterTable:
    """Everything that the router is told.

    Attributes:
        policy: its name.
        champion: version of everybody whom the split does not deal.
        backends: servers of every version that may be asked.
        split: who gets what; None = all get the champion.
        shadow: None = nobody is asked besides.
        override_header: header in which a tester names a version; None = testers get what everybody gets.
        explore: share of the answers that are drawn instead of being the likeliest, in hundredths of a percent.
    """

    policy: str
    champion: int
    backends: tuple[Backend, ...]
    split: Split | None = None
    shadow: Shadow | None = None
    override_header: str | None = None
    explore: int = 0

    def __post_init__(self) -> None:
        """Refuse a table that names a version without servers, or a share that is none.

        Raises:
            BadTable: naming it.
        """
        there = [backend.version for backend in self.backends]
        if len(set(there)) < len(there):
            raise BadTable(f"table of {self.policy!r}: backends are {there}; name each version once")
        slots = () if self.split is None else self.split.slots
        shadows = () if self.shadow is None else (self.shadow.version,)
        for version in (self.champion, *(slot.version for slot in slots), *shadows):
            if version not in there:
                raise BadTable(f"table of {self.policy!r}: version {version} has no servers among {there}; add them")
        if self.shadow is not None and self.shadow.version in (self.champion, *(slot.version for slot in slots)):
            raise BadTable(
                f"table of {self.policy!r}: version {self.shadow.version} answers people, too; shadow another"
            )
        for name, share in (("shadow.share", self.shadow.share if self.shadow else 0), ("explore", self.explore)):
            if not 0 <= share <= WHOLE:
                raise BadTable(f"table of {self.policy!r}: {name} is {share}; give 0 to {WHOLE}")
        if self.override_header in (SUBJECT_HEADER, *OURS):
            raise BadTable(f"table of {self.policy!r}: {self.override_header!r} has a meaning already; take another")


def table_version(table: RouterTable) -> str:
    """Return the digest by which a replica says that it applied this table."""
    return digest_of({"routes": _routes(table), "clusters": _clusters(table)})[:16]


def router_files(table: RouterTable) -> dict[str, str]:
    """Return the text of each file by its name: routes and clusters, both with the table's version."""
    version = table_version(table)
    answer = {"match": {"path": TABLE_PATH}, "direct_response": {"status": 200, "body": {"inline_string": version}}}
    host = {"name": table.policy, "domains": ["*"], "routes": [answer, *_routes(table)]}
    routes = {"@type": f"{_TYPES}route.v3.RouteConfiguration", "name": ROUTES_NAME, "virtual_hosts": [host]}
    return {ROUTES_FILE: _file(version, [routes]), CLUSTERS_FILE: _file(version, _clusters(table))}


def cluster_name(version: int) -> str:
    """Name of a version's servers in the table."""
    return f"v{version}"


def said_of(slot: Slot, experiment: str) -> dict[str, str]:
    """Return the headers by which a server learns of the arm of a request, and of its trial if it is compared."""
    said = {ARM_HEADER: slot.arm, PROPENSITY_HEADER: f"{slot.propensity:g}"}
    return said if slot.arm == "champion" else said | {EXPERIMENT_HEADER: experiment}


def _file(version: str, resources: Sequence[dict[str, Any]]) -> str:
    return canonical_json({"version_info": version, "resources": list(resources)}).decode() + "\n"


def _routes(table: RouterTable) -> list[dict[str, Any]]:
    """The routes, of which the first that matches speaks. Only the API is reachable; the server's own pages are not."""
    routes = [_ready(backend.version) for backend in table.backends]
    if table.override_header is not None:
        routes += [_to_version(table, backend.version, table.override_header) for backend in table.backends]
    # a request that the shadow is asked, too, is another route, so that servers record a pair of no other request
    asides = (None,) if table.shadow is None or not table.shadow.share else (table.shadow, None)
    if table.split is not None:
        routes += [_dealt(table, table.split, shadow) for shadow in asides]
    else:
        routes += [_to_champion(table, shadow, _NAMED) for shadow in asides]
    return [*routes, *(_to_champion(table, shadow) for shadow in asides)]


def _ready(version: int) -> dict[str, Any]:
    action = {"cluster": cluster_name(version), "prefix_rewrite": "/readyz", "timeout": "2s"}
    return {"match": {"path": f"{READY_PATH}{version}"}, "route": action}


def _to_version(table: RouterTable, version: int, header: str) -> dict[str, Any]:
    """What a tester asks for; no arm is said, so that the answer enters no comparison."""
    match = {"name": header, "string_match": {"exact": str(version)}}
    return {
        "match": {"prefix": "/v1/", "headers": [match]},
        "stat_prefix": "tester",
        "route": {"cluster": cluster_name(version), **_common()},
        **_says(None, explore=0),
        "response_headers_to_add": [_header("cache-control", "no-store")],
    }


def _dealt(table: RouterTable, split: Split, shadow: Shadow | None) -> dict[str, Any]:
    """Everybody with a subject, by the hash of the salted subject; without use_hash_policy Envoy would throw dice."""
    salted = {"pattern": {"regex": "^(.*)$"}, "substitution": f"{split.salt}:\\1"}
    clusters = [
        {
            "name": cluster_name(slot.version),
            "weight": slot.share,
            **_says(slot, experiment=slot.experiment or split.experiment, explore=table.explore, shadow=shadow),
        }
        for slot in split.slots
    ]
    action = {
        "weighted_clusters": {"clusters": clusters, "use_hash_policy": True},
        "hash_policy": [{"header": {"header_name": SUBJECT_HEADER, "regex_rewrite": salted}}],
        **_common(),
        **_mirror(shadow),
    }
    return {**_matching(shadow, _NAMED), "stat_prefix": "dealt", "route": action}


def _to_champion(table: RouterTable, shadow: Shadow | None, of_whom: dict[str, Any] | None = None) -> dict[str, Any]:
    """Everybody else: outside the comparison, and counted under `unenrolled`."""
    return {
        **_matching(shadow, of_whom),
        "stat_prefix": "unenrolled",
        "route": {"cluster": cluster_name(table.champion), **_common(), **_mirror(shadow)},
        **_says(None, explore=table.explore, shadow=shadow),
    }


def _matching(shadow: Shadow | None, of_whom: dict[str, Any] | None) -> dict[str, Any]:
    """Which requests a route is for. Who names a subject needs none of ours, and no script that looks for it."""
    match = {"prefix": "/v1/", **_some(shadow)}
    if of_whom is None:
        return {"match": match}
    off = {"@type": f"{_TYPES}route.v3.FilterConfig", "disabled": True}
    return {"match": match | {"headers": [of_whom]}, "typed_per_filter_config": {ISSUING: off}}


def _common() -> dict[str, Any]:
    """A request is sent again only when it cannot have reached a server."""
    return {"timeout": _TIMEOUT, "retry_policy": {"retry_on": "connect-failure,refused-stream", "num_retries": 2}}


def _some(shadow: Shadow | None) -> dict[str, Any]:
    """Which of the requests, by a number that Envoy draws for each."""
    if shadow is None:
        return {}
    return {"runtime_fraction": {"default_value": {"numerator": shadow.share, "denominator": "TEN_THOUSAND"}}}


def _mirror(shadow: Shadow | None) -> dict[str, Any]:
    return {} if shadow is None else {"request_mirror_policies": [{"cluster": cluster_name(shadow.version)}]}


def _says(slot: Slot | None, *, experiment: str = "", explore: int, shadow: Shadow | None = None) -> dict[str, Any]:
    """What the server is told of the request, and that what the client claims of it goes away.

    The experiment is said of those who are compared, so that the log tells one trial from the next without a clock. The
    shadow is said to both servers, since the shadow's gets a copy with the same headers.
    """
    said: dict[str, str] = {} if slot is None else said_of(slot, experiment)
    if explore:
        said[EXPLORE_HEADER] = f"{explore / WHOLE:g}"
    if shadow is not None:
        said[SHADOW_HEADER] = f"{shadow.version}/{shadow.experiment}"
    added = [_header(name, value) for name, value in said.items()]
    dropped = [name for name in OURS if name not in said]
    return {
        **({"request_headers_to_add": added} if added else {}),
        **({"request_headers_to_remove": dropped} if dropped else {}),
    }


def _header(name: str, value: str) -> dict[str, Any]:
    return {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}


def _clusters(table: RouterTable) -> list[dict[str, Any]]:
    return [_cluster(backend) for backend in sorted(table.backends, key=lambda backend: backend.version)]


def _cluster(backend: Backend) -> dict[str, Any]:
    name = cluster_name(backend.version)
    address = {"socket_address": {"address": backend.host, "port_value": backend.port}}
    most = dict.fromkeys(("max_connections", "max_pending_requests", "max_requests"), _MOST_AT_ONCE)
    return {
        "@type": f"{_TYPES}cluster.v3.Cluster",
        "name": name,
        "cluster_type": {"name": "envoy.clusters.dns", "typed_config": dict(_DNS)},
        "connect_timeout": "1s",
        "lb_policy": "LEAST_REQUEST",
        "circuit_breakers": {"thresholds": [most]},
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
    }
