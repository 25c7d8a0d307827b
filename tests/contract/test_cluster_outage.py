"""How the running operator lives through a bad API server (P1, P2, P3, T5), against a real one behind a bad proxy.

Every test runs the whole service with a reconciler that only notes keys. Times are scaled by `time_scale`; at full
length the same tests take minutes each.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta

import aiohttp
import pytest

from ratchet_operator.controllers.heartbeat import EVERY_SECONDS, LIMIT_SECONDS
from ratchet_operator.controllers.watching import watch_tasks
from ratchet_operator.service import Service
from ratchet_operator.settings import Settings
from ratchet_operator.wakes import Key
from tests.contract.faultproxy import Fault, FaultProxy, any_request, lists_of, watches, watches_of
from tests.contract.objects import run
from tests.controlplane import ControlPlane

pytestmark = pytest.mark.cluster
_numbers = itertools.count(1)


class Notebook:
    """A reconciler that only notes which keys were passed over."""

    def __init__(self) -> None:
        self.keys: list[Key] = []

    async def reconcile(self, key: Key) -> timedelta | None:
        self.keys.append(key)
        return None


class Operator:
    """A service in this process, its proxy, and what it did."""

    def __init__(self, plane: ControlPlane, proxy: FaultProxy, namespace: str, time_scale: float) -> None:
        self.plane, self.proxy, self.namespace, self.scale = plane, proxy, namespace, time_scale
        self.notes = Notebook()
        self.deaths: list[int] = []
        self.died = asyncio.Event()
        settings = Settings(
            namespaces=(namespace,), time_scale=time_scale, http_port=0, resync_seconds=3600 * time_scale
        )
        self.service = Service(
            settings,
            lambda: plane.connection(server=proxy.url),
            make_reconciler=lambda _: self.notes,
            identity=("operator-0", namespace),
            die=self._die,
        )
        self.task = asyncio.create_task(self.service.run())

    def _die(self, code: int) -> None:
        self.deaths.append(code)
        self.died.set()

    async def probe(self, path: str) -> int:
        url = f"http://127.0.0.1:{self.service.server.port}{path}"
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            return response.status

    async def until(self, what: Callable[[], bool], *, seconds: float) -> None:
        """Wait until something is so; `seconds` at full length, scaled, with slack for a busy machine."""
        async with asyncio.timeout(seconds * self.scale + 20):
            while not what():
                await asyncio.sleep(0.02)

    async def until_ready(self) -> None:
        await self.until(lambda: self.service.health.unready() is None, seconds=60)

    def create_run(self, name: str) -> None:
        self.plane.apply(
            f"/apis/ratchet.dev/v1alpha1/namespaces/{self.namespace}/rltrainingruns/{name}", run(self.namespace, name)
        )

    async def notices(self, name: str, *, seconds: float) -> None:
        """Create a run and wait until its key was passed over: the proof that the watch works."""
        self.create_run(name)
        key = Key("rltrainingruns", self.namespace, name)
        await self.until(lambda: key in self.notes.keys, seconds=seconds)


@pytest.fixture
async def operator(control_plane: ControlPlane, time_scale: float) -> AsyncIterator[Operator]:
    namespace = control_plane.namespace(f"outage-{next(_numbers)}")
    async with operator_in(control_plane, namespace, time_scale) as running:
        yield running


@asynccontextmanager
async def operator_in(plane: ControlPlane, namespace: str, time_scale: float) -> AsyncIterator[Operator]:
    async with FaultProxy(plane.url, plane.connection().tls) as proxy:
        running = Operator(plane, proxy, namespace, time_scale)
        try:
            await running.until_ready()
            yield running
        finally:
            running.proxy.clear()
            running.service.stop()
            await asyncio.wait({running.task}, timeout=30)
            running.task.cancel()


async def test_a_new_object_is_noticed_and_the_probes_are_green(operator: Operator) -> None:
    assert await operator.probe("/healthz") == 200
    assert await operator.probe("/readyz") == 200
    await operator.notices("a", seconds=5)


async def test_a_stop_ends_the_process_orderly_with_code_0(operator: Operator) -> None:
    operator.service.stop()
    assert operator.service.health.unready() == "stopping"
    assert await asyncio.wait_for(operator.task, 25) == 0


async def test_cut_streams_are_resumed(operator: Operator) -> None:
    operator.proxy.cut_streams()
    await operator.notices("a", seconds=30)
    assert not operator.deaths


async def test_a_stream_that_says_410_is_listed_anew(operator: Operator) -> None:
    gone = {"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired"}}
    fault = operator.proxy.add(Fault(match=watches_of("rltrainingruns"), stream_event=gone, times=2))
    before = operator.proxy.count("GET", "/rltrainingruns?")
    operator.proxy.cut_streams()
    await operator.notices("a", seconds=30)
    assert fault.struck == 2
    assert operator.proxy.count("GET", "/rltrainingruns?") > before + 2, "no list between the watches"


async def test_an_outage_shorter_than_ten_minutes_needs_no_human_and_no_restart(
    operator: Operator, time_scale: float
) -> None:
    """P3, T5: every request is refused for nine minutes, watches and lists included, in each of the usual ways."""
    operator.proxy.cut_streams()
    for status in (500, 503, 403, 429):
        operator.proxy.clear()
        fault = operator.proxy.add(Fault(match=any_request, status=status, message="injected outage"))
        await asyncio.sleep(540 / 4 * time_scale)
        assert fault.struck > 0
        assert not operator.task.done()
        assert await operator.probe("/healthz") == 200, "an outage of the API must not restart us: it would not help"
    assert not operator.deaths
    operator.proxy.clear()
    await operator.notices("a", seconds=120)


async def test_refused_connections_for_ten_minutes_need_no_human(operator: Operator, time_scale: float) -> None:
    """P3."""
    operator.proxy.add(Fault(match=any_request, reset=True))
    operator.proxy.cut_streams()
    await asyncio.sleep(600 * time_scale)
    operator.proxy.clear()
    assert not operator.deaths
    await operator.notices("a", seconds=120)


async def test_an_outage_longer_than_the_patience_ends_the_process(operator: Operator) -> None:
    """P3: what does not heal inside is healed by a new process; the exit code says why."""
    operator.proxy.add(Fault(match=watches, status=503, message="injected outage"))
    operator.proxy.cut_streams()
    await operator.until(operator.task.done, seconds=700)
    assert operator.task.result() == 70


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(
            Fault(
                match=watches_of("rltrainingruns"),
                stream_event={"type": "ERROR", "object": {"kind": "Status", "code": 500, "message": "etcd is gone"}},
            ),
            id="a 500 inside the stream",
        ),
        pytest.param(Fault(match=lists_of("rltrainingruns"), status=410, message="expired"), id="410 for a list"),
        pytest.param(Fault(match=lists_of("rltrainingruns"), status=404, message="no CRD"), id="the kind vanished"),
    ],
)
async def test_what_kopf_cannot_ride_out_ends_the_process_at_once(operator: Operator, fault: Fault) -> None:
    """P1, T5: exit and restart, never a zombie."""
    gone = {"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired"}}
    if fault.status:  # make kopf list again
        operator.proxy.add(Fault(match=watches_of("rltrainingruns"), stream_event=gone, times=1))
    operator.proxy.add(fault)
    operator.proxy.cut_streams()
    await operator.until(operator.task.done, seconds=60)
    assert operator.task.result() == 70
    assert fault.struck >= 1


async def test_a_silent_watch_is_replaced_before_the_heartbeat_gives_up(operator: Operator, time_scale: float) -> None:
    """P1: the connection stays up and carries nothing, as behind a dead load balancer."""
    operator.proxy.silent.set()
    await asyncio.sleep(EVERY_SECONDS * time_scale)  # a stored beat is swallowed
    operator.proxy.silent.clear()  # only new streams work again; the old ones stay dead
    await operator.notices("a", seconds=LIMIT_SECONDS)
    assert not operator.deaths


async def test_a_watch_that_stays_silent_turns_the_probe_red_and_then_ends_the_process(operator: Operator) -> None:
    """P1, P2: within four minutes at full length."""
    operator.proxy.silent.set()
    await operator.until(
        lambda: operator.service.health.sick() is not None, seconds=EVERY_SECONDS + LIMIT_SECONDS / 2 + 10
    )
    assert await operator.probe("/healthz") == 503
    assert not operator.deaths
    await operator.until(operator.died.is_set, seconds=LIMIT_SECONDS / 2 + 10)
    assert operator.deaths == [70]


async def test_cancelled_watchers_turn_the_probe_red_and_then_end_the_process(operator: Operator) -> None:
    """P2: kopf never replaces a cancelled watcher and says nothing; only the heartbeat notices."""
    watchers = watch_tasks()
    assert len(watchers) == 6
    for task in watchers:
        task.cancel()
    await operator.until(
        lambda: operator.service.health.sick() is not None, seconds=EVERY_SECONDS + LIMIT_SECONDS / 2 + 10
    )
    assert await operator.probe("/healthz") == 503
    await operator.until(operator.died.is_set, seconds=LIMIT_SECONDS)
    assert operator.deaths == [70]


async def test_an_operator_that_starts_before_the_api_server_waits_for_it(
    control_plane: ControlPlane, time_scale: float
) -> None:
    namespace = control_plane.namespace(f"outage-{next(_numbers)}")
    async with FaultProxy(control_plane.url, control_plane.connection().tls) as proxy:
        proxy.add(Fault(match=any_request, reset=True))
        waiting = Operator(control_plane, proxy, namespace, time_scale)
        await waiting.until(lambda: waiting.service.server.port > 0, seconds=20)
        await asyncio.sleep(20 * time_scale)
        assert await waiting.probe("/healthz") == 200
        assert await waiting.probe("/readyz") == 503
        proxy.clear()
        await waiting.notices("a", seconds=60)
        await waiting.until_ready()  # one watch may have seen the run before another was begun
        waiting.service.stop()
        assert await asyncio.wait_for(waiting.task, 25) == 0
