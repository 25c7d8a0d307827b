"""Where the fields of a spec are, as dotted paths: for tests that must name each of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args, get_origin

from pydantic import BaseModel


def leaves(model: type[BaseModel], path: str = "") -> Iterator[str]:
    """Paths of all fields below a model; a list or mapping is one field."""
    for name, field in model.model_fields.items():
        here = f"{path}{field.alias or name}"
        listed = get_origin(field.annotation) is tuple
        choices = () if listed else (field.annotation, *get_args(field.annotation))
        inner = next((t for t in choices if _is_model(t)), None)
        if inner is None:
            yield here
        else:
            yield from leaves(inner, f"{here}.")


def _is_model(candidate: object) -> bool:
    return isinstance(candidate, type) and issubclass(candidate, BaseModel)
