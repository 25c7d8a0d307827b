"""How many events are new: asked over HTTP by the operator, and counted in the log without reading it twice."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
from aiohttp import web

from ratchet_jobs.feedback_log.newer import NewerEvents
from ratchet_jobs.feedback_log.segment import new_epoch, pack, segment_key
from ratchet_jobs.runtime.store_directory import DirectoryStore
from ratchet_operator.cluster.gateway import GatewayAccess

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


class CountedReads(DirectoryStore):
    """A store that notes which keys were read."""

    reads: list[str]

    def read(self, key: str) -> bytes:
        self.reads.append(key)
        return super().read(key)


def put(store: DirectoryStore, at: datetime, events: int) -> None:
    """A segment of one writer with events that arrived a second before it was written."""
    received = (at - timedelta(seconds=1)).isoformat()
    line = f'{{"id":"x","kind":"feedback","type":"rating","policy":"router","received":"{received}"}}'.encode()
    data = pack([line] * events)
    store.create(segment_key("team-a", epoch=new_epoch(at), seq=1, events=events, data=data, at=at), data)


def test_each_segment_is_read_once_and_those_before_the_minute_never(tmp_path: Path) -> None:
    store = CountedReads(tmp_path)
    store.reads = []
    put(store, NOON - timedelta(days=40), 100)
    put(store, NOON - timedelta(minutes=2), 10)
    put(store, NOON, 3)
    newer = NewerEvents(store, "team-a")
    for _ in range(3):
        assert newer.count("router", NOON - timedelta(seconds=30), now=NOON) == 3
    assert len(store.reads) == 1
    put(store, NOON + timedelta(hours=13), 5)
    tomorrow = NOON + timedelta(days=1)
    assert newer.count("router", NOON - timedelta(seconds=30), now=tomorrow) == 8
    assert newer.count("router", NOON - timedelta(days=50), now=tomorrow) == 118
    assert sorted(set(store.reads)) == sorted(store.reads), "no segment is read twice"


def test_what_no_question_needs_any_more_is_let_go_and_read_again_when_one_does(tmp_path: Path) -> None:
    store = CountedReads(tmp_path)
    store.reads = []
    put(store, NOON - timedelta(minutes=2), 10)
    newer = NewerEvents(store, "team-a")
    for ask in (True, False, True):
        since = NOON - timedelta(hours=1) if ask else NOON
        for _ in range(1 if ask else 200):
            assert newer.count("router", since, now=NOON) == (10 if ask else 0)
    assert len(store.reads) == 2


async def test_new_feedback_is_asked_of_the_namespaces_gateway_with_the_token_for_gateways(tmp_path: Path) -> None:
    """And whatever is wrong comes back as a sentence for the dataset's status."""
    seen: list[tuple[str, str, str | None]] = []
    told: list[web.Response] = [web.json_response({"events": 7}), web.json_response({"detail": "who?"}, status=401)]
    told += [
        web.Response(text="hello"),
        web.json_response({"events": -1}),
        web.Response(status=302, headers={"Location": "http://elsewhere"}),
    ]

    async def answer(request: web.Request) -> web.Response:
        seen.append((request.path, request.query["since"], request.headers.get("Authorization")))
        return told.pop(0)

    app = web.Application()
    app.router.add_get("/{tail:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    (tmp_path / "token").write_text("for-gateways\n")
    since = datetime(2026, 1, 1, 5, tzinfo=UTC)
    async with aiohttp.ClientSession() as session:

        async def ask(url: str) -> int | str:
            return await GatewayAccess(url, tmp_path / "token").count(session, "team-a", "router", since)

        try:
            said = [await ask(f"http://127.0.0.1:{port}/{{namespace}}") for _ in range(5)]
        finally:
            await runner.cleanup()
        said += [await ask(f"http://127.0.0.1:{port}"), await ask("")]
    assert seen[0] == ("/team-a/api/policies/router/feedback/count", "2026-01-01T05:00:00Z", "Bearer for-gateways")
    assert said[0] == 7
    for text, want in zip(
        said[1:], ("401: who?", "no count", "counts -1", "302", "does not answer", "knows no"), strict=True
    ):
        assert want in str(text)
