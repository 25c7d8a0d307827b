"""Status models of one try at a stage, shared by the kinds that run Jobs (datasets and runs).

Pure data: the operator fills them, the CLI shows them. Decides nothing.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ratchet_api.base import StatusModel, Timestamp


class Artifact(StatusModel):
    """A committed directory in the store."""

    uri: Annotated[str, Field(max_length=2048, description="uri: the committed directory.")]
    digest: Annotated[
        str,
        Field(
            min_length=64, max_length=64, description="digest: SHA-256 of the sorted list of files and their SHA-256s."
        ),
    ]


class StageExit(StatusModel):
    """How a pod ended."""

    code: Annotated[
        int | None, Field(default=None, ge=0, le=255, description="code: the container's exit code, if it was seen.")
    ]
    reason: Annotated[str, Field(max_length=64, description="reason: from the closed list of reasons.")]
    message: Annotated[str, Field(default="", max_length=1024, description="message: what the stage said.")]


class StageAttempt(StatusModel):
    """One try at a stage: one Job."""

    number: Annotated[
        int, Field(ge=1, le=10_000_000, description="number: attempts count from 1; part of the Job's name.")
    ]
    job: Annotated[str, Field(max_length=63, description="job: name of the Job.")]
    started: Annotated[
        Timestamp | None, Field(default=None, description="started: when the Job was admitted (its startTime).")
    ]
    not_before: Annotated[Timestamp | None, Field(default=None, description="notBefore: a retry waits until then.")]
    counted_failures: Annotated[
        int, Field(default=0, ge=0, le=1000, description="countedFailures: failures that count against backoffLimit.")
    ]
    kills: Annotated[
        int, Field(default=0, ge=0, le=1000, description="kills: exits with code 137; the second is OutOfMemory.")
    ]
    unknown_exits: Annotated[
        int,
        Field(
            default=0, ge=0, le=1000, description="unknownExits: exits outside the contract; the third fails the stage."
        ),
    ]
    active_seconds: Annotated[
        int,
        Field(default=0, ge=0, le=2**53, description="activeSeconds: active time of this stage's earlier attempts."),
    ]
    avoid_nodes: Annotated[
        tuple[Annotated[str, Field(max_length=253)], ...],
        Field(
            default=(),
            strict=False,
            max_length=8,
            description="avoidNodes: nodes whose accelerator failed; the next attempt stays away from them.",
        ),
    ]
    last_exit: Annotated[StageExit | None, Field(default=None, description="lastExit: how the last pod ended.")]
