"""Own numbers by which a candidate is judged: what a user asks Prometheus for, and what was answered last.

Decides the fields, and what stands for what in a query. Who asks is the operator; what an answer leads to is decided in
`ratchet_operator.plan.rollout` and `ratchet_api.stats`. Used by `rollout`. Pure.
"""

from __future__ import annotations

import re
from typing import Annotated, Self

from pydantic import Field, model_validator

from ratchet_api.base import ApiModel, StatusModel, Timestamp

MOST_QUERIES = 10
# `{{` begins a place that is filled in, and nothing else: a word that is misspelt must not be asked for
_TEXT = r"^([^{]|\{[^{]|\{\{(namespace|policy|version|champion)\}\})*$"
_PLACE = re.compile(r"\{\{(namespace|policy|version|champion)\}\}")
_QueryText = Annotated[str, Field(min_length=1, max_length=2048, pattern=_TEXT)]
_Bound = Annotated[float, Field(ge=-1e15, le=1e15)]
_Number = Annotated[int, Field(ge=1, le=2**31)]
_Name = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[A-Za-z]([-A-Za-z0-9_ ]*[A-Za-z0-9])?$")]
_Seen = Annotated[float | None, Field(default=None, json_schema_extra={"x-unbounded": True})]


class Query(ApiModel):
    """A number of the version on trial that must stay within bounds. It is compared with them, and not tested."""

    name: Annotated[_Name, Field(description="name: of what is measured, as people read it; each once.")]
    query: Annotated[
        _QueryText,
        Field(
            description="query: in PromQL, of one number: a scalar, or one series. {{version}}, {{champion}}, {{policy}} and {{namespace}} stand for the version on trial, the champion's number, and the policy. No other {{ may stand in it."
        ),
    ]
    most: Annotated[
        _Bound | None,
        Field(default=None, description="most: the largest value that is well. If omitted, none is too large."),
    ]
    least: Annotated[
        _Bound | None, Field(default=None, description="least: the smallest. If omitted, none is too small.")
    ]
    seconds: Annotated[
        int,
        Field(
            default=120,
            ge=1,
            le=86_400,
            description="seconds: for how long the value must be beyond a bound, without a gap, before the version is rolled back. Until then, and while the value is not known, it gets no further share.",
        ),
    ]
    alive: Annotated[
        _QueryText | None,
        Field(
            default=None,
            description="alive: a query of a number that changes while the version is asked, such as a counter of its requests. While it has stood still for 5 minutes the value is not believed. If omitted, a value that is there is believed.",
        ),
    ]

    @model_validator(mode="after")
    def _has_a_bound(self) -> Self:
        if self.most is None and self.least is None:
            raise ValueError(f"query {self.name!r} has neither most nor least; give one, or remove the query")
        if self.most is not None and self.least is not None and self.most < self.least:
            raise ValueError(f"query {self.name!r}: most is {self.most:g}, below least, {self.least:g}; swap them")
        return self


class QuerySeen(StatusModel):
    """What was last measured of a version."""

    name: Annotated[str, Field(max_length=63, description="name: of the query.")]
    version: Annotated[_Number, Field(description="version: of which it was measured.")]
    value: Annotated[_Seen, Field(description="value: as measured, kept to 20 s; none = not known.")]
    problem: Annotated[str, Field(default="", max_length=256, description="problem: why the value is not known.")]
    beyond_since: Annotated[
        Timestamp | None,
        Field(
            default=None, description="beyondSince: since when it is beyond a bound without a gap; none = it is not."
        ),
    ]
    alive: Annotated[_Seen, Field(description="alive: what must change while the version is asked.")]
    changed: Annotated[
        Timestamp | None, Field(default=None, description="changed: when that was last seen to change; none = never.")
    ]
    at: Annotated[Timestamp, Field(description="at: when this was written.")]


def text_of(query: str, *, namespace: str, policy: str, version: int, champion: int) -> str:
    """Return the text that Prometheus is asked, its places filled in."""
    values = {"namespace": namespace, "policy": policy, "version": str(version), "champion": str(champion)}
    return _PLACE.sub(lambda found: values[found[1]], query)
