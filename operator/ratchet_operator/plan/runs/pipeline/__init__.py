"""Which stages a run has, in which order, and what each is told. Pure; read by the rules of runs.

The digests name parents by their own input digests, so all digests of a run are known before any stage ran.
"""

from __future__ import annotations

from collections.abc import Mapping

from ratchet_api.base import digest_of
from ratchet_api.names import snapshot_prefix, stage_prefix
from ratchet_api.resolved import ResolvedRun
from ratchet_api.stage import DatasetRef, Owner, Stage, StageInput, StageRef, StoreConfig
from ratchet_api.training_run import Mode, RLTrainingRunSpec, RLTrainingRunStatus
from ratchet_operator.plan.runs.pipeline.evaluate import EVALUATE
from ratchet_operator.plan.runs.pipeline.kind import StageKind, Told
from ratchet_operator.plan.runs.pipeline.resolve import RESOLVE
from ratchet_operator.plan.runs.pipeline.reward_model import REWARD_MODEL
from ratchet_operator.plan.runs.pipeline.rl import RL
from ratchet_operator.plan.runs.pipeline.supervised import SUPERVISED
from ratchet_operator.plan.world import Meta
from ratchet_operator.settings import StoreSettings

RUNS_DIR = "runs"

_BY_MODE: Mapping[Mode, tuple[StageKind, ...]] = {
    "supervised": (RESOLVE, SUPERVISED, EVALUATE),
    "supervised_then_rl": (RESOLVE, SUPERVISED, REWARD_MODEL, RL, EVALUATE),
    "rl_only": (RESOLVE, REWARD_MODEL, RL, EVALUATE),
}


def pipeline(spec: RLTrainingRunSpec) -> tuple[StageKind, ...]:
    """Return the run's stages in order; the first checks inputs, the last measures."""
    with_reward_model = spec.stages.reward_model is not None
    return tuple(kind for kind in _BY_MODE[spec.mode] if kind is not REWARD_MODEL or with_reward_model)


def kind_of(spec: RLTrainingRunSpec, name: str) -> StageKind:
    """Return the run's stage of that name.

    Raises:
        ValueError: the run has none; its status was written for another spec.
    """
    for kind in pipeline(spec):
        if kind.stage.value == name:
            return kind
    raise ValueError(f"a run of mode {spec.mode!r} has no stage {name!r}")


def stage_digests(spec: RLTrainingRunSpec, resolved: ResolvedRun) -> dict[Stage, str | None]:
    """Return the input digest of every stage of the run; None for one that is never cached."""
    digests: dict[Stage, str | None] = {}
    for kind in pipeline(spec):
        digests[kind.stage] = kind.digest(spec, resolved, digests)
    return digests


def without(recorded: str | None, stage: Stage) -> str | None:
    """Return the input digest of a later stage once it must do without an earlier one that failed.

    A function of the recorded digest alone: what it makes must never be taken for the result of the whole pipeline.
    """
    return None if recorded is None else digest_of({"inputs": recorded, "without": stage.value})


def stage_input(
    meta: Meta, spec: RLTrainingRunSpec, status: RLTrainingRunStatus, store: StoreSettings, *, name: str, attempt: int
) -> StageInput:
    """Return the whole of one attempt's stage.json.

    The digests are those recorded at the start: an operator upgraded since then must not ask for another result.

    Raises:
        ValueError: the run's inputs are not fixed yet, or it has no such stage.
    """
    resolved = status.resolved
    if resolved is None:
        raise ValueError(f"{meta.title}: stage {name!r} is wanted before its inputs are fixed")
    kind = kind_of(spec, name)
    refs = {
        Stage(row.name): StageRef(
            stage=Stage(row.name), prefix=_prefix(meta, row.name), input_digest=row.input_digest or ""
        )
        for row in status.stages
        if row.state != "Failed"
    }
    return StageInput(
        owner=Owner(kind=meta.kind, namespace=meta.namespace, name=meta.name, uid=meta.uid),
        attempt=attempt,
        prefix=_prefix(meta, name),
        input_digest=refs[kind.stage].input_digest or None,
        store=StoreConfig(uri=resolved.store_uri, endpoint=store.endpoint, region=store.region),
        config=kind.config(
            Told(
                spec,
                dataset=_pinned(meta, resolved.dataset_digest),
                log=None if resolved.log is None else _pinned(meta, resolved.log.digest),
                stages=refs,
                resolved=resolved,
            )
        ),
        tracking=spec.tracking,
    )


def _pinned(meta: Meta, digest: str) -> DatasetRef:
    return DatasetRef(digest=digest, prefix=snapshot_prefix(meta.namespace, digest))


def _prefix(meta: Meta, name: str) -> str:
    return stage_prefix(meta.namespace, RUNS_DIR, meta.name, meta.uid, name)


__all__ = ["StageKind", "kind_of", "pipeline", "stage_digests", "stage_input", "without"]
