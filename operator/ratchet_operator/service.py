"""The running operator: builds every part once, starts it, and ends it in order.

Decides the order of start and stop and what ends the process, nothing about objects. Start: probes first, then wait
until the API server serves our kinds, then queue, watches, first resync. Stop: take no further key, let passes end,
then let go of the watches. Called by `__main__` and by tests, which hand in another connection or reconciler.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import time
from collections.abc import Callable, Collection
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import structlog
from prometheus_client import CollectorRegistry, ProcessCollector

from ratchet_api import __version__
from ratchet_operator.cluster.connect import Connection
from ratchet_operator.cluster.gateway import GatewayAccess
from ratchet_operator.cluster.http import HttpCluster
from ratchet_operator.cluster.prometheus import PrometheusAccess
from ratchet_operator.cluster.protocol import Cluster, ClusterError
from ratchet_operator.controllers.heartbeat import EVERY_SECONDS, LIMIT_SECONDS, Heartbeat
from ratchet_operator.controllers.index import Index
from ratchet_operator.controllers.resync import Resync
from ratchet_operator.controllers.watching import CHILDREN, SERVING_CHILDREN, Watching, operator_tasks, watch_tasks
from ratchet_operator.health import EXIT_BLIND, Health, HealthServer, guard
from ratchet_operator.logs import pass_context
from ratchet_operator.metrics import Metrics, measure_loop_lag, result_of
from ratchet_operator.queue import KeyedQueue
from ratchet_operator.reconcile import Reconciler
from ratchet_operator.settings import Settings
from ratchet_operator.sightings import Sightings
from ratchet_operator.wakes import OUR_RESOURCES, Key

_log = structlog.get_logger(__name__)

DRAIN_SECONDS = 20.0
"""Passes get this long to end after SIGTERM; the pod's grace period is 30 seconds."""


class Reconciles(Protocol):
    """One pass over a key."""

    async def reconcile(self, key: Key) -> timedelta | None:
        """Observe, plan and apply once; the time until the key wants another pass."""


MakeReconciler = Callable[[Cluster], Reconciles]


