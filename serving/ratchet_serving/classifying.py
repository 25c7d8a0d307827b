"""The route of classifiers. It is hot: it reads its body by its model without the framework's machinery between."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import APIRouter, Request, Response
from pydantic import TypeAdapter
from pydantic_core import to_json

from ratchet_serving.answers import Answerer
from ratchet_serving.batching import Batcher
from ratchet_serving.messages import Ask, ManyAnswers, OneAnswer, Problem
from ratchet_serving.parsing import parse
from ratchet_serving.state import assignment, server_of

_ASK: TypeAdapter[Ask] = TypeAdapter(Ask)

router = APIRouter(tags=["answers"])


@dataclass(frozen=True, slots=True)
class Classifying:
    """What the route needs besides the server's common parts."""

    batcher: Batcher
    answerer: Answerer


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
    kind: Classifying = server.answering
    ask = parse(_ASK, await request.body())
    who = assignment(request, ask.subject, trusted=server.behind_router)
    kind.answerer.heads(ask.task)  # refused before the model is asked
    texts = (ask.text,) if hasattr(ask, "text") else ask.texts
    try:
        logits = await kind.batcher.ask(texts)
    except Exception:
        # whoever got no answer stays in the comparison: leaving them out would make a version that fails look good
        if (record := kind.answerer.failure(ask, who)) is not None:
            server.record(record)
        raise
    answers = kind.answerer.answer(ask, logits, who)
    for record in answers.records:
        server.record(record)
    headers = server.headers(answers.interactions[0] if len(answers.interactions) == 1 else None)
    return Response(to_json(answers.body), media_type="application/json", headers=headers)
