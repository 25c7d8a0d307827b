"""Feedback in: typed events, the short form of a policy, and interactions.

Decides the order in which an event is judged: who sends it, is it whole, is the policy there, is it within the rates,
was it stored before. Answers when it is stored, not earlier.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Body, Path, Query, Response
from pydantic_core import to_json

from ratchet_api.base import ObjectName
from ratchet_api.feedback import (
    Feedback,
    FeedbackAnswer,
    FeedbackBatch,
    FeedbackBody,
    InteractionAnswer,
    InteractionBatch,
    InteractionBody,
    PolicyFeedback,
)
from ratchet_gateway.auth import Role
from ratchet_gateway.routes.direct import DirectRoute
from ratchet_gateway.routes.problems import CONFLICT, INGEST, UNKNOWN
from ratchet_gateway.services import Call, Calling

router = APIRouter(tags=["feedback"])
direct = APIRouter(tags=["feedback"], route_class=DirectRoute)

DryRun = Annotated[bool, Query(alias="dryRun", description="dryRun: true checks everything and stores nothing.")]
PolicyName = Annotated[ObjectName, Path(description="policy: name of the RLPolicy.")]


@direct.post(
    "/v1/feedback", response_model=FeedbackAnswer, responses={**INGEST, **UNKNOWN, **CONFLICT}, summary="Send feedback"
)
async def send_feedback(body: Annotated[FeedbackBody, Body()], call: Calling, dry_run: DryRun = False) -> Response:
    """Store one event, or a batch of at most 1000 of which all or none are stored.

    The answer comes when the events are in the store. 503 means that they may or may not be: send them again with the
    same idempotencyKey, and they count once.
    """
    events = body.events if isinstance(body, FeedbackBatch) else (body,)
    return await _take(events, call, dry_run=dry_run)


@router.post(
    "/api/policies/feedback/{policy}",
    responses={**INGEST, **UNKNOWN, **CONFLICT},
    summary="Score an answer of a policy",
)
async def score_answer(policy: PolicyName, body: PolicyFeedback, call: Calling, dry_run: DryRun = False) -> Response:
    """Store a prompt, a response and a score from 0 to 1.

    0.8-1.0 excellent, 0.6-0.8 good, 0.4-0.6 fair, 0.2-0.4 poor, 0.0-0.2 unusable.
    """
    return await _take((body.as_event(policy),), call, dry_run=dry_run)


@router.post(
    "/v1/interactions",
    response_model=InteractionAnswer,
    responses={**INGEST, **UNKNOWN, **CONFLICT},
    summary="Record answers of a policy",
)
async def record_interactions(body: Annotated[InteractionBody, Body()], call: Calling) -> Response:
    """Record what a policy answered, and get the signed ids by which it can be rated.

    That it answered is always kept; texts at the gateway's collection rate, decided by a hash of the id.
    """
    services, caller = call
    caller.need(Role.INGEST)
    events = body.events if isinstance(body, InteractionBatch) else (body,)
    now = services.now()
    made = [services.recorder.interaction(event, source=caller.name, now=now) for event in events]
    records = [record for record, _, _ in made]
    await services.admit(caller, records)
    before = await services.store(records)
    stored = [
        {"id": record.id, "duplicate": known, "interactionId": signed, "collected": kept}
        for (record, signed, kept), known in zip(made, before, strict=True)
    ]
    return _answer({"events": stored})


async def _take(events: Sequence[Feedback], call: Call, *, dry_run: bool) -> Response:
    services, caller = call
    caller.need(Role.INGEST)
    now = services.now()
    records = [services.recorder.feedback(event, source=caller.name, now=now) for event in events]
    await services.admit(caller, records)
    before = services.look(records) if dry_run else await services.store(records)
    stored = [{"id": record.id, "duplicate": known} for record, known in zip(records, before, strict=True)]
    return _answer({"status": "dry_run" if dry_run else "stored", "events": stored})


def _answer(body: dict[str, Any]) -> Response:
    """Answer without the framework's second validation, which costs as much as storing the event."""
    return Response(to_json(body), media_type="application/json")
