"""One table of YAML readings: run through our loader (unit) and through a real kubectl (cluster tier)."""

# ruff: noqa: E501  (a table reads better unbroken)

from __future__ import annotations

from typing import Any

HEAD = "apiVersion: ratchet.dev/v1alpha1\nkind: Probe\nmetadata: {name: probe}\n"


class Refused:
    """Marks a text that kubectl does not read."""

    def __repr__(self) -> str:
        return "refused"  # part of a test's name, which must be alike in every process


REFUSED = Refused()

SCALARS: dict[str, Any] = {
    "1e-5": 1e-05, "1E5": 100000, "1e+5": 100000, "1e5": 100000, "0.1e1": 1, "1.5e3": 1500, "3.0e2": 300,
    ".5": 0.5, "5.": 5, "+.5": 0.5, "-.5": -0.5, "1.0": 1, "10.50": 10.5, "0.1": 0.1, "0.0": 0, "-0.0": 0,
    "1_000": 1000, "1_0.5": 10.5, "1_000.5": 1000.5, "1__0": 10, "_1": "_1", "1,000": "1,000",
    "012": 10, "-012": -10, "0777": 511, "07_7": 63, "08": 8, "09": 9, "00": 0, "-0": 0, "0o14": 12, "0o8": "0o8",
    "0x1f": 31, "0X1f": 31, "-0x1f": -31, "0x_1f": 31, "0x": "0x", "0b11": 3, "-0b11": -3, "0b2": "0b2", "+12": 12,
    "1e": "1e", "e5": "e5", "1e400": "1e400", "1e-400": 0, "1e20": 10**20, "1e21": 1e21,
    "1.7976931348623157e308": 1.7976931348623157e308,
    "9223372036854775807": 9223372036854775807, "9223372036854775808": 9223372036854776000,
    "-9223372036854775808": -9223372036854775808, "100000000000000000000000": 1e23,
    "1" * 309: 1.1111111111111112e308, "1" * 400: "1" * 400, "1" * 5000: "1" * 5000, "0x" + "f" * 16: 18446744073709552000,
    "0x" + "f" * 20: "0x" + "f" * 20, "-0x" + "f" * 20: "-0x" + "f" * 20, "0b" + "1" * 70: "0b" + "1" * 70, "0" + "7" * 30: 7.777777777777778e29,
    "no": False, "No": False, "NO": False, "n": False, "off": False, "false": False,
    "yes": True, "y": True, "Y": True, "on": True, "On": True, "TRUE": True, "tRue": "tRue",
    "'no'": "no", '"1e-5"': "1e-5", '"a\\tb"': "a\tb",
    "~": None, "null": None, "Null": None, "": None,
    "2001-01-01": "2001-01-01", "2001-01-01T10:00:00Z": "2001-01-01T10:00:00Z", "1:30": "1:30",
    ".inf": REFUSED, "-.Inf": REFUSED, ".nan": REFUSED, "Infinity": "Infinity", "nan": "nan",
    "!!str 1": "1", "!!int '3'": 3, "!!float 3": 3, "!!int 1e3": REFUSED, "!!bool yes": True, "!!bool x": REFUSED,
    "!!null x": REFUSED, "!!binary aGk=": "hi", "!custom bar": "bar", "! 12": "12", "!!timestamp 2001-01-01": "2001-01-01",
    "=": "=", "<<": "<<", "1.2.3": "1.2.3", "--1": "--1", "+": "+", "@a": REFUSED, "%a": REFUSED, "- a": REFUSED,
}  # fmt: skip

SPECS: dict[str, tuple[str, Any]] = {
    "the last of two equal keys wins": ("spec: {a: 1, a: 2}\n", {"a": 2}),
    "a merge gives way to keys after it": ("spec:\n  b: &b {x: 1, z: 2}\n  v:\n    <<: *b\n    z: 3\n", {"b": {"x": 1, "z": 2}, "v": {"x": 1, "z": 3}}),
    "a merge overrides keys before it": ("spec:\n  b: &b {x: 1, z: 2}\n  v:\n    z: 3\n    <<: *b\n", {"b": {"x": 1, "z": 2}, "v": {"x": 1, "z": 2}}),
    "the first of a list of merges wins": ("spec:\n  b: &b {x: 1}\n  c: &c {x: 2, z: 1}\n  v:\n    <<: [*b, *c]\n", {"b": {"x": 1}, "c": {"x": 2, "z": 1}, "v": {"x": 1, "z": 1}}),
    "a merge needs a map": ("spec:\n  v:\n    <<: 1\n", REFUSED),
    "an alias stands for its anchor": ("spec:\n  a: &a [1]\n  v: *a\n", {"a": [1], "v": [1]}),
    "an anchor must not contain itself": ("spec: &a {x: *a}\n", REFUSED),
    "an unknown anchor": ("spec: {x: *nope}\n", REFUSED),
    "keys become text": ("spec: {1: a, 1.5: b, true: c, no: d, 0x1f: e, 1e3: f}\n", {"1": "a", "1.5": "b", "true": "c", "false": "d", "31": "e", "1000": "f"}),
    "a null key": ("spec: {~: a}\n", REFUSED),
    "a list as key": ("spec: {[1]: a}\n", REFUSED),
    "quoted keys stay as they are": ("spec: {'no': 1, \"1\": 2}\n", {"no": 1, "1": 2}),
    "a value may be left out": ("spec:\n  a:\n  b: 1\n", {"a": None, "b": 1}),
    "folded text": ("spec:\n  a: >-\n    x\n    y\n\n    z\n", {"a": "x y\nz"}),
    "windows line ends": ("spec:\r\n  a: |\r\n    x\r\n    y\r\n", {"a": "x\ny\n"}),
    "escapes": ('spec: {a: "\\U0001F600", b: "\\x41\\u00e9"}\n', {"a": "\U0001f600", "b": "A\u00e9"}),
    "a hash needs a blank before it": ("spec:\n  a: x#y\n  b: x #y\n", {"a": "x#y", "b": "x"}),
    "three dashes inside an indented block": ("spec:\n  a: |\n    x\n    ---\n    z\n", {"a": "x\n---\nz\n"}),
    "a tab as indent": ("spec:\n\ta: 1\n", REFUSED),
    "a colon too many": ("spec: {a: x: z}\n", REFUSED),
    "a control character": ('spec: {a: "x\x01"}\n', REFUSED),
}  # fmt: skip

STREAMS: dict[str, tuple[str, Any]] = {
    "byte order mark": ("\ufeff" + HEAD, 1),
    "two documents": (HEAD + "---\n" + HEAD, 2),
    "separator with a comment": (HEAD + "--- # next\n" + HEAD, 2),
    "end mark": (HEAD + "...\n---\n" + HEAD, 2),
    "empty documents are left out": ("---\n---\n# only a comment\n---\n" + HEAD + "---\n", 1),
    "json": ('{"apiVersion":"v1","kind":"Probe","metadata":{"name":"x"},"spec":{"a":1e-5,"b":1.0}}', 1),
    "json one after another": ('{"apiVersion":"v1","kind":"Probe","metadata":{"name":"x"}}{"apiVersion":"v1","kind":"Probe","metadata":{"name":"z"}}', 2),
    "json with a yaml comment": ('{"apiVersion":"v1", # c\n"kind":"Probe","metadata":{"name":"x"}}', 1),
    "a newer yaml": ("%YAML 1.2\n---\n" + HEAD, REFUSED),
}  # fmt: skip
