"""No value tells the models from the API server: every field of every kind, set to all sorts of junk (P16, T12).

A difference would be a spec that runs on a laptop and is refused by the cluster, or one that the cluster stores and the
operator cannot read.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator, Mapping
from contextlib import closing
from http.client import HTTPSConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from ratchet_api.base import API_VERSION, GROUP, VERSION
from ratchet_api.kinds import KINDS, Kind, SpecError
from tests.controlplane import ADMIN, ControlPlane
from tests.spec_cases import DIGEST, VALID, changed

pytestmark = pytest.mark.cluster

NAMESPACE = "crd-agreement"
JUNK: tuple[Any, ...] = (
    None, True, 0, 1, -1, 2**31, 2**53, 0.5, 1e-9, 1e300, "", "a", "A", "a b", "a/b", "-a", "ü", "\n", "\u00a0", "1",
    "s3://a/\u00a0b", "x" * 300, "0" * 64, [], [None], ["a", "a"], [{}], [{"key": "a"}], {}, {"a": None}, {"a": "b"},
    {"a b": "c"},
)  # fmt: skip


def paths_of(schema: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """Every field below a schema; items of lists are reached by setting the list."""
    for name, field in schema.get("properties", {}).items():
        here = f"{path}.{name}".lstrip(".")
        yield here
        yield from paths_of(field, here)


def spec_schema(kind: Kind[Any, Any]) -> Mapping[str, Any]:
    crd = yaml.safe_load(Path(f"crds/{GROUP}_{kind.plural}.yaml").read_text())
    schema: Mapping[str, Any] = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    return schema


def by_model(kind: Kind[Any, Any], manifest: Mapping[str, Any]) -> str:
    try:
        kind.parse_spec(manifest)
    except SpecError as error:
        return str(error)
    return ""


class Server:
    """One kept connection: thousands of questions, no handshake for each."""

    def __init__(self, plane: ControlPlane) -> None:
        context = ssl.create_default_context(cadata=plane.authority())
        address = urlsplit(plane.url)
        self._connection = HTTPSConnection(address.hostname or "", address.port, context=context, timeout=30)
        self._headers = {"Authorization": f"Bearer {plane.tokens[ADMIN]}", "Content-Type": "application/json"}

    def close(self) -> None:
        self._connection.close()

    def refuses(self, kind: Kind[Any, Any], manifest: Mapping[str, Any]) -> str:
        path = f"/apis/{GROUP}/{VERSION}/namespaces/{NAMESPACE}/{kind.plural}?dryRun=All&fieldValidation=Strict"
        self._connection.request("POST", path, json.dumps(manifest), self._headers)
        with self._connection.getresponse() as answer:
            text = answer.read().decode()
        assert answer.status in (201, 400, 422), text
        return "" if answer.status == 201 else text


@pytest.fixture(scope="module")
def server(control_plane: ControlPlane) -> Iterator[Server]:
    control_plane.namespace(NAMESPACE)
    with closing(Server(control_plane)) as made:
        yield made


# a policy's template is the model that a run's spec extends, so its fields are asked about once, as the run's
FIELDS = [
    (kind, path)
    for kind in KINDS.values()
    for path in paths_of(spec_schema(kind))
    if not path.startswith("training.template.")
]


def around(kind: Kind[Any, Any], path: str) -> Mapping[str, Any]:
    """A valid spec in which the field may stand: some are refused whatever they hold where no RL is asked for."""
    if path.startswith("startFrom"):
        start = {"artifact": {"uri": "store://runs/it", "sha256": DIGEST}}
        if "policy" in path:
            start = {"policy": {"name": "router", "version": 1}}
        return {**VALID[kind.kind], "mode": "rl_only", "startFrom": start}
    if path.startswith(("stages.rl", "evaluation.comparison")):
        dqn = path.startswith(("stages.rl.exploration", "stages.rl.target"))
        rl = {"stages": {"rl": {"algorithm": "dqn"}}} if dqn else {}
        return {**VALID[kind.kind], "mode": "supervised_then_rl", **rl}
    return VALID[kind.kind]


@pytest.mark.parametrize(("kind", "path"), FIELDS, ids=[f"{kind.kind}.{path}" for kind, path in FIELDS])
def test_model_and_server_agree_about(kind: Kind[Any, Any], path: str, server: Server) -> None:
    differences = []
    for junk in JUNK:
        spec = changed(around(kind, path), {path: junk})
        manifest = {"apiVersion": API_VERSION, "kind": kind.kind, "metadata": {"name": "junk"}, "spec": spec}
        model, api = by_model(kind, manifest), server.refuses(kind, manifest)
        if bool(model) != bool(api):
            differences.append((junk, model[-200:] or "accepted", api[-300:] or "accepted"))
    assert differences == []
