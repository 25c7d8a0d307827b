"""The router's files: as they were reviewed, and never a way round the table. Envoy 1.40 took the reviewed ones."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ratchet_api.assign import Pair, canary_split, experiment_of, fixed_split, salt_of
from ratchet_operator.desired.router_bootstrap import bootstrap
from ratchet_operator.desired.router_table import (
    CLUSTERS_FILE,
    OURS,
    ROUTES_FILE,
    Backend,
    BadTable,
    RouterTable,
    Shadow,
    router_files,
    table_version,
)

GOLDENS = Path(__file__).parent / "goldens"
SALT = salt_of("uid-1", "v1-v2")
SERVERS = (Backend(1, "support-v1.team.svc", 8080), Backend(2, "support-v2.team.svc", 8080))
PLAIN = RouterTable("support", 1, SERVERS)
CANARY = replace(PLAIN, split=canary_split(SALT, champion=1, candidate=2, share=500))
ASIDE = Shadow(3, 100, experiment_of(SALT))
EVERYTHING = replace(
    CANARY,
    override_header="x-test-version",
    explore=250,
    shadow=ASIDE,
    backends=(*SERVERS, Backend(3, "support-v3.team.svc", 8080)),
)


@pytest.mark.parametrize(
    ("name", "table"),
    [("champion", PLAIN), ("canary", CANARY), ("everything", EVERYTHING)],
)
def test_the_table_is_written_as_it_was_reviewed(name: str, table: RouterTable) -> None:
    """RATCHET_WRITE_GOLDENS=1 accepts a change; review it in the diff."""
    _compare(f"router-{name}.json", {file: json.loads(text) for file, text in router_files(table).items()})


def test_the_router_is_started_as_it_was_reviewed() -> None:
    """RATCHET_WRITE_GOLDENS=1 accepts a change; review it in the diff."""
    text = bootstrap("support", table_dir="/etc/ratchet/table", cookie="ratchet_subject")
    _compare("router-bootstrap.json", json.loads(text))


def test_equal_tables_are_equal_bytes_and_another_table_has_another_version() -> None:
    assert router_files(EVERYTHING) == router_files(replace(EVERYTHING, backends=(*SERVERS, EVERYTHING.backends[2])))
    others = [
        replace(EVERYTHING, champion=2),
        replace(EVERYTHING, explore=251),
        replace(EVERYTHING, shadow=replace(ASIDE, share=101)),
        replace(EVERYTHING, shadow=replace(ASIDE, experiment="0" * 16)),
        replace(EVERYTHING, override_header=None),
        replace(EVERYTHING, split=canary_split(SALT, champion=1, candidate=2, share=501)),
        replace(EVERYTHING, split=canary_split(salt_of("uid-1", "v1-v3"), champion=1, candidate=2, share=500)),
        replace(EVERYTHING, backends=(*SERVERS, Backend(3, "elsewhere", 8080))),
    ]
    assert len({table_version(table) for table in (EVERYTHING, *others)}) == len(others) + 1


def test_both_files_and_the_page_that_every_replica_answers_carry_the_tables_version() -> None:
    files = {name: json.loads(text) for name, text in router_files(CANARY).items()}
    assert {files[name]["version_info"] for name in (ROUTES_FILE, CLUSTERS_FILE)} == {table_version(CANARY)}
    page = next(route for route in _routes(CANARY) if route["match"].get("path") == "/ratchet/table")
    assert page["direct_response"] == {"status": 200, "body": {"inline_string": table_version(CANARY)}}


@pytest.mark.parametrize("table", [PLAIN, CANARY, EVERYTHING])
def test_no_route_lets_a_clients_claim_about_its_arm_through(table: RouterTable) -> None:
    """P31: every way to a server overwrites or drops each of the router's own headers."""
    ways = [way for route in _routes(table) if route["match"].get("prefix") == "/v1/" for way in _ways(route)]
    assert len(ways) == {PLAIN: 2, CANARY: 4, EVERYTHING: 11}[table]
    for way in ways:
        added = way.get("request_headers_to_add", [])
        assert {each["append_action"] for each in added} <= {"OVERWRITE_IF_EXISTS_OR_ADD"}
        said = {each["header"]["key"] for each in added}
        assert said | set(way.get("request_headers_to_remove", [])) == set(OURS)


def test_the_trial_is_said_of_those_who_are_compared_and_its_salt_of_nobody() -> None:
    dealt = next(route for route in _routes(CANARY) if route.get("stat_prefix") == "dealt")
    said = {}
    for way in _ways(dealt):
        headers = {each["header"]["key"]: each["header"]["value"] for each in way["request_headers_to_add"]}
        said[headers["x-ratchet-arm"]] = headers.get("x-ratchet-experiment")
    experiment = experiment_of(SALT)
    assert said == {"canary": experiment, "champion": None, "control": experiment}
    assert len(experiment) == 16
    assert SALT not in experiment


