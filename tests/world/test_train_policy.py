"""`train_policy` from the request to the answer: the gateway makes two objects, the operator does the rest."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from ratchet_api.policy_types import GENERATOR
from ratchet_api.stage import StageInput
from ratchet_api.train_answers import Trained
from ratchet_gateway.policies import FixedPolicies, PolicyView
from ratchet_gateway.training import LocalTraining, answer
from ratchet_operator.cluster.memory_jobs import Act, golden
from tests.gateway_app import TEMPLATE, Gateway, running
from tests.world import builders as b
from tests.world.harness import NAMESPACE, World


class Cluster:
    """A world with a policy in it, and a gateway in front."""

    def __init__(self, play: Any = golden) -> None:
        self.world = World(play)
        self.world.submit(b.policy("router", training={"template": TEMPLATE.to_wire(), "suspend": True}))
        self.submitted: list[dict[str, Any]] = []
        self.training = LocalTraining(self._submit, lambda plural, name: self._find(plural, name))
        self.policies = FixedPolicies({"router": PolicyView("router", (), TEMPLATE), "other": PolicyView("other")})

    def _submit(self, body: dict[str, Any]) -> None:
        self.submitted.append(body)
        self.world.submit(body)

    def _find(self, plural: str, name: str) -> Any:
        return self.world.cluster.objects.get(plural, NAMESPACE, name)

    def finish(self, run: str) -> None:
        asyncio.run(self.world.finish(run))


def rate(gateway: Gateway, count: int = 12) -> None:
    events = [{"type": "score", "score": n % 2, "policy": "router", "idempotencyKey": f"k{n}"} for n in range(count)]
    gateway.post("/v1/feedback", {"events": events})


def opened(tmp_path: Path, cluster: Cluster, **more: Any) -> Any:
    return running(tmp_path, policies=cluster.policies, training=cluster.training, namespace=NAMESPACE, **more)


def test_training_starts_a_run_on_the_policys_feedback_and_says_what_it_became(tmp_path: Path) -> None:
    cluster = Cluster()
    with opened(tmp_path, cluster) as gateway:
        rate(gateway)
        answer = gateway.post("/api/policies/train_policy/router", {"learningRate": 1e-4, "maxSteps": 1})
        assert answer.status_code == 202
        name = answer.json()["runName"]
        assert answer.json() == {"status": "started", "runName": name, "datasetName": name, "feedbackCount": 12}
        under_way = gateway.get(f"/api/policies/train_policy/router/{name}").json()
        assert (under_way["status"], under_way["runName"]) == ("training", name)
        cluster.finish(name)
        done = gateway.get(f"/api/policies/train_policy/router/{name}").json()
    path, steps = done.pop("modelPath"), done.pop("trainingSteps")
    assert done == {
        "status": "trained",
        "policyId": "router",
        "version": 1,
        "rewardModelPath": None,
        "feedbackCount": 12,
        "rewardMean": 0.5,
        "rewardStd": 0.5,
    }
    assert f"/runs/{name}" in path
    assert isinstance(steps, int)
    dataset, run = cluster.submitted
    assert dataset["spec"]["source"]["feedback"] == {"policyRef": {"name": "router"}, "minRating": 4.0}
    assert run["spec"]["stages"]["supervised"]["learningRate"] == 1e-4
    assert 0.99 < run["spec"]["stages"]["supervised"]["epochs"] <= 1, "12 rows are one batch"


@pytest.mark.parametrize(
    ("people", "asked", "want"),
    [
        pytest.param(1, {}, None, id="one person has a laptop"),
        pytest.param(2, {}, None, id="of two each may have twice a half"),
        pytest.param(3, {}, {"maxSubjectSharePercent": 67}, id="twice an equal part"),
        pytest.param(60, {}, {"maxSubjectSharePercent": 10}, id="many people"),
        pytest.param(60, {"maxSubjectSharePercent": 2.5}, {"maxSubjectSharePercent": 2.5}, id="as asked for"),
        pytest.param(60, {"maxSubjectSharePercent": 100}, None, id="no cap"),
        pytest.param(0, {}, {"maxSubjectSharePercent": 10}, id="events without a name are different people"),
        pytest.param(
            3, {"maxSteps": 9}, {"maxSubjectSharePercent": 67, "maxSamples": 63}, id="beside the other filter"
        ),
    ],
)
def test_nobody_gives_more_than_a_share_of_what_is_trained_on(
    tmp_path: Path, people: int, asked: dict[str, Any], want: dict[str, Any] | None
) -> None:
    """P29: whom the answer was given to counts where the feedback names nobody; who only dislikes gives no rows."""
    cluster = Cluster()
    with opened(tmp_path, cluster) as gateway:
        names = [{"subject": f"person {n % people}"} if people else {} for n in range(60)]
        events = [{"type": "correction", "correction": "c", "policy": "router"} | name for name in names]
        events += [{"type": "thumbs_down", "policy": "router", "subject": f"troll {n}"} for n in range(2)]
        answered = {"policy": "router", "input": "q", "label": "c", **names[0]}
        signed = gateway.post("/v1/interactions", answered).json()["events"][0]["interactionId"]
        events.append({"type": "thumbs_up", "interactionId": signed})
        assert gateway.post("/v1/feedback", {"events": events}).status_code == 200
        assert gateway.post("/api/policies/train_policy/router", asked).status_code == 202
    assert cluster.submitted[0]["spec"].get("filters") == want


def test_a_closed_list_of_classes_reaches_the_data_set_and_a_generator_has_none(tmp_path: Path) -> None:
    """Whoever sends a correction may make a class up; only an administrator's list is trained on."""
    cluster = Cluster()
    cluster.policies = FixedPolicies(
        {"router": PolicyView("router", (), TEMPLATE), "talker": PolicyView("talker", (), TEMPLATE, type=GENERATOR)}
    )
    with opened(tmp_path, cluster) as gateway:
        rate(gateway)
        answer = gateway.post("/api/policies/train_policy/router", {"labels": ["login", "billing"]})
        refused = gateway.post("/api/policies/train_policy/talker", {"dryRun": True, "labels": ["login", "billing"]})
    assert (answer.status_code, refused.status_code) == (202, 422)
    assert cluster.submitted[0]["spec"]["labels"] == ["login", "billing"]
    assert refused.json()["detail"].startswith("labels: are of a classifier, and policy 'talker' is a generator")


