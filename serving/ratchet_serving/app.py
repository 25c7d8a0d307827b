"""The application: the routes, refusals turned into answers, start and end in order.

Decides that nothing is said to be ready before the model answered a text, how large a request may be, and that the end
answers what was accepted. One route is hot; it reads its body by its model without the framework's machinery between.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from fastapi import APIRouter, FastAPI, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json, to_json

from ratchet_api import __version__
from ratchet_api.signing import KeyRing
from ratchet_jobs.models.card import PolicyCard
from ratchet_serving.answers import Answerer, Arm, Assignment, Signer
from ratchet_serving.batching import Batcher, Model
from ratchet_serving.messages import Ask, ManyAnswers, OneAnswer, Problem
from ratchet_serving.metrics import ServingMetrics
from ratchet_serving.recording import Gateway, Recorder
from ratchet_serving.settings import Settings
from ratchet_web.body import Guard
from ratchet_web.errors import Malformed, answer_refusals, wrong_fields

log = logging.getLogger(__name__)

_ASK: TypeAdapter[Ask] = TypeAdapter(Ask)
_ARMS: dict[str, Arm] = {"champion": "champion", "canary": "canary", "control": "control"}
_EXPERIMENT = re.compile(r"[0-9a-f]{16}")
WARM_UP = "a text that nobody asked, so that the first who asks does not wait"

router = APIRouter(tags=["answers"])
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


@dataclass(slots=True)
class Server:
    """The parts of one process, as the routes find them."""

    batcher: Batcher
    answerer: Answerer
    recorder: Recorder | None
    metrics: ServingMetrics
    behind_router: bool
    warm: bool = False
    problem: str = ""
    """Why the first text was not answered; empty if it was, or is not yet."""


def create_app(settings: Settings, parts: Parts) -> FastAPI:
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
    app.include_router(router)
    app.include_router(hidden)
    answer_refusals(app, metrics)
    return app


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI, settings: Settings, parts: Parts, metrics: ServingMetrics) -> AsyncIterator[None]:
    version = "" if settings.version is None else str(settings.version)
    metrics.info.labels(settings.policy, version, parts.digest).set(1)
    signer = None if parts.ring is None else Signer(parts.ring, settings.interaction_lifetime, parts.now)
    recorder = None
    if parts.gateway is not None:
        recorder = Recorder(parts.gateway, size=settings.record_buffer, metrics=metrics)
        recorder.start()
    server = app.state.server = Server(
        batcher=Batcher(parts.model, settings.batch, metrics),
        answerer=Answerer(parts.card, settings.policy, settings.version, signer, metrics),
        recorder=recorder,
        metrics=metrics,
        behind_router=settings.behind_router,
    )
    server.batcher.start()
    warming = asyncio.create_task(_warm_up(server))
    try:
        yield
    finally:
        began = time.monotonic()
        server.warm = False
        warming.cancel()
        await asyncio.gather(warming, return_exceptions=True)
        await server.batcher.close()
        if recorder is not None:
            left = max(0.1, settings.drain_seconds - (time.monotonic() - began))
            await asyncio.to_thread(recorder.close, seconds=left)


async def _warm_up(server: Server) -> None:
    """Let the model answer a first text, which compiles, allocates and pages in what it needs."""
    try:
        await server.batcher.ask([WARM_UP])
        server.warm = True
    except Exception as error:  # the server stays, says why it is not ready, and is replaced by whoever watches it
        log.exception("not ready")
        server.problem = f"{type(error).__name__}: {error}"


def server_of(request: Request) -> Server:
    """Return the parts that serve this request."""
    found: Server = request.app.state.server
    return found


@router.post(
    "/v1/classify",
    response_model=OneAnswer | ManyAnswers,
    response_model_exclude_none=True,
    summary="Classify a text, or several",
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": _ASK.json_schema(ref_template="#/components/schemas/{model}")}},
        }
    },
    responses={
        code: {"model": Problem, "description": what}
        for code, what in {
            413: "The body is too large",
            422: "A field is missing, unknown or out of bounds",
            500: "The policy gives no number",
            503: "Too many texts wait; come back after Retry-After seconds",
        }.items()
    },
)
async def classify(request: Request) -> Response:
    """Return label, calibrated confidence and whether the policy abstains: of one text, or of each of several.

    A policy with several tasks answers each of them under `tasks`.
    """
    server = server_of(request)
    ask = _parse(await request.body())
    who = _assignment(request, ask, trusted=server.behind_router)
    server.answerer.heads(ask.task)  # refused before the model is asked
    texts = (ask.text,) if hasattr(ask, "text") else ask.texts
    try:
        logits = await server.batcher.ask(texts)
    except Exception:
        # whoever got no answer stays in the comparison: leaving them out would make a version that fails look good
        if server.recorder is not None and (record := server.answerer.failure(ask, who)) is not None:
            server.recorder.put(record)
        raise
    answers = server.answerer.answer(ask, logits, who)
    if server.recorder is not None:
        for record in answers.records:
            server.recorder.put(record)
    headers = {"x-ratchet-policy": server.answerer.policy}
    if server.answerer.version is not None:
        headers["x-ratchet-version"] = str(server.answerer.version)
    if len(answers.interactions) == 1:
        headers["x-ratchet-interaction"] = answers.interactions[0]
    return Response(to_json(answers.body), media_type="application/json", headers=headers)


@hidden.get("/healthz")
async def alive(request: Request) -> Response:
    """500 when the thread of the model ended: only a new process helps."""
    healthy = server_of(request).batcher.alive
    return Response("ok\n" if healthy else "the inference thread has ended\n", status_code=200 if healthy else 500)


@hidden.get("/readyz")
async def ready(request: Request) -> Response:
    """503 until the model answered a first text."""
    server = server_of(request)
    if not server.warm:
        return Response(f"not ready: {server.problem or 'the first text is being answered'}\n", status_code=503)
    return Response("ok\n")


@hidden.get("/metrics")
async def metrics(request: Request) -> Response:
    """Prometheus' text format."""
    return Response(generate_latest(server_of(request).metrics.registry), media_type=CONTENT_TYPE_LATEST)


