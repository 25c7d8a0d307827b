"""One API server for all contract tests, with our CRDs in it, and a browser for each module that looks at pages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from playwright.sync_api import Browser, sync_playwright

from tests.controlplane import ControlPlane
from tests.lab.browser import ensure_chromium

CRDS = Path(__file__).resolve().parents[2] / "crds"


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A real API server with the CRDs; `watcher` may only get configmaps, the operators what a test grants them."""
    users = ("watcher", "operator-everywhere", "operator-in-one", "operator-without")
    with ControlPlane(tmp_path_factory.mktemp("control-plane"), users=users) as plane:
        for file in sorted(CRDS.glob("*.yaml")):
            plane.install_crd(yaml.safe_load(file.read_text()))
        yield plane


@pytest.fixture(scope="module")  # while it is open, no test may run an event loop of its own
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=ensure_chromium(), args=["--no-sandbox"])
        yield chromium
        chromium.close()
