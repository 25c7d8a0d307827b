"""reward-model: teaches a model what people think of a generator's answers, on the policy that RL starts from. Pure."""

from __future__ import annotations

from ratchet_api.resolved import ResolvedRun
from ratchet_api.reward_model import RewardModelStage
from ratchet_api.stage import RewardModelConfig, Stage
from ratchet_api.training_run import RLTrainingRunSpec
from ratchet_operator.plan.runs.pipeline.kind import Deciding, Digests, StageKind, Told, wire_without
from ratchet_operator.plan.runs.pipeline.rl import baseline_digest, start_of

_PLACES = ("resources", "checkpointEverySteps", "datasetRef")
"""Fields of the stage that do not change its result: the judged answers stand in the digest by their own."""


def _hyper(spec: RLTrainingRunSpec) -> RewardModelStage:
    """Settings of the stage.

    Raises:
        ValueError: the run has none; a row of the pipeline is wrong.
    """
    if spec.stages.reward_model is None:
        raise ValueError("stage 'reward-model' is wanted without spec.stages.rewardModel")
    return spec.stages.reward_model


def _deciding(spec: RLTrainingRunSpec, resolved: ResolvedRun, earlier: Digests) -> Deciding:
    if resolved.log is None:
        raise ValueError("stage 'reward-model' is wanted before its dataset is fixed")
    hyper = wire_without(_hyper(spec), *_PLACES)
    if (own := hyper.get("baseModel")) is not None:  # by its digest: where it lies changes nothing
        hyper["baseModel"] = {name: value for name, value in own.items() if name != "uri"}
    settings = {"hyper": hyper, "seed": spec.seed}
    return Deciding(settings, {"dataset": resolved.log.digest, "start": baseline_digest(spec, resolved, earlier)})


def _config(told: Told) -> RewardModelConfig:
    spec, start = told.spec, start_of(told.resolved)
    if told.log is None:
        raise ValueError("stage 'reward-model' is wanted before its dataset is fixed")
    return RewardModelConfig(
        dataset=told.log,
        start=told.stages[Stage.SUPERVISED] if start is None else None,
        start_artifact=start,
        base_model=spec.base_model,
        hyper=_hyper(spec),
        seed=spec.seed,
    )


REWARD_MODEL = StageKind(
    stage=Stage.REWARD_MODEL,
    resources=lambda spec: _hyper(spec).resources,
    config=_config,
    deciding=_deciding,
)
