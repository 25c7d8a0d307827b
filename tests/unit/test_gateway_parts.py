"""The small parts under the routes: rates, names that are known, and following the other replicas."""

from __future__ import annotations

import builtins
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from ratchet_api.feedback import Feedback, Interaction
from ratchet_api.signing import KeyRing
from ratchet_gateway.follower import Follower
from ratchet_gateway.known import KnownEvents, Seen
from ratchet_gateway.log.writer import LogWriter
from ratchet_gateway.ratelimit import RateLimit
from ratchet_gateway.records import Recorder, is_collected, new_id
from ratchet_jobs.runtime.errors import StoreNotFound, StoreUnavailable
from ratchet_jobs.runtime.store import ObjectInfo
from ratchet_jobs.runtime.store_directory import DirectoryStore
from tests.gateway_app import START, Clock, running

# --- rates --------------------------------------------------------------------------------------------------------


def test_a_minutes_worth_passes_at_once_and_then_one_by_one() -> None:
    clock = Clock()
    limit = RateLimit(60, clock.monotonic)
    assert [limit.take({"a": 1}) for _ in range(61)] == [0] * 60 + [1]
    clock.pass_(seconds=1)
    assert [limit.take({"a": 1}) for _ in range(2)] == [0, 1]


def test_what_does_not_pass_as_a_whole_costs_nobody_anything() -> None:
    limit = RateLimit(10, Clock().monotonic)
    assert limit.take({"a": 5, "b": 11}) > 0
    assert limit.take({"a": 10, "b": 10}) == 0


def test_waiting_as_long_as_one_is_told_is_enough() -> None:
    clock = Clock()
    limit = RateLimit(7, clock.monotonic)
    limit.take({"a": 7})
    wait = limit.take({"a": 3})
    clock.pass_(seconds=wait - 1)
    assert limit.take({"a": 3}) > 0
    clock.pass_(seconds=1)
    assert limit.take({"a": 3}) == 0


@given(st.lists(st.tuples(st.floats(0, 30), st.integers(1, 20)), max_size=60), st.integers(1, 50))
def test_no_minute_sees_more_than_twice_the_rate(calls: list[tuple[float, int]], rate: int) -> None:
    """A full burst, and what refills during the minute after it."""
    clock, passed = Clock(), []
    limit = RateLimit(rate, clock.monotonic)
    for pause, cost in calls:
        clock.pass_(seconds=pause)
        if limit.take({"a": cost}) == 0:
            passed.append((clock.monotonic(), cost))
    for start, _ in passed:
        assert sum(cost for at, cost in passed if start <= at < start + 60) <= 2 * rate


def test_names_are_forgotten_beyond_the_limit_the_oldest_first() -> None:
    limit = RateLimit(1, Clock().monotonic, max_names=2)
    for name in ("a", "b", "c"):
        assert limit.take({name: 1}) == 0
    assert limit.take({"c": 1}) > 0
    assert limit.take({"a": 1}) == 0


# --- names --------------------------------------------------------------------------------------------------------


def test_a_name_belongs_to_the_first_content_that_claims_it() -> None:
    known = KnownEvents()
    assert known.claim("n", "x") is Seen.NEW
    assert known.claim("n", "x") is Seen.UNDER_WAY
    assert known.claim("n", "y") is Seen.OTHER
    known.stored("n", "x")
    assert known.claim("n", "x") is Seen.STORED
    assert known.claim("n", "y") is Seen.OTHER


def test_a_refused_claim_is_given_back_and_a_stored_one_is_not() -> None:
    known = KnownEvents()
    known.claim("n", "x")
    known.release("n", "other")
    assert known.claim("n", "y") is Seen.OTHER
    known.release("n", "x")
    assert known.claim("n", "y") is Seen.NEW
    known.stored("n", "y")
    known.release("n", "y")
    assert known.claim("n", "y") is Seen.STORED


def test_memory_is_bounded() -> None:
    known = KnownEvents(max_names=4)
    for n in range(10):
        known.stored(str(n), "x")
    assert [known.claim(str(n), "x") is Seen.STORED for n in (9, 8, 7)] == [True] * 3
    assert known.claim("0", "x") is Seen.NEW


