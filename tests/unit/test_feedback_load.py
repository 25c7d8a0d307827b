"""The load generator of `bench/feedback`: what it must survive to measure anything."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
import uvloop

from bench.feedback.load import Connection, Measured, by_the_clock

_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


def _asked_twice(answers_per_connection: int, *, closes_at_once: bool) -> tuple[list[int], int]:
    """Ask twice over one kept connection; return the answers, and how many connections the server saw."""
    opened = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal opened
        opened += 1
        for _ in range(answers_per_connection):
            if await reader.readline() == b"":
                break
            await reader.readuntil(b"\r\n\r\n")
            writer.write(_ANSWER)
        if not closes_at_once:  # the next request is on its way when the connection ends
            await reader.readline()
        writer.close()

    async def ask() -> list[int]:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            connection = Connection(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
            request = b"POST / HTTP/1.1\r\nHost: b\r\n\r\n"
            answers = [await connection.ask(request)]
            while closes_at_once and not connection.closed:
                await asyncio.sleep(0)
            answers.append(await connection.ask(request))
            connection.close()
        return answers

    return asyncio.run(asyncio.wait_for(ask(), 60)), opened


@pytest.mark.parametrize("closes_at_once", [True, False], ids=["while idle", "when the next request comes"])
def test_a_kept_connection_that_the_server_closed_is_opened_anew(closes_at_once: bool) -> None:
    assert _asked_twice(1, closes_at_once=closes_at_once) == ([200, 200], 2)


def test_a_kept_connection_that_lives_is_used_again() -> None:
    assert _asked_twice(2, closes_at_once=False) == ([200, 200], 1)


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop, as the bench has it"])
def test_an_answer_that_comes_in_pieces_is_one_answer_and_its_time_counts_from_when_it_was_asked(
    run: Callable[..., Measured],
) -> None:
    """What the server takes is its latency; what the sender was late by stands apart, as lag."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readline():
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0]))
            for part in (_ANSWER[:10], _ANSWER[10:-1], _ANSWER[-1:]):
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(0)
        writer.close()

    async def measure() -> Measured:
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            return await by_the_clock(url, rate=200, seconds=0.1)

    measured = run(asyncio.wait_for(measure(), 60))
    assert (measured.events, measured.refused, len(measured.latencies), len(measured.lags)) == (20, 0, 20, 20)
    assert min(measured.lags) >= 0
    assert measured.seconds >= 0.095, "the last is due 95 ms after the first, however quick the answers are"


def test_a_server_that_answers_nothing_at_all_ends_the_measurement() -> None:
    with pytest.raises(ConnectionError):
        _asked_twice(0, closes_at_once=True)
