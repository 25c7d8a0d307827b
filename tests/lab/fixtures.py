"""pytest fixtures of the lab: one cluster for the whole session, our images when a test asks for them.

Imported by the conftest.py of the tiers that run on it. RATCHET_LAB_NAME picks another lab than the default;
RATCHET_LAB_KEEP=1 leaves it running afterwards, and the next session finds it up.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.lab import images
from tests.lab.cluster import Lab
from tests.lab.settings import DEFAULT_NAME


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """A cluster with a Ready node; taken down at the end unless it was up before or RATCHET_LAB_KEEP is set."""
    cluster = Lab(os.environ.get("RATCHET_LAB_NAME", DEFAULT_NAME))
    found_up = cluster.is_up()
    try:
        cluster.up()
        yield cluster
    finally:
        if not found_up and os.environ.get("RATCHET_LAB_KEEP", "") in {"", "0"}:
            cluster.down()


@pytest.fixture(scope="session")
def lab_images(lab: Lab) -> None:
    """Our images of this checkout, present on the node."""
    images.ensure(lab)


@pytest.fixture(scope="session")
def serving_image(lab: Lab, lab_images: None) -> None:
    """The image of policy servers, which is as large as that of the stages: for the tests that serve."""
    images.ensure(lab, (images.SERVING,))
