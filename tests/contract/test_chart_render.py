"""The chart as helm renders it: secure by default, closed to typing errors, in step with the operator's settings."""

from __future__ import annotations

import ast
import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

import ratchet_api
from ratchet_api.base import GROUP
from ratchet_api.kinds import KINDS
from ratchet_api.names import LABEL_COMPONENT, LABEL_MANAGED_BY, MANAGED_BY, PROGRESS_PORT, ROUTER_PORT, SERVER_PORT
from ratchet_operator.desired.serving import STATS_PORT
from ratchet_operator.settings import Settings
from tests.contract.chart import CHART, NAMESPACE, ROOT, SERVING, HelmError, Object, Rendered, helm, render, render_text

GOLDENS = Path(__file__).parent / "goldens"
EVERYTHING = (
    "watchNamespaces={team-a,team-b}",
    "store.uri=s3://bucket/root",
    "store.endpoint=http://s3.storage:9000",
    "store.secretName=store-credentials",
    "stages.serviceAccount.create=true",
    "monitoring.enabled=true",
    "networkPolicy.enabled=true",
    "networkPolicy.scrapeFrom.team=observability",
    "networkPolicy.judgePorts={8000}",
    "images.allowed={registry.example/*}",
    "images.pullSecrets={pull}",
    "priorityClasses.allowed={batch}",
    "crds.enabled=false",
    "rbac.aggregate=false",
)
SERVED = (
    *EVERYTHING,
    *SERVING,
    "serving.httpRoutes.enabled=true",
    "gateway.namespaces={team-a}",
    "watchNamespaces={team-a}",
)
ON = ",".join(SERVING)


@pytest.fixture(scope="module")
def default() -> Rendered:
    return render()


@pytest.fixture(scope="module")
def everything() -> Rendered:
    return render(*EVERYTHING)


@pytest.fixture(scope="module")
def served() -> Rendered:
    """Everything, and policies of one team are served."""
    return render(*SERVED)


@pytest.mark.parametrize(
    ("name", "settings"),
    [("default", ("crds.enabled=false",)), ("everything", EVERYTHING), ("serving", SERVED)],
    ids=["defaults", "everything switched on", "serving"],
)
def test_the_chart_renders_as_it_was_reviewed(name: str, settings: tuple[str, ...]) -> None:
    """RATCHET_WRITE_GOLDENS=1 accepts a change; review it in the diff."""
    golden = GOLDENS / f"chart-{name}.yaml"
    text = render_text(*settings)
    if os.environ.get("RATCHET_WRITE_GOLDENS") == "1":
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(text)
    assert text == golden.read_text()


def test_helm_lint_finds_nothing() -> None:
    assert "0 chart(s) failed" in helm("lint", "--strict", CHART)


# pods


def pod_template(rendered: Rendered) -> Object:
    template: Object = rendered.one("Deployment", "ratchet-operator")["spec"]["template"]
    return template


def test_the_operators_pod_passes_pod_security_restricted(default: Rendered) -> None:
    pod = pod_template(default)["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    assert all(set(volume) <= {"name", "emptyDir"} for volume in pod["volumes"])


def test_one_operator_runs_at_a_time_and_has_time_to_end(default: Rendered) -> None:
    spec = default.one("Deployment")["spec"]
    assert (spec["replicas"], spec["strategy"]["type"]) == (1, "Recreate")
    assert spec["template"]["spec"]["terminationGracePeriodSeconds"] == 30


def test_probes_ask_the_port_that_the_operator_serves(default: Rendered) -> None:
    (container,) = pod_template(default)["spec"]["containers"]
    (port,) = container["ports"]
    assert port["containerPort"] == Settings().http_port
    assert container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": port["name"]}
    assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": port["name"]}
    service = default.one("Service")
    assert service["spec"]["ports"][0]["targetPort"] == port["name"]
    assert service["spec"]["selector"].items() <= pod_template(default)["metadata"]["labels"].items()


def test_no_service_account_token_is_mounted_except_the_operators(everything: Rendered) -> None:
    assert pod_template(everything)["spec"]["automountServiceAccountToken"] is True
    accounts = everything.all("ServiceAccount")
    assert [(a["metadata"]["name"], a["metadata"]["namespace"]) for a in accounts] == [
        ("ratchet-operator", NAMESPACE),
        ("ratchet-stage", "team-a"),
        ("ratchet-stage", "team-b"),
    ]
    assert all(account["automountServiceAccountToken"] is False for account in accounts)


# settings


def environment(rendered: Rendered) -> dict[str, str]:
    (container,) = pod_template(rendered)["spec"]["containers"]
    return {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}


def variables_read() -> set[str]:
    """Every RATCHET_* name that stands in the operator's settings."""
    tree = ast.parse((ROOT / "operator/ratchet_operator/settings.py").read_text())
    texts = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str))
    return {text for text in texts if re.fullmatch(r"RATCHET_[A-Z_]+", text)}


