"""The last words of `ratchet run`: numbers, gates, the weakest classes, where everything lies, what to do next."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ratchet_api.conditions import ConditionType, is_true
from ratchet_api.training_run import RLTrainingRunStatus
from ratchet_cli.home import Home
from ratchet_cli.screen import out, utc_now
from ratchet_cli.views import view

WORST_CLASSES = 5
PAGE_FILE = "report.html"
REPORT_FILE = "evaluation.json"


def print_results(bodies: Sequence[Mapping[str, Any]], place: Home) -> bool:
    """Print every object as it rests; return whether all went well."""
    well = True
    for body in bodies:
        out.print()
        out.print(view(body, now=utc_now()))
        if body["kind"] == "RLTrainingRun":
            well &= _run_result(body, place)
        else:
            well &= not _stalled(body)
    return well


def _run_result(body: Mapping[str, Any], place: Home) -> bool:
    status = RLTrainingRunStatus.model_validate(body.get("status", {}))
    evaluate = next((s for s in status.stages if s.name == "evaluate" and s.artifact is not None), None)
    if evaluate is not None and evaluate.artifact is not None:
        worst = weakest_classes(local_path(evaluate.artifact.uri))
        if worst:
            out.print(Padding(worst_table(worst), (1, 0, 0, 2)))
    name, namespace = body["metadata"]["name"], body["metadata"]["namespace"]
    if status.artifact is not None:
        out.print()
        out.print(f"  artifact  {escape(_readable(status.artifact.uri))}", soft_wrap=True)
        out.print(f"  digest    {status.artifact.digest}", soft_wrap=True)
        folder = local_path(status.artifact.uri)
        if folder is not None and (folder / PAGE_FILE).is_file():
            out.print(f"  report    {escape(str(folder / PAGE_FILE))}", soft_wrap=True)
    out.print(f"  logs      {escape(str(place.path / 'logs' / namespace))}", soft_wrap=True)
    if status.version is not None and "publishTo" in body["spec"]:
        out.print(f"  next      ratchet promote {body['spec']['publishTo']['name']} {status.version} --local")
    if is_true(status.conditions, ConditionType.FAILED):
        out.print(f"  next      ratchet logs {escape(name)} --local")
    gates_held = all(gate.passed for gate in status.gates)
    return gates_held and (
        is_true(status.conditions, ConditionType.COMPLETE) or status.state in ("DryRun", "Suspended")
    )


def weakest_classes(folder: Path | None) -> list[Mapping[str, Any]]:
    """Read the classes with the lowest F1 from evaluate's report; nothing if it is not on this machine."""
    if folder is None:
        return []
    try:
        classes = json.loads((folder / REPORT_FILE).read_text())["per_class"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return sorted(classes, key=lambda each: float(each["f1"]))[:WORST_CLASSES]


def worst_table(classes: Sequence[Mapping[str, Any]]) -> Table:
    """Show classes with their numbers, one a line."""
    table = Table(box=None, pad_edge=False, header_style="faint", padding=(0, 3, 0, 0))
    table.add_column("weakest classes")
    for title in ("F1", "precision", "recall", "rows"):
        table.add_column(title, justify="right")
    for each in classes:
        numbers = (f"{float(each[field]):.3f}" for field in ("f1", "precision", "recall"))
        table.add_row(Text(str(each["label"])), *numbers, f"{int(each['support']):,}")
    return table


def local_path(uri: str) -> Path | None:
    """Return the folder that a file:// URI names, or None for any other URI."""
    parts = urlsplit(uri)
    return Path(unquote(parts.path)) if parts.scheme == "file" else None


def _readable(uri: str) -> str:
    path = local_path(uri)
    return str(path) if path is not None else uri


def _stalled(body: Mapping[str, Any]) -> bool:
    conditions = body.get("status", {}).get("conditions", [])
    return any(c["type"] == ConditionType.STALLED and c["status"] == "True" for c in conditions)
