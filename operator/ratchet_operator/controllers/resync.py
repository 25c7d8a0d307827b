"""Walks over all objects now and then, because an event may be lost, a DELETED one for good.

Decides only when and how spread out: every key is marked at a random moment of the period, so a thousand objects
never arrive at once. What is no longer listed is forgotten (mark and sweep). Called by `__main__`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import timedelta
from typing import Protocol

import structlog

from ratchet_operator.cluster.protocol import ClusterError, KubeObject, Resource
from ratchet_operator.controllers.index import Index
from ratchet_operator.metrics import Metrics
from ratchet_operator.queue import KeyedQueue
from ratchet_operator.wakes import OUR_RESOURCES, Key, key_of

_log = structlog.get_logger(__name__)

_SPREAD = 0.5
"""Share of the period over which the marks of one walk are spread."""


class Pages(Protocol):
    """What the resync needs of the cluster: lists that never stand in memory whole."""

    def pages(self, resource: Resource, namespace: str | None) -> AsyncIterator[Sequence[KubeObject]]:
        """Yield all objects, page by page."""


class Resync:
    """One walk after the other.

    Args:
        cluster: lists the objects.
        queue: gets the marks.
        index: is brought up to date and swept.
        metrics: loses the series of what vanished.
        period_seconds: between two walks, ±10 % at random.
        rng: spreads walks and marks.
        walked: called after each complete walk.
    """

    def __init__(
        self,
        cluster: Pages,
        queue: KeyedQueue[Key],
        index: Index,
        metrics: Metrics,
        *,
        period_seconds: float,
        rng: random.Random,
        walked: Callable[[], None] = lambda: None,
    ) -> None:
        self._cluster = cluster
        self._queue = queue
        self._index = index
        self._metrics = metrics
        self._period = period_seconds
        self._rng = rng
        self._walked = walked

    async def run(self) -> None:
        """Walk for ever; the first walk is at once and marks without spreading, for a quick start."""
        spread = 0.0
        while True:
            try:
                await self.walk(spread_seconds=spread)
                spread = self._period * _SPREAD
                pause = self._period * self._rng.uniform(0.9, 1.1)
            except ClusterError as error:
                self._metrics.resync_total.labels(result="failed").inc()
                _log.warning("resync_failed", error=str(error))
                pause = min(self._period, 15.0)
            await asyncio.sleep(pause)

    async def walk(self, *, spread_seconds: float) -> None:
        """List every object once, mark it, and sweep what is gone.

        Raises:
            ClusterError: a list failed; nothing was swept then.
        """
        before = self._index.snapshot()
        seen: set[Key] = set()
        for resource in OUR_RESOURCES:
            async for page in self._cluster.pages(resource, None):
                for obj in page:
                    key = key_of(resource, obj)
                    seen.add(key)
                    if self._index.update(key, obj):
                        self._mark_namers(key)
                    if resource == "rltrainingruns":
                        self._metrics.run_seen(obj)
                    if resource == "rlpolicies":
                        self._metrics.policy_seen(obj)
                    self._queue.mark(key, after=timedelta(seconds=self._rng.uniform(0, spread_seconds)))
        self._sweep(before, seen)
        self._metrics.resync_total.labels(result="ok").inc()
        self._walked()

    def _sweep(self, before: dict[Key, str], seen: set[Key]) -> None:
        # Only what was known before the walk: a newer object may have come after its page was read.
        for key, uid in before.items():
            if key in seen or not self._index.remove(key, uid):
                continue
            _log.info("swept", plural=key.plural, namespace=key.namespace, name=key.name)
            if key.plural == "rltrainingruns":
                self._metrics.run_gone(key.namespace, key.name)
            if key.plural == "rlpolicies":
                self._metrics.policy_gone(key.namespace, key.name)
            self._queue.forget(key)
            self._mark_namers(key)

    def _mark_namers(self, key: Key) -> None:
        for namer in self._index.namers(key):
            self._queue.mark(namer)
