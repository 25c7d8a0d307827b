"""The story of a healthy run, rule by rule: what is created when, by how few writes, and where it ends."""

from __future__ import annotations

import pytest

from ratchet_api.stage import StageInput
from ratchet_operator.cluster.memory import WRITES, Call, Fault, NoFault
from ratchet_operator.cluster.memory_jobs import Act, committed, golden
from ratchet_operator.settings import Settings
from ratchet_operator.wakes import Key
from tests.world import builders as b
from tests.world.harness import World


async def test_a_run_trains_evaluates_publishes_and_is_complete() -> None:
    world = World()
    gates = {"gates": [{"metric": "accuracy", "minimum": 0.8}]}
    world.submit(b.dataset(), b.policy(), b.run(publishTo={"name": "support"}, evaluation=gates))
    status = await world.finish()
    assert status["state"] == "Complete"
    assert world.jobs() == ["complaints-snapshot-1", "router-evaluate-1", "router-resolve-1", "router-supervised-1"]
    assert [s["state"] for s in status["stages"]] == ["Succeeded"] * 3
    assert status["version"] == 1
    assert status["metrics"]["accuracy"] == 0.9
    assert status["artifact"] == world.stage("evaluate")["artifact"]
    assert world.status("RLPolicy", "support")["versions"][0]["digest"] == status["artifact"]["digest"]


async def ready_world(fault: Fault | None = None) -> World:
    """A world whose dataset has its snapshot."""
    world = World(fault=fault)
    world.submit(b.dataset())
    await world.run_until(lambda: world.condition("Ready", "FeedbackDataset", "complaints").get("status") == "True")
    await world.settle(3)
    return world


async def test_a_new_run_has_its_job_after_two_reads_and_three_writes() -> None:
    """The run itself is not read: the watch has shown it, and the status write's answer shows it again."""
    world = await ready_world()
    before = len(world.cluster.log)
    world.submit(b.run())
    await world.run_until(lambda: "router-resolve-1" in world.jobs())
    calls = world.cluster.log[before:]
    first_job = next(i for i, call in enumerate(calls) if (call.verb, call.resource) == ("create", "jobs"))
    assert [(c.verb, c.resource) for c in calls[: first_job + 1]] == [
        ("get", "feedbackdatasets"),
        ("get", "configmaps"),
        ("patch_status", "rltrainingruns"),
        ("create", "jobs"),
    ]


def stays_pending(stage: StageInput, pod: int) -> Act:
    """No node ever has room for a stage of a run."""
    return golden(stage, pod) if stage.config.stage == "snapshot" else Act(unschedulable="0/3 nodes are available")


async def test_a_pass_that_finds_nothing_new_writes_nothing() -> None:
    """Whatever the server makes of 0.0 (it stores 0), a status that says the same is the same."""
    world = World(stays_pending)
    world.submit(b.dataset(), b.run())
    await world.settle(30)
    before = len(world.cluster.log)
    for operator in world.operators:
        operator.restart()
        await operator.work()
    assert any(c.verb == "get" and c.name == "router" for c in world.cluster.log[before:])
    assert [c for c in world.cluster.log[before:] if c.verb in WRITES] == []


class EditsBefore(NoFault):
    """Somebody suspends the run just before the operator's first status write reaches the server."""

    def __init__(self) -> None:
        self.world: World | None = None

    def before(self, call: Call) -> None:
        if self.world is not None and (call.verb, call.resource) == ("patch_status", "rltrainingruns"):
            world, self.world = self.world, None
            world.edit("RLTrainingRun", "router", {"spec": {"suspend": True}})


async def test_a_sighting_that_is_out_of_date_ends_as_a_conflict_and_starts_nothing() -> None:
    """T2: what a watch showed is used for a locked status write at most."""
    fault = EditsBefore()
    world = await ready_world(fault)
    fault.world = world
    world.submit(b.run())
    await world.settle(10)
    assert fault.world is None
    assert world.status()["state"] == "Suspended"
    assert "router-resolve-1" not in world.jobs()


async def test_a_sighting_never_leads_to_an_action() -> None:
    """Should a rule ever act on a run without a status, the pass first reads the run."""
    world = await ready_world()
    world.submit(b.run())
    await world.run_until(lambda: "router-resolve-1" in world.jobs())
    operator, key = world.operators[0], Key("rltrainingruns", b.NAMESPACE, "router")
    started = world.object("RLTrainingRun", "router")
    world.cluster.objects.delete("jobs", b.NAMESPACE, "router-resolve-1")
    operator.sightings.saw(key, started)
    assert operator.sightings.take(key) is None
    operator.sightings._seen[key] = started  # as if a run with a status could be a sighting
    before = len(world.cluster.log)
    await operator.reconciler.reconcile(key)
    assert [c for c in world.cluster.log[before:] if c.verb in WRITES] == []


