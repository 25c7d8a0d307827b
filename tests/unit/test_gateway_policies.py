"""What the gateway tells of a policy, and what it counts of itself."""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ratchet_api.generation import KeptGeneration
from ratchet_api.policy import PolicyVersion
from ratchet_gateway.log.writer import LogSettings
from ratchet_gateway.policies import FixedPolicies, PolicyView
from ratchet_gateway.tally import Scores
from ratchet_jobs.feedback_log.reader import list_segments
from ratchet_jobs.runtime.errors import StoreAccessDenied
from ratchet_jobs.runtime.store_directory import DirectoryStore
from tests.gateway_app import TEMPLATE, key_of, running


def version(number: int, **metrics: float) -> PolicyVersion:
    return PolicyVersion(
        version=number,
        run=f"run-{number}",
        run_uid="u",
        uri="s3://b/k",
        digest="0" * 64,
        dataset_digest="0" * 64,
        metrics=metrics,
        published=datetime(2026, 11, 1, number, tzinfo=UTC),
    )


def test_what_is_newer_than_a_time_is_counted_by_policy_and_without_undone_votes_or_answers(tmp_path: Path) -> None:
    with running(tmp_path) as gateway:

        def newer(policy: str, since: str) -> int:
            answer = gateway.get(f"/api/policies/{policy}/feedback/count?since={since}")
            assert answer.status_code == 200, answer.text
            assert answer.json()["policy"] == policy
            return int(answer.json()["events"])

        gateway.post("/v1/feedback", {"type": "thumbs_up", "policy": "router"})
        said = gateway.post("/v1/feedback", {"type": "thumbs_up", "policy": "bare"}).json()["events"][0]
        gateway.clock.pass_(days=2, seconds=30)
        later = [{"type": "thumbs_down", "policy": "router", "runId": f"r{n}"} for n in range(3)]
        gateway.post("/v1/feedback", {"events": later})
        gateway.post("/v1/feedback", {"type": "undo", "policy": "bare", "supersedes": said["id"]})
        gateway.post("/v1/interactions", {"policy": "router", "input": "q", "label": "a"})
        assert newer("router", "2026-11-21T11:59:00Z") == 4
        assert newer("router", "2026-11-21T12:00:00Z") == newer("router", "2026-11-23T13:00:29%2B01:00") == 3
        assert newer("router", "2026-11-23T12:00:30Z") == newer("router", "9999-12-31T23:59:59Z") == 0
        assert newer("bare", "0001-01-01T00:00:00Z") == 1
        wrong = [
            gateway.get(f"/api/policies/{path}").status_code
            for path in (
                "router/feedback/count",
                "router/feedback/count?since=yesterday",
                "router/feedback/count?since=2026-11-21T12:00:00",
                "nope/feedback/count?since=2026-11-21T12:00:00Z",
            )
        ]
        assert wrong == [422, 422, 422, 404]
        told = gateway.get("/api/policies/router/feedback/count?since=2026-11-21T12:00:00Z", token="app")
        assert told.status_code == 403


def test_versions_are_a_bare_list_with_metrics_in_camel_case(tmp_path: Path) -> None:
    versions = (
        version(1, **{"macro_f1": 0.8, "f1/card_arrival": 0.7}),
        version(2, **{"reward": 0.7, "rl/win_rate": 0.6}).model_copy(
            update={"generation": KeptGeneration(temperature=0.2), "variant_of": 1}
        ),
    )
    with running(tmp_path, policies=FixedPolicies({"p": PolicyView("p", versions)})) as gateway:
        assert gateway.get("/api/policies/p").json() == [
            {
                "version": 1,
                "metrics": {"macroF1": 0.8, "f1/card_arrival": 0.7},
                "run": "run-1",
                "published": "2026-11-01T01:00:00Z",
            },
            {
                "version": 2,
                "metrics": {"rewardMean": 0.7, "rl/win_rate": 0.6},
                "run": "run-2",
                "published": "2026-11-01T02:00:00Z",
                "generation": {"temperature": 0.2},
                "variantOf": 1,
            },
        ]
        assert gateway.get("/api/policies/nope").status_code == 404


def test_a_policy_without_versions_has_an_empty_list(tmp_path: Path) -> None:
    with running(tmp_path) as gateway:
        assert gateway.get("/api/policies/bare").json() == []


