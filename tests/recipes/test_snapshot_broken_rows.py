"""Bytes that no encoding explains: a row that cannot be used is counted, a file that cannot be read is named."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.recipes.stage_process import StageProcess, csv_of, many

GOOD = [
    json.dumps({"text": text, "label": label, "who": "w", "team": f"t{place}"})
    for place, (text, label) in enumerate(many(100))
]


@pytest.fixture
def process(tmp_path: Path) -> StageProcess:
    return StageProcess(tmp_path)


def source(path: str) -> dict[str, Any]:
    return {"objects": [{"uri": f"store://{path}"}]}


def removed_by(summary: dict[str, Any]) -> dict[str, int]:
    return {rule["rule"]: rule["count"] for rule in summary["removed"]}


@pytest.mark.parametrize(
    ("line", "want_rule"),
    [
        pytest.param('{"text": "x \\ud800", "label": "a"}', "ControlCharacter", id="half a character in the text"),
        pytest.param('{"text": "x", "label": "\\ud800"}', "InvalidLabel", id="half a character in the label"),
        pytest.param('{"text": "x", "label": "a", "team": "\\udfff"}', "InvalidUtf8", id="in the group"),
        pytest.param('{"text": "x", "label": "a", "who": "\\udfff"}', "InvalidUtf8", id="in the subject"),
        pytest.param('{"text": "x\\u0000y", "label": "a"}', "ControlCharacter", id="NUL in the text"),
        pytest.param('{"text": "x", "label": "a\\u0000"}', "InvalidLabel", id="NUL in the label"),
        pytest.param('{"text": ' + "[" * 100_000 + "]" * 100_000 + "}", "InvalidJson", id="nested past any sense"),
        pytest.param('{"text": "x", "label": NaN}', "InvalidLabel", id="a label that is no number"),
        pytest.param('{"text": "x", "label": {"is": "a"}}', "InvalidLabel", id="a label that is an object"),
        pytest.param('{"text": 5, "label": "a"}', "TextNotString", id="a text that is a number"),
        pytest.param('{"text": null, "label": "a"}', "MissingText", id="a text that is null"),
        pytest.param('["text", "label"]', "NotAnObject", id="a line that is no object"),
        pytest.param('{"text": "x", "label": ' + "9" * 5000 + "}", "InvalidJson", id="a number of 5,000 digits"),
    ],
)
def test_row_that_cannot_be_used_is_counted_with_its_place_and_the_rest_is_kept(
    process: StageProcess, line: str, want_rule: str
) -> None:
    process.put("d.jsonl", "\n".join([*GOOD, line]) + "\n")
    summary = process.summary(source=source("d.jsonl"), columns={"group": "team", "subject": "who"})
    assert removed_by(summary) == {want_rule: 1}
    assert summary["removed"][0]["example"].endswith(" 101")
    assert (summary["counts"]["read"], summary["counts"]["kept"]) == (101, 100)


@pytest.mark.parametrize(
    ("content", "want"),
    [
        pytest.param(csv_of(many(100)).encode("utf-16"), "header is no UTF-8", id="UTF-16"),
        pytest.param(b"te\xffxt,label\nx,a\n", "header is no UTF-8", id="broken header"),
        pytest.param(b"text,text,label\nx,y,a\n", "repeats a column", id="a column twice"),
        pytest.param(csv_of(many(100)).encode() + b'"never closed,a\n', "is no CSV", id="an open quote"),
    ],
)
def test_file_that_cannot_be_read_is_named_in_a_message_that_json_can_carry(
    process: StageProcess, content: bytes, want: str
) -> None:
    """P39."""
    process.put("d.csv", content)
    code, message = process.snapshot(source=source("d.csv"))
    assert (code, message["reason"], message["state"]) == (10, "BadData", "Failed")
    assert "store://d.csv" in message["message"]
    assert want in message["message"]


def test_truth_values_and_whole_numbers_are_labels_as_json_writes_them(process: StageProcess) -> None:
    rows = [json.dumps({"text": text, "label": [True, 7][label == "b"]}) for text, label in many(200)]
    process.put("d.jsonl", "\n".join(rows))
    labels = {row["label"] for row in process.summary(source=source("d.jsonl"))["smallestLabels"]}
    assert labels == {"true", "7"}


def parquet_of(**columns: Any) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    data: bytes = sink.getvalue().to_pybytes()
    return data


@pytest.mark.parametrize(
    ("times", "want_newest"),
    [
        pytest.param(
            pa.array([1_700_000_000_123_456_789] * 200, pa.timestamp("ns")), "2023-11-14T22:13:20Z", id="nanoseconds"
        ),
        pytest.param(
            pa.array([1_700_000_000_123_456_789] * 200, pa.timestamp("ns", "Asia/Tokyo")),
            "2023-11-14T22:13:20Z",
            id="nanoseconds with a zone",
        ),
        pytest.param(pa.array([date(2024, 2, 29)] * 200), "2024-02-29T00:00:00Z", id="dates"),
        pytest.param(pa.array([1_700_000_000] * 200), "2023-11-14T22:13:20Z", id="seconds since 1970"),
        pytest.param(pa.array(["2024-02-29T01:00:00+01:00"] * 200), "2024-02-29T00:00:00Z", id="RFC 3339"),
        pytest.param(pa.array([None] * 199 + [1_700_000_000]), "2023-11-14T22:13:20Z", id="mostly missing"),
    ],
)
def test_times_as_the_usual_writers_write_them_are_read(
    process: StageProcess, times: pa.Array, want_newest: str
) -> None:
    texts, labels = zip(*many(200), strict=True)
    process.put("d.parquet", parquet_of(text=list(texts), label=list(labels), at=times))
    summary = process.summary(source=source("d.parquet"), columns={"timestamp": "at"})
    assert (summary["counts"]["kept"], summary["newest"]) == (200, want_newest)


def test_row_without_a_time_is_dropped_only_when_ages_are_asked_for(process: StageProcess) -> None:
    lines = [json.dumps({"text": text, "label": label, "at": 1_700_000_000}) for text, label in many(200)]
    timeless = [json.dumps({"text": f"timeless {n}", "label": "a", "at": at}) for n, at in enumerate((None, ""))]
    wrong = [json.dumps({"text": f"wrong {n}", "label": "a", "at": at}) for n, at in enumerate((True, "noon", 1e300))]
    process.put("d.jsonl", "\n".join(lines + timeless + wrong))
    columns = {"timestamp": "at"}
    kept = process.summary(source=source("d.jsonl"), columns=columns, target="all")
    assert removed_by(kept) == {"InvalidTimestamp": 3}
    aged = process.summary(source=source("d.jsonl"), columns=columns, filters={"maxAgeDays": 30}, target="aged")
    assert removed_by(aged) == {"InvalidTimestamp": 3, "MissingTimestamp": 2}


def test_a_column_that_no_json_row_has_is_named(process: StageProcess) -> None:
    process.put("d.jsonl", "\n".join(GOOD) + "\n")
    code, said = process.snapshot(source=source("d.jsonl"), columns={"subject": "person"})
    assert code == 10
    assert "no column 'person' (spec.columns.subject); it has: label, team, text, who" in said["message"]
