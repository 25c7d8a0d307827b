"""The table of YAML readings through a real kubectl: what our loader is measured against.

`kubectl label --local` reads and prints an object without any server, so no cluster is started.
"""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

import pytest

from tests.lab import binaries
from tests.unit.yaml_cases import HEAD, REFUSED, SCALARS, SPECS, STREAMS

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def kubectl() -> str:
    """The lab's pinned kubectl: releases differ in what they read, so the one on somebody's PATH proves nothing."""
    return str(binaries.tools() / "kubectl")


def through(kubectl: str, text: str) -> list[Any] | None:
    """Return the objects that kubectl reads, or None if it refuses the text."""
    command = [kubectl, "label", "--local", "-f", "-", "-o", "json", "--dry-run=client", "probe=1"]
    done = subprocess.run(command, input=text.encode(), capture_output=True, timeout=60, env={"KUBECONFIG": os.devnull})
    if done.returncode != 0:
        return None
    decoder, objects, rest = json.JSONDecoder(), [], done.stdout.decode().strip()
    while rest:
        value, end = decoder.raw_decode(rest)
        objects.append(value)
        rest = rest[end:].strip()
    return objects


@pytest.mark.parametrize(("text", "want"), SCALARS.items(), ids=repr)
def test_kubectl_reads_the_scalar_as_the_table_says(kubectl: str, text: str, want: Any) -> None:
    seen = through(kubectl, f"{HEAD}spec:\n  v: {text}\n")
    if want is REFUSED:
        assert seen is None
        return
    assert seen is not None
    assert json.dumps(seen[0]["spec"]["v"]) == json.dumps(want)


@pytest.mark.parametrize(("text", "want"), SPECS.values(), ids=SPECS.keys())
def test_kubectl_reads_the_structure_as_the_table_says(kubectl: str, text: str, want: Any) -> None:
    seen = through(kubectl, HEAD + text)
    if want is REFUSED:
        assert seen is None
        return
    assert seen is not None
    assert json.dumps(seen[0]["spec"], sort_keys=True) == json.dumps(want, sort_keys=True)


@pytest.mark.parametrize(("text", "want"), STREAMS.values(), ids=STREAMS.keys())
def test_kubectl_finds_as_many_objects_as_the_table_says(kubectl: str, text: str, want: Any) -> None:
    seen = through(kubectl, text)
    assert (seen is None) if want is REFUSED else (seen is not None and len(seen) == want)
