"""The routes of generators: POST /v1/chat/completions, POST /v1/completions, GET /v1/models, as OpenAI's clients ask.

Decides the events of a streamed answer, that whoever leaves is noticed and makes room, and the shape of refusals.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, TypeAdapter
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope, Send

from ratchet_serving.errors import TooLong, Unknown
from ratchet_serving.generation.answers import Answer, Generating
from ratchet_serving.generation.messages import ChatAsk, ChatCompletion, ErrorAnswer, Models, TextAsk, TextCompletion
from ratchet_serving.generation.messages import Model as ModelCard
from ratchet_serving.parsing import parse
from ratchet_serving.state import Server, assignment, server_of
from ratchet_web.errors import Refused

_CHAT, _TEXT = TypeAdapter(ChatAsk), TypeAdapter(TextAsk)
CLIENT_LEFT = 499
"""Status that nobody sees but the metrics."""
DONE = b"data: [DONE]\n\n"
_CODES: dict[type[Refused], str] = {TooLong: "context_length_exceeded", Unknown: "model_not_found"}
"""What OpenAI's clients look for."""

T = TypeVar("T")
router = APIRouter(tags=["answers"])


@dataclass(frozen=True, slots=True)
class Shape:
    """How an answer is laid out.

    Attributes:
        whole: name of a whole answer's object.
        part: name of an event's object.
        choice: (text, finish reason) of a whole answer to its choice.
        delta: (text or None for the beginning, finish reason) of an event to its choice.
    """

    whole: str
    part: str
    choice: Callable[[str, str | None], dict[str, Any]]
    delta: Callable[[str | None, str | None], dict[str, Any]]


def _chat_delta(text: str | None, finish: str | None) -> dict[str, Any]:
    said = {"role": "assistant", "content": ""} if text is None else {} if finish else {"content": text}
    return {"index": 0, "delta": said, "finish_reason": finish}


CHAT = Shape(
    "chat.completion",
    "chat.completion.chunk",
    lambda text, finish: {
        "index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish
    },
    _chat_delta,
)  # fmt: skip
TEXT = Shape(
    "text_completion",
    "text_completion",
    lambda text, finish: {"index": 0, "text": text, "finish_reason": finish},
    lambda text, finish: {"index": 0, "text": text or "", "finish_reason": finish},
)


def _documented(ask: type[BaseModel]) -> dict[str, Any]:
    """What the API's page says of a route that reads its body itself."""
    schema = ask.model_json_schema(ref_template="#/components/schemas/{model}")
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": _inlined(schema)}}}}


def _inlined(schema: dict[str, Any]) -> dict[str, Any]:
    parts = schema.pop("$defs", {})

    def put(value: Any) -> Any:
        if isinstance(value, dict):
            if "$ref" in value:
                return put(parts[value["$ref"].rpartition("/")[2]])
            return {key: put(part) for key, part in value.items()}
        return [put(part) for part in value] if isinstance(value, list) else value

    found: dict[str, Any] = put(schema)
    return found


_REFUSALS: dict[int | str, dict[str, Any]] = {
    code: {"model": ErrorAnswer, "description": what}
    for code, what in {
        400: "A field is missing, unknown or out of bounds, or the prompt leaves no room for an answer",
        404: "Another policy is asked for than the one that is served",
        413: "The body is too large",
        500: "The policy gives no number",
        503: "Too many requests wait, or the engine is away; come back after Retry-After seconds",
    }.items()
}


@router.post(
    "/v1/chat/completions",
    response_model=ChatCompletion,
    summary="Answer a conversation",
    openapi_extra=_documented(ChatAsk),
    responses=_REFUSALS,
)
async def chat(request: Request) -> Response:
    """Answer what was said last; with `stream` in events that end with `[DONE]`."""
    server = server_of(request)
    ask = parse(_CHAT, await request.body())
    who = assignment(request, ask.user, trusted=server.behind_router)
    return await _respond(request, server, server.answering.chat(ask, who), ask, CHAT)


@router.post(
    "/v1/completions",
    response_model=TextCompletion,
    summary="Go on with a text",
    openapi_extra=_documented(TextAsk),
    responses=_REFUSALS,
)
async def complete(request: Request) -> Response:
    """Go on with a text as it is, without the policy's template; with `stream` in events that end with `[DONE]`."""
    server = server_of(request)
    ask = parse(_TEXT, await request.body())
    who = assignment(request, ask.user, trusted=server.behind_router)
    return await _respond(request, server, server.answering.text(ask, who), ask, TEXT)


@router.get("/v1/models", response_model=Models, response_model_exclude_none=True)
async def models(request: Request) -> Models:
    """What is served."""
    return Models(object="list", data=(_model(server_of(request).answering),))


@router.get("/v1/models/{name:path}", response_model=ModelCard, responses={404: _REFUSALS[404]})
async def model(request: Request, name: str) -> ModelCard:
    """What is served under a name."""
    kind: Generating = server_of(request).answering
    kind.check_name(name)
    return _model(kind)


