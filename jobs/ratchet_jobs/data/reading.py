"""Rows out of CSV, JSONL and Parquet files, one at a time, each with the place it stands.

Decides what counts as unreadable. A row that cannot be used becomes a `Refused` with its rule, so that the caller can
count it; a file that cannot be read at all raises. Memory does not grow with the file. Torch-free.
"""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from ratchet_api.base import parse_time
from ratchet_api.columns import Columns
from ratchet_api.tasks import TASK_PATTERN, class_name
from ratchet_jobs.runtime.errors import BadDataError

Format = Literal["csv", "jsonl", "parquet"]
_SUFFIXES: Mapping[str, Format] = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
_BATCH_ROWS = 1024


class RawRow(NamedTuple):
    """One readable row: its fields, and its number in the file (the first row of data is 1)."""

    number: int
    fields: Mapping[str, Any]


class Refused(NamedTuple):
    """A row that cannot be used: which rule says so, and where it stands (never its text)."""

    rule: str
    where: str


class Provenance(NamedTuple):
    """Where a row comes from."""

    group: str | None
    subject: str | None
    time: datetime | None


class Example(NamedTuple):
    """One usable row."""

    text: str
    labels: tuple[str | None, ...]
    """Its class per task, as the data call it; None = not said. One of them is said."""
    group: str | None
    subject: str | None
    time: datetime | None


def format_of(name: str, wanted: Format | None) -> Format:
    """Return the file's format: as wanted, else by its suffix.

    Raises:
        BadDataError: the suffix tells nothing.
    """
    if wanted is not None:
        return wanted
    suffix = PurePosixPath(name).suffix.lower()
    if suffix not in _SUFFIXES:
        raise BadDataError(
            f"source file {name}: suffix {suffix!r} names no format; set format to csv, jsonl or parquet"
        )
    return _SUFFIXES[suffix]


def read_rows(path: Path, fmt: Format, *, name: str) -> Iterator[RawRow | Refused]:
    """Yield every row of a file.

    Args:
        path: the local file.
        fmt: its format.
        name: how messages call it.

    Raises:
        BadDataError: the file as a whole cannot be read (truncated, no header, another format).
    """
    reader = {"csv": _read_csv, "jsonl": _read_jsonl, "parquet": _read_parquet}[fmt]
    yield from reader(path, name)


def _read_csv(path: Path, name: str) -> Iterator[RawRow | Refused]:
    csv.field_size_limit(min(sys.maxsize, 1 << 30))
    # broken bytes become lone surrogates, which the row check below finds again
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as handle:
        reader = csv.reader(handle, strict=True)
        try:
            # people write "text, label"; a column path has no blanks at its edges, so no such name could be mapped
            header = [column.strip() for column in next(reader, ())]
            if any(_broken(column) for column in header):
                raise BadDataError(f"source file {name}: the header is no UTF-8; save the file as UTF-8")
            if not header:
                raise BadDataError(f"source file {name}: is empty; the first line must name the columns")
            if len(header) == 1 and (other := next((sign for sign in ";\t|" if sign in header[0]), None)):
                raise BadDataError(
                    f"source file {name}: the header is one column, {header[0]!r}; "
                    f"save the file with commas between columns instead of {other!r}"
                )
            if len(set(header)) != len(header):
                raise BadDataError(f"source file {name}: the header repeats a column: {', '.join(header)}")
            for number, values in enumerate(reader, 1):
                if not values:
                    continue
                if len(values) != len(header):
                    yield Refused("WrongFieldCount", f"{name} row {number}")
                elif any(_broken(value) for value in values):
                    yield Refused("InvalidUtf8", f"{name} row {number}")
                else:
                    yield RawRow(number, dict(zip(header, values, strict=True)))
        except csv.Error as error:
            raise BadDataError(
                f"source file {name}: line {reader.line_num} is no CSV ({error}); quote fields with quotes or newlines"
            ) from error


def _read_jsonl(path: Path, name: str) -> Iterator[RawRow | Refused]:
    with path.open("rb") as handle:
        for number, line in enumerate(handle, 1):
            line = line.removeprefix(b"\xef\xbb\xbf").strip()
            if not line:
                continue
            try:
                fields = json.loads(line.decode())
            except UnicodeDecodeError:
                yield Refused("InvalidUtf8", f"{name} line {number}")
                continue
            except (ValueError, RecursionError):  # nested past any sense is as unreadable as a missing brace
                yield Refused("InvalidJson", f"{name} line {number}")
                continue
            if isinstance(fields, dict):
                yield RawRow(number, fields)
            else:
                yield Refused("NotAnObject", f"{name} line {number}")


def _read_parquet(path: Path, name: str) -> Iterator[RawRow | Refused]:
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_BATCH_ROWS):
                for fields in _in_microseconds(batch).to_pylist():
                    number += 1
                    yield RawRow(number, fields)
    except (pa.ArrowException, OSError, ValueError) as error:  # ValueError: a value that Python cannot hold
        raise BadDataError(
            f"source file {name}: is no whole Parquet file after row {number}: {str(error).rstrip('.')}; write it again"
        ) from error


def _in_microseconds(batch: pa.RecordBatch) -> pa.Table:
    """Cut nanoseconds, which pandas writes and Python's datetime does not have."""
    fields = [
        field.with_type(pa.timestamp("us", field.type.tz))
        if pa.types.is_timestamp(field.type) and field.type.unit == "ns"
        else field
        for field in batch.schema
    ]
    return pa.Table.from_batches([batch]).cast(pa.schema(fields), safe=False)


def _broken(text: str) -> bool:
    return any("\ud800" <= c <= "\udfff" for c in text)


