"""The loader reads what kubectl reads; tests/cluster/test_kubectl_yaml.py runs the same table through a kubectl."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ratchet_cli.kubeyaml import ManifestSyntaxError, load_documents
from tests.unit.yaml_cases import HEAD, REFUSED, SCALARS, SPECS, STREAMS


def same(seen: Any, want: Any) -> bool:
    """Equal as JSON text, so that 1 is neither True nor 1.0."""
    return json.dumps(seen, sort_keys=True) == json.dumps(want, sort_keys=True)


@pytest.mark.parametrize(("text", "want"), SCALARS.items(), ids=repr)
def test_a_scalar_means_what_kubectl_makes_of_it(text: str, want: Any) -> None:
    manifest = f"{HEAD}spec:\n  v: {text}\n"
    if want is REFUSED:
        with pytest.raises(ManifestSyntaxError, match="line "):
            load_documents(manifest)
        return
    (document,) = load_documents(manifest)
    assert same(document["spec"]["v"], want)


@pytest.mark.parametrize(("text", "want"), SPECS.values(), ids=SPECS.keys())
def test_a_structure_means_what_kubectl_makes_of_it(text: str, want: Any) -> None:
    if want is REFUSED:
        with pytest.raises(ManifestSyntaxError):
            load_documents(HEAD + text)
        return
    (document,) = load_documents(HEAD + text)
    assert same(document["spec"], want)


@pytest.mark.parametrize(("text", "want"), STREAMS.values(), ids=STREAMS.keys())
def test_a_stream_has_as_many_documents_as_kubectl_finds(text: str, want: Any) -> None:
    if want is REFUSED:
        with pytest.raises(ManifestSyntaxError):
            load_documents(text)
        return
    assert len(load_documents(text)) == want


def test_an_error_names_the_line_in_the_whole_file() -> None:
    with pytest.raises(ManifestSyntaxError, match=r"^line 8: "):
        load_documents(HEAD + "---\n" + HEAD + "spec: {a: *nope}\n")


def test_a_bomb_of_aliases_is_refused_quickly() -> None:
    lines = ["a0: &a0 [x,x,x,x,x,x,x,x,x,x]"]
    lines += [f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    with pytest.raises(ManifestSyntaxError, match="expands to more than"):
        load_documents("\n".join(lines))


def test_deep_nesting_is_refused_without_a_stack_overflow() -> None:
    with pytest.raises(ManifestSyntaxError, match="nested deeper"):
        load_documents("[" * 300 + "]" * 300)
