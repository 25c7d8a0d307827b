"""One request answers everyone who asked before it began, and nobody who asked later."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from ratchet_operator.cluster.protocol import Cluster, KubeObject, Unavailable
from ratchet_operator.shared_reads import SharedReads


class Server:
    """Answers each get with the version it had when the request came, as soon as the test lets it."""

    def __init__(self) -> None:
        self.version = 0
        self.asked: list[str] = []
        self.fault: Exception | None = None
        self._gates: list[asyncio.Event] = []

    async def get(self, resource: str, namespace: str, name: str) -> KubeObject:
        self.asked.append(name)
        seen, fault, gate = self.version, self.fault, asyncio.Event()
        self._gates.append(gate)
        await gate.wait()
        if fault is not None:
            raise fault
        return {"version": seen}

    async def answer(self) -> None:
        self._gates.pop(0).set()
        await settle()


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def ask(reads: SharedReads, name: str = "d") -> asyncio.Task[Any]:
    task = asyncio.create_task(reads.get("feedbackdatasets", "ns", name))
    await settle()
    return task


def scene() -> tuple[Server, SharedReads]:
    server = Server()
    return server, SharedReads(cast(Cluster, server))


async def test_those_who_ask_during_a_request_share_the_next_one_and_see_what_changed_meanwhile() -> None:
    server, reads = scene()
    first = await ask(reads)
    server.version = 1
    others = [await ask(reads) for _ in range(5)]
    assert server.asked == ["d"]
    await server.answer()
    assert first.result() == {"version": 0}
    assert not any(task.done() for task in others)
    assert server.asked == ["d", "d"]
    await server.answer()
    assert [task.result() for task in others] == [{"version": 1}] * 5
    assert server.asked == ["d", "d"]


async def test_other_objects_have_requests_of_their_own_and_a_later_question_asks_anew() -> None:
    server, reads = scene()
    one, two = await ask(reads, "a"), await ask(reads, "b")
    await server.answer()
    await server.answer()
    assert one.done()
    assert two.done()
    again = await ask(reads, "a")
    await server.answer()
    assert again.done()
    assert server.asked == ["a", "b", "a"]


async def test_a_failure_reaches_everyone_of_its_request_and_nobody_of_the_next() -> None:
    server, reads = scene()
    first = await ask(reads)
    server.fault = Unavailable("away")
    second, third = await ask(reads), await ask(reads)
    await server.answer()
    server.fault = None
    fourth = await ask(reads)
    await server.answer()
    await server.answer()
    assert first.result() == {"version": 0}
    for task in (second, third):
        with pytest.raises(Unavailable, match="away"):
            task.result()
    assert fourth.result() == {"version": 0}


async def test_a_pass_that_is_cut_cuts_nobody_elses_answer() -> None:
    server, reads = scene()
    first = await ask(reads)
    second, third = await ask(reads), await ask(reads)
    first.cancel()
    second.cancel()
    await settle()
    await server.answer()
    await server.answer()
    assert third.result() == {"version": 0}
    later = await ask(reads)
    await server.answer()
    assert later.result() == {"version": 0}