@given(st.lists(st.tuples(st.sampled_from("csrq"), st.integers(0, 9), st.sampled_from("xy")), max_size=60))
def test_names_are_told_apart_as_by_a_dictionary_while_there_is_room(steps: list[tuple[str, int, str]]) -> None:
    """A table with names that meet at a place, given back ones among them, is one of names."""
    known, content, under_way = KnownEvents(max_names=40), dict[str, str](), set[str]()
    for step, number, said in steps:
        name = str(number)
        if step == "c":
            want = Seen.NEW if name not in content else Seen.UNDER_WAY if name in under_way else Seen.STORED
            want = Seen.OTHER if content.get(name, said) != said else want
            assert known.claim(name, said) is want
            if want is Seen.NEW:
                content[name] = said
                under_way.add(name)
        elif step == "r":
            known.release(name, said)
            if name in under_way and content[name] == said:
                del content[name]
                under_way.discard(name)
        else:
            (known.stored if step == "s" else known.recall)(name, said)
            if content.setdefault(name, said) == said:
                under_way.discard(name)


def test_a_name_of_the_older_generation_is_known_and_can_be_given_back() -> None:
    known = KnownEvents(max_names=4)
    assert known.claim("n", "x") is Seen.NEW
    for n in range(2):
        known.stored(str(n), "x")
    assert known.claim("n", "x") is Seen.UNDER_WAY
    known.release("n", "x")
    assert known.claim("n", "y") is Seen.NEW


def test_what_is_recalled_neither_displaces_nor_overrules_what_is_known() -> None:
    known = KnownEvents(max_names=4)
    known.stored("mine", "x")
    assert known.claim("retried", "x") is Seen.NEW
    for name, content in (("mine", "y"), ("retried", "x"), ("a", "x"), ("b", "x"), ("beyond", "x")):
        known.recall(name, content)
    assert not known.has_room
    assert [known.claim(name, "x") for name in ("mine", "retried", "a", "b")] == [Seen.STORED] * 4
    assert known.claim("beyond", "x") is Seen.NEW


# --- replicas -----------------------------------------------------------------------------------------------------


def line(name: str, fingerprint: str, key: str = "") -> bytes:
    text = f'{{"id":"{name}","fingerprint":"{fingerprint}"' + (f',"key":"{key}"' if key else "") + "}"
    return text.encode()


async def write(store: DirectoryStore, lines: Iterable[bytes], clock: Clock) -> str:
    writer = LogWriter(store, namespace="ns", now=clock.now)
    writer.start()
    await writer.append(list(lines))
    await writer.close(drain_seconds=60)
    return writer.epoch


async def test_what_another_replica_stored_is_known_here_and_read_once(tmp_path: Path) -> None:
    """T22 across replicas: its id and its idempotency key."""
    store, clock, known = DirectoryStore(tmp_path), Clock(), KnownEvents()
    await write(store, [line("a", "x", key="k")], clock)
    follower = Follower(store, namespace="ns", epoch="mine", known=known, now=clock.now)
    assert await follower.look() == 1
    assert (known.claim("a", "x"), known.claim("k", "x"), known.claim("k", "y")) == (
        Seen.STORED,
        Seen.STORED,
        Seen.OTHER,
    )
    assert await follower.look() == 0


async def test_our_own_segments_are_not_read(tmp_path: Path) -> None:
    store, clock, known = DirectoryStore(tmp_path), Clock(), KnownEvents()
    epoch = await write(store, [line("a", "x")], clock)
    assert await Follower(store, namespace="ns", epoch=epoch, known=known, now=clock.now).look() == 0


@pytest.mark.parametrize(
    ("minutes_before", "want"),
    [pytest.param(1, 1, id="of the last two minutes"), pytest.param(4, 0, id="older")],
)
async def test_a_new_process_looks_back(tmp_path: Path, minutes_before: float, want: int) -> None:
    store, clock = DirectoryStore(tmp_path), Clock(START - timedelta(minutes=minutes_before))
    await write(store, [line("a", "x")], clock)
    clock.time = START
    follower = Follower(store, namespace="ns", epoch="mine", known=KnownEvents(), now=clock.now)
    assert await follower.look() == want


