"""One API server for all contract tests, with our CRDs in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.controlplane import ControlPlane

CRDS = Path(__file__).resolve().parents[2] / "crds"


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A real API server with the CRDs; `watcher` may only get configmaps, the operators what a test grants them."""
    users = ("watcher", "operator-everywhere", "operator-in-one", "operator-without")
    with ControlPlane(tmp_path_factory.mktemp("control-plane"), users=users) as plane:
        for file in sorted(CRDS.glob("*.yaml")):
            plane.install_crd(yaml.safe_load(file.read_text()))
        yield plane
