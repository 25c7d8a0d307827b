"""Runs that learn from a log of answers: they wait for both datasets, pin both, and tell the stages of both."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from ratchet_api.stage import ResolveConfig, RlConfig, StageInput
from ratchet_operator.cluster.memory_jobs import Act, golden
from tests.world import builders as b
from tests.world.harness import World

RL: dict[str, Any] = {"datasetRef": {"name": "log"}, "rewards": [{"type": "feedback"}]}
FROM_LOG: dict[str, Any] = {"mode": "supervised_then_rl", "stages": {"rl": RL}}


def the_log(**fields: Any) -> dict[str, Any]:
    return b.dataset("log", type="ratings", **fields)


def told(world: World, job: str) -> Any:
    """What a stage's pod was told."""
    return world.script._stage(world.job(job)).config


async def test_a_run_waits_for_the_log_too_and_names_it() -> None:
    world = World()
    world.submit(b.dataset(), b.run(**FROM_LOG))
    await world.settle(10)
    ready = world.condition("DataReady")
    assert (ready["status"], ready["reason"]) == ("False", "DatasetNotFound")
    assert "spec.stages.rl.datasetRef.name 'log': no such FeedbackDataset" in ready["message"]
    assert world.jobs() == ["complaints-snapshot-1"]
    world.submit(the_log())
    assert (await world.finish())["state"] == "Complete"


async def test_the_log_is_pinned_in_status_and_told_to_the_stages_that_read_it() -> None:
    world = World()
    world.submit(b.dataset(), the_log(), b.policy(), b.run(**FROM_LOG, publishTo={"name": "support"}))
    status = await world.finish()
    snapshot = world.status("FeedbackDataset", "log")["snapshot"]
    log = status["resolved"]["log"]
    assert log == {"digest": snapshot["digest"], "uri": snapshot["uri"], "rows": snapshot["counts"]["train"]}
    assert log["digest"] != status["resolved"]["datasetDigest"]
    resolve, rl = told(world, "router-resolve-1"), told(world, "router-rl-1")
    assert isinstance(resolve, ResolveConfig)
    assert isinstance(rl, RlConfig)
    assert resolve.log == rl.log
    assert rl.log is not None
    assert rl.log.digest == log["digest"]
    assert rl.dataset.digest == status["resolved"]["datasetDigest"]
    assert rl.log_policy == "support", "answers of another policy are not this one's"
    assert log["digest"] in world.condition("DataReady")["message"]


async def test_the_policy_that_a_run_starts_from_is_the_one_whose_log_it_reads() -> None:
    world = World()
    world.submit(b.dataset(), the_log(), b.policy(), b.run("first", publishTo={"name": "support"}))
    await world.finish("first")
    start = {"mode": "rl_only", "startFrom": {"policy": {"name": "support", "version": 1}}, "stages": {"rl": RL}}
    world.submit(b.run(**start))
    assert (await world.finish())["state"] == "Complete"
    config = told(world, "router-rl-1")
    assert config.log_policy == "support"
    assert config.start_artifact is not None


def digests(world: World, name: str) -> dict[str, str]:
    return {row["name"]: row["inputDigest"] for row in world.status(name=name)["stages"] if row["name"] != "resolve"}


async def test_another_log_means_another_rl_stage_and_the_same_supervised_one() -> None:
    world = World()
    other = b.dataset("other", type="ratings", split={"salt": "other"})
    world.submit(b.dataset(), the_log(), other, b.run(**FROM_LOG))
    world.submit(b.run("second", mode="supervised_then_rl", stages={"rl": {**RL, "datasetRef": {"name": "other"}}}))
    await world.finish()
    await world.finish("second")
    first, second = digests(world, "router"), digests(world, "second")
    assert first["supervised"] == second["supervised"]
    assert first["rl"] != second["rl"]
    assert first["evaluate"] != second["evaluate"]


async def test_the_same_log_under_another_name_is_the_same_input() -> None:
    world = World()
    world.submit(b.dataset(), the_log(), b.dataset("alias", type="ratings"), b.run(**FROM_LOG))
    world.submit(b.run("second", mode="supervised_then_rl", stages={"rl": {**RL, "datasetRef": {"name": "alias"}}}))
    await world.finish()
    await world.finish("second")
    assert digests(world, "router") == digests(world, "second")


@pytest.mark.parametrize(
    ("datasets", "want"),
    [
        pytest.param(
            (b.dataset(), b.dataset("log")),
            "spec.stages.rl.datasetRef.name 'log': FeedbackDataset 'log' has type 'classification', 'ratings' is",
            id="labels for a log",
        ),
        pytest.param(
            (b.dataset(type="ratings"), the_log()),
            "spec.datasetRef.name 'complaints': FeedbackDataset 'complaints' has type 'ratings', 'classification' is",
            id="a log for labels",
        ),
    ],
)
async def test_a_dataset_of_the_wrong_type_stalls_the_run_without_a_hot_loop(
    datasets: tuple[dict[str, Any], ...], want: str
) -> None:
    """P14."""
    world = World()
    world.submit(*datasets, b.run(**FROM_LOG))
    await world.run_until(lambda: world.condition("Stalled").get("reason") == "DatasetTypeMismatch")
    assert want in world.condition("Stalled")["message"]
    before, start = len(world.cluster.log), world.now
    await world.settle(60)
    minutes = (world.now - start) / timedelta(minutes=1)
    assert len([c for c in world.cluster.log[before:] if c.name.startswith("router")]) / minutes <= 6
    assert "router-resolve-1" not in world.jobs()


async def test_a_log_that_says_too_little_leaves_the_supervised_policy() -> None:
    def play(stage: StageInput, pod: int) -> Act:
        message = '{"state": "Failed", "reason": "NoSupport", "message": "the log is worth 12.0 answers"}'
        return Act(exit_code=32, message=message) if stage.config.stage == "rl" else golden(stage, pod)

    world = World(play)
    world.submit(b.dataset(), the_log(), b.policy(), b.run(**FROM_LOG, publishTo={"name": "support"}))
    assert (await world.finish())["state"] == "Complete"
    gate = world.condition("GatePassed")
    assert (gate["status"], gate["reason"]) == ("False", "RLFailed")
    assert "NoSupport" in gate["message"]
    assert "worth 12.0 answers" in gate["message"]


async def test_a_policys_template_is_stamped_for_each_new_log() -> None:
    world = World()
    template = b.template(**FROM_LOG)
    world.submit(b.dataset(), b.policy(training={"template": template}))
    await world.settle(20)
    assert not world.status("RLPolicy", "support").get("latestRun"), "the log is not there yet"
    world.submit(the_log())
    await world.settle(60)
    first = world.status("RLPolicy", "support")["latestRun"]
    world.edit("FeedbackDataset", "log", {"spec": {"split": {"salt": "newer"}}})
    await world.settle(60)
    assert world.status("RLPolicy", "support")["latestRun"] != first


async def test_a_deleted_log_does_not_reach_a_started_run() -> None:
    world = World(lambda stage, pod: Act(message=golden(stage, pod).message, steps=4))
    world.submit(b.dataset(), the_log(), b.run(**FROM_LOG))
    await world.run_until(lambda: world.status().get("stage") == "supervised")
    world.delete("FeedbackDataset", "log")
    assert (await world.finish())["state"] == "Complete"