def test_only_a_request_that_is_asked_twice_says_so_to_both_servers() -> None:
    """Else the log would hold an answer to compare of every request; and the share is that of the requests."""
    table = replace(EVERYTHING, split=None, override_header=None)
    named_aside, named, aside, plain = (route for route in _routes(table) if route["match"].get("prefix") == "/v1/")
    for twice, once in ((named_aside, named), (aside, plain)):
        assert twice["match"]["runtime_fraction"]["default_value"] == {"numerator": 100, "denominator": "TEN_THOUSAND"}
        assert twice["route"]["request_mirror_policies"] == [{"cluster": "v3"}]
        said = {each["header"]["key"]: each["header"]["value"] for each in twice["request_headers_to_add"]}
        assert said["x-ratchet-shadow"] == f"3/{experiment_of(SALT)}"
        assert "runtime_fraction" not in once["match"]
        assert "request_mirror_policies" not in once["route"]
        assert "x-ratchet-shadow" in once["request_headers_to_remove"]


@pytest.mark.parametrize("table", [PLAIN, CANARY, EVERYTHING])
def test_no_script_runs_for_those_who_name_a_subject(table: RouterTable) -> None:
    """It looks for a subject of ours, and costs more than anything else that the router does for a request."""
    ways = [route for route in _routes(table) if route.get("stat_prefix") in ("dealt", "unenrolled")]
    off = [any("disabled" in each for each in route.get("typed_per_filter_config", {}).values()) for route in ways]
    assert off == [bool(route["match"].get("headers")) for route in ways]
    assert any(off)


def test_only_the_api_of_the_servers_can_be_reached() -> None:
    """Their metrics and health are not for clients; /ratchet/ready/N is answered by /readyz alone."""
    for route in _routes(EVERYTHING):
        if route["match"].get("prefix") != "/v1/" and "route" in route:
            assert route["match"]["path"] in ("/ratchet/ready/1", "/ratchet/ready/2", "/ratchet/ready/3")
            assert route["route"]["prefix_rewrite"] == "/readyz"


def test_testers_and_those_without_a_subject_are_in_no_arm() -> None:
    outside = [route for route in _routes(EVERYTHING) if route.get("stat_prefix") in ("tester", "unenrolled")]
    assert len(outside) == 5
    for route in outside:
        assert "x-ratchet-arm" in route["request_headers_to_remove"]


def test_a_candidate_without_a_share_is_known_to_the_router_and_gets_nobody() -> None:
    """So that it can be asked whether it is there before anybody is sent to it."""
    table = replace(PLAIN, split=canary_split(SALT, champion=1, candidate=2, share=0))
    dealt = next(route for route in _routes(table) if route.get("stat_prefix") == "dealt")
    clusters = dealt["route"]["weighted_clusters"]["clusters"]
    assert [(each["name"], each["weight"]) for each in clusters] == [("v1", 10_000)]
    assert '"name":"v2"' in router_files(table)[CLUSTERS_FILE]
    assert any(route["match"].get("path") == "/ratchet/ready/2" for route in _routes(table))


def test_a_table_that_leads_nowhere_is_refused_by_name() -> None:
    three = fixed_split(SALT, champion=1, pairs=(Pair(3, 5000, "e3"),))
    cases: list[tuple[dict[str, Any], str]] = [
        ({"champion": 4}, "version 4 has no servers"),
        ({"split": three}, "version 3 has no servers"),
        ({"shadow": replace(ASIDE, share=1)}, "version 3 has no servers"),
        ({"shadow": replace(ASIDE, share=10_001), "backends": EVERYTHING.backends}, "shadow.share is 10001"),
        ({"shadow": Shadow(1, 100, "")}, "version 1 answers people, too"),
        ({"explore": -1}, "explore is -1"),
        ({"backends": (*SERVERS, SERVERS[0])}, "name each version once"),
        ({"override_header": "x-ratchet-arm"}, "has a meaning already"),
    ]
    for change, want in cases:
        with pytest.raises(BadTable, match=want):
            replace(CANARY, **change)


@pytest.mark.parametrize("cookie", ['a"b', "a-b", "", "a" * 65, "1a"])
def test_a_cookies_name_cannot_end_the_script_that_it_stands_in(cookie: str) -> None:
    with pytest.raises(ValueError, match="is no name"):
        bootstrap("support", table_dir="/etc/ratchet/table", cookie=cookie)


def test_without_a_cookie_nobody_is_given_a_subject() -> None:
    assert "lua" not in bootstrap("support", table_dir="/etc/ratchet/table")


def test_the_router_writes_no_log_of_who_asked() -> None:
    """P30: raw subjects are written nowhere."""
    started = bootstrap("support", table_dir="/etc/ratchet/table", cookie="ratchet_subject")
    assert "access_log" not in started + "".join(router_files(EVERYTHING).values())


def _compare(name: str, value: object) -> None:
    golden, text = GOLDENS / name, json.dumps(value, indent=1, sort_keys=True) + "\n"
    if os.environ.get("RATCHET_WRITE_GOLDENS") == "1":
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(text)
    assert text == golden.read_text()


def _routes(table: RouterTable) -> list[dict[str, Any]]:
    (config,) = json.loads(router_files(table)[ROUTES_FILE])["resources"]
    routes: list[dict[str, Any]] = config["virtual_hosts"][0]["routes"]
    return routes


def _ways(route: dict[str, Any]) -> list[dict[str, Any]]:
    split = route["route"].get("weighted_clusters")
    return split["clusters"] if split else [route]
