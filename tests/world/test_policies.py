"""Policies: numbers that only rise, a champion that changes only when asked, runs stamped once."""

from __future__ import annotations

from ratchet_api.label_sets import LabelSet
from ratchet_api.names import ANNOTATION_PROMOTE, ANNOTATION_REFRESH
from ratchet_api.stage import StageInput
from ratchet_operator.cluster.memory_jobs import Act, golden
from tests.world import builders as b
from tests.world.harness import World


async def with_versions(count: int) -> World:
    world = World()
    world.submit(b.dataset(), b.policy())
    for n in range(count):
        world.submit(b.run(f"run-{n:02d}", publishTo={"name": "support"}, seed=n))
        await world.finish(f"run-{n:02d}")
    return world


def promote(world: World, value: str | None) -> None:
    world.edit("RLPolicy", "support", {"metadata": {"annotations": {ANNOTATION_PROMOTE: value}}})


async def test_versions_are_numbered_in_order_and_nobody_is_champion_until_asked() -> None:
    world = await with_versions(3)
    status = world.status("RLPolicy", "support")
    assert [(v["version"], v["run"]) for v in status["versions"]] == [(1, "run-00"), (2, "run-01"), (3, "run-02")]
    assert status["nextVersion"] == 4
    assert "champion" not in status
    assert world.condition("Ready", "RLPolicy", "support")["reason"] == "NoVersion"


async def test_a_version_says_what_it_came_from_when_its_run_is_gone() -> None:
    world = await with_versions(1)
    run = world.object("RLTrainingRun", "run-00")
    world.delete("RLTrainingRun", "run-00")
    await world.settle(2)
    [version] = world.status("RLPolicy", "support")["versions"]
    assert version["baseModel"] == {name: run["spec"]["baseModel"][name] for name in ("uri", "sha256")}
    assert version["codeVersion"] == run["status"]["resolved"]["codeVersion"] != ""
    assert version["labels"] == LabelSet.of({"spam", "ham"}).to_wire()
    assert version["datasetDigest"] == run["status"]["resolved"]["datasetDigest"]


async def test_a_promoted_version_is_champion_with_a_row_in_the_ledger() -> None:
    world = await with_versions(2)
    promote(world, "2")
    await world.settle(2)
    promote(world, "1")
    await world.settle(2)
    status = world.status("RLPolicy", "support")
    assert status["champion"] == 1
    assert status["championDigest"] == status["versions"][0]["digest"]
    assert [row["version"] for row in status["ledger"]] == [2, 1]
    assert world.condition("Ready", "RLPolicy", "support")["status"] == "True"


async def test_asking_for_an_unknown_version_changes_nothing_and_says_so() -> None:
    for asked in ("7", "0", "-1", "two", "1.0", "٢", "9" * 300):
        world = await with_versions(1)
        promote(world, "1")
        await world.settle(2)
        promote(world, asked)
        await world.settle(2)
        ready = world.condition("Ready", "RLPolicy", "support")
        assert (ready["status"], ready["reason"]) == ("False", "VersionNotFound"), asked
        assert asked[:64] in ready["message"]
        assert world.status("RLPolicy", "support")["champion"] == 1
        promote(world, "1")
        await world.settle(2)
        assert world.condition("Ready", "RLPolicy", "support")["status"] == "True"


async def test_a_version_asked_for_before_it_exists_is_not_promoted_when_it_appears() -> None:
    world = await with_versions(1)
    promote(world, "2")
    await world.settle(2)
    world.submit(b.run("later", publishTo={"name": "support"}))
    await world.finish("later")
    assert world.status("RLPolicy", "support")["versions"][-1]["version"] == 2
    assert "champion" not in world.status("RLPolicy", "support")
    promote(world, None)
    await world.settle(2)
    promote(world, "2")
    await world.settle(2)
    assert world.status("RLPolicy", "support")["champion"] == 2


