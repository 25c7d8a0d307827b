"""Files of feedback: JSON lines and CSV in the API's names, and the JSON lines that older collectors wrote.

Decides what a row means and refuses what it cannot mean, with the line's number. An event's idempotency key follows
from the row's content, so that importing a file twice stores it once. Sends nothing; called by `ratchet feedback
import`.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ratchet_api.base import canonical_json
from ratchet_api.feedback import FEEDBACK_TYPES, Feedback
from ratchet_cli.errors import CliError, NotFound, UsageProblem

_FEEDBACK: TypeAdapter[Any] = TypeAdapter(Feedback)
_OLDER = {"query": "prompt", "feedback_type": "type", "metadata": "tags"}
"""What older collectors called it, and what it is called now."""
_INTEGERS, _NUMBERS = {"rating", "version"}, {"score", "value"}
_NOT_IN_A_TAG = re.compile(r"[^A-Za-z0-9._/-]+")
_SUBJECTS = ("user_id", "user", "subject")


@dataclass
class Rows:
    """What a file holds.

    Attributes:
        events: usable rows, ready to be sent.
        problems: a line each for the others.
    """

    events: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def by_type(self) -> dict[str, int]:
        """Count the events."""
        return dict(sorted(Counter(str(event["type"]) for event in self.events).items()))


def read_rows(path: Path, *, policy: str, form: str | None = None) -> Rows:
    """Read a file.

    Args:
        path: the file.
        policy: whose feedback it is; a row that names another policy is a problem.
        form: jsonl or csv; None = by the file's name.

    Raises:
        NotFound: there is no such file.
        UsageProblem: its form cannot be told from its name.
        CliError: it is no text in UTF-8.
    """
    form = form or {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv"}.get(path.suffix.lower())
    if form not in ("jsonl", "csv"):
        raise UsageProblem(f"{path}: its name does not tell its form; give --format jsonl or --format csv")
    if not path.is_file():
        raise NotFound(f"{path} does not exist")
    rows, seen = Rows(), Counter[bytes]()
    try:
        for number, row in _jsonl(path) if form == "jsonl" else _csv(path):
            try:
                event = _event(row, policy)
            except ValueError as error:
                rows.problems.append(f"{path}:{number}: {_explained(error)}")
                continue
            content = canonical_json(event)
            seen[content] += 1  # equal rows are different events; the second of them has a key of its own
            key = hashlib.sha256(content + b"\0" + str(seen[content]).encode()).hexdigest()[:32]
            rows.events.append({"idempotencyKey": f"import-{key}", **event})
    except UnicodeDecodeError as error:
        raise CliError(
            f"{path}: is no text in UTF-8 (byte {error.start}); convert it, for example with iconv"
        ) from error
    return rows


def _jsonl(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield number, line


def _csv(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines, strict=True)
        for row in reader:
            yield reader.line_num, row


def _event(row: str | Mapping[str, Any], policy: str) -> dict[str, Any]:
    """Return a row as the API takes it.

    Raises:
        ValueError: it cannot be meant.
    """
    plain = json.loads(row) if isinstance(row, str) else _typed(row)
    if not isinstance(plain, dict):
        raise ValueError("is no JSON object")
    event = _modern({name: value for name, value in plain.items() if value is not None})
    if event.setdefault("policy", policy) != policy:
        raise ValueError(f"policy: is {event['policy']!r}, this import is for {policy!r}")
    checked = _FEEDBACK.validate_python(event)
    return dict(checked.model_dump(mode="json", by_alias=True, exclude_none=True))


def _typed(row: Mapping[Any, Any]) -> dict[str, Any]:
    """Give the cells of a CSV row their types; an empty cell is absent, `tags.NAME` is a tag."""
    if None in row or None in row.values():
        raise ValueError("has not as many cells as the header has columns")
    typed: dict[str, Any] = {}
    for name, cell in row.items():
        if cell == "":
            continue
        if name.startswith("tags."):
            typed.setdefault("tags", {})[name.removeprefix("tags.")] = cell
        elif name == "metadata":
            typed[name] = json.loads(cell)
        elif name in _INTEGERS:
            typed[name] = int(cell)
        else:
            typed[name] = float(cell) if name in _NUMBERS else cell
    return typed


def _modern(row: dict[str, Any]) -> dict[str, Any]:
    """Translate a row of an older collector; one in today's names comes back as it is."""
    if not _OLDER.keys() & row.keys():
        return row
    event = {_OLDER.get(name, name): value for name, value in row.items() if value != ""}
    kind = event.get("type")
    if kind not in FEEDBACK_TYPES:
        raise ValueError(f"feedback_type: is {kind!r}; known are {', '.join(FEEDBACK_TYPES)}")
    metadata = dict(event.pop("tags", None) or {})
    subjects = [str(metadata.pop(name)) for name in _SUBJECTS if name in metadata]
    if subjects:
        event["subject"] = subjects[0]
    # those collectors had one field for what somebody wrote, whatever its type, and wrote it for every type
    written = event.pop("correction", None)
    if kind == "correction":
        event["correction"] = written
    elif kind == "comment":
        event["comment"] = metadata.pop("comment", written)
    elif kind == "preference":
        event["chosen"] = metadata.pop("chosen", written)
        event["rejected"] = metadata.pop("rejected", event.pop("response", None))
        _refuse_half_a_pair(event)
    event = {name: value for name, value in event.items() if value is not None}
    if metadata:
        event["tags"] = {_NOT_IN_A_TAG.sub("_", str(name))[:64]: _short(value) for name, value in metadata.items()}
    if "timestamp" in event:
        event["timestamp"] = _time(event["timestamp"])
    return event


def _refuse_half_a_pair(event: Mapping[str, Any]) -> None:
    for name, instead in (("chosen", "correction"), ("rejected", "response")):
        if event[name] is None:
            raise ValueError(f"feedback_type 'preference': has neither metadata.{name} nor {instead}; add one of them")


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
    return text[:256] or "-"


def _time(value: Any) -> str:
    """Read seconds since 1970 or ISO 8601; a time without zone is UTC, as those collectors wrote it."""
    if isinstance(value, int | float):
        moment = datetime.fromtimestamp(value, UTC)
    else:
        moment = datetime.fromisoformat(str(value).replace("Z", "+00:00"))
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).isoformat()


def _explained(error: ValueError) -> str:
    if isinstance(error, ValidationError):
        found = [f"{'.'.join(map(str, f['loc'][1:])) or 'type'}: {f['msg']}" for f in error.errors(include_input=False)]
        return "; ".join(found)[:300]
    return f"is no JSON ({error})" if isinstance(error, json.JSONDecodeError) else str(error)
