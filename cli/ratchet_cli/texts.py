"""Texts to ask a policy, and rows to measure it on: from a file, standard input, or the snapshot it was trained on.

Decides that a file is used whole or not at all: a row that cannot be used is named and nothing is predicted, because a
row left out in silence would shift every number. The readers are those of the snapshot stage. Used by predict, evaluate
and compare; imports no training library before a file is read.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import typer

from ratchet_cli.errors import CliError, NotFound, UsageProblem

if TYPE_CHECKING:
    from ratchet_jobs.data.demonstrations import Demonstration
    from ratchet_jobs.data.reading import RawRow

_SHOWN = 10
_REMEDIES = {
    "WrongFieldCount": "it has not as many cells as the header has columns",
    "InvalidUtf8": "it is no UTF-8; convert the file, for example with iconv",
    "InvalidJson": "it is no JSON",
    "NotAnObject": "it is no JSON object",
    "MissingText": "it has no text",
    "TextNotString": "its text is no string",
    "ControlCharacter": "its text holds a NUL character or half a surrogate pair",
    "MissingLabel": "it has no label",
    "InvalidLabel": "its label is no name of at most 128 characters",
    "EmptyPrompt": "its prompt is empty",
    "EmptyResponse": "its response is empty",
    "PromptNotString": "its prompt is no string",
    "ResponseNotString": "its response is no string",
}
DEFAULT_LABEL_COLUMN = "label"
FileFormat = Literal["csv", "jsonl", "parquet"]
Data = Annotated[Path | None, typer.Option("--data", help="CSV, JSON lines or Parquet file.", metavar="FILE")]
TextColumn = Annotated[str, typer.Option("--column", help="Column of the text; a.b reaches into objects.")]
DEFAULT_RESPONSE_COLUMN = "response"
LABEL_COLUMN_HELP = (
    "Column of the true label, by default label; for a version with tasks TASK=COLUMN, once for each; for a generator "
    "column of the answer to follow, by default response."
)
LabelColumn = Annotated[list[str] | None, typer.Option("--label-column", help=LABEL_COLUMN_HELP)]
SplitColumn = Annotated[
    str, typer.Option("--split-column", help="With --data and --split: column that names the split.")
]
Form = Annotated[str | None, typer.Option("--format", help="csv, jsonl or parquet. If omitted, by the file's name.")]


@dataclass(frozen=True, slots=True)
class Source:
    """A file and what its columns are called.

    Attributes:
        path: the file.
        form: its format; None = by its name.
        text: column of the text.
        labels: column of the label of each task, of the only one by the empty string; None = labels are not wanted.
        response: column of the answer to each text, in place of labels; None = answers are not wanted.
        split: only rows whose `split_column` says this; None = all rows.
        split_column: column of the split.
    """

    path: Path
    form: str | None
    text: str
    labels: Mapping[str, str] | None = None
    split: str | None = None
    split_column: str = "split"
    response: str | None = None


@dataclass(frozen=True, slots=True)
class Rows:
    """Texts and, where they were asked for, their labels, one per task, None = not said, or the answers to them."""

    texts: list[str]
    labels: list[tuple[str | None, ...]]
    shown: list[Demonstration] = field(default_factory=list)


def label_columns(given: Sequence[str] | None) -> dict[str, str]:
    """Read --label-column: one column, or TASK=COLUMN for each task, sorted by task.

    Raises:
        UsageProblem: one of several is no TASK=COLUMN, or a task is named twice.
    """
    values = list(given or (DEFAULT_LABEL_COLUMN,))
    if len(values) == 1 and "=" not in values[0]:
        return {"": values[0]}
    columns: dict[str, str] = {}
    for value in values:
        task, sign, column = value.partition("=")
        if not (task and sign and column):
            raise UsageProblem(f"--label-column {value!r} is one of several; write each as TASK=COLUMN")
        if task in columns:
            raise UsageProblem(f"--label-column names the task {task!r} twice; remove one")
        columns[task] = column
    return dict(sorted(columns.items()))


def read_source(source: Source) -> Rows:
    """Read a file whole.

    Raises:
        NotFound: there is no such file.
        UsageProblem: its format cannot be told.
        CliError: it has no rows, lacks a column, or holds rows that cannot be used; says which.
    """
    from ratchet_jobs.runtime.errors import StageError

    if source.form is not None and source.form not in get_args(FileFormat):
        raise UsageProblem(f"--format {source.form!r} is unknown; use csv, jsonl or parquet")
    if not source.path.is_file():
        raise NotFound(f"--data {source.path} is no file; name a CSV, JSON lines or Parquet file")
    try:
        return _read(source)
    except StageError as error:
        raise CliError(str(error)) from error
    except OSError as error:
        raise CliError(f"--data {source.path}: cannot be read: {error.strerror}") from error


def _read(source: Source) -> Rows:
    from ratchet_jobs.data.reading import Refused, absent_columns, format_of, read_rows

    name = str(source.path)
    wanted = {"--column": source.text}
    for task, path in (source.labels or {}).items():
        wanted["--label-column" + (f" {task}=COLUMN" if task else "")] = path
    wanted |= {"--label-column": source.response} if source.response is not None else {}
    wanted |= {"--split-column": source.split_column} if source.split is not None else {}
    found, problems, absent, count = Rows([], []), list[str](), dict(wanted), 0
    seen: Mapping[str, Any] = {}
    for row in read_rows(source.path, format_of(name, source.form), name=name):  # type: ignore[arg-type]  # checked above
        count += 1
        if isinstance(row, Refused):
            problems.append(f"{row.where.removeprefix(f'{name} ')}: {_REMEDIES.get(row.rule, row.rule)}")
            continue
        seen = row.fields
        absent = absent_columns(row.fields, absent)
        if problem := _take(row, source, found):
            problems.append(f"row {row.number}: {_REMEDIES.get(problem, problem)}")
    if absent and seen:
        option, column = next(iter(absent.items()))
        there = ", ".join(sorted(map(str, seen))[:30])
        raise CliError(f"{name}: no column {column!r}; it has: {there}. Name the right one with {option}")
    if problems:
        listed = "\n".join(problems[:_SHOWN])
        more = f"\n… and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise CliError(f"{name}: {len(problems)} of {count} rows cannot be used; mend or remove them:\n{listed}{more}")
    if not found.texts:
        of_split = f" whose {source.split_column!r} is {source.split!r}" if source.split is not None else ""
        raise CliError(f"{name}: has no row{of_split}; give a file with at least one")
    return found


def _take(row: RawRow, source: Source, into: Rows) -> str:
    """Add a row; return the rule that refuses it, or nothing."""
    from ratchet_api.columns import Columns
    from ratchet_jobs.data.reading import absent_columns, pick, to_example

    if source.split is not None:
        column = source.split_column
        value = None if absent_columns(row.fields, {"": column}) else pick(row.fields, column)
        if value != source.split:
            return ""
    if source.response is not None:
        return _take_shown(row.fields, source.text, source.response, into)
    if source.labels is not None:
        columns = Columns.model_construct(
            response=None,
            messages=None,
            turns=None,
            items=None,
            emotion=None,
            text=source.text,
            label=source.labels.get("", ""),
            labels=None if "" in source.labels else dict(source.labels),
            group=None,
            subject=None,
            timestamp=None,
            score=None,
            propensity=None,
            policy=None,
            task=None,
        )
        example = to_example(row.fields, columns)
        if isinstance(example, str):
            return example
        into.texts.append(example.text)
        into.labels.append(example.labels)
        return ""
    text = None if absent_columns(row.fields, {"": source.text}) else pick(row.fields, source.text)
    if text is None:
        return "MissingText"
    if not isinstance(text, str):
        return "TextNotString"
    if not _sound(text):
        return "ControlCharacter"
    into.texts.append(text.strip())
    return ""


def _take_shown(fields: Mapping[str, Any], prompt: str, response: str, into: Rows) -> str:
    from ratchet_jobs.data.demonstrations import of_pair
    from ratchet_jobs.data.reading import value_at

    asked, answered = value_at(fields, prompt), value_at(fields, response)
    for value, word in ((asked, "Prompt"), (answered, "Response")):
        if value is None:
            return f"Empty{word}"
        if not isinstance(value, str):
            return f"{word}NotString"
    shown = of_pair(asked, answered)
    if isinstance(shown, str):
        return shown
    into.texts.append(shown.prompt)
    into.shown.append(shown)
    return ""


def given_texts(words: Sequence[str]) -> Rows:
    """Return the texts of the command line, or of standard input, one a line, if there are none or one is -.

    Raises:
        UsageProblem: nothing was given, or standard input is a terminal.
        CliError: a text is no UTF-8.
    """
    if not words and sys.stdin.isatty():
        raise UsageProblem("no text was given; write TEXT…, --data FILE, or send lines to standard input")
    texts: list[str] = []
    for word in words or ("-",):
        texts += _stdin_lines() if word == "-" else [word]
    for number, text in enumerate(texts, 1):
        if not _sound(text):
            raise CliError(f"text {number}: is no UTF-8 or holds a NUL character; convert it, for example with iconv")
    if not texts:
        raise CliError("standard input: has no line; send at least one text")
    return Rows([text.strip() for text in texts], [])


def _stdin_lines() -> list[str]:
    binary = getattr(sys.stdin, "buffer", None)
    data = binary.read() if binary is not None else sys.stdin.read().encode(errors="surrogateescape")
    # broken bytes become lone surrogates, which are found with those of the command line
    lines = data.decode("utf-8-sig", errors="surrogateescape").split("\n")
    return [line.removesuffix("\r") for line in (lines if lines[-1] else lines[:-1])]


def _sound(text: str) -> bool:
    return "\0" not in text and not any("\ud800" <= sign <= "\udfff" for sign in text)