def test_the_chart_sets_exactly_the_variables_that_the_operator_reads(default: Rendered) -> None:
    assert len(variables_read()) > 10
    assert set(environment(default)) == variables_read()


def test_the_charts_defaults_are_the_operators_defaults(default: Rendered) -> None:
    made = Settings.from_env(environment(default))
    assert made == Settings(stage_image=f"ghcr.io/ratchet/jobs:{ratchet_api.__version__}")


def test_every_value_reaches_the_operator(everything: Rendered) -> None:
    made = Settings.from_env(environment(everything))
    assert made.namespaces == ("team-a", "team-b")
    assert made.allowed_images == ("registry.example/*",)
    assert made.allowed_priority_classes == ("batch",)
    assert made.image_pull_secrets == ("pull",)
    assert made.stage_service_account == "ratchet-stage"
    assert made.store is not None
    assert (made.store.uri, made.store.endpoint, made.store.secret_name) == (
        "s3://bucket/root",
        "http://s3.storage:9000",
        "store-credentials",
    )


@pytest.mark.parametrize(
    ("setting", "read"),
    [
        ("timeScale=0.05", lambda made: made.time_scale == 0.05),
        ("operator.workers=3", lambda made: made.workers == 3),
        ("operator.resyncSeconds=60", lambda made: made.resync_seconds == 60),
        ("operator.httpPort=9500", lambda made: made.http_port == 9500),
        ("logLevel=debug", lambda made: made.log_level == "debug"),
        ("images.pullPolicy=Never", lambda made: made.image_pull_policy == "Never"),
        ("images.jobs=registry.example/jobs:1", lambda made: made.stage_image == "registry.example/jobs:1"),
        ("stages.uid=1000", lambda made: made.stage_uid == 1000),
        ("stages.serviceAccount.name=own", lambda made: made.stage_service_account == "own"),
        (f"{ON}", lambda made: made.serving.signing_secret == "ratchet-gateway-signing"),
        (f"{ON},images.serving=s:1", lambda made: made.serving.server_image == "s:1"),
        (f"{ON},images.router=r:1", lambda made: made.serving.router_image == "r:1"),
        (f"{ON},images.vllm=v:1", lambda made: made.serving.vllm_image == "v:1"),
        (f"{ON},serving.serviceAccount.name=sa", lambda made: made.serving.service_account == "sa"),
        ("store.region=eu-central-1,store.uri=s3://b", lambda made: made.store.region == "eu-central-1"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_value_is_read_by_the_operator(setting: str, read: Any) -> None:
    assert read(Settings.from_env(environment(render(setting, "crds.enabled=false"))))


# values


@pytest.mark.parametrize(
    ("setting", "want"),
    [
        pytest.param("store.url=s3://b", "additional properties 'url' not allowed", id="a misspelt value"),
        pytest.param("replicas=2", "additional properties 'replicas' not allowed", id="a value that does not exist"),
        pytest.param("store.uri=file:///data", "does not match pattern", id="a local directory as store"),
        pytest.param("store.endpoint=minio:9000", "does not match pattern", id="an endpoint without a scheme"),
        pytest.param("logLevel=loud", "must be one of", id="an unknown log level"),
        pytest.param("timeScale=fast", "timeScale", id="a word for a number"),
        pytest.param("operator.workers=0", "minimum", id="no workers"),
        pytest.param("operator.httpPort=80", "minimum", id="a port that needs root"),
        pytest.param("watchNamespaces={Team}", "does not match pattern", id="an upper-case namespace"),
        pytest.param("watchNamespaces={a,a}", "items at 0 and 1 are equal", id="a namespace twice"),
        pytest.param("images.allowed={a b}", "does not match pattern", id="a blank in an image"),
        pytest.param("crds.keep=maybe", "got string, want boolean", id="a word for a switch"),
        pytest.param("fullnameOverride=a.b", "does not match pattern", id="a dot, which no Service may have"),
        # either would be written twice, or keep the Deployment from finding its pods
        pytest.param(r"commonLabels.app\.kubernetes\.io/instance=x", "invalid propertyName", id="a label of ours"),
        pytest.param(
            r"operator.podLabels.app\.kubernetes\.io/name=x", "invalid propertyName", id="the selector's label"
        ),
        # a rule without ports would let everything through
        pytest.param("networkPolicy.storePorts=null", "missing property 'storePorts'", id="no port of the store"),
        pytest.param("networkPolicy.apiServerPorts=null", "missing property 'apiServerPorts'", id="no port of the API"),
    ],
)
def test_a_bad_value_is_refused_by_name(setting: str, want: str) -> None:
    with pytest.raises(HelmError) as refusal:
        render(setting)
    path = setting.split("=")[0].replace("\\.", "/dot/")
    assert want in str(refusal.value)
    assert path.split(".")[-1].replace("/dot/", ".") in str(refusal.value)


def test_a_release_name_with_dots_gives_names_that_a_service_may_have() -> None:
    text = helm("template", "team.a", CHART, "--namespace", NAMESPACE)
    names = [
        obj["metadata"]["name"] for obj in yaml.safe_load_all(text) if obj and obj["kind"] != "CustomResourceDefinition"
    ]
    assert "team-a-ratchet-operator" in names
    assert not [name for name in names if "." in name]


def leaves(values: Mapping[str, Any], schema: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, bool]]:
    """Every value of values.yaml with whether the schema knows it."""
    for name, value in values.items():
        here = f"{path}.{name}".lstrip(".")
        known = schema.get("properties", {}).get(name)
        yield here, known is not None
        if isinstance(value, dict) and known and "properties" in known:
            yield from leaves(value, known, here)


def closed_objects(schema: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    if "properties" in schema:
        yield path, schema
    for name, part in schema.get("properties", {}).items():
        yield from closed_objects(part, f"{path}.{name}".lstrip("."))


def test_the_schema_is_closed_and_knows_every_value_and_no_other() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    known = dict(leaves(values, schema))
    assert len(known) > 40
    assert all(known.values()), [path for path, found in known.items() if not found]
    for path, part in closed_objects(schema):
        assert part["additionalProperties"] is False, path
        stray = {f"{path}.{name}".lstrip(".") for name in part["properties"]} - set(known) - {"global"}
        assert not stray, f"in the schema, not in values.yaml: {stray}"


def test_the_chart_has_the_version_of_the_package() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert chart["version"] == chart["appVersion"] == project["version"] == ratchet_api.__version__


# CRDs


def test_the_charts_crds_are_the_generated_ones_with_labels(default: Rendered) -> None:
    crds = default.all("CustomResourceDefinition")
    assert [crd["metadata"]["name"] for crd in crds] == sorted(f"{kind.plural}.{GROUP}" for kind in KINDS.values())
    for crd in crds:
        generated = yaml.safe_load((ROOT / f"crds/{GROUP}_{crd['spec']['names']['plural']}.yaml").read_text())
        assert crd["spec"] == generated["spec"]
        assert crd["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}


def test_crds_can_be_left_out_or_let_go() -> None:
    assert not render("crds.enabled=false").all("CustomResourceDefinition")
    for crd in render("crds.keep=false").all("CustomResourceDefinition"):
        assert "annotations" not in crd["metadata"]


# optional parts


def test_monitors_and_network_policies_are_off_by_default(default: Rendered) -> None:
    """Their kinds may be missing in the cluster, and a policy that does not fit cuts the operator off."""
    kinds = {obj["kind"] for obj in default.objects}
    assert not kinds & {"ServiceMonitor", "PodMonitor", "NetworkPolicy"}


def test_prometheus_finds_the_operator_and_the_stages(everything: Rendered) -> None:
    monitor = everything.one("ServiceMonitor")["spec"]
    assert monitor["selector"]["matchLabels"].items() <= everything.one("Service")["metadata"]["labels"].items()
    assert monitor["endpoints"][0]["port"] == everything.one("Service")["spec"]["ports"][0]["name"]
    stages = everything.one("PodMonitor")["spec"]
    assert stages["selector"]["matchLabels"] == {LABEL_MANAGED_BY: MANAGED_BY}
    assert stages["namespaceSelector"] == {"matchNames": ["team-a", "team-b"]}
    assert stages["podMetricsEndpoints"][0]["port"] == "progress"


def test_stage_pods_of_every_namespace_are_scraped_when_all_are_watched() -> None:
    spec = render("monitoring.enabled=true", "crds.enabled=false").one("PodMonitor")["spec"]
    assert spec["namespaceSelector"] == {"any": True}


def test_the_operators_network_policy_lets_through_what_it_needs_and_no_more(everything: Rendered) -> None:
    policy = everything.one("NetworkPolicy", namespace=NAMESPACE)["spec"]
    assert policy["podSelector"]["matchLabels"].items() <= pod_template(everything)["metadata"]["labels"].items()
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert [rule["ports"][0]["port"] for rule in policy["ingress"]] == [Settings().http_port]
    assert policy["ingress"][0]["from"] == [{"namespaceSelector": {"matchLabels": {"team": "observability"}}}]
    ports = [[port["port"] for port in rule["ports"]] for rule in policy["egress"]]
    assert ports == [[443, 6443], [53, 53], [9402]]
    stages = policy["egress"][2]["to"][0]["podSelector"]["matchLabels"]
    assert stages == {LABEL_MANAGED_BY: MANAGED_BY}


@pytest.mark.parametrize("namespace", ["team-a", "team-b"])
def test_stage_pods_reach_names_the_store_and_each_other_alone(everything: Rendered, namespace: str) -> None:
    policy = everything.one("NetworkPolicy", "ratchet-stages", namespace)["spec"]
    assert policy["podSelector"]["matchLabels"] == {LABEL_MANAGED_BY: MANAGED_BY}
    assert [[port["port"] for port in rule["ports"]] for rule in policy["ingress"]] == [[PROGRESS_PORT]] * 2 + [[1024]]
    assert [[port["port"] for port in rule["ports"]] for rule in policy["egress"]] == [[53, 53], [443], [1024]]
    other_nodes = [{"podSelector": {"matchLabels": {LABEL_MANAGED_BY: MANAGED_BY, LABEL_COMPONENT: "stage"}}}]
    assert policy["ingress"][2]["from"] == policy["egress"][2]["to"] == other_nodes, "of this namespace only"
    assert policy["ingress"][2]["ports"] == policy["egress"][2]["ports"]
    asks = policy["ingress"][0]["from"][0]
    assert asks["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": NAMESPACE}
    assert asks["podSelector"]["matchLabels"].items() <= pod_template(everything)["metadata"]["labels"].items()


def test_a_long_release_name_still_makes_valid_names() -> None:
    text = helm("template", "r" * 53, CHART, "--set", "crds.enabled=false", "--set", "monitoring.enabled=true")
    for obj in yaml.safe_load_all(text):
        if obj:
            assert len(obj["metadata"]["name"]) <= 63
            assert all(len(str(value)) <= 63 for value in obj["metadata"]["labels"].values())


def test_the_operator_reaches_routers_and_analysts_where_policies_are_served(served: Rendered) -> None:
    rules = served.one("NetworkPolicy", "ratchet-operator", NAMESPACE)["spec"]["egress"]
    assert [[port["port"] for port in rule["ports"]] for rule in rules][3:] == [[8000], [ROUTER_PORT], [8090]]


@pytest.mark.parametrize(
    "missing", ["gateway.enabled=false", "gateway.analyst.enabled=false"], ids=lambda value: value.split("=")[0]
)
def test_serving_without_what_it_rests_on_is_refused_with_the_remedy(missing: str) -> None:
    with pytest.raises(
        HelmError, match=r"serving\.enabled needs gateway\.enabled and gateway\.analyst\.enabled.*set both"
    ):
        render(*SERVING, missing)


def test_servers_are_reached_and_reach_their_gateway_besides_what_all_pods_may(served: Rendered) -> None:
    policy = served.one("NetworkPolicy", "ratchet-serving", "team-a")["spec"]
    (component,) = policy["podSelector"]["matchExpressions"]
    assert component["values"] == ["server", "router"]
    assert [rule["ports"][0]["port"] for rule in policy["ingress"]] == [ROUTER_PORT, STATS_PORT]
    assert [rule["ports"][0]["port"] for rule in policy["egress"]] == [SERVER_PORT, 8000]


def test_the_operator_reaches_prometheus_where_it_is_told_of_one() -> None:
    limited = ("networkPolicy.enabled=true", "networkPolicy.prometheusPort=9999", "crds.enabled=false", *SERVING)
    told = render(*limited, "serving.prometheus.url=http://prometheus.monitoring:80/of/{namespace}")
    (container,) = told.one("Deployment", "ratchet-operator")["spec"]["template"]["spec"]["containers"]
    env = {each["name"]: str(each.get("value", "")) for each in container["env"]}
    settings = Settings.from_env(env)
    assert (settings.prometheus_url, settings.prometheus_seconds) == (
        "http://prometheus.monitoring:80/of/{namespace}",
        5,
    )
    wanted = {"ports": [{"port": 9999, "protocol": "TCP"}]}
    assert wanted in told.one("NetworkPolicy", "ratchet-operator")["spec"]["egress"]
    assert wanted not in render(*limited).one("NetworkPolicy", "ratchet-operator")["spec"]["egress"]
