"""What is known of a policy: its versions with their metrics, and what training on its feedback would be."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic.alias_generators import to_camel

from ratchet_api.feedback import FeedbackStats, TrainEstimate, TrainRequest, VersionView
from ratchet_gateway.auth import Role
from ratchet_gateway.errors import Malformed
from ratchet_gateway.estimates import estimate
from ratchet_gateway.routes.feedback import PolicyName
from ratchet_gateway.routes.problems import KNOWN_CALLER, SAMPLES, UNKNOWN
from ratchet_gateway.services import Calling

router = APIRouter(prefix="/api/policies", tags=["policies"])


@router.get("/{policy}", responses={**KNOWN_CALLER, **UNKNOWN}, summary="Versions of a policy")
async def versions(policy: PolicyName, call: Calling) -> list[VersionView]:
    """List the published versions with their metrics, oldest first."""
    call.caller.need(Role.READ)
    view = await call.services.policy(policy)
    return [
        VersionView(
            version=each.version,
            metrics={to_camel(name): value for name, value in each.metrics.items()},
            run=each.run,
            published=each.published,
        )
        for each in view.versions
    ]


@router.get("/{policy}/feedback", responses={**KNOWN_CALLER, **UNKNOWN}, summary="Statistics of a policy's feedback")
async def feedback_stats(policy: PolicyName, call: Calling) -> FeedbackStats:
    """Count the policy's feedback in the log: by type, scores, subjects."""
    call.caller.need(Role.READ)
    await call.services.policy(policy)
    return (await call.services.tally.of(policy)).stats()


@router.post(
    "/train_policy/{policy}", responses={**KNOWN_CALLER, **SAMPLES, **UNKNOWN}, summary="What training would be"
)
async def train(policy: PolicyName, body: TrainRequest, call: Calling) -> TrainEstimate:
    """Answer how many rated events there are and what a run of the policy's template on them would be.

    At least 10 rated events are needed.
    """
    call.caller.need(Role.TRAIN)
    view = await call.services.policy(policy)
    if view.template is None:
        raise Malformed(f"policy {policy!r}: has no spec.training.template; give it one, and it can be trained")
    return estimate((await call.services.tally.of(policy)).scores, view.template, body)
