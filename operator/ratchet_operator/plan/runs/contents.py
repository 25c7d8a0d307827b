"""What each stage of a run is told, and the digest of everything that decides its result. Pure.

The digests name parents by their own input digests, so all digests of a run are known before any stage ran. What
cannot change a result (resources, names, places, gates' bounds, checkpoint interval) is left out of them.
"""

from __future__ import annotations

from typing import Any

from ratchet_api.names import snapshot_prefix, stage_prefix
from ratchet_api.stage import (
    DatasetRef,
    EvaluateConfig,
    Owner,
    ResolveConfig,
    Stage,
    StageConfig,
    StageInput,
    StageRef,
    StoreConfig,
    SupervisedConfig,
    input_digest,
)
from ratchet_api.training_run import ResolvedRun, RLTrainingRunSpec
from ratchet_operator.plan.runs.state import spec_of, stage_named
from ratchet_operator.plan.world import RunWorld
from ratchet_operator.settings import StoreSettings

RUNS_DIR = "runs"


def stage_input_digest(spec: RLTrainingRunSpec, resolved: ResolvedRun, stage: Stage) -> str | None:
    """Return the stage's input digest; None for resolve, which is never cached."""
    if stage is Stage.RESOLVE:
        return None
    if stage is Stage.SUPERVISED:
        hyper = _wire(spec.stages.supervised)
        settings = {
            "lora": _wire(spec.lora),
            "hyper": {k: v for k, v in hyper.items() if k not in ("resources", "checkpointEverySteps")},
            "seed": spec.seed,
        }
        parents = {"dataset": resolved.dataset_digest, "baseModel": spec.base_model.sha256}
        return input_digest(stage, settings, parents=parents, code_version=resolved.code_version)
    trained = stage_input_digest(spec, resolved, Stage.SUPERVISED) or ""
    judged = {k: v for k, v in _wire(spec.evaluation).items() if k != "gates"}
    settings = {
        "evaluation": judged,
        "gateLabels": sorted({g.label for g in spec.evaluation.gates if g.label is not None}),
        "maxTokens": spec.stages.supervised.max_tokens,
        "seed": spec.seed,
    }
    parents = {"dataset": resolved.dataset_digest, "candidate": trained}
    return input_digest(stage, settings, parents=parents, code_version=resolved.code_version)


def stage_input(world: RunWorld, resolved: ResolvedRun, store: StoreSettings, stage: Stage, attempt: int) -> StageInput:
    """Return the whole of one attempt's stage.json."""
    meta = world.meta
    return StageInput(
        owner=Owner(kind=meta.kind, namespace=meta.namespace, name=meta.name, uid=meta.uid),
        attempt=attempt,
        prefix=_prefix(world, stage),
        input_digest=_pinned_digest(world, resolved, stage),
        store=StoreConfig(uri=resolved.store_uri, endpoint=store.endpoint, region=store.region),
        config=_config(world, resolved, stage),
    )


def _config(world: RunWorld, resolved: ResolvedRun, stage: Stage) -> StageConfig:
    spec = spec_of(world)
    dataset = DatasetRef(
        digest=resolved.dataset_digest, prefix=snapshot_prefix(world.meta.namespace, resolved.dataset_digest)
    )
    if stage is Stage.RESOLVE:
        lookups = tuple(_ref(world, resolved, later) for later in (Stage.SUPERVISED, Stage.EVALUATE))
        return ResolveConfig(dataset=dataset, base_model=spec.base_model, lookups=lookups)
    if stage is Stage.SUPERVISED:
        return SupervisedConfig(
            dataset=dataset,
            base_model=spec.base_model,
            lora=spec.lora,
            hyper=spec.stages.supervised,
            seed=spec.seed,
        )
    if stage is Stage.EVALUATE:
        return EvaluateConfig(
            dataset=dataset,
            candidate=_ref(world, resolved, Stage.SUPERVISED),
            evaluation=spec.evaluation,
            hyper=spec.stages.evaluate,
            max_tokens=spec.stages.supervised.max_tokens,
            seed=spec.seed,
        )
    raise ValueError(f"{world.meta.title}: a run has no stage {stage.value!r}")


def _ref(world: RunWorld, resolved: ResolvedRun, stage: Stage) -> StageRef:
    digest = _pinned_digest(world, resolved, stage) or ""
    return StageRef(stage=stage, prefix=_prefix(world, stage), input_digest=digest)


def _pinned_digest(world: RunWorld, resolved: ResolvedRun, stage: Stage) -> str | None:
    """The digest recorded at the start: an operator upgraded since then must not ask for another result."""
    row = stage_named(world.status, stage)
    return row.input_digest if row is not None else stage_input_digest(spec_of(world), resolved, stage)


def _prefix(world: RunWorld, stage: Stage) -> str:
    meta = world.meta
    return stage_prefix(meta.namespace, RUNS_DIR, meta.name, meta.uid, stage.value)


def _wire(model: Any) -> dict[str, Any]:
    wire: dict[str, Any] = model.to_wire()
    return wire
