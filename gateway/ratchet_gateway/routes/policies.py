"""What is known of a policy: its versions and their metrics, its feedback counted, its rollout, and training."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic.alias_generators import to_camel

from ratchet_api.base import ObjectName, Timestamp
from ratchet_api.feedback import FeedbackCount, FeedbackStats, TrainEstimate, TrainRequest, VersionView
from ratchet_api.rollout_view import RolloutView
from ratchet_api.train_answers import TrainAnswer, TrainStarted
from ratchet_gateway import training
from ratchet_gateway.auth import Role
from ratchet_gateway.errors import UnknownRun
from ratchet_gateway.estimates import estimate
from ratchet_gateway.experiments import view_of_rollout
from ratchet_gateway.routes.feedback import PolicyName
from ratchet_gateway.routes.problems import KNOWN_CALLER, SAMPLES, UNKNOWN
from ratchet_gateway.services import Calling, Services
from ratchet_web.errors import Malformed

router = APIRouter(prefix="/api/policies", tags=["policies"])

Wait = Annotated[bool, Query(description="wait: true answers when the run is over, however long that takes.")]
Since = Annotated[Timestamp, Query(description="since: a time with its zone, such as 2026-01-31T12:00:00Z.")]
_AS_IT_IS = TrainRequest()
RunName = Annotated[ObjectName, Path(description="run: name of the RLTrainingRun, as the start answered it.")]


@router.get(
    "/{policy}",
    response_model_exclude_none=True,
    responses={**KNOWN_CALLER, **UNKNOWN},
    summary="Versions of a policy",
)
async def versions(policy: PolicyName, call: Calling) -> list[VersionView]:
    """List the published versions with their metrics, oldest first."""
    call.caller.need(Role.READ)
    view = await call.services.policy(policy)
    return [
        VersionView(
            version=each.version,
            metrics={_called(name): value for name, value in each.metrics.items()},
            run=each.run,
            published=each.published,
            generation=each.generation,
            variant_of=each.variant_of,
        )
        for each in view.versions
    ]


@router.get("/{policy}/feedback", responses={**KNOWN_CALLER, **UNKNOWN}, summary="Statistics of a policy's feedback")
async def feedback_stats(policy: PolicyName, call: Calling) -> FeedbackStats:
    """Count the policy's feedback in the log: by type, scores, subjects."""
    call.caller.need(Role.READ)
    await call.services.policy(policy)
    return (await call.services.tally.of(policy)).stats()


@router.get("/{policy}/rollout", responses={**KNOWN_CALLER, **UNKNOWN}, summary="Who gets which version, and a trial")
async def rollout(policy: PolicyName, call: Calling) -> RolloutView:
    """Tell who gets which version since when, and what is known of the version on trial, or of the last one.

    Where the analyst is away, `trial` is missing and `problem` says so; the rest is there.
    """
    call.caller.need(Role.READ)
    return await view_of_rollout(await call.services.policy(policy), call.services.analyst)


@router.post(
    "/train_policy/{policy}",
    response_model=TrainEstimate | TrainAnswer,
    responses={202: {"model": TrainStarted, "description": "Started"}, **KNOWN_CALLER, **SAMPLES, **UNKNOWN},
    summary="Train a policy on its feedback",
)
async def train(
    policy: PolicyName, call: Calling, request: Request, body: TrainRequest = _AS_IT_IS, wait: Wait = False
) -> Any:
    """Start a run of the policy's template on its feedback: corrections, and answers rated four stars or more.

    Answers 202 with the run's name, or with `wait=true` when the run is over. With `dryRun` it starts nothing and
    answers what a run would be. At least 10 events are needed that rate or correct an answer; nobody gives more than
    `maxSubjectSharePercent` of the rows. The same request on the same feedback is the same run, so asking again is
    safe; after a run that failed it is a new one.
    """
    services, caller = call
    caller.need(Role.TRAIN)
    view = await services.policy(policy)
    template = training.template_of(view, body)
    tally = await services.tally.of(policy)
    estimated = estimate(tally.samples, tally.scores, template, body)
    if body.dry_run:
        return estimated
    port = training_of(services)
    failed = 0
    dataset, run = training.manifests(view, body, tally, namespace=services.namespace)
    while await training.has_failed(port, run["metadata"]["name"]):
        failed += 1
        dataset, run = training.manifests(view, body, tally, namespace=services.namespace, failed=failed)
    await training.start(port, dataset, run)
    name = run["metadata"]["name"]
    if wait:
        return await _waited(port, policy, name, call, request)
    started = TrainStarted(
        status="started",
        run_name=name,
        dataset_name=dataset["metadata"]["name"],
        feedback_count=estimated.feedback_count,
    )
    return Response(started.model_dump_json(by_alias=True), 202, media_type="application/json")


@router.get("/train_policy/{policy}/{run}", responses={**KNOWN_CALLER, **UNKNOWN}, summary="How far a run is")
async def trained(policy: PolicyName, run: RunName, call: Calling, request: Request, wait: Wait = False) -> TrainAnswer:
    """Answer how far a run of the policy is; with `wait=true` when it is over."""
    services, caller = call
    caller.need(Role.READ)
    await services.policy(policy)
    port = training_of(services)
    if wait:
        return await _waited(port, policy, run, call, request)
    return _known(await training.answer(port, policy, run), policy, run)


async def _waited(port: training.Training, policy: str, run: str, call: Calling, request: Request) -> TrainAnswer:
    """Return what became of a run; whoever deletes it meanwhile ends the waiting."""
    gone, pause = request.is_disconnected, call.services.ask_seconds
    return _known(await training.wait(port, policy, run, every_seconds=pause, gone=gone), policy, run)


@router.get(
    "/{policy}/feedback/count", responses={**KNOWN_CALLER, **UNKNOWN}, summary="How much of a policy's feedback is new"
)
async def feedback_count(policy: PolicyName, since: Since, call: Calling) -> FeedbackCount:
    """Count the policy's feedback that arrived after a time; of the log only what is newer is read, and only once."""
    services, caller = call
    caller.need(Role.READ)
    await services.policy(policy)
    events = await services.tally.newer(policy, since, now=services.now())
    return FeedbackCount(policy=policy, since=since, events=events)


def _known(said: TrainAnswer | None, policy: str, run: str) -> TrainAnswer:
    if said is None:
        raise UnknownRun(f"policy {policy!r}: has no run {run!r} here; correct the name, or start one")
    return said


def training_of(services: Services) -> training.Training:
    """Return where runs are made.

    Raises:
        Malformed: this gateway has no such place.
    """
    if services.training is None:
        raise Malformed(
            "this gateway starts no runs, because it knows its policies by name only; run it in a cluster, or as "
            "`ratchet up`"
        )
    return services.training


def _called(metric: str) -> str:
    """A metric's name in the API: `reward` is a generator's mean over held-out prompts; classes keep their names."""
    family, slash, of = metric.partition("/")
    return "rewardMean" if metric == "reward" else to_camel(family) + slash + of
