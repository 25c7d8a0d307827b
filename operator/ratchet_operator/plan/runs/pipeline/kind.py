"""What the rules know of a kind of stage: which Job it gets, what it is told, what decides its result. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from ratchet_api.placement import Resources
from ratchet_api.resolved import ResolvedRun
from ratchet_api.stage import DatasetRef, Stage, StageConfig, StageRef, input_digest
from ratchet_api.training_run import RLTrainingRunSpec

Digests = Mapping[Stage, str | None]
"""Input digests of the stages before this one."""


class Deciding(NamedTuple):
    """Everything that decides a stage's result; what cannot change it (resources, names, places) is left out."""

    settings: dict[str, Any]
    parents: dict[str, str]
    """What the stage reads: the dataset by its digest, earlier stages by their input digests."""


class Told(NamedTuple):
    """What a stage's config is made of."""

    spec: RLTrainingRunSpec
    dataset: DatasetRef
    log: DatasetRef | None
    """The logged answers that the rl stage learns from."""
    stages: Mapping[Stage, StageRef]
    """Every stage of the run that did not fail, with the digest that was recorded for it."""
    resolved: ResolvedRun


@dataclass(frozen=True, slots=True)
class StageKind:
    """One kind of stage. A new one is a file with such a row, and its place in `pipeline`.

    Attributes:
        stage: its name.
        resources: what each of its pods may use.
        config: what it is told.
        deciding: what decides its result; None = it is never cached.
        steps: how many steps of training it takes with so many rows in the train split.
        nodes: how many pods do it together.
        numbers_may_fail: whether the run goes on without it when its numbers went wrong (exit codes 30 to 39).
    """

    stage: Stage
    resources: Callable[[RLTrainingRunSpec], Resources]
    config: Callable[[Told], StageConfig]
    deciding: Callable[[RLTrainingRunSpec, ResolvedRun, Digests], Deciding] | None = None
    steps: Callable[[RLTrainingRunSpec, int], int] = lambda _spec, _train_rows: 0
    nodes: Callable[[RLTrainingRunSpec], int] = lambda _spec: 1
    numbers_may_fail: Callable[[RLTrainingRunSpec], bool] = lambda _spec: False

    def gpus(self, spec: RLTrainingRunSpec) -> int:
        """Return how many GPUs its pods hold together."""
        return self.nodes(spec) * self.resources(spec).gpus

    def digest(self, spec: RLTrainingRunSpec, resolved: ResolvedRun, earlier: Digests) -> str | None:
        """Return the stage's input digest; None for one that is never cached."""
        if self.deciding is None:
            return None
        settings, parents = self.deciding(spec, resolved, earlier)
        return input_digest(self.stage, settings, parents=parents, code_version=resolved.code_version)


def wire_without(model: Any, *names: str) -> dict[str, Any]:
    """Return a model as JSON-able settings, without what cannot change a result."""
    return {key: value for key, value in model.to_wire().items() if key not in names}


def parent(earlier: Digests, stage: Stage) -> str:
    """Return an earlier stage's input digest.

    Raises:
        ValueError: the stage is not in this run, or is never cached; a row of the pipeline is wrong.
    """
    digest = earlier.get(stage)
    if digest is None:
        raise ValueError(f"stage {stage.value!r} has no input digest that a later stage could name")
    return digest
