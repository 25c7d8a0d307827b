"""The refusals of each group of routes, as the OpenAPI document lists them."""

from __future__ import annotations

from typing import Any

from ratchet_api.feedback import Problem

Responses = dict[int | str, dict[str, Any]]


def _problem(what: str) -> dict[str, Any]:
    return {"model": Problem, "description": what}


KNOWN_CALLER: Responses = {
    401: _problem("No token, or an unknown one"),
    403: _problem("The caller lacks the role"),
    422: _problem("A field is missing, unknown or out of bounds"),
    503: _problem("The store or the API server does not answer; come back after Retry-After seconds"),
}
UNKNOWN: Responses = {404: _problem("No such policy")}
CONFLICT: Responses = {409: _problem("The idempotency key or the interaction was used for another content")}
INGEST: Responses = {
    **KNOWN_CALLER,
    400: _problem("The body is no JSON in UTF-8"),
    413: _problem("The body is too large"),
    429: _problem("Too many events of one key or subject; come back after Retry-After seconds"),
}
BODY: Responses = {400: _problem("The body is no JSON in UTF-8"), 413: _problem("The body is too large")}
SAMPLES: Responses = {400: _problem("Too few samples, or the body is no JSON"), 413: _problem("The body is too large")}
