"""The last words of a run are read from what evaluate committed."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np

from ratchet_api.training_run import Evaluation
from ratchet_cli.results import REPORT_FILE, local_path, weakest_classes
from ratchet_jobs.metrics.measuring import Answers, measure


def test_the_weakest_classes_come_first_and_at_most_five(tmp_path: Path) -> None:
    rows = [{"label": f"l{n}", "precision": 1.0, "recall": 1.0, "f1": n / 10, "support": n} for n in (7, 3, 9, 1, 5, 8)]
    (tmp_path / REPORT_FILE).write_text(json.dumps({"per_class": rows}))
    assert [each["label"] for each in weakest_classes(tmp_path)] == ["l1", "l3", "l5", "l7", "l8"]


def test_the_report_has_the_name_and_the_fields_that_evaluate_writes(tmp_path: Path) -> None:
    """Read as text: importing the module would import Arrow and the plots."""
    spec = importlib.util.find_spec("ratchet_jobs.report")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    evidence = (Path(spec.submodule_search_locations[0]) / "evidence.py").read_text()
    assert f'EVALUATION_FILE = "{REPORT_FILE}"' in evidence
    few = Answers(np.eye(2), np.array([0, 1]))
    report = measure(few, few, Evaluation(), labels=("a", "b")).report
    (tmp_path / REPORT_FILE).write_text(json.dumps(report))
    assert [(each["label"], each["support"]) for each in weakest_classes(tmp_path)] == [("a", 1), ("b", 1)]


def test_an_artifact_that_is_elsewhere_or_unreadable_shows_no_classes(tmp_path: Path) -> None:
    assert weakest_classes(None) == []
    assert weakest_classes(tmp_path) == []
    (tmp_path / REPORT_FILE).write_text("{")
    assert weakest_classes(tmp_path) == []


def test_only_file_uris_name_folders_of_this_machine() -> None:
    assert local_path("file:///a%20b/c") == Path("/a b/c")
    assert local_path("s3://bucket/key") is None
