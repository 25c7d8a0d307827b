"""What users see: the console, the words and colours of states, tables of objects, numbers and times.

Decides looks only. Pure functions from objects (as the API server serves them) to rich renderables; used by every
verb that shows something.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text
from rich.theme import Theme

from ratchet_api.base import parse_time
from ratchet_api.kinds import Kind, PrinterColumn

THEME = Theme(
    {
        "good": "green",
        "bad": "bold red",
        "busy": "cyan",
        "idle": "yellow",
        "faint": "bright_black",
        "name": "bold",
        "number": "bold cyan",
    }
)
out = Console(theme=THEME, highlight=False)
err = Console(theme=THEME, highlight=False, stderr=True)

_STYLES = {
    "good": {"Complete", "Ready", "Succeeded", "Cached", "True", "created", "Promoted"},
    "bad": {"Failed", "Invalid", "Error", "Stalled"},
    "busy": {"Running", "Starting", "Publishing", "Evaluated", "configured"},
    "idle": {"Pending", "WaitingForData", "Queued", "Retrying", "Suspended", "GateFailed", "DryRun"},
}
_CONDITION = re.compile(r'^(.*)\[\?\(@\.type=="(\w+)"\)\]\.(\w+)$')


def state_style(state: str) -> str:
    """Return the style of a state word."""
    return next((style for style, words in _STYLES.items() if state in words), "")


def state_text(state: str) -> Text:
    """Return a state word in its colour."""
    return Text(state or "-", style=state_style(state))


def read_path(body: Mapping[str, Any], path: str) -> str:
    """Read the few forms of JSONPath that printer columns use; absent is an empty text."""
    if found := _CONDITION.match(path):
        base, kind, field = found.groups()
        conditions = _walk(body, base)
        return next((str(c.get(field, "")) for c in conditions or [] if c.get("type") == kind), "")
    if "[*]" in path:
        base, _, field = path.partition("[*].")
        return ",".join(str(item.get(field, "")) for item in _walk(body, base) or [])
    value = _walk(body, path)
    return "" if value is None else str(value)


def _walk(value: Any, path: str) -> Any:
    for part in path.strip(".").split("."):
        name, _, index = part.partition("[")
        value = value.get(name) if isinstance(value, Mapping) else None
        if index:  # [-1:], the only slice that a column has
            value = value[-1] if isinstance(value, list) and value else None
    return value


def objects_table(kind: Kind[Any, Any], bodies: Sequence[Mapping[str, Any]], *, wide: bool, now: datetime) -> Table:
    """Return the table that `kubectl get` would print, in colour."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 3, 0, 0))
    columns = [column for column in kind.columns if wide or column.priority == 0]
    for title in ("NAME", *(column.name.upper() for column in columns)):
        table.add_column(title, no_wrap=True)
    for body in bodies:
        table.add_row(Text(body["metadata"]["name"], style="name"), *(_cell(body, column, now) for column in columns))
    return table


def print_whole(table: Table) -> None:
    """Print a table at its full width, as kubectl does: a narrow terminal folds lines, but no name is cut."""
    width = Measurement.get(out, out.options.update(max_width=10_000), table).maximum
    Console(theme=THEME, highlight=False, file=out.file, width=max(width, out.width)).print(table)


def _cell(body: Mapping[str, Any], column: PrinterColumn, now: datetime) -> Text:
    value = read_path(body, column.json_path)
    if column.type == "date":
        return Text(age(parse_time(value), now) if value else "-")
    if column.name == "State":
        return state_text(value)
    return Text(value[:12] if column.name == "Digest" else value)


def age(since: datetime, now: datetime) -> str:
    """Return how long ago, as kubectl words it."""
    return duration(max(0.0, (now - since).total_seconds()))


def duration(seconds: float) -> str:
    """Return a duration in at most two units: 42s, 3m20s, 5h, 2d3h."""
    whole = int(seconds)
    for size, unit, below, small in ((86_400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= size:
            rest = (whole % size) // below
            return f"{whole // size}{unit}" + (f"{rest}{small}" if rest else "")
    return f"{whole}s"


def utc_now() -> datetime:
    """Return the present time."""
    return datetime.now(UTC)


def metric(name: str, value: float) -> str:
    """Return a metric's value for people: shares with four digits, counts as whole numbers."""
    return f"{value:,.0f}" if name.startswith("n_") or name.endswith("_rows") else f"{value:.4f}"


def say(message: str, *, style: str = "") -> None:
    """Print one line."""
    out.print(escape(message), style=style, soft_wrap=True)


def complain(message: str) -> None:
    """Print an error, in red, on standard error; lists keep their lines."""
    first, *rest = message.splitlines() or ["unknown problem"]
    err.print("[bad]error:[/] " + escape(first), soft_wrap=True)
    for line in rest:
        err.print("       " + escape(line), soft_wrap=True)
