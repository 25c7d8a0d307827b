"""The page for Python users, taken at its word against a real API server."""

from __future__ import annotations

from typing import Any

import pytest
from kubernetes.client.exceptions import ApiException
from kubernetes.config import kube_config

from tests.controlplane import ControlPlane
from tests.unit.test_docs import BLOCKS

pytestmark = pytest.mark.cluster

PAGE = "docs/how-to/python.md"


@pytest.fixture
def page(control_plane: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Everything that the page defines, with the test's API server as the user's cluster."""
    monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(control_plane.kubeconfig()))
    control_plane.namespace("team-a")
    scope: dict[str, Any] = {"__name__": "page"}
    for block in BLOCKS:
        if block.page == PAGE and block.language == "python":
            exec(compile(block.text, PAGE, "exec"), scope)
    return scope


def test_a_run_built_in_python_is_submitted_and_its_status_read(page: dict[str, Any]) -> None:
    manifest = page["RL_TRAINING_RUN"].manifest("router-epochs-3", page["spec"], namespace="team-a")
    stored = page["submit"](manifest)
    assert page["RL_TRAINING_RUN"].parse_spec(stored) == page["spec"]
    assert page["status"]("team-a", "router-epochs-3").conditions == ()


def test_a_misspelt_field_is_refused_by_the_server_too(page: dict[str, Any]) -> None:
    manifest = page["RL_TRAINING_RUN"].manifest("misspelt", page["spec"], namespace="team-a")
    manifest["spec"]["epochs"] = 3
    with pytest.raises(ApiException, match="unknown field"):
        page["submit"](manifest)
