"""What a router does with what the operator tells it: a real Envoy with the rendered files, before two servers that
answer with what they were asked.

Needs no privilege; Envoy comes as a package.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.contenders import free_port
from ratchet_api.assign import Pair, Slot, Split, canary_split, fixed_split, salt_of
from ratchet_operator.desired.router_table import (
    ARM_HEADER,
    EXPERIMENT_HEADER,
    EXPLORE_HEADER,
    PROPENSITY_HEADER,
    READY_PATH,
    ROUTES_FILE,
    SHADOW_HEADER,
    SUBJECT_HEADER,
    Backend,
    RouterTable,
    Shadow,
    router_files,
    table_version,
)
from tests.contract.envoys import COOKIE, Answer, EchoServer, Router, mount, wait_for

SALT = salt_of("uid-1", "1-v1-v2")
TESTER = "x-test-version"
FORGED = (
    (ARM_HEADER, "canary"),
    (ARM_HEADER, "control"),
    (PROPENSITY_HEADER, "1"),
    (EXPERIMENT_HEADER, "e" * 16),
    (EXPLORE_HEADER, "0.9"),
    (SHADOW_HEADER, "1/" + "e" * 16),
)
UUID = "11111111-2222-4333-8444-555555555555"
SUBJECTS = tuple(
    {0: f"user-{number}", 1: f"{number}@mail.example.org", 2: str(number) * (1 + number % 9)}[number % 3]
    for number in range(1, 1001)
)


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[EchoServer, EchoServer]]:
    """The champion's and the candidate's."""
    with EchoServer(1) as one, EchoServer(2) as two:
        yield one, two


@pytest.fixture(scope="module")
def router(tmp_path_factory: pytest.TempPathFactory, servers: tuple[EchoServer, EchoServer]) -> Iterator[Router]:
    """A router for all tests; each gives it the table that it is about."""
    with Router(tmp_path_factory.mktemp("router"), table(servers)) as started:
        yield started


def table(servers: tuple[EchoServer, ...], **more: Any) -> RouterTable:
    return RouterTable("support", 1, tuple(server.backend for server in servers), **more)


def canary(percent: float) -> Split:
    return canary_split(SALT, champion=1, candidate=2, share=round(100 * percent))


def slot_of(answer: Answer) -> Slot:
    """What the server that answered was told."""
    assert answer.status == 200, answer
    [arm], [propensity] = answer.told(ARM_HEADER), answer.told(PROPENSITY_HEADER)
    return Slot(arm, answer.version, round(10_000 * float(propensity)))  # type: ignore[arg-type]


def test_every_replica_deals_a_subject_as_the_vocabulary_says(
    router: Router, servers: tuple[EchoServer, EchoServer], tmp_path: Path
) -> None:
    """P31: replicas know nothing of each other, and `ratchet why` asks neither."""
    split = canary(25)
    router.give(table(servers, split=split))
    wanted = {subject: split.slot(subject) for subject in SUBJECTS}
    assert {slot.arm for slot in wanted.values()} == {"canary", "champion", "control"}
    with Router(tmp_path / "other", table(servers, split=split)) as other:
        for replica in (router, other):
            assert {subject: slot_of(replica.ask(subject=subject)) for subject in SUBJECTS} == wanted


def test_a_rising_share_takes_subjects_in_and_moves_nobody_out(
    router: Router, servers: tuple[EchoServer, EchoServer]
) -> None:
    """P31: exactly those change their arm whom the wider share takes in."""
    arms: dict[str, str] = {}
    for percent in (0, 1, 5, 25, 50):
        router.give(table(servers, split=canary(percent)))
        now = {subject: slot_of(router.ask(subject=subject)) for subject in SUBJECTS[:200]}
        assert now == {subject: canary(percent).slot(subject) for subject in now}
        moved = {subject for subject in arms if arms[subject] != now[subject].arm}
        assert {arms[subject] for subject in moved} <= {"champion"}
        arms = {subject: slot.arm for subject, slot in now.items()}
    assert set(arms.values()) == {"canary", "control"}


def test_a_test_of_several_versions_is_dealt_likewise(router: Router, servers: tuple[EchoServer, EchoServer]) -> None:
    """Each version and its control group under an experiment of their own, and nobody else under one."""
    pair = "0123456789abcdef"
    split = fixed_split(SALT, champion=1, pairs=(Pair(2, 3000, pair),))
    router.give(table(servers, split=split))
    for subject in SUBJECTS[:200]:
        answer, want = router.ask(subject=subject), split.slot(subject)
        assert slot_of(answer) == want._replace(experiment="")
        assert answer.told(EXPERIMENT_HEADER) == ([] if want.arm == "champion" else [pair])


@pytest.mark.parametrize("explore", [0, 250])
@pytest.mark.parametrize(
    "headers", [((SUBJECT_HEADER, "user-1"),), (), ((TESTER, "2"),)], ids=["dealt", "none", "tester"]
)
def test_what_a_client_claims_of_its_arm_reaches_no_server(
    router: Router, servers: tuple[EchoServer, EchoServer], headers: tuple[tuple[str, str], ...], explore: int
) -> None:
    router.give(table(servers, split=canary(25), override_header=TESTER, explore=explore))
    honest, forged = router.ask("/v1/x", *headers), router.ask("/v1/x", *headers, *FORGED)
    dealt, tester = headers[:1] == ((SUBJECT_HEADER, "user-1"),), headers[:1] == ((TESTER, "2"),)
    for answer in (honest, forged):
        assert len(answer.told(ARM_HEADER)) == len(answer.told(PROPENSITY_HEADER)) == (0 if tester else 1)
        assert answer.told(EXPLORE_HEADER) == (["0.025"] if explore and not tester else [])
        assert answer.told(SHADOW_HEADER) == []
        compared = answer.told(ARM_HEADER) in (["canary"], ["control"])
        assert answer.told(EXPERIMENT_HEADER) == ([canary(25).experiment] if compared else [])
    if dealt:
        assert slot_of(forged) == slot_of(honest) == canary(25).slot("user-1")


def test_who_names_no_subject_gets_a_cookie_that_brings_the_same_arm_back(
    router: Router, servers: tuple[EchoServer, EchoServer]
) -> None:
    router.give(table(servers, split=canary(50)))
    seen = set()
    for _ in range(20):
        first = router.ask()
        [cookie] = first.header("set-cookie")
        issued, *rules = cookie.split("; ")
        assert {"HttpOnly", "SameSite=Lax", "Path=/"} <= set(rules)
        subject = issued.removeprefix(f"{COOKIE}=")
        assert slot_of(first) == canary(50).slot(subject), "the first answer was dealt by another subject"
        again = router.ask("/v1/classify", ("cookie", f"theme=dark; {issued}"))
        assert slot_of(again) == slot_of(first)
        assert (again.told(SUBJECT_HEADER), again.header("set-cookie")) == ([subject], [])
        seen.add(subject)
    assert len(seen) == 20


def test_a_cookie_that_is_not_ours_is_replaced_and_a_header_goes_before_it(
    router: Router, servers: tuple[EchoServer, EchoServer]
) -> None:
    router.give(table(servers, split=canary(50)))
    [subject] = (spoilt := router.ask("/v1/x", ("cookie", f"{COOKIE}=me"))).told(SUBJECT_HEADER)
    assert spoilt.header("set-cookie")[0].startswith(f"{COOKIE}={subject};")
    named = router.ask("/v1/x", ("cookie", f"{COOKIE}={UUID}"), subject="user-1")
    assert (named.told(SUBJECT_HEADER), named.header("set-cookie")) == (["user-1"], [])


def test_without_a_cookie_whoever_names_no_subject_gets_the_champion_outside_the_comparison(
    servers: tuple[EchoServer, EchoServer], tmp_path: Path
) -> None:
    with Router(tmp_path / "plain", table(servers, split=canary(50)), cookie=None) as plain:
        subjectless = [plain.ask(), plain.ask("/v1/x", *FORGED)]
        odd = [plain.ask(subject=odd) for odd in ("", "a b", "a,b", "jürgen")]
        for answer in subjectless + odd:
            assert (answer.version, answer.told(ARM_HEADER), answer.told(PROPENSITY_HEADER)) == (1, [], [])
            assert answer.header("set-cookie") == []
        counted = plain.stats().body.decode()
    [line] = [
        each for each in counted.splitlines() if "unenrolled" in each and "rq_completed" in each and each[0] != "#"
    ]
    assert line.endswith(f" {len(subjectless + odd)}")


def test_a_tester_gets_the_version_that_is_asked_for_and_enters_no_comparison(
    router: Router, servers: tuple[EchoServer, EchoServer]
) -> None:
    router.give(table(servers, split=canary(1), override_header=TESTER))
    for version in (1, 2):
        answer = router.ask("/v1/x", (TESTER, str(version)), subject="user-1")
        assert (answer.version, answer.told(ARM_HEADER), answer.header("cache-control")) == (version, [], ["no-store"])
    assert slot_of(router.ask("/v1/x", (TESTER, "9"), subject="user-1")) == canary(1).slot("user-1")
    router.give(table(servers, split=canary(1)))
    assert slot_of(router.ask("/v1/x", (TESTER, "2"), subject="user-1")) == canary(1).slot("user-1")


def test_a_shadow_is_asked_besides_and_nobody_waits_for_it(
    router: Router, servers: tuple[EchoServer, EchoServer]
) -> None:
    champion, shadow = servers
    router.give(table(servers, shadow=Shadow(2, 10_000, canary(1).experiment)))
    champion.asked.clear()
    shadow.asked.clear()
    shadow.silent.set()
    try:
        answers = [router.ask(subject=subject) for subject in SUBJECTS[:50]]
    finally:
        shadow.silent.clear()
    assert {answer.version for answer in answers} == {1}
    wait_for("the shadow's requests", lambda: len(shadow.asked) == 50)
    assert all("-shadow" in line for line in shadow.asked)
    assert len(champion.asked) == 50
    router.give(table(servers, shadow=Shadow(2, 0, canary(1).experiment)))
    router.ask(subject="user-1")
    assert len(shadow.asked) == 50


def test_both_servers_are_told_the_same_of_a_request_that_is_asked_twice_and_nothing_of_another(
    router: Router, servers: tuple[EchoServer, EchoServer]
) -> None:
    champion, shadow = servers
    router.give(table(servers, shadow=Shadow(2, 5_000, canary(1).experiment)))
    champion.told.clear()
    shadow.told.clear()
    for subject in SUBJECTS[:100]:
        router.ask("/v1/x", *FORGED, subject=subject)
    aside = {each["x-request-id"]: each[SHADOW_HEADER] for each in champion.told if SHADOW_HEADER in each}
    assert set(aside.values()) == {f"2/{canary(1).experiment}"}
    assert 20 < len(aside) < 80  # of 100, by dice: beyond with a chance of 1 in 10^9
    wait_for("the shadow's requests", lambda: len(shadow.told) >= len(aside))
    assert {each["x-request-id"]: each.get(SHADOW_HEADER) for each in shadow.told} == aside


def test_a_router_says_which_versions_it_reaches(router: Router, servers: tuple[EchoServer, EchoServer]) -> None:
    port = free_port()
    here = (*(server.backend for server in servers), Backend(3, "127.0.0.1", port))
    router.give(RouterTable("support", 1, here))
    assert [router.ask(f"{READY_PATH}{version}").status for version in (1, 2, 3, 4)] == [200, 200, 503, 404]


@pytest.mark.parametrize("path", ["/metrics", "/readyz", "/v1/../metrics", "/v1/%2e%2e%2fmetrics", "//metrics", "/"])
def test_only_the_api_of_a_server_is_reachable(
    router: Router, servers: tuple[EchoServer, EchoServer], path: str
) -> None:
    router.give(table(servers, split=canary(50), override_header=TESTER))
    asked = [len(server.asked) for server in servers]
    assert 400 <= router.ask(path, (TESTER, "2"), subject="user-1").status < 500
    assert [len(server.asked) for server in servers] == asked


def test_the_admin_page_shows_numbers_and_nothing_else(router: Router) -> None:
    assert b"envoy_server_live" in router.stats().body
    for path in ("/", "/config_dump", "/quitquitquit", "/stats", "/stats/prometheus/../../quitquitquit", "/certs"):
        assert 400 <= router.stats(path).status < 500
    assert router.stats().status == 200


def test_a_table_that_is_no_table_changes_nothing(router: Router, servers: tuple[EchoServer, EchoServer]) -> None:
    """P37: a router goes on with the last table that it could read."""
    last = table(servers, split=canary(25))
    router.give(last)
    refused = "envoy_http_rds_update_rejected"
    before = number(router, refused)
    good = router_files(table(servers, split=canary(50)))
    broken = good[ROUTES_FILE].replace('"weighted_clusters"', '"weighed_clusters"')
    mount(router.folder / "table", good | {ROUTES_FILE: broken})
    wait_for("the refusal", lambda: number(router, refused) > before)
    assert router.table() == table_version(last)
    assert slot_of(router.ask(subject="user-1")) == canary(25).slot("user-1")
    router.give(table(servers, split=canary(50)))


def number(router: Router, name: str) -> int:
    lines = router.stats().body.decode().splitlines()
    return sum(int(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name}{{"))


def test_no_request_fails_while_tables_change(router: Router, servers: tuple[EchoServer, EchoServer]) -> None:
    router.give(table(servers, split=canary(1)))
    ended, failed, asked = threading.Event(), [], 0

    def change() -> None:
        try:
            for percent in (5, 10, 25, 50, 0, 1):
                mount(router.folder / "table", router_files(table(servers, split=canary(percent))))
                wait_for("requests under this table", lambda seen=asked: asked > seen + 20)  # type: ignore[misc]
        finally:
            ended.set()

    changing = threading.Thread(target=change)
    changing.start()
    while not ended.is_set():
        answer = router.ask(subject=SUBJECTS[asked % 1000])
        asked += 1
        if answer.status != 200:
            failed.append(answer)
    changing.join()
    assert failed == []


def test_a_router_that_starts_anew_needs_nobody_but_its_files(
    servers: tuple[EchoServer, EchoServer], tmp_path: Path
) -> None:
    """P37: operator and API server are away, and the pod is replaced."""
    with Router(tmp_path / "one", table(servers, split=canary(25))) as one:
        before = [slot_of(one.ask(subject=subject)) for subject in SUBJECTS[:50]]
    with one:
        assert [slot_of(one.ask(subject=subject)) for subject in SUBJECTS[:50]] == before
