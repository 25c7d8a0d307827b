"""The analyst's application: two questions, and what kubelets and Prometheus ask.

Decides that nothing is answered before the log was read to its end once. Counts alone leave it, so it asks for no
token; the chart's network policy says who reaches it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, FastAPI, Path, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from ratchet_api import __version__
from ratchet_api.base import ObjectName
from ratchet_api.evidence import ExperimentEvidence, ExperimentSeries
from ratchet_api.feedback import ExperimentId
from ratchet_gateway.analyst.metrics import AnalystMetrics
from ratchet_gateway.analyst.watch import NotCaughtUp, Watch
from ratchet_web.errors import wrong_fields

log = logging.getLogger(__name__)

Policy = Annotated[ObjectName, Path(description="policy: name of the RLPolicy.")]
Experiment = Annotated[ExperimentId, Path(description="experiment: id that servers sign.")]

router = APIRouter()
hidden = APIRouter(include_in_schema=False)


def create_app(watch: Watch, metrics: AnalystMetrics) -> FastAPI:
    """Put the application together; its looks begin with its lifespan."""
    app = FastAPI(
        title="Ratchet analyst",
        version=__version__,
        description="What the log says about experiments.",
        lifespan=_lifespan,
        redoc_url=None,
        telemetry={"tracing": False, "metrics": False},
    )
    app.state.watch, app.state.metrics = watch, metrics
    app.include_router(router)
    app.include_router(hidden)
    app.add_exception_handler(NotCaughtUp, _not_caught_up)
    app.add_exception_handler(RequestValidationError, _invalid)
    return app


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    looking = app.state.looking = asyncio.create_task(app.state.watch.run())
    looking.add_done_callback(_tell)
    try:
        yield
    finally:
        app.state.watch.stop()
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)


@router.get("/v1/policies/{policy}/experiments/{experiment}", summary="Count an experiment")
async def experiment(request: Request, policy: Policy, experiment: Experiment) -> ExperimentEvidence:
    """Return the counts of both arms; zeros for an experiment that nobody met."""
    watch: Watch = request.app.state.watch
    made = await asyncio.to_thread(watch.evidence, policy, experiment)
    request.app.state.metrics.answers.labels("200").inc()
    return made


@router.get("/v1/policies/{policy}/experiments/{experiment}/series", summary="Count an experiment over time")
async def series(request: Request, policy: Policy, experiment: Experiment) -> ExperimentSeries:
    """Return the counts of both arms, and those of earlier moments."""
    watch: Watch = request.app.state.watch
    made = await asyncio.to_thread(watch.series, policy, experiment)
    request.app.state.metrics.answers.labels("200").inc()
    return made


@hidden.get("/healthz")
async def alive(request: Request) -> Response:
    """500 when the looks ended by a defect: only a new process helps."""
    ended = request.app.state.looking.done()
    return Response("the looks have ended\n" if ended else "ok\n", status_code=500 if ended else 200)


@hidden.get("/readyz")
async def ready(request: Request) -> Response:
    """503 until the log was read to its end."""
    watch: Watch = request.app.state.watch
    if not watch.caught_up:
        return Response(f"not ready: {watch.error}\n", status_code=503)
    return Response(f"ok{'; last look: ' + watch.error if watch.error else ''}\n")


@hidden.get("/metrics")
async def metrics(request: Request) -> Response:
    """Prometheus' text format."""
    return Response(generate_latest(request.app.state.metrics.registry), media_type=CONTENT_TYPE_LATEST)


async def _not_caught_up(request: Request, error: Exception) -> JSONResponse:
    request.app.state.metrics.answers.labels("503").inc()
    return JSONResponse({"detail": str(error)}, 503, {"Retry-After": "5"})


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    request.app.state.metrics.answers.labels("422").inc()
    return JSONResponse({"detail": wrong_fields(error.errors(), unnamed=("path",))}, 422)


def _tell(looking: asyncio.Task[None]) -> None:
    if not looking.cancelled() and (error := looking.exception()) is not None:
        log.error("the analyst's looks ended by a defect", exc_info=error)
