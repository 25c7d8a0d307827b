"""Bodies to requests: JSON in UTF-8, checked by its model; what is wrong is told by field."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json

from ratchet_web.errors import Malformed, wrong_fields

Ask = TypeVar("Ask")
_RULE = "Value error, "


def parse(adapter: TypeAdapter[Ask], raw: bytes) -> Ask:
    """Read a body.

    Raises:
        Malformed: it is no JSON, or a field is missing, unknown or out of bounds.
    """
    try:
        plain = from_json(raw)
    except ValueError as error:
        raise Malformed(f"body: is no JSON in UTF-8 ({error}); send one object") from error
    try:
        return adapter.validate_python(plain)
    except ValidationError as error:
        findings = [_blamed(finding) for finding in error.errors(include_url=False, include_context=False)]
        raise Malformed(wrong_fields(findings, unnamed=("one", "many"))) from error


def _blamed(finding: Any) -> dict[str, Any]:
    """A finding of a rule over several fields, with the field that the rule's own text begins with as its place."""
    said = str(finding["msg"]).removeprefix(_RULE)
    field, colon, reason = said.partition(": ")
    whole = not finding["loc"] and colon and field.isidentifier()
    return {**finding, **({"loc": (field,), "msg": reason, "input": None} if whole else {"msg": said})}
