"""Manifests are checked offline, all findings at once, each with file, object, field, value and remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ratchet_api.kinds import KINDS
from ratchet_cli.manifests import BadManifests, load

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "01-support-router"
POLICY = "apiVersion: ratchet.dev/v1alpha1\nkind: RLPolicy\nmetadata: {name: p}\nspec: {type: classifier}\n"


def written(tmp_path: Path, text: str | bytes, name: str = "m.yaml") -> str:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def findings(*paths: str) -> list[str]:
    with pytest.raises(BadManifests) as caught:
        load(paths)
    return [str(each) for each in caught.value.findings]


def test_the_example_is_valid_and_numbers_are_numbers() -> None:
    """`1e-3` in a manifest is a learning rate, not a text."""
    by_kind = {each.kind.kind: each for each in load([str(EXAMPLE)])}
    assert set(by_kind) == set(KINDS)
    assert by_kind["RLTrainingRun"].spec.stages.supervised.learning_rate == 0.001


BAD: dict[str, tuple[str | bytes, str]] = {
    "unknown field": (POLICY.replace("type:", "tipe: 1, type:"), "spec.tipe: unknown field"),
    "missing field": (POLICY.replace("{type: classifier}", "{}"), "spec.type: required, but missing"),
    "wrong type": (POLICY.replace("classifier", "3"), "spec.type"),
    "kind with a slip": (POLICY.replace("RLPolicy", "RLPolicies"), "did you mean RLPolicy?"),
    "foreign kind": (POLICY.replace("RLPolicy", "Secret"), "apply others with kubectl"),
    "older version": (POLICY.replace("v1alpha1", "v1"), "must be ratchet.dev/v1alpha1 (seen: 'ratchet.dev/v1')"),
    "no name": (POLICY.replace("{name: p}", "{}"), "metadata.name: required"),
    "name in capitals": (POLICY.replace("name: p", "name: P"), "seen: 'P'"),
    "name of 254 characters": (POLICY.replace("name: p", f"name: {'p' * 254}"), "(254 characters)"),
    "name that YAML reads as a boolean": (POLICY.replace("name: p", "name: y"), "metadata.name"),
    "label that is a number": (POLICY.replace("{name: p}", "{name: p, labels: {a: 1}}"), "put numbers and"),
    "namespace with a dot": (POLICY.replace("{name: p}", "{name: p, namespace: a.b}"), "metadata.namespace"),
    "field beside spec": (POLICY + "extra: 1\n", "extra: unknown field"),
    "twice the same object": (f"{POLICY}---\n{POLICY}", "stands in"),
    "a list": ("- a\n", "an object with apiVersion and kind is wanted, not a list"),
    "a text": ("hello\n", "not a str"),
    "nothing": ("# empty\n", "no manifest found"),
    "no YAML": ("a: [1\n", "line "),
    "broken UTF-8": (b"a: \xff\n", "line 1: byte 0xff is no UTF-8"),
    "too large": (b"# " + b"x" * (3 * 1024 * 1024), "too many for a manifest"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "want"), BAD.values(), ids=BAD.keys())
def test_a_bad_manifest_names_file_and_field(tmp_path: Path, text: str | bytes, want: str) -> None:
    path = written(tmp_path, text)
    found = findings(path)
    assert any(want in each for each in found), found
    assert all(path in each for each in found)


@pytest.mark.parametrize(
    ("field", "value"),
    [("learningRate", 2), ("learningRate", "fast"), ("epochs", 0), ("batchSize", 1.5), ("maxTokens", 10**9)],
)
def test_a_number_out_of_bounds_is_refused_with_the_value_seen(tmp_path: Path, field: str, value: Any) -> None:
    run = (EXAMPLE / "run.yaml").read_text().replace("batchSize: 16", f"{field}: {value!r}", 1)
    run = "\n".join(line for line in run.splitlines() if field not in line or repr(value) in line)
    (found,) = findings(written(tmp_path, run))
    assert f"spec.stages.supervised.{field}" in found
    assert f"(seen: {value!r})" in found


def test_every_finding_of_every_file_is_told_at_once(tmp_path: Path) -> None:
    written(tmp_path, POLICY.replace("name: p", "name: P"), "a.yaml")
    written(tmp_path, POLICY.replace("classifier", "poet"), "b.yaml")
    found = findings(str(tmp_path), str(tmp_path / "absent.yaml"))
    assert len(found) == 3
    assert found[2].endswith("absent.yaml: cannot be read: No such file or directory")


def test_a_folder_gives_its_manifests_and_leaves_other_files_alone(tmp_path: Path) -> None:
    written(tmp_path, POLICY, "a.yaml")
    written(tmp_path, POLICY.replace("name: p", "name: q"), "b.json")
    written(tmp_path, "not a manifest", "README.md")
    assert [each.name for each in load([str(tmp_path)])] == ["p", "q"]


def test_a_folder_without_manifests_says_so(tmp_path: Path) -> None:
    assert "holds no *.yaml" in findings(str(tmp_path))[0]


def test_a_dash_reads_standard_input() -> None:
    (found,) = load(["-"], read_stdin=lambda: POLICY.encode())
    assert (found.source, found.name) == ("standard input", "p")


def test_a_list_object_is_taken_apart(tmp_path: Path) -> None:
    indented = "\n".join(f"  {line}" for line in POLICY.splitlines())
    items = f"apiVersion: v1\nkind: List\nitems:\n-{indented[1:]}\n"
    assert [each.name for each in load([written(tmp_path, items)])] == ["p"]
