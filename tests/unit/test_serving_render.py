"""What a policy is served by: reviewed manifests, restricted pods, and an environment that the server really reads."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ratchet_api.assign import canary_split, salt_of
from ratchet_api.attempts import Artifact
from ratchet_api.names import part_name, router_name, server_name
from ratchet_api.placement import Placement, Resources
from ratchet_operator.desired.router_table import Backend, RouterTable, table_version
from ratchet_operator.desired.serving import Routers, Servers, render_routers, render_servers
from ratchet_operator.plan.world import Meta
from ratchet_operator.settings import Platform, StoreSettings
from ratchet_serving.settings import Settings, Source

GOLDENS = Path(__file__).parent / "goldens"
OWNER = Meta("RLPolicy", "rlpolicies", "team", "support", "0123456789abcdef", 1)
PLATFORM = Platform("registry/serving:1", "registry/envoy:1", gateway_url="http://ratchet-gateway.{namespace}:8000")
SERVERS = Servers(
    owner=OWNER,
    version=3,
    artifact=Artifact(uri="s3://bucket/team/runs/router/evaluate", digest="d" * 64),
    store=StoreSettings("s3://bucket", endpoint="http://s3:8333", secret_name="s3-credentials"),
    replicas=2,
    resources=Resources(cpu=2, memory_gi=3, ephemeral_storage_gi=5),
    placement=Placement(),
)
ROUTERS = Routers(OWNER, replicas=2, resources=Resources(cpu=1, memory_gi=0.25), cookie="ratchet_subject")
TABLE = RouterTable("support", 3, (Backend(3, "support-v3.team.svc", 8080), Backend(4, "support-v4.team.svc", 8080)))


def test_servers_and_routers_are_rendered_as_they_were_reviewed() -> None:
    """RATCHET_WRITE_GOLDENS=1 accepts a change; review it in the diff."""
    for name, value in (
        ("serving-servers.json", render_servers(SERVERS, PLATFORM)),
        ("serving-routers.json", render_routers(ROUTERS, TABLE, PLATFORM)),
    ):
        golden, text = GOLDENS / name, json.dumps(value, indent=1, sort_keys=True) + "\n"
        if os.environ.get("RATCHET_WRITE_GOLDENS") == "1":
            golden.write_text(text)
        assert text == golden.read_text()


@pytest.mark.parametrize("gateway", ["", PLATFORM.gateway_url])
def test_the_server_reads_what_its_pod_is_given(gateway: str) -> None:
    deployment, _ = render_servers(SERVERS, replace(PLATFORM, gateway_url=gateway))
    container = _container(deployment)
    environ = {each["name"]: each["value"] for each in container["env"]}
    settings, source = Settings.from_env(environ), Source.from_env(environ)
    assert (settings.policy, settings.version, settings.behind_router) == ("support", 3, True)
    assert (settings.host, settings.port, settings.drain_seconds) == ("0.0.0.0", 8080, 20)
    assert settings.gateway_url == ("http://ratchet-gateway.team:8000" if gateway else None)
    assert (source.artifact, source.namespace, source.store.endpoint) == (SERVERS.artifact, "team", "http://s3:8333")
    mounted = {each["mountPath"] for each in container["volumeMounts"]}
    assert str(settings.signing_keys) in mounted
    if settings.gateway_token_file is not None:
        assert str(settings.gateway_token_file.parent) in mounted


def test_every_pod_passes_pod_security_restricted() -> None:
    """P20."""
    for deployment in (render_servers(SERVERS, PLATFORM)[0], render_routers(ROUTERS, TABLE, PLATFORM)[2]):
        pod, container = deployment["spec"]["template"]["spec"], _container(deployment)
        assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & pod.keys()
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert {next(iter(set(v) - {"name"})) for v in pod["volumes"]} <= {
            "emptyDir",
            "secret",
            "projected",
            "configMap",
        }


def test_a_rollouts_step_changes_the_table_alone_and_starts_no_router_anew() -> None:
    """P37: the pods go on with the table that they have."""
    split = canary_split(salt_of("uid-1", "1-v3-v4"), champion=3, candidate=4, share=500)
    before = render_routers(ROUTERS, TABLE, PLATFORM)
    after = render_routers(ROUTERS, replace(TABLE, split=split), PLATFORM)
    assert [one == two for one, two in zip(before, after, strict=True)] == [False, True, True, True]
    assert table_version(replace(TABLE, split=split)) in after[0]["data"]["routes.json"]


def test_another_cookie_starts_the_routers_anew() -> None:
    before = render_routers(ROUTERS, TABLE, PLATFORM)
    after = render_routers(replace(ROUTERS, cookie=None), TABLE, PLATFORM)
    assert [one == two for one, two in zip(before, after, strict=True)] == [True, False, False, True]


def test_a_service_finds_the_pods_of_its_own_version_alone() -> None:
    three, four = (render_servers(replace(SERVERS, version=version), PLATFORM) for version in (3, 4))
    for deployment, service in (three, four):
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        assert service["spec"]["selector"].items() <= labels.items()
        assert deployment["spec"]["selector"]["matchLabels"] == service["spec"]["selector"]
        assert service["spec"]["clusterIP"] == "None"
    assert three[1]["spec"]["selector"] != four[1]["spec"]["selector"]
    router = render_routers(ROUTERS, TABLE, PLATFORM)
    assert not router[3]["spec"]["selector"].items() <= three[0]["spec"]["template"]["metadata"]["labels"].items()


def test_where_the_servers_run_is_what_was_asked_for() -> None:
    asked = {
        "nodeSelector": {"zone": "a"},
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
        "priorityClassName": "batch",
    }
    servers = replace(SERVERS, placement=Placement.model_validate(asked), resources=Resources(gpus=1))
    pod = render_servers(servers, replace(PLATFORM, pull_secrets=("pull",)))[0]["spec"]["template"]["spec"]
    assert {key: pod[key] for key in asked} == asked
    assert pod["imagePullSecrets"] == [{"name": "pull"}]
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"


@pytest.mark.parametrize("policy", ["support", "a.b.c", "x" * 253, "team-v3"])
def test_names_are_host_names_and_tell_policies_and_versions_apart(policy: str) -> None:
    names = [server_name(policy, version) for version in (1, 2, 2**31)] + [router_name(policy)]
    assert len(set(names)) == 4
    for name in names:
        assert len(name) <= 52
        assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert part_name("a.b", "v1") != part_name("a-b", "v1")


def _container(deployment: dict[str, Any]) -> dict[str, Any]:
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    found: dict[str, Any] = container
    return found
