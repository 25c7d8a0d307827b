"""Feedback over HTTP: what is stored, what is refused, and that a retry is never a second event."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ratchet_api.signing import Exposure, KeyRing, sign_interaction
from ratchet_gateway.log.writer import LogSettings
from ratchet_jobs.runtime.errors import StoreUnavailable
from ratchet_jobs.runtime.store_directory import DirectoryStore
from tests.gateway_app import RING, START, Clock, Gateway, running

THUMB = {"type": "thumbs_up", "policy": "router"}


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    with running(tmp_path) as made:
        yield made


def signed(*, policy: str = "router", hours: float = 1, ring: KeyRing = RING, name: str = "i1") -> str:
    issued = int(START.timestamp())
    return sign_interaction(
        Exposure(
            id=name,
            policy=policy,
            version=3,
            arm="canary",
            propensity=0.05,
            issued=issued,
            expires=issued + int(hours * 3600),
        ),
        ring,
    )


def test_an_acknowledged_event_is_in_the_log_with_what_was_sent_and_without_the_subject(gateway: Gateway) -> None:
    event = {
        "type": "correction",
        "policy": "router",
        "prompt": "where is my parcel?",
        "response": "billing",
        "correction": "shipping",
        "rating": 2,
        "subject": "anna@example.org",
        "tags": {"channel": "chat"},
        "idempotencyKey": "key-1",
        "timestamp": "2026-11-21T11:59:00Z",
    }
    answer = gateway.post("/v1/feedback", event)
    assert answer.status_code == 200
    [stored] = gateway.log()
    assert answer.json() == {"status": "stored", "events": [{"id": stored["id"], "duplicate": False}]}
    kept = {"type", "policy", "prompt", "response", "correction", "rating", "tags", "timestamp"}
    assert {name: stored[name] for name in kept} == {name: event[name] for name in kept}
    assert (stored["kind"], stored["source"], stored["received"]) == ("feedback", "all", "2026-11-21T12:00:00.000Z")
    assert stored["subject"].startswith("2026-11:")
    raw = b"".join(gateway.store.read(info.key) for info in gateway.store.list("ns/log"))
    for secret in ("anna", "key-1"):
        assert secret not in json.dumps(stored)
        assert secret.encode() not in raw


def test_a_batch_is_stored_in_the_order_it_was_sent(gateway: Gateway) -> None:
    events = [{"type": "rating", "rating": n % 5 + 1, "policy": "router"} for n in range(50)]
    answer = gateway.post("/v1/feedback", {"events": events})
    assert [e["id"] for e in answer.json()["events"]] == [e["id"] for e in gateway.log()]
    assert [e["rating"] for e in gateway.log()] == [e["rating"] for e in events]


def test_one_bad_event_refuses_the_batch_and_is_named(gateway: Gateway) -> None:
    events = [THUMB, {"type": "rating", "rating": 0, "policy": "router"}]
    answer = gateway.post("/v1/feedback", {"events": events})
    assert answer.status_code == 422
    assert "events.1.rating" in answer.json()["detail"]
    assert "(seen: 0)" in answer.json()["detail"]
    assert gateway.log() == []


def test_a_dry_run_checks_everything_and_stores_nothing(gateway: Gateway) -> None:
    event = THUMB | {"idempotencyKey": "k"}
    assert gateway.post("/v1/feedback?dryRun=true", event).json()["status"] == "dry_run"
    assert gateway.post("/v1/feedback?dryRun=true", THUMB | {"policy": "nope"}).status_code == 404
    assert gateway.log() == []
    assert gateway.post("/v1/feedback?dryRun=true", event | {"type": "thumbs_down"}).status_code == 200, (
        "no name is kept"
    )
    gateway.post("/v1/feedback", event)
    assert gateway.post("/v1/feedback?dryRun=true", event).json()["events"][0]["duplicate"] is True
    assert gateway.post("/v1/feedback?dryRun=true", event | {"type": "thumbs_down"}).status_code == 409


def test_the_short_form_stores_a_score(gateway: Gateway) -> None:
    body = {"prompt": "q", "response": "r", "score": 0.75, "runId": "7", "notes": "n"}
    assert gateway.post("/api/policies/feedback/router", body).status_code == 200
    [stored] = gateway.log()
    assert {k: stored[k] for k in ("type", "policy", *body)} == {"type": "score", "policy": "router", **body}


# --- the same event again -----------------------------------------------------------------------------------------


def test_a_retry_with_the_same_key_is_one_event(gateway: Gateway) -> None:
    """T22."""
    event = THUMB | {"idempotencyKey": "k"}
    first, second = (gateway.post("/v1/feedback", event).json()["events"][0] for _ in range(2))
    assert (first["duplicate"], second["duplicate"], first["id"] == second["id"]) == (False, True, True)
    assert len(gateway.log()) == 1


def test_a_retry_in_one_batch_is_one_event(gateway: Gateway) -> None:
    event = THUMB | {"idempotencyKey": "k"}
    answer = gateway.post("/v1/feedback", {"events": [event, event]})
    assert [e["duplicate"] for e in answer.json()["events"]] == [False, True]
    assert len(gateway.log()) == 1


def test_the_same_key_with_another_body_is_a_conflict(gateway: Gateway) -> None:
    """T22."""
    gateway.post("/v1/feedback", THUMB | {"idempotencyKey": "k"})
    answer = gateway.post("/v1/feedback", {"type": "thumbs_down", "policy": "router", "idempotencyKey": "k"})
    assert answer.status_code == 409
    assert "a new event needs a new key" in answer.json()["detail"]
    assert [e["type"] for e in gateway.log()] == ["thumbs_up"]


def test_a_conflict_refuses_its_whole_batch_and_claims_nothing(gateway: Gateway) -> None:
    gateway.post("/v1/feedback", THUMB | {"idempotencyKey": "k"})
    other = {"type": "comment", "comment": "c", "policy": "router", "idempotencyKey": "k2"}
    assert gateway.post("/v1/feedback", {"events": [other, other | {"idempotencyKey": "k"}]}).status_code == 409
    assert gateway.post("/v1/feedback", other | {"comment": "another"}).status_code == 200


def test_keys_of_two_callers_are_two_keys(gateway: Gateway) -> None:
    for token in ("app", "all"):
        assert gateway.post("/v1/feedback", THUMB | {"idempotencyKey": "k"}, token=token).status_code == 200
    assert len(gateway.log()) == 2


def test_events_without_a_key_are_all_counted(gateway: Gateway) -> None:
    for _ in range(2):
        gateway.post("/v1/feedback", THUMB)
    assert len(gateway.log()) == 2


# --- interactions -------------------------------------------------------------------------------------------------


def test_a_signed_interaction_says_what_was_rated(gateway: Gateway) -> None:
    body = {"type": "thumbs_down", "interactionId": signed(), "version": 99}
    assert gateway.post("/v1/feedback", body).status_code == 200
    [stored] = gateway.log()
    want = {"policy": "router", "version": 3, "arm": "canary", "assignmentPropensity": 0.05, "interaction": "i1"}
    assert {name: stored[name] for name in want} == want
    assert signed() not in json.dumps(stored)


@pytest.mark.parametrize(
    ("interaction", "want"),
    [
        pytest.param(signed(ring=KeyRing({"2026-11": b"x" * 32})), "signature is wrong", id="forged"),
        pytest.param(signed(hours=-1), "expired at", id="expired"),
        pytest.param("made-up", "is no id of ours", id="no id at all"),
        pytest.param(signed(policy="other"), "signed for policy 'other'", id="of another policy"),
    ],
)
def test_feedback_may_not_cite_an_interaction_that_is(gateway: Gateway, interaction: str, want: str) -> None:
    """P29."""
    answer = gateway.post("/v1/feedback", THUMB | {"interactionId": interaction})
    assert (answer.status_code, want in answer.json()["detail"]) == (422, True)
    assert gateway.log() == []


def test_an_interaction_takes_one_verdict_of_each_type(gateway: Gateway) -> None:
    """P29: a replayed id votes once, whoever sends it and under whatever key."""
    vote = THUMB | {"interactionId": signed(), "subject": "anna"}
    assert gateway.post("/v1/feedback", vote).status_code == 200
    assert gateway.post("/v1/feedback", vote).json()["events"][0]["duplicate"] is True
    for again in ({"type": "thumbs_down"}, {"subject": "bert"}, {"idempotencyKey": "k9", "tags": {"a": "b"}}):
        assert gateway.post("/v1/feedback", vote | again).status_code == 409
    assert gateway.post("/v1/feedback", vote | {"type": "comment", "comment": "c"}).status_code == 200
    assert [e["type"] for e in gateway.log()] == ["thumbs_up", "comment"]


def test_metrics_of_one_interaction_are_told_apart_by_name(gateway: Gateway) -> None:
    metric = {"type": "metric", "name": "seconds", "value": 3, "interactionId": signed()}
    assert gateway.post("/v1/feedback", metric).status_code == 200
    assert gateway.post("/v1/feedback", metric | {"name": "clicks"}).status_code == 200
    assert gateway.post("/v1/feedback", metric | {"value": 4}).status_code == 409


@pytest.mark.parametrize(("minutes", "want"), [(69, 200), (71, 422), (-9, 200), (-11, 422)])
def test_a_clock_ten_minutes_off_changes_no_decision(tmp_path: Path, minutes: float, want: int) -> None:
    """P36: the id lives for an hour from 12:00."""
    clock = Clock()
    clock.pass_(minutes=minutes)
    with running(tmp_path, clock=clock) as gateway:
        assert gateway.post("/v1/feedback", THUMB | {"interactionId": signed()}).status_code == want


def test_a_gateway_may_insist_on_interactions(tmp_path: Path) -> None:
    with running(tmp_path, require_interaction=True) as gateway:
        assert "signed interactions only" in gateway.post("/v1/feedback", THUMB).json()["detail"]
        assert gateway.post("/v1/feedback", THUMB | {"interactionId": signed()}).status_code == 200


def test_a_recorded_interaction_can_be_rated_by_the_id_it_got(gateway: Gateway) -> None:
    body = {
        "policy": "router",
        "version": 3,
        "subject": "anna",
        "input": "where is my parcel?",
        "label": "shipping",
        "probabilities": {"shipping": 0.9, "billing": 0.1},
        "actionPropensity": 0.9,
        "arm": "champion",
        "assignmentPropensity": 0.95,
    }
    [made] = gateway.post("/v1/interactions", body).json()["events"]
    assert made["collected"] is True
    assert (
        gateway.post("/v1/feedback", {"type": "thumbs_up", "interactionId": made["interactionId"]}).status_code == 200
    )
    interaction, verdict = gateway.log()
    want = {"kind", "input", "label", "probabilities", "actionPropensity", "arm", "assignmentPropensity", "subject"}
    assert want <= interaction.keys()
    assert (interaction["kind"], interaction["interaction"]) == ("interaction", verdict["interaction"])
    assert (verdict["version"], verdict["arm"], verdict["assignmentPropensity"]) == (3, "champion", 0.95)


def test_an_interaction_recorded_twice_is_one(gateway: Gateway) -> None:
    body = {"interactionId": signed(), "input": "q", "label": "x"}
    assert gateway.post("/v1/interactions", body).json()["events"][0]["interactionId"] == signed()
    assert gateway.post("/v1/interactions", body).json()["events"][0]["duplicate"] is True
    keyed = {"policy": "router", "input": "q", "label": "x", "idempotencyKey": "k"}
    for _ in range(2):
        gateway.post("/v1/interactions", keyed)
    assert len(gateway.log()) == 2


def test_texts_are_kept_at_the_collection_rate_and_exposures_always(tmp_path: Path) -> None:
    """Decided by a hash of the id: 300 of 1,000 expected, standard deviation 14.5, so 225 to 375 is five of them."""
    events = [
        {
            "policy": "router",
            "input": "secret text",
            "response": "r",
            "tags": {"t": "secret text"},
            "idempotencyKey": f"k{n}",
        }
        for n in range(1000)
    ]
    with running(tmp_path, collection_rate=0.3) as gateway:
        answer = gateway.post("/v1/interactions", {"events": events}).json()["events"]
        log = gateway.log()
    assert len(log) == 1000
    kept = sum(event["collected"] for event in answer)
    assert 225 <= kept <= 375
    exposures = [event for event in log if event["kind"] == "exposure"]
    assert len(exposures) == 1000 - kept
    assert not any("secret text" in json.dumps(event) for event in exposures)
    with running(tmp_path / "..", collection_rate=0.3) as other:
        again = other.post("/v1/interactions", {"events": events}).json()["events"]
    assert [e["collected"] for e in again] == [e["collected"] for e in answer], "every replica decides alike"


def test_what_a_trial_is_judged_by_is_kept_of_every_answer_and_of_a_failed_one_nothing_else(tmp_path: Path) -> None:
    trial = {"policy": "router", "experiment": "00112233445566ff", "arm": "canary", "recorder": "a" * 16, "dropped": 2}
    events = [
        trial | {"input": "secret text", "label": "card", "abstained": True},
        trial | {"input": "secret text", "failed": True},
    ]
    (tmp_path / "all").mkdir()
    with running(tmp_path, collection_rate=0) as none, running(tmp_path / "all") as all_of_them:
        for gateway in (none, all_of_them):
            answer = gateway.post("/v1/interactions", {"events": events}).json()["events"]
            signed = answer[0]["interactionId"]
            gateway.post("/v1/feedback", {"type": "thumbs_up", "interactionId": signed})
        for gateway, kinds in ((none, ["exposure", "exposure"]), (all_of_them, ["interaction", "exposure"])):
            log = gateway.log()
            assert [event["kind"] for event in log[:2]] == kinds
            for event, said in zip(log[:2], ({"abstained": True}, {"failed": True}), strict=True):
                want = {"experiment": "00112233445566ff", "arm": "canary", "recorder": "a" * 16, "dropped": 2} | said
                assert {name: event.get(name) for name in want} == want
            assert "secret text" not in json.dumps(log[1])
            assert (log[2]["kind"], log[2]["experiment"]) == ("feedback", "00112233445566ff")


# --- bad input ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "want", "says"),
    [
        pytest.param(b'{"type":"score","score":1.5,"policy":"router"}', 422, "score", id="score 1.5"),
        pytest.param(b'{"type":"rating","rating":0,"policy":"router"}', 422, "rating", id="rating 0"),
        pytest.param(b'{"type":"score","score":NaN,"policy":"router"}', 422, "finite", id="NaN"),
        pytest.param(b'{"type":"correction","policy":"router"}', 422, "correction", id="correction without text"),
        pytest.param(b'{"type":"thumbs_up","policy":"nope"}', 404, "'nope'", id="unknown policy"),
        pytest.param(b'{"type":"thumbs_up"}', 422, "cite the interactionId", id="no policy"),
        pytest.param(b'{"type":"comment","comment":"\xff\xfe","policy":"router"}', 422, "UTF-8", id="broken UTF-8"),
        pytest.param(b'{"type":"comment","comment":"\\u0000","policy":"router"}', 422, "comment", id="controls"),
        pytest.param(b'{"type":"comment","comment":"\\ud800","policy":"router"}', 422, "UTF-8", id="half a pair"),
        pytest.param(b"", 422, "body", id="no body"),
        pytest.param(b"{", 422, "JSON", id="half a body"),
        pytest.param(b"[" * 100_000, 422, "recursion limit", id="a deep body"),
        pytest.param(b'{"events":[]}', 422, "events", id="an empty batch"),
        pytest.param(b'{"type":"comment","comment":"' + b"x" * 2_000_000 + b'"}', 413, "1048576", id="2 MB"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_with_its_reason(gateway: Gateway, body: bytes, want: int, says: str) -> None:
    answer = gateway.post("/v1/feedback", body)
    assert answer.status_code == want, answer.text
    assert says in answer.json()["detail"]
    assert gateway.log() == []


@pytest.mark.parametrize(
    ("event", "says"),
    [
        ({"type": "score", "score": 1.5}, "score: Input should be less than or equal to 1 (seen: 1.5)"),
        ({"type": "rating", "policy": "router"}, "rating: Field required"),
        ({"type": "comment", "comment": "c", "stars": 1}, "stars: Extra inputs are not permitted (seen: 1)"),
        ({"policy": "router", "score": 0.5}, "type: is missing"),
    ],
    ids=["out of bounds", "missing", "unknown", "no type"],
)  # fmt: skip
def test_what_is_wrong_with_an_event_is_said_of_its_field_and_of_nothing_else(
    gateway: Gateway, event: dict[str, Any], says: str
) -> None:
    assert gateway.post("/v1/feedback", event).json() == {"detail": says}
    assert gateway.post("/v1/feedback", {"events": [THUMB, event]}).json() == {"detail": f"events.1.{says}"}


def test_a_type_that_there_is_not_is_not_repeated_but_told_the_known_ones(gateway: Gateway) -> None:
    detail = gateway.post("/v1/feedback", {"type": "my password", "policy": "router"}).json()["detail"]
    assert detail.startswith("type: is none of 'thumbs_up', 'thumbs_down', 'rating', 'score'")
    assert "password" not in detail


ROUTES = ("/v1/feedback", "/v1/interactions", "/api/policies/feedback/router", "/api/policies/train_policy/router")


@pytest.mark.parametrize("path", [*ROUTES, "/v1/erasures"])
@pytest.mark.parametrize(
    ("body", "says"),
    [(b'{"comment":"\xff"}', "is no JSON in UTF-8 ("), (b"[" * 100_000, "is no JSON in UTF-8 (")],
    ids=["broken UTF-8", "a deep body"],
)
def test_a_body_that_cannot_be_read_is_refused_alike_by_every_route(
    gateway: Gateway, path: str, body: bytes, says: str
) -> None:
    answer = gateway.post(path, body)
    assert answer.status_code == (422 if path == "/v1/feedback" else 400)
    assert answer.json()["detail"].startswith(f"body: {says}")
    assert answer.json()["detail"].endswith("); send one object")


@pytest.mark.parametrize(
    ("path", "knows"),
    [*zip(ROUTES, ("is dryRun", "is none", "is dryRun", "is wait"), strict=True), ("/v1/erasures", "is none")],
)
def test_a_parameter_that_a_route_does_not_know_stores_nothing(gateway: Gateway, path: str, knows: str) -> None:
    """A misspelt dryRun asked for the opposite of what an ignored one does."""
    body = {"prompt": "a", "response": "b", "score": 0.5} if "policies/feedback" in path else THUMB
    answer = gateway.post(f"{path}?dry_run=true", body)
    assert answer.status_code == 422
    told = f"query.dry_run: is no parameter of this route, there {knows}; correct or remove it"
    assert told in answer.json()["detail"]
    assert gateway.log() == []


def test_a_large_body_without_a_length_is_refused_while_it_arrives(gateway: Gateway) -> None:
    taken = 0

    def chunks() -> Iterator[bytes]:
        nonlocal taken
        for _ in range(100):
            taken += 1
            yield b"x" * 100_000

    headers = {"Authorization": "Bearer key-of-all", "Content-Type": "application/json"}
    assert gateway.client.post("/v1/feedback", content=chunks(), headers=headers).status_code == 413
    assert gateway.post("/v1/feedback", THUMB).status_code == 200


def test_a_text_is_never_repeated_in_a_refusal(gateway: Gateway) -> None:
    body = {"type": "comment", "comment": "my password is hunter2\x00", "policy": "router", "subject": "anna\x00"}
    answer = gateway.post("/v1/feedback", body)
    assert answer.status_code == 422
    assert "hunter2" not in answer.text
    assert "anna" not in answer.text


def test_ten_thousand_events_of_one_subject_are_stopped_and_others_pass(gateway: Gateway) -> None:
    """P29, at the door; the data set has its own cap."""
    loud = THUMB | {"subject": "loud"}
    assert gateway.post("/v1/feedback", {"events": [loud] * 50}, token="app").status_code == 200
    refused = [gateway.post("/v1/feedback", {"events": [loud] * 1000}, token="app").status_code for _ in range(10)]
    assert refused == [422] * 10
    retry = gateway.post("/v1/feedback", {"events": [loud] * 50}, token="app")
    assert int(retry.headers["Retry-After"]) == 40  # 100 events where 60 a minute are allowed: 40 s at one a second
    assert len(gateway.log()) == 50
    assert gateway.post("/v1/feedback", THUMB | {"subject": "quiet"}, token="app").status_code == 200
    gateway.clock.pass_(seconds=40)
    assert gateway.post("/v1/feedback", {"events": [loud] * 50}, token="app").status_code == 200


def test_answers_to_a_busy_person_are_recorded_however_many_there_are(gateway: Gateway) -> None:
    """P35: a server's batch that is refused for ever would hold up everybody's records behind it."""
    answer = {"policy": "router", "input": "q", "label": "card", "subject": "loud"}
    assert gateway.post("/v1/interactions", {"events": [answer] * 200}, token="app").status_code == 200
    assert len(gateway.log()) == 200
    assert gateway.post("/v1/feedback", THUMB | {"subject": "loud"}, token="app").status_code == 200


def test_a_batch_that_would_never_pass_is_not_asked_to_come_back(gateway: Gateway) -> None:
    loud = THUMB | {"subject": "loud"}
    answer = gateway.post("/v1/feedback", {"events": [loud] * 61}, token="app")
    says = "events: 61 of one subject in one request, at most 60 pass; send smaller batches"
    assert (answer.status_code, answer.json()) == (422, {"detail": says})
    assert "Retry-After" not in answer.headers
    assert gateway.post("/v1/feedback", {"events": [loud] * 60}, token="app").status_code == 200


def test_a_caller_has_a_limit_too(tmp_path: Path) -> None:
    with running(tmp_path, key_events_per_minute=100) as gateway:
        assert gateway.post("/v1/feedback", {"events": [THUMB] * 100}, token="app").status_code == 200
        assert gateway.post("/v1/feedback", THUMB, token="app").status_code == 429
        assert gateway.post("/v1/feedback", THUMB, token="all").status_code == 200


# --- the store fails ----------------------------------------------------------------------------------------------


class Away(DirectoryStore):
    """A store that can be switched off."""

    away = True

    def create(self, key: str, data: bytes) -> bool:
        if self.away:
            raise StoreUnavailable("503 SlowDown")
        return super().create(key, data)


def test_without_a_store_senders_are_told_to_come_back_and_nothing_is_lost(tmp_path: Path) -> None:
    """P25: 503 and Retry-After; the acknowledged set is unchanged, and afterwards a retry counts once."""
    store = Away(tmp_path / "store")
    impatient = LogSettings(window_seconds=0, pause_seconds=0.001, max_pause_seconds=0.002, patience_seconds=0.05)
    with running(tmp_path, store=store, log=impatient) as gateway:
        event = THUMB | {"idempotencyKey": "k"}
        answer = gateway.post("/v1/feedback", event)
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
        assert "same idempotencyKey" in answer.json()["detail"]
        assert gateway.log() == []
        assert gateway.get("/readyz", token=None).status_code == 503
        store.away = False
        end = time.monotonic() + 30  # as a client does: a slow disk may take longer than this gateway's short patience
        while (code := gateway.post("/v1/feedback", event).status_code) != 200:
            assert code == 503
            assert time.monotonic() < end
        assert [e["type"] for e in gateway.log()] == ["thumbs_up"]
        end = time.monotonic() + 60  # the probe tries again, the later the longer the store was away
        while gateway.get("/readyz", token=None).status_code != 200:
            assert time.monotonic() < end


def test_what_was_acknowledged_before_a_restart_is_known_after_it_by_its_id(tmp_path: Path) -> None:
    """T20, one replica: the second process writes the event again, readers count it once."""
    answers: list[Any] = []
    for _ in range(2):
        with running(tmp_path) as gateway:
            answers.append(gateway.post("/v1/feedback", THUMB | {"idempotencyKey": "k"}).json()["events"][0]["id"])
            log = gateway.log()
    assert answers[0] == answers[1]
    assert len(log) == 1


def test_an_event_that_its_sender_takes_back_is_counted_no_longer(gateway: Gateway) -> None:
    for number in range(3):
        gateway.post(
            "/v1/feedback", {"type": "rating", "rating": 5, "policy": "router", "idempotencyKey": f"k{number}"}
        )
    [answer] = gateway.post("/v1/feedback", {"type": "thumbs_down", "policy": "router"}).json()["events"]
    undo = {"type": "undo", "policy": "router", "supersedes": answer["id"], "idempotencyKey": "undo"}
    assert [gateway.post("/v1/feedback", undo).json()["events"][0]["duplicate"] for _ in range(2)] == [False, True]
    stats = gateway.get("/api/policies/router/feedback").json()
    assert (stats["events"], stats["byType"], stats["scoreMean"]) == (3, {"rating": 3}, 1.0)


def test_nobody_takes_back_what_another_sender_said(gateway: Gateway) -> None:
    [answer] = gateway.post("/v1/feedback", {"type": "thumbs_down", "policy": "router"}, token="app").json()["events"]
    gateway.post("/v1/feedback", {"type": "undo", "policy": "router", "supersedes": answer["id"]}, token="all")
    assert gateway.get("/api/policies/router/feedback").json()["events"] == 1


def test_a_vote_on_an_interaction_can_be_changed_by_superseding_it(gateway: Gateway) -> None:
    body = {"policy": "router", "input": "hello", "label": "greeting"}
    signed = gateway.post("/v1/interactions", body).json()["events"][0]["interactionId"]
    vote = {"type": "thumbs_up", "interactionId": signed}
    first = gateway.post("/v1/feedback", vote).json()["events"][0]["id"]
    other = vote | {"type": "thumbs_down"}
    assert gateway.post("/v1/feedback", other).status_code == 409
    assert gateway.post("/v1/feedback", other | {"supersedes": first}).status_code == 200
    stats = gateway.get("/api/policies/router/feedback").json()
    assert stats["byType"] == {"thumbs_down": 1}