def test_a_reward_model_that_was_trained_on_the_way_is_named(tmp_path: Path) -> None:
    cluster = Cluster()
    with opened(tmp_path, cluster) as gateway:
        rate(gateway)
        name = gateway.post("/api/policies/train_policy/router", {}).json()["runName"]
        cluster.finish(name)
        body = cluster._find("rltrainingruns", name)
    artifact = {"uri": "s3://b/team/runs/r/reward-model/1-pod", "digest": "a" * 64}
    body["status"]["stages"].append({"name": "reward-model", "state": "Succeeded", "artifact": artifact})
    port = LocalTraining(lambda _: None, lambda *_: body)
    told = asyncio.run(answer(port, "router", name))
    assert isinstance(told, Trained)
    assert told.reward_model_path == artifact["uri"]


def test_the_same_request_on_the_same_feedback_is_the_same_run(tmp_path: Path) -> None:
    cluster = Cluster()
    with opened(tmp_path, cluster) as gateway:
        rate(gateway)
        names = [gateway.post("/api/policies/train_policy/router", {}).json()["runName"] for _ in range(2)]
        other = gateway.post("/api/policies/train_policy/router", {"maxSteps": 5}).json()["runName"]
        gateway.clock.pass_(seconds=1)
        rate(gateway, 13)
        later = gateway.post("/api/policies/train_policy/router", {}).json()["runName"]
    assert len({*names, other, later}) == 3
    assert len(cluster.submitted) == 6


def test_asking_again_after_a_run_that_failed_starts_another(tmp_path: Path) -> None:
    model_is_there = False

    def play(stage: StageInput, pod: int) -> Act:
        return golden(stage, pod) if model_is_there else broken(stage, pod)

    cluster = Cluster(play)
    with opened(tmp_path, cluster) as gateway:
        rate(gateway)

        def ask() -> str:
            return str(gateway.post("/api/policies/train_policy/router", {}).json()["runName"])

        first = ask()
        assert ask() == first, "it may still end well"
        asyncio.run(cluster.world.settle(30))
        second = ask()
        assert second != first
        assert ask() == second
        model_is_there = True
        cluster.finish(second)
        ends = [gateway.get(f"/api/policies/train_policy/router/{name}").json()["status"] for name in (first, second)]
        assert ends == ["failed", "trained"]
        assert ask() == second, "what is trained is not trained again"