async def test_a_fully_cached_run_starts_only_the_resolve_pod() -> None:
    """P6: a committed stage never trains again."""

    def play(stage: StageInput, pod: int) -> Act:
        if stage.config.stage != "resolve":
            return golden(stage, pod)
        artifact = {"uri": "s3://bucket/root/earlier", "digest": "d" * 64}
        hits = {
            "supervised": {"artifact": artifact, "metrics": {"loss": 0.1}},
            "evaluate": {"artifact": artifact, "metrics": {"accuracy": 0.93}},
        }
        return committed(stage, hits=hits)

    world = World(play)
    world.submit(b.dataset(), b.run())
    status = await world.finish()
    assert world.jobs() == ["complaints-snapshot-1", "router-resolve-1"]
    assert [s["state"] for s in status["stages"]] == ["Succeeded", "Cached", "Cached"]
    assert status["metrics"] == {"accuracy": 0.93}
    assert status["artifact"]["uri"] == "s3://bucket/root/earlier"


async def test_a_hit_counts_only_when_every_stage_before_it_is_a_hit() -> None:
    def play(stage: StageInput, pod: int) -> Act:
        if stage.config.stage != "resolve":
            return golden(stage, pod)
        hit = {"artifact": {"uri": "s3://x", "digest": "d" * 64}, "metrics": {}}
        return committed(stage, hits={"evaluate": hit})

    world = World(play)
    world.submit(b.dataset(), b.run())
    status = await world.finish()
    assert [s["state"] for s in status["stages"]] == ["Succeeded"] * 3


@pytest.mark.parametrize("lost", ["router-supervised-1", "router-evaluate-1"])
async def test_a_recorded_stage_never_trains_again_even_if_its_job_is_deleted(lost: str) -> None:
    """P6: COMMIT recorded + Job deleted (TTL, human) -> no new Job."""
    world = World()
    world.submit(b.dataset(), b.run())
    stage = lost.split("-")[1]
    await world.run_until(lambda: bool(world.status().get("stages")) and world.stage(stage)["state"] == "Succeeded")
    world.cluster.objects.delete("jobs", b.NAMESPACE, lost)
    await world.finish()
    assert [row for row in world.script.started if row[1] == stage and row[2] != "1"] == []
    assert len([row for row in world.script.started if row[1] == stage]) == 1


async def test_a_job_that_vanished_before_its_result_was_seen_is_tried_again_under_a_new_name() -> None:
    """P6: the new attempt's stage finds the COMMIT and says AlreadyCommitted; nothing trains twice."""
    world = World()
    world.submit(b.dataset(), b.run())
    await world.run_until(lambda: world.condition("Running").get("status") == "True")
    world.cluster.objects.delete("jobs", b.NAMESPACE, "router-resolve-1")
    world.cluster.objects.collect()
    status = await world.finish()
    assert status["state"] == "Complete"
    assert world.stage("resolve")["attempt"]["number"] == 2
    assert world.stage("resolve")["attempt"]["countedFailures"] == 1


async def test_a_failed_gate_completes_the_run_without_publishing() -> None:
    world = World()
    gates = {
        "gates": [{"metric": "accuracy", "minimum": 0.95}, {"metric": "macro_f1", "label": "spam", "minimum": 0.5}]
    }
    world.submit(b.dataset(), b.policy(), b.run(publishTo={"name": "support"}, evaluation=gates))
    status = await world.finish()
    assert status["state"] == "GateFailed"
    assert world.condition("Complete")["reason"] == "GateFailed"
    assert "accuracy is 0.9, must be >= 0.95" in world.condition("GatePassed")["message"]
    assert [(g["value"], g["passed"]) for g in status["gates"]] == [(0.9, False), (0.8, True)]
    assert world.status("RLPolicy", "support")["versions"] == []


async def test_a_gate_on_a_number_that_was_not_measured_does_not_pass() -> None:
    """P35 in small: no data never promotes."""
    world = World()
    gates = {"gates": [{"metric": "coverage", "minimum": 0.0}, {"metric": "brier", "maximum": 1.0}]}
    world.submit(b.dataset(), b.run(evaluation=gates))
    status = await world.finish()
    assert status["state"] == "GateFailed"
    assert "coverage is not measured" in world.condition("GatePassed")["message"]


