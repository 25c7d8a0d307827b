"""The snapshot stage with several label columns: rows may lack some labels, every task is counted and checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from ratchet_api.names import snapshot_prefix
from ratchet_api.stage import DatasetRef
from ratchet_jobs.data.snapshots import open_snapshot
from ratchet_jobs.models.examples import UNSAID, read_examples
from tests.recipes.stage_process import NAMESPACE, StageProcess

COLUMNS = {"labels": {"intent": "meta.intent", "pii": "pii"}}


@pytest.fixture
def process(tmp_path: Path) -> StageProcess:
    return StageProcess(tmp_path)


def line(number: int, **labels: Any) -> dict[str, Any]:
    intent = {"meta": {"intent": labels["intent"]}} if "intent" in labels else {}
    return {"text": f"text number {number}"} | intent | ({"pii": labels["pii"]} if "pii" in labels else {})


def lines(count: int) -> list[dict[str, Any]]:
    """Every third row has no intent, every third no pii."""
    made = []
    for number in range(count):
        labels: dict[str, Any] = {"intent": "ab"[number % 2], "pii": number % 4 == 0}
        if number % 3:
            del labels[("intent", "pii")[number % 3 - 1]]
        made.append(line(number, **labels))
    return made


def put(process: StageProcess, name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    process.put(name, "".join(json.dumps(row) + "\n" for row in rows))
    return {"objects": [{"uri": f"store://{name}"}]}


def test_rows_without_some_labels_are_kept_and_counted_per_task_and_rows_without_any_are_not(
    process: StageProcess,
) -> None:
    source = put(process, "d.jsonl", [*lines(300), line(900), line(901, intent="", pii=None)])
    summary = process.summary(source=source, columns=COLUMNS)
    assert {each["rule"]: each["count"] for each in summary["removed"]} == {"MissingLabel": 2}
    assert summary["counts"]["kept"] == 300
    assert summary["classes"] == 4
    tasks = {each["task"]: each for each in summary["tasks"]}
    assert {name: each["classes"] for name, each in tasks.items()} == {"intent": 2, "pii": 2}
    assert all(sum(each[s] for s in ("train", "validation", "test")) == 200 for each in tasks.values())
    assert {each["label"] for each in summary["smallestLabels"]} == {"intent/a", "intent/b", "pii/true", "pii/false"}


def test_snapshot_reads_back_as_class_numbers_with_gaps(process: StageProcess) -> None:
    summary = process.summary(source=put(process, "d.jsonl", lines(300)), columns=COLUMNS)
    ref = DatasetRef(digest=summary["digest"], prefix=snapshot_prefix(NAMESPACE, summary["digest"]))
    snapshot = open_snapshot(process.store, ref, into=process.root / "read")
    assert snapshot.labels == ("intent/a", "intent/b", "pii/false", "pii/true")
    assert [(task.name, task.start, task.stop, task.plain_labels) for task in snapshot.tasks] == [
        ("intent", 0, 2, ("a", "b")),
        ("pii", 2, 4, ("false", "true")),
    ]
    want = {row["text"]: row for row in lines(300)}
    seen = 0
    for split in ("train", "validation", "test"):
        rows = read_examples(snapshot, split)  # type: ignore[arg-type]  # a split's name
        for text, (intent, pii) in zip(rows.texts, rows.labels, strict=True):
            said = want[text]
            assert intent == ("ab".index(said["meta"]["intent"]) if "meta" in said else UNSAID)
            assert pii == (2 + said["pii"] if "pii" in said else UNSAID)
            seen += 1
    assert seen == 300


def test_a_file_may_lack_the_column_of_a_task_but_not_of_all(process: StageProcess) -> None:
    process.put("intent.csv", "text,intent\n" + "".join(f"intent text {n},{'ab'[n % 2]}\n" for n in range(120)))
    process.put("pii.csv", "text,pii\n" + "".join(f"pii text {n},{'yn'[n % 2]}\n" for n in range(120)))
    process.put("none.csv", "text,topic\nhello,x\n")
    columns = {"labels": {"intent": "intent", "pii": "pii"}}
    both = {"objects": [{"uri": "store://intent.csv"}, {"uri": "store://pii.csv"}]}
    assert process.summary(source=both, columns=columns)["counts"]["kept"] == 240
    none = {"objects": [*both["objects"], {"uri": "store://none.csv"}]}
    code, said = process.snapshot(target="2", source=none, columns=columns)
    assert code == 10
    assert "none.csv" in said["message"]
    assert "(spec.columns.labels.intent); it has: text, topic" in said["message"]


def test_inline_rows_say_their_labels_by_task(process: StageProcess) -> None:
    rows = [
        {"text": f"row {n}", "labels": {"intent": "ab"[n % 2]} | ({"pii": "yn"[n % 2]} if n % 2 or n % 4 else {})}
        for n in range(120)
    ]
    summary = process.summary(source={"inline": rows}, columns=COLUMNS)
    assert {each["task"]: each["classes"] for each in summary["tasks"]} == {"intent": 2, "pii": 2}


def test_equal_text_with_other_labels_is_another_row_of_the_same_component(process: StageProcess) -> None:
    rows = [*lines(200), line(0, intent="a"), line(0, intent="a")]
    summary = process.summary(source=put(process, "d.jsonl", rows), columns=COLUMNS)
    assert {each["rule"]: each["count"] for each in summary["removed"]} == {"Duplicate": 1}
    folder = process.root / "store" / NAMESPACE / "snapshots" / summary["digest"]
    found = [
        (split, row["component"])
        for split in ("train", "validation", "test")
        for row in pq.read_table(folder / f"{split}.parquet").to_pylist()
        if row["text"] == "text number 0"
    ]
    assert len(found) == 2
    assert len(set(found)) == 1


def spoilt(count: int, **labels: Any) -> list[dict[str, Any]]:
    return [line(n, intent="ab"[n % 2], **labels) for n in range(count)]


BAD: dict[str, tuple[list[dict[str, Any]], int, list[str]]] = {
    "a task of one class": (spoilt(120, pii="no"), 12, ["task 'pii'", "every train row has the label 'no'"]),
    "a task without any label": (spoilt(120), 12, ["task 'pii'", "spec.columns.labels.pii 'pii'", "right column"]),
    "a class that train lacks": (
        [*lines(300), *(line(1000 + n, pii=f"rare {n}") for n in range(40))],
        12,
        ["task 'pii'", "label 'rare ", "none in train"],
    ),
    "a label that is an object": (
        [{"text": f"t {n}", "pii": {"a": 1}, "meta": {"intent": "a"}} for n in range(50)],
        10,
        ["0 train rows", "InvalidLabel 50"],
    ),
    "a label too long for its task": (
        [line(n, intent="x" * 122) for n in range(50)],
        10,
        ["InvalidLabel 50"],
    ),
    "a task of ids": (
        [line(n, intent=f"id {n}", pii=n % 2 == 0) for n in range(3000)],
        12,
        ["task 'intent'", "a column of ids"],
    ),
}


@pytest.mark.parametrize(("rows", "want_code", "want_words"), BAD.values(), ids=BAD.keys())
def test_what_cannot_be_trained_is_refused_by_task(
    process: StageProcess, rows: list[dict[str, Any]], want_code: int, want_words: list[str]
) -> None:
    code, said = process.snapshot(source=put(process, "d.jsonl", rows), columns=COLUMNS)
    assert code == want_code
    assert all(word in said["message"] for word in want_words), said["message"]


def test_one_task_without_a_name_keeps_the_columns_and_manifest_it_had(process: StageProcess) -> None:
    process.put("d.csv", "text,label\n" + "".join(f"text {n},{'ab'[n % 2]}\n" for n in range(120)))
    summary = process.summary(source={"objects": [{"uri": "store://d.csv"}]})
    assert "tasks" not in summary
    folder = process.root / "store" / NAMESPACE / "snapshots" / summary["digest"]
    assert pq.read_schema(folder / "train.parquet").names == ["text", "label", "component", "subject", "time"]
    manifest = json.loads((folder / "MANIFEST.json").read_text())
    assert set(manifest) == {
        "format", "type", "digest", "files", "labels", "counts", "removed", "sources", "settings",
    }  # fmt: skip
    assert manifest["settings"]["columns"] == {"text": "text", "label": "label"}
