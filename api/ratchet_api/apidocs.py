"""Renders the reference pages: every field of every kind, every condition, reason and exit code.

Decides how a page reads; every fact in it comes from a CRD or from the closed lists, so a page cannot say what the
API server does not do. Pure: returns Markdown, writes nothing. Called by `crdgen`.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from ratchet_api.base import API_VERSION, GROUP
from ratchet_api.conditions import CONDITIONS, REASONS, Reason
from ratchet_api.kinds import Kind
from ratchet_api.stage import UNKNOWN_EXIT_LIMIT, ExitCode, Retry, exit_rule

_GENERATED = "<!-- Generated from api/ratchet_api by `make generate`. Do not edit. -->\n"

_RETRY_TEXT: Mapping[Retry, str] = {
    Retry.NEVER: "no",
    Retry.COUNTED: "yes, counted against `spec.backoffLimit`",
    Retry.OTHER_NODE: "yes, counted, on another node",
    Retry.UNCOUNTED: "yes, not counted, inside the deadline",
    Retry.ONCE: "once; a second one is `OutOfMemory`",
    Retry.LIMITED: f"yes, counted, at most {UNKNOWN_EXIT_LIMIT} times",
}


def summary(kind: Kind[Any, Any]) -> str:
    """Return what a kind is, in the one line that its module starts with."""
    return (inspect.getdoc(inspect.getmodule(kind.spec_model)) or "").splitlines()[0]


def crd_readme(kinds: Sequence[Kind[Any, Any]]) -> str:
    """Return crds/README.md."""
    rows = "\n".join(f"- `{GROUP}_{kind.plural}.yaml`: {summary(kind)}" for kind in kinds)
    return f"""# CustomResourceDefinitions

{_GENERATED}
{rows}

These files follow from the models in `api/ratchet_api`: edit a model, run `make generate`, commit both. `make verify`
fails when they differ. `charts/ratchet/files/crds/` holds the same bytes.

The chart installs them (`crds.enabled`). Without the chart: `kubectl apply --server-side -f crds/`.
"""


def api_reference(crds: Mapping[str, Mapping[str, Any]]) -> str:
    """Return docs/reference/api.md.

    Args:
        crds: kind -> its CustomResourceDefinition.
    """
    parts = [
        "# API reference",
        _GENERATED,
        f"""Group and version: `{API_VERSION}`. Every field of every kind: its type and bounds, its default, what it means. A field in
**bold** is required where its parent is given. Unknown fields are refused (`kubectl` validates strictly by default).
References are names in the same namespace. Python users find the same fields, in snake_case, in `ratchet_api`.
""",
    ]
    for kind, crd in crds.items():
        parts += _kind_section(kind, crd)
    return "\n".join(parts)


def _kind_section(kind: str, crd: Mapping[str, Any]) -> list[str]:
    names = crd["spec"]["names"]
    version = crd["spec"]["versions"][0]
    schema = version["schema"]["openAPIV3Schema"]
    columns = ", ".join(
        f"{column['name']}{' (`-o wide`)' if column.get('priority') else ''}"
        for column in version["additionalPrinterColumns"]
    )
    return [
        f"## {kind}",
        f"""
{schema["description"]}

Short name: {", ".join(f"`{short}`" for short in names["shortNames"])}. `kubectl get` shows: {columns}.

