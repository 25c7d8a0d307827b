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
from ratchet_api.generation import KeptGeneration
from ratchet_api.names import part_name, router_name, server_name
from ratchet_api.placement import Placement, Resources
from ratchet_jobs.generators.artifact import MERGED_FOLDER
from ratchet_operator.desired.router_table import Backend, RouterTable, table_version
from ratchet_operator.desired.serving import (
    DRAIN_SECONDS,
    SIGNING_DIR,
    Routers,
    Servers,
    render_budget,
    render_routers,
    render_servers,
)
from ratchet_operator.plan.world import Meta
from ratchet_operator.settings import Platform, StoreSettings
from ratchet_serving.generation.upstream import MODEL
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
BY_VLLM = replace(SERVERS, engine="vllm", resources=Resources(cpu=8, memory_gi=64, gpus=2, ephemeral_storage_gi=40))
ROUTERS = Routers(OWNER, replicas=2, resources=Resources(cpu=1, memory_gi=0.25), cookie="ratchet_subject")
TABLE = RouterTable("support", 3, (Backend(3, "support-v3.team.svc", 8080), Backend(4, "support-v4.team.svc", 8080)))


def test_servers_and_routers_are_rendered_as_they_were_reviewed() -> None:
    """RATCHET_WRITE_GOLDENS=1 accepts a change; review it in the diff."""
    for name, value in (
        ("serving-servers.json", render_servers(SERVERS, PLATFORM)),
        ("serving-routers.json", render_routers(ROUTERS, TABLE, PLATFORM)),
        ("serving-vllm.json", render_servers(BY_VLLM, PLATFORM)),
        ("serving-budget.json", render_budget(render_servers(SERVERS, PLATFORM)[0])),
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


@pytest.mark.parametrize("servers", [SERVERS, BY_VLLM], ids=["builtin", "vllm"])
def test_a_server_answers_by_the_config_of_its_version(servers: Servers) -> None:
    """A kubelet puts the value of a variable where $(NAME) stands, and a $ for $$: neither may happen to a prompt."""
    config = KeptGeneration(temperature=0.25, system_prompt='Say "$(HOME)", $$5 or \\$ — never\n$(PATH).')
    deployment, _ = render_servers(replace(servers, generation=config), PLATFORM)
    environ = {each["name"]: each["value"] for each in _served(deployment)["env"]}
    assert "$" not in environ["RATCHET_SERVING_GENERATION"]
    read = Settings.from_env(environ).generation
    assert (read.temperature, read.system_prompt) == (0.25, config.system_prompt)
    plain = {each["name"] for each in _served(render_servers(servers, PLATFORM)[0])["env"]}
    assert "RATCHET_SERVING_GENERATION" not in plain


def test_every_pod_passes_pod_security_restricted() -> None:
    """P20. What fetches and vLLM's container, too."""
    several = (
        render_servers(SERVERS, PLATFORM)[0],
        render_servers(BY_VLLM, PLATFORM)[0],
        render_routers(ROUTERS, TABLE, PLATFORM)[2],
    )
    assert [len(_containers(each)) for each in several] == [1, 3, 1]
    for deployment in several:
        pod = deployment["spec"]["template"]["spec"]
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        for container in _containers(deployment):
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


def test_a_single_pod_has_no_budget_for_a_drain_to_wait_for() -> None:
    assert render_budget(render_servers(replace(SERVERS, replicas=1), PLATFORM)[0]) is None


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


def test_vllm_has_the_gpus_and_the_policy_and_neither_keys_nor_credentials() -> None:
    server, vllm, fetch = _containers(render_servers(BY_VLLM, PLATFORM)[0])
    assert [each["name"] for each in (server, vllm, fetch)] == ["server", "vllm", "fetch"]
    gpus = [each["resources"]["limits"].get("nvidia.com/gpu") for each in (server, vllm, fetch)]
    assert gpus == [None, "2", None]
    assert "--tensor-parallel-size=2" in vllm["command"]
    assert ["envFrom" in each for each in (server, vllm, fetch)] == [False, False, True], "the store's"
    mounts = [{each["mountPath"] for each in container["volumeMounts"]} for container in (server, vllm, fetch)]
    assert [SIGNING_DIR in each for each in mounts] == [True, False, False]
    assert [each["mountPath"] for each in vllm["volumeMounts"] if each.get("readOnly")] == ["/model"]
    assert vllm["image"] == PLATFORM.vllm_image
    assert fetch["image"] == server["image"] == PLATFORM.server_image


def test_vllm_listens_on_the_pods_loopback_where_its_server_and_its_probes_ask() -> None:
    server, vllm, _ = _containers(render_servers(BY_VLLM, PLATFORM)[0])
    settings = Settings.from_env({each["name"]: each["value"] for each in server["env"]})
    assert settings.engine_url == "http://127.0.0.1:8081"
    assert {"--host=127.0.0.1", "--port=8081"} <= set(vllm["command"])
    assert "ports" not in vllm
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert "http://127.0.0.1:8081/health" in vllm[probe]["exec"]["command"][-1]
        assert vllm[probe]["exec"]["command"][:2] == ["python3", "-c"]
        compile(vllm[probe]["exec"]["command"][-1], probe, "exec")


def test_vllm_is_started_as_its_server_asks_it() -> None:
    server, vllm, fetch = _containers(render_servers(BY_VLLM, PLATFORM)[0])
    environ = {each["name"]: each["value"] for each in server["env"]}
    folder = Source.from_env(environ).folder
    assert folder is not None
    assert vllm["command"][:3] == ["vllm", "serve", str(folder / MERGED_FOLDER)]
    assert f"--served-model-name={MODEL}" in vllm["command"]
    assert f"--max-num-seqs={Settings.from_env(environ).streams.max_streams}" in vllm["command"]
    assert "--logprobs-mode=processed_logprobs" in vllm["command"]
    assert (fetch["command"], fetch["env"]) == (["ratchet-serve", "fetch"], server["env"])


def test_vllm_goes_on_while_its_server_finishes_answers() -> None:
    deployment = render_servers(BY_VLLM, PLATFORM)[0]
    server, vllm, _ = _containers(deployment)
    waits = [each["lifecycle"]["preStop"]["sleep"]["seconds"] for each in (server, vllm)]
    assert waits[1] >= waits[0] + DRAIN_SECONDS
    assert waits[1] < deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]


def _containers(deployment: dict[str, Any]) -> list[dict[str, Any]]:
    """All of its pod, those that run before the others last."""
    pod = deployment["spec"]["template"]["spec"]
    return [*pod["containers"], *pod.get("initContainers", ())]


def _served(deployment: dict[str, Any]) -> dict[str, Any]:
    """The server's container of a pod, whatever stands beside it."""
    return next(each for each in _containers(deployment) if each["name"] == "server")


def _container(deployment: dict[str, Any]) -> dict[str, Any]:
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    found: dict[str, Any] = container
    return found
