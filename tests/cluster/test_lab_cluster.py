"""The lab is a real Kubernetes: what the other cluster tests stand on."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.cluster.pods import server_pod, shell_pod
from tests.lab.cluster import Lab
from tests.lab.settings import NODE, LabError

pytestmark = pytest.mark.cluster


def finished(lab: Lab, namespace: str, name: str) -> dict[str, Any]:
    """Wait until a pod has ended and return it."""

    def ended() -> bool:
        return lab.kubectl("-n", namespace, "get", "pod", name, "-o", "jsonpath={.status.phase}") in (
            "Succeeded",
            "Failed",
        )

    lab.wait_for(ended, f"pod {name} to end", 90)
    found: dict[str, Any] = json.loads(lab.kubectl("-n", namespace, "get", "pod", name, "-o", "json"))
    return found


def apply_in(lab: Lab, namespace: str, *objects: dict[str, Any]) -> None:
    lab.apply(*({**one, "metadata": {**one["metadata"], "namespace": namespace}} for one in objects))


def test_the_node_is_ready_and_carries_the_server_version_that_is_pinned(lab: Lab) -> None:
    assert lab.node_condition("Ready") == "True"
    assert json.loads(lab.kubectl("version", "-o", "json"))["serverVersion"]["gitVersion"] == "v1.36.3"


def test_a_restricted_pod_runs_to_completion_and_leaves_a_termination_message(lab: Lab, namespace: str) -> None:
    apply_in(lab, namespace, shell_pod("message", 'id -u; echo \'{"state":"done"}\' > /dev/termination-log; exit 7'))
    state = finished(lab, namespace, "message")["status"]["containerStatuses"][0]["state"]["terminated"]
    assert state["message"].strip() == '{"state":"done"}'
    assert state["exitCode"] == 7
    assert lab.kubectl("-n", namespace, "logs", "message").strip() == "65532"


def test_pod_security_refuses_a_pod_that_may_become_root(lab: Lab, namespace: str) -> None:
    rooted = shell_pod("rooted", "true", securityContext={"allowPrivilegeEscalation": True})
    with pytest.raises(LabError, match='violates PodSecurity "restricted'):
        apply_in(lab, namespace, rooted)


def test_cluster_dns_and_a_service_lead_one_pod_to_another(lab: Lab, namespace: str) -> None:
    server = server_pod("server", "hello", labels={"app": "server"})
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "server"},
        "spec": {"selector": {"app": "server"}, "ports": [{"port": 80, "targetPort": 8080}]},
    }
    # The static busybox resolves names in nslookup only, so the name is looked up there.
    host = f"server.{namespace}.svc.cluster.local"
    script = (
        f"for i in $(seq 40); do ip=$(nslookup {host} | awk '/^Address/ {{ seen = $2 }} END {{ print seen }}');"
        " printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 2 $ip 80 | grep hello && exit 0; sleep 0.5; done; exit 1"
    )
    client = shell_pod("client", script)
    apply_in(lab, namespace, server, service, client)
    assert finished(lab, namespace, "client")["status"]["phase"] == "Succeeded", lab.kubectl(
        "-n", namespace, "logs", "client", check=False
    )
    assert "hello" in lab.kubectl("-n", namespace, "logs", "client")


def test_a_job_replaces_no_pod_when_its_failure_policy_says_so(lab: Lab, namespace: str) -> None:
    template = shell_pod("unused", "exit 12")
    rule = {"action": "FailJob", "onExitCodes": {"containerName": "main", "operator": "In", "values": [12]}}
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "user-error"},
        "spec": {
            "backoffLimit": 3,
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": {"rules": [rule]},
            "template": {"spec": template["spec"]},
        },
    }
    apply_in(lab, namespace, job)
    lab.kubectl("-n", namespace, "wait", "--for=condition=Failed", "job/user-error", "--timeout=60s")
    conditions = json.loads(lab.kubectl("-n", namespace, "get", "job", "user-error", "-o", "json"))["status"]
    assert {one["reason"] for one in conditions["conditions"] if one["type"] == "Failed"} == {"PodFailurePolicy"}
    assert conditions["failed"] == 1


def test_gpus_put_on_the_node_are_accounted_by_the_scheduler(lab: Lab, namespace: str) -> None:
    def asking(name: str, gpus: int) -> dict[str, Any]:
        return shell_pod(name, "sleep 60", resources={"limits": {"nvidia.com/gpu": str(gpus)}})

    lab.set_node_capacity({"nvidia.com/gpu": 4})
    try:
        apply_in(lab, namespace, asking("three", 3))
        lab.kubectl("-n", namespace, "wait", "--for=condition=Ready", "pod/three", "--timeout=60s")
        apply_in(lab, namespace, asking("two-more", 2))

        def refused() -> bool:
            path = "jsonpath={.status.conditions[?(@.type=='PodScheduled')].message}"
            return "Insufficient nvidia.com/gpu" in lab.kubectl("-n", namespace, "get", "pod", "two-more", "-o", path)

        lab.wait_for(refused, "the scheduler to refuse the second pod", 30)
        assert lab.kubectl("get", "node", NODE, "-o", r"jsonpath={.status.allocatable.nvidia\.com/gpu}") == "4"
    finally:
        lab.set_node_capacity({"nvidia.com/gpu": 0})


def test_prometheus_scrapes_a_pod_by_its_metrics_port(lab: Lab, namespace: str) -> None:
    exporter = server_pod("exporter", "ratchet_lab_answer 42", labels={"ratchet.dev/stage": "supervised"})
    apply_in(lab, namespace, exporter)
    lab.wait_for(lambda: bool(lab.prometheus("ratchet_lab_answer")), "Prometheus to scrape the pod", 60)
    [sample] = lab.prometheus("ratchet_lab_answer")
    metric = sample["metric"]
    assert isinstance(metric, dict)
    assert (metric["namespace"], metric["pod"], metric["stage"]) == (namespace, "exporter", "supervised")
    assert isinstance(sample["value"], list)
    assert sample["value"][1] == "42"
