"""The rules of the keyed queue, in virtual time: no test here waits."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest

from ratchet_operator.queue import Backoff, KeyedQueue
from tests.unit.virtual_time import Deadlock, run_virtual


class Diary:
    """Observer and bookkeeper: which key ran when, and what happened to it."""

    def __init__(self) -> None:
        self.starts: list[tuple[float, str]] = []
        self.ends: list[tuple[str, Exception | None, float]] = []
        self.running: set[str] = set()
        self.most_at_once = 0
        self.overlapped = False

    def depth_changed(self, waiting: int, in_work: int) -> None:
        self.most_at_once = max(self.most_at_once, in_work)

    def pass_ended(
        self, key: str, *, waited_seconds: float, took_seconds: float, error: Exception | None, retry_seconds: float
    ) -> None:
        self.ends.append((key, error, retry_seconds))

    def times(self, key: str) -> list[float]:
        return [at for at, name in self.starts if name == key]

    def work(self, body: Callable[[str], Awaitable[timedelta | None]]) -> Callable[[str], Awaitable[timedelta | None]]:
        async def run(key: str) -> timedelta | None:
            self.overlapped |= key in self.running
            self.running.add(key)
            self.starts.append((asyncio.get_running_loop().time(), key))
            try:
                return await body(key)
            finally:
                self.running.discard(key)

        return run


async def with_queue(
    body: Callable[[str], Awaitable[timedelta | None]],
    script: Callable[[KeyedQueue[str]], Awaitable[None]],
    *,
    workers: int = 2,
    backoff: Backoff | None = None,
    pass_timeout_seconds: float = 120.0,
) -> Diary:
    diary = Diary()
    queue = KeyedQueue(
        diary.work(body),
        workers=workers,
        rng=random.Random(1),
        backoff=backoff,
        pass_timeout_seconds=pass_timeout_seconds,
        observer=diary,
    )
    running = asyncio.create_task(queue.run())
    await script(queue)
    queue.stop()
    await running
    return diary


async def nothing_more(_: str) -> None:
    return None


async def takes_ten_seconds(_: str) -> None:
    await asyncio.sleep(10)


def test_a_key_marked_many_times_while_it_waits_runs_once() -> None:
    async def script(queue: KeyedQueue[str]) -> None:
        for _ in range(50):
            queue.mark("a")
        await queue.settled()

    assert run_virtual(with_queue(nothing_more, script)).times("a") == [0.0]


def test_a_key_marked_while_in_work_runs_exactly_once_more_and_never_beside_itself() -> None:
    async def script(queue: KeyedQueue[str]) -> None:
        queue.mark("a")
        await asyncio.sleep(3)
        queue.mark("a")
        queue.mark("a")
        await asyncio.sleep(60)

    diary = run_virtual(with_queue(takes_ten_seconds, script))
    assert diary.times("a") == [0.0, 10.0]
    assert not diary.overlapped


def test_as_many_keys_run_at_once_as_there_are_workers_and_the_first_marked_goes_first() -> None:
    async def script(queue: KeyedQueue[str]) -> None:
        for key in "abcde":
            queue.mark(key)
        await asyncio.sleep(100)

    diary = run_virtual(with_queue(takes_ten_seconds, script, workers=2))
    assert diary.most_at_once == 2
    assert diary.starts == [(0.0, "a"), (0.0, "b"), (10.0, "c"), (10.0, "d"), (20.0, "e")]


def test_news_go_before_second_looks_but_every_fourth_turn_is_a_looks() -> None:
    """P18: a change of one run does not wait for a thousand others that are merely looked at again."""

    async def body(key: str) -> None:
        await asyncio.sleep(1)

    async def script(queue: KeyedQueue[str]) -> None:
        for number in range(6):
            queue.mark(f"look-{number}", after=timedelta(seconds=0.1 + number * 0.05))
        queue.mark("first")
        await asyncio.sleep(0.6)
        for number in range(5):
            queue.mark(f"news-{number}")
        queue.mark("look-5")  # news of a key that waits for its look
        await queue.settled()

    diary = run_virtual(with_queue(body, script, workers=1))
    assert [name for _, name in diary.starts] == [
        "first", "news-0", "news-1", "look-0", "news-2", "news-3", "news-4", "look-1", "look-5", "look-2", "look-3",
        "look-4",
    ]  # fmt: skip


def test_a_pass_may_ask_for_its_next_one() -> None:
    async def every_minute(_: str) -> timedelta:
        return timedelta(seconds=60)

    async def script(queue: KeyedQueue[str]) -> None:
        queue.mark("a")
        await asyncio.sleep(150)

    assert run_virtual(with_queue(every_minute, script)).times("a") == [0.0, 60.0, 120.0]


def test_of_several_later_marks_the_earliest_holds_and_a_mark_for_now_overtakes_it() -> None:
    async def script(queue: KeyedQueue[str]) -> None:
        queue.mark("a", after=timedelta(seconds=50))
        queue.mark("a", after=timedelta(seconds=30))
        queue.mark("a", after=timedelta(seconds=40))
        queue.mark("b", after=timedelta(seconds=30))
        await asyncio.sleep(5)
        queue.mark("b")
        await asyncio.sleep(100)

    diary = run_virtual(with_queue(nothing_more, script))
    assert diary.times("a") == [30.0]
    assert diary.times("b") == [5.0]


def test_a_failing_key_backs_off_exponentially_with_jitter_up_to_the_cap() -> None:
    async def fails(_: str) -> None:
        raise RuntimeError("broken")

    async def script(queue: KeyedQueue[str]) -> None:
        queue.mark("a")
        await asyncio.sleep(400)

    starts = run_virtual(with_queue(fails, script, backoff=Backoff(1.0, 60.0))).times("a")
    gaps = [later - earlier for earlier, later in itertools.pairwise(starts)]
    wholes = [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert len(gaps) >= len(wholes) - 1
    for gap, whole in zip(gaps, wholes, strict=False):
        assert whole / 2 <= gap <= whole
    assert len({round(gap / whole, 6) for gap, whole in zip(gaps, wholes, strict=False)}) > 1, "no jitter"


def test_success_resets_the_backoff() -> None:
    fate = iter([True, True, True, False, True, True])

    async def sometimes(_: str) -> None:
        if next(fate, False):
            raise RuntimeError("broken")

    async def script(queue: KeyedQueue[str]) -> None:
        queue.mark("a")
        await asyncio.sleep(60)
        queue.mark("a")
        await asyncio.sleep(60)

    diary = run_virtual(with_queue(sometimes, script, backoff=Backoff(1.0, 60.0)))
    retries = [retry for _, error, retry in diary.ends if error is not None]
    assert 0.5 <= retries[3] <= 1.0  # the first failure after the success pauses like the very first


def test_the_servers_wish_to_be_left_alone_lengthens_the_pause() -> None:
    class Busy(Exception):
        retry_after_seconds = 20.0

    async def busy(_: str) -> None:
        raise Busy

    async def script(queue: KeyedQueue[str]) -> None:
        queue.mark("a")
        await asyncio.sleep(30)

    assert run_virtual(with_queue(busy, script)).times("a") == [0.0, 20.0]


def test_a_poison_key_delays_no_other_key() -> None:
    """P15: the queue's share of it."""

    async def poison(key: str) -> None:
        if key == "poison":
            raise ValueError("cannot be parsed")

    async def script(queue: KeyedQueue[str]) -> None:
        queue.mark("poison")
        for number in range(20):
            queue.mark(f"good {number}")
        await queue.settled()

    diary = run_virtual(with_queue(poison, script, workers=1))
    assert sum(name.startswith("good") and at == 0.0 for at, name in diary.starts) == 20


