"""Events are told after what is done, but neither late nor never."""

from __future__ import annotations

import asyncio
from typing import Any

from ratchet_operator.cluster.events import EventSink
from tests.unit.virtual_time import run_virtual


def thing(name: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Thing", "metadata": {"namespace": "ns", "name": name, "uid": f"uid of {name}"}}


class Office:
    """Passes that end when the test says so, and what was posted when."""

    def __init__(self) -> None:
        self.idle = asyncio.Event()
        self.posted: list[tuple[float, str]] = []
        self.sink = EventSink(self._post, instance="me", idle=self._wait)
        self.sink.start()

    async def _wait(self) -> None:
        await self.idle.wait()

    async def _post(self, event: dict[str, Any]) -> None:
        self.posted.append((asyncio.get_running_loop().time(), event["note"]))

    def tell(self, note: str, about: str = "a") -> None:
        self.sink.put(thing(about), type="Normal", reason="Accepted", message=note)


def test_an_event_waits_until_the_passes_are_done() -> None:
    async def main() -> None:
        office = Office()
        office.tell("first")
        await asyncio.sleep(2)
        assert office.posted == []
        office.idle.set()
        await office.sink.flush()
        assert office.posted == [(2.0, "first")]
        await office.sink.close()

    run_virtual(main())


def test_passes_that_never_end_delay_an_event_by_five_seconds() -> None:
    async def main() -> None:
        office = Office()
        office.tell("first")
        await asyncio.sleep(3)
        office.tell("second")
        await office.sink.flush()
        assert office.posted == [(5.0, "first"), (8.0, "second")]
        await office.sink.close()

    run_virtual(main())


def test_events_go_out_before_they_would_be_dropped_and_when_the_operator_ends() -> None:
    async def main() -> None:
        office = Office()
        for number in range(600):
            office.tell(f"{number}", about=f"thing-{number}")
        await asyncio.sleep(1)
        assert len(office.posted) == 600 - 512 - 1  # one more is in the sender's hand
        await office.sink.close()
        assert len(office.posted) == 600

    run_virtual(main())
