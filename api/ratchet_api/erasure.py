"""Erasing a person: the request, how far it is, and the proof.

Decides the bodies of /v1/erasures and of the report that is kept in the store. Used by the gateway, the CLI and the
erasing itself; knows nothing of how it is done.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ratchet_api.base import ApiModel, Sha256, StatusModel, Timestamp
from ratchet_api.feedback import ShortText

_Count = Annotated[int, Field(ge=0, le=2**53)]
_Name = Annotated[str, Field(max_length=512)]
ERASURE_ID = r"^[0-9a-f]{32}$"

NOT_COVERED = (
    "snapshots of files (source.objects), the files themselves and what judges were asked about them: take the person out of the file, then refresh, and delete the folder judge/ of the namespace",
    "weights that learned from the person before: retrain, or roll back to a version that is not listed",
    "runs that were deleted: of theirs only versions on an affected data set are listed, and what went on from these; retrain what else they taught",
    "texts of under 16 characters that an evaluation quotes, and stages that were under way: evaluate anew",
    "backups and old object versions of the store",
)
"""What no program of ours can reach; it stands in every report."""


class ErasureRequest(ApiModel):
    """Body of POST /v1/erasures."""

    subject: Annotated[ShortText, Field(description="subject: as the events named the person; never stored.")]


class RewrittenSnapshot(StatusModel):
    """One snapshot that held rows of the person."""

    digest: Annotated[Sha256, Field(description="digest: that loads no more.")]
    replaced_by: Annotated[Sha256, Field(description="replacedBy: digest of the same snapshot without the person.")]
    rows: Annotated[_Count, Field(description="rows: removed.")]


class ErasureReport(StatusModel):
    """The proof: what was removed, what had learned from it, and what is left to people."""

    id: Annotated[str, Field(pattern=ERASURE_ID, description="id: the same for the same person and keys.")]
    subjects: Annotated[
        tuple[_Name, ...], Field(strict=False, description="subjects: the person's pseudonym under each key.")
    ]
    requested: Annotated[Timestamp, Field(description="requested: when nothing more was read of the person.")]
    finished: Annotated[Timestamp, Field(description="finished: when a last look found nothing.")]
    answers: Annotated[
        _Count, Field(description="answers: recorded ones that were given to the person, or copied from an evaluation.")
    ]
    events: Annotated[_Count, Field(description="events: removed from the log, in all passes.")]
    segments: Annotated[_Count, Field(description="segments: of the log, written anew.")]
    snapshots: Annotated[tuple[RewrittenSnapshot, ...], Field(strict=False, description="snapshots: rewritten.")]
    artifacts: Annotated[
        tuple[_Name, ...],
        Field(
            default=(), strict=False, description="artifacts: files of runs that quoted the person, blotted out since."
        ),
    ]
    judged: Annotated[
        _Count,
        Field(
            default=0, description="judged: entries of the judges' cache about texts of the person, forgotten since."
        ),
    ]
    left: Annotated[_Count, Field(description="left: what the last look still found; 0, or there is no report.")]
    runs: Annotated[
        tuple[_Name, ...],
        Field(
            default=(), strict=False, description="runs: trained on an affected snapshot, or from what such a run made."
        ),
    ]
    versions: Annotated[
        tuple[_Name, ...],
        Field(default=(), strict=False, description="versions: that these runs published, as POLICY@N."),
    ]
    datasets: Annotated[
        tuple[_Name, ...],
        Field(default=(), strict=False, description="datasets: whose snapshot was rewritten; they make a new one."),
    ]
    not_covered: Annotated[
        tuple[_Name, ...],
        Field(default=NOT_COVERED, strict=False, description="notCovered: what is left to people."),
    ]


class ErasureAnswer(StatusModel):
    """How far an erasure is."""

    id: Annotated[str, Field(pattern=ERASURE_ID, description="id: of the erasure.")]
    status: Annotated[
        Literal["recorded", "done"],
        Field(description="status: recorded = nothing more is read of the person; done = nothing is stored either."),
    ]
    report: Annotated[ErasureReport | None, Field(default=None, description="report: the proof, once done.")]
