"""From feedback posted over HTTP to a trained version, on the real cluster: the Service, the log, a dataset, a run.

And what is posted later makes a new snapshot by itself, since the operator asks the gateway how much is new.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from ratchet_api.client import GatewayClient, GatewayError
from ratchet_api.names import LABEL_STAGE
from ratchet_api.train_answers import Trained
from tests.e2e.platform import EXAMPLE, Platform
from tests.e2e.test_the_gateway import Door, role

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]

POLICY, FOLLOWING = "taught", "following"
ANSWERS = ("billing", "login")
EVENTS = 120
NODES = 2


def rated(first: int, count: int) -> list[dict[str, Any]]:
    """Answers of two classes that people rated with five stars, each to another question."""
    asked = ("why was my card charged twice", "my password does not work")
    return [
        {
            "type": "rating",
            "policy": POLICY,
            "rating": 5,
            "prompt": f"case {n}: {asked[n % 2]}",
            "response": ANSWERS[n % 2],
            "runId": f"r{n}",
        }
        for n in range(first, first + count)
    ]


def policy_with_a_template() -> dict[str, Any]:
    """A policy that stamps nothing by itself, with the example's encoder and little to do."""
    example = yaml.safe_load((EXAMPLE / "run.yaml").read_text())["spec"]
    template = {
        "baseModel": example["baseModel"],
        "datasetRef": {"name": "none"},
        "lora": {"rank": 4, "alpha": 8, "lastBlocks": 1},
        "stages": {
            "supervised": {"maxTokens": 32, "nodes": NODES, "resources": {"cpu": 0.5, "memoryGi": 3}},
            "evaluate": {"resources": {"cpu": 1, "memoryGi": 3}},
        },
    }
    return {
        "apiVersion": "ratchet.dev/v1alpha1",
        "kind": "RLPolicy",
        "metadata": {"name": POLICY},
        "spec": {"type": "classifier", "training": {"suspend": True, "template": template}},
    }


class Application:
    """An application with a token for feedback, and one that may train."""

    def __init__(self, platform: Platform) -> None:
        self.platform, self._door = platform, Door(platform)
        self._sender, self._trainer = self._door.token("teacher-app"), self._door.token("trainer")

    def send(self, events: list[dict[str, Any]]) -> None:
        with self.platform.lab.inside(), GatewayClient(self._door.url, token=self._sender) as client:
            client.send_all(events)

    def train(self) -> Any:
        with self.platform.lab.inside(), GatewayClient(self._door.url, token=self._trainer) as client:
            return client.train(POLICY, max_steps=3)

    def became(self, run: str) -> Any:
        with self.platform.lab.inside(), GatewayClient(self._door.url, token=self._trainer) as client:
            return client.training(POLICY, run)


@pytest.fixture(scope="module")
def application(platform: Platform) -> Iterator[Application]:
    platform.apply(
        policy_with_a_template(),
        *role("teacher-app", ("rlpolicies/feedback", "create")),
        *role("trainer", ("rltrainingruns", "create"), ("rlpolicies", "get")),
    )
    yield Application(platform)
    platform.kubectl("delete", "rlp", POLICY, "--wait=false")
    platform.kubectl("delete", "fbd", FOLLOWING, "--wait=false", "--ignore-not-found")


def test_fewer_than_ten_samples_are_refused_with_the_number_seen(application: Application) -> None:
    application.send(rated(0, 5))
    with pytest.raises(GatewayError) as refused:
        application.train()
    assert refused.value.status == 400
    assert "Insufficient feedback: 5 samples (minimum 10 required)" in str(refused.value)


def test_feedback_posted_over_http_becomes_a_trained_version_whose_dataset_is_in_status(
    application: Application,
) -> None:
    """P24, to its end: every acknowledged event is a row of what the run was trained on."""
    platform = application.platform
    application.send(rated(5, EVENTS - 5))
    started = application.train()
    assert started.feedback_count == EVENTS
    run = platform.finish(started.run_name, 600)
    snapshot = platform.get("fbd", started.dataset_name)["status"]["snapshot"]
    assert run["status"]["resolved"]["datasetDigest"] == snapshot["digest"]
    assert (snapshot["counts"]["read"], snapshot["counts"]["kept"], snapshot["classes"]) == (EVENTS, EVENTS, 2)
    said = application.became(started.run_name)
    assert isinstance(said, Trained)
    assert (said.version, said.feedback_count) == (1, EVENTS)
    assert said.training_steps <= 3
    (version,) = platform.get("rlp", POLICY)["status"]["versions"]
    assert version["datasetDigest"] == snapshot["digest"]
    assert application.train().run_name == started.run_name, "equal feedback and an equal request are one run"


def test_the_stage_of_two_nodes_was_one_indexed_job_whose_pods_learned_as_one(application: Application) -> None:
    platform = application.platform
    run = application.train().run_name
    (job,) = (each for each in platform.jobs_of(run) if each["metadata"]["labels"][LABEL_STAGE] == "supervised")
    assert (job["spec"]["completionMode"], job["spec"]["parallelism"]) == ("Indexed", NODES)
    pods = [each for each in platform.pods_of(run) if each["metadata"]["labels"][LABEL_STAGE] == "supervised"]
    assert {each["status"]["phase"] for each in pods} == {"Succeeded"}
    digests, teams = set(), []
    for pod in pods:
        (container,) = pod["status"]["containerStatuses"]
        digests.add(json.loads(container["state"]["terminated"]["message"])["artifact"]["digest"])
        lines = map(json.loads, platform.kubectl("logs", pod["metadata"]["name"]).splitlines())
        teams += [(line["rank"], line["size"]) for line in lines if line["event"] == "team is complete"]
    assert sorted(teams) == [(0, NODES), (1, NODES)]
    stages = {each["name"]: each for each in platform.get("rltr", run)["status"]["stages"]}
    assert digests == {stages["supervised"]["artifact"]["digest"]}


def test_feedback_that_is_posted_later_makes_a_new_snapshot_by_itself(application: Application) -> None:
    platform = application.platform
    spec = {
        "type": "demonstrations",
        "source": {"feedback": {"policyRef": {"name": POLICY}, "minRating": 4}},
        "refresh": {"everyEvents": 20},
        "resources": {"cpu": 0.5, "memoryGi": 2},
    }
    meta = {"name": FOLLOWING}
    platform.apply({"apiVersion": "ratchet.dev/v1alpha1", "kind": "FeedbackDataset", "metadata": meta, "spec": spec})

    def status() -> dict[str, Any]:
        found: dict[str, Any] = platform.get("fbd", FOLLOWING).get("status", {})
        return found

    def waits_for_events() -> bool:
        return status().get("refresh", {}).get("newEvents") == 0

    platform.wait("the gateway to have counted no new event", waits_for_events)
    first = status()["snapshot"]
    assert first["counts"]["kept"] == EVENTS
    application.send(rated(EVENTS, 20))
    platform.wait("the snapshot of the later feedback", lambda: status()["snapshot"]["digest"] != first["digest"])
    platform.wait("the gateway to have counted again", waits_for_events)
    assert status()["snapshot"]["counts"]["kept"] == EVENTS + 20
    assert status()["refresh"]["number"] == 1
    assert len(platform.jobs_of(FOLLOWING)) == 1
