"""A route that is documented like any other and runs without the framework's machinery between request and function.

Decides how a hot route reads its request: the body by its model, the token from its header, `dryRun` from the query.
Resolving the same by dependencies costs more than storing the event (bench/feedback). Refusals are the same ones.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json

from ratchet_gateway.auth import authenticate
from ratchet_gateway.routes.known_query import only_known
from ratchet_gateway.services import Call, services_of

_WORDS = {"true": True, "1": True, "false": False, "0": False, "": False}


class DirectRoute(APIRoute):
    """A POST route with the parameters `body`, `call` and `dry_run`, and nothing else."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what is called with each request."""
        (parameter,) = self.dependant.body_params
        body_type: Any = parameter.field_info.annotation
        if beside := parameter.field_info.metadata:  # without its discriminator a union would be tried member by member
            body_type = Annotated[(body_type, *beside)]
        adapter: TypeAdapter[Any] = TypeAdapter(body_type)
        endpoint = self.endpoint

        async def handle(request: Request) -> Response:
            services = services_of(request)
            call = Call(services, await authenticate(services.ways, _token(request)))
            await only_known(request)
            body = await _read(request, adapter)
            answer: Response = await endpoint(body=body, call=call, dry_run=_dry_run(request))
            return answer

        return handle


async def _read(request: Request, adapter: TypeAdapter[Any]) -> Any:
    raw = await request.body()
    try:
        return adapter.validate_python(from_json(raw))
    except ValidationError as error:
        found = error.errors(include_url=False)
        raise RequestValidationError([{**each, "loc": ("body", *each["loc"])} for each in found]) from error
    except ValueError as error:
        message = f"is no JSON in UTF-8 ({error}); send one object"
        raise RequestValidationError([{"type": "json_invalid", "loc": ("body",), "msg": message}]) from error


def _token(request: Request) -> str | None:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def _dry_run(request: Request) -> bool:
    text = request.query_params.get("dryRun", "").lower() if request.scope["query_string"] else ""
    if text not in _WORDS:
        raise RequestValidationError([{"type": "bool_parsing", "loc": ("query", "dryRun"), "msg": "is true or false"}])
    return _WORDS[text]