_MISSING = object()
_TASK_NAME = re.compile(TASK_PATTERN)


def pick(fields: Mapping[str, Any], path: str) -> Any:
    """Return the value at a column path: the column of that very name, else step by step into nested objects.

    Returns `_MISSING` where there is no such place.
    """
    if path in fields:
        return fields[path]
    here: Any = fields
    for step in path.split("."):
        if not isinstance(here, Mapping) or step not in here:
            return _MISSING
        here = here[step]
    return here


def value_at(fields: Mapping[str, Any], path: str) -> Any:
    """Return the value at a column path; None where there is none, or an empty one."""
    value = pick(fields, path)
    return None if value is _MISSING or value == "" else value


_OF_TASKS = "labels."


def mapped_columns(columns: Columns) -> dict[str, str]:
    """Return the mapped columns, field of spec.columns -> path; with tasks `labels.TASK` for each."""
    named = columns.to_wire()
    if columns.labels is None:
        return named
    plain = {field: path for field, path in named.items() if field not in ("label", "labels")}
    return plain | {f"{_OF_TASKS}{task}": path for task, path in columns.label_paths.items()}


def absent_columns(fields: Mapping[str, Any], wanted: Mapping[str, str]) -> dict[str, str]:
    """Return those of the mapped columns (field of spec.columns -> path) that a row does not have.

    The columns of tasks stand in for each other: where one of them is there, none of them is absent.
    """
    absent = {field: path for field, path in wanted.items() if pick(fields, path) is _MISSING}
    if any(field.startswith(_OF_TASKS) for field in wanted.keys() - absent.keys()):
        absent = {field: path for field, path in absent.items() if not field.startswith(_OF_TASKS)}
    return absent


def refuse_absent(absent: Mapping[str, str], seen: Mapping[str, Any], *, name: str) -> None:
    """Refuse a file in which a mapped column is nowhere.

    Args:
        absent: mapped columns that no row has.
        seen: fields of a row, for the message.
        name: how messages call the file.

    Raises:
        BadDataError: lists the columns that are there.
    """
    for field, path in absent.items():
        found = ", ".join(sorted(map(str, seen))[:30])
        raise BadDataError(
            f"source file {name}: no column {path!r} (spec.columns.{field}); it has: {found}. Correct spec.columns"
        )


def to_example(fields: Mapping[str, Any], columns: Columns) -> Example | str:
    """Turn a row into an example, or return the rule that refuses it."""
    text = pick(fields, columns.text)
    if text is _MISSING or text is None:
        return "MissingText"
    if not isinstance(text, str):
        return "TextNotString"
    if not is_clean(text):
        return "ControlCharacter"
    labels = _labels(fields, columns)
    if isinstance(labels, str):
        return labels
    provenance = provenance_of(fields, columns)
    return provenance if isinstance(provenance, str) else Example(text.strip(), labels, *provenance)


def is_clean(text: str) -> bool:
    """Whether a text can stand in a snapshot: no NUL, nothing that UTF-8 cannot hold."""
    return "\0" not in text and not _broken(text)


def provenance_of(fields: Mapping[str, Any], columns: Columns) -> Provenance | str:
    """Read a row's group, subject and time, or return the rule that refuses the row."""
    group, subject = _text_of(fields, columns.group), _text_of(fields, columns.subject)
    if any(value is not None and _broken(value) for value in (group, subject)):
        return "InvalidUtf8"
    try:
        when = pick(fields, columns.timestamp) if columns.timestamp else None
        time = None if when is None or when is _MISSING or when == "" else _time(when)
    except (ValueError, TypeError, OverflowError, OSError):
        return "InvalidTimestamp"
    return Provenance(group, subject, time)


def _labels(fields: Mapping[str, Any], columns: Columns) -> tuple[str | None, ...] | str:
    """Return the row's class per task, or the rule that refuses the row."""
    labels: list[str | None] = []
    asked = _asked(fields, columns.task)
    if asked is None:
        return "MissingTask" if value_at(fields, columns.task or "") is None else "InvalidTask"
    for task, path in columns.label_paths.items():
        value = pick(fields, path)
        if value is _MISSING or value is None or (isinstance(value, str) and not value.strip()):
            labels.append(None)
            continue
        name = _label_name(value, task or asked)
        if name is None:
            return "InvalidLabel"
        labels.append(class_name(asked, name))
    return tuple(labels) if any(label is not None for label in labels) else "MissingLabel"


def _asked(fields: Mapping[str, Any], path: str | None) -> str | None:
    """The task that a logged answer was to; empty where no column names one, None = the row says none that could be."""
    if path is None:
        return ""
    name = value_at(fields, path)
    return name if isinstance(name, str) and _TASK_NAME.fullmatch(name) else None


def _label_name(value: Any, task: str) -> str | None:
    """Name of a class: a string, a whole number, or a truth value as JSON writes it; None = it cannot be one."""
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str | int):
        return None
    name = str(value).strip()
    return None if len(class_name(task, name)) > 128 or "\0" in name or _broken(name) else name


def _text_of(fields: Mapping[str, Any], path: str | None) -> str | None:
    value = pick(fields, path) if path else None
    return None if value is None or value is _MISSING or value == "" else str(value)


def _time(value: Any) -> datetime:
    if isinstance(value, datetime):
        return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day, tzinfo=UTC)
    if isinstance(value, bool):
        raise TypeError("a truth value is no time")
    if isinstance(value, str) and not value.replace(".", "", 1).lstrip("-").isdigit():
        return parse_time(value)
    return datetime.fromtimestamp(float(value), UTC)
