"""The eraser on a real API server: what was asked of the gateways is done with the chart's rights and no others."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client
from kubernetes.client.exceptions import ApiException

from ratchet_cli.eraser import EXIT_CONFIG, EXIT_FAILED, run
from ratchet_jobs.feedback_log.erasures import report_key, request_erasure
from ratchet_jobs.runtime.store_directory import DirectoryStore
from tests.contract.test_gateway_cluster import Space
from tests.controlplane import ControlPlane
from tests.feedback_events import START, LogBuilder, stored_as

ERASER_RULES = [
    {
        "apiGroups": ["ratchet.dev"],
        "resources": ["feedbackdatasets", "rlpolicies", "rltrainingruns"],
        "verbs": ["list", "patch"],
    }
]
_numbers = itertools.count()


@pytest.fixture
def space(control_plane: ControlPlane) -> Space:
    made = Space(control_plane, control_plane.namespace(f"eraser-{next(_numbers)}"))
    made.account("eraser")
    made.also("eraser", "eraser-marks", ERASER_RULES)
    return made


@pytest.fixture
def store(tmp_path: Path, space: Space) -> DirectoryStore:
    """A log with an event of Anna, who asked to be erased, and one of Bert."""
    made = DirectoryStore(tmp_path / "store")
    log = LogBuilder(made, namespace=space.name)
    for who in ("anna", "bert"):
        log.feedback("comment", comment=f"{who} was here", subject=who)
    log.flush()
    request_erasure(made, space.name, [stored_as("anna")], now=START)
    return made


def settings(space: Space, store: DirectoryStore) -> dict[str, str]:
    return {"RATCHET_ERASER_NAMESPACE": space.name, "RATCHET_STORE_URI": store.uri}


def proofs(store: DirectoryStore, space: Space) -> list[dict[str, Any]]:
    keys = [info.key for info in store.list(f"{space.name}/erasures")]
    return [json.loads(store.read(key)) for key in keys if key.endswith("/report.json")]


def test_what_was_asked_is_done_and_proved_with_the_rights_that_the_chart_gives(
    space: Space, store: DirectoryStore, tmp_path: Path
) -> None:
    """P30 and P19: the rights granted here are those of the chart's Role."""
    space.policy("router")
    api = space.api(tmp_path, "eraser")
    assert run(settings(space, store), api) == 0
    (proof,) = proofs(store, space)
    assert (proof["events"], proof["left"], proof["runs"]) == (1, 0, [])
    assert store.exists(report_key(space.name, proof["id"]))
    assert run(settings(space, store), api) == 0, "nothing is pending any more"
    policies = client.CustomObjectsApi(api)
    where = ("ratchet.dev", "v1alpha1", space.name, "rlpolicies")
    for call in (
        lambda: policies.delete_namespaced_custom_object(*where, "router"),
        lambda: policies.patch_namespaced_custom_object_status(*where, "router", {"status": {}}),
        lambda: client.CoreV1Api(api).list_namespaced_secret(space.name),
        lambda: client.BatchV1Api(api).list_namespaced_job(space.name),
    ):
        with pytest.raises(ApiException) as refused:
            call()
        assert refused.value.status == 403


def test_without_the_cluster_the_person_is_removed_and_the_proof_waits_for_the_next_start(
    space: Space, store: DirectoryStore, tmp_path: Path
) -> None:
    """P30: the proof comes last, so that what was cut short is found pending and done again."""
    away = client.Configuration()
    away.host, away.retries = "http://127.0.0.1:9", False
    assert run(settings(space, store), client.ApiClient(away)) == EXIT_FAILED
    assert proofs(store, space) == []
    assert run(settings(space, store), space.api(tmp_path, "eraser")) == 0
    assert proofs(store, space)[0]["events"] == 1, "counted in the first pass, told by the second"


@pytest.mark.parametrize(
    ("changed", "want"),
    [
        (
            {"RATCHET_ERASER_NAMESPACE": ""},
            "RATCHET_ERASER_NAMESPACE is not set; set it to the namespace of the gateways",
        ),
        ({"RATCHET_STORE_URI": ""}, "RATCHET_STORE_URI is not set; set it to s3://BUCKET"),
        ({"RATCHET_STORE_URI": "ftp://x"}, "store.uri 'ftp://x': expected s3://BUCKET"),
    ],
    ids=lambda value: str(value),
)
def test_a_missing_setting_is_named(
    changed: dict[str, str], want: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    env = {"RATCHET_ERASER_NAMESPACE": "ns", "RATCHET_STORE_URI": f"file://{tmp_path}"} | changed
    assert run(env, client.ApiClient(client.Configuration())) == EXIT_CONFIG
    assert want in capsys.readouterr().err