def test_who_waits_gets_the_end(tmp_path: Path) -> None:
    cluster = Cluster()
    ticks = cluster.world

    class Moving(LocalTraining):
        """Time passes in the world whenever somebody looks."""

        async def read(self, plural: str, name: str) -> Any:
            await ticks.tick()
            return await super().read(plural, name)

    cluster.training = Moving(cluster._submit, cluster._find)
    with opened(tmp_path, cluster, ask_seconds=0) as gateway:
        rate(gateway)
        answer = gateway.post("/api/policies/train_policy/router?wait=true", {})
    assert (answer.status_code, answer.json()["status"], answer.json()["version"]) == (200, "trained", 1)


def failing(stage: StageInput, pod: int) -> Act:
    return Act(exit_code=10) if stage.config.stage == "snapshot" else golden(stage, pod)


def broken(stage: StageInput, pod: int) -> Act:
    return Act(exit_code=13) if stage.config.stage == "supervised" else golden(stage, pod)


@pytest.mark.parametrize(
    ("play", "want"), [(failing, "DatasetFailed"), (broken, "BadModel")], ids=["its data", "its training"]
)
def test_a_run_that_fails_says_why(tmp_path: Path, play: Any, want: str) -> None:
    cluster = Cluster(play)
    with opened(tmp_path, cluster) as gateway:
        rate(gateway)
        name = gateway.post("/api/policies/train_policy/router", {}).json()["runName"]
        asyncio.run(cluster.world.settle(30))
        said = gateway.get(f"/api/policies/train_policy/router/{name}").json()
    assert (said["status"], said["reason"], said["runName"]) == ("failed", want, name)
    assert said["detail"]


def test_who_may_not_or_has_too_little_starts_nothing(tmp_path: Path) -> None:
    cluster = Cluster()
    with opened(tmp_path, cluster) as gateway:
        rate(gateway, 5)
        few = gateway.post("/api/policies/train_policy/router", {})
        assert (few.status_code, few.json()) == (
            400,
            {"detail": "Insufficient feedback: 5 samples (minimum 10 required)"},
        )
        rate(gateway)
        assert gateway.post("/api/policies/train_policy/router", {}, token="app").status_code == 403
        assert gateway.post("/api/policies/train_policy/router", {}, token="nobody").status_code == 401
        assert gateway.post("/api/policies/train_policy/other", {}).status_code == 422
        assert gateway.post("/api/policies/train_policy/nope", {}).status_code == 404
        assert gateway.get("/api/policies/train_policy/router/nope").status_code == 404
        assert gateway.get("/api/policies/train_policy/router/nope", token="app").status_code == 403
    assert cluster.submitted == []


def test_a_run_of_another_policy_is_not_shown_as_this_ones(tmp_path: Path) -> None:
    cluster = Cluster()
    with opened(tmp_path, cluster) as gateway:
        rate(gateway)
        name = gateway.post("/api/policies/train_policy/router", {}).json()["runName"]
        assert gateway.get(f"/api/policies/train_policy/other/{name}").status_code == 404


def test_a_gateway_that_knows_policies_by_name_only_says_that_it_starts_no_runs(tmp_path: Path) -> None:
    with running(tmp_path) as gateway:
        rate(gateway)
        answer = gateway.post("/api/policies/train_policy/router", {})
    assert answer.status_code == 422
    assert "ratchet up" in answer.json()["detail"]


def test_who_waits_for_a_run_that_somebody_deletes_is_told(tmp_path: Path) -> None:
    cluster = Cluster()
    cluster.training = LocalTraining(lambda body: None, lambda plural, name: None)  # what is made is gone at once
    with opened(tmp_path, cluster) as gateway:
        rate(gateway)
        answer = gateway.post("/api/policies/train_policy/router?wait=true", {})
    assert answer.status_code == 404
    assert "has no run" in answer.json()["detail"]
