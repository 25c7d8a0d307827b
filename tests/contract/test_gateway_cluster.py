"""The gateway against a real API server: who calls, which policies there are, and what it may not do itself."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client
from kubernetes.client.exceptions import ApiException

from ratchet_api.feedback import TrainRequest
from ratchet_api.train_answers import TrainRunning
from ratchet_gateway.auth import Role
from ratchet_gateway.datasets import Untold
from ratchet_gateway.datasets_kubernetes import KubernetesDatasets
from ratchet_gateway.errors import Away
from ratchet_gateway.policies import PolicyView
from ratchet_gateway.policies_kubernetes import KubernetesPolicies
from ratchet_gateway.tally import PolicyTally
from ratchet_gateway.tokenreview import AUDIENCE, KubernetesTokens
from ratchet_gateway.training import answer, manifests, start
from ratchet_gateway.training_kubernetes import KubernetesTraining
from ratchet_web.errors import Malformed
from tests.controlplane import ControlPlane
from tests.gateway_app import TEMPLATE, Clock, dataset_of_feedback

RBAC = "rbac.authorization.k8s.io"
GATEWAY_RULES = [{"apiGroups": ["ratchet.dev"], "resources": ["rlpolicies", "feedbackdatasets"], "verbs": ["list"]}]
REVIEW_RULES = [
    {"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]},
    {"apiGroups": ["authorization.k8s.io"], "resources": ["subjectaccessreviews"], "verbs": ["create"]},
]
CALLER_RULES: dict[Role, dict[str, Sequence[str]]] = {
    Role.INGEST: {"apiGroups": ["ratchet.dev"], "resources": ["rlpolicies/feedback"], "verbs": ["create"]},
    Role.READ: {"apiGroups": ["ratchet.dev"], "resources": ["rlpolicies"], "verbs": ["get"]},
    Role.TRAIN: {"apiGroups": ["ratchet.dev"], "resources": ["rltrainingruns"], "verbs": ["create"]},
    Role.ERASE: {"apiGroups": ["ratchet.dev"], "resources": ["rlpolicies/feedback"], "verbs": ["delete"]},
}
_numbers = itertools.count()


@dataclass
class Space:
    """One namespace with a gateway's account in it."""

    plane: ControlPlane
    name: str

    def account(self, name: str, *roles: Role) -> None:
        """A service account with the rights of these roles."""
        base = f"/api/v1/namespaces/{self.name}/serviceaccounts"
        self.plane.request("POST", base, {"metadata": {"name": name}})
        self.allow(name, [CALLER_RULES[role] for role in roles])

    def allow(self, name: str, rules: Sequence[Any]) -> None:
        base = f"/apis/{RBAC}/v1/namespaces/{self.name}"
        self.plane.request("POST", f"{base}/roles", {"metadata": {"name": name}, "rules": list(rules)})
        self.plane.request("POST", f"{base}/rolebindings", self._binding("Role", name))

    def also(self, account: str, role: str, rules: Sequence[Any]) -> None:
        """Give an account one more role."""
        base = f"/apis/{RBAC}/v1/namespaces/{self.name}"
        self.plane.request("POST", f"{base}/roles", {"metadata": {"name": role}, "rules": list(rules)})
        binding = self._binding("Role", role)
        binding["subjects"] = [{"kind": "ServiceAccount", "name": account, "namespace": self.name}]
        self.plane.request("POST", f"{base}/rolebindings", binding)

    def allow_reviews(self, name: str) -> None:
        whole = f"{self.name}-{name}"
        base = f"/apis/{RBAC}/v1"
        self.plane.request("POST", f"{base}/clusterroles", {"metadata": {"name": whole}, "rules": REVIEW_RULES})
        binding = self._binding("ClusterRole", whole) | {"metadata": {"name": whole}}
        binding["subjects"] = [{"kind": "ServiceAccount", "name": name, "namespace": self.name}]
        self.plane.request("POST", f"{base}/clusterrolebindings", binding)

    def _binding(self, kind: str, name: str) -> dict[str, Any]:
        return {
            "metadata": {"name": name},
            "roleRef": {"apiGroup": RBAC, "kind": kind, "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": self.name}],
        }

    def token(self, name: str, audience: str = AUDIENCE) -> str:
        path = f"/api/v1/namespaces/{self.name}/serviceaccounts/{name}/token"
        answer = self.plane.request("POST", path, {"spec": {"audiences": [audience]}})
        return str(answer["status"]["token"])

    def policy(self, name: str, *, status: Any = None, **spec: Any) -> None:
        base = f"/apis/ratchet.dev/v1alpha1/namespaces/{self.name}/rlpolicies"
        body = {"apiVersion": "ratchet.dev/v1alpha1", "kind": "RLPolicy", "metadata": {"name": name}}
        made = self.plane.request("POST", base, body | {"spec": {"type": "classifier", **spec}})
        if status is not None:
            self.plane.request("PUT", f"{base}/{name}/status", made | {"status": status})

    def api(self, folder: Path, name: str = "gateway") -> client.ApiClient:
        """The gateway's own client, as its service account."""
        (folder / "ca.crt").write_text(self.plane.authority())
        settings = client.Configuration()
        settings.host, settings.ssl_ca_cert = self.plane.url, str(folder / "ca.crt")
        settings.api_key = {"authorization": f"Bearer {self.token(name, 'https://kubernetes.default.svc')}"}
        return client.ApiClient(settings)