class Service:
    """One operator process.

    Args:
        settings: the administrator's.
        connection: logs in; called again whenever the API server refuses our credentials.
        make_reconciler: builds what runs the passes; by default the real one.
        identity: our pod's name and namespace; None = from RATCHET_POD_NAME and RATCHET_POD_NAMESPACE, else the
            host's name and the login's namespace.
        die: ends the process at once, with an exit code.
    """

    def __init__(
        self,
        settings: Settings,
        connection: Callable[[], Connection],
        *,
        make_reconciler: MakeReconciler | None = None,
        identity: tuple[str, str] | None = None,
        die: Callable[[int], None] = os._exit,
    ) -> None:
        self._settings = settings
        self._connection = connection
        first = connection()
        self._rng = random.Random()
        self._die = die
        self._name, own = identity or _identity(first)
        # The Lease must lie where we watch.
        self._lease_namespace = own if not settings.namespaces or own in settings.namespaces else settings.namespaces[0]
        self._stop = asyncio.Event()
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.metrics = Metrics(self.registry, version=__version__, now=time.monotonic)
        self.health = Health(now=time.monotonic, limit_seconds=LIMIT_SECONDS * settings.time_scale)
        self.server = HealthServer(self.health, self.registry, before_scrape=self._refresh_gauges)
        self.cluster = HttpCluster(
            first,
            namespaces=settings.namespaces,
            on_call=self.metrics.api_call,
            instance=self._name,
            gateways=GatewayAccess(settings.gateway_url, settings.gateway_token_file),
            idle=lambda: self.queue.settled(),
            analyst_url=settings.analyst_url,
            prometheus=PrometheusAccess(settings.prometheus_url, settings.prometheus_seconds),
        )
        self._sightings = Sightings()
        make = make_reconciler or self._real_reconciler
        self._reconciler = make(self.cluster)
        self.queue: KeyedQueue[Key] = KeyedQueue(
            self._pass, workers=settings.workers, rng=self._rng, observer=_QueueMetrics(self.metrics)
        )
        self.index = Index()

    def stop(self) -> None:
        """Ask the service to end, as SIGTERM does."""
        self.health.stopping = True
        self._stop.set()

    async def run(self) -> int:
        """Serve until stopped; returns the exit code."""
        loop = asyncio.get_running_loop()
        self._take_signals(loop)
        await self.server.start(port=self._settings.http_port)
        try:
            async with self.cluster:
                if not await self._api_serves_our_kinds():
                    return 0
                return await self._serve(loop)
        finally:
            await self.server.stop()

    def _take_signals(self, loop: asyncio.AbstractEventLoop) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)

    async def _api_serves_our_kinds(self) -> bool:
        """Wait until each kind can be listed; False if we were stopped before."""
        while True:
            try:
                for resource in OUR_RESOURCES:
                    async for _ in self.cluster.pages(resource, None, fields={"metadata.name": "none"}):
                        break
                return True
            except ClusterError as error:
                # Not red: starting us anew would not bring back the API server, the CRDs or a right.
                _log.warning("waiting_for_the_api_server", error=str(error))
            try:
                async with asyncio.timeout(5.0 * self._settings.time_scale):
                    await self._stop.wait()
                return False
            except TimeoutError:
                continue

    async def _serve(self, loop: asyncio.AbstractEventLoop) -> int:
        heartbeat = Heartbeat(
            self.cluster.apply_lease,
            self.health,
            namespace=self._lease_namespace,
            holder=self._name,
            every_seconds=EVERY_SECONDS * self._settings.time_scale,
        )
        watching = Watching(
            mark=self.queue.mark,
            index=self.index,
            metrics=self.metrics,
            saw_lease=heartbeat.saw,
            sightings=self._sightings,
            is_echo=self.cluster.is_echo,
        )
        resync = Resync(
            self.cluster,
            self.queue,
            self.index,
            self.metrics,
            period_seconds=self._settings.resync_seconds,
            rng=self._rng,
            walked=self._walked,
        )
        watches = await operator_tasks(
            watching,
            connection=self._connection,
            namespaces=self._settings.namespaces,
            children=CHILDREN if self._settings.serving is None else SERVING_CHILDREN,
            time_scale=self._settings.time_scale,
        )
        self._take_signals(loop)  # kopf has just put its own handlers there
        queue = asyncio.create_task(self.queue.run(), name="ratchet queue")
        ours = self._beside(heartbeat, resync)
        _log.info("serving", workers=self._settings.workers, namespaces=list(self._settings.namespaces) or "all")
        stopped = asyncio.create_task(self._stop.wait(), name="ratchet stop")
        await asyncio.wait({stopped, queue, *ours, *watches}, return_when=asyncio.FIRST_COMPLETED)
        code = 0 if stopped.done() else self._failed({queue, *ours, *watches})
        await self._drain(queue)
        await _cancel(watch_tasks())
        await _cancel({stopped, queue, *ours, *watches})
        _log.info("stopped", code=code)
        return code

    def _beside(self, heartbeat: Heartbeat, resync: Resync) -> list[asyncio.Task[None]]:
        """Start what runs for ever beside queue and watches."""
        return [
            asyncio.create_task(heartbeat.run(), name="ratchet heartbeat"),
            asyncio.create_task(resync.run(), name="ratchet resync"),
            asyncio.create_task(measure_loop_lag(self.metrics), name="ratchet loop lag"),
            asyncio.create_task(
                guard(self.health, every_seconds=5.0 * self._settings.time_scale, end=self._blind), name="ratchet guard"
            ),
        ]

    def _failed(self, tasks: Collection[asyncio.Task[Any]]) -> int:
        """Something that runs for ever has ended: say so, turn the probe red, and choose the exit code."""
        for task in tasks:
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                why = f"{task.get_name()}: {error}"
                break
        else:
            why = ", ".join(task.get_name() for task in tasks if task.done()) + " ended"
        self.health.watches_died(why)
        _log.error("cannot_go_on", because=why)
        return EXIT_BLIND

    async def _drain(self, queue: asyncio.Task[None]) -> None:
        self.queue.stop()
        _, late = await asyncio.wait({queue}, timeout=DRAIN_SECONDS)
        if late:
            _log.warning("passes_cut", in_work=self.queue.in_work, after_seconds=DRAIN_SECONDS)

    def _blind(self, why: str) -> None:
        _log.error("exit", because=why)
        self._die(EXIT_BLIND)

    def _walked(self) -> None:
        self.health.listed = True

    def _refresh_gauges(self) -> None:
        self.metrics.queue_oldest_seconds.set(self.queue.oldest_wait_seconds())
        self.metrics.heartbeat_age_seconds.set(self.health.blind_seconds())

    async def _pass(self, key: Key) -> timedelta | None:
        with pass_context(kind=key.plural, namespace=key.namespace, name=key.name):
            return await self._reconciler.reconcile(key)

    def _real_reconciler(self, cluster: Cluster) -> Reconciles:
        return Reconciler(cluster, self._settings, _utc_now, self._rng, self._sightings)


class _QueueMetrics:
    """Tells metrics and log what the queue did."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def depth_changed(self, waiting: int, in_work: int) -> None:
        """Set the gauges."""
        self._metrics.depth(waiting=waiting, in_work=in_work)

    def pass_ended(
        self, key: Key, *, waited_seconds: float, took_seconds: float, error: Exception | None, retry_seconds: float
    ) -> None:
        """Count the pass; log what failed, with a traceback only where the fault is ours."""
        self._metrics.pass_ended(key.plural, waited=waited_seconds, took=took_seconds, error=error)
        if error is None:
            return
        log = _log.bind(kind=key.plural, namespace=key.namespace, name=key.name, retry_seconds=round(retry_seconds, 1))
        match result_of(error):
            case "conflict":
                log.debug("pass_conflicted", error=str(error))
            case "bug":
                log.error("pass_failed", exc_info=error)
            case result:
                log.warning("pass_failed", result=result, error=str(error))


def _identity(connection: Connection) -> tuple[str, str]:
    name = os.environ.get("RATCHET_POD_NAME") or socket.gethostname()
    namespace = os.environ.get("RATCHET_POD_NAMESPACE") or connection.namespace or "default"
    return name, namespace


def _utc_now() -> datetime:
    return datetime.now(UTC)


async def _cancel(tasks: Collection[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=5.0)
