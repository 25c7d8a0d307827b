"""What follows from each way in which a stage can end: the exit table of the stage contract, acted out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ratchet_api.conditions import REASONS, Reason
from ratchet_api.stage import StageInput
from ratchet_operator.cluster.memory_jobs import Act, golden
from tests.world import builders as b
from tests.world.harness import World


def ending(*codes: int, stage: str = "supervised", **act: Any) -> Callable[[StageInput, int], Act]:
    """The stage's attempts end with these codes in order, then well."""

    def play(content: StageInput, pod: int) -> Act:
        if content.config.stage == stage and content.attempt <= len(codes):
            code = codes[content.attempt - 1]
            said = f'{{"state":"Failed","reason":"x","message":"the stage said {code}"}}'
            return Act(exit_code=code, message=said, **act)
        return golden(content, pod)

    return play


async def run_with(play: Callable[[StageInput, int], Act], **fields: Any) -> World:
    world = World(play)
    world.submit(b.dataset(), b.run(**fields))
    await world.finish(ticks=1500)
    return world


ONE_EXIT = {
    "a traceback is not retried": (1, "StageCrashed", 1),
    "a usage error is not retried": (2, "UsageError", 1),
    "bad data is not retried": (10, "BadData", 1),
    "bad config is not retried": (11, "BadConfig", 1),
    "bad labels are not retried": (12, "BadLabels", 1),
    "a bad model is not retried": (13, "BadModel", 1),
    "another user error is not retried": (19, "BadConfig", 1),
    "not a number is not retried": (30, "NotANumber", 1),
    "divergence is not retried": (31, "Diverged", 1),
    "an absent store is retried to the limit": (20, "RetriesExhausted", 4),
    "refused access is retried to the limit": (21, "RetriesExhausted", 4),
    "an absent object is retried to the limit": (22, "RetriesExhausted", 4),
    "a corrupt object is retried to the limit": (23, "RetriesExhausted", 4),
    "an accelerator fault is retried to the limit": (40, "RetriesExhausted", 4),
    "an absent judge is retried to the limit": (50, "RetriesExhausted", 4),
    "a kill is retried once": (137, "OutOfMemory", 2),
    "an unknown exit is retried twice": (99, "UnknownExit", 3),
}


@pytest.mark.parametrize(("code", "want_reason", "want_attempts"), ONE_EXIT.values(), ids=ONE_EXIT.keys())
async def test_exit_code_decides_reason_and_number_of_attempts(code: int, want_reason: str, want_attempts: int) -> None:
    """P13: user errors fail fast, infrastructure errors retry within the stated budget (backoffLimit 3)."""
    world = await run_with(ending(*[code] * 9))
    failed = world.condition("Failed")
    assert (failed["status"], failed["reason"]) == ("True", want_reason)
    assert world.stage("supervised")["attempt"]["number"] == want_attempts
    assert len([row for row in world.script.started if row[1] == "supervised"]) == want_attempts
    assert world.stage("supervised")["state"] == "Failed"
    assert world.status()["state"] == "Failed"


@pytest.mark.parametrize("code", [20, 40, 137, 99])
async def test_a_failure_that_heals_is_retried_and_the_run_completes(code: int) -> None:
    world = await run_with(ending(code))
    assert world.status()["state"] == "Complete"
    assert world.stage("supervised")["attempt"]["number"] == 2
    assert world.stage("supervised")["attempt"]["countedFailures"] == 1


@pytest.mark.parametrize("code", [75, 143])
async def test_preemption_is_not_counted_and_its_pod_is_replaced_by_the_same_job(code: int) -> None:
    def play(content: StageInput, pod: int) -> Act:
        preempted = content.config.stage == "supervised" and pod <= 5
        return Act(exit_code=code) if preempted else golden(content, pod)

    world = await run_with(play, backoffLimit=0)
    assert world.status()["state"] == "Complete"
    assert world.stage("supervised")["attempt"]["number"] == 1
    assert len([row for row in world.script.started if row[1] == "supervised"]) == 6


async def test_a_disrupted_pod_is_not_counted_whatever_its_exit_code() -> None:
    def play(content: StageInput, pod: int) -> Act:
        if content.config.stage == "supervised" and pod <= 2:
            return Act(exit_code=137, disrupted=True)
        return golden(content, pod)

    world = await run_with(play, backoffLimit=0)
    assert world.status()["state"] == "Complete"
    assert world.stage("supervised")["attempt"]["countedFailures"] == 0


async def test_an_oom_kill_is_out_of_memory_at_the_first_time_when_no_retry_is_allowed() -> None:
    world = await run_with(ending(137, exit_reason="OOMKilled"), backoffLimit=0)
    assert world.condition("Failed")["reason"] == "OutOfMemory"
    assert "Raise the stage's memory" in world.condition("Failed")["message"]


async def test_an_oom_kill_of_any_exit_code_counts_as_a_kill() -> None:
    world = await run_with(ending(1, 1, exit_reason="OOMKilled"))
    assert world.condition("Failed")["reason"] == "OutOfMemory"
    assert world.stage("supervised")["attempt"]["number"] == 2