@pytest.fixture
def space(control_plane: ControlPlane) -> Space:
    made = Space(control_plane, control_plane.namespace(f"gateway-{next(_numbers)}"))
    made.account("gateway")
    made.also("gateway", "gateway-lists", GATEWAY_RULES)
    made.allow_reviews("gateway")
    return made


@pytest.mark.parametrize("roles", [(), (Role.INGEST,), (Role.READ,), (Role.TRAIN,), tuple(Role)], ids=str)
async def test_rights_in_the_cluster_are_roles_here(space: Space, tmp_path: Path, roles: tuple[Role, ...]) -> None:
    """P23: a role is exactly one right in this namespace."""
    space.account("app", *roles)
    tokens = KubernetesTokens(space.api(tmp_path), namespace=space.name, clock=Clock().monotonic)
    caller = await tokens.caller(space.token("app"))
    assert caller is not None
    assert (caller.name, caller.roles) == (f"system:serviceaccount:{space.name}:app", frozenset(roles))


async def test_a_right_in_another_namespace_is_none_here(
    space: Space, control_plane: ControlPlane, tmp_path: Path
) -> None:
    """P23."""
    other = Space(control_plane, control_plane.namespace(f"gateway-{next(_numbers)}"))
    other.account("app", *Role)
    tokens = KubernetesTokens(space.api(tmp_path), namespace=space.name, clock=Clock().monotonic)
    caller = await tokens.caller(other.token("app"))
    assert caller is not None
    assert caller.roles == frozenset()


TOKENS: dict[str, Callable[[Space], str]] = {
    "for another audience": lambda space: space.token("app", "https://kubernetes.default.svc"),
    "with a changed signature": lambda space: space.token("app")[:-4] + "AAAA",
    "made up": lambda space: "a.b.c",
    "no JSON web token": lambda space: "just-a-key",
}


@pytest.mark.parametrize("make", TOKENS.values(), ids=TOKENS)
async def test_nobody_is_known_by_a_token(space: Space, tmp_path: Path, make: Callable[[Space], str]) -> None:
    space.account("app", *Role)
    tokens = KubernetesTokens(space.api(tmp_path), namespace=space.name, clock=Clock().monotonic)
    assert await tokens.caller(make(space)) is None


async def test_a_right_that_is_taken_away_is_gone_within_a_minute(space: Space, tmp_path: Path) -> None:
    space.account("app", Role.INGEST)
    clock, token = Clock(), space.token("app")
    tokens = KubernetesTokens(space.api(tmp_path), namespace=space.name, clock=clock.monotonic)
    assert (await tokens.caller(token)).roles == {Role.INGEST}  # type: ignore[union-attr]
    space.plane.request("DELETE", f"/apis/{RBAC}/v1/namespaces/{space.name}/rolebindings/app")
    end = 0
    while (await tokens.caller(token)).roles and end < 100:  # type: ignore[union-attr]
        clock.pass_(seconds=61)
        end += 1
    assert (await tokens.caller(token)).roles == frozenset()  # type: ignore[union-attr]


async def test_without_an_api_server_a_token_is_neither_good_nor_bad(tmp_path: Path) -> None:
    settings = client.Configuration()
    settings.host, settings.retries = "http://127.0.0.1:9", False
    tokens = KubernetesTokens(client.ApiClient(settings), namespace="ns", clock=Clock().monotonic)
    with pytest.raises(Away, match="did not say whose token"):
        await tokens.caller("a.b.c")


async def test_policies_are_those_of_the_namespace_with_versions_and_template(space: Space, tmp_path: Path) -> None:
    published = {
        "version": 1,
        "run": "r",
        "runUid": "u",
        "uri": "s3://b/k",
        "digest": "0" * 64,
        "datasetDigest": "0" * 64,
        "metrics": {"macro_f1": 0.5},
        "published": "2026-11-01T00:00:00Z",
    }
    space.policy("bare", status={"versions": [published], "nextVersion": 2})
    space.policy("trained", training={"template": TEMPLATE.to_wire()})
    policies = KubernetesPolicies(space.api(tmp_path), namespace=space.name, clock=Clock().monotonic)
    bare, trained = await policies.find("bare"), await policies.find("trained")
    assert bare is not None
    assert trained is not None
    assert ([v.version for v in bare.versions], bare.versions[0].metrics, bare.template) == (
        [1],
        {"macro_f1": 0.5},
        None,
    )
    assert trained.template == TEMPLATE
    assert await policies.find("nope") is None


async def test_a_new_policy_is_found_within_seconds_and_guesses_make_no_calls(space: Space, tmp_path: Path) -> None:
    clock = Clock()
    policies = KubernetesPolicies(space.api(tmp_path), namespace=space.name, clock=clock.monotonic)
    assert await policies.find("late") is None
    space.policy("late")
    assert await policies.find("late") is None, "asked less than a second ago"
    clock.pass_(seconds=1)
    assert await policies.find("late") is not None


