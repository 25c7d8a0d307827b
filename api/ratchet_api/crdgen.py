"""`make generate` and `make verify`: the files that follow from the models, and whether they still do.

Decides what a CustomResourceDefinition of ours looks like around its schema and which files are generated: `crds/`,
the chart's byte-identical copy and README, and the reference pages. Never edits a file that it does not own whole. Run as
`python -m ratchet_api.crdgen [--check]` from the repository's root; needs PyYAML (extra `dev`), which nothing else in
this package may import.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ratchet_api import apidocs
from ratchet_api.base import GROUP, VERSION
from ratchet_api.crdgen_chart import chart_readme
from ratchet_api.kinds import KINDS, Kind, PrinterColumn
from ratchet_api.rules import ROOT_RULES
from ratchet_api.schema import structural_schema

HEADER = "# Generated from api/ratchet_api by `make generate`. Do not edit: change the model and run it again.\n"

CRD_DIRS = ("crds", "charts/ratchet/files/crds")
"""Where each CRD stands, byte for byte alike: for `kubectl apply -f crds/`, and for Helm."""


def crd_manifest(kind: Kind[Any, Any]) -> dict[str, Any]:
    """Return the CustomResourceDefinition of one kind.

    Raises:
        SchemaError: a model of the kind has an unbounded or undescribed field.
    """
    version = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "subresources": {"status": {}},
        "additionalPrinterColumns": [_column(column) for column in kind.columns],
        "schema": {"openAPIV3Schema": _object_schema(kind)},
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": kind.kind,
                "listKind": f"{kind.kind}List",
                "plural": kind.plural,
                "singular": kind.singular,
                "shortNames": list(kind.short_names),
                "categories": ["ratchet"],
            },
            "versions": [version],
        },
    }


def _object_schema(kind: Kind[Any, Any]) -> dict[str, Any]:
    schema: dict[str, Any] = {
        "description": apidocs.summary(kind),
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": structural_schema(kind.spec_model),
            "status": structural_schema(kind.status_model),
        },
    }
    if rules := ROOT_RULES.get(kind.kind):
        schema["x-kubernetes-validations"] = [rule.to_wire() for rule in rules]
    return schema


def _column(column: PrinterColumn) -> dict[str, Any]:
    made: dict[str, Any] = {"name": column.name, "type": column.type, "jsonPath": column.json_path}
    return made | ({"priority": column.priority} if column.priority else {})


class _Dumper(yaml.SafeDumper):
    """YAML as people write it: lists indented below their key, no anchors for repeated parts."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)

    def ignore_aliases(self, data: Any) -> bool:
        return True


def to_yaml(manifest: Mapping[str, Any]) -> str:
    """Return the manifest as YAML with our header; equal manifests give equal bytes."""
    return HEADER + yaml.dump(dict(manifest), Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)


def outputs(root: Path) -> dict[str, str]:
    """Return every generated file: path relative to the repository's root -> content.

    Args:
        root: the repository; only the chart's values.yaml and Chart.yaml are read from it.
    """
    crds = {kind.kind: crd_manifest(kind) for kind in KINDS.values()}
    files: dict[str, str] = {}
    for kind in KINDS.values():
        content = to_yaml(crds[kind.kind])
        files |= {f"{folder}/{GROUP}_{kind.plural}.yaml": content for folder in CRD_DIRS}
    files["crds/README.md"] = apidocs.crd_readme(list(KINDS.values()))
    chart = root / "charts/ratchet"
    files["charts/ratchet/README.md"] = chart_readme(
        (chart / "values.yaml").read_text(), (chart / "Chart.yaml").read_text()
    )
    files["docs/reference/api.md"] = apidocs.api_reference(crds)
    files["docs/reference/reasons.md"] = apidocs.reasons_reference()
    return files


def stale(files: Mapping[str, str], root: Path) -> list[str]:
    """Return one line per file that differs from what it must be, or that lies in a generated folder and is not ours."""
    findings = [
        f"{path}: {'differs from its source' if (root / path).exists() else 'missing'}; run `make generate`"
        for path, content in files.items()
        if not (root / path).is_file() or (root / path).read_text() != content
    ]
    for folder in {str(Path(path).parent) for path in files if path.endswith(".yaml")}:
        found = sorted(path.name for path in (root / folder).glob("*.yaml"))
        strays = [f"{folder}/{name}" for name in found if f"{folder}/{name}" not in files]
        findings += [f"{stray}: no model generates it; delete it" for stray in strays]
    return findings


def write(files: Mapping[str, str], root: Path) -> list[str]:
    """Write what differs and return the paths written."""
    written = []
    for path, content in files.items():
        target = root / path
        if target.is_file() and target.read_text() == content:
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content)
        written.append(path)
    return written


def run(files: Mapping[str, str], root: Path, *, check: bool) -> int:
    """Write the files, or with `check` only compare; returns the exit code."""
    lines = stale(files, root) if check else [f"wrote {path}" for path in write(files, root)]
    for line in lines:
        sys.stdout.write(line + "\n")
    return 1 if check and lines else 0


def parser(what: str) -> argparse.ArgumentParser:
    """Return the command line that every generator of the repository has."""
    made = argparse.ArgumentParser(description=what)
    made.add_argument(
        "--check", action="store_true", help="write nothing; list what is stale and exit 1 if anything is"
    )
    made.add_argument("--root", type=Path, default=Path.cwd(), help="the repository's root (default: here)")
    return made


def main() -> int:
    """Entry point of `python -m ratchet_api.crdgen`."""
    arguments = parser("Generate CRDs and reference pages from the models.").parse_args()
    return run(outputs(arguments.root), arguments.root, check=arguments.check)


if __name__ == "__main__":
    sys.exit(main())