async def test_the_list_keeps_twenty_versions_and_always_the_champion() -> None:
    world = await with_versions(2)
    promote(world, "1")
    for n in range(25):
        world.submit(b.run(f"more-{n:02d}", publishTo={"name": "support"}, seed=n))
    for n in range(25):
        await world.finish(f"more-{n:02d}", ticks=600)
    status = world.status("RLPolicy", "support")
    numbers = [v["version"] for v in status["versions"]]
    assert len(numbers) == 20
    assert numbers[0] == 1
    assert numbers[1:] == list(range(9, 28))
    given = [world.status(name=f"more-{n:02d}")["version"] for n in range(25)]
    assert sorted(given) == list(range(3, 28))


async def test_numbers_are_not_used_again_after_a_run_is_deleted() -> None:
    world = await with_versions(2)
    world.delete("RLTrainingRun", "run-01")
    world.submit(b.run("again", publishTo={"name": "support"}))
    status = await world.finish("again")
    assert status["version"] == 3


async def test_an_unreadable_policy_status_never_lets_a_number_be_used_again() -> None:
    world = await with_versions(2)
    broken = {**world.status("RLPolicy", "support"), "ledger": "gone", "conditions": []}
    world.cluster.watchers.clear()
    world.cluster.objects.set_status("rlpolicies", world.object("RLPolicy", "support"), broken)
    world.cluster.watchers.append(world._watch)
    world.submit(b.run("again", publishTo={"name": "support"}))
    assert (await world.finish("again"))["version"] == 3


async def test_the_template_is_stamped_once_per_snapshot_and_change() -> None:
    world = World()
    world.submit(b.dataset(), b.policy(training={"template": b.template()}))
    await world.settle(60)
    runs = [run["metadata"]["name"] for run in world.cluster.objects.select("rltrainingruns")]
    assert len(runs) == 1
    run = world.object("RLTrainingRun", runs[0])
    assert run["metadata"]["ownerReferences"][0]["kind"] == "RLPolicy"
    assert run["metadata"]["labels"]["ratchet.dev/policy"] == "support"
    assert run["spec"]["publishTo"] == {"name": "support"}
    world.edit("RLPolicy", "support", {"spec": {"training": {"template": {"seed": 5}}}})
    await world.settle(60)
    assert len(world.cluster.objects.select("rltrainingruns")) == 2
    world.edit("RLPolicy", "support", {"spec": {"training": {"template": {"seed": None}}}})
    await world.settle(60)
    assert len(world.cluster.objects.select("rltrainingruns")) == 2
    assert [v["version"] for v in world.status("RLPolicy", "support")["versions"]] == [1, 2]


async def test_a_stamped_run_that_was_deleted_is_not_stamped_again() -> None:
    world = World()
    world.submit(b.dataset(), b.policy(training={"template": b.template()}))
    await world.settle(60)
    name = world.status("RLPolicy", "support")["latestRun"]
    world.delete("RLTrainingRun", name)
    await world.settle(70)
    assert world.cluster.objects.select("rltrainingruns") == []


async def test_a_suspended_training_stamps_nothing() -> None:
    world = World()
    world.submit(b.dataset(), b.policy(training={"template": b.template(), "suspend": True}))
    await world.settle(60)
    assert world.cluster.objects.select("rltrainingruns") == []


async def test_a_foreign_run_of_the_stamped_name_is_a_conflict() -> None:
    world = World()
    world.submit(b.dataset(), b.policy(training={"template": b.template()}))
    await world.settle(60)
    name = world.status("RLPolicy", "support")["latestRun"]
    other = World()
    other.submit(b.run(name))
    other.submit(b.dataset(), b.policy(training={"template": b.template()}))
    await other.settle(60)
    ready = other.condition("Ready", "RLPolicy", "support")
    assert ready["reason"] == "ChildConflict"
    assert name in ready["message"]


async def test_a_new_refresh_value_makes_a_new_snapshot_and_the_same_value_none() -> None:
    world = World()
    world.submit(b.dataset())
    await world.settle(20)
    world.edit("FeedbackDataset", "complaints", {"metadata": {"annotations": {ANNOTATION_REFRESH: "monday"}}})
    await world.settle(30)
    assert world.jobs() == ["complaints-snapshot-1", "complaints-snapshot-2"]
    assert world.status("FeedbackDataset", "complaints")["observedRefresh"] == "monday"
    await world.settle(70)
    assert len(world.jobs()) == 2


