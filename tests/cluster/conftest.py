"""Fixtures of the cluster tier: the one-node Kubernetes of tests/lab, shared by all tests of a session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab.cluster import Lab
from tests.lab.fixtures import lab, lab_images

__all__ = ["lab", "lab_images"]


@pytest.fixture
def namespace(lab: Lab, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace of its own with Pod Security `restricted` enforced, deleted with all it holds afterwards."""
    name = request.node.name.split("[")[0].removeprefix("test_").replace("_", "-")[:50].strip("-")
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    lab.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    lab.wait_for(lambda: "default" in lab.kubectl("-n", name, "get", "sa", "-o", "name"), "a service account", 30)
    yield name
    lab.kubectl("delete", "namespace", name, "--wait=true", "--timeout=120s", "--grace-period=1")
