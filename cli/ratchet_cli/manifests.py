"""Finds and checks manifests: files, folders and standard input become validated objects of Ratchet's kinds.

Decides which files are read, what an object must have, and how every finding is worded: file, object, field, value
seen, remedy. All findings are collected before any is reported. Never talks to a cluster. Used by run, submit, lint.
"""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ratchet_api.base import API_VERSION, ObjectName
from ratchet_api.kinds import KINDS, Kind, findings
from ratchet_cli.errors import CliError
from ratchet_cli.kubeyaml import ManifestSyntaxError, load_documents

SUFFIXES = (".yaml", ".yml", ".json")
SIZE_LIMIT = 3 * 1024 * 1024
"""The API server takes no larger request either."""
METADATA_FIELDS = frozenset({"name", "namespace", "labels", "annotations"})
_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")
_OBJECT_NAME: TypeAdapter[str] = TypeAdapter(ObjectName)


@dataclass(frozen=True, slots=True)
class Manifest:
    """One valid object and where it stands."""

    source: str
    kind: Kind[Any, Any]
    name: str
    namespace: str | None
    spec: Any
    body: dict[str, Any]

    @property
    def title(self) -> str:
        """Kind and name, for messages."""
        return f"{self.kind.kind} {self.name!r}"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong with one object."""

    source: str
    subject: str
    problem: str

    def __str__(self) -> str:
        """One line: file, object, problem."""
        return f"{self.source}: {self.subject + ': ' if self.subject else ''}{self.problem}"


class BadManifests(CliError):
    """At least one manifest cannot be accepted."""

    def __init__(self, found: Sequence[Finding]) -> None:
        super().__init__("\n".join(str(each) for each in found))
        self.findings = tuple(found)


def load(paths: Sequence[str], *, read_stdin: Callable[[], bytes] = lambda: sys.stdin.buffer.read()) -> list[Manifest]:
    """Read every manifest of the paths, in the order of files and documents.

    Args:
        paths: files, folders (their *.yaml, *.yml and *.json, not deeper) or `-` for standard input.
        read_stdin: where `-` reads from.

    Raises:
        BadManifests: carries every finding, not only the first.
    """
    good: list[Manifest] = []
    bad: list[Finding] = []
    for path in paths:
        for source, text in _texts(path, read_stdin, bad):
            for body in _objects(source, text, bad):
                manifest = _check(source, body, bad)
                if manifest is not None:
                    good.append(manifest)
    bad += _doubles(good)
    if not good and not bad:
        bad.append(Finding(", ".join(paths), "", "no manifest found; give a file or a folder with *.yaml files"))
    if bad:
        raise BadManifests(bad)
    return good


def check(source: str, body: dict[str, Any]) -> Manifest:
    """Check one object that was built by code.

    Raises:
        BadManifests: carries every finding.
    """
    bad: list[Finding] = []
    manifest = _check(source, body, bad)
    if manifest is None:
        raise BadManifests(bad)
    return manifest


def _texts(path: str, read_stdin: Callable[[], bytes], bad: list[Finding]) -> list[tuple[str, str]]:
    if path == "-":
        return _decoded([("standard input", read_stdin())], bad)
    place = Path(path)
    try:
        if place.is_dir():
            files = sorted(each for each in place.iterdir() if each.suffix in SUFFIXES and each.is_file())
            if not files:
                bad.append(Finding(path, "", f"the folder holds no {', '.join('*' + s for s in SUFFIXES)} file"))
        else:
            files = [place]
        large = [f for f in files if f.stat().st_size > SIZE_LIMIT]
        bad += (
            Finding(str(f), "", f"{f.stat().st_size} bytes are too many for a manifest (at most {SIZE_LIMIT})")
            for f in large
        )
        return _decoded([(str(f), f.read_bytes()) for f in files if f not in large], bad)
    except OSError as error:
        bad.append(Finding(path, "", f"cannot be read: {error.strerror or error}"))
        return []


def _decoded(files: list[tuple[str, bytes]], bad: list[Finding]) -> list[tuple[str, str]]:
    texts = []
    for source, data in files:
        try:
            texts.append((source, data.decode("utf-8")))
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            bad.append(
                Finding(source, "", f"line {line}: byte {data[error.start]:#04x} is no UTF-8; save the file as UTF-8")
            )
    return texts


def _objects(source: str, text: str, bad: list[Finding]) -> list[dict[str, Any]]:
    try:
        documents = load_documents(text)
    except ManifestSyntaxError as error:
        bad.append(Finding(source, "", str(error)))
        return []
    objects: list[dict[str, Any]] = []
    for number, document in enumerate(documents, start=1):
        if not isinstance(document, dict):
            seen = type(document).__name__
            bad.append(
                Finding(source, f"document {number}", f"an object with apiVersion and kind is wanted, not a {seen}")
            )
        elif document.get("kind") == "List" and isinstance(document.get("items"), list):
            objects += (item if isinstance(item, dict) else {} for item in document["items"])
        else:
            objects.append(document)
    return objects


def _check(source: str, body: dict[str, Any], bad: list[Finding]) -> Manifest | None:
    metadata = body.get("metadata")
    if not isinstance(metadata, dict):
        metadata = {}
    name = metadata.get("name")
    subject = f"{body.get('kind', 'object')} {name!r}" if name is not None else str(body.get("kind", "object"))
    problems = [*_head_problems(body), *_metadata_problems(body, metadata)]
    kind = KINDS.get(str(body.get("kind")))
    spec = None
    if kind is not None:
        try:
            spec = kind.spec_model.model_validate(body.get("spec", {}))
        except ValidationError as error:
            problems += findings(error)
    bad += (Finding(source, subject, problem) for problem in problems)
    if problems or kind is None:
        return None
    return Manifest(source, kind, str(name), metadata.get("namespace"), spec, body)


def _head_problems(body: dict[str, Any]) -> list[str]:
    problems = []
    kind, version = body.get("kind"), body.get("apiVersion")
    if kind not in KINDS:
        near = difflib.get_close_matches(str(kind), KINDS, 1, 0.5)
        hint = (
            f"did you mean {near[0]}?" if near else f"Ratchet's kinds are {', '.join(KINDS)}; apply others with kubectl"
        )
        problems.append(f"kind: {kind!r} is none of Ratchet's; {hint}")
    elif version != API_VERSION:
        problems.append(f"apiVersion: must be {API_VERSION} (seen: {version!r})")
    known = {"apiVersion", "kind", "metadata", "spec", "status"}
    problems += (
        f"{key}: unknown field; remove it or correct its name" for key in body if key not in known and kind in KINDS
    )
    return problems


def _metadata_problems(body: dict[str, Any], metadata: dict[str, Any]) -> list[str]:
    problems = []
    if not isinstance(body.get("metadata", {}), dict):
        return ["metadata: must be an object with a name"]
    name = metadata.get("name")
    if name is None:
        problems.append("metadata.name: required, but missing")
    else:
        try:
            _OBJECT_NAME.validate_python(name, strict=True)
        except ValidationError:
            shown = name if len(str(name)) < 80 else f"{str(name)[:60]}… ({len(str(name))} characters)"
            problems.append(f"metadata.name: lower-case letters, digits, '-' and '.', at most 253 (seen: {shown!r})")
    namespace = metadata.get("namespace")
    if namespace is not None and not (isinstance(namespace, str) and _NAMESPACE.match(namespace)):
        problems.append(f"metadata.namespace: lower-case letters, digits and '-', at most 63 (seen: {namespace!r})")
    for field in ("labels", "annotations"):
        texts = metadata.get(field) or {}
        if not isinstance(texts, dict) or any(not isinstance(v, str) for v in texts.values()):
            problems.append(
                f"metadata.{field}: every value must be text; put numbers and yes/no in quotes (seen: {texts!r})"
            )
    return problems


def _doubles(manifests: list[Manifest]) -> list[Finding]:
    seen: dict[tuple[str, str | None, str], str] = {}
    found = []
    for each in manifests:
        key = (each.kind.kind, each.namespace, each.name)
        if key in seen:
            found.append(
                Finding(each.source, each.title, f"stands in {seen[key]} already; keep one or rename the other")
            )
        seen.setdefault(key, each.source)
    return found
