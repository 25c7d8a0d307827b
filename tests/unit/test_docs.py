"""Every page does what it says: Python runs, manifests are valid, values, make targets, verbs and links exist."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from ratchet_api.base import GROUP
from ratchet_api.kinds import KINDS
from ratchet_cli.kubeyaml import load_documents
from tests.tools.files import ROOT, repository_files

PAGES = [file for file in repository_files() if file.path.endswith(".md") and not file.path.startswith("tests/")]
_CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)
_FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """One fenced block."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(page: str, text: str) -> Iterator[Block]:
    for match in _FENCE.finditer(text):
        yield Block(page, text.count("\n", 0, match.start()) + 1, match[1], match[2])


BLOCKS = [block for file in PAGES for block in blocks_of(file.path, file.text)]
TUTORIALS = "docs/tutorials/"  # typed into a shell by tests/tutorials.py, their Python blocks are files
PYTHON_PAGES = sorted({b.page for b in BLOCKS if b.language == "python" and not b.page.startswith(TUTORIALS)})
YAML_BLOCKS = [block for block in BLOCKS if block.language == "yaml"]
SHELL_BLOCKS = [block for block in BLOCKS if block.language in ("", "bash", "sh", "console")]
MANIFEST_FILES = [file for file in repository_files() if re.fullmatch(r"examples/.*\.ya?ml", file.path)]


def test_there_is_something_to_check() -> None:
    assert len(PAGES) >= 8
    assert {"docs/how-to/python.md"} <= set(PYTHON_PAGES)
    assert YAML_BLOCKS
    assert SHELL_BLOCKS


@pytest.mark.parametrize("page", PYTHON_PAGES)
def test_the_python_of_a_page_runs_from_top_to_bottom(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What a page shows as printed, in a comment after the block's last line, is what is printed."""
    scope: dict[str, Any] = {"__name__": "page"}
    for block in (block for block in BLOCKS if block.page == page and block.language == "python"):
        capsys.readouterr()
        exec(compile("\n" * block.line + block.text, block.page, "exec"), scope)
        printed = capsys.readouterr().out.strip()
        shown = re.search(r"((?:^# .*\n?)+)\Z", block.text, re.MULTILINE)
        assert printed == (re.sub(r"^# ", "", shown[1], flags=re.MULTILINE).strip() if shown else "")


def problems_of(manifest: Mapping[str, Any]) -> str:
    """What is wrong with a manifest of ours, or nothing."""
    if not str(manifest.get("apiVersion", "")).startswith(f"{GROUP}/"):
        return ""
    kind = KINDS.get(manifest["kind"])
    if kind is None:
        return f"no kind {manifest['kind']}"
    try:
        kind.parse_spec(manifest)
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("block", YAML_BLOCKS, ids=str)
def test_every_manifest_in_a_page_is_valid(block: Block) -> None:
    for manifest in load_documents(block.text):
        assert problems_of(manifest) == ""


@pytest.mark.parametrize("file", MANIFEST_FILES, ids=lambda file: file.path)
def test_every_manifest_of_the_examples_is_valid(file: Any) -> None:
    manifests = load_documents(file.text)
    assert manifests
    for manifest in manifests:
        assert problems_of(manifest) == ""


def test_an_invalid_manifest_is_found() -> None:
    run = {"apiVersion": "ratchet.dev/v1alpha1", "kind": "RLTrainingRun", "metadata": {"name": "x"}, "spec": {}}
    assert "spec.policyType: required" in problems_of(run)
    assert problems_of({**run, "kind": "Run"}) == "no kind Run"


def known_values() -> set[str]:
    """Dotted paths of the chart's schema; a map of free form ends in a dot."""

    def walk(schema: Mapping[str, Any], path: str) -> Iterator[str]:
        yield path
        for name, part in schema.get("properties", {}).items():
            yield from walk(part, f"{path}.{name}".lstrip("."))

    return set(walk(json.loads((ROOT / "charts/ratchet/values.schema.json").read_text()), ""))


@pytest.mark.parametrize("page", PAGES, ids=lambda file: file.path)
def test_every_chart_value_that_a_page_sets_exists(page: Any) -> None:
    for text in re.findall(r"--set[= ]'?([A-Za-z][\w.]*)=", page.text):
        assert text in known_values(), f"{page.path}: --set {text}"


def test_every_make_target_in_a_page_exists() -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    found = 0
    for block in SHELL_BLOCKS:
        for target in re.findall(r"^(?:\w+=\S+ )*make ([a-z][a-z-]*)", block.text, re.MULTILINE):
            found += 1
            assert target in targets, f"{block}: make {target}"
    assert found >= 2


def test_every_link_between_pages_leads_somewhere() -> None:
    links = [
        (page.path, target)
        for page in PAGES
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", _CODE.sub("", page.text))
        if "://" not in target
    ]
    assert len(links) >= 5
    broken = [f"{page}: {target}" for page, target in links if not ((ROOT / page).parent / target).exists()]
    assert broken == []


def test_every_decision_has_a_number_of_its_own() -> None:
    found = sorted((ROOT / "docs" / "adr").glob("*.md"))
    numbers = [int(file.name[:4]) for file in found]
    assert len(set(numbers)) == len(numbers), "two pages have one number; give the younger one the next"
    for file, number in zip(found, numbers, strict=True):
        assert file.read_text().startswith(f"# {number}. "), file.name


def test_a_decision_that_is_cited_exists() -> None:
    numbers = {file.name[:4] for file in (ROOT / "docs" / "adr").glob("*.md")}
    cited = {(file.path, each) for file in repository_files() for each in re.findall(r"\bADR (\d{4})\b", file.text)}
    assert {path for path, each in cited if each not in numbers} == set()
