"""Shared building blocks of the API models: wire naming, strictness, bounded scalar types.

Used by every module of `ratchet_api`. Decides how Python names map to the wire (camelCase), that unknown
fields are refused, and which bounds a name, a URI or a digest has. Never holds a field of a kind.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, model_validator
from pydantic.alias_generators import to_camel

GROUP = "ratchet.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"


class ApiModel(BaseModel):
    """Base of every model that crosses the wire: camelCase, closed, strict and immutable."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
    )

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, value: Any) -> Any:
        """A null means that the field was left out, as the API server has it; an unknown field stays to be refused."""
        # dict first: to ask an abstract class costs as much as the rest of this, and every event comes by here
        if not isinstance(value, (dict, Mapping)) or None not in value.values():
            return value
        known = {name for field, info in cls.model_fields.items() for name in (field, info.alias)}
        return {name: part for name, part in value.items() if part is not None or name not in known}

    def to_wire(self) -> dict[str, Any]:
        """Return the JSON-ready dict as Kubernetes stores it: camelCase, no nulls."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class StatusModel(ApiModel):
    """Base of status models: an older operator must be able to read a newer status, so unknown fields are dropped."""

    model_config = ConfigDict(extra="ignore", strict=False)


def _as_utc(value: datetime) -> datetime:
    if value.tzinfo is None:
        raise ValueError("a time needs a zone, as in 2026-01-31T12:00:00Z")
    try:
        return value.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("a time must lie between the years 1 and 9999 in UTC") from error


def format_time(value: datetime) -> str:
    """Format an aware datetime as Kubernetes does: UTC, whole seconds, trailing Z."""
    # not strftime, which writes the year 1, as other languages say "no date", with one digit
    return value.astimezone(UTC).replace(tzinfo=None, microsecond=0).isoformat() + "Z"


def parse_time(value: str) -> datetime:
    """Parse an RFC 3339 time into an aware UTC datetime.

    Raises:
        ValueError: the text is no RFC 3339 time or has no zone.
    """
    return _as_utc(datetime.fromisoformat(value.replace("Z", "+00:00")))


Timestamp = Annotated[
    datetime,
    Field(strict=False),
    AfterValidator(_as_utc),
    PlainSerializer(format_time, return_type=str, when_used="json"),
]
"""UTC time, serialised as RFC 3339 with whole seconds."""

ObjectName = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]
"""Name of a Kubernetes object in the same namespace (RFC 1123 subdomain)."""


class ObjectRef(ApiModel):
    """Name of another object in the same namespace."""

    name: Annotated[ObjectName, Field(description="name: the object's name; references never cross namespaces.")]


Sha256 = Annotated[str, Field(min_length=64, max_length=64, pattern=r"^[a-f0-9]{64}$")]
"""Lower-case hexadecimal SHA-256."""

# Blanks are spelt out below: what \s means differs between Go's expressions (the API server's) and Rust's (pydantic's).
StoreUri = Annotated[str, Field(min_length=9, max_length=1024, pattern=r"^(store|s3)://[^\t\n\f\r \\?#%]+$")]
"""`store://PATH` (relative to the namespace's own prefix in the configured store) or `s3://BUCKET/KEY`."""

_COLUMN = r"[^\t\n\f\r .]([^\t\n\f\r.]*[^\t\n\f\r .])?"
ColumnPath = Annotated[str, Field(min_length=1, max_length=256, pattern=rf"^{_COLUMN}(\.{_COLUMN})*$")]
"""Column name, blanks inside allowed, or a dotted path into nested objects such as `message.body`."""

LabelName = Annotated[str, Field(min_length=1, max_length=128)]
"""Name of a class, as it stands in the data."""


def _without_nulls(value: Any) -> Any:
    """A null in a map means that the key was left out, as the API server has it."""
    return {key: part for key, part in value.items() if part is not None} if isinstance(value, dict) else value


NullsAreAbsent = BeforeValidator(_without_nulls)
"""Beside the type of a map."""

METRIC_KEY_LIMIT = 160
METRICS_LIMIT = 64
"""How many metrics a stage's status holds: those of the whole, of a comparison, and one per gate on a class."""

MetricKey = Annotated[str, Field(max_length=METRIC_KEY_LIMIT)]
"""Name of a metric: a word, `f1/` and the name of a class, or a word, `/` and the name of a task."""

MetricValue = Annotated[float, Field(json_schema_extra={"x-unbounded": True})]
"""A measured number; a loss or a score has no bound by nature."""


def canonical_json(value: Any) -> bytes:
    """Serialise to the one byte string that digests are taken of: sorted keys, no blanks, UTF-8, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest_of(value: Any) -> str:
    """Return the SHA-256 (64 hex digits) of a JSON-able value's canonical form."""
    return hashlib.sha256(canonical_json(value)).hexdigest()
