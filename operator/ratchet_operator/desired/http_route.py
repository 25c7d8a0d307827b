"""A policy's HTTPRoute: the table of `router_table` as Gateways of the cluster take it, and what they say of it.

Decides the route's rules and filters from a `RouterTable`. Never decides a weight; `plan` does. A Gateway throws dice
for each request: it knows neither salt nor subject, so that whoever comes twice may get both versions. What the servers
are told of an arm is set per version, which overwrites what a client claims. Pure and deterministic.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ratchet_api.assign import WHOLE, Slot, Split
from ratchet_api.names import ANNOTATION_TABLE, SERVER_PORT, route_name, server_name
from ratchet_api.serving import HttpRoute, ParentRef
from ratchet_operator.desired.child import with_hash
from ratchet_operator.desired.router_table import EXPLORE_HEADER, OURS, RouterTable, said_of, table_version
from ratchet_operator.desired.serving import Manifest, labels_of, metadata_of
from ratchet_operator.plan.world import Meta

COMPONENT = "route"
PREFIX = "/v1"
"""Only the API is reachable; the servers' own pages are not."""
_TESTED = 12
"""Versions that a tester can name, of a route's sixteen rules."""
_TAKEN = ("Accepted", "ResolvedRefs")
"""Conditions by which a Gateway says that requests go where the route says."""


def render_http_route(owner: Meta, asked: HttpRoute, table: RouterTable) -> Manifest:
    """Return the route, annotated with the version of its table.

    Args:
        owner: the policy.
        asked: which Gateways, for which hosts.
        table: who gets what; without a shadow, which Gateways cannot pair.
    """
    meta = metadata_of(owner, route_name(owner.name), labels_of(owner, COMPONENT))
    meta["annotations"] |= {ANNOTATION_TABLE: table_version(table)}
    spec: Manifest = {"parentRefs": [parent.to_wire() for parent in asked.parent_refs], "rules": _rules(owner, table)}
    if asked.hostnames:
        spec["hostnames"] = list(asked.hostnames)
    return with_hash(
        {"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": meta, "spec": spec}
    )


def lacking(route: Mapping[str, Any], parents: Sequence[ParentRef]) -> str:
    """Return what the Gateways lack to have taken the route as it is; empty = all of them did."""
    meta, status = route.get("metadata") or {}, route.get("status") or {}
    told = [row for row in status.get("parents") or () if isinstance(row, Mapping)]
    found = (_lacking(parent, told, meta) for parent in parents)
    return "; ".join(text for text in found if text)


def _lacking(parent: ParentRef, told: Sequence[Mapping[str, Any]], meta: Mapping[str, Any]) -> str:
    namespace = parent.namespace or meta.get("namespace")
    title = f"Gateway {namespace}/{parent.name}" + (f" ({parent.section_name})" if parent.section_name else "")
    mine = [row for row in told if _is(parent, row.get("parentRef") or {}, str(meta.get("namespace")))]
    if not mine:
        return f"{title} says nothing of it"
    for row in mine:
        rows = [each for each in row.get("conditions") or () if isinstance(each, Mapping)]
        for kind in _TAKEN:
            said = next((each for each in rows if each.get("type") == kind), {})
            if said.get("status") != "True":
                why = f": {said['reason']}: {said.get('message', '')}".rstrip(": ") if said.get("reason") else ""
                return f"{title} does not say {kind}{why}"
            if int(said.get("observedGeneration") or 0) < int(meta.get("generation") or 0):
                return f"{title} has not seen its last change"
    return ""


def _is(parent: ParentRef, told: Mapping[str, Any], here: str) -> bool:
    wanted = (parent.name, parent.namespace or here, parent.section_name)
    return wanted == (told.get("name"), told.get("namespace") or here, told.get("sectionName"))


def _rules(owner: Meta, table: RouterTable) -> list[Manifest]:
    rules = []
    if table.override_header is not None:
        rules = [
            _rule({"headers": [_exactly(table.override_header, backend.version)]}, [_to(owner, backend.version)], {})
            for backend in table.backends[-_TESTED:]
        ]
    drawn = {EXPLORE_HEADER: f"{table.explore / WHOLE:g}"} if table.explore else {}
    if table.split is None:
        return [*rules, _rule({}, [_to(owner, table.champion)], drawn)]
    dealt = [_dealt(owner, slot, table.split, drawn) for slot in table.split.slots]
    return [*rules, {"matches": [_match({})], "backendRefs": dealt}]


def _rule(match: Manifest, backends: list[Manifest], said: Mapping[str, str]) -> Manifest:
    """A rule whose answers are in no comparison, whatever the client says."""
    return {"matches": [_match(match)], "filters": [_headers(said)], "backendRefs": backends}


def _match(more: Manifest) -> Manifest:
    return {"path": {"type": "PathPrefix", "value": PREFIX}, **more}


def _exactly(header: str, version: int) -> Manifest:
    return {"type": "Exact", "name": header, "value": str(version)}


def _to(owner: Meta, version: int) -> Manifest:
    return {"name": server_name(owner.name, version), "port": SERVER_PORT}


def _dealt(owner: Meta, slot: Slot, split: Split, drawn: Mapping[str, str]) -> Manifest:
    said = {**said_of(slot, slot.experiment or split.experiment), **drawn}
    return _to(owner, slot.version) | {"weight": slot.share, "filters": [_headers(said)]}


def _headers(said: Mapping[str, str]) -> Manifest:
    dropped = [name for name in OURS if name not in said]
    change = {"remove": dropped} | (
        {"set": [{"name": name, "value": value} for name, value in said.items()]} if said else {}
    )
    return {"type": "RequestHeaderModifier", "requestHeaderModifier": change}
