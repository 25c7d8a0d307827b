"""What people, servers and newer operators may say without stopping a pass: long names, odd words, unknown reasons."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from ratchet_api.base import format_time, parse_time
from ratchet_api.conditions import Condition
from ratchet_api.feedback_dataset import FeedbackDatasetSpec, FeedbackDatasetStatus
from ratchet_api.gates import NOT_MEASURED, judge_gate
from ratchet_api.policy import RLPolicySpec, RLPolicyStatus
from ratchet_api.stage import Progress
from ratchet_api.training_run import Gate, RLTrainingRunSpec
from ratchet_operator.controllers.index import Index
from ratchet_operator.plan.datasets import plan_dataset
from ratchet_operator.plan.datasets.state import failure_digest, target_of
from ratchet_operator.plan.pending import refusal_reason
from ratchet_operator.plan.policies import plan_policy
from ratchet_operator.plan.runs.pipeline.supervised import SUPERVISED
from ratchet_operator.plan.world import DatasetWorld, Meta, PolicyWorld, PublishableRun
from ratchet_operator.settings import Settings
from ratchet_operator.wakes import Key

NOW = datetime(2026, 1, 1, tzinfo=UTC)
WHOLE = ("accuracy", "brier", "coverage", "ece", "loss", "macro_f1", "n_test", "selective_accuracy", "temperature")


def registered_metrics(metrics: dict[str, float]) -> dict[str, float]:
    run = PublishableRun(
        name="r", uid="u", waiting=True, numbered=False, uri="s3://b/a", digest="a" * 64, dataset_digest="b" * 64,
        metrics=dict(sorted(metrics.items())),
    )  # fmt: skip
    plan = plan_policy(
        PolicyWorld(
            now=NOW,
            settings=Settings(),
            meta=Meta("RLPolicy", "rlpolicies", "ns", "p", "p-uid", 1),
            spec=RLPolicySpec(type="classifier"),
            spec_error="",
            status=RLPolicyStatus(),
            runs=(run,),
        )
    )
    assert plan.status is not None
    return dict(plan.status.versions[0].metrics)


def test_a_version_is_registered_whatever_the_gated_class_is_called() -> None:
    assert registered_metrics({"accuracy": 0.9, f"f1/{'x' * 128}": 0.5}) == {"accuracy": 0.9}


def test_a_version_keeps_the_numbers_of_the_whole_however_many_classes_are_gated() -> None:
    kept = registered_metrics(dict.fromkeys(WHOLE, 0.5) | {f"f1/class {n:02d}": 0.5 for n in range(30)})
    assert set(WHOLE) <= set(kept)
    assert len(kept) == 16


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ('pods "quota-forecast-1" is forbidden: violates PodSecurity "restricted:latest"', "AdmissionDenied"),
        ('jobs.batch "x" is forbidden: no new jobs in namespace "quota"', "AdmissionDenied"),
        ('pods "x" is forbidden: insufficient quota to match these scopes: [{PriorityClass}]', "QuotaExceeded"),
        ('pods "x" is forbidden: status unknown for quota: q, resources: limits.cpu', "QuotaExceeded"),
    ],
)
def test_a_name_with_quota_in_it_is_no_refusal_by_a_quota(text: str, want: str) -> None:
    assert refusal_reason(text) == want


def test_images_that_differ_only_in_their_digest_have_different_code_versions() -> None:
    stem = f"registry.example.com/{'team/' * 30}trainer@sha256:"
    versions = {Settings().code_version(f"{stem}{digit * 64}") for digit in "ab"}
    assert len(versions) == 2
    assert all(len(version) <= 128 for version in versions)
    assert Settings().code_version("own:1") == "own:1"


def test_a_reason_that_only_a_newer_operator_knows_stops_no_pass() -> None:
    spec = FeedbackDatasetSpec.model_validate(
        {"type": "classification", "source": {"inline": [{"text": "a", "label": "b"}]}}
    )
    words = {"reason": "FromTheFuture", "message": "seen then", "lastTransitionTime": NOW, "observedGeneration": 1}
    world = DatasetWorld(
        now=NOW,
        settings=Settings(),
        meta=Meta("FeedbackDataset", "feedbackdatasets", "ns", "d", "d-uid", 1),
        spec=spec,
        spec_error="",
        status=FeedbackDatasetStatus(),
    )
    status = FeedbackDatasetStatus(
        conditions=(Condition.model_validate({"type": "Stalled", "status": "True", **words}),),
        target=target_of(spec, ""),
        failed_target=failure_digest(world),
    )
    plan = plan_dataset(replace(world, status=status))
    assert plan.status is not None
    assert {c.type: c.message for c in plan.status.conditions}["Ready"] == "seen then"


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({"concurrency": 9}, False),
        ({"retries": 9}, False),
        ({"timeoutSeconds": 9.0}, False),
        ({"apiKeySecretRef": {"name": "key"}}, False),
        ({"model": "other"}, True),
        ({"maxScore": 5.0}, True),
        ({"maxFailurePercent": 9.0}, True),
    ],
)
def test_another_way_to_reach_a_judge_wants_no_new_snapshot_but_another_judge_does(
    change: dict[str, Any], wanted: bool
) -> None:
    def target(**changes: Any) -> str:
        judge = {"endpoint": "http://j/v1", "model": "m", "prompt": "Rate {response}"} | changes
        shown = {"type": "demonstrations", "source": {"inline": [{"text": "a", "response": "b"}]}, "scoring": judge}
        return target_of(FeedbackDatasetSpec.model_validate(shown), "")

    assert (target(**change) != target()) == wanted


@pytest.mark.parametrize("field", ["step", "steps", "etaSeconds"])
def test_progress_that_status_cannot_hold_is_no_progress(field: str) -> None:
    with pytest.raises(ValidationError):
        Progress.model_validate({"stage": "supervised", "step": 1, "steps": 2, field: 2**60})


def test_times_before_the_year_1000_are_written_as_the_server_reads_them() -> None:
    assert format_time(datetime(1, 1, 1, tzinfo=UTC)) == "0001-01-01T00:00:00Z"
    assert parse_time(format_time(datetime(1, 1, 1, tzinfo=UTC))) == datetime(1, 1, 1, tzinfo=UTC)


def test_a_dry_run_counts_the_steps_that_the_stage_will_take() -> None:
    spec = RLTrainingRunSpec.model_validate(
        {
            "policyType": "classifier",
            "datasetRef": {"name": "d"},
            "baseModel": {"uri": "store://m", "sha256": "0" * 64},
            "stages": {"supervised": {"epochs": 1.1, "batchSize": 10}},
        }
    )
    # 100 steps per epoch; 1.1 * 100 is 110.00000000000001, which is no 111th step
    assert SUPERVISED.steps(spec, 1000) == 110


@pytest.mark.parametrize("value", [-5.0, 1e12, float("nan"), float("inf"), None])
def test_a_number_that_cannot_be_passes_no_gate_and_stops_no_pass(value: float | None) -> None:
    result = judge_gate(Gate(metric="accuracy", maximum=1.0), {} if value is None else {"accuracy": value})
    assert (result.passed, result.value) == (False, NOT_MEASURED)


@pytest.mark.parametrize(("ending", "woken"), [("Complete", 0), ("Failed", 0), ("Running", 1)])
def test_a_run_that_ended_is_woken_by_nothing_that_it_names(ending: str, woken: int) -> None:
    run = Key("rltrainingruns", "ns", "r")
    spec = {"datasetRef": {"name": "d"}, "publishTo": {"name": "p"}}
    body = {"metadata": {"namespace": "ns", "name": "r", "uid": "u"}, "spec": spec}
    index = Index()
    index.update(run, body)
    index.update(run, body | {"status": {"conditions": [{"type": ending, "status": "True"}]}})
    for named in (Key("rlpolicies", "ns", "p"), Key("feedbackdatasets", "ns", "d")):
        assert len(index.namers(named)) == woken