def test_fewer_than_ten_samples_are_not_enough(tmp_path: Path) -> None:
    with running(tmp_path) as gateway:
        for n in range(5):
            gateway.post("/api/policies/feedback/router", {"prompt": "q", "response": "r", "score": n / 4})
        answer = gateway.post("/api/policies/train_policy/router", {"dryRun": True})
    assert answer.status_code == 400
    assert answer.json() == {"detail": "Insufficient feedback: 5 samples (minimum 10 required)"}


def test_corrections_are_samples_and_comments_are_none(tmp_path: Path) -> None:
    said = [{"type": "correction", "correction": "c"}] * 9 + [{"type": "comment", "comment": "nice"}] * 9
    with running(tmp_path) as gateway:
        gateway.post("/v1/feedback", {"events": [event | {"policy": "router"} for event in said]})
        few = gateway.post("/api/policies/train_policy/router", {"dryRun": True})
        gateway.post("/v1/feedback", said[0] | {"policy": "router"})
        enough = gateway.post("/api/policies/train_policy/router", {"dryRun": True})
    assert few.json() == {"detail": "Insufficient feedback: 9 samples (minimum 10 required)"}
    assert (enough.status_code, enough.json()["feedbackCount"]) == (200, 10)


def test_training_takes_no_body_for_one_without_wishes(tmp_path: Path) -> None:
    with running(tmp_path) as gateway:
        headers = {"Authorization": f"Bearer {key_of('all')}"}
        answer = gateway.client.post("/api/policies/train_policy/router", headers=headers)
    assert answer.json() == {"detail": "Insufficient feedback: 0 samples (minimum 10 required)"}


def test_a_body_that_is_not_sent_as_json_is_refused_for_its_type(tmp_path: Path) -> None:
    said = b'{"prompt": "q", "response": "r", "score": 1}'
    with running(tmp_path) as gateway:
        forms = [{"Content-Type": "application/x-www-form-urlencoded"}, {"Content-Type": ""}]
        answers = [gateway.post("/api/policies/feedback/router", said, headers=form).json() for form in forms]
    assert [answer["detail"] for answer in answers] == [
        "Content-Type: is application/x-www-form-urlencoded; send application/json",
        "Content-Type: is missing; send application/json",
    ]


def test_a_dry_run_of_training_counts_rated_events_once_and_only_this_policys(tmp_path: Path) -> None:
    """Scores 1, 1, 0.25, 0.75 and six of 0.5: mean 6/10 = 0.6; squares 2 x .16 + .1225 + .0225 + 6 x .01 = .525,
    so the standard deviation is sqrt(.0525) = 0.229129. 8 of 10 rows train, in batches of 16: 1 step an epoch."""
    events = [
        {"type": "thumbs_up"},
        {"type": "score", "score": 1},
        {"type": "correction", "correction": "c", "rating": 2},
        {"type": "rating", "rating": 4},
        *[{"type": "score", "score": 0.5}] * 6,
        {"type": "comment", "comment": "not rated"},
        {"type": "preference", "chosen": "a", "rejected": "b"},
        {"type": "metric", "name": "m", "value": 9},
    ]
    keyed = [event | {"policy": "router", "idempotencyKey": f"k{n}"} for n, event in enumerate(events)]
    for _ in range(2):  # a second process: its log holds every event twice
        with running(tmp_path) as gateway:
            gateway.post("/v1/feedback", {"events": keyed})
            gateway.post("/v1/feedback", {"type": "thumbs_down", "policy": "bare", "idempotencyKey": "other"})
            answer = gateway.post("/api/policies/train_policy/router", {"dryRun": True, "learningRate": 1e-5}).json()
    time = answer.pop("estimatedTimeMinutes")
    assert answer == {
        "status": "dry_run",
        "feedbackCount": 10,
        "estimatedSteps": 2,
        "scoreMean": 0.6,
        "scoreStd": 0.229129,
        "modelConfig": {"base_model": "store://models/encoder", "use_lora": True, "learning_rate": 1e-5},
    }
    assert time >= 1


def test_the_number_of_steps_may_be_capped(tmp_path: Path) -> None:
    events = [{"type": "thumbs_up", "policy": "router"}] * 200  # 160 train, 10 steps an epoch, 2 epochs
    with running(tmp_path) as gateway:
        gateway.post("/v1/feedback", {"events": events})
        steps = [
            gateway.post("/api/policies/train_policy/router", {"dryRun": True, **cap}).json()["estimatedSteps"]
            for cap in ({}, {"maxSteps": 7}, {"maxSteps": 70})
        ]
    assert TEMPLATE.stages.supervised.epochs == 2
    assert steps == [20, 7, 20]


