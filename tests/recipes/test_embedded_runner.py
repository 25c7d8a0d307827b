"""The embedded runner over real processes: stopping, killing, adopting, deleting, suspending."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ratchet_api.kinds import RL_TRAINING_RUN
from ratchet_api.names import ANNOTATION_INDEX
from ratchet_cli.home import find_home
from ratchet_cli.local import LocalBackend
from ratchet_operator.cluster.local import HomeBusy, LocalCluster
from ratchet_operator.cluster.processes import start_ticks
from ratchet_operator.cluster.protocol import Denied
from tests.recipes.embedded_host import Host, manifests, until


@pytest.fixture
def host(tmp_path: Path) -> Host:
    made = Host(tmp_path)
    made.plan()
    return made


def state(objects: dict[str, dict[str, object]]) -> object:
    status = objects["RLTrainingRun"]["status"]
    assert isinstance(status, dict)
    return status["state"]


async def test_a_run_goes_through_its_stages_and_a_second_command_starts_nothing(host: Host) -> None:
    """P6: what is committed never runs again."""
    rested, objects = await host.run(manifests())
    assert (rested, state(objects)) == (True, "Complete")
    assert host.starts() == ["snapshot", "resolve", "supervised", "evaluate"]
    _, again = await host.run(manifests())
    assert host.starts() == ["snapshot", "resolve", "supervised", "evaluate"]
    assert again["RLTrainingRun"]["status"] == objects["RLTrainingRun"]["status"]


async def test_stopping_asks_the_stage_to_checkpoint_and_the_same_command_goes_on(host: Host) -> None:
    """P12: SIGTERM reaches the stage, its exit 75 is not counted, the same attempt gets a new pod."""
    host.plan(supervised=["wait", "commit"])

    async def stop_when_it_trains(cluster: LocalCluster, stop: asyncio.Event) -> None:
        await until(lambda: bool(host.waiting_pids()))
        stop.set()

    rested, objects = await host.run(manifests(), meanwhile=stop_when_it_trains)
    assert (rested, state(objects)) == (False, "Running")
    assert start_ticks(host.waiting_pids()[0]) is None

    rested, objects = await host.run(manifests())
    assert (rested, state(objects)) == (True, "Complete")
    assert host.starts().count("supervised") == 2
    supervised = next(s for s in objects["RLTrainingRun"]["status"]["stages"] if s["name"] == "supervised")
    assert supervised["attempt"]["number"] == 1
    assert supervised["attempt"].get("countedFailures", 0) == 0


async def test_a_killed_command_leaves_its_stage_running_and_the_next_one_adopts_it(host: Host) -> None:
    """P5: after kill -9 the stage's process is taken over, not doubled."""
    host.plan(supervised=["until"])
    process = subprocess.Popen([sys.executable, "-m", "tests.recipes.embedded_host", str(host.folder)])
    try:
        await until(lambda: bool(host.waiting_pids()))
    finally:
        process.kill()
        process.wait()
    (stage,) = host.waiting_pids()
    assert start_ticks(stage) is not None

    async def let_it_commit(cluster: LocalCluster, stop: asyncio.Event) -> None:
        await until(lambda: cluster.runner.live == 1)
        host.release()

    rested, objects = await host.run(manifests(), meanwhile=let_it_commit)
    assert (rested, state(objects)) == (True, "Complete")
    assert host.starts().count("supervised") == 1


async def test_a_stage_that_committed_while_nobody_looked_is_not_run_again(host: Host) -> None:
    """P6: the end of an orphan is read from its termination message."""
    host.plan(supervised=["until"])
    process = subprocess.Popen([sys.executable, "-m", "tests.recipes.embedded_host", str(host.folder)])
    try:
        await until(lambda: bool(host.waiting_pids()))
    finally:
        process.kill()
        process.wait()
    (stage,) = host.waiting_pids()
    host.release()
    await until(lambda: start_ticks(stage) is None)
    rested, objects = await host.run(manifests())
    assert (rested, state(objects)) == (True, "Complete")
    assert host.starts().count("supervised") == 1


async def test_a_home_has_one_owner_at_a_time(host: Host) -> None:
    """P5: a second command on the same directory is refused and names the first."""
    with LocalCluster(host.home), pytest.raises(HomeBusy, match=f"in use by process {os.getpid()}"):
        LocalCluster(host.home)
    with LocalCluster(host.home) as cluster:
        assert cluster.objects.find_all("jobs") == []