def _parse(raw: bytes) -> Ask:
    try:
        plain = from_json(raw)
    except ValueError as error:
        raise Malformed(f"body: is no JSON in UTF-8 ({error}); send one object") from error
    try:
        return _ASK.validate_python(plain)
    except ValidationError as error:
        findings = error.errors(include_url=False, include_context=False)
        raise Malformed(wrong_fields(findings, unnamed=("one", "many"))) from error


def _assignment(request: Request, ask: Ask, *, trusted: bool) -> Assignment:
    named = request.headers.getlist("x-ratchet-subject")
    if len(named) > 1:
        raise Malformed(f"x-ratchet-subject: stands there {len(named)} times; send one, by which you are dealt an arm")
    header = named[0] if named else None
    # behind the router it was the header that dealt the arm, so that the answer belongs to that subject
    subject = ((header or ask.subject) if trusted else (ask.subject or header)) or None
    if subject is not None and len(subject) > 256:
        raise Malformed(f"x-ratchet-subject: has {len(subject)} characters, at most 256 are taken; send a shorter id")
    if not trusted:
        return Assignment(subject)
    arm, propensity = request.headers.get("x-ratchet-arm"), request.headers.get("x-ratchet-propensity")
    if arm is not None and arm not in _ARMS:
        raise Malformed(f"x-ratchet-arm {arm[:32]!r} is unknown; the router says champion, canary or control")
    try:
        share = None if propensity is None else float(propensity)
    except ValueError:
        share = -1.0
    if share is not None and not 0 < share <= 1:
        raise Malformed(
            f"x-ratchet-propensity {str(propensity)[:32]!r}: the router says a number above 0 and at most 1"
        )
    experiment = request.headers.get("x-ratchet-experiment")
    if experiment is not None and not _EXPERIMENT.fullmatch(experiment):
        raise Malformed(f"x-ratchet-experiment {experiment[:32]!r}: the router says 16 of 0-9 and a-f")
    return Assignment(subject, None if arm is None else _ARMS[arm], share, experiment)
