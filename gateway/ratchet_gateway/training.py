"""From a request to train to the objects that the operator works on, and from their status to the answer.

Decides what is trained on (the policy's feedback: corrections, and answers rated four stars or more; of nobody more
than a share of it), how the run's
template is changed by the request, and what the pair is called: equal feedback and an equal request give equal names,
so a request that is repeated starts nothing twice. Pure but for the port; called by the policy routes.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from pydantic import ValidationError

from ratchet_api.base import API_VERSION, digest_of
from ratchet_api.conditions import ConditionType, Reason, find_condition
from ratchet_api.feedback import TrainRequest
from ratchet_api.feedback_dataset import DEMONSTRATIONS, FeedbackDatasetStatus
from ratchet_api.names import LABEL_POLICY, label_value, run_name_for_template
from ratchet_api.policy_types import GENERATOR
from ratchet_api.stage import Stage
from ratchet_api.train_answers import NotTrained, Trained, TrainRunning
from ratchet_api.training_run import RLTrainingRunSpec, RLTrainingRunStatus, RunTemplate
from ratchet_gateway.policies import PolicyView
from ratchet_gateway.tally import PolicyTally
from ratchet_web.errors import Malformed

DATASETS, RUNS = "feedbackdatasets", "rltrainingruns"
GOOD_RATING = 4.0
"""Stars from which an answer counts as right."""
LEAST_SHARE = 10
"""Percent of the rows that anybody may give, however many people there are."""
_COUNT, _MEAN, _STD = (f"ratchet.dev/feedback-{name}" for name in ("count", "mean", "std"))

KubeObject = Mapping[str, Any]


class Training(Protocol):
    """Where the objects are kept."""

    async def create(self, plural: str, body: KubeObject) -> None:
        """Create an object; one of that name that is there already stays as it is.

        Raises:
            Away: nobody answers, or the gateway may not.
            Malformed: the object is refused.
        """

    async def read(self, plural: str, name: str) -> KubeObject | None:
        """Return an object, or None.

        Raises:
            Away: nobody answers, or the gateway may not.
        """


class LocalTraining:
    """Objects of a state directory.

    Args:
        submit: applies a manifest; ValueError and its like say why not.
        find: returns an object by plural and name, or None.
        refusals: what `submit` raises for an object that it refuses.
    """

    def __init__(
        self,
        submit: Callable[[dict[str, Any]], object],
        find: Callable[[str, str], KubeObject | None],
        refusals: tuple[type[Exception], ...] = (),
    ) -> None:
        self._submit, self._find, self._refusals = submit, find, refusals

    async def create(self, plural: str, body: KubeObject) -> None:
        """Create an object unless it is there."""
        if self._find(plural, body["metadata"]["name"]) is not None:
            return
        try:
            self._submit(dict(body))
        except self._refusals as error:
            raise Malformed(f"{body['kind']} {body['metadata']['name']!r}: {error}") from error

    async def read(self, plural: str, name: str) -> KubeObject | None:
        """Return an object, or None."""
        return self._find(plural, name)


def template_of(view: PolicyView, request: TrainRequest) -> RunTemplate:
    """Return what the policy is trained by.

    Raises:
        Malformed: it has no template, or the request is about another type of policy.
    """
    if view.template is None:
        raise Malformed(f"policy {view.name!r}: has no spec.training.template; give it one, and it can be trained")
    if request.labels is not None and view.type == GENERATOR:
        raise Malformed(f"labels: are of a classifier, and policy {view.name!r} is a generator; leave them out")
    return view.template


def manifests(
    view: PolicyView, request: TrainRequest, tally: PolicyTally, *, namespace: str, failed: int = 0
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the FeedbackDataset and the RLTrainingRun for a request.

    Args:
        view: the policy.
        request: what was asked for.
        tally: of the policy's feedback.
        namespace: of both.
        failed: how many runs of this request on this feedback have failed; the next one has another name.

    Raises:
        Malformed: the policy has no template, or the request does not fit it.
    """
    stats, scores, wire = tally.stats(), tally.scores, template_of(view, request).to_wire()
    hyper = wire["stages"]["supervised"]
    if request.learning_rate is not None:
        hyper["learningRate"] = request.learning_rate
    dataset: dict[str, Any] = {
        "type": DEMONSTRATIONS if view.type == GENERATOR else "classification",
        "source": {"feedback": {"policyRef": {"name": view.name}, "minRating": GOOD_RATING}},
    }
    if request.labels is not None:
        dataset["labels"] = list(request.labels)
    filters: dict[str, Any] = {}
    if (share := request.max_subject_share_percent or share_of_one(tally.people)) < 100:
        filters["maxSubjectSharePercent"] = share
    if request.max_steps is not None:
        # no more rows than events now, and no more passes than give the steps: later events cannot add steps
        rows = max(stats.events, 10)
        filters["maxSamples"] = rows
        most = request.max_steps / -(-rows // hyper["batchSize"])
        hyper["epochs"] = min(hyper["epochs"], most * (1 - 1e-9))
    if filters:
        dataset["filters"] = filters
    asked = request.to_wire() | {"template": template_of(view, request).to_wire(), "policy": view.name}
    if failed:
        asked["failed"] = failed
    digest = digest_of(asked | {"events": stats.events, "newest": stats.newest})
    name = run_name_for_template(f"{view.name}-feedback", digest)
    spec = {**wire, "policyType": view.type, "publishTo": {"name": view.name}, "datasetRef": {"name": name}}
    try:
        RLTrainingRunSpec.model_validate(spec)
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise Malformed(f"policy {view.name!r}: its template cannot be run so: {where}: {first['msg']}") from error
    said = {_COUNT: str(tally.samples), _MEAN: f"{scores.mean:.6f}", _STD: f"{scores.std:.6f}"}
    meta = {"name": name, "namespace": namespace, "labels": {LABEL_POLICY: label_value(view.name)}}
    return (
        {"apiVersion": API_VERSION, "kind": "FeedbackDataset", "metadata": dict(meta), "spec": dataset},
        {"apiVersion": API_VERSION, "kind": "RLTrainingRun", "metadata": meta | {"annotations": said}, "spec": spec},
    )


def share_of_one(people: int) -> int:
    """Return the percent of the rows that one of so many people may give: twice an equal part, LEAST_SHARE at least."""
    return max(LEAST_SHARE, min(100, math.ceil(200 / max(people, 1))))


async def has_failed(training: Training, run: str) -> bool:
    """Whether a run is over and failed; one that still may go on has not."""
    found = await training.read(RUNS, run)
    return found is not None and _true(
        RLTrainingRunStatus.model_validate(found.get("status", {})), ConditionType.FAILED
    )


async def start(training: Training, dataset: dict[str, Any], run: dict[str, Any]) -> None:
    """Create both, the dataset first: a run whose dataset is missing would say so to whoever looks in between."""
    await training.create(DATASETS, dataset)
    await training.create(RUNS, run)


async def answer(training: Training, policy: str, name: str) -> TrainRunning | Trained | NotTrained | None:
    """Return how far a run of a policy is, or None when there is no such run."""
    run = await training.read(RUNS, name)
    if run is None or run["spec"].get("publishTo", {}).get("name") != policy:
        return None
    status = RLTrainingRunStatus.model_validate(run.get("status", {}))
    if status.version is not None and status.artifact is not None and _true(status, ConditionType.COMPLETE):
        said = run["metadata"].get("annotations", {})
        return Trained(
            status="trained",
            policy_id=policy,
            version=status.version,
            model_path=status.artifact.uri,
            reward_model_path=_committed_by(status, Stage.REWARD_MODEL),
            feedback_count=int(said.get(_COUNT, 0)),
            training_steps=round(
                sum(stage.metrics.get(key, 0.0) for stage in status.stages for key in ("steps", "optimizer_steps"))
            ),
            reward_mean=float(said.get(_MEAN, 0.0)),
            reward_std=float(said.get(_STD, 0.0)),
        )
    for condition, word in ((ConditionType.FAILED, "failed"), (ConditionType.COMPLETE, "not_published")):
        found = find_condition(status.conditions, condition)
        if found is not None and found.status == "True":
            why = find_condition(status.conditions, ConditionType.GATE_PASSED) if word == "not_published" else None
            told = why if why is not None and why.status == "False" else found
            return _not_trained(name, word, told.reason, told.message)
    refused = find_condition(status.conditions, ConditionType.STALLED)
    if refused is not None and refused.status == "True":
        return _not_trained(name, "failed", refused.reason, refused.message)
    data = await training.read(DATASETS, run["spec"]["datasetRef"]["name"])
    return await _by_its_data(name, status, data)


async def _by_its_data(
    name: str, status: RLTrainingRunStatus, data: KubeObject | None
) -> TrainRunning | Trained | NotTrained | None:
    """A run waits as long as its data may still come; those made for it come at once or not at all."""
    if data is not None and not status.stages:
        found = find_condition(
            FeedbackDatasetStatus.model_validate(data.get("status", {})).conditions, ConditionType.STALLED
        )
        if found is not None and found.status == "True":
            return _not_trained(name, "failed", Reason.DATASET_FAILED, found.message)
    return TrainRunning(
        status="training",
        run_name=name,
        state=status.state or "Pending",
        stage=status.stage,
        progress_percent=status.progress_percent,
    )


async def wait(
    training: Training, policy: str, name: str, *, every_seconds: float, gone: Callable[[], Any]
) -> TrainRunning | Trained | NotTrained | None:
    """Ask again and again until the run is over, or `gone` says that nobody waits for the answer any more."""
    while isinstance(said := await answer(training, policy, name), TrainRunning) and not await gone():
        await asyncio.sleep(every_seconds)
    return said


def _committed_by(status: RLTrainingRunStatus, stage: Stage) -> str | None:
    found = next((each.artifact for each in status.stages if each.name == stage.value), None)
    return None if found is None else found.uri


def _true(status: RLTrainingRunStatus, condition: ConditionType) -> bool:
    found = find_condition(status.conditions, condition)
    return found is not None and found.status == "True"


def _not_trained(name: str, word: Any, reason: str, detail: str) -> NotTrained:
    return NotTrained(status=word, run_name=name, reason=reason, detail=detail[:4096])
