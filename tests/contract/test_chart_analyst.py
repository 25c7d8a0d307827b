"""The analyst as the chart renders it: off unless asked for, restricted, without a right, in step with its settings."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from ratchet_gateway.analyst.settings import Settings
from ratchet_gateway.settings import Settings as GatewaySettings
from tests.asked import names_asked
from tests.contract.chart import NAMESPACE, HelmError, Object, Rendered, render, render_text
from tests.contract.test_chart_gateway import ALL, ON, TEAMS, pod

GOLDEN = Path(__file__).parent / "goldens" / "chart-analyst.yaml"
ASKED = ("gateway.analyst.enabled=true",)
MORE = (
    *ALL,
    *ASKED,
    "gateway.analyst.attributionSeconds=600",
    "gateway.analyst.storeSecretName=log-reader",
    "gateway.analyst.serviceAccount.annotations.example\\.com/role=log-reader",
)


@pytest.fixture(scope="module")
def full() -> Rendered:
    return render(*MORE)


def container_of(rendered: Rendered, namespace: str = NAMESPACE) -> Object:
    deployment: Object = rendered.one("Deployment", "ratchet-analyst", namespace)
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    return dict(container)


def test_the_analyst_renders_as_it_was_reviewed() -> None:
    """RATCHET_WRITE_GOLDENS=1 accepts a change; review it in the diff."""
    documents = re.split(r"(?m)^---$", render_text(*MORE))
    ours = re.compile(r"(?m)^    app\.kubernetes\.io/component: analyst$")
    text = "---".join(each for each in documents if ours.search(each))
    if os.environ.get("RATCHET_WRITE_GOLDENS") == "1":
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text()


@pytest.mark.parametrize("values", [ON, (*ASKED, "crds.enabled=false")], ids=["no analyst", "no gateway"])
def test_there_is_none_unless_both_are_asked_for(values: tuple[str, ...]) -> None:
    assert "ratchet-analyst" not in {obj["metadata"]["name"] for obj in render(*values).objects}


def test_each_namespace_gets_one_that_may_do_nothing_in_the_cluster(full: Rendered) -> None:
    """P19: it reads the store, and the API server knows it by no right and no token."""
    for team in TEAMS:
        made = {
            obj["kind"]
            for obj in full.objects
            if obj["metadata"]["name"] == "ratchet-analyst" and obj["metadata"].get("namespace") == team
        }
        assert made == {"Deployment", "Service", "ServiceAccount", "NetworkPolicy"}
        spec = full.one("Deployment", "ratchet-analyst", team)["spec"]["template"]["spec"]
        account = full.one("ServiceAccount", "ratchet-analyst", team)
        assert (spec["automountServiceAccountToken"], account["automountServiceAccountToken"]) == (False, False)
        assert account["metadata"]["annotations"] == {"example.com/role": "log-reader"}
        assert not any("secret" in volume for volume in spec["volumes"]), "it has no use for signing keys"


def test_its_pod_is_as_restricted_as_the_gateways(full: Rendered) -> None:
    """P20's like."""
    spec = full.one("Deployment", "ratchet-analyst", "team-a")["spec"]["template"]["spec"]
    gateway = pod(full, "team-a")["spec"]
    assert spec["securityContext"] == gateway["securityContext"]
    assert spec["containers"][0]["securityContext"] == gateway["containers"][0]["securityContext"]


def test_its_settings_are_those_that_it_reads(full: Rendered) -> None:
    environment = {each["name"]: each["value"] for each in container_of(full, "team-b")["env"] if "value" in each}
    settings = Settings.from_env(environment)
    assert (settings.namespace, settings.attribution_seconds, settings.host) == ("team-b", 600.0, "0.0.0.0")
    assert environment.keys() <= names_asked(Settings.from_env, ["RATCHET_STORE_URI", "RATCHET_ANALYST_NAMESPACE"])


def test_what_the_chart_leaves_alone_is_what_the_process_would_do_without_it() -> None:
    container = container_of(render(*ON, *ASKED))
    environment = {each["name"]: each["value"] for each in container["env"] if "value" in each}
    made, plain = Settings.from_env(environment), Settings(store=Settings.from_env(environment).store, namespace="n")
    for name in ("attribution_seconds", "settle_seconds", "days", "port", "log_level"):
        assert getattr(made, name) == getattr(plain, name), name


