"""What the probes say, and when the process must end itself.

Decides from the heartbeat alone whether the operator still sees the cluster: a beat that the API server accepted
must come back on the watch. Not seen for half the limit turns /healthz red, for the whole limit ends the process
(the kubelet starts a new one). Beats that the server did not accept prove nothing, so an API outage is ridden out.
Serves /healthz, /readyz and /metrics on one port. Called by `__main__`; `controllers.heartbeat` feeds it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import structlog
from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

_log = structlog.get_logger(__name__)

EXIT_BLIND = 70
"""Exit code of an operator that no longer sees the cluster (EX_SOFTWARE)."""


@dataclass(slots=True)
class Health:
    """The facts behind the probes.

    Attributes:
        now: seconds of a monotonic clock.
        limit_seconds: a stored beat that is not seen for this long ends the process.
        listed: every object was listed and marked once.
        stopping: the process was asked to end.
        unseen_since: when the oldest beat was stored that the watch has not shown yet; None = all seen. Time in
            which the API server refused beats is added to it: an outage is not blindness.
        last_beat: when a beat was tried last.
        last_seen: when the watch showed a beat last; None = never.
        dead: why the watches ended for good; empty = they run.
    """

    now: Callable[[], float]
    limit_seconds: float
    listed: bool = False
    stopping: bool = False
    unseen_since: float | None = None
    last_beat: float | None = None
    last_seen: float | None = None
    dead: str = ""

    def beat_stored(self) -> None:
        """The API server accepted a heartbeat."""
        self.last_beat = self.now()
        if self.unseen_since is None:
            self.unseen_since = self.last_beat

    def beat_refused(self) -> None:
        """The API server did not accept a heartbeat, so the watch may be as cut off as we are."""
        now = self.now()
        if self.unseen_since is not None and self.last_beat is not None:
            self.unseen_since += now - self.last_beat
        self.last_beat = now

    def beat_seen(self) -> None:
        """The watch showed a heartbeat."""
        self.unseen_since = None
        self.last_seen = self.now()

    def watches_died(self, why: str) -> None:
        """The task that watches has ended; nothing will revive it in this process."""
        self.dead = why

    def blind_seconds(self) -> float:
        """For how long a stored beat has not come back."""
        return 0.0 if self.unseen_since is None else self.now() - self.unseen_since

    def sick(self) -> str | None:
        """Say why /healthz is red, or None."""
        if self.dead:
            return f"nothing is watched any more: {self.dead}"
        if self.blind_seconds() > self.limit_seconds / 2:
            return f"a heartbeat stored {self.blind_seconds():.0f} s ago has not come back on the watch"
        return None

    def must_exit(self) -> str | None:
        """Say why the process must end now, or None."""
        if self.blind_seconds() > self.limit_seconds:
            return f"blind: a heartbeat stored {self.blind_seconds():.0f} s ago has not come back on the watch"
        return None

    def unready(self) -> str | None:
        """Say why /readyz is red, or None."""
        if self.stopping:
            return "stopping"
        if not self.listed:
            return "the objects have not been listed yet"
        if self.last_seen is None:
            return "the first heartbeat has not come back yet"
        return self.sick()


async def guard(health: Health, *, every_seconds: float, end: Callable[[str], None]) -> None:
    """Look at the health for ever; call `end` once when the process must exit."""
    while True:
        await asyncio.sleep(every_seconds)
        why = health.must_exit()
        if why is not None:
            end(why)
            return


class HealthServer:
    """One HTTP port for probes and metrics.

    Args:
        health: what to tell.
        registry: what /metrics shows.
        before_scrape: brings gauges up to date that are only read here.
    """

    def __init__(
        self, health: Health, registry: CollectorRegistry, *, before_scrape: Callable[[], None] = lambda: None
    ) -> None:
        self._health = health
        self._registry = registry
        self._before_scrape = before_scrape
        self._runner: web.AppRunner | None = None
        self.port = 0

    async def start(self, *, port: int, host: str | None = None) -> None:
        """Listen on the port (0 = any free one, then readable as `port`); host None = all addresses."""
        app = web.Application()
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port)
        await site.start()
        # With port 0 each address family got a port of its own; the pair is IPv4's, the quadruple IPv6's.
        self.port = min(self._runner.addresses, key=len)[1]
        _log.info("serving_probes_and_metrics", port=self.port)

    async def stop(self) -> None:
        """Stop to listen."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _healthz(self, _: web.Request) -> web.Response:
        return _answer(self._health.sick())

    async def _readyz(self, _: web.Request) -> web.Response:
        return _answer(self._health.unready())

    async def _metrics(self, request: web.Request) -> web.Response:
        self._before_scrape()
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(self._registry), headers={"Content-Type": content_type})


def _answer(problem: str | None) -> web.Response:
    return web.Response(status=503 if problem else 200, text=f"{problem or 'ok'}\n")
