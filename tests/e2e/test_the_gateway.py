"""Feedback over HTTP on the real cluster: through the Service, with a token that the API server knows, into S3."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from ratchet_api.client import GatewayClient, GatewayError
from ratchet_gateway.tokenreview import AUDIENCE
from tests.e2e.platform import TEAM, Platform
from tests.gateway_app import events_of

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]

POLICY = "rated"
PODS = "app.kubernetes.io/component=gateway"


def role(name: str, *rights: tuple[str, str]) -> list[Mapping[str, Any]]:
    """A service account with few rights on our kinds, each a resource and a verb."""
    rbac = "rbac.authorization.k8s.io"
    rules = [{"apiGroups": ["ratchet.dev"], "resources": [resource], "verbs": [verb]} for resource, verb in rights]
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}},
        {"apiVersion": f"{rbac}/v1", "kind": "Role", "metadata": {"name": name}, "rules": rules},
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "RoleBinding",
            "metadata": {"name": name},
            "roleRef": {"apiGroup": rbac, "kind": "Role", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": TEAM}],
        },
    ]


class Door:
    """The gateway's Service, called from inside the lab's network."""

    def __init__(self, platform: Platform) -> None:
        self.platform = platform
        service = platform.get("service", "ratchet-gateway")["spec"]
        self.url = f"http://{service['clusterIP']}:{service['ports'][0]['port']}"

    def token(self, account: str, audience: str = AUDIENCE) -> str:
        return self.platform.kubectl("create", "token", account, "--audience", audience).strip()

    def get(self, path: str) -> str:
        with self.platform.lab.inside(), urllib.request.urlopen(f"{self.url}{path}", timeout=30) as answer:
            return str(answer.read().decode())

    def send(self, token: str | None, **event: Any) -> Any:
        with self.platform.lab.inside(), GatewayClient(self.url, token=token) as client:
            return client.send({"type": "rating", "policy": POLICY, "rating": 5, **event})

    def log(self) -> list[dict[str, Any]]:
        keys = self.platform.keys(f"{TEAM}/log/")
        return [event for key in keys for event in events_of(TEAM, key, self.platform.read_object(key))]


@pytest.fixture(scope="module")
def door(platform: Platform) -> Iterator[Door]:
    """A policy, an application that may send feedback, and one that may only read."""
    policy = {"apiVersion": "ratchet.dev/v1alpha1", "kind": "RLPolicy", "metadata": {"name": POLICY}}
    objects = [{**policy, "spec": {"type": "classifier"}}, *role("app", ("rlpolicies/feedback", "create"))]
    objects += role("officer", ("rlpolicies/feedback", "delete"))
    platform.apply(*objects, *role("reader", ("rlpolicies", "get")))
    yield Door(platform)
    platform.kubectl("delete", "rlp", POLICY, "--wait=false")


def test_both_gateways_are_ready_and_say_what_the_store_keeps(door: Door) -> None:
    """This store's rights end at prefixes: it knows no create-only credentials."""
    pods = door.platform.items("pods", PODS)
    assert len(pods) == 2
    assert all(c["status"] == "True" for pod in pods for c in pod["status"]["conditions"] if c["type"] == "Ready")
    said = door.get("/readyz")
    assert "conditional PUT" in said, "whether it is atomic is P27's own test"
    assert "log: prefix only" in said


def test_an_event_sent_with_a_reviewed_token_is_a_segment_in_s3(door: Door) -> None:
    before = len(door.log())
    words = {"prompt": "q", "response": "billing", "subject": "anna", "idempotencyKey": "first"}
    ids = {door.send(door.token("app"), **words).id for _ in range(2)}
    (event,) = {event["id"]: event for event in door.log()[before:]}.values()
    assert ids == {event["id"]}
    assert (event["policy"], event["rating"], event["source"]) == (POLICY, 5, f"system:serviceaccount:{TEAM}:app")
    assert "anna" not in json.dumps(event), "subjects are stored as keyed hashes"


@pytest.mark.parametrize("who", ["nobody", "reader", "app, for another audience"])
def test_nobody_else_gets_an_event_in(door: Door, who: str) -> None:
    """P23: rights in the namespace are roles at the gateway."""
    tokens = {
        "nobody": lambda: None,
        "reader": lambda: door.token("reader"),
        "app, for another audience": lambda: door.token("app", "somebody-else"),
    }
    with pytest.raises(GatewayError) as refused:
        door.send(tokens[who]())
    assert refused.value.status == (403 if who == "reader" else 401)


def test_a_gateway_that_dies_takes_no_acknowledged_event_with_it(door: Door) -> None:
    """P24 and T20: the Service goes on with the other replica, and the client repeats what was not answered."""
    token = door.token("app")
    doomed = door.platform.items("pods", PODS)[0]["metadata"]["name"]
    for number in range(30):
        if number == 5:
            door.platform.kubectl("delete", "pod", doomed, "--grace-period=0", "--force", "--wait=false")
        door.send(token, runId=f"life-{number}")
    kept = [event["runId"] for event in door.log() if str(event.get("runId")).startswith("life-")]
    assert sorted(set(kept)) == sorted(f"life-{number}" for number in range(30))


def test_the_gateways_credentials_end_at_its_log(door: Door) -> None:
    """P23: another team's log and this team's artifacts are out of reach."""
    lab = door.platform.lab
    with lab.inside():
        client = door.platform.s3("gateway")
        for key in ("other-team/log/x", f"{TEAM}/runs/x", f"{TEAM}/index/x"):
            with pytest.raises(client.exceptions.ClientError, match="AccessDenied"):
                client.put_object(Bucket=lab.s3_bucket, Key=key, Body=b"x")


def test_whoever_asks_to_be_erased_is_gone_once_the_cronjobs_pod_has_run(door: Door) -> None:
    """P30: the chart's pod, with the account, the rights and the credentials that the chart gives it."""
    platform, words = door.platform, "carla alone would say this"
    for who in ("carla", "bert"):
        door.send(door.token("app"), prompt=words if who == "carla" else "anybody", response="login", subject=who)
    before = len(door.log())
    with platform.lab.inside(), GatewayClient(door.url, token=door.token("officer")) as client:
        asked = client.erase("carla")
    platform.kubectl("create", "job", "erase-now", "--from=cronjob/ratchet-eraser")

    def ended() -> bool:
        conditions = platform.get("job", "erase-now").get("status", {}).get("conditions", [])
        return any(each["type"] in ("Complete", "Failed") and each["status"] == "True" for each in conditions)

    platform.wait("the eraser's pod", ended, 120)
    assert platform.get("job", "erase-now")["status"].get("succeeded") == 1, platform.kubectl("logs", "job/erase-now")
    left = door.log()
    assert len(left) == before - 1
    assert words not in json.dumps(left)
    with platform.lab.inside(), GatewayClient(door.url, token=door.token("officer")) as client:
        told = client.erase("carla")
    assert (asked.status, told.status, told.id) == ("recorded", "done", asked.id)
    assert told.report is not None
    assert (told.report.events, told.report.left) == (1, 0)
