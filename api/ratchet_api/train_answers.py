"""Answers of the training API: a run was started, is under way, trained a version, or did not.

Decides the bodies of POST and GET below /api/policies/train_policy, in the names of the quick reference. Used by the
gateway and the client.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ratchet_api.base import StatusModel
from ratchet_api.feedback import VersionNumber

_Name = Annotated[str, Field(max_length=253)]
_Count = Annotated[int, Field(ge=0, le=2**53)]
_Share = Annotated[float, Field(ge=0, le=1)]


class TrainStarted(StatusModel):
    """A run exists; the operator works on it."""

    status: Annotated[Literal["started"], Field(description="status: ask for the run to see more.")]
    run_name: Annotated[
        _Name, Field(description="runName: the RLTrainingRun; the same for the same feedback and request.")
    ]
    dataset_name: Annotated[_Name, Field(description="datasetName: the FeedbackDataset made for it.")]
    feedback_count: Annotated[
        _Count, Field(description="feedbackCount: events that rate or correct an answer of the policy.")
    ]


class TrainRunning(StatusModel):
    """The run is under way."""

    status: Annotated[Literal["training"], Field(description="status: not over yet.")]
    run_name: Annotated[_Name, Field(description="runName: the RLTrainingRun.")]
    state: Annotated[str, Field(max_length=64, description="state: of the run, in one word.")]
    stage: Annotated[str, Field(max_length=32, description="stage: that runs; empty before the first.")]
    progress_percent: Annotated[str, Field(max_length=8, description="progressPercent: of the stage, for people.")]


class Trained(StatusModel):
    """The run published a version."""

    status: Annotated[Literal["trained"], Field(description="status: the version is there.")]
    policy_id: Annotated[_Name, Field(description="policyId: the RLPolicy.")]
    version: VersionNumber
    model_path: Annotated[str, Field(max_length=2048, description="modelPath: the version's artifact in the store.")]
    reward_model_path: Annotated[
        str | None,
        Field(
            default=None,
            max_length=2048,
            description="rewardModelPath: the reward model's artifact; null where none is trained.",
        ),
    ]
    feedback_count: Annotated[
        _Count, Field(description="feedbackCount: events that rated or corrected an answer when the run was asked for.")
    ]
    training_steps: Annotated[_Count, Field(description="trainingSteps: optimizer steps of all stages.")]
    reward_mean: Annotated[_Share, Field(description="rewardMean: mean score of these events.")]
    reward_std: Annotated[_Share, Field(description="rewardStd: standard deviation of their scores.")]


class NotTrained(StatusModel):
    """The run is over and published nothing."""

    status: Annotated[
        Literal["failed", "not_published"],
        Field(description="status: not_published = it trained, but a gate or a better policy kept it back."),
    ]
    run_name: Annotated[_Name, Field(description="runName: the RLTrainingRun.")]
    reason: Annotated[str, Field(max_length=64, description="reason: from the list of reasons.")]
    detail: Annotated[str, Field(max_length=4096, description="detail: what was wrong and what to do.")]


TrainAnswer = Annotated[TrainRunning | Trained | NotTrained, Field(discriminator="status")]
"""How far a run is."""
