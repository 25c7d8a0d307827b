"""Fixtures of the end-to-end tier: the lab, Ratchet installed on it, and one fault-free run as the reference."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.inputs import example_inputs
from tests.e2e.platform import EXAMPLE, SYSTEM, TEAM, Platform
from tests.lab.cluster import Lab
from tests.lab.fixtures import lab, lab_images, serving_image

__all__ = ["lab", "lab_images", "serving_image"]


@pytest.fixture(scope="session")
def platform(lab: Lab, lab_images: None) -> Iterator[Platform]:
    """Ratchet installed with Helm, restricted namespaces, and the example's files in S3."""
    installed = Platform(lab)
    installed.install(time_scale=0.05)
    installed.forget_everything()
    installed.upload(example_inputs())
    yield installed
    lab.kubectl("delete", "namespace", TEAM, SYSTEM, "--wait=true", "--timeout=180s")


@pytest.fixture(scope="session")
def reference(platform: Platform) -> dict[str, Any]:
    """The example, applied as the README says, run to its end without a fault."""
    platform.kubectl("apply", "-f", str(EXAMPLE))
    return platform.finish("support-router", 900)
