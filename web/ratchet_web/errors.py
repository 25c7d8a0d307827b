"""What a request is refused with, and how that becomes an answer: its status and `{"detail": …}`.

Decides the shape of a refusal and of a message about wrong fields. Never which refusals there are: each server's own
`errors` has its tree. A message names the field, the value seen and the remedy; it never repeats a text or a subject.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse

from ratchet_web.counting import RequestCounts

_DETAIL_LIMIT = 4000


class Refused(Exception):
    """Base of everything that ends a request in an orderly way.

    Attributes:
        retry_after: seconds, where coming back helps.
    """

    status: ClassVar[int] = 500
    why: ClassVar[str] = "defect"
    """One word for the metric."""

    def __init__(self, message: str, *, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Malformed(Refused):
    """The request contradicts itself, or asks for or cites what it may not."""

    status, why = 422, "malformed"


def answer_refusals(app: Starlette, metrics: RequestCounts) -> None:
    """Let an application answer every `Refused` with its status and message, and count it."""

    async def answer(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, Refused)
        metrics.refused.labels(error.why).inc()
        headers = {"Retry-After": str(error.retry_after)} if error.retry_after is not None else {}
        if error.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse({"detail": str(error)}, error.status, headers)

    app.add_exception_handler(Refused, answer)


def wrong_fields(
    errors: Sequence[Any],
    *,
    unnamed: Collection[str] = (),
    tags: Collection[str] = (),
    patterns: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Say in one text what is wrong: each field's path, what is wanted, and the value if it is a number.

    Args:
        errors: as pydantic lists them; the texts in them are not repeated.
        unnamed: parts of paths that name a model rather than a field.
        tags: of a union's members, which stand in a path before the member's field.
        patterns: regular expressions of texts, and what is said instead of one.

    Returns:
        At most 4000 characters.
    """
    findings = []
    for error in errors:
        parts = _fields([part for part in error["loc"] if part not in unnamed], tags)
        says, seen = error["msg"], error.get("input")
        if error["type"].startswith("union_tag_"):
            known = error.get("ctx", {})
            parts.append(str(known.get("discriminator", "")).strip("'"))
            says = f"is none of {known['expected_tags']}" if "expected_tags" in known else "is missing"
        if error["type"] == "string_pattern_mismatch":
            says = patterns.get(error.get("ctx", {}).get("pattern", ""), says)
        shown = f" (seen: {seen!r})" if isinstance(seen, int | float) else ""
        findings.append(f"{'.'.join(parts) or 'body'}: {says}{shown}")
    return "; ".join(findings)[:_DETAIL_LIMIT]


def _fields(path: list[Any], tags: Collection[str]) -> list[str]:
    last = len(path) - 1
    heads = (index for index, part in enumerate(path) if part in tags and index < last)
    dropped = {index for index in heads if index == 0 or isinstance(path[index - 1], int)}
    return [str(part) for index, part in enumerate(path) if index not in dropped]
