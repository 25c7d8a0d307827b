"""The gateway as the chart renders it: off unless asked for, restricted, in step with its settings, with few rights."""

from __future__ import annotations

import os
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import ratchet_api
from ratchet_gateway.settings import Settings
from ratchet_gateway.tokenreview import AUDIENCE
from tests.asked import names_asked
from tests.contract.chart import NAMESPACE, ROOT, HelmError, Object, Rendered, grants, helm, render, render_text
from tests.contract.test_eraser import ERASER_RULES
from tests.contract.test_gateway_cluster import GATEWAY_RULES, REVIEW_RULES, TRAINING_RULES

GOLDEN = Path(__file__).parent / "goldens" / "chart-gateway.yaml"
ON = ("gateway.enabled=true", "store.uri=s3://bucket/root", "crds.enabled=false")
ALL = (
    *ON,
    "gateway.namespaces={team-a,team-b}",
    "gateway.auth={kubernetes,keys}",
    "gateway.keysSecretName=api-keys",
    "gateway.storeSecretName=gateway-store",
    "gateway.erasures.storeSecretName=eraser-store",
    "gateway.erasures.serviceAccount.annotations.example\\.com/role=log-eraser",
    "gateway.serviceAccount.annotations.example\\.com/role=log-writer",
    "gateway.nodeSelector.pool=web",
    "gateway.tolerations[0].operator=Exists",
    "gateway.priorityClassName=serving",
    "gateway.ingress.enabled=true",
    "gateway.ingress.domain=feedback.example.com",
    "gateway.ingress.className=nginx",
    "gateway.ingress.tlsSecretName=certificate",
    "gateway.ingress.annotations.example\\.com/limit=ten",
    "gateway.httpRoute.enabled=true",
    "gateway.httpRoute.domain=feedback.example.com",
    "gateway.httpRoute.parentRefs[0].name=shared",
    "images.pullSecrets={pull}",
    "monitoring.enabled=true",
    "networkPolicy.enabled=true",
    "networkPolicy.gatewayFrom.team=applications",
    "networkPolicy.scrapeFrom.team=observability",
)
TEAMS = ("team-a", "team-b")


@pytest.fixture(scope="module")
def plain() -> Rendered:
    return render(*ON)


@pytest.fixture(scope="module")
def full() -> Rendered:
    return render(*ALL)


def of_gateway(rendered: Rendered) -> list[Object]:
    label = "app.kubernetes.io/component"
    return [obj for obj in rendered.objects if obj["metadata"].get("labels", {}).get(label) == "gateway"]


def pod(rendered: Rendered, namespace: str = NAMESPACE) -> Object:
    found: Object = rendered.one("Deployment", "ratchet-gateway", namespace)["spec"]["template"]
    return found


def test_the_gateway_renders_as_it_was_reviewed() -> None:
    """RATCHET_WRITE_GOLDENS=1 accepts a change; review it in the diff."""
    documents = re.split(r"(?m)^---$", render_text(*ALL))
    text = "---".join(
        each for each in documents if re.search(r"(?m)^    app\.kubernetes\.io/component: (gateway|eraser)$", each)
    )
    if os.environ.get("RATCHET_WRITE_GOLDENS") == "1":
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text()


def test_there_is_none_unless_it_is_asked_for() -> None:
    assert of_gateway(render("crds.enabled=false")) == []


def test_each_namespace_gets_one_of_its_own_with_everything_that_it_needs(full: Rendered) -> None:
    kinds = {"Deployment", "Service", "ServiceAccount", "Role", "RoleBinding", "PodDisruptionBudget", "NetworkPolicy",
             "Ingress", "HTTPRoute"}  # fmt: skip
    for team in TEAMS:
        assert {obj["kind"] for obj in of_gateway(full) if obj["metadata"].get("namespace") == team} == kinds
        environment = {entry["name"]: entry.get("value") for entry in pod(full, team)["spec"]["containers"][0]["env"]}
        assert environment["RATCHET_GATEWAY_NAMESPACE"] == team


# pods


