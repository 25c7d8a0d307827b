"""ratchet_export.json: what an exported folder is, where it came from, and how it was checked.

Decides the record's fields and the digest of an export. No time of day is in it: the same policy exports to the same
record. Pure data, no torch. Written by `exporting`, read by whoever receives the folder and by `writing`, which
replaces a folder only if this file says that it is an export.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ratchet_api.base import ApiModel, LabelName, Sha256
from ratchet_api.tasks import TaskName
from ratchet_api.training_run import BaseModelRef

RECORD_FILE = "ratchet_export.json"
README_FILE = "README.md"

Layout = Literal["merged", "lora", "onnx", "semantic-router"]
LAYOUTS: tuple[Layout, ...] = ("merged", "lora", "onnx", "semantic-router")


class Parity(ApiModel):
    """How far the exported files' logits were from the policy's own, when they were written."""

    texts: Annotated[int, Field(ge=1)]
    """Texts that both were asked."""
    which: str
    """Where the texts came from."""
    largest_difference: Annotated[float, Field(ge=0)]
    """Of two logits of the same text and class."""
    tolerance: Annotated[float, Field(gt=0)]
    """A larger difference would have refused the export."""
    computed_by: str
    """What read the exported files."""


class TaskRecord(ApiModel):
    """One of several tasks: its columns of the logits, and its calibration."""

    name: TaskName
    first_column: Annotated[int, Field(ge=0)]
    """Where its classes begin in `labels`; layout onnx has an output per task, semantic-router a folder."""
    labels: Annotated[tuple[LabelName, ...], Field(strict=False, min_length=2)]
    """Its classes as the data call them."""
    temperature: Annotated[float, Field(gt=0)]
    abstain_threshold: Annotated[float, Field(ge=0, le=1)] | None = None


class ExportRecord(ApiModel):
    """What stands in ratchet_export.json."""

    format: Literal["ratchet.dev/export-v1"] = "ratchet.dev/export-v1"
    layout: Layout
    loader: str
    """What loads the folder."""
    version: str
    """The trained version, as the command line named it."""
    policy_digest: Sha256
    """Of the policy's own committed files."""
    snapshot: Sha256 | None = None
    """Digest of the rows that it was trained on, if known."""
    base_model: BaseModelRef
    labels: Annotated[tuple[LabelName, ...], Field(strict=False, min_length=2)]
    """Class names; the place in this list is the column of the logits."""
    tasks: Annotated[tuple[TaskRecord, ...], Field(strict=False, min_length=1)] | None = None
    """Several tasks on one encoder, in the order of `labels`; None = one task without a name."""
    max_tokens: Annotated[int, Field(ge=4)]
    """Texts were cut to this many tokens in training."""
    pooling: Literal["mean"] = "mean"
    temperature: Annotated[float, Field(gt=0)]
    """Probabilities are softmax(logits / temperature). With several tasks each has its own instead."""
    temperature_folded: bool
    """True = the exported head is divided by the temperature already: take softmax(logits)."""
    abstain_threshold: Annotated[float, Field(ge=0, le=1)] | None = None
    """The policy abstains when its largest probability is below this; None = never. As temperature."""
    parity: Parity
    ratchet_version: str
    digest: Sha256
    """SHA-256 over the sorted list of (path, sha256) in `files`."""
    files: dict[str, Sha256]
    """Every other file of the folder."""
