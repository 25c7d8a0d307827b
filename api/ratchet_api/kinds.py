"""The three kinds as whole objects, with the names that the API server and kubectl know them by.

One row per kind: everything that lists kinds (CRD generator, operator, CLI) reads `KINDS`. Python users build a
spec, wrap it with `Kind.manifest` and submit the result with any client.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import ValidationError

from ratchet_api.base import API_VERSION, ApiModel, StatusModel
from ratchet_api.feedback_dataset import FeedbackDatasetSpec, FeedbackDatasetStatus
from ratchet_api.policy import RLPolicySpec, RLPolicyStatus
from ratchet_api.training_run import RLTrainingRunSpec, RLTrainingRunStatus

SpecT = TypeVar("SpecT", bound=ApiModel)
StatusT = TypeVar("StatusT", bound=StatusModel)


@dataclass(frozen=True, slots=True)
class PrinterColumn:
    """One column of `kubectl get`; priority 1 shows with `-o wide` only."""

    name: str
    json_path: str
    type: str = "string"
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Kind(Generic[SpecT, StatusT]):
    """Names, models and printer columns of one kind."""

    kind: str
    plural: str
    singular: str
    short_names: tuple[str, ...]
    spec_model: type[SpecT]
    status_model: type[StatusT]
    columns: tuple[PrinterColumn, ...]

    def manifest(self, name: str, spec: SpecT, *, namespace: str | None = None) -> dict[str, Any]:
        """Return the object to submit: apiVersion, kind, metadata and spec as plain JSON-able data."""
        metadata = {"name": name} | ({"namespace": namespace} if namespace else {})
        return {"apiVersion": API_VERSION, "kind": self.kind, "metadata": metadata, "spec": spec.to_wire()}

    def parse_spec(self, manifest: Mapping[str, Any]) -> SpecT:
        """Validate a manifest's spec.

        Raises:
            SpecError: names the object, each wrong field, the value seen and what is wanted.
        """
        try:
            return self.spec_model.model_validate(manifest.get("spec", {}))
        except ValidationError as error:
            name = manifest.get("metadata", {}).get("name", "?")
            raise SpecError(f"{self.kind} {name!r}: {explain(error)}") from error


class SpecError(ValueError):
    """A manifest's spec cannot be accepted; the text says which field, which value and why."""


_YAML_WORDS = {
    "tuple_type": "Input should be a list",
    "model_type": "Input should be an object",
    "dict_type": "Input should be an object",
    "bool_type": "Input should be true or false",
}
"""What pydantic names in Python's words, in YAML's."""


def findings(error: ValidationError) -> list[str]:
    """Turn pydantic's findings into one line per wrong field: path as in YAML, value seen, what is wanted."""
    lines = []
    for finding in error.errors():
        path = "spec"
        for part in finding["loc"]:
            path += f"[{part}]" if isinstance(part, int) else f".{part}"
        if finding["type"] == "missing":
            lines.append(f"{path}: required, but missing")
        elif finding["type"] == "extra_forbidden":
            lines.append(f"{path}: unknown field; remove it or correct its name")
        elif finding["type"] == "value_error":
            lines.append(f"{path}: {finding['ctx']['error']}")
        else:
            seen = repr(finding["input"])
            wanted = _YAML_WORDS.get(finding["type"], finding["msg"])
            lines.append(f"{path}: {wanted} (seen: {seen if len(seen) <= 80 else seen[:79] + '…'})")
    return lines


def explain(error: ValidationError) -> str:
    """Return all findings on one line, as a condition's message carries them."""
    return "; ".join(findings(error))


FEEDBACK_DATASET = Kind(
    kind="FeedbackDataset",
    plural="feedbackdatasets",
    singular="feedbackdataset",
    short_names=("fbd",),
    spec_model=FeedbackDatasetSpec,
    status_model=FeedbackDatasetStatus,
    columns=(
        PrinterColumn("State", ".status.state"),
        PrinterColumn("Ready", '.status.conditions[?(@.type=="Ready")].status'),
        PrinterColumn("Rows", ".status.snapshot.counts.kept", "integer"),
        PrinterColumn("Classes", ".status.snapshot.classes", "integer"),
        PrinterColumn("Reason", '.status.conditions[?(@.type=="Ready")].reason', priority=1),
        PrinterColumn("Digest", ".status.snapshot.digest", priority=1),
        PrinterColumn("Age", ".metadata.creationTimestamp", "date"),
    ),
)

RL_TRAINING_RUN = Kind(
    kind="RLTrainingRun",
    plural="rltrainingruns",
    singular="rltrainingrun",
    short_names=("rltr",),
    spec_model=RLTrainingRunSpec,
    status_model=RLTrainingRunStatus,
    columns=(
        PrinterColumn("State", ".status.state"),
        PrinterColumn("Stage", ".status.stage"),
        PrinterColumn("Progress", ".status.progressPercent"),
        PrinterColumn("ETA", ".status.eta"),
        PrinterColumn("Dataset", ".spec.datasetRef.name", priority=1),
        PrinterColumn("Version", ".status.version", "integer", priority=1),
        PrinterColumn("GPU-hours", ".status.gpuHours", "number", priority=1),
        PrinterColumn("Age", ".metadata.creationTimestamp", "date"),
    ),
)

RL_POLICY = Kind(
    kind="RLPolicy",
    plural="rlpolicies",
    singular="rlpolicy",
    short_names=("rlp",),
    spec_model=RLPolicySpec,
    status_model=RLPolicyStatus,
    columns=(
        PrinterColumn("State", ".status.state"),
        PrinterColumn("Champion", ".status.champion", "integer"),
        PrinterColumn("Latest", ".status.versions[-1:].version", "integer"),
        PrinterColumn("Candidate", ".status.rollout.candidate", "integer"),
        PrinterColumn("Percent", ".status.rollout.percent", "number"),
        PrinterColumn("Verdict", ".status.rollout.verdict.outcome"),
        PrinterColumn("Samples", ".status.rollout.verdict.samples", "integer"),
        PrinterColumn("Needed", ".status.rollout.verdict.needed", "integer"),
        PrinterColumn("Latest-Run", ".status.latestRun", priority=1),
        PrinterColumn("Digest", ".status.championDigest", priority=1),
        PrinterColumn("Age", ".metadata.creationTimestamp", "date"),
    ),
)

KINDS: dict[str, Kind[Any, Any]] = {k.kind: k for k in (FEEDBACK_DATASET, RL_TRAINING_RUN, RL_POLICY)}