async def test_when_the_api_server_goes_away_the_last_policies_hold(space: Space, tmp_path: Path) -> None:
    """P37, the gateway's part."""
    space.policy("p")
    clock, api = Clock(), space.api(tmp_path)
    policies = KubernetesPolicies(api, namespace=space.name, clock=clock.monotonic)
    assert await policies.find("p") is not None
    api.configuration.host = "https://127.0.0.1:9"
    clock.pass_(minutes=30)
    assert await policies.find("p") is not None
    fresh = KubernetesPolicies(api, namespace=space.name, clock=clock.monotonic)
    with pytest.raises(Away, match="no policy was read yet"):
        await fresh.find("p")


async def test_data_sets_are_those_of_the_policys_feedback_and_hold_when_the_api_server_goes(
    space: Space, tmp_path: Path
) -> None:
    """P37, of the review page."""
    base = f"/apis/ratchet.dev/v1alpha1/namespaces/{space.name}/feedbackdatasets"
    for name, policy in (("votes", "router"), ("others", "bare")):
        space.plane.request("POST", base, dataset_of_feedback(name, policy=policy))
    clock, api = Clock(), space.api(tmp_path)
    datasets = KubernetesDatasets(api, namespace=space.name, clock=clock.monotonic)
    assert [each.name for each in await datasets.of("router")] == ["votes"]
    assert await datasets.of("nobody") == ()
    api.configuration.host = "https://127.0.0.1:9"
    clock.pass_(minutes=30)
    assert [each.name for each in await datasets.of("router")] == ["votes"]
    with pytest.raises(Untold, match="the API server does not answer"):
        await KubernetesDatasets(api, namespace=space.name, clock=clock.monotonic).of("router")


async def test_without_the_right_to_list_data_sets_the_page_is_told_so(space: Space, tmp_path: Path) -> None:
    space.account("stranger")
    api = space.api(tmp_path, "stranger")
    with pytest.raises(Untold, match="may not list feedbackdatasets in namespace"):
        await KubernetesDatasets(api, namespace=space.name, clock=Clock().monotonic).of("router")


def test_the_gateways_account_may_list_policies_and_data_sets_and_nothing_more(space: Space, tmp_path: Path) -> None:
    """P19: the rights granted here are the verbs that the tests above needed."""
    space.policy("p")
    objects = client.CustomObjectsApi(space.api(tmp_path))
    where = ("ratchet.dev", "v1alpha1", space.name, "rlpolicies")
    assert len(objects.list_namespaced_custom_object(*where)["items"]) == 1
    for call in (
        lambda: objects.get_namespaced_custom_object(*where, "p"),
        lambda: objects.delete_namespaced_custom_object(*where, "p"),
        lambda: objects.list_namespaced_custom_object("ratchet.dev", "v1alpha1", space.name, "rltrainingruns"),
        lambda: client.CoreV1Api(space.api(tmp_path)).list_namespaced_secret(space.name),
    ):
        with pytest.raises(ApiException) as refused:
            call()
        assert refused.value.status == 403


TRAINING_RULES = [
    {"apiGroups": ["ratchet.dev"], "resources": ["feedbackdatasets", "rltrainingruns"], "verbs": ["create", "get"]}
]


def training_pair(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    tally = PolicyTally("router")
    tally.add(
        {"id": str(n), "kind": "feedback", "policy": "router", "type": "thumbs_up", "received": name, "source": "app"}
        for n in range(12)
    )
    return manifests(PolicyView("router", (), TEMPLATE), TrainRequest(), tally, namespace=name)


async def test_a_run_and_its_data_are_made_in_the_cluster_once_and_can_be_asked_about(
    space: Space, tmp_path: Path
) -> None:
    space.also("gateway", "gateway-trains", TRAINING_RULES)
    training = KubernetesTraining(space.api(tmp_path), namespace=space.name)
    dataset, run = training_pair(space.name)
    for _ in range(2):
        await start(training, dataset, run)
    said = await answer(training, "router", run["metadata"]["name"])
    assert isinstance(said, TrainRunning)
    assert await answer(training, "router", "nobody-made-this") is None


async def test_without_the_right_the_gateway_says_which_one_it_lacks(space: Space, tmp_path: Path) -> None:
    training = KubernetesTraining(space.api(tmp_path), namespace=space.name)
    with pytest.raises(Away, match="may not create feedbackdatasets"):
        await start(training, *training_pair(space.name))
    with pytest.raises(Away, match="may not get rltrainingruns"):
        await answer(training, "router", "any")


async def test_an_object_that_the_server_refuses_is_the_callers_affair(space: Space, tmp_path: Path) -> None:
    space.also("gateway", "gateway-trains", TRAINING_RULES)
    training = KubernetesTraining(space.api(tmp_path), namespace=space.name)
    dataset, run = training_pair(space.name)
    dataset["spec"]["type"] = "guesses"
    with pytest.raises(Malformed, match="guesses"):
        await start(training, dataset, run)
