"""helm install, upgrade, uninstall and install again on a real API server: what users own survives all of it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from ratchet_api.base import API_VERSION, GROUP
from tests.contract.chart import CHART, NAMESPACE
from tests.controlplane import ControlPlane
from tests.lab import binaries

pytestmark = pytest.mark.cluster

CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
DATASETS = f"/apis/{GROUP}/v1alpha1/namespaces/{NAMESPACE}/feedbackdatasets"
DATASET = {
    "apiVersion": API_VERSION,
    "kind": "FeedbackDataset",
    "metadata": {"name": "mine", "namespace": NAMESPACE},
    "spec": {"type": "classification", "source": {"objects": [{"uri": "store://a.csv"}]}},
}


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """An API server that has never seen Ratchet."""
    with ControlPlane(tmp_path_factory.mktemp("lifecycle")) as plane:
        yield plane


def helm(plane: ControlPlane, verb: str, *arguments: str) -> str:
    command = [str(binaries.ensure(binaries.HELM) / "helm"), verb, "ratchet", *arguments, "--namespace", NAMESPACE]
    environment = {**os.environ, "KUBECONFIG": str(plane.kubeconfig())}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def crd_names(plane: ControlPlane) -> set[str]:
    return {crd["metadata"]["name"] for crd in plane.request("GET", CRDS)["items"]}


def variables(plane: ControlPlane) -> dict[str, Any]:
    path = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/ratchet-operator"
    (container,) = plane.request("GET", path)["spec"]["template"]["spec"]["containers"]
    return {entry["name"]: entry.get("value") for entry in container["env"]}


def test_what_users_own_survives_upgrade_and_uninstall(empty: ControlPlane) -> None:
    ours = {f"{plural}.{GROUP}" for plural in ("feedbackdatasets", "rltrainingruns", "rlpolicies")}
    notes = helm(
        empty, "install", str(CHART), "--create-namespace", "--set", "store.uri=s3://bucket", "--wait=hookOnly"
    )
    assert "Store: s3://bucket" in notes
    assert crd_names(empty) == ours
    before = empty.apply(f"{DATASETS}/mine", DATASET)["spec"]

    helm(empty, "upgrade", str(CHART), "--reuse-values", "--set", "timeScale=0.5")
    assert (variables(empty)["RATCHET_TIME_SCALE"], variables(empty)["RATCHET_STORE_URI"]) == ("0.5", "s3://bucket")

    helm(empty, "uninstall")
    assert not empty.request("GET", f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments")["items"]
    assert crd_names(empty) == ours
    assert empty.request("GET", f"{DATASETS}/mine")["spec"] == before

    notes = helm(empty, "install", str(CHART), "--wait=hookOnly")
    assert "WARNING: no store is set" in notes
    assert empty.request("GET", f"{DATASETS}/mine")["spec"] == before
    helm(empty, "uninstall")


def test_without_keep_the_notes_warn_of_what_uninstalling_deletes(empty: ControlPlane) -> None:
    notes = helm(empty, "upgrade", str(CHART), "--install", "--set", "crds.keep=false", "--wait=hookOnly")
    assert "Uninstalling this chart deletes every dataset, run and policy" in notes