def test_its_pods_pass_pod_security_restricted(full: Rendered) -> None:
    """P20's like: nothing of the gateway needs more."""
    spec = pod(full, "team-a")["spec"]
    (container,) = spec["containers"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] > 0
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & set(spec)
    assert all(set(volume) <= {"name", "emptyDir", "secret"} for volume in spec["volumes"])


def test_one_that_goes_away_takes_no_request_with_it(plain: Rendered) -> None:
    spec = plain.one("Deployment", "ratchet-gateway")["spec"]
    assert spec["replicas"] == 2
    assert spec["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    template = spec["template"]["spec"]
    keys = [each["topologyKey"] for each in template["topologySpreadConstraints"]]
    assert keys == ["kubernetes.io/hostname", "topology.kubernetes.io/zone"]
    budget = plain.one("PodDisruptionBudget")["spec"]
    assert (budget["maxUnavailable"], budget["selector"]) == (1, spec["selector"])
    drain = Settings.from_env(environment(plain)).drain_seconds
    asleep = template["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    # the server drains its requests, then the log its queue, each for at most drain_seconds
    assert template["terminationGracePeriodSeconds"] >= asleep + 2 * drain + 5


def test_a_single_replica_does_not_block_the_draining_of_nodes() -> None:
    assert render(*ON, "gateway.replicas=1").all("PodDisruptionBudget") == []


def test_probes_and_service_meet_the_port_that_it_listens_on(plain: Rendered) -> None:
    (container,) = pod(plain)["spec"]["containers"]
    (port,) = container["ports"]
    assert port["containerPort"] == Settings.from_env(environment(plain)).port
    assert container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": port["name"]}
    assert container["startupProbe"]["httpGet"] == {"path": "/healthz", "port": port["name"]}
    assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": port["name"]}
    service = plain.one("Service", "ratchet-gateway")["spec"]
    assert service["ports"][0]["targetPort"] == port["name"]
    assert service["selector"].items() <= pod(plain)["metadata"]["labels"].items()


def test_it_is_never_mistaken_for_the_operator(plain: Rendered) -> None:
    operator = plain.one("Deployment", "ratchet-operator")["spec"]["selector"]["matchLabels"]
    assert not operator.items() <= pod(plain)["metadata"]["labels"].items()


# Secrets


def test_it_takes_store_credentials_of_its_own_and_only_the_keys_that_it_names(full: Rendered) -> None:
    """P23: not those of the stages, which may delete."""
    spec = pod(full, "team-a")["spec"]
    secrets = {e["name"]: e["valueFrom"]["secretKeyRef"] for e in spec["containers"][0]["env"] if "valueFrom" in e}
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    assert secrets == {name: {"name": "gateway-store", "key": name} for name in names}
    mounted = {each["name"]: each["secret"] for each in spec["volumes"] if "secret" in each}
    assert mounted == {
        "signing": {"secretName": "ratchet-gateway-signing", "defaultMode": 0o440},
        "api-keys": {"secretName": "api-keys", "defaultMode": 0o440},
    }
    assert full.all("Secret") == [], "a key that an upgrade made anew would break every id that was handed out"


def test_without_a_secret_the_account_is_the_credential(plain: Rendered) -> None:
    assert all("value" in entry for entry in pod(plain)["spec"]["containers"][0]["env"])


# settings


def environment(rendered: Rendered) -> dict[str, str]:
    (container,) = pod(rendered)["spec"]["containers"]
    return {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}


def test_the_chart_sets_only_variables_that_the_gateway_reads(full: Rendered) -> None:
    container = pod(full, "team-a")["spec"]["containers"][0]
    made = {entry["name"] for entry in container["env"] if "value" in entry}
    assert len(made) > 10
    needed = ("STORE_URI", "GATEWAY_NAMESPACE", "GATEWAY_SIGNING_KEYS", "GATEWAY_KEYS_FILE")
    assert made <= names_asked(Settings.from_env, [f"RATCHET_{name}" for name in needed])


def test_the_charts_defaults_are_the_gateways_defaults(plain: Rendered) -> None:
    made = Settings.from_env(environment(plain))
    assert made == Settings(
        store=made.store,
        namespace=NAMESPACE,
        signing_keys=Path("/etc/ratchet/signing"),
        auth=("kubernetes",),
        host="0.0.0.0",
    )
    assert made.store.uri == "s3://bucket/root"
    image = pod(plain)["spec"]["containers"][0]["image"]
    assert image == f"ghcr.io/ratchet/gateway:{ratchet_api.__version__}"


@pytest.mark.parametrize(
    ("setting", "read"),
    [
        ("gateway.port=8080", lambda made: made.port == 8080),
        ("gateway.auth={keys},gateway.keysSecretName=k", lambda made: made.auth == ("keys",) and made.keys_file),
        ("gateway.collectionRate=0.25", lambda made: made.collection_rate == 0.25),
        ("gateway.interactionHours=24", lambda made: made.interaction_lifetime == timedelta(days=1)),
        ("gateway.requireInteraction=true", lambda made: made.require_interaction),
        ("gateway.keyEventsPerMinute=10", lambda made: made.key_events_per_minute == 10),
        ("gateway.subjectEventsPerMinute=5", lambda made: made.subject_events_per_minute == 5),
        ("gateway.maxBodyBytes=2048", lambda made: made.max_body_bytes == 2048),
        ("gateway.drainSeconds=5", lambda made: made.drain_seconds == 5),
        ("store.endpoint=http://s3.storage:9000", lambda made: made.store.endpoint == "http://s3.storage:9000"),
        ("store.region=eu-central-1", lambda made: made.store.region == "eu-central-1"),
        ("logLevel=debug", lambda made: made.log_level == "debug"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_value_is_read_by_the_gateway(setting: str, read: Any) -> None:
    assert read(Settings.from_env(environment(render(*ON, setting))))


@pytest.mark.parametrize(
    ("settings", "want"),
    [
        pytest.param(("gateway.enabled=true",), "/store/uri", id="a gateway without a store"),
        pytest.param((*ON, "gateway.auth={keys}"), "keysSecretName", id="API keys without their Secret"),
        pytest.param(
            (*ON, "gateway.auth={none}"), "must be one of 'kubernetes', 'keys'", id="nobody asked for a token"
        ),
        pytest.param((*ON, "gateway.signingSecretName="), "signingSecretName", id="no signing keys"),
        pytest.param((*ON, "gateway.ingress.enabled=true"), "/gateway/ingress/domain", id="an Ingress for any host"),
        pytest.param((*ON, "gateway.httpRoute.enabled=true"), "/gateway/httpRoute", id="a route to nowhere"),
        pytest.param((*ON, "gateway.replicas=0"), "minimum", id="no replica"),
        pytest.param((*ON, "gateway.port=80"), "minimum", id="a port that needs root"),
        pytest.param((*ON, "gateway.collectionRate=1.5"), "collectionRate", id="more than all interactions"),
        pytest.param((*ON, "gateway.namespaces={a,a}"), "items at 0 and 1 are equal", id="a namespace twice"),
        pytest.param((*ON, "gateway.replica=3"), "additional properties 'replica' not allowed", id="a misspelt value"),
    ],
)
def test_a_bad_value_is_refused_by_name(settings: tuple[str, ...], want: str) -> None:
    with pytest.raises(HelmError) as refusal:
        render(*settings)
    assert want in str(refusal.value)


# rights


def test_it_may_list_policies_and_ask_who_calls_and_nothing_else(full: Rendered) -> None:
    """P19: the rights that the gateway's code was seen to need on a real API server, no more and no less."""
    for team in TEAMS:
        assert grants(full.one("Role", "ratchet-gateway", team)["rules"]) == grants(GATEWAY_RULES)
    assert grants(full.one("ClusterRole", "ratchet-gateway")["rules"]) == grants(REVIEW_RULES)


def test_it_may_make_runs_only_where_training_over_http_is_switched_on() -> None:
    rendered = render(*ON, "gateway.training.enabled=true")
    assert grants(rendered.one("Role", "ratchet-gateway")["rules"]) == grants([*GATEWAY_RULES, *TRAINING_RULES])


def test_every_binding_binds_the_gateways_own_account(full: Rendered) -> None:
    for team in TEAMS:
        assert pod(full, team)["spec"]["serviceAccountName"] == "ratchet-gateway"
        account = full.one("ServiceAccount", "ratchet-gateway", team)
        assert account["automountServiceAccountToken"] is False
        assert account["metadata"]["annotations"] == {"example.com/role": "log-writer"}
        binding = full.one("RoleBinding", "ratchet-gateway", team)
        assert (binding["roleRef"]["kind"], binding["roleRef"]["name"]) == ("Role", "ratchet-gateway")
        assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "ratchet-gateway", "namespace": team}]
    subjects = full.one("ClusterRoleBinding", "ratchet-gateway")["subjects"]
    assert [(each["name"], each["namespace"]) for each in subjects] == [("ratchet-gateway", team) for team in TEAMS]


def eraser(rendered: Rendered, namespace: str = NAMESPACE) -> Object:
    found: Object = rendered.one("CronJob", "ratchet-eraser", namespace)["spec"]
    return found


def test_who_erases_has_an_account_and_credentials_that_the_gateway_has_not(full: Rendered) -> None:
    """P19 and P30: the program that may delete takes no request, and the one that takes them may not delete."""
    for team in TEAMS:
        assert grants(full.one("Role", "ratchet-eraser", team)["rules"]) == grants(ERASER_RULES)
        binding = full.one("RoleBinding", "ratchet-eraser", team)
        assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "ratchet-eraser", "namespace": team}]
        account = full.one("ServiceAccount", "ratchet-eraser", team)
        assert account["metadata"]["annotations"] == {"example.com/role": "log-eraser"}
        spec = eraser(full, team)["jobTemplate"]["spec"]["template"]["spec"]
        secrets = {
            entry["valueFrom"]["secretKeyRef"]["name"] for entry in spec["containers"][0]["env"] if "valueFrom" in entry
        }
        assert (secrets, spec["serviceAccountName"]) == ({"eraser-store"}, "ratchet-eraser")
        policy = full.one("NetworkPolicy", "ratchet-eraser", team)["spec"]
        assert ("ingress" in policy, policy["policyTypes"]) == (False, ["Ingress", "Egress"])


def test_the_erasers_pod_is_restricted_and_starts_one_at_a_time(full: Rendered) -> None:
    """P20's like."""
    job = eraser(full, "team-a")
    spec = job["jobTemplate"]["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    gateway = pod(full, "team-a")["spec"]
    assert (spec["securityContext"], container["securityContext"]) == (
        gateway["securityContext"],
        gateway["containers"][0]["securityContext"],
    )
    assert (job["concurrencyPolicy"], spec["restartPolicy"]) == ("Forbid", "Never")
    environment = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert environment["RATCHET_ERASER_NAMESPACE"] == "team-a"


def test_without_a_secret_of_its_own_the_eraser_uses_the_stages(plain: Rendered) -> None:
    rendered = render(*ON, "store.secretName=stages")
    env = eraser(rendered)["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]["env"]
    assert {each["valueFrom"]["secretKeyRef"]["name"] for each in env if "valueFrom" in each} == {"stages"}
    assert not any("valueFrom" in each for each in pod(rendered)["spec"]["containers"][0]["env"])


def test_erasing_can_be_left_to_an_administrator() -> None:
    rendered = render(*ON, "gateway.erasures.enabled=false")
    assert "ratchet-eraser" not in {obj["metadata"]["name"] for obj in rendered.objects}


@pytest.mark.parametrize("schedule", ["often", "* * * *", "@hourly", ""])
def test_a_schedule_that_is_none_is_refused_by_the_charts_schema(schedule: str) -> None:
    with pytest.raises(HelmError, match="schedule"):
        render(*ON, f"gateway.erasures.schedule={schedule}")


def test_with_api_keys_alone_it_needs_no_right_in_the_cluster() -> None:
    rendered = render(*ON, "gateway.auth={keys}", "gateway.keysSecretName=k", "rbac.aggregate=false")
    assert [role["metadata"]["name"] for role in rendered.all("ClusterRole")] == ["ratchet-operator"]
    assert rendered.one("Role", "ratchet-gateway")


# traffic


def test_the_operator_may_ask_it_with_a_token_that_opens_nothing_else(full: Rendered) -> None:
    spec = full.one("Deployment", "ratchet-operator", NAMESPACE)["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    told = {each["name"]: each.get("value") for each in container["env"]}
    assert told["RATCHET_GATEWAY_URL"] == "http://ratchet-gateway.{namespace}:8000"
    mount = next(each for each in container["volumeMounts"] if each["name"] == "gateway-token")
    assert told["RATCHET_GATEWAY_TOKEN_FILE"] == f"{mount['mountPath']}/token"
    (volume,) = [each for each in spec["volumes"] if each["name"] == "gateway-token"]
    (source,) = volume["projected"]["sources"]
    assert source["serviceAccountToken"]["audience"] == AUDIENCE
    policy = full.one("NetworkPolicy", "ratchet-operator", NAMESPACE)
    out = [rule for rule in policy["spec"]["egress"] if {"port": 8000, "protocol": "TCP"} in rule["ports"]]
    assert [rule["to"][0]["podSelector"]["matchLabels"] for rule in out] == [
        {
            "app.kubernetes.io/name": "ratchet",
            "app.kubernetes.io/instance": "ratchet",
            "app.kubernetes.io/component": "gateway",
        }
    ]


def test_its_network_policy_lets_in_callers_operator_and_prometheus_and_out_what_it_needs(full: Rendered) -> None:
    policy = full.one("NetworkPolicy", "ratchet-gateway", "team-a")["spec"]
    assert policy["podSelector"]["matchLabels"].items() <= pod(full, "team-a")["metadata"]["labels"].items()
    sources = [rule["from"][0]["namespaceSelector"]["matchLabels"] for rule in policy["ingress"]]
    operator = {"kubernetes.io/metadata.name": NAMESPACE}
    assert sources == [{"team": "applications"}, operator, {"team": "observability"}]
    assert {port["port"] for rule in policy["ingress"] for port in rule["ports"]} == {8000}
    assert [[port["port"] for port in rule["ports"]] for rule in policy["egress"]] == [[443, 6443], [53, 53], [443]]


def test_no_rule_without_a_source_undoes_the_restriction_of_callers() -> None:
    """Metrics and events share a port: scraping from anywhere would be calling from anywhere."""
    policy = render(*ON, "networkPolicy.enabled=true", "networkPolicy.gatewayFrom.team=a").one(
        "NetworkPolicy", "ratchet-gateway"
    )
    assert all("from" in rule for rule in policy["spec"]["ingress"])


def test_each_answers_outside_at_a_name_of_its_own(full: Rendered) -> None:
    for team in TEAMS:
        host = f"{team}.feedback.example.com"
        ingress = full.one("Ingress", namespace=team)["spec"]
        assert ingress["ingressClassName"] == "nginx"
        assert ingress["tls"] == [{"secretName": "certificate", "hosts": [host]}]
        (rule,) = ingress["rules"]
        assert rule["host"] == host
        assert rule["http"]["paths"][0]["backend"]["service"] == {"name": "ratchet-gateway", "port": {"name": "http"}}
        route = full.one("HTTPRoute", namespace=team)["spec"]
        assert (route["hostnames"], route["parentRefs"]) == ([host], [{"name": "shared"}])
        assert route["rules"] == [{"backendRefs": [{"name": "ratchet-gateway", "port": 8000}]}]


def test_prometheus_finds_the_gateways_of_every_namespace(full: Rendered) -> None:
    monitor = full.one("ServiceMonitor", "ratchet-gateway")["spec"]
    assert monitor["namespaceSelector"] == {"matchNames": list(TEAMS)}
    service = full.one("Service", "ratchet-gateway", "team-b")
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert monitor["endpoints"][0]["port"] == service["spec"]["ports"][0]["name"]
    operator = full.one("ServiceMonitor", "ratchet-operator")["spec"]["selector"]["matchLabels"]
    assert not operator.items() <= service["metadata"]["labels"].items()


def test_what_to_do_next_is_said_for_each_namespace() -> None:
    flags = [part for setting in ALL for part in ("--set", setting)]
    chart = ROOT / "charts" / "ratchet"
    notes = helm("install", "ratchet", chart, "--namespace", NAMESPACE, "--dry-run=client", *flags)
    for team in TEAMS:
        assert f"http://ratchet-gateway.{team}:8000" in notes
        assert f"kubectl create secret generic ratchet-gateway-signing --namespace {team}" in notes
