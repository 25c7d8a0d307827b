"""The application: its routes by the kind of policy, refusals turned into answers, start and end in order.

Decides that nothing is said to be ready before the model answered, how large a request may be, and that the end answers
what was accepted. `classifying` and `generation.routes` have the routes of either kind.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from fastapi import APIRouter, FastAPI, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from ratchet_api import __version__
from ratchet_api.signing import KeyRing
from ratchet_jobs.models.card import PolicyCard
from ratchet_serving import classifying, kserve
from ratchet_serving.answers import Answerer, Signer
from ratchet_serving.batching import Batcher, Model
from ratchet_serving.classifying import Classifying
from ratchet_serving.generation import routes as generation
from ratchet_serving.generation.answers import Generating
from ratchet_serving.generation.metrics import GenerationMetrics
from ratchet_serving.generation.streams import Maker, Streams
from ratchet_serving.generation.streams import Model as TokenModel
from ratchet_serving.generation.upstream import Remote, Upstream
from ratchet_serving.metrics import ServingMetrics
from ratchet_serving.recording import Gateway, Recorder
from ratchet_serving.settings import Settings
from ratchet_serving.state import Server, server_of
from ratchet_web.body import Guard
from ratchet_web.errors import answer_refusals

if TYPE_CHECKING:
    from ratchet_jobs.generators.templates import Wording  # which brings transformers along

log = logging.getLogger(__name__)

WARM_UP = "a text that nobody asked, so that the first who asks does not wait"

hidden = APIRouter(include_in_schema=False)


@dataclass(frozen=True, slots=True)
class Parts:
    """What an application is made of besides its settings.

    Attributes:
        model: answers batches.
        card: of the policy.
        digest: of its committed files; empty for a plain folder.
        ring: keys of interaction ids; None = answers carry none.
        gateway: where answers are recorded; None = nowhere.
        now: the clock.
    """

    model: Model
    card: PolicyCard
    digest: str = ""
    ring: KeyRing | None = None
    gateway: Gateway | None = None
    now: Callable[[], datetime] = lambda: datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class GeneratorParts:
    """Likewise of a generator.

    Attributes:
        model: gives tokens; or the engine that does.
        wording: turns to tokens and back.
        digest: of its committed files; empty for a plain folder.
        ring: keys of interaction ids; None = answers carry none.
        gateway: where answers are recorded; None = nowhere.
        now: the clock.
    """

    model: TokenModel | Remote
    wording: Wording
    digest: str = ""
    ring: KeyRing | None = None
    gateway: Gateway | None = None
    now: Callable[[], datetime] = lambda: datetime.now(UTC)


def create_app(settings: Settings, parts: Parts | GeneratorParts) -> FastAPI:
    """Put the application together; its threads start with its lifespan."""
    metrics = ServingMetrics(CollectorRegistry())
    app = FastAPI(
        title="Ratchet policy server",
        version=__version__,
        description="What a trained policy answers.",
        lifespan=lambda app: _lifespan(app, settings, parts, metrics),
        docs_url="/docs",
        redoc_url=None,
    )
    app.add_middleware(Guard, max_bytes=settings.max_body_bytes, metrics=metrics)
    app.include_router(hidden)
    if isinstance(parts, GeneratorParts):
        app.include_router(generation.router)
        generation.answer_refusals(app)
    else:
        app.include_router(classifying.router)
        app.include_router(kserve.router)
        answer_refusals(app, metrics)
    return app


@contextlib.asynccontextmanager
async def _lifespan(
    app: FastAPI, settings: Settings, parts: Parts | GeneratorParts, metrics: ServingMetrics
) -> AsyncIterator[None]:
    version = "" if settings.version is None else str(settings.version)
    metrics.info.labels(settings.policy, version, parts.digest).set(1)
    recorder = None
    if parts.gateway is not None:
        recorder = Recorder(parts.gateway, size=settings.record_buffer, metrics=metrics)
        recorder.start()
    server = app.state.server = _server(settings, parts, metrics, recorder)
    server.worker.start()
    warming = asyncio.create_task(_warm_up(server))
    try:
        yield
    finally:
        began = time.monotonic()
        server.warm = False
        warming.cancel()
        await asyncio.gather(warming, return_exceptions=True)
        await server.worker.close()
        if recorder is not None:
            left = max(0.1, settings.drain_seconds - (time.monotonic() - began))
            await asyncio.to_thread(recorder.close, seconds=left)


def _server(
    settings: Settings, parts: Parts | GeneratorParts, metrics: ServingMetrics, recorder: Recorder | None
) -> Server:
    """Make worker and answers of the policy's kind."""
    signer = None if parts.ring is None else Signer(parts.ring, settings.interaction_lifetime, parts.now)
    common = (recorder, metrics, settings.behind_router, settings.policy, settings.version)
    if isinstance(parts, Parts):
        batcher = Batcher(parts.model, settings.batch, metrics)
        threshold = settings.generation.abstain_threshold
        answerer = Answerer(parts.card, settings.policy, settings.version, signer, metrics, abstain_threshold=threshold)
        return Server(batcher, lambda: batcher.ask([WARM_UP]), Classifying(batcher, answerer), *common)
    streams = _maker(settings, parts, GenerationMetrics(metrics.registry))
    generating = Generating(
        streams=streams,
        wording=parts.wording,
        context=parts.model.context,
        max_new_tokens=settings.streams.max_new_tokens,
        defaults=settings.generation,
        policy=settings.policy,
        version=settings.version,
        digest=parts.digest,
        signer=signer,
        tell=lambda record: None if recorder is None else recorder.put(record),
        now=parts.now,
        began=int(parts.now().timestamp()),
    )
    server = Server(streams, streams.warm_up, generating, *common)
    if isinstance(streams, Upstream):
        server.missing = lambda: streams.missing
    return server


def _maker(settings: Settings, parts: GeneratorParts, metrics: GenerationMetrics) -> Maker:
    """Return who makes the tokens."""
    eos_id = parts.wording.eos_id
    if isinstance(parts.model, Remote):
        return Upstream(parts.model, eos_id=eos_id, settings=settings.streams, metrics=metrics)
    return Streams(parts.model, eos_id=eos_id, settings=settings.streams, metrics=metrics)


async def _warm_up(server: Server) -> None:
    """Let the model answer a first text, which compiles, allocates and pages in what it needs."""
    try:
        await server.first()
        server.warm = True
    except Exception as error:  # the server stays, says why it is not ready, and is replaced by whoever watches it
        log.exception("not ready")
        server.problem = f"{type(error).__name__}: {error}"


@hidden.get("/healthz")
async def alive(request: Request) -> Response:
    """500 when the thread of the model ended: only a new process helps."""
    healthy = server_of(request).worker.alive
    return Response("ok\n" if healthy else "the inference thread has ended\n", status_code=200 if healthy else 500)


@hidden.get("/readyz")
async def ready(request: Request) -> Response:
    """503 until the model answered a first text."""
    server = server_of(request)
    if not server.warm:
        return Response(
            f"not ready: {server.problem or server.missing() or 'the first text is being answered'}\n", status_code=503
        )
    return Response("ok\n")


@hidden.get("/metrics")
async def metrics(request: Request) -> Response:
    """Prometheus' text format."""
    return Response(generate_latest(server_of(request).metrics.registry), media_type=CONTENT_TYPE_LATEST)