async def test_the_attempt_after_an_accelerator_fault_avoids_the_node() -> None:
    world = await run_with(ending(40, 40))
    nodes = world.stage("supervised")["attempt"]["avoidNodes"]
    assert len(nodes) == 2
    affinity = world.job("router-supervised-3")["spec"]["template"]["spec"]["affinity"]["nodeAffinity"]
    fields = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"][0]["matchFields"]
    assert [(f["operator"], f["values"]) for f in fields] == [("NotIn", [n]) for n in sorted(nodes)]
    assert "affinity" not in world.job("router-supervised-1")["spec"]["template"]["spec"]


async def test_pauses_before_retries_double_from_ten_seconds() -> None:
    world = await run_with(ending(20, 20, 20))
    created = {
        job["metadata"]["name"]: job
        for job in world.cluster.objects.select("jobs", labels={"ratchet.dev/stage": "supervised"})
    }
    times = [seconds_of(created[f"router-supervised-{n}"]) for n in (1, 2, 3, 4)]
    ended = [seconds_of(created[f"router-supervised-{n}"], end=True) for n in (1, 2, 3)]
    pauses = [start - end for start, end in zip(times[1:], ended, strict=True)]
    for pause, want in zip(pauses, (10, 20, 40), strict=True):
        assert want <= pause <= want * 1.1 + 15  # the pass that sees the failure and the jitter come on top


def seconds_of(job: dict[str, Any], *, end: bool = False) -> float:
    from ratchet_api.base import parse_time

    text = job["status"]["conditions"][0]["lastTransitionTime"] if end else job["metadata"]["creationTimestamp"]
    return parse_time(text).timestamp()


async def test_the_deadline_counts_active_time_over_all_stages_and_attempts() -> None:
    def play(content: StageInput, pod: int) -> Act:
        if content.config.stage == "supervised":
            return Act(exit_code=20, steps=10)
        return golden(content, pod)

    world = await run_with(play, activeDeadlineSeconds=150, backoffLimit=20)
    failed = world.condition("Failed")
    assert failed["reason"] == "DeadlineExceeded"
    assert "spec.activeDeadlineSeconds" in failed["message"]
    used = sum(s["attempt"]["activeSeconds"] for s in world.status()["stages"] if s.get("attempt"))
    assert 140 <= used <= 170
    left = [
        job["spec"]["activeDeadlineSeconds"]
        for job in world.cluster.objects.select("jobs", labels={"ratchet.dev/stage": "supervised"})
    ]
    assert left == sorted(left, reverse=True)
    assert left[0] < 150


async def test_a_job_past_its_deadline_fails_the_run() -> None:
    def play(content: StageInput, pod: int) -> Act:
        return Act(exit_code=None) if content.config.stage == "supervised" else golden(content, pod)

    world = await run_with(play, activeDeadlineSeconds=60)
    assert world.condition("Failed")["reason"] == "DeadlineExceeded"
    assert world.stage("supervised")["attempt"]["number"] == 1


async def test_a_success_without_a_readable_message_is_tried_again_and_never_believed() -> None:
    def play(content: StageInput, pod: int) -> Act:
        return Act(exit_code=0, message="hello") if content.config.stage == "supervised" else golden(content, pod)

    world = await run_with(play, backoffLimit=1)
    assert world.condition("Failed")["reason"] == "RetriesExhausted"
    assert "no readable message" in world.condition("Failed")["message"]


async def test_a_failed_snapshot_stalls_the_dataset_and_its_run_until_the_spec_changes() -> None:
    """P17: mending the spec heals both without touching the run."""
    world = World(ending(10, stage="snapshot"))
    world.submit(b.dataset(), b.run())
    await world.run_until(lambda: world.condition("DataReady").get("reason") == "DatasetFailed")
    ready = world.condition("Ready", "FeedbackDataset", "complaints")
    assert (ready["status"], ready["reason"]) == ("False", "BadData")
    assert world.status("FeedbackDataset", "complaints")["state"] == "Failed"
    await world.settle(80)
    assert world.jobs() == ["complaints-snapshot-1"]
    world.edit("FeedbackDataset", "complaints", {"spec": {"columns": {"text": "body"}}})
    status = await world.finish()
    assert status["state"] == "Complete"
    assert "complaints-snapshot-2" in world.jobs()


MESSAGES = {
    "bad data": (10, Reason.BAD_DATA),
    "bad config": (11, Reason.BAD_CONFIG),
    "bad labels": (12, Reason.BAD_LABELS),
    "bad model": (13, Reason.BAD_MODEL),
    "not a number": (30, Reason.NOT_A_NUMBER),
    "a traceback": (1, Reason.STAGE_CRASHED),
    "store away": (20, Reason.RETRIES_EXHAUSTED),
    "killed twice": (137, Reason.OUT_OF_MEMORY),
}


@pytest.mark.parametrize(("code", "want"), MESSAGES.values(), ids=MESSAGES.keys())
async def test_every_failure_names_stage_job_exit_code_what_the_stage_said_and_the_remedy(
    code: int, want: Reason
) -> None:
    """P39: cause and next step, in condition and event alike."""
    world = await run_with(ending(*[code] * 9))
    failed = world.condition("Failed")
    assert failed["reason"] == want
    for part in ("'supervised'", "router-supervised-", f"exit code {code}", f"the stage said {code}"):
        assert part in failed["message"]
    assert failed["message"].endswith(REASONS[want].remedy)
    warnings = [e for e in world.cluster.emitted if e.type == "Warning"]
    assert warnings[-1].message == failed["message"]
