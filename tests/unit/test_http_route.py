"""A policy's HTTPRoute: who gets what, what the servers are told, and when a Gateway has taken it."""

from __future__ import annotations

from typing import Any

import pytest

from ratchet_api.assign import canary_split, salt_of
from ratchet_api.serving import HttpRoute, ParentRef
from ratchet_operator.desired.http_route import lacking, render_http_route
from ratchet_operator.desired.router_table import OURS, Backend, RouterTable
from ratchet_operator.plan.world import Meta

OWNER = Meta("RLPolicy", "rlpolicies", "team", "support", "0123456789abcdef", 1)
BACKENDS = (Backend(3, "support-v3.team.svc", 8080), Backend(4, "support-v4.team.svc", 8080))
ASKED = HttpRoute.model_validate({"parentRefs": [{"name": "edge", "namespace": "infra", "sectionName": "https"}]})
SPLIT = canary_split(salt_of("uid", "1-v3-v4"), champion=3, candidate=4, share=1000)


def rules(table: RouterTable) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = render_http_route(OWNER, ASKED, table)["spec"]["rules"]
    return found


def told(filters: list[dict[str, Any]]) -> tuple[dict[str, str], list[str]]:
    change = filters[0]["requestHeaderModifier"]
    return {each["name"]: each["value"] for each in change.get("set", [])}, change["remove"]


def test_shares_are_weights_and_each_arm_is_told_to_its_servers() -> None:
    (rule,) = rules(RouterTable("support", 3, BACKENDS, split=SPLIT))
    backends = rule["backendRefs"]
    assert [(each["name"], each["port"], each["weight"]) for each in backends] == [
        ("support-v4", 8080, 1000), ("support-v3", 8080, 8000), ("support-v3", 8080, 1000)
    ]  # fmt: skip
    arms = [told(each["filters"])[0] for each in backends]
    assert [arm["x-ratchet-arm"] for arm in arms] == ["canary", "champion", "control"]
    assert [arm.get("x-ratchet-experiment") for arm in arms] == [SPLIT.experiment, None, SPLIT.experiment]
    assert [arm["x-ratchet-propensity"] for arm in arms] == ["0.1", "0.8", "0.1"]


def test_nothing_that_a_client_claims_of_an_arm_reaches_a_server() -> None:
    for table in (
        RouterTable("support", 3, BACKENDS, split=SPLIT, override_header="x-version"),
        RouterTable("support", 3, BACKENDS, override_header="x-version"),
    ):
        for rule in rules(table):
            places = [rule["filters"]] if "filters" in rule else [each["filters"] for each in rule["backendRefs"]]
            for filters in places:
                said, dropped = told(filters)
                assert {*said, *dropped} == set(OURS)


def test_answers_that_are_drawn_are_asked_for_of_everybody_but_testers() -> None:
    for split in (SPLIT, None):
        tester, *_, dealt = rules(
            RouterTable("support", 3, BACKENDS, split=split, override_header="x-version", explore=500)
        )
        places = [dealt] if split is None else dealt["backendRefs"]
        assert [told(place["filters"])[0]["x-ratchet-explore"] for place in places] == ["0.05"] * len(places)
        assert "x-ratchet-explore" in told(tester["filters"])[1]


def test_a_tester_gets_the_version_that_the_header_names() -> None:
    found = rules(RouterTable("support", 3, BACKENDS, split=SPLIT, override_header="x-version"))
    headers = [rule["matches"][0].get("headers") for rule in found]
    assert headers == [
        [{"type": "Exact", "name": "x-version", "value": "3"}],
        [{"type": "Exact", "name": "x-version", "value": "4"}],
        None,
    ]
    assert [rule["backendRefs"][0]["name"] for rule in found[:2]] == ["support-v3", "support-v4"]


def test_a_route_never_has_more_rules_than_the_api_takes() -> None:
    many = tuple(Backend(number, f"support-v{number}.team.svc", 8080) for number in range(1, 24))
    assert len(rules(RouterTable("support", 23, many, override_header="x-version"))) <= 16


def row(**changes: Any) -> dict[str, Any]:
    conditions = [
        {"type": kind, "status": "True", "observedGeneration": 7} | changes.get(kind, {})
        for kind in ("Accepted", "ResolvedRefs")
    ]
    parent = {"name": "edge", "namespace": "infra", "sectionName": "https"} | changes.get("parent", {})
    return {"parentRef": parent, "conditions": conditions}


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ([row()], ""),
        ([], "Gateway infra/edge (https) says nothing of it"),
        ([row(parent={"name": "other"})], "Gateway infra/edge (https) says nothing of it"),
        ([row(parent={"sectionName": "http"})], "Gateway infra/edge (https) says nothing of it"),
        (
            [row(Accepted={"status": "False", "reason": "NotAllowedByListeners", "message": "no"})],
            "Gateway infra/edge (https) does not say Accepted: NotAllowedByListeners: no",
        ),
        (
            [row(ResolvedRefs={"status": "False", "reason": "BackendNotFound", "message": ""})],
            "Gateway infra/edge (https) does not say ResolvedRefs: BackendNotFound",
        ),
        ([row(Accepted={"observedGeneration": 6})], "Gateway infra/edge (https) has not seen its last change"),
        ([{"parentRef": row()["parentRef"]}], "Gateway infra/edge (https) does not say Accepted"),
        (["nonsense"], "Gateway infra/edge (https) says nothing of it"),
    ],
)
def test_a_route_is_taken_when_its_gateway_says_so_of_its_present_form(rows: list[Any], text: str) -> None:
    """P32."""
    route = {"metadata": {"namespace": "team", "generation": 7}, "status": {"parents": rows}}
    assert lacking(route, ASKED.parent_refs) == text


def test_a_gateway_of_the_own_namespace_need_not_be_named_by_it() -> None:
    rows = [{"parentRef": {"name": "edge"}, "conditions": row()["conditions"]}]
    route = {"metadata": {"namespace": "team", "generation": 7}, "status": {"parents": rows}}
    assert lacking(route, (ParentRef(name="edge", namespace="team"),)) == ""
    assert lacking(route, (ParentRef(name="edge"),)) == ""
