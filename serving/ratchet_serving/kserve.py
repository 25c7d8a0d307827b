"""KServe's V1 protocol of a classifier: which model is here, whether it is ready, and predictions.

Decides the shape of bodies and that only the served policy is answered for. What is answered, refused and recorded is
`classifying`'s, so that both routes say the same. `app` takes the routes in.
"""

from __future__ import annotations

import time

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import TypeAdapter

from ratchet_serving.classifying import REFUSALS, answered, as_response, documented
from ratchet_serving.errors import Unknown
from ratchet_serving.messages import AskInstances, Predictions, Problem
from ratchet_serving.parsing import parse
from ratchet_serving.state import Server, server_of

_ASK: TypeAdapter[AskInstances] = TypeAdapter(AskInstances)

router = APIRouter(prefix="/v1/models", tags=["KServe"])


@router.post(
    "/{name}:predict",
    response_model=Predictions,
    response_model_exclude_none=True,
    summary="Classify texts, as KServe's V1 protocol asks it",
    openapi_extra=documented(_ASK),
    responses={404: {"model": Problem, "description": "Another model is served"}, **REFUSALS},
)
async def predict(request: Request, name: str) -> Response:
    """Return of each text what POST /v1/classify says of it."""
    began = time.perf_counter()
    server = _serving(request, name)
    ask = parse(_ASK, await request.body()).as_many()
    answers = await answered(request, server, ask, began=began)
    return as_response(server, answers, {"predictions": answers.body["results"]})


@router.get("", include_in_schema=False)
async def models(request: Request) -> JSONResponse:
    """The one policy that is served."""
    return JSONResponse({"models": [server_of(request).policy]})


@router.get("/{name}", include_in_schema=False)
async def model(request: Request, name: str) -> JSONResponse:
    """Whether it answers; 503 until it has answered a first text."""
    server = _serving(request, name)
    return JSONResponse({"name": name, "ready": server.warm}, status_code=200 if server.warm else 503)


def _serving(request: Request, name: str) -> Server:
    """Return the parts that serve a model.

    Raises:
        Unknown: another one is served here.
    """
    server = server_of(request)
    if name != server.policy:
        raise Unknown(f"model {name[:253]!r} is not served here; ask for {server.policy!r}")
    return server
