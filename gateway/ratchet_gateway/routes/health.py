"""Alive, ready, counted: what kubelets and Prometheus ask. None of it needs a token."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from ratchet_gateway.services import services_of

router = APIRouter(include_in_schema=False)


@router.get("/healthz")
async def alive(request: Request) -> Response:
    """500 when the log's writer ended by a defect: only a new process helps."""
    healthy = services_of(request).writer.healthy
    return Response("ok\n" if healthy else "the log's writer has ended\n", status_code=200 if healthy else 500)


@router.get("/readyz")
async def ready(request: Request) -> Response:
    """503 until the store was reached, and while it does not confirm."""
    state, services = request.app.state, services_of(request)
    if not state.store_note:
        return Response(f"the store was not reached yet: {state.store_error}\n", status_code=503)
    if services.writer.stats.failing:
        return Response(f"the store does not confirm: {services.writer.stats.failing}\n", status_code=503)
    return Response(f"ok; {state.store_note}; {state.log_note}\n")


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Prometheus' text format."""
    return Response(generate_latest(services_of(request).metrics.registry), media_type=CONTENT_TYPE_LATEST)
