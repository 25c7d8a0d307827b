"""The snapshot stage: nothing leaks, nothing is lost silently, equal rows give equal bytes, bad input is named."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.recipes.stage_process import NAMESPACE, StageProcess, csv_of, many


@pytest.fixture
def process(tmp_path: Path) -> StageProcess:
    return StageProcess(tmp_path)


def source(*files: dict[str, str] | str) -> dict[str, Any]:
    return {"objects": [f if isinstance(f, dict) else {"uri": f"store://{f}"} for f in files]}


def rows_of(process: StageProcess, summary: dict[str, Any], split: str) -> list[dict[str, Any]]:
    path = process.root / "store" / NAMESPACE / "snapshots" / summary["digest"] / f"{split}.parquet"
    return pq.read_table(path).to_pylist()


def test_every_row_read_is_kept_or_counted_under_a_rule(process: StageProcess) -> None:
    rows = [*many(100), ("text number 0 says hello", "a"), ("", "a"), ("no label", ""), ("x" * 50, "a")]
    process.put("d.csv", csv_of(rows) + '"too","many","fields"\n')
    summary = process.summary(source=source("d.csv"), filters={"maxTextChars": 40})
    removed = {r["rule"]: r["count"] for r in summary["removed"]}
    assert removed == {"Duplicate": 1, "TextTooShort": 1, "MissingLabel": 1, "TextTooLong": 1, "WrongFieldCount": 1}
    counts = summary["counts"]
    assert counts["read"] == 105 == counts["kept"] + sum(removed.values())
    assert counts["kept"] == counts["train"] + counts["validation"] + counts["test"]


def test_rebuilding_gives_the_same_digest_and_the_same_bytes(process: StageProcess, tmp_path: Path) -> None:
    """P28: also when the files' rows stand in another order."""
    process.put("one.csv", csv_of(many()))
    first = process.summary(target="1", source=source("one.csv"))
    stored = {i.key: process.store.read(i.key) for i in process.store.list(f"{NAMESPACE}/snapshots")}
    other = StageProcess(tmp_path / "other")
    (tmp_path / "other").mkdir()
    other.put("one.csv", csv_of(many()[::-1]))
    second = other.summary(source=source("one.csv"))
    assert second["digest"] == first["digest"]
    for key, data in stored.items():
        if key.endswith(".parquet"):
            assert other.store.read(key) == data, key


def test_changed_row_gives_another_digest(process: StageProcess) -> None:
    process.put("one.csv", csv_of(many()))
    process.put("two.csv", csv_of([*many()[:-1], ("text number 199 says hello", "a")]))
    one = process.summary(target="1", source=source("one.csv"))
    two = process.summary(target="2", source=source("two.csv"))
    assert one["digest"] != two["digest"]


def test_equal_texts_never_part_across_splits_however_they_are_written(process: StageProcess) -> None:
    rows = many(300) + [(f"  TEXT  number {i} SAYS\thello ", "b" if i % 2 else "a") for i in range(0, 300, 3)]
    process.put(
        "d.jsonl", "".join(json.dumps({"text": t, "label": f"{c}{n % 2}"}) + "\n" for n, (t, c) in enumerate(rows))
    )
    summary = process.summary(source=source("d.jsonl"))
    texts = {
        s: {" ".join(r["text"].casefold().split()) for r in rows_of(process, summary, s)}
        for s in ("train", "validation", "test")
    }
    assert not texts["train"] & texts["test"]
    assert not texts["train"] & texts["validation"]
    assert not texts["validation"] & texts["test"]


