"""The application: parts put together, refusals turned into answers, start and end in order.

Decides that nothing is served before the log's writer runs, and that it is drained after the last request. The store
is probed in the background: a gateway whose store is away starts, says that it is not ready, and heals.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from fastapi import Depends, FastAPI, Request, Response
from fastapi.exception_handlers import http_exception_handler
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry
from starlette.exceptions import HTTPException

from ratchet_api import __version__
from ratchet_api.feedback import FEEDBACK_TYPES, PATTERNS
from ratchet_api.signing import KeyRing
from ratchet_gateway.auth import Authenticator
from ratchet_gateway.datasets import Datasets, NoDatasets
from ratchet_gateway.experiments import Analyst, NoAnalyst
from ratchet_gateway.follower import Follower
from ratchet_gateway.known import KnownEvents
from ratchet_gateway.log.writer import LogWriter
from ratchet_gateway.loopback import LoopbackOnly
from ratchet_gateway.metrics import GatewayMetrics, WriterCollector
from ratchet_gateway.policies import Policies
from ratchet_gateway.probing import probe
from ratchet_gateway.ratelimit import RateLimit
from ratchet_gateway.recent import RecentLog
from ratchet_gateway.records import Recorder
from ratchet_gateway.review import ReviewIndex
from ratchet_gateway.routes import erasures, feedback, health, policies, review
from ratchet_gateway.routes.known_query import only_known
from ratchet_gateway.services import Services
from ratchet_gateway.settings import Settings
from ratchet_gateway.tally import Tally
from ratchet_gateway.training import Training
from ratchet_jobs.runtime.errors import StoreError
from ratchet_jobs.runtime.store import Store
from ratchet_web.body import Guard
from ratchet_web.errors import answer_refusals, wrong_fields

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Parts:
    """What an application is made of besides its settings.

    Attributes:
        store: of the log.
        ring: keys of interaction ids and subjects.
        policies: which there are.
        ways: how callers are known.
        training: where runs are made; None = this gateway starts none.
        analyst: who counts trials.
        datasets: which are made of the feedback.
        now: the clock.
        monotonic: seconds that never go back.
    """

    store: Store
    ring: KeyRing
    policies: Policies
    ways: tuple[Authenticator, ...]
    training: Training | None = None
    analyst: Analyst = field(default_factory=NoAnalyst)
    datasets: Datasets = field(default_factory=NoDatasets)
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    monotonic: Callable[[], float] = time.monotonic


def create_app(settings: Settings, parts: Parts) -> FastAPI:
    """Put the application together; its writer starts with its lifespan."""
    metrics = GatewayMetrics(CollectorRegistry())
    app = FastAPI(
        title="Ratchet gateway",
        version=__version__,
        description="Feedback in, durably and once; what is known of policies out.",
        lifespan=lambda app: _lifespan(app, settings, parts, metrics),
        docs_url="/docs",
        redoc_url=None,
        telemetry={"tracing": False, "metrics": False},  # /metrics is ours, and asking whether it is on costs time
    )
    app.state.store_note, app.state.log_note, app.state.store_error = "", "", ""
    if "none" in settings.auth:
        app.add_middleware(LoopbackOnly, metrics=metrics)
    app.add_middleware(Guard, max_bytes=settings.max_body_bytes, metrics=metrics)
    for router in (
        feedback.direct,
        feedback.router,
        policies.router,
        erasures.router,
        review.router,
        review.page,
        health.router,
    ):
        app.include_router(router, dependencies=[Depends(only_known)])
    answer_refusals(app, metrics)
    app.add_exception_handler(StoreError, _store_away)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _other)
    return app


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI, settings: Settings, parts: Parts, metrics: GatewayMetrics) -> AsyncIterator[None]:
    writer = LogWriter(parts.store, namespace=settings.namespace, now=parts.now, settings=settings.log)
    writer.stats.commit_seconds = metrics.commit_seconds.observe
    metrics.registry.register(WriterCollector(writer.stats))
    known = KnownEvents()
    app.state.services = Services(
        writer=writer,
        recorder=Recorder(
            parts.ring,
            require_interaction=settings.require_interaction,
            collection_rate=settings.collection_rate,
            lifetime=settings.interaction_lifetime,
        ),
        known=known,
        policies=parts.policies,
        ways=parts.ways,
        training=parts.training,
        store_of_log=parts.store,
        namespace=settings.namespace,
        key_limit=RateLimit(settings.key_events_per_minute, parts.monotonic),
        subject_limit=RateLimit(settings.subject_events_per_minute, parts.monotonic),
        tally=Tally(parts.store, settings.namespace),
        review=ReviewIndex(
            RecentLog(parts.store, settings.namespace, now=parts.now, monotonic=parts.monotonic),
        ),
        analyst=parts.analyst,
        datasets=parts.datasets,
        metrics=metrics,
        ask_seconds=settings.ask_seconds,
        now=parts.now,
    )
    writer.start()
    tasks: list[asyncio.Task[Any]] = [asyncio.create_task(probe(app.state, parts.store, settings.namespace))]
    if settings.follow_seconds:
        follower = Follower(parts.store, namespace=settings.namespace, epoch=writer.epoch, known=known, now=parts.now)
        tasks.append(asyncio.create_task(follower.run(settings.follow_seconds)))
        tasks.append(asyncio.create_task(follower.recall()))
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await writer.close(drain_seconds=settings.drain_seconds)


async def _store_away(request: Request, error: Exception) -> JSONResponse:
    log.error("store", extra={"error": str(error)})
    request.app.state.services.metrics.refused.labels("unavailable").inc()
    return JSONResponse({"detail": f"the log cannot be read: {error}"}, 503, {"Retry-After": "10"})


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    request.app.state.services.metrics.refused.labels("malformed").inc()
    detail = wrong_fields(
        [_by_its_type(each, request) for each in error.errors()],
        unnamed=("body", "single", "batch"),
        tags=FEEDBACK_TYPES,
        patterns=PATTERNS,
    )
    return JSONResponse({"detail": detail}, 422)


def _by_its_type(error: dict[str, Any], request: Request) -> dict[str, Any]:
    """A body that was never read as JSON, as curl sends it unless told otherwise, is wrong in its type alone."""
    kind = request.headers.get("Content-Type", "")
    if error["loc"] != ("body",) or not isinstance(error.get("input"), bytes) or "json" in kind.lower():
        return error
    return {**error, "loc": ("Content-Type",), "msg": f"is {kind[:100] or 'missing'}; send application/json"}


async def _other(request: Request, error: Exception) -> Response:
    """What the framework refuses; a body that it cannot read is told as `DirectRoute` tells it."""
    assert isinstance(error, HTTPException)
    if error.status_code != 400 or error.__cause__ is None:
        return await http_exception_handler(request, error)
    request.app.state.services.metrics.refused.labels("malformed").inc()
    return JSONResponse({"detail": f"body: is no JSON in UTF-8 ({error.__cause__}); send one object"}, 400)