async def test_deleting_a_run_mid_stage_ends_its_process_and_removes_every_child(host: Host) -> None:
    """P10, P11."""
    host.plan(supervised=["wait"])

    async def delete_when_it_trains(cluster: LocalCluster, stop: asyncio.Event) -> None:
        await until(lambda: bool(host.waiting_pids()))
        run = cluster.objects.find("rltrainingruns", "default", "run")
        assert run is not None
        await cluster.delete("rltrainingruns", "default", "run", uid=run["metadata"]["uid"])

    rested, objects = await host.run(manifests(), meanwhile=delete_when_it_trains)
    assert rested
    assert "RLTrainingRun" not in objects
    assert start_ticks(host.waiting_pids()[0]) is None
    with LocalCluster(host.home) as cluster:
        kinds = ("jobs", "pods")
        children = [each for kind in kinds for each in cluster.objects.find_all(kind)]
        owners = {owner["name"] for each in children for owner in each["metadata"]["ownerReferences"]}
        assert not any(name.startswith("run") for name in owners)


async def test_suspend_reaches_a_running_command_through_the_inbox_and_resume_goes_on(host: Host) -> None:
    host.plan(supervised=["wait", "commit"])

    async def suspend_when_it_trains(cluster: LocalCluster, stop: asyncio.Event) -> None:
        await until(lambda: bool(host.waiting_pids()))
        backend = LocalBackend(find_home(str(host.home), environ={}), "default")
        await asyncio.to_thread(backend.patch, RL_TRAINING_RUN, "run", {"spec": {"suspend": True}})

    rested, objects = await host.run(manifests(), meanwhile=suspend_when_it_trains)
    assert (rested, state(objects)) == (True, "Suspended")
    assert start_ticks(host.waiting_pids()[0]) is None
    rested, objects = await host.run(manifests(suspend=False))
    assert (rested, state(objects)) == (True, "Complete")


async def test_a_stage_that_ignores_sigterm_is_killed_when_its_grace_is_over(host: Host) -> None:
    host.plan(supervised=["ignore", "commit"])

    async def stop_when_it_trains(cluster: LocalCluster, stop: asyncio.Event) -> None:
        await until(lambda: bool(host.waiting_pids()))
        stop.set()

    rested, _ = await host.run(manifests(), meanwhile=stop_when_it_trains, grace_seconds=0.2)
    assert not rested
    assert start_ticks(host.waiting_pids()[0]) is None
    rested, objects = await host.run(manifests())
    assert (rested, state(objects)) == (True, "Complete")


@pytest.mark.parametrize(
    ("code", "want_state", "want_starts"),
    [(12, "Failed", 1), (1, "Failed", 1), (30, "Failed", 1), (137, "Failed", 2), (20, "Failed", 2)],
    ids=["user error", "traceback", "numbers", "killed twice", "store, backoffLimit 1"],
)
async def test_an_exit_code_is_retried_as_the_contract_says(
    host: Host, code: int, want_state: str, want_starts: int
) -> None:
    """P13: the table of exit codes holds for processes as it does for pods."""
    host.plan(supervised=[str(code)])
    _, objects = await host.run(manifests(backoffLimit=1))
    assert state(objects) == want_state
    assert host.starts().count("supervised") == want_starts


TEAM = {"stages": {"supervised": {"nodes": 2}}}


async def test_the_nodes_of_a_stage_are_processes_of_one_job_and_a_lost_one_is_replaced(host: Host) -> None:
    """P12: one of three starts leaves with a checkpoint, its successor goes on under the same attempt."""
    host.plan(supervised=["commit", "preempted", "commit"])
    _, objects = await host.run(manifests(**TEAM))
    assert state(objects) == "Complete"
    assert host.starts().count("supervised") == 3
    supervised = next(s for s in objects["RLTrainingRun"]["status"]["stages"] if s["name"] == "supervised")
    assert (supervised["attempt"]["number"], supervised["attempt"].get("countedFailures", 0)) == (1, 0)
    with LocalCluster(host.home) as cluster:
        job = next(job for job in cluster.objects.find_all("jobs") if "supervised" in job["metadata"]["name"])
        assert (job["status"]["succeeded"], job["status"]["active"]) == (2, 0)
        pods = [pod for pod in cluster.objects.find_all("pods") if "supervised" in pod["metadata"]["name"]]
        ended = [(pod["metadata"]["annotations"][ANNOTATION_INDEX], pod["status"]["phase"]) for pod in pods]
        assert sorted(phase for _, phase in ended) == ["Failed", "Succeeded", "Succeeded"]
        assert {index for index, phase in ended if phase == "Succeeded"} == {"0", "1"}


