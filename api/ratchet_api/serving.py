"""What a policy is served by: its servers and its routers, as far as a user decides about them.

Decides fields and bounds. Which versions are served, and who gets which, is decided by champion and rollout; images,
accounts and Secrets are the administrator's. Pure.
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from ratchet_api.base import ApiModel
from ratchet_api.placement import NodePlacement, Resources

ROUTERS_OWN = "x-ratchet-"
"""Begin of the headers whose meaning is fixed."""
CookieName = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
HeaderName = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^x-[a-z0-9]+(-[a-z0-9]+)*$")]


class Routers(ApiModel):
    """The routers that deal people to versions."""

    replicas: Annotated[
        int, Field(default=2, ge=1, le=100, description="replicas: pods; a step counts when all of them applied it.")
    ]
    cpu: Annotated[
        float, Field(default=1, ge=0.1, le=64, description="cpu: cores of each pod; one worker per whole core.")
    ]
    memory_gi: Annotated[float, Field(default=0.5, ge=0.25, le=64, description="memoryGi: memory of each, in GiB.")]
    subject_cookie: Annotated[
        CookieName | None,
        Field(
            default=None,
            description="subjectCookie: name of a cookie by which callers without the header x-ratchet-subject are known again. If omitted, they get the champion and are in no comparison.",
        ),
    ]
    tester_header: Annotated[
        HeaderName | None,
        Field(
            default=None,
            description="testerHeader: a header, in small letters, in which a tester names the number of a version that is served; such answers are in no comparison. If omitted, nobody can choose.",
        ),
    ]

    @model_validator(mode="after")
    def _header_is_free(self) -> Self:
        if self.tester_header is not None and self.tester_header.startswith(ROUTERS_OWN):
            raise ValueError(
                f"testerHeader is {self.tester_header!r}; the router keeps {ROUTERS_OWN}* for itself: take another name"
            )
        return self


class Serving(ApiModel):
    """Servers for each version that somebody gets, and the routers before them."""

    replicas: Annotated[int, Field(default=1, ge=1, le=1000, description="replicas: server pods of each version.")]
    resources: Annotated[Resources, Field(default_factory=Resources, description="resources: of each server pod.")]
    placement: Annotated[
        NodePlacement, Field(default_factory=NodePlacement, description="placement: where server pods may run.")
    ]
    routers: Annotated[Routers, Field(default_factory=Routers, description="routers: before the servers.")]
