"""What a run fixed when it started, how far it is, how its gates were judged, and what a dry run foresees: parts of RLTrainingRun's status.

Decides their fields. The operator writes them and plans by them. Pure data.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ratchet_api.base import StatusModel, Timestamp


class ResolvedPolicy(StatusModel):
    """A policy that existed before the run, fixed by digest."""

    policy: Annotated[
        str, Field(default="", max_length=253, description="policy: the RLPolicy; empty for an artifact named by URI.")
    ]
    version: Annotated[
        int | None, Field(default=None, ge=1, le=2**31, description="version: its number, if it is a version.")
    ]
    uri: Annotated[str, Field(max_length=2048, description="uri: the artifact's directory in the store.")]
    digest: Annotated[str, Field(min_length=64, max_length=64, description="digest: of the artifact.")]


class ResolvedLog(StatusModel):
    """The answers that the rl stage learns from, or the reward model, fixed by digest."""

    digest: Annotated[str, Field(min_length=64, max_length=64, description="digest: of the snapshot.")]
    uri: Annotated[str, Field(max_length=2048, description="uri: where the snapshot stands.")]
    rows: Annotated[int, Field(default=0, ge=0, le=2**53, description="rows: answers in its train split.")]


class ResolvedRun(StatusModel):
    """What was fixed when the run started; later changes elsewhere do not reach a started run."""

    spec_digest: Annotated[
        str, Field(min_length=64, max_length=64, description="specDigest: SHA-256 of the spec's immutable part.")
    ]
    image: Annotated[str, Field(max_length=512, description="image: the stage image.")]
    code_version: Annotated[
        str, Field(max_length=128, description="codeVersion: version of the stage code, part of every input digest.")
    ]
    dataset_digest: Annotated[
        str, Field(min_length=64, max_length=64, description="datasetDigest: the snapshot that is trained on.")
    ]
    dataset_uri: Annotated[str, Field(max_length=2048, description="datasetUri: where the snapshot stands.")]
    train_rows: Annotated[int, Field(default=0, ge=0, le=2**53, description="trainRows: rows in the train split.")]
    log: Annotated[
        ResolvedLog | None,
        Field(
            default=None,
            description="log: the snapshot that stages.rl.datasetRef or stages.rewardModel.datasetRef named.",
        ),
    ]
    store_uri: Annotated[str, Field(max_length=1024, description="storeUri: the store that every stage uses.")]
    start: Annotated[
        ResolvedPolicy | None, Field(default=None, description="start: the policy that mode rl_only starts from.")
    ]
    champion: Annotated[
        ResolvedPolicy | None,
        Field(
            default=None,
            description="champion: of the policy in publishTo when the run started; a run with RL is measured beside it.",
        ),
    ]


class Estimate(StatusModel):
    """What a dry run foresees."""

    stages: Annotated[
        tuple[Annotated[str, Field(max_length=32)], ...],
        Field(default=(), strict=False, max_length=8, description="stages: that would run, in order."),
    ]
    train_rows: Annotated[int, Field(ge=0, le=2**53, description="trainRows: rows in the train split.")]
    steps: Annotated[
        int, Field(ge=0, le=2**53, description="steps: of training: batches of supervised, rollouts of rl.")
    ]
    gpus: Annotated[int, Field(ge=0, le=10_000, description="gpus: the most GPUs held at once.")]


class RunProgress(StatusModel):
    """How far the running stage is, as its pod says."""

    stage: Annotated[str, Field(max_length=32, description="stage: the running stage.")]
    step: Annotated[int, Field(ge=0, le=2**53, description="step: optimizer steps or batches done.")]
    steps: Annotated[int, Field(ge=0, le=2**53, description="steps: in all.")]
    loss: Annotated[
        float | None,
        Field(default=None, description="loss: smoothed training loss.", json_schema_extra={"x-unbounded": True}),
    ]
    eta_seconds: Annotated[
        int | None, Field(default=None, ge=0, le=2**53, description="etaSeconds: estimate for the rest of this stage.")
    ]
    updated: Annotated[Timestamp, Field(description="updated: when this was written.")]


class GateResult(StatusModel):
    """One gate and the number it judged."""

    metric: Annotated[str, Field(max_length=64, description="metric: which number.")]
    label: Annotated[
        str | None, Field(default=None, max_length=128, description="label: the class it is about, if one.")
    ]
    task: Annotated[str | None, Field(default=None, max_length=32, description="task: the task it is about, if one.")]
    value: Annotated[float, Field(ge=-1, le=1e9, description="value: the number measured.")]
    bound: Annotated[str, Field(max_length=64, description="bound: the bound, as in >= 0.8.")]
    passed: Annotated[bool, Field(description="passed: whether the bound holds.")]
