"""The router as the operator renders it, from our image: a restricted pod that finds versions by their Services."""

from __future__ import annotations

import pytest

from ratchet_api.assign import canary_split, salt_of
from ratchet_api.names import SERVER_PORT, router_name, server_name
from ratchet_api.placement import Resources
from ratchet_operator.desired.router_table import SUBJECT_HEADER, Backend, RouterTable, table_version
from ratchet_operator.desired.serving import Platform, Routers, render_routers
from ratchet_operator.plan.world import Meta
from tests.cluster.pods import server_pod, shell_pod
from tests.lab.cluster import Lab
from tests.lab.settings import ROUTER_IMAGE

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


@pytest.mark.timeout(900)
def test_a_rendered_router_deals_a_request_to_the_pod_behind_a_versions_service(
    lab: Lab, lab_images: None, namespace: str
) -> None:
    split = canary_split(salt_of("uid-1", "1-v1-v2"), champion=1, candidate=2, share=5000)
    backends = tuple(Backend(v, f"{server_name('support', v)}.{namespace}.svc", SERVER_PORT) for v in (1, 2))
    table = RouterTable("support", 1, backends, split=split)
    for version in (1, 2):
        name = server_name("support", version)
        pod = server_pod(name, f"I am version {version}", labels={"server": name})
        ports = [{"port": SERVER_PORT, "targetPort": 8080}]
        service = {"clusterIP": "None", "selector": {"server": name}, "ports": ports}
        lab.apply({**pod, "metadata": {**pod["metadata"], "namespace": namespace}})
        metadata = {"name": name, "namespace": namespace}
        lab.apply({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": service})
    owner = Meta("RLPolicy", "rlpolicies", namespace, "support", "0123456789abcdef", 1)
    routers = Routers(owner, replicas=1, resources=Resources(cpu=0.1, memory_gi=0.25), cookie=None)
    for manifest in render_routers(routers, table, Platform("servers", ROUTER_IMAGE)):
        del manifest["metadata"]["ownerReferences"]  # there is no policy here; the cluster would tidy up at once
        lab.apply(manifest)
    lab.kubectl("-n", namespace, "rollout", "status", f"deployment/{router_name('support')}", "--timeout=180s")

    subjects = [next(f"user-{n}" for n in range(99) if split.slot(f"user-{n}").version == v) for v in (1, 2)]
    ask = f"wget -q -O- http://{router_name('support')}.{namespace}.svc"
    asked = [f"{ask}/ratchet/table", "echo", f"{ask}/ratchet/ready/1", f"{ask}/ratchet/ready/2"]
    asked += [f"{ask}/v1/classify --header '{SUBJECT_HEADER}: {subject}'" for subject in subjects]
    asking = shell_pod("asking", f"until {' && '.join(asked)}; do sleep 1; done")
    lab.apply({**asking, "metadata": {**asking["metadata"], "namespace": namespace}})

    def ended() -> bool:
        phase = lab.kubectl("-n", namespace, "get", "pod", "asking", "-o", "jsonpath={.status.phase}")
        return phase in ("Succeeded", "Failed")

    lab.wait_for(ended, "the answers", 120)
    lines = lab.kubectl("-n", namespace, "logs", "asking").strip().splitlines()
    assert lines[-5:] == [table_version(table), *["I am version 1", "I am version 2"] * 2]
