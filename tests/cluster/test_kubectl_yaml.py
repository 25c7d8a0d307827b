"""The table of YAML readings through a real kubectl: what our loader is measured against.

`kubectl label --local` reads and prints an object without any server, so no cluster is started.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.unit.yaml_cases import HEAD, REFUSED, SCALARS, SPECS, STREAMS

pytestmark = pytest.mark.cluster


def find_kubectl() -> str | None:
    """RATCHET_KUBECTL, PATH, or the one that the lab installed."""
    cache = Path(
        os.environ.get("RATCHET_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "ratchet"
    )
    found = os.environ.get("RATCHET_KUBECTL") or shutil.which("kubectl")
    return found or next((str(p) for p in sorted(cache.glob("**/bin/kubectl"))), None)


@pytest.fixture(scope="module")
def kubectl() -> str:
    found = find_kubectl()
    if found is None:
        pytest.skip("no kubectl: put one on PATH, name one in RATCHET_KUBECTL, or run `make lab-up` once")
    return found


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
