"""What a policy is served by: its servers, and its routers or Gateways, as far as a user decides about them.

Decides fields and bounds. Which versions are served, and who gets which, is decided by champion and rollout; images,
accounts and Secrets are the administrator's. Pure.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ratchet_api.base import ApiModel, ObjectName
from ratchet_api.generation import Generation
from ratchet_api.placement import NodePlacement, Resources

ROUTERS_OWN = "x-ratchet-"
"""Begin of the headers whose meaning is fixed."""
CookieName = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
HeaderName = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^x-[a-z0-9]+(-[a-z0-9]+)*$")]
_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
HostName = Annotated[str, Field(min_length=1, max_length=253, pattern=rf"^(\*\.)?{_LABEL}(\.{_LABEL})*$")]
"""Of a request, as an HTTPRoute has it; `*.` stands for one or more labels."""
Namespace = Annotated[str, Field(min_length=1, max_length=63, pattern=rf"^{_LABEL}$")]
TesterHeader = Annotated[
    HeaderName | None,
    Field(
        default=None,
        description="testerHeader: a header, in small letters, in which a tester names the number of a version that is served; such answers are in no comparison. If omitted, nobody can choose.",
    ),
]


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
    tester_header: TesterHeader

    @model_validator(mode="after")
    def _header_is_free(self) -> Self:
        check_tester_header(self.tester_header)
        return self


class ParentRef(ApiModel):
    """A Gateway that takes the requests."""

    name: Annotated[ObjectName, Field(description="name: of the Gateway.")]
    namespace: Annotated[
        Namespace | None,
        Field(
            default=None,
            description="namespace: of the Gateway, which must allow routes from here. If omitted, the policy's own.",
        ),
    ]
    section_name: Annotated[
        ObjectName | None,
        Field(
            default=None, description="sectionName: of the Gateway's listener. If omitted, every listener that fits."
        ),
    ]


class HttpRoute(ApiModel):
    """Requests dealt by Gateways, each by itself."""

    parent_refs: Annotated[
        tuple[ParentRef, ...],
        Field(
            strict=False,
            min_length=1,
            max_length=8,
            description="parentRefs: the Gateways; a step counts when all of them took the route.",
        ),
    ]
    hostnames: Annotated[
        tuple[HostName, ...],
        Field(
            default=(),
            strict=False,
            max_length=16,
            description="hostnames: of the requests that are meant. If omitted, all that the listener takes.",
        ),
    ]
    tester_header: TesterHeader

    @model_validator(mode="after")
    def _header_is_free(self) -> Self:
        check_tester_header(self.tester_header)
        return self


class Serving(ApiModel):
    """Servers for each version that somebody gets, and who deals the requests to them."""

    replicas: Annotated[int, Field(default=1, ge=1, le=1000, description="replicas: server pods of each version.")]
    engine: Annotated[
        Literal["builtin", "vllm"],
        Field(
            default="builtin",
            description="engine: who makes a generator's tokens: builtin, the server itself; or vllm, beside it in the same pod, for large models and many users. vllm needs resources.gpus.",
        ),
    ]
    resources: Annotated[
        Resources,
        Field(
            default_factory=Resources,
            description="resources: of each server pod; with engine vllm of vLLM's container, and the server beside it has one core and 2 GiB of its own.",
        ),
    ]
    placement: Annotated[
        NodePlacement, Field(default_factory=NodePlacement, description="placement: where server pods may run.")
    ]
    generation: Annotated[
        Generation | None,
        Field(
            default=None,
            description="generation: how versions answer that are registered from now on, where a request does not say so itself. A change of it makes a new version with the files of the one on trial, else of the newest that waits, else of the champion; it goes on trial as any other, and where spec.rollout is omitted, it has the champion's files and becomes champion at once. If omitted, versions answer as they were trained.",
        ),
    ]
    explore_percent: Annotated[
        float,
        Field(
            default=0,
            ge=0,
            le=100,
            description="explorePercent: share of a classifier's answers that are drawn by its own probabilities instead of being the likeliest class; recorded with the probability of the answer, by which a later run learns what other answers are worth. Answers that abstain, and those that a shadow is asked, too, are never drawn.",
        ),
    ]
    routers: Annotated[Routers, Field(default_factory=Routers, description="routers: before the servers.")]
    http_route: Annotated[
        HttpRoute | None,
        Field(
            default=None,
            description="httpRoute: Gateways of the cluster deal the requests in place of routers, each request by itself: a subject does not keep its version. If omitted, the routers deal by subject.",
        ),
    ]

    @model_validator(mode="after")
    def _engine_has_gpus(self) -> Self:
        if self.engine == "vllm" and self.resources.gpus < 1:
            raise ValueError("engine vllm needs resources.gpus of at least 1; raise it, or use engine builtin")
        return self

    @model_validator(mode="after")
    def _one_deals(self) -> Self:
        if self.http_route is not None and self.routers != Routers():
            raise ValueError("routers do nothing beside httpRoute, whose Gateways deal; remove one of them")
        return self


def check_tester_header(name: str | None) -> None:
    """Refuse a header whose meaning is fixed.

    Raises:
        ValueError: naming it.
    """
    if name is not None and name.startswith(ROUTERS_OWN):
        raise ValueError(f"testerHeader is {name!r}; the router keeps {ROUTERS_OWN}* for itself: take another name")