async def test_a_dry_run_starts_nothing_and_tells_the_estimate() -> None:
    world = World()
    stages = {"supervised": {"epochs": 3.0, "batchSize": 32, "resources": {"gpus": 2}}}
    world.submit(b.dataset(), b.run(dryRun=True, stages=stages))
    status = await world.finish()
    assert status["state"] == "DryRun"
    # 80 train rows in batches of 32 = 3 steps per epoch, 3 epochs
    assert status["estimate"] == {
        "stages": ["resolve", "supervised", "evaluate"],
        "trainRows": 80,
        "steps": 9,
        "gpus": 2,
    }
    assert world.jobs() == ["complaints-snapshot-1"]


async def test_progress_moves_in_status_and_is_cleared_when_the_stage_ends() -> None:
    def play(stage: StageInput, pod: int) -> Act:
        act = golden(stage, pod)
        return Act(message=act.message, steps=20) if stage.config.stage == "supervised" else act

    world = World(play)
    world.submit(b.dataset(), b.run())
    seen = []
    for tick in range(80):
        world.cluster.told = {
            "router-supervised-1-00000": {"stage": "supervised", "step": tick, "steps": 80, "etaSeconds": 200 - tick}
        }
        await world.tick()
        status = world.status()
        if status.get("stage") == "supervised" and status.get("progressPercent"):
            seen.append((status["progressPercent"], status["eta"]))
    assert len(set(seen)) >= 3
    assert all(percent.endswith("%") and "m" in eta for percent, eta in seen)
    assert world.status()["state"] == "Complete"
    assert world.status()["progressPercent"] == ""
    times = [s["progress"]["updated"] for h in world.statuses.values() for s in h if s.get("progress")]
    assert len(set(times)) <= 6  # 100 s of training, at most one write in 20 s


async def test_gpu_hours_are_gpus_times_the_servers_active_time() -> None:
    def play(stage: StageInput, pod: int) -> Act:
        act = golden(stage, pod)
        return Act(message=act.message, steps=12) if stage.config.stage == "supervised" else act

    world = World(play)
    world.submit(b.dataset(), b.run(stages={"supervised": {"resources": {"gpus": 4}}}))
    status = await world.finish()
    seconds = world.stage("supervised")["attempt"]["activeSeconds"]
    assert seconds >= 60
    assert status["gpuHours"] == pytest.approx(4 * seconds / 3600, abs=1e-4)


async def test_a_queued_run_waits_for_admission_and_its_suspend_is_never_touched() -> None:
    world = World()
    world.script.queue_admits = False
    world.submit(b.dataset(), b.run(placement={"queueName": "team-queue"}))
    await world.run_until(lambda: world.status().get("state") == "Queued")
    await world.settle(30)
    assert world.job("router-resolve-1")["spec"]["suspend"] is True
    assert world.job("router-resolve-1")["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team-queue"
    assert world.condition("Admitted")["reason"] == "WaitingForQueue"
    assert world.stage("resolve")["attempt"].get("started") is None
    world.script.queue_admits = True
    status = await world.finish()
    assert status["state"] == "Complete"


async def test_a_finished_run_is_deleted_after_its_time_to_live_and_not_before() -> None:
    world = World()
    world.submit(b.dataset(), b.run(ttlSecondsAfterFinished=600))
    await world.finish()
    await world.settle(100)
    assert world.over()
    await world.settle(40)
    assert world.cluster.objects.get("rltrainingruns", b.NAMESPACE, "router") is None
    assert world.jobs() == ["complaints-snapshot-1"]


async def test_a_namespaces_own_store_wins_over_the_operators() -> None:
    world = World(settings=Settings(stage_image="i"))
    data = {"uri": "s3://tenant", "endpoint": "http://other", "secretName": "tenant-key"}
    store = {"kind": "ConfigMap", "metadata": {"name": "ratchet-store", "namespace": b.NAMESPACE}, "data": data}
    world.cluster.objects.create("configmaps", store)
    world.submit(b.dataset(), b.run())
    await world.finish()
    container = world.job("router-resolve-1")["spec"]["template"]["spec"]["containers"][0]
    assert container["envFrom"] == [{"secretRef": {"name": "tenant-key"}}]
    assert world.status()["resolved"]["storeUri"] == "s3://tenant"