def _model(kind: Generating) -> ModelCard:
    return ModelCard(id=kind.model, object="model", created=kind.began, owned_by="ratchet", max_model_len=kind.context)


async def _respond(request: Request, server: Server, answer: Answer, ask: ChatAsk | TextAsk, shape: Shape) -> Response:
    kind: Generating = server.answering
    common = {
        "id": answer.id,
        "created": int(kind.now().timestamp()),
        "model": kind.model,
        "system_fingerprint": kind.fingerprint,
        "interaction_id": answer.interaction,
    }
    common = {name: value for name, value in common.items() if value is not None}
    headers = server.headers(answer.interaction)
    if ask.stream:
        told = ask.stream_options is not None and ask.stream_options.include_usage
        return Events(
            _events(server, answer, common, shape, with_usage=told),
            end=lambda: answer.close(read=True),
            headers=headers,
        )
    finish = None
    try:
        finish = await unless_left(request.receive, _whole(answer))
    finally:
        answer.close(read=finish is not None)
    if finish is None:
        return Response(status_code=CLIENT_LEFT)
    choice = shape.choice(answer.text, finish)
    body = common | {"object": shape.whole, "choices": [choice], "usage": answer.usage.model_dump()}
    return Response(to_json(body), media_type="application/json", headers=headers)


async def _whole(answer: Answer) -> str:
    """Read an answer to its end; return how it ended."""
    finish = None
    async for piece in answer.grow():
        finish = piece.finish
    assert finish is not None, "the last piece has a finish"
    return finish


async def _events(
    server: Server, answer: Answer, common: dict[str, Any], shape: Shape, *, with_usage: bool
) -> AsyncGenerator[bytes]:
    """The events of a streamed answer."""
    head = common | {"object": shape.part}

    def event(text: str | None, finish: str | None = None) -> bytes:
        return _event(head | {"choices": [shape.delta(text, finish)]} | ({"usage": None} if with_usage else {}))

    try:
        async for piece in answer.grow():
            if piece.tokens == 1 and shape is CHAT:
                yield event(None)  # with the first token and not before, so that its time is that token's
            if piece.text:
                yield event(piece.text)
            if piece.finish is not None:
                yield event("", piece.finish)
        if with_usage:
            yield _event(head | {"choices": [], "usage": answer.usage.model_dump()})
        yield DONE
    except Refused as error:  # the status has been sent: all that is left is to say so and to end
        server.metrics.refused.labels(error.why).inc()
        yield _event(problem(error)[1])


def _event(body: dict[str, Any]) -> bytes:
    return b"data: " + to_json(body) + b"\n\n"


class Events(StreamingResponse):
    """Server-sent events whose reader may leave at any time.

    Args:
        events: to be sent.
        end: called when no more are sent, for whatever reason.
        headers: of the response.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes], *, end: Callable[[], None], headers: dict[str, str]) -> None:
        super().__init__(events, headers=headers)
        self._events, self._end = events, end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send events until the last, or until nobody reads them."""

        async def send_all() -> bool:
            async with contextlib.aclosing(self._events):
                await self.stream_response(send)
            return True

        try:
            await unless_left(receive, send_all())
        finally:
            self._end()


async def unless_left(receive: Callable[[], Awaitable[Message]], doing: Coroutine[Any, Any, T]) -> T | None:
    """Do something for as long as the client is there; None = it left, and what was being done was cancelled."""
    work, watch = asyncio.ensure_future(doing), asyncio.ensure_future(_left(receive))
    try:
        await asyncio.wait((work, watch), return_when=asyncio.FIRST_COMPLETED)
        return work.result() if work.done() else None
    finally:
        for task in (work, watch):
            task.cancel()
        await asyncio.gather(work, watch, return_exceptions=True)


async def _left(receive: Callable[[], Awaitable[Message]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def problem(error: Refused | HTTPException) -> tuple[int, dict[str, Any]]:
    """Return status and body of a refusal, as OpenAI has it."""
    if isinstance(error, HTTPException):
        status, message, code, param = error.status_code, str(error.detail), None, None
    else:
        status, message, code = 400 if error.status == 422 else error.status, str(error), _CODES.get(type(error))
        field, colon, _ = message.partition(": ")
        param = field if status < 500 and colon and " " not in field and field != "body" else None
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return status, {"error": {"message": message, "type": kind, "param": param, "code": code}}


def answer_refusals(app: FastAPI) -> None:
    """Let an application answer every refusal, and what has no route, in OpenAI's shape."""
    app.add_exception_handler(Refused, _refused)
    app.add_exception_handler(HTTPException, _refused)


async def _refused(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Refused | HTTPException)
    status, body = problem(error)
    if isinstance(error, HTTPException):
        return JSONResponse(body, status, error.headers)
    server_of(request).metrics.refused.labels(error.why).inc()
    headers = {"Retry-After": str(error.retry_after)} if error.retry_after is not None else {}
    return JSONResponse(body, status, headers)
