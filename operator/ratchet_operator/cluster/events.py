"""Sends Kubernetes Events beside the passes, so that telling people things never slows or fails a pass.

Decides which Events are dropped: repeats within ten minutes, more than a burst per object, and whatever does not
fit the bounded queue. One sender, so a thousand runs at once cost the API server one Event at a time; and doing goes
before telling, so it waits for the passes, though not for long. Called by `cluster.http`.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Literal

import structlog

from ratchet_api.names import FIELD_MANAGER, short_hash
from ratchet_operator.cluster.protocol import ClusterError, KubeObject

_log = structlog.get_logger(__name__)

_REPEAT_SECONDS = 600.0
_REMEMBERED = 4096
_BURST = 20
_REFILL_SECONDS = 60.0  # one more Event per object and minute after a burst, as client-go's spam filter does
_QUEUE = 1024
_PATIENCE_SECONDS = 5.0  # an Event waits no longer than this for passes to end
_NOTE_LIMIT = 1024  # the API server refuses longer notes
_NAME_LIMIT = 253

EventType = Literal["Normal", "Warning"]


class EventSink:
    """Bounded queue of Events with one sender.

    Args:
        post: sends one Event; what it raises is logged and never repeated.
        instance: our pod's name.
        idle: returns when no pass waits or runs, which is when an Event disturbs nobody.
    """

    def __init__(
        self,
        post: Callable[[KubeObject], Awaitable[None]],
        *,
        instance: str,
        idle: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._post = post
        self._instance = instance
        self._idle = idle
        self._queue: asyncio.Queue[tuple[float, KubeObject]] = asyncio.Queue(_QUEUE)  # when put, what
        self._sent: OrderedDict[tuple[str, str, str, str], float] = OrderedDict()
        self._tokens: OrderedDict[str, tuple[float, float]] = OrderedDict()  # uid -> tokens left, when
        self._sender: asyncio.Task[None] | None = None
        self._patience: asyncio.Timeout | None = None

    def start(self) -> None:
        """Begin to send."""
        self._sender = asyncio.create_task(self._send(), name="ratchet event sender")

    async def close(self) -> None:
        """Give queued Events two seconds, then stop."""
        if self._sender is None:
            return
        self._idle = None  # a pass that hangs must not cost the last words
        if self._patience is not None:
            self._patience.reschedule(asyncio.get_running_loop().time())
        try:
            async with asyncio.timeout(2.0):
                await self._queue.join()
        except TimeoutError:
            _log.warning("events_dropped_at_stop", count=self._queue.qsize())
        self._sender.cancel()
        await asyncio.gather(self._sender, return_exceptions=True)

    async def flush(self) -> None:
        """Wait until the queue is empty."""
        await self._queue.join()

    def put(self, obj: KubeObject, *, type: EventType, reason: str, message: str) -> None:
        """Queue an Event unless it repeats, floods or finds the queue full."""
        metadata = obj["metadata"]
        uid = str(metadata.get("uid", ""))
        now = asyncio.get_running_loop().time()
        key = (uid, type, reason, message)
        if self._repeats(key, now) or not self._take_token(uid, now):
            return
        stamp = datetime.now(UTC)
        event = {
            "metadata": {
                "namespace": metadata["namespace"],
                "name": _name(str(metadata["name"]), f"{key}{stamp.isoformat()}"),
            },
            "eventTime": stamp.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "reportingController": FIELD_MANAGER,
            "reportingInstance": self._instance[:128],
            "action": reason,
            "reason": reason,
            "type": type,
            "note": message[:_NOTE_LIMIT],
            "regarding": {
                "apiVersion": obj.get("apiVersion"),
                "kind": obj.get("kind"),
                "namespace": metadata["namespace"],
                "name": metadata["name"],
                "uid": uid,
                "resourceVersion": metadata.get("resourceVersion"),
            },
        }
        try:
            self._queue.put_nowait((now, event))
        except asyncio.QueueFull:
            _log.warning("event_dropped", reason=reason, object=metadata["name"], because="queue is full")

    def _repeats(self, key: tuple[str, str, str, str], now: float) -> bool:
        last = self._sent.get(key)
        if last is not None and now - last < _REPEAT_SECONDS:
            return True
        self._sent[key] = now
        self._sent.move_to_end(key)
        while len(self._sent) > _REMEMBERED:
            self._sent.popitem(last=False)
        return False

    def _take_token(self, uid: str, now: float) -> bool:
        left, since = self._tokens.get(uid, (float(_BURST), now))
        left = min(float(_BURST), left + (now - since) / _REFILL_SECONDS)
        allowed = left >= 1.0
        self._tokens[uid] = (left - 1.0 if allowed else left, now)
        self._tokens.move_to_end(uid)
        while len(self._tokens) > _REMEMBERED:
            self._tokens.popitem(last=False)
        return allowed

    async def _send(self) -> None:
        while True:
            since, event = await self._queue.get()
            try:
                await self._wait_for_passes(since + _PATIENCE_SECONDS)
                await self._post(event)
            except ClusterError as error:
                # An Event is a courtesy: the same fact stands in status.
                _log.warning("event_not_sent", reason=event["reason"], error=str(error))
            finally:
                self._queue.task_done()

    async def _wait_for_passes(self, until: float) -> None:
        if self._idle is None or self._queue.qsize() > _QUEUE // 2:  # rather early than dropped
            return
        with suppress(TimeoutError):
            async with asyncio.timeout_at(until) as self._patience:
                await self._idle()
        self._patience = None


def _name(stem: str, text: str) -> str:
    suffix = short_hash(text, 16)
    return f"{stem[: _NAME_LIMIT - len(suffix) - 1].rstrip('-.')}.{suffix}"
