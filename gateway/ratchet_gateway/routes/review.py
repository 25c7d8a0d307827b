"""The review page and what it asks for. The page itself holds no data and needs no token; all that it shows does.

Decides who may see recorded answers (role `read`; voting is feedback and needs `ingest`) and what a browser may do with
the page: load scripts and styles from here, ask this gateway, and nothing else.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Annotated

from fastapi import APIRouter, Path, Query, Response

from ratchet_api.review import (
    ReviewAnswer,
    ReviewDatasets,
    ReviewItem,
    ReviewOrder,
    ReviewPair,
    ReviewPolicies,
    ReviewQueue,
    ReviewStats,
)
from ratchet_api.signing import Exposure, sign_interaction
from ratchet_gateway.auth import Role
from ratchet_gateway.datasets import Untold
from ratchet_gateway.recent import Answer
from ratchet_gateway.routes.feedback import PolicyName
from ratchet_gateway.routes.problems import KNOWN_CALLER, UNKNOWN
from ratchet_gateway.services import Calling, Services

router = APIRouter(tags=["review"])
page = APIRouter(include_in_schema=False)

_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
FILES = ("review.css", "review.js", "experiment.js", "api.js", "curves.js", "datasets.js", "plots.js", "icon.svg")
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}

Order = Annotated[
    ReviewOrder,
    Query(description="order: unsure, disputed (about which people or versions disagree) or newest first."),
]
Limit = Annotated[int, Query(ge=1, le=500, description="limit: items and pairs of one answer.")]


@page.get("/review")
async def review_page() -> Response:
    """Serve the page."""
    return _file("index.html")


@page.get("/review/{name}")
async def review_file(name: Annotated[str, Path(max_length=64)]) -> Response:
    """Serve one of the page's files; there are no others."""
    if name not in FILES:
        return Response("no such file\n", 404, media_type="text/plain", headers=HEADERS)
    return _file(name)


def _file(name: str) -> Response:
    content = (files("ratchet_gateway") / "pages" / name).read_bytes()
    return Response(content, media_type=_TYPES[name.rpartition(".")[2]], headers=HEADERS)


@router.get("/v1/review", responses=KNOWN_CALLER, summary="Policies with answers to review")
async def policies(call: Calling) -> ReviewPolicies:
    """List the policies of which answers were recorded, with the number that nobody judged yet."""
    call.caller.need(Role.READ)
    found = await call.services.review.policies()
    return ReviewPolicies(policies={name: len(seen.waiting()) for name, seen in sorted(found.items())})


@router.get("/v1/review/{policy}", responses={**KNOWN_CALLER, **UNKNOWN}, summary="Answers to review")
async def queue(policy: PolicyName, call: Calling, limit: Limit = 50, order: Order = "unsure") -> ReviewQueue:
    """List answers that nobody judged, and pairs of answers to one input that nobody compared."""
    call.caller.need(Role.READ)
    services = call.services
    await services.policy(policy)
    seen = await services.review.of(policy)
    waiting = seen.waiting(order)
    return ReviewQueue(
        policy=policy,
        waiting=len(waiting),
        judged=len(seen.answers) - len(waiting),
        items=tuple(ReviewItem(**_shown(services, each).model_dump(), input=each.input) for each in waiting[:limit]),
        pairs=tuple(
            ReviewPair(id=name, input=last.input, answers=(_shown(services, other), _shown(services, last)))
            for name, other, last in seen.pairs()[:limit]
        ),
        labels=tuple(label for label, _ in seen.labels()[:500]),
    )


@router.get("/v1/review/{policy}/stats", responses={**KNOWN_CALLER, **UNKNOWN}, summary="Numbers to plot")
async def stats(policy: PolicyName, call: Calling) -> ReviewStats:
    """Count feedback by day, by score and by label."""
    call.caller.need(Role.READ)
    await call.services.policy(policy)
    return (await call.services.review.of(policy)).stats(policy)


@router.get(
    "/v1/review/{policy}/datasets", responses={**KNOWN_CALLER, **UNKNOWN}, summary="What data sets kept of the feedback"
)
async def datasets(policy: PolicyName, call: Calling) -> ReviewDatasets:
    """List the data sets made of a policy's feedback: what their newest snapshots hold, and which rule removed what."""
    call.caller.need(Role.READ)
    await call.services.policy(policy)
    try:
        found = await call.services.datasets.of(policy)
    except Untold as error:
        return ReviewDatasets(policy=policy, problem=str(error))
    return ReviewDatasets(policy=policy, datasets=tuple(found))


def _shown(services: Services, answer: Answer) -> ReviewAnswer:
    """Sign the interaction anew, since the log keeps no signed ids; a vote that cites it is joined as any other."""
    recorder, now = services.recorder, services.now()
    exposure = Exposure(
        id=answer.id,
        policy=answer.policy,
        version=answer.version,
        arm=answer.arm,
        propensity=answer.propensity,
        issued=int(now.timestamp()),
        expires=int((now + recorder.lifetime).timestamp()),
    )
    return ReviewAnswer(
        interaction_id=sign_interaction(exposure, recorder.ring),
        id=answer.id,
        answer=answer.answer,
        version=answer.version,
        confidence=answer.confidence,
        received=answer.received,
    )