def test_a_hung_pass_is_cut_and_repeated_and_its_worker_is_free_again() -> None:
    async def hangs(key: str) -> None:
        if key == "hung":
            await asyncio.Event().wait()

    async def script(queue: KeyedQueue[str]) -> None:
        queue.mark("hung")
        queue.mark("next")
        await asyncio.sleep(31)

    diary = run_virtual(with_queue(hangs, script, workers=1, pass_timeout_seconds=30))
    assert diary.times("next") == [30.0]
    assert isinstance(diary.ends[0][1], TimeoutError)
    assert len(diary.times("hung")) == 2


def test_stop_finishes_the_passes_in_work_and_starts_no_other() -> None:
    async def script(queue: KeyedQueue[str]) -> None:
        for key in "abc":
            queue.mark(key)
        queue.mark("later", after=timedelta(seconds=5))
        await asyncio.sleep(1)
        queue.stop()
        queue.mark("d")

    diary = run_virtual(with_queue(takes_ten_seconds, script, workers=2))
    assert [name for _, name in diary.starts] == ["a", "b"]
    assert sorted(name for name, error, _ in diary.ends if error is None) == ["a", "b"]


def test_forget_drops_a_vanished_keys_later_pass() -> None:
    async def script(queue: KeyedQueue[str]) -> None:
        queue.mark("a", after=timedelta(seconds=5))
        queue.forget("a")
        assert queue.scheduled == 0
        await asyncio.sleep(10)

    assert run_virtual(with_queue(nothing_more, script)).starts == []


def test_at_least_one_worker_is_needed() -> None:
    with pytest.raises(ValueError, match="workers must be at least 1, not 0"):
        KeyedQueue(nothing_more, workers=0, rng=random.Random(1))


def test_the_virtual_clock_names_a_deadlock_instead_of_hanging() -> None:
    with pytest.raises(Deadlock):
        run_virtual(asyncio.Event().wait())
