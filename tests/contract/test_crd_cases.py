"""A real API server as judge of the CRDs.

It takes and refuses what the models do, fills in the same defaults, and holds a started run's spec still.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from ratchet_api.base import API_VERSION, GROUP, VERSION
from ratchet_api.kinds import KINDS, RL_POLICY, RL_TRAINING_RUN, Kind
from ratchet_api.rules import MUTABLE_ONCE_STARTED
from tests.controlplane import ControlPlane
from tests.spec_cases import ACCEPTED, DIGEST, REFUSED, VALID, Case, changed

pytestmark = pytest.mark.cluster

NAMESPACE = "crd-cases"
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"
"""What kubectl asks for to print columns."""
NOW = "2026-01-31T12:00:00Z"


@pytest.fixture(scope="module")
def server(control_plane: ControlPlane) -> ControlPlane:
    control_plane.namespace(NAMESPACE)
    return control_plane


def path_of(kind: Kind[Any, Any], name: str = "", *, query: str = "fieldValidation=Strict") -> str:
    parts = ["/apis", GROUP, VERSION, "namespaces", NAMESPACE, kind.plural, *([name] if name else [])]
    return "/".join(parts) + f"?{query}"


def manifest_of(kind: Kind[Any, Any], name: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    return {"apiVersion": API_VERSION, "kind": kind.kind, "metadata": {"name": name}, "spec": dict(spec)}


def create(server: ControlPlane, kind: Kind[Any, Any], name: str, spec: Mapping[str, Any], **query: str) -> Any:
    return server.request("POST", path_of(kind, **query), manifest_of(kind, name, spec))


def dry_create(server: ControlPlane, kind: Kind[Any, Any], spec: Mapping[str, Any], name: str = "a-case") -> Any:
    return create(server, kind, name, spec, query="fieldValidation=Strict&dryRun=All")


@pytest.mark.parametrize("case", ACCEPTED, ids=lambda case: case.rule)
def test_the_server_accepts_and_fills_in_the_models_own_defaults(case: Case, server: ControlPlane) -> None:
    kind = KINDS[case.kind]
    stored = dry_create(server, kind, case.spec)
    assert kind.parse_spec(stored) == kind.parse_spec(manifest_of(kind, "a-case", case.spec))


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.rule)
def test_the_server_refuses_and_names_field_and_cause(case: Case, server: ControlPlane) -> None:
    with pytest.raises(RuntimeError) as refusal:
        dry_create(server, KINDS[case.kind], case.spec)
    text = str(refusal.value)
    assert case.field in text
    assert case.server in text


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.kind)
def test_every_default_of_the_model_is_a_default_of_the_server(kind: Kind[Any, Any], server: ControlPlane) -> None:
    stored = dry_create(server, kind, VALID[kind.kind])
    model = kind.parse_spec(manifest_of(kind, "x", VALID[kind.kind])).to_wire()
    assert stored["spec"] == model


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.kind)
def test_a_name_of_253_characters_works(kind: Kind[Any, Any], server: ControlPlane) -> None:
    stored = dry_create(server, kind, VALID[kind.kind], name="a" * 253)
    assert len(stored["metadata"]["name"]) == 253


def test_a_name_of_254_characters_is_refused_by_name(server: ControlPlane) -> None:
    with pytest.raises(RuntimeError, match=r"metadata\.name.*no more than 253"):
        dry_create(server, RL_TRAINING_RUN, VALID["RLTrainingRun"], name="a" * 254)


@pytest.mark.parametrize("file", sorted(Path("crds").glob("*.yaml")), ids=lambda file: file.stem)
def test_the_schema_is_structural_and_the_kind_established(file: Path, server: ControlPlane) -> None:
    name = yaml.safe_load(file.read_text())["metadata"]["name"]
    crd = server.request("GET", f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}")
    conditions = {item["type"]: item["status"] for item in crd["status"]["conditions"]}
    assert conditions["Established"] == "True"
    assert conditions.get("NonStructuralSchema", "False") == "False"
    # what we wrote is what is served: nothing was dropped on the way in
    written = yaml.safe_load(file.read_text())["spec"]["versions"][0]["schema"]
    assert crd["spec"]["versions"][0]["schema"] == written


# a started run

CHANGES: Mapping[str, Any] = {
    "policyType": "generator",
    "mode": "supervised_then_rl",
    "startFrom": {"policy": {"name": "router", "version": 1}},
    "baseModel": {"uri": "store://models/other", "sha256": DIGEST},
    "datasetRef": {"name": "other"},
    "publishTo": {"name": "router"},
    "seed": 7,
    "lora": {"rank": 4},
    "stages": {"supervised": {"epochs": 9}},
    "evaluation": {"gates": [{"metric": "ece", "maximum": 0.1}]},
    "placement": {"queueName": "team"},
    "tracking": {"tensorboard": True},
    "image": "registry.example/own:1",
    "activeDeadlineSeconds": 60,
    "backoffLimit": 0,
    "dryRun": True,
    "suspend": True,
    "ttlSecondsAfterFinished": 60,
}


@pytest.fixture(scope="module")
def started(server: ControlPlane) -> dict[str, Any]:
    """A run whose status says that it was started."""
    run = create(server, RL_TRAINING_RUN, "started", VALID["RLTrainingRun"])
    status = {**run, "status": {"observedGeneration": 1, "startTime": NOW}}
    made: dict[str, Any] = server.request("PUT", path_of(RL_TRAINING_RUN, "started/status"), status)
    return made


def test_the_table_of_changes_names_every_field_of_the_spec() -> None:
    fields = {field.alias or name for name, field in RL_TRAINING_RUN.spec_model.model_fields.items()}
    assert set(CHANGES) == fields


@pytest.mark.parametrize("name", CHANGES)
def test_a_started_run_keeps_its_spec_except_for_what_may_change(
    name: str, server: ControlPlane, started: dict[str, Any]
) -> None:
    edited = {**started, "spec": changed(started["spec"], {name: CHANGES[name]})}
    path = path_of(RL_TRAINING_RUN, "started", query="dryRun=All")
    if name in MUTABLE_ONCE_STARTED:
        assert server.request("PUT", path, edited)["spec"][name] == CHANGES[name]
        return
    with pytest.raises(RuntimeError, match=f"spec.{name} cannot change once the run has started; revert it and make"):
        server.request("PUT", path, edited)


def test_the_refusal_names_every_field_that_changed(server: ControlPlane, started: dict[str, Any]) -> None:
    edited = {**started, "spec": changed(started["spec"], {"seed": 7, "backoffLimit": 0, "suspend": True})}
    with pytest.raises(RuntimeError, match=r"spec\.seed spec\.backoffLimit cannot change once"):
        server.request("PUT", path_of(RL_TRAINING_RUN, "started", query="dryRun=All"), edited)


def test_an_optional_field_of_a_started_run_cannot_be_removed_either(server: ControlPlane) -> None:
    spec = changed(VALID["RLTrainingRun"], {"publishTo": {"name": "router"}})
    run = create(server, RL_TRAINING_RUN, "publishing", spec)
    run["status"] = {"startTime": NOW}
    run = server.request("PUT", path_of(RL_TRAINING_RUN, "publishing/status"), run)
    del run["spec"]["publishTo"]
    with pytest.raises(RuntimeError, match=r"spec\.publishTo cannot change"):
        server.request("PUT", path_of(RL_TRAINING_RUN, "publishing", query="dryRun=All"), run)


def test_a_run_that_has_not_started_may_still_be_corrected(server: ControlPlane) -> None:
    run = create(server, RL_TRAINING_RUN, "waiting", VALID["RLTrainingRun"])
    run["spec"]["seed"] = 7
    assert server.request("PUT", path_of(RL_TRAINING_RUN, "waiting"), run)["spec"]["seed"] == 7


def test_status_can_only_be_written_through_its_subresource(server: ControlPlane) -> None:
    made = manifest_of(RL_TRAINING_RUN, "forged", VALID["RLTrainingRun"]) | {"status": {"state": "Complete"}}
    stored = server.request("POST", path_of(RL_TRAINING_RUN), made)
    assert "status" not in stored


def full_status(kind: Kind[Any, Any]) -> dict[str, Any]:
    """A status with every field of the model in it, as long as its schema lets it be where that is told."""
    return json.loads(json.dumps(_example(_status_schema(kind))))  # plain data


def _status_schema(kind: Kind[Any, Any]) -> Mapping[str, Any]:
    crd = yaml.safe_load(Path(f"crds/{GROUP}_{kind.plural}.yaml").read_text())
    schema: Mapping[str, Any] = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]
    return schema


def _example(schema: Mapping[str, Any]) -> Any:
    kind = schema["type"]
    if "enum" in schema:
        return schema["enum"][-1]
    if kind == "string":
        return NOW if schema.get("format") == "date-time" else "x" * schema["maxLength"]
    if kind in ("integer", "number"):
        return schema.get("maximum", 1.5)
    if kind == "boolean":
        return True
    if kind == "array":
        return [_example(schema["items"])]
    if "additionalProperties" in schema:
        return {"accuracy": _example(schema["additionalProperties"])}
    return {name: _example(field) for name, field in schema["properties"].items()}


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.kind)
def test_a_status_comes_back_as_it_was_written(kind: Kind[Any, Any], server: ControlPlane) -> None:
    """The operator skips a write when nothing changed, so the server may neither drop nor add anything."""
    obj = create(server, kind, "whole-status", VALID[kind.kind])
    obj["status"] = kind.status_model.model_validate(full_status(kind)).to_wire()
    stored = server.request("PUT", path_of(kind, "whole-status/status"), obj)
    assert stored["status"] == obj["status"]
    empty = {**stored, "status": kind.status_model().to_wire()}
    assert server.request("PUT", path_of(kind, "whole-status/status"), empty)["status"] == empty["status"]


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.kind)
def test_kubectl_get_shows_the_declared_columns(kind: Kind[Any, Any], server: ControlPlane) -> None:
    crd = server.request("GET", f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{kind.plural}.{GROUP}")
    columns = crd["spec"]["versions"][0]["additionalPrinterColumns"]
    assert [column["name"] for column in columns] == [column.name for column in kind.columns]
    assert crd["status"]["acceptedNames"]["shortNames"] == list(kind.short_names)
    assert crd["status"]["acceptedNames"]["categories"] == ["ratchet"]


def test_the_latest_column_of_a_policy_is_its_newest_version(server: ControlPlane) -> None:
    obj = create(server, RL_POLICY, "columns", VALID["RLPolicy"])
    version = {
        "run": "r",
        "runUid": "u",
        "uri": "s3://b/p",
        "digest": DIGEST,
        "datasetDigest": DIGEST,
        "published": NOW,
    }
    obj["status"] = {"versions": [{"version": number, **version} for number in (1, 2, 3)], "champion": 2}
    server.request("PUT", path_of(RL_POLICY, "columns/status"), obj)
    table = server.request("GET", path_of(RL_POLICY, "columns"), accept=TABLE)
    row = dict(zip((column["name"] for column in table["columnDefinitions"]), table["rows"][0]["cells"], strict=True))
    assert (row["Latest"], row["Champion"]) == (3, 2)