async def test_a_segment_that_appears_late_in_a_passed_minute_is_found(tmp_path: Path) -> None:
    store, clock = DirectoryStore(tmp_path), Clock()
    follower = Follower(store, namespace="ns", epoch="mine", known=KnownEvents(), now=clock.now)
    clock.pass_(minutes=1, seconds=5)
    assert await follower.look() == 0
    await write(store, [line("a", "x")], Clock(START + timedelta(seconds=59)))
    clock.pass_(seconds=5)
    assert await follower.look() == 1


async def test_a_damaged_segment_does_not_stop_the_following(tmp_path: Path) -> None:
    store, clock, known = DirectoryStore(tmp_path), Clock(), KnownEvents()
    await write(store, [line("bad", "x")], clock)
    [info] = store.list("ns/log")
    store.write(info.key, b"rot")
    await write(store, [line("good", "x")], clock)
    follower = Follower(store, namespace="ns", epoch="mine", known=known, now=clock.now)
    assert await follower.look() == 2
    assert (known.claim("good", "x"), known.claim("bad", "x")) == (Seen.STORED, Seen.NEW)


async def test_after_a_day_without_a_store_the_last_two_minutes_are_read(tmp_path: Path) -> None:
    listed: list[str] = []

    class Counting(DirectoryStore):
        def list(self, prefix: str) -> builtins.list[ObjectInfo]:
            listed.append(prefix)
            return super().list(prefix)

    clock = Clock()
    follower = Follower(Counting(tmp_path), namespace="ns", epoch="mine", known=KnownEvents(), now=clock.now)
    clock.pass_(days=1)
    await follower.look()
    assert len(listed) == 4  # 11:58 to 12:00, and a minute more for clocks that are ahead
    assert listed[0].endswith("2026-11-22/11/58")


async def test_a_new_process_recalls_the_day_before_it(tmp_path: Path) -> None:
    """T22 after a restart: a key of this morning is refused with another body, one of last week is not known."""
    store, clock, known = DirectoryStore(tmp_path), Clock(), KnownEvents()
    for name, hours in (("soon", 0.01), ("morning", 9), ("yesterday", 23.9), ("last week", 150)):
        await write(store, [line(name, "x", key=f"key of {name}")], Clock(START - timedelta(hours=hours)))
    mine = await write(store, [line("mine", "x")], clock)
    follower = Follower(store, namespace="ns", epoch=mine, known=known, now=clock.now)
    assert await follower.recall() == 3
    for name in ("soon", "morning", "yesterday"):
        assert (known.claim(name, "y"), known.claim(f"key of {name}", "y")) == (Seen.OTHER, Seen.OTHER)
    assert (known.claim("last week", "y"), known.claim("mine", "y")) == (Seen.NEW, Seen.NEW)


async def test_recalling_ends_when_no_more_fits_and_begins_with_the_newest(tmp_path: Path) -> None:
    store, known = DirectoryStore(tmp_path), KnownEvents(max_names=4)
    for minute in range(5):
        await write(store, [line(f"of minute {minute}", "x")], Clock(START - timedelta(minutes=minute)))
    assert await Follower(store, namespace="ns", epoch="mine", known=known, now=Clock().now).recall() == 2
    assert [known.claim(f"of minute {n}", "x") is Seen.STORED for n in range(3)] == [True, True, False]


async def test_a_store_that_fails_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failures = [StoreUnavailable("away"), StoreNotFound("compacted between listing and reading")]

    class Failing(DirectoryStore):
        def read(self, key: str) -> bytes:
            if failures:
                raise failures.pop()
            return super().read(key)

    monkeypatch.setattr("ratchet_gateway.follower._AGAIN_SECONDS", 0.0)
    known = KnownEvents()
    await write(DirectoryStore(tmp_path), [line("a", "x")], Clock())
    assert await Follower(Failing(tmp_path), namespace="ns", epoch="mine", known=known, now=Clock().now).recall() == 1
    assert known.claim("a", "x") is Seen.STORED


