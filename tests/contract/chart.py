"""Renders the chart with the real helm, for the tests beside this file. Holds no assertion."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.lab import binaries

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts" / "ratchet"
NAMESPACE = "ratchet-system"
SERVING = ("serving.enabled=true", "gateway.enabled=true", "gateway.analyst.enabled=true", "store.uri=s3://bucket/root")
"""What it takes to serve policies."""

Object = dict[str, Any]


class HelmError(Exception):
    """helm refused; the text is its own."""


def helm(*arguments: str | Path) -> str:
    """Run helm (built on first use) and return what it prints.

    Raises:
        HelmError: it failed.
    """
    command = [str(binaries.ensure(binaries.HELM) / "helm"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode:
        raise HelmError(done.stderr.strip())
    return done.stdout


def render_text(*settings: str, values: Path | None = None) -> str:
    """Return the rendered chart as text.

    Args:
        settings: `key=value` pairs as `--set` takes them.
        values: a values file.
    """
    flags = [part for setting in settings for part in ("--set", setting)]
    extra = ["--values", values] if values else []
    return helm("template", "ratchet", CHART, "--namespace", NAMESPACE, *flags, *extra)


@dataclass(frozen=True)
class Rendered:
    """The objects of one rendering."""

    objects: Sequence[Object]

    def all(self, kind: str) -> list[Object]:
        """Every object of a kind."""
        return [obj for obj in self.objects if obj["kind"] == kind]

    def one(self, kind: str, name: str | None = None, namespace: str | None = None) -> Object:
        """The only object of a kind (with a name, in a namespace)."""
        found = [
            obj
            for obj in self.all(kind)
            if name in (None, obj["metadata"]["name"]) and namespace in (None, obj["metadata"].get("namespace"))
        ]
        if len(found) != 1:
            raise LookupError(f"{len(found)} objects {kind} {name} {namespace}; there are {sorted(self.names())}")
        return found[0]

    def names(self) -> Iterator[str]:
        """Kind and name of every object."""
        return (f"{obj['kind']}/{obj['metadata']['name']}" for obj in self.objects)


def render(*settings: str, values: Path | None = None) -> Rendered:
    """Return the rendered chart as objects."""
    return Rendered([obj for obj in yaml.safe_load_all(render_text(*settings, values=values)) if obj])


Grant = tuple[str, str, str]
"""API group, resource (with its subresource), verb."""


def grants(rules: Sequence[Mapping[str, Any]]) -> set[Grant]:
    """Every single right that RBAC rules give."""
    return {
        (group, resource, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
