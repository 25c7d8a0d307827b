"""resolve: the run's first, light pod. Checks the inputs and looks the later stages up. Pure."""

from __future__ import annotations

from ratchet_api.placement import Resources
from ratchet_api.stage import ResolveConfig, Stage
from ratchet_operator.plan.runs.pipeline.kind import StageKind, Told
from ratchet_operator.plan.runs.pipeline.rl import start_of

RESOURCES = Resources(cpu=0.5, memory_gi=1, ephemeral_storage_gi=1)
"""It only reads listings and small files; it must fit wherever anything fits."""


def _config(told: Told) -> ResolveConfig:
    spec = told.spec
    comparison = spec.evaluation.comparison
    return ResolveConfig(
        dataset=told.dataset,
        log=told.log,
        base_model=spec.base_model,
        lookups=tuple(ref for stage, ref in told.stages.items() if stage is not Stage.RESOLVE),
        gates=spec.evaluation.gates,
        slices=comparison.slices if comparison is not None else (),
        start=start_of(told.resolved),
    )


RESOLVE = StageKind(stage=Stage.RESOLVE, resources=lambda _spec: RESOURCES, config=_config)