def test_rows_of_one_group_stay_together(process: StageProcess) -> None:
    lines = [{"text": t, "label": c, "meta": {"doc": i // 5}} for i, (t, c) in enumerate(many(500))]
    process.put("d.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    summary = process.summary(source=source("d.jsonl"), columns={"group": "meta.doc"})
    where: dict[int, set[str]] = {}
    for split in ("train", "validation", "test"):
        for row in rows_of(process, summary, split):
            where.setdefault(int(row["text"].split()[2]) // 5, set()).add(split)
    assert len(where) == 100
    assert all(len(splits) == 1 for splits in where.values())


def test_train_rows_that_stand_in_a_held_out_file_are_removed_from_train(process: StageProcess) -> None:
    process.put("train.csv", csv_of(many(100)))
    process.put("valid.csv", csv_of([(f"valid {i}", "ab"[i % 2]) for i in range(10)]))
    process.put("test.csv", csv_of([("TEXT number 7 says hello", "b"), ("fresh one", "a")]))
    files = [
        {"uri": f"store://{n}.csv", "split": s}
        for n, s in (("train", "train"), ("valid", "validation"), ("test", "test"))
    ]
    summary = process.summary(source=source(*files))
    assert summary["counts"]["train"] == 99
    assert summary["counts"]["test"] == 2
    assert {r["rule"] for r in summary["removed"]} == {"Duplicate"}


def test_no_subject_has_more_than_its_share_and_none_is_stored_raw(process: StageProcess) -> None:
    """P29's half in the data set: a flooder keeps no more than the cap."""
    lines = [{"text": f"flood {i}", "label": "ab"[i % 2], "who": "mallory@example.org"} for i in range(900)]
    lines += [{"text": t, "label": c, "who": f"user{i % 50}@example.org"} for i, (t, c) in enumerate(many(400))]
    process.put("d.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    summary = process.summary(
        source=source("d.jsonl"), columns={"subject": "who"}, filters={"maxSubjectSharePercent": 5}
    )
    kept = [r for s in ("train", "validation", "test") for r in rows_of(process, summary, s)]
    flood = sum(r["text"].startswith("flood") for r in kept)
    assert 0 < flood <= 0.05 * len(kept)
    assert not [r for r in kept if "@" in (r["subject"] or "")]
    source_key = f"{NAMESPACE}/d.jsonl"
    for info in process.store.list(NAMESPACE):
        if info.key != source_key:
            assert b"@example.org" not in process.store.read(info.key), info.key


def test_max_samples_keeps_the_same_rows_when_the_file_grows_in_front(process: StageProcess) -> None:
    process.put("one.csv", csv_of(many(400)))
    process.put("two.csv", csv_of(many(400)[::-1]))
    one = process.summary(target="1", source=source("one.csv"), filters={"maxSamples": 100})
    two = process.summary(target="2", source=source("two.csv"), filters={"maxSamples": 100})
    assert one["counts"]["kept"] == 100
    assert one["digest"] == two["digest"]


def test_old_rows_are_dropped_counted_from_the_newest(process: StageProcess) -> None:
    lines = [{"text": t, "label": c, "at": f"2026-01-{1 + i % 28:02d}T00:00:00Z"} for i, (t, c) in enumerate(many(280))]
    process.put("d.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    summary = process.summary(source=source("d.jsonl"), columns={"timestamp": "at"}, filters={"maxAgeDays": 13})
    assert summary["counts"]["kept"] == 140  # days 15 to 28 of 28, ten rows each
    assert summary["oldest"] == "2026-01-15T00:00:00Z"
    assert summary["newest"] == "2026-01-28T00:00:00Z"


def test_parquet_csv_and_jsonl_of_the_same_rows_are_the_same_snapshot(process: StageProcess) -> None:
    rows = many()
    process.put("d.csv", "\ufeff" + csv_of(rows).replace("\n", "\r\n"))
    process.put("d.jsonl", "".join(json.dumps({"text": t, "label": c}) + "\n" for t, c in rows))
    table = pa.table({"text": [t for t, _ in rows], "label": [c for _, c in rows]})
    pq.write_table(table, process.root / "store" / NAMESPACE / "d.parquet")
    digests = {process.summary(target=n, source=source(f"d.{n}"))["digest"] for n in ("csv", "jsonl", "parquet")}
    assert len(digests) == 1


@pytest.mark.parametrize("fields", [("who",), ("who", "when"), ("meta",)])
def test_json_rows_may_leave_out_what_they_have_no_value_for_also_the_first(
    process: StageProcess, fields: tuple[str, ...]
) -> None:
    columns = {"subject": "meta.who" if "meta" in fields else "who"} | (
        {"timestamp": "when"} if "when" in fields else {}
    )
    full = {"who": "w", "when": "2026-01-01T00:00:00Z", "meta": {"who": "w"}}
    rows = [
        {"text": text, "label": label} | ({} if place % 2 == 0 else {field: full[field] for field in fields})
        for place, (text, label) in enumerate(many(100))
    ]
    process.put("d.jsonl", "\n".join(map(json.dumps, rows)))
    assert process.summary(source=source("d.jsonl"), columns=columns)["counts"]["kept"] == 100


def test_column_names_as_offices_write_them_are_mapped_as_they_stand(process: StageProcess) -> None:
    process.put("d.csv", csv_of(many(), header="Consumer complaint narrative, Product"))
    columns = {"text": "Consumer complaint narrative", "label": "Product"}
    assert process.summary(source=source("d.csv"), columns=columns)["counts"]["kept"] == 200
    nested = [{"Body of mail": {"first page": text}, "team": label} for text, label in many()]
    process.put("d.jsonl", "".join(json.dumps(row) + "\n" for row in nested))
    columns = {"text": "Body of mail.first page", "label": "team"}
    assert process.summary(target="nested", source=source("d.jsonl"), columns=columns)["counts"]["kept"] == 200


BAD_INPUT = [
    pytest.param("x,label\na,b\n", {}, 10, ["no column 'text'", "x", "spec.columns"], id="unknown column"),
    pytest.param(
        "text,label\n" + "".join(f"text {n},id {n}\n" for n in range(3000)),
        {},
        12,
        ["classes in", "'id 0'", "at most 2000", "column of ids"],
        id="a column of ids as classes",
    ),
    pytest.param("", {}, 10, ["is empty", "first line"], id="empty file"),
    pytest.param('text;label\n"a";"b"\n', {}, 10, ["one column, 'text;label'", "with commas"], id="semicolons"),
    pytest.param(
        csv_of([("x" * 101, "a"), ("y" * 101, "b")] * 20),
        {"filters": {"maxTextChars": 100}},
        10,
        ["TextTooLong 40 (by spec.filters.maxTextChars, first: store://d.csv row 1)"],
        id="every text too long",
    ),
    pytest.param(csv_of(many(9)), {}, 10, ["train rows are left", "at least 10"], id="five samples"),
    pytest.param(csv_of(many(100, "a")), {}, 12, ["'a'", "at least two classes"], id="one class only"),
    pytest.param(csv_of(many(100)), {"labels": ["a", "b", "z"]}, 12, ["'z'", "no train row"], id="label never seen"),
    pytest.param(csv_of([("same text", "a")] * 60), {}, 10, ["Duplicate 59"], id="duplicates only"),
    pytest.param(
        csv_of(many(100)), {"source": source("nothing.csv")}, 22, ["nothing.csv", "does not exist"], id="no file"
    ),
    pytest.param(csv_of(many(100)), {"source": source("d.bin")}, 10, ["'.bin'", "format"], id="unknown format"),
    pytest.param(
        csv_of(many(100)),
        {"source": {"objects": [{"uri": "store://d.csv", "sha256": "f" * 64}]}},
        10,
        ["sha256 is ffff", "correct one"],
        id="checksum of the source differs",
    ),
    pytest.param(csv_of(many(100)), {"source": source({"uri": "store://../else/d.csv"})}, 11, ["'..'"], id="escape"),
]


@pytest.mark.parametrize(("content", "spec", "want_code", "want_words"), BAD_INPUT)
def test_bad_input_ends_the_stage_with_its_code_and_a_message_that_helps(
    process: StageProcess, content: str, spec: dict[str, Any], want_code: int, want_words: list[str]
) -> None:
    """P13, P39."""
    process.put("d.csv", content)
    process.put("d.bin", b"\0")
    code, message = process.snapshot(**({"source": source("d.csv")} | spec))
    assert (code, message["state"]) == (want_code, "Failed"), message
    for word in want_words:
        assert word in message["message"]


def test_label_that_only_held_out_rows_have_is_named(process: StageProcess) -> None:
    process.put("train.csv", csv_of(many(50)))
    process.put("valid.csv", csv_of([("v", "a")]))
    process.put("test.csv", csv_of([("t", "surprise")]))
    files = [
        {"uri": f"store://{n}.csv", "split": s}
        for n, s in (("train", "train"), ("valid", "validation"), ("test", "test"))
    ]
    code, message = process.snapshot(source=source(*files))
    assert code == 12
    assert "'surprise' has 1 rows in test but none in train" in message["message"]


def test_broken_bytes_are_counted_with_their_row_and_do_not_stop_the_rest(process: StageProcess) -> None:
    process.put("d.csv", csv_of(many(100)).encode() + b'"caf\xe9","a"\n')
    summary = process.summary(source=source("d.csv"))
    assert {"rule": "InvalidUtf8", "count": 1, "example": "store://d.csv row 101"} in summary["removed"]


def test_truncated_parquet_is_named(process: StageProcess) -> None:
    whole = process.root / "whole.parquet"
    pq.write_table(pa.table({"text": ["a"] * 100, "label": ["b"] * 100}), whole)
    process.put("d.parquet", whole.read_bytes()[:-20])
    code, message = process.snapshot(source=source("d.parquet"))
    assert code == 10
    assert "d.parquet" in message["message"]


def test_text_of_one_megabyte_is_dropped_by_the_default_limit_and_kept_on_request(process: StageProcess) -> None:
    process.put("d.csv", csv_of([*many(100), ("x" * 1_000_000, "a")]))
    assert process.summary(target="1", source=source("d.csv"))["counts"]["kept"] == 100
    asked = process.summary(target="2", source=source("d.csv"), filters={"maxTextChars": 1_000_000})
    assert asked["counts"]["kept"] == 101


def test_light_stages_never_import_torch() -> None:
    code = (
        "import sys; import ratchet_jobs.runtime.main, ratchet_jobs.recipes.snapshot, ratchet_jobs.recipes.resolve; "
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