async def test_a_node_that_fails_ends_the_other_and_the_run(host: Host) -> None:
    """P13: the reason is that of the node that failed, not of the one that was asked to leave."""
    host.plan(supervised=["wait", "after wait 12"])
    _, objects = await host.run(manifests(**TEAM))
    assert state(objects) == "Failed"
    assert start_ticks(host.waiting_pids()[0]) is None
    failed = next(c for c in objects["RLTrainingRun"]["status"]["conditions"] if c["type"] == "Failed")
    assert failed["reason"] == "BadLabels"


async def test_stopping_asks_every_node_and_the_same_command_goes_on_with_all(host: Host) -> None:
    """P12."""
    host.plan(supervised=["wait", "wait", "commit"])

    async def stop_when_both_train(cluster: LocalCluster, stop: asyncio.Event) -> None:
        await until(lambda: len(host.waiting_pids()) == 2)
        stop.set()

    rested, _ = await host.run(manifests(**TEAM), meanwhile=stop_when_both_train)
    assert not rested
    assert [start_ticks(pid) for pid in host.waiting_pids()] == [None, None]
    rested, objects = await host.run(manifests(**TEAM))
    assert (rested, state(objects)) == (True, "Complete")
    assert host.starts().count("supervised") == 4


async def test_the_failure_message_names_what_the_stage_said(host: Host) -> None:
    """P39."""
    host.plan(resolve=["13"])
    _, objects = await host.run(manifests())
    failed = next(c for c in objects["RLTrainingRun"]["status"]["conditions"] if c["type"] == "Failed")
    assert failed["reason"] == "BadModel"
    assert "resolve said 13" in failed["message"]


async def test_a_deadline_ends_the_process_and_the_run(host: Host) -> None:
    host.plan(supervised=["wait"])
    _, objects = await host.run(manifests(activeDeadlineSeconds=10))
    assert state(objects) == "Failed"
    assert start_ticks(host.waiting_pids()[0]) is None


async def test_the_spec_of_a_started_run_cannot_change(host: Host) -> None:
    """The CEL rule of the CRD, without an API server: the message names the fields and the ways out."""
    await host.run(manifests())
    with pytest.raises(Denied, match=r"spec\.seed cannot change.*another metadata\.name"):
        await host.run(manifests(seed=7))


async def test_a_name_of_253_characters_runs(host: Host) -> None:
    name = "r" * 253
    _, objects = await host.run(manifests(name))
    assert state(objects) == "Complete"


async def test_a_run_deleted_and_made_again_under_its_name_is_a_new_run(host: Host) -> None:
    """The uid is new, so nothing of the old one is taken for the new one's."""
    _, first = await host.run(manifests())
    with LocalCluster(host.home) as cluster:
        cluster.objects.end("rltrainingruns", first["RLTrainingRun"])
    _, second = await host.run(manifests())
    assert state(second) == "Complete"
    assert second["RLTrainingRun"]["metadata"]["uid"] != first["RLTrainingRun"]["metadata"]["uid"]
    assert host.starts().count("supervised") == 2


async def test_a_queue_name_does_not_hold_a_job_back_where_no_queue_is(host: Host) -> None:
    _, objects = await host.run(manifests(placement={"queueName": "team"}))
    assert state(objects) == "Complete"


async def test_logs_and_pods_of_a_stage_are_found_by_the_local_verbs(host: Host) -> None:
    await host.run(manifests())
    backend = LocalBackend(find_home(str(host.home), environ={}), "default")
    (pod,) = backend.pods(RL_TRAINING_RUN, "run", "supervised")
    assert list(backend.logs(pod, follow=True)) == ["supervised: commit"]


async def test_signals_reach_the_whole_process_group(host: Host) -> None:
    """The stage leads a group of its own: its helpers end with it, and a terminal's Ctrl-C does not reach it."""
    host.plan(supervised=["wait"])

    async def look(cluster: LocalCluster, stop: asyncio.Event) -> None:
        await until(lambda: bool(host.waiting_pids()))
        (pid,) = host.waiting_pids()
        assert os.getpgid(pid) == pid != os.getpgid(0)
        os.killpg(pid, signal.SIGTERM)
        stop.set()

    rested, _ = await host.run(manifests(), meanwhile=look)
    assert not rested


def test_events_are_kept_as_json_lines(host: Host) -> None:
    asyncio.run(host.run(manifests()))
    rows = [json.loads(line) for line in (host.home / "events.jsonl").read_text().splitlines()]
    assert {"Succeeded", "SnapshotReady"} <= {row["reason"] for row in rows}