async def test_resources_of_a_ready_dataset_want_no_new_snapshot_but_content_does() -> None:
    world = World()
    world.submit(b.dataset())
    await world.settle(20)
    world.edit("FeedbackDataset", "complaints", {"spec": {"resources": {"memoryGi": 8}}})
    await world.settle(20)
    assert len(world.jobs()) == 1
    assert world.condition("Ready", "FeedbackDataset", "complaints")["observedGeneration"] == 2
    world.edit("FeedbackDataset", "complaints", {"spec": {"filters": {"minTextChars": 5}}})
    await world.settle(20)
    assert len(world.jobs()) == 2


async def test_a_ready_dataset_stays_usable_while_it_is_suspended() -> None:
    world = World()
    world.submit(b.dataset())
    await world.settle(20)
    world.edit("FeedbackDataset", "complaints", {"spec": {"suspend": True}})
    await world.settle(2)
    assert world.condition("Suspended", "FeedbackDataset", "complaints")["status"] == "True"
    world.submit(b.run())
    assert (await world.finish())["state"] == "Complete"
    world.edit("FeedbackDataset", "complaints", {"spec": {"filters": {"minTextChars": 5}}})
    await world.settle(20)
    assert world.jobs().count("complaints-snapshot-2") == 0
    world.edit("FeedbackDataset", "complaints", {"spec": {"suspend": False}})
    await world.settle(20)
    assert "complaints-snapshot-2" in world.jobs()
    assert world.condition("Suspended", "FeedbackDataset", "complaints")["status"] == "False"


async def test_suspending_a_dataset_stops_its_snapshot_and_resuming_makes_it_uncounted() -> None:
    def play(stage: StageInput, pod: int) -> Act:
        return Act(message=golden(stage, pod).message, steps=4)

    world = World(play)
    world.submit(b.dataset(backoffLimit=0))
    await world.run_until(lambda: world.status("FeedbackDataset", "complaints").get("state") == "Running")
    world.edit("FeedbackDataset", "complaints", {"spec": {"suspend": True}})
    await world.settle(20)
    assert world.status("FeedbackDataset", "complaints")["state"] == "Suspended"
    assert world.jobs() == []
    world.edit("FeedbackDataset", "complaints", {"spec": {"suspend": False}})
    await world.settle(20)
    assert world.status("FeedbackDataset", "complaints")["state"] == "Ready"


async def test_reverting_a_change_while_its_snapshot_is_made_keeps_the_old_snapshot_and_stops_the_job() -> None:
    """P17."""

    def play(stage: StageInput, pod: int) -> Act:
        return Act(message=golden(stage, pod).message, steps=4)

    world = World(play)
    world.submit(b.dataset())
    await world.settle(20)
    before = world.status("FeedbackDataset", "complaints")["snapshot"]
    world.edit("FeedbackDataset", "complaints", {"spec": {"filters": {"minTextChars": 5}}})
    await world.run_until(lambda: world.status("FeedbackDataset", "complaints")["state"] == "Running")
    world.edit("FeedbackDataset", "complaints", {"spec": {"filters": None}})
    await world.settle(20)
    status = world.status("FeedbackDataset", "complaints")
    assert status["state"] == "Ready"
    assert status["snapshot"] == before
    assert world.jobs() == ["complaints-snapshot-1"]
    world.submit(b.run())
    assert (await world.finish())["resolved"]["datasetDigest"] == before["digest"]


async def test_a_run_keeps_its_snapshot_when_the_dataset_moves_on() -> None:
    world = World()
    world.submit(b.dataset(), b.run())
    await world.run_until(lambda: "resolved" in world.status())
    digest = world.status()["resolved"]["datasetDigest"]
    world.edit("FeedbackDataset", "complaints", {"spec": {"filters": {"minTextChars": 5}}})
    status = await world.finish()
    assert status["state"] == "Complete"
    assert status["resolved"]["datasetDigest"] == digest
    assert world.status("FeedbackDataset", "complaints")["snapshot"]["digest"] != digest