@pytest.mark.parametrize(
    ("policy", "body", "want"),
    [
        ("router", {"dryRun": "yes"}, 422),
        ("router", {}, 400),
        ("router", {"dryRun": True, "maxSteps": 0}, 422),
        ("router", {"dryRun": True, "learningRate": 10}, 422),
        ("router", {"dryRun": True, "maxSubjectSharePercent": 101}, 422),
        ("router", {"dryRun": True, "labels": ["only one"]}, 422),
        ("router", {"dryRun": True, "labels": ["login", "login", "billing"]}, 422),
        ("bare", {"dryRun": True}, 422),
        ("nope", {"dryRun": True}, 404),
    ],
    ids=str,
)
def test_training_is_refused_for(tmp_path: Path, policy: str, body: dict[str, object], want: int) -> None:
    with running(tmp_path) as gateway:
        assert gateway.post(f"/api/policies/train_policy/{policy}", body).status_code == want


def test_a_damaged_log_is_said_and_not_counted_around(tmp_path: Path) -> None:
    with running(tmp_path) as gateway:
        gateway.post("/v1/feedback", {"type": "thumbs_up", "policy": "router"})
        [info] = gateway.store.list("ns/log")
        gateway.store.write(info.key, b"rot")
        answer = gateway.post("/api/policies/train_policy/router", {"dryRun": True})
    assert answer.status_code == 503
    assert info.key in answer.json()["detail"]


def test_welford_agrees_with_the_definition() -> None:
    """Scores 0, 0.5, 1: mean 0.5, variance (0.25 + 0 + 0.25) / 3 = 1/6."""
    scores = Scores()
    assert scores.std == 0
    for score in (0.0, 0.5, 1.0):
        scores.add(score)
    assert (scores.count, scores.mean) == (3, 0.5)
    assert scores.std**2 == pytest.approx(1 / 6, abs=1e-12)


def test_statistics_count_each_event_once_and_tell_how_loud_the_loudest_is(tmp_path: Path) -> None:
    with running(tmp_path) as gateway:
        assert gateway.get("/api/policies/router/feedback").json() == {
            "policy": "router",
            "events": 0,
            "byType": {},
            "rated": 0,
            "scoreMean": None,
            "scoreStd": None,
            "subjects": 0,
            "largestShare": None,
            "interactions": 0,
            "newest": None,
        }
        for n, subject in enumerate(["anna", "anna", "anna", "bert"]):
            gateway.post("/v1/feedback", {"type": "thumbs_up", "policy": "router", "subject": subject, "rating": n + 1})
        gateway.post("/v1/feedback", {"type": "comment", "comment": "c", "policy": "router"})
        gateway.post("/v1/feedback", {"type": "comment", "comment": "c", "policy": "bare"})
        gateway.post("/v1/interactions", {"policy": "router", "input": "q", "label": "x"})
        found = gateway.get("/api/policies/router/feedback").json()
        assert gateway.get("/api/policies/nope/feedback").status_code == 404
    assert found["byType"] == {"comment": 1, "thumbs_up": 4}
    assert (found["events"], found["rated"], found["scoreMean"]) == (5, 4, 0.375)  # 0, .25, .5, .75
    assert (found["subjects"], found["largestShare"], found["interactions"]) == (2, 0.75, 1)
    assert found["newest"] == "2026-11-21T12:00:00.000Z"


def test_metrics_count_routes_events_and_refusals(tmp_path: Path) -> None:
    with running(tmp_path) as gateway:
        event = {"type": "thumbs_up", "policy": "router", "idempotencyKey": "k"}
        for body in (event, event, event | {"type": "rating"}, event | {"policy": "nope", "idempotencyKey": "j"}):
            gateway.post("/v1/feedback", body)
        gateway.post("/v1/feedback", event, token="reader")
        gateway.get("/no/such/route")
        text = gateway.get("/metrics", token=None).text
    samples = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert samples["ratchet_gateway_requests_total", "/v1/feedback", "200"] == 2
    assert samples["ratchet_gateway_requests_total", "/v1/feedback", "422"] == 1
    assert samples["ratchet_gateway_requests_total", "404", "none"] == 1
    assert samples["ratchet_gateway_events_total", "router", "thumbs_up"] == 1
    assert samples["ratchet_gateway_duplicates_total",] == 1
    assert [samples["ratchet_gateway_refused_total", why] for why in ("malformed", "policy", "role")] == [1, 1, 1]
    assert samples["ratchet_gateway_segments_total",] == 1
    assert samples["ratchet_gateway_commit_seconds_count",] == 1
    assert "nope" not in text, "a label never takes what a caller makes up"