### {kind} spec
""",
        *_table(schema["properties"]["spec"], "spec"),
        f"\n### {kind} rules\n",
        *(_rules(schema, "") or ["No rule across fields."]),
        f"\n### {kind} status\n",
        *_table(schema["properties"]["status"], "status"),
        "",
    ]


def _table(schema: Mapping[str, Any], path: str) -> Iterator[str]:
    yield "| field | type | default | meaning |"
    yield "| --- | --- | --- | --- |"
    yield from _rows(schema, path)


def _rows(schema: Mapping[str, Any], path: str) -> Iterator[str]:
    for name, field in schema.get("properties", {}).items():
        here = f"{path}.{name}"
        shown = f"**`{here}`**" if name in schema.get("required", ()) else f"`{here}`"
        meaning = _cell(field["description"].removeprefix(f"{name}: "))
        yield f"| {shown} | {_cell(_type(field))} | {_default(field)} | {meaning} |"
        yield from _rows(field, here)
        if "items" in field:
            yield from _rows(field["items"], f"{here}[]")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _default(field: Mapping[str, Any]) -> str:
    if "default" not in field:
        return ""
    value = field["default"]
    if isinstance(value, dict) and not value and "properties" in field:
        return "its fields' defaults"
    return f"`{_plain(value)}`"


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_plain(part)}" for key, part in value.items()) + "}"
    return '""' if value == "" else str(value)


def _type(field: Mapping[str, Any]) -> str:
    """Type and bounds in words."""
    if "enum" in field:
        return " or ".join(f"`{value}`" for value in field["enum"])
    kind: str = field["type"]
    if kind == "array":
        low = field.get("minItems", 0)
        unique = ", no two alike" if field.get("x-kubernetes-list-type") == "set" else ""
        return f"list of {low} to {field['maxItems']}: {_type(field['items'])}{unique}"
    if kind == "object" and "additionalProperties" in field:
        return f"map of at most {field['maxProperties']}: {_type(field['additionalProperties'])}"
    if kind == "string":
        return _string(field)
    if kind in ("integer", "number"):
        return kind + _range(field)
    return kind


def _string(field: Mapping[str, Any]) -> str:
    if field.get("format") == "date-time":
        return "time (RFC 3339)"
    low, high = field.get("minLength", 0), field["maxLength"]
    length = f"{high} characters" if low == high else f"{low} to {high} characters"
    return f"string, {length}" + (f", `{field['pattern']}`" if "pattern" in field else "")


def _range(field: Mapping[str, Any]) -> str:
    parts = []
    if "minimum" in field:
        parts.append(f"{'>' if field.get('exclusiveMinimum') else '≥'} {_number(field['minimum'])}")
    if "maximum" in field:
        parts.append(f"{'<' if field.get('exclusiveMaximum') else '≤'} {_number(field['maximum'])}")
    return f" {', '.join(parts)}" if parts else ""


def _number(value: float) -> str:
    if isinstance(value, int) and value >= 2**30:
        return f"2^{value.bit_length() - 1}" if value.bit_count() == 1 else f"2^{value.bit_length()} - 1"
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _rules(schema: Mapping[str, Any], path: str) -> list[str]:
    """Every CEL rule below a schema, as a list of sentences."""
    found = [
        f"- `{(path + rule.get('fieldPath', '')).lstrip('.') or 'the object'}`: {rule['message']}."
        for rule in schema.get("x-kubernetes-validations", ())
    ]
    for name, field in schema.get("properties", {}).items():
        found += _rules(field, f"{path}.{name}")
    if "items" in schema:
        found += _rules(schema["items"], f"{path}[]")
    return found


def reasons_reference() -> str:
    """Return docs/reference/reasons.md: conditions, reasons and exit codes."""
    conditions = "\n".join(f"| `{kind}` | {_cell(text)} |" for kind, text in CONDITIONS.items())
    return f"""# Conditions, reasons, exit codes

{_GENERATED}
What status says, and what to do about it. `ratchet explain REASON` prints the same lines.

## Conditions
| type | meaning |
| --- | --- |
{conditions}

## Reasons
Every condition and every event carries one of these; there are no others.

| reason | meaning | what to do |
| --- | --- | --- |
{chr(10).join(_reason_row(reason) for reason in Reason)}

## Exit codes of a stage
A stage's pod ends with one of these; the operator decides by this table alone whether another attempt may heal it.
Codes between the rows mean what the first of their ten means; any other code is `{exit_rule(99).reason}`.

| code | name | reason | tried again |
| --- | --- | --- | --- |
{chr(10).join(_exit_rows())}
"""


def _reason_row(reason: Reason) -> str:
    info = REASONS[reason]
    return f"| `{reason}` | {_cell(info.meaning)} | {_cell(info.remedy)} |"


def _exit_rows() -> Iterator[str]:
    """Every code from 0 to 255, neighbours that mean the same in one row."""
    names = {int(code): code.name for code in ExitCode}
    yield "| 0 | OK | | |"
    meaning = {code: (names.get(code, ""), exit_rule(code)) for code in range(1, 256)}
    for (name, rule), codes in groupby(meaning, key=meaning.__getitem__):
        members = list(codes)
        shown = str(members[0]) if len(members) == 1 else f"{members[0]} to {members[-1]}"
        yield f"| {shown} | {name} | `{rule.reason}` | {_RETRY_TEXT[rule.retry]} |"
