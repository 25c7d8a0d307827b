"""What a training stage commits beside its result: how its numbers went, and the settings that decided them.

Decides the files' names and which settings are told: those that make a result, not where things lie or what the pod
was given, so that equal inputs commit equal bytes. Called by `main` after a recipe returned; read by the evaluation's
report.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ratchet_api.policy_types import GENERATOR
from ratchet_api.stage import RlConfig, Stage, StageConfig
from ratchet_jobs.runtime.history import History, write_history

HISTORY_SUFFIX = "-history.parquet"
SETTINGS_SUFFIX = "-settings.json"
_UNRECORDED = frozenset({Stage.SNAPSHOT, Stage.RESOLVE})
"""A snapshot's manifest has its settings; resolve leaves nothing."""
_UNDECISIVE = frozenset({"prefix", "uri", "resources", "nodes", "checkpointEverySteps"})


def write_record(output: Path, config: StageConfig, history: History) -> None:
    """Write STAGE-settings.json and, if the stage told numbers, STAGE-history.parquet into its output.

    Args:
        output: the folder that is committed.
        config: of the stage; its field `stage` names the files.
        history: of the stage.
    """
    stage = config.stage
    if stage in _UNRECORDED:
        return
    settings = settings_of(config)
    (output / f"{stage}{SETTINGS_SUFFIX}").write_text(json.dumps(settings, ensure_ascii=False, indent=1) + "\n")
    if len(history):
        write_history(history, output / f"{stage}{HISTORY_SUFFIX}")


def settings_of(config: StageConfig) -> dict[str, Any]:
    """Return a stage's settings without what does not decide its result."""
    settings: dict[str, Any] = _decisive(config.to_wire())
    if isinstance(config, RlConfig) and config.policy_type == GENERATOR:
        del settings["hyper"]  # a classifier's
    return settings


def _decisive(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _decisive(each) for key, each in value.items() if key not in _UNDECISIVE}
    if isinstance(value, list):
        return [_decisive(each) for each in value]
    return value
