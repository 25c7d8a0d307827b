"""The route of classifiers, and the answer itself, which `kserve` gives in another shape.

It is hot: it reads its body by its model without the framework's machinery between.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import TypeAdapter
from pydantic_core import to_json

from ratchet_serving.answers import Answerer, Answers
from ratchet_serving.batching import Batcher
from ratchet_serving.messages import Ask, ManyAnswers, OneAnswer, Problem
from ratchet_serving.parsing import parse
from ratchet_serving.state import Server, assignment, server_of

_ASK: TypeAdapter[Ask] = TypeAdapter(Ask)

router = APIRouter(tags=["answers"])


REFUSALS: dict[int | str, dict[str, Any]] = {
    code: {"model": Problem, "description": what}
    for code, what in {
        413: "The body is too large",
        422: "A field is missing, unknown or out of bounds",
        500: "The policy gives no number",
        503: "Too many texts wait; come back after Retry-After seconds",
    }.items()
}


def documented(ask: TypeAdapter[Any]) -> dict[str, Any]:
    """What the API's page says of a route that reads its body itself."""
    schema = ask.json_schema(ref_template="#/components/schemas/{model}")
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


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
    openapi_extra=documented(_ASK),
    responses=REFUSALS,
)
async def classify(request: Request) -> Response:
    """Return label, calibrated confidence and whether the policy abstains: of one text, or of each of several.

    A policy with several tasks answers each of them under `tasks`.
    """
    began = time.perf_counter()
    server, ask = server_of(request), parse(_ASK, await request.body())
    return as_response(server, await answered(request, server, ask, began=began))


async def answered(request: Request, server: Server, ask: Ask, *, began: float) -> Answers:
    """Have the model answer, and the gateway told of it.

    Args:
        request: its headers say who asks.
        server: that answers.
        ask: its body.
        began: `time.perf_counter()` when it came.

    Raises:
        Refused: it cannot be answered.
    """
    kind: Classifying = server.answering
    who = assignment(request, ask.subject, trusted=server.behind_router)
    kind.answerer.heads(ask.task)  # refused before the model is asked
    texts = (ask.text,) if hasattr(ask, "text") else ask.texts
    try:
        logits = await kind.batcher.ask(texts)
    except Exception:
        # whoever got no answer stays in the comparison: leaving them out would make a version that fails look good
        for record in kind.answerer.failure(ask, who, seconds=time.perf_counter() - began):
            server.record(record)
        raise
    answers = kind.answerer.answer(ask, logits, who)
    for record in kind.answerer.told(answers, who, seconds=time.perf_counter() - began):
        server.record(record)
    return answers


def as_response(server: Server, answers: Answers, body: dict[str, Any] | None = None) -> Response:
    """Return an answer with who gave it in its headers.

    Args:
        server: that answered.
        answers: what it said.
        body: the same in another shape; None = as `messages` has it.
    """
    headers = server.headers(answers.interactions[0] if len(answers.interactions) == 1 else None)
    return Response(to_json(body or answers.body), media_type="application/json", headers=headers)