def test_a_key_used_at_one_replica_is_a_conflict_at_another(tmp_path: Path) -> None:
    """T22: two gateways on one log; the second started after the first had stored."""
    body = {"type": "thumbs_up", "policy": "router", "idempotencyKey": "k"}
    with running(tmp_path) as one:
        one.post("/v1/feedback", body)
    with running(tmp_path, follow_seconds=0.01) as two:
        while two.post("/v1/feedback?dryRun=true", body).json()["events"][0]["duplicate"] is False:
            pass
        assert two.post("/v1/feedback", body | {"type": "thumbs_down"}).status_code == 409
        assert two.post("/v1/feedback", body).json()["events"][0]["duplicate"] is True
        assert len(two.log()) == 1


# --- lines --------------------------------------------------------------------------------------------------------


def test_an_event_is_stored_as_the_same_bytes_by_every_version() -> None:
    """A retry may arrive after an upgrade: with another fingerprint it would be refused as another content."""
    recorder = Recorder(KeyRing({"2026-11": b"k" * 32}))
    now, subject = datetime(2026, 11, 22, 18, tzinfo=UTC), "2026-11:3d6fec28156194fa627e5e37df7ee597"
    score = {
        "type": "score",
        "score": 1 / 3,
        "policy": "router",
        "version": 3,
        "subject": "ann",
        "idempotencyKey": "k1",
    }
    score |= {
        "prompt": 'o\u00f9 "est" \U0001f642\n?',
        "tags": {"team": "\u00e9"},
        "timestamp": "2026-11-22T10:00:00.5+02:00",
    }
    thumb = {"type": "thumbs_up", "policy": "router", "tags": {}, "idempotencyKey": "k2"}
    answer = {"input": "a", "label": "b", "policy": "router", "subject": "ann", "idempotencyKey": "k3"}
    lines = [
        recorder.feedback(TypeAdapter(Feedback).validate_python(event), source="app", now=now).line.decode()
        for event in (score, thumb)
    ]
    lines.append(recorder.interaction(Interaction.model_validate(answer), source="app", now=now)[0].line.decode())
    assert lines == [
        '{"id":"51d6b43b3c84ef5c3b9f346d89242f85","source":"app","received":"2026-11-22T18:00:00.000Z",'
        '"fingerprint":"ae9af0269d3c8ae5","timestamp":"2026-11-22T08:00:00Z","kind":"feedback","tags":{"team":"\u00e9"},'
        '"prompt":"o\u00f9 \\"est\\" \U0001f642\\n?","type":"score","score":0.3333333333333333,'
        f'"policy":"router","version":3,"subject":"{subject}"}}',
        '{"id":"e772da333661a3958864312965a92464","source":"app","received":"2026-11-22T18:00:00.000Z",'
        '"fingerprint":"bd73236fff1a6f83","kind":"feedback","type":"thumbs_up","policy":"router"}',
        '{"id":"4d56daf2b9f3d61c146b0d77b3c47eab","source":"app","received":"2026-11-22T18:00:00.000Z",'
        '"fingerprint":"de8d72165e37525d","key":"4a2a1bcaa120e8fa351d19ac08b09cc0","kind":"interaction","input":"a",'
        f'"label":"b","policy":"router","subject":"{subject}","interaction":"4a2a1bcaa120e8fa351d19ac08b09cc0"}}',
    ]


# --- ids ----------------------------------------------------------------------------------------------------------


def test_ids_sort_by_time_and_never_repeat() -> None:
    made = [new_id(START + timedelta(milliseconds=n)) for n in range(100)]
    assert made == sorted(made)
    assert len({new_id(START) for _ in range(1000)}) == 1000


@pytest.mark.parametrize(("rate", "want"), [(0.0, 0), (1.0, 2000)])
def test_a_rate_of_all_or_nothing_is_exact(rate: float, want: int) -> None:
    assert sum(is_collected(str(n), rate) for n in range(2000)) == want


def test_a_higher_rate_keeps_what_a_lower_one_kept() -> None:
    low = {n for n in range(2000) if is_collected(str(n), 0.1)}
    assert low < {n for n in range(2000) if is_collected(str(n), 0.2)}