def test_service_and_probes_meet_the_port_that_it_listens_on(full: Rendered) -> None:
    container = container_of(full, "team-a")
    (port,) = container["ports"]
    settings = Settings.from_env({each["name"]: each["value"] for each in container["env"] if "value" in each})
    assert port["containerPort"] == settings.port
    for probe, path in (("startupProbe", "/healthz"), ("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")):
        assert container[probe]["httpGet"] == {"path": path, "port": port["name"]}
    service = full.one("Service", "ratchet-analyst", "team-a")["spec"]
    labels = full.one("Deployment", "ratchet-analyst", "team-a")["spec"]["template"]["metadata"]["labels"]
    assert service["selector"].items() <= labels.items()
    gateway = full.one("Service", "ratchet-gateway", "team-a")["spec"]["selector"]
    assert not gateway.items() <= labels.items(), "nobody sends it feedback"


@pytest.mark.parametrize(
    ("values", "want"),
    [(ON, ""), ((*ON, *ASKED), "http://ratchet-analyst.{namespace}:8090"), ((*ASKED, "crds.enabled=false"), "")],
    ids=["no analyst", "an analyst", "no gateway"],
)
def test_the_operator_asks_it_where_there_is_one(values: tuple[str, ...], want: str) -> None:
    rendered = render(*values)
    (container,) = rendered.one("Deployment", "ratchet-operator")["spec"]["template"]["spec"]["containers"]
    told = {each["name"]: each.get("value") for each in container["env"]}["RATCHET_OPERATOR_ANALYST_URL"]
    assert told == want
    if told:
        service = rendered.one("Service", "ratchet-analyst")
        assert told == f"http://{service['metadata']['name']}.{{namespace}}:{service['spec']['ports'][0]['port']}"


def test_gateways_ask_the_one_of_their_namespace_where_there_is_one(full: Rendered) -> None:
    """Their settings name its Service, and both sides' network policies let it through."""

    def asked(rendered: Rendered, namespace: str) -> str:
        (container,) = rendered.one("Deployment", "ratchet-gateway", namespace)["spec"]["template"]["spec"][
            "containers"
        ]
        made = {each["name"]: each["value"] for each in container["env"] if "value" in each}
        return GatewaySettings.from_env(made).analyst_url

    service = full.one("Service", "ratchet-analyst", "team-a")
    assert asked(full, "team-a") == f"http://{service['metadata']['name']}:{service['spec']['ports'][0]['port']}"
    assert asked(render(*ON), NAMESPACE) == ""
    labels = full.one("Deployment", "ratchet-analyst", "team-a")["spec"]["template"]["metadata"]["labels"]
    ways = [rule for rule in full.one("NetworkPolicy", "ratchet-gateway", "team-a")["spec"]["egress"] if "to" in rule]
    assert [rule["ports"] for rule in ways] == [[{"port": 8090, "protocol": "TCP"}]]
    assert ways[0]["to"][0]["podSelector"]["matchLabels"].items() <= labels.items()


@pytest.mark.parametrize(("values", "want"), [((), "gateway-store"), (("gateway.storeSecretName=",), None)])
def test_without_credentials_of_its_own_it_uses_the_gateways(values: tuple[str, ...], want: str | None) -> None:
    rendered = render(*ON, "gateway.storeSecretName=gateway-store", *ASKED, *values)
    env = container_of(rendered)["env"]
    assert {each["valueFrom"]["secretKeyRef"]["name"] for each in env if "valueFrom" in each} == ({want} - {None})


def test_only_the_operator_its_gateways_and_prometheus_reach_it(full: Rendered) -> None:
    policy = full.one("NetworkPolicy", "ratchet-analyst", "team-a")["spec"]
    asked, shown, scraped = policy["ingress"]
    gateway = full.one("Deployment", "ratchet-gateway", "team-a")["spec"]["template"]["metadata"]["labels"]
    assert shown["from"][0].keys() == {"podSelector"}
    assert shown["from"][0]["podSelector"]["matchLabels"].items() <= gateway.items()
    operator = full.one("Deployment", "ratchet-operator")["spec"]["template"]["metadata"]["labels"]
    assert asked["from"][0]["podSelector"]["matchLabels"].items() <= operator.items()
    assert scraped["from"] == [{"namespaceSelector": {"matchLabels": {"team": "observability"}}}]
    assert {port["port"] for rule in policy["egress"] for port in rule["ports"]} == {53, 443}


@pytest.mark.parametrize(
    ("value", "want"),
    [
        ("attributionSeconds=0", "attributionSeconds"),
        ("settleSeconds=-1", "settleSeconds"),
        ("days=1000", "days"),
        ("diskLimit=much", "diskLimit"),
        ("windowSeconds=60", "windowSeconds"),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_the_charts_schema(value: str, want: str) -> None:
    with pytest.raises(HelmError, match=want):
        render(*ON, f"gateway.analyst.{value}")