class Racy(DirectoryStore):
    """Never heard of If-None-Match: every PUT is a success."""

    def create(self, key: str, data: bytes) -> bool:
        self.write(key, data)
        return True


class CreateOnly(DirectoryStore):
    """Credentials that may not delete."""

    def delete(self, keys: Iterable[str]) -> None:
        raise StoreAccessDenied("AccessDenied")


class Shut(DirectoryStore):
    """Credentials that may do nothing."""

    def exists(self, key: str) -> bool:
        raise StoreAccessDenied("object ns/probe/passed: AccessDenied")


@pytest.mark.parametrize(
    ("store", "want_code", "want"),
    [
        (DirectoryStore, 200, "conditional PUT is atomic"),
        (Racy, 200, "conditional PUT is NOT atomic: the log does not need it"),
        (CreateOnly, 200, "was not probed, the credentials may not delete"),
        (Shut, 503, "was not reached yet: object ns/probe/passed: AccessDenied"),
    ],
)
def test_readiness_says_what_the_probe_found(
    tmp_path: Path, store: type[DirectoryStore], want_code: int, want: str
) -> None:
    """P27: the gateway finds out at start; its log needs no atomic PUT, so that it serves all the same."""
    DirectoryStore(tmp_path / "store").write("ns/probe/passed", b"by another server, a year ago")
    with running(tmp_path, store=store(tmp_path / "store")) as gateway:
        end = time.monotonic() + 60
        while want not in (answer := gateway.get("/readyz", token=None)).text:
            assert time.monotonic() < end, answer.text
        assert answer.status_code == want_code


class Bucket(DirectoryStore):
    """A store with rights of its own, kept in a directory."""

    @property
    def uri(self) -> str:
        return "s3://bucket"


class NoDeletingBucket(Bucket):
    """A bucket policy denies deleting from the log."""

    def delete(self, keys: Iterable[str]) -> None:
        if any("/log/" in key for key in keys):
            raise StoreAccessDenied("AccessDenied")


class AddOnlyBucket(NoDeletingBucket):
    """And it denies writing there without the condition that the key is new."""

    def write(self, key: str, data: bytes) -> None:
        if "/log/" in key:
            raise StoreAccessDenied("AccessDenied")
        super().write(key, data)


@pytest.mark.parametrize(
    ("store", "want", "left"),
    [
        (DirectoryStore, "log: a directory", []),
        (Bucket, "log: prefix only", []),
        (NoDeletingBucket, "log: no deleting", ["overwrite-probe"]),
        (AddOnlyBucket, "log: add only", []),
    ],
)
def test_readiness_says_whether_the_log_is_safe_from_the_gateways_own_credentials(
    tmp_path: Path, store: type[DirectoryStore], want: str, left: list[str]
) -> None:
    """P23: what cannot be kept from overwriting keeps one empty object, which is no segment."""
    with running(tmp_path, store=store(tmp_path / "store")) as gateway:
        end = time.monotonic() + 60
        while want not in (answer := gateway.get("/readyz", token=None)).text or "atomic" not in answer.text:
            assert time.monotonic() < end, answer.text
        assert [path.name for path in (tmp_path / "store").glob("ns/log/*")] == left
        assert list_segments(gateway.store, "ns")[0] == []


def test_a_writer_that_ended_by_a_defect_turns_the_liveness_probe_red(tmp_path: Path) -> None:
    """P2's like: a process that can acknowledge nothing any more must be restarted."""

    class Broken(DirectoryStore):
        def create(self, key: str, data: bytes) -> bool:
            if "/log/" in key:
                raise ZeroDivisionError("a defect")
            return super().create(key, data)

    impatient = LogSettings(window_seconds=0, patience_seconds=0.2, in_flight=1)
    with running(tmp_path, store=Broken(tmp_path / "store"), log=impatient) as gateway:
        assert gateway.get("/healthz", token=None).status_code == 200
        assert gateway.post("/v1/feedback", {"type": "thumbs_up", "policy": "router"}).status_code == 503
        end = time.monotonic() + 60  # the writer's thread may meet its defect after the sender's patience
        while gateway.get("/healthz", token=None).status_code != 500:
            assert time.monotonic() < end
