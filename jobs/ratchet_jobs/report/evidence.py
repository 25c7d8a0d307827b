"""What the report is made of, read back from the files that the stages committed.

Decides which stages' records belong to an evaluation: those in the folders of the policies that it measured. Draws
nothing. Called by `page`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ratchet_api.resolved import GateResult
from ratchet_jobs.data.snapshots import Manifest
from ratchet_jobs.models.card import CARD_FILE
from ratchet_jobs.report.charts import Column
from ratchet_jobs.runtime.history import read_history
from ratchet_jobs.runtime.record import HISTORY_SUFFIX, SETTINGS_SUFFIX

EVALUATION_FILE = "evaluation.json"
COMPARISON_FILE = "comparison.json"
_ORDER = ("supervised", "reward-model", "rl")


@dataclass(frozen=True, slots=True)
class StageRecord:
    """How a stage that trained a measured policy went.

    Attributes:
        stage: supervised or rl.
        of: role of the policy in whose folder it lay: rl, supervised or start; or reward-model.
        settings: those that decided its result.
        history: metric -> values, `step` among them; empty if it told none.
    """

    stage: str
    of: str
    settings: Mapping[str, Any]
    history: Mapping[str, Column]

    @property
    def title(self) -> str:
        """The stage, and whose it was if it is not of this run."""
        return f"{self.stage} of the start policy" if self.of == "start" else self.stage


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything that is known at the end of an evaluation.

    Attributes:
        evaluation: evaluation.json.
        comparison: comparison.json, or None where nothing was compared.
        card: policy.json of the policy committed.
        settings: of the evaluate stage.
        gates: as they judge the policy committed.
        manifest: of the snapshot.
        stages: records of the stages that trained what was measured, or what rewarded it.
    """

    evaluation: Mapping[str, Any]
    comparison: Mapping[str, Any] | None
    card: Mapping[str, Any]
    settings: Mapping[str, Any]
    gates: Sequence[GateResult]
    manifest: Manifest
    stages: Sequence[StageRecord]


def collect(
    output: Path,
    *,
    folders: Mapping[str, Path],
    settings: Mapping[str, Any],
    gates: Sequence[GateResult],
    manifest: Manifest,
) -> Evidence:
    """Read what evaluate wrote into its output, and the records in the folders of the policies that it measured.

    Args:
        output: of the evaluate stage, with its documents.
        folders: role -> folder of the policy.
        settings: of the evaluate stage.
        gates: as they judge the policy committed.
        manifest: of the snapshot.
    """
    compared = output / COMPARISON_FILE
    return Evidence(
        evaluation=json.loads((output / EVALUATION_FILE).read_text()),
        comparison=json.loads(compared.read_text()) if compared.exists() else None,
        card=json.loads((output / CARD_FILE).read_text()),
        settings=settings,
        gates=gates,
        manifest=manifest,
        stages=_records(folders),
    )


def _records(folders: Mapping[str, Path]) -> list[StageRecord]:
    found = []
    for role, folder in folders.items():
        for stage in _ORDER:
            settings, history = folder / f"{stage}{SETTINGS_SUFFIX}", folder / f"{stage}{HISTORY_SUFFIX}"
            if settings.exists():
                told = read_history(history) if history.exists() else {}
                found.append(StageRecord(stage, role, json.loads(settings.read_text()), told))
    return sorted(found, key=lambda record: (record.of != "start", _ORDER.index(record.stage)))
