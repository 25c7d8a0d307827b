"""Reads YAML and JSON text into exactly the values that `kubectl` would send for it.

kubectl uses go-yaml v2 (YAML 1.1 with Go's own readings): `1e-5` and `1e5` are numbers, `no` and `y` are booleans,
`012` is ten, `1.0` reaches the server as `1`, dates stay text, the last of two equal keys wins. PyYAML and YAML 1.2
readers differ in several of these, so one manifest would mean two things. The syntax is left to ruamel.yaml's
parser; only the reading of scalars, keys and merges is decided here. Used by `manifests`; never touches files.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

_MAX_VALUES = 200_000
"""Most values one document may expand to; a bomb of nested aliases stops here."""
_MAX_DEPTH = 100
_MAX_DIGITS = 70
"""A longer whole number does not fit into 64 bits, whatever its base; it is read as a float, if it looks like one."""

_WORDS: dict[str, Any] = {
    **dict.fromkeys(("y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"), True),
    **dict.fromkeys(("n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"), False),
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), math.inf),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), -math.inf),
}
_INT = re.compile(r"[-+]?(0[xX][0-9a-fA-F]+|0[oO][0-7]+|0[bB][01]+|0[0-7]*|[1-9][0-9]*)$")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$")
_SEPARATOR = re.compile(r"^---(?=\s|$).*$", re.MULTILINE)
_TAG = "tag:yaml.org,2002:"
_RESOLVED_TAGS = {_TAG + name for name in ("str", "bool", "int", "float", "null", "timestamp")}


class ManifestSyntaxError(ValueError):
    """The text is no YAML or JSON that kubectl would take; the message says where and why."""


def load_documents(text: str) -> list[Any]:
    """Return the value of each document of the text, empty documents left out.

    Args:
        text: YAML or JSON; several documents are parted by lines that begin with `---`, JSON also by nothing.

    Raises:
        ManifestSyntaxError: names the line and what is wrong there.
    """
    text = text.removeprefix("\ufeff")
    documents: list[Any] = []
    start, first_line = 0, 1
    for mark in [*_SEPARATOR.finditer(text), None]:
        end = mark.start() if mark else len(text)
        documents += (value for value in _load_chunk(text[start:end], first_line) if value is not None)
        if mark:
            first_line += text.count("\n", start, mark.end())
            start = mark.end()
    return documents


def _load_chunk(text: str, first_line: int) -> list[Any]:
    if text.lstrip().startswith("{"):
        values = _json_stream(text)
        if values is not None:
            return values
    try:
        return [_Reader(text).document()]
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {first_line + mark.line}: " if mark is not None else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ManifestSyntaxError(f"{line}{problem}") from error
    except _BadValue as error:
        raise ManifestSyntaxError(f"line {first_line + error.line}: {error}") from error


def _json_stream(text: str) -> list[Any] | None:
    """Read JSON values that follow each other; None if it is not plain JSON (YAML's flow style, comments)."""
    decoder = json.JSONDecoder(parse_int=lambda digits: _number(int(digits)), parse_float=lambda t: _number(float(t)))
    values, position = [], 0
    try:
        while text[position:].strip():
            position += len(text[position:]) - len(text[position:].lstrip())
            value, position = decoder.raw_decode(text, position)
            values.append(value)
    except (ValueError, OverflowError, RecursionError):
        return None
    return values


class _BadValue(Exception):
    def __init__(self, message: str, event: Event) -> None:
        super().__init__(message)
        self.line: int = event.start_mark.line if event.start_mark is not None else 0


class _Reader:
    """Builds one document's value from the parser's events."""

    def __init__(self, text: str) -> None:
        self._events: Iterator[Event] = YAML(typ="safe", pure=True).parse(text)
        self._anchors: dict[str, Any] = {}
        self._open: set[str] = set()
        self._values = 0

    def document(self) -> Any:
        for event in self._events:
            if isinstance(event, DocumentStartEvent):
                if event.version not in (None, (1, 1)):
                    raise _BadValue("kubectl takes YAML 1.1 only; remove the %YAML line", event)
                return self._plain(self._value(next(self._events), 0))
        return None

    def _value(self, event: Event, depth: int) -> Any:
        if depth > _MAX_DEPTH:
            raise _BadValue(f"nested deeper than {_MAX_DEPTH} levels", event)
        if isinstance(event, AliasEvent):
            if event.anchor in self._open:
                raise _BadValue(f"anchor '{event.anchor}' contains itself", event)
            if event.anchor not in self._anchors:
                raise _BadValue(f"unknown anchor '{event.anchor}' referenced", event)
            return self._anchors[event.anchor]
        anchor = getattr(event, "anchor", None)
        if anchor:
            self._open.add(anchor)
        if isinstance(event, MappingStartEvent):
            value: Any = self._mapping(depth)
        elif isinstance(event, SequenceStartEvent):
            value = self._sequence(depth)
        else:
            value = _scalar(event)
        if anchor:
            self._open.discard(anchor)
            self._anchors[anchor] = value
        return value

    def _sequence(self, depth: int) -> list[Any]:
        items = []
        while not isinstance(event := next(self._events), SequenceEndEvent):
            items.append(self._value(event, depth + 1))
        return items

    def _mapping(self, depth: int) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        while not isinstance(event := next(self._events), MappingEndEvent):
            if isinstance(event, ScalarEvent) and event.value == "<<" and event.implicit[0]:
                merged = self._value(next(self._events), depth + 1)
                # In order of appearance, as go-yaml does: a merge after a key overrides it. In a list the first wins.
                for part in reversed(merged if isinstance(merged, list) else [merged]):
                    if not isinstance(part, dict):
                        raise _BadValue("map merge requires map or sequence of maps as the value", event)
                    mapping.update(part)
                continue
            key = _key(self._value(event, depth + 1), event)
            mapping[key] = self._value(next(self._events), depth + 1)
        return mapping

    def _plain(self, value: Any) -> Any:
        """Copy with every alias expanded, so that no two places share a value; bounded."""
        self._values += 1
        if self._values > _MAX_VALUES:
            raise YAMLError(f"the document expands to more than {_MAX_VALUES} values")
        if isinstance(value, dict):
            return {key: self._plain(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self._plain(item) for item in value]
        return value


def _key(value: Any, event: Event) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value
    if isinstance(value, int | float):
        return str(value)
    raise _BadValue(f"a key must be text, not {json.dumps(value)}", event)


def _scalar(event: Event) -> Any:
    assert isinstance(event, ScalarEvent)
    text = event.value
    tag = str(event.tag) if event.tag is not None else None
    plain = tag is None and event.implicit[0]
    if tag == _TAG + "binary":
        try:
            return base64.b64decode(text, validate=False).decode()
        except (binascii.Error, UnicodeDecodeError) as error:
            raise _BadValue("!!binary value contains invalid base64 or no UTF-8", event) from error
    if (not plain and tag not in _RESOLVED_TAGS) or tag == _TAG + "str":
        return text
    found = _resolve(text)
    if tag is not None:
        found = _as_tagged(tag, found, text, event)
    if isinstance(found, float) and not math.isfinite(found):
        raise _BadValue(f"JSON knows no {text}", event)
    return found


def _as_tagged(tag: str, found: Any, text: str, event: Event) -> Any:
    kinds = {"bool": bool, "int": int, "float": int | float, "null": type(None)}
    wanted = tag.removeprefix(_TAG)
    if wanted == "timestamp":
        return text
    fits = isinstance(found, kinds[wanted]) and (wanted == "bool" or not isinstance(found, bool))
    if wanted == "int" and not _INT.match(text.replace("_", "")):
        fits = False
    if not fits:
        raise _BadValue(f"cannot decode `{text}` as a !!{wanted}", event)
    return found


def _resolve(text: str) -> Any:
    """Read an untagged plain scalar: what it is decides its look alone."""
    if text in _WORDS:
        return _WORDS[text]
    if text[0] == ".":
        return _number(float(text)) if _FLOAT.match(text) else text
    if text[0] not in "+-0123456789":
        return text
    digits = text.replace("_", "")
    if _INT.match(digits) and len(digits) <= _MAX_DIGITS and -(2**63) <= (whole := _go_int(digits)) < 2**64:
        return _number(whole)
    if _FLOAT.match(digits) and math.isfinite(number := float(digits)):
        return _number(number)
    return text


def _go_int(digits: str) -> int:
    body = digits.lstrip("+-")
    prefixed = len(body) > 1 and body[0] == "0" and body[1] in "xXoObB"
    number = int(body, 0) if prefixed else int(body, 8) if body[0] == "0" else int(body)
    return -number if digits[0] == "-" else number


def _number(value: int | float) -> int | float:
    """Give a number the type it has after Go's JSON: whole floats below 1e21 are integers, huge integers floats."""
    if isinstance(value, int):
        if -(2**63) <= value < 2**63:
            return value
        value = float(value)
    if value.is_integer() and abs(value) < 1e21:
        return int(Decimal(repr(value)))
    return value
