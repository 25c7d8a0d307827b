"""The policy server with a model that is none: batches, refusals, ids, records, readiness, the end."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from ratchet_api.client import GatewayError
from ratchet_api.environment import SettingsError
from ratchet_api.feedback import InteractionBatch
from ratchet_api.signing import KeyRing, verify_interaction
from ratchet_api.training_run import BaseModelRef
from ratchet_jobs.models.card import PolicyCard, TaskCard
from ratchet_serving.app import Parts, create_app
from ratchet_serving.batching import Batcher, BatchSettings
from ratchet_serving.engine import passes
from ratchet_serving.errors import Busy, Leaving
from ratchet_serving.metrics import ServingMetrics
from ratchet_serving.recording import Recorder
from ratchet_serving.settings import Exported, Settings, Source

NOW = datetime(2026, 11, 22, tzinfo=UTC)
RING = KeyRing({"2026-11": b"k" * 32})
EXPERIMENT = "00112233445566ff"
BASE = BaseModelRef(uri="store://models/tiny", sha256="0" * 64)
CARD = PolicyCard(labels=("card", "loan"), max_tokens=32, base_model=BASE, temperature=2.0, abstain_threshold=0.7)
TASKS = PolicyCard(
    labels=("topic/card", "topic/loan", "mood/calm", "mood/angry"),
    tasks=(TaskCard(name="topic"), TaskCard(name="mood", abstain_threshold=0.9)),
    max_tokens=32,
    base_model=BASE,
)


class Lengths:
    """The first class wins by the text's length over 4, every other class has 0. A text `nan` breaks the batch."""

    def __init__(self, classes: int = 2) -> None:
        self.classes, self.batches = classes, list[list[str]]()
        self.open = threading.Event()
        self.open.set()
        self.entered = threading.Semaphore(0)

    def logits(self, texts: Sequence[str]) -> NDArray[np.float64]:
        self.entered.release()
        self.open.wait(60)
        self.batches.append(list(texts))
        if "nan" in texts:
            raise ValueError("no number")
        return np.array([[len(text) - 4.0] + [0.0] * (self.classes - 1) for text in texts])

    async def hold(self, client: httpx2.AsyncClient, text: str) -> asyncio.Task[httpx2.Response]:
        """Send a text, and return when the model works on it and does not finish."""
        await ready(client)
        while self.entered.acquire(blocking=False):
            pass
        self.open.clear()
        ask = asyncio.create_task(client.post("/v1/classify", json={"text": text}))
        while not self.entered.acquire(blocking=False):
            await asyncio.sleep(0.001)
        return ask


class Gateway:
    """Keeps what it is told, refuses what it is told to refuse."""

    def __init__(self, *answers: GatewayError | None) -> None:
        self.records: list[Mapping[str, Any]] = []
        self.answers = list(answers)
        self.asked = threading.Semaphore(0)

    def record_all(self, interactions: Sequence[Mapping[str, Any]]) -> None:
        self.asked.release()
        if self.answers and (problem := self.answers.pop(0)):
            raise problem
        self.records += interactions


def new_metrics() -> ServingMetrics:
    return ServingMetrics(CollectorRegistry())


def value(metrics: ServingMetrics, name: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(name, labels) or 0.0


@asynccontextmanager
async def server(model: Lengths, card: PolicyCard = CARD, **more: Any) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of a server that has started, and is ended behind it."""
    parts = {name: more.pop(name) for name in ("ring", "gateway") if name in more}
    app = create_app(
        Settings(**{"policy": "router", "version": 3, **more}), Parts(model=model, card=card, now=lambda: NOW, **parts)
    )
    async with app.router.lifespan_context(app):
        transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
            yield client


async def ready(client: httpx2.AsyncClient) -> None:
    while (await client.get("/readyz")).status_code != 200:
        await asyncio.sleep(0.001)


async def queued(client: httpx2.AsyncClient, texts: int) -> None:
    while f"queued_texts {texts}.0" not in (await client.get("/metrics")).text:
        await asyncio.sleep(0.001)


async def test_a_text_is_answered_with_label_calibrated_confidence_and_abstention() -> None:
    # logits (4, 0) at temperature 2: softmax(2, 0) = 0.880797; (1, 0): softmax(0.5, 0) = 0.622459, below 0.7
    async with server(Lengths()) as client:
        sure = await client.post("/v1/classify", json={"text": "12345678", "probabilities": True})
        assert sure.json() == {
            "policy": "router",
            "version": 3,
            "label": "card",
            "confidence": pytest.approx(0.880797, abs=1e-6),
            "abstain": False,
            "probabilities": pytest.approx({"card": 0.880797, "loan": 0.119203}, abs=1e-6),
        }
        assert (sure.headers["x-ratchet-policy"], sure.headers["x-ratchet-version"]) == ("router", "3")
        unsure = (await client.post("/v1/classify", json={"text": "12345"})).json()
        assert (unsure["label"], unsure["abstain"]) == ("card", True)
        assert "probabilities" not in unsure


async def test_several_texts_are_answered_in_their_order() -> None:
    async with server(Lengths()) as client:
        answer = (await client.post("/v1/classify", json={"texts": ["1", "12345678"]})).json()
    assert [each["label"] for each in answer["results"]] == ["loan", "card"]


async def test_a_policy_with_several_tasks_answers_each_or_the_one_asked_for() -> None:
    async with server(Lengths(4), TASKS) as client:
        both = (await client.post("/v1/classify", json={"text": "123456"})).json()
        assert {task: (said["label"], said["abstain"]) for task, said in both["tasks"].items()} == {
            "topic": ("card", False),
            "mood": ("calm", True),
        }
        one = (await client.post("/v1/classify", json={"text": "123456", "task": "mood"})).json()
        assert list(one["tasks"]) == ["mood"]
        wrong = await client.post("/v1/classify", json={"text": "123456", "task": "tone"})
        assert (wrong.status_code, wrong.json()["detail"]) == (
            422,
            "task: 'tone' is none of the policy's, which has 'topic', 'mood'",
        )


async def test_kserves_protocol_is_told_what_classify_says() -> None:
    texts, model = ["1", "12345678"], Lengths(4)
    model.open.clear()
    async with server(model, TASKS) as client:
        early = await client.get("/v1/models/router")
        assert (early.status_code, early.json()) == (503, {"name": "router", "ready": False})
        model.open.set()
        await asyncio.wait_for(ready(client), 60)
        assert (await client.get("/v1/models")).json() == {"models": ["router"]}
        assert (await client.get("/v1/models/router")).json() == {"name": "router", "ready": True}
        plain = await client.post("/v1/classify", json={"texts": texts, "task": "mood", "probabilities": True})
        asked = {"instances": texts, "task": "mood", "probabilities": True}
        said = await client.post("/v1/models/router:predict", json=asked)
    assert said.json() == {"predictions": plain.json()["results"]}
    assert (said.headers["x-ratchet-policy"], said.headers["x-ratchet-version"]) == ("router", "3")


@pytest.mark.parametrize(
    ("path", "body", "want"),
    [
        ("other:predict", {"instances": ["a"]}, (404, "model 'other' is not served here; ask for 'router'")),
        ("router:predict", {"instances": []}, (422, "instances: Tuple should have at least 1 item")),
        ("router:predict", {"instances": [{"text": "a"}]}, (422, "instances.0: Input should be a valid string")),
        ("router:predict", {"texts": ["a"]}, (422, "instances: Field required")),
        ("router:explain", {"instances": ["a"]}, (405, "Method Not Allowed")),
    ],
    ids=["another model", "no texts", "objects", "another field", "another verb"],
)
async def test_what_kserves_protocol_cannot_mean_is_refused(path: str, body: Any, want: tuple[int, str]) -> None:
    async with server(Lengths()) as client:
        answer = await client.post(f"/v1/models/{path}", json=body)
    assert (answer.status_code, want[1] in answer.text) == (want[0], True), answer.text


BAD = [
    ("no JSON", b"{", "body: is no JSON in UTF-8"),
    ("no UTF-8", b'{"text": "\xff"}', "body: is no JSON in UTF-8"),
    ("a list", b"[]", "body: Input should be"),
    ("nothing", b"{}", "text: Field required"),
    ("an empty text", b'{"text": ""}', "text: String should have at least 1 character"),
    ("a number", b'{"text": 5}', "text: Input should be a valid string (seen: 5)"),
    ("a field that is none", b'{"text": "a", "tecst": 1}', "tecst: Extra inputs are not permitted"),
    ("no texts", b'{"texts": []}', "texts: Tuple should have at least 1 item"),
    ("too many texts", b'{"texts": [' + b'"a",' * 256 + b'"a"]}', "texts: Tuple should have at most 256 items"),
    ("a text too long", b'{"text": "' + b"a" * 32_769 + b'"}', "text: String should have at most 32768 characters"),
    ("a control character", b'{"text": "a\\u0000"}', "text: String should match pattern"),
    ("a subject too long", b'{"text": "a", "subject": "' + b"a" * 257 + b'"}', "subject: String should have at most"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "want"), [pytest.param(*case[1:], id=case[0]) for case in BAD])
async def test_a_bad_request_is_refused_with_the_field_and_never_with_the_text(body: bytes, want: str) -> None:
    async with server(Lengths()) as client:
        answer = await client.post("/v1/classify", content=body)
    assert answer.status_code == 422
    assert want in answer.json()["detail"]
    assert "aaa" not in answer.text


async def test_a_body_beyond_the_limit_is_refused_unread() -> None:
    async with server(Lengths(), max_body_bytes=1024) as client:
        answer = await client.post("/v1/classify", content=b'{"text": "' + b"a" * 2000 + b'"}')
    assert answer.status_code == 413
    assert "larger than 1024 bytes" in answer.json()["detail"]


async def test_requests_that_arrive_while_the_model_works_are_its_next_batch() -> None:
    model = Lengths()
    async with server(model, batch=BatchSettings(max_texts=8, max_wait_seconds=0)) as client:
        asks = [await model.hold(client, "a")]
        asks += [asyncio.create_task(client.post("/v1/classify", json={"text": "a" * n})) for n in range(2, 10)]
        await queued(client, 8)
        model.open.set()
        answers = [await ask for ask in asks]
    assert [len(batch) for batch in model.batches] == [1, 1, 8], "the warm-up, the first, and all others"
    assert [answer.json()["label"] for answer in answers] == ["loan"] * 3 + ["card"] * 6


async def test_a_full_queue_refuses_with_retry_after_and_takes_again_when_it_is_not() -> None:
    model = Lengths()
    async with server(model, batch=BatchSettings(max_texts=1, max_queue=2, max_wait_seconds=0)) as client:
        asks = [await model.hold(client, "abcdef")]
        asks += [asyncio.create_task(client.post("/v1/classify", json={"text": "abcdef"})) for _ in range(2)]
        await queued(client, 2)
        refused = await client.post("/v1/classify", json={"text": "abcdef"})
        model.open.set()
        assert [(await ask).status_code for ask in asks] == [200] * 3
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
        assert "2 texts wait already, at most 2 may" in refused.json()["detail"]
        assert 'refused_total{reason="busy"} 1.0' in (await client.get("/metrics")).text


async def test_a_batch_that_fails_fails_alone() -> None:
    async with server(Lengths()) as client:
        assert (await client.post("/v1/classify", json={"text": "nan"})).status_code == 500
        assert (await client.post("/v1/classify", json={"text": "abcdef"})).status_code == 200
        assert (await client.get("/healthz")).status_code == 200


async def test_a_server_is_ready_when_the_model_answered_and_not_before() -> None:
    model = Lengths()
    model.open.clear()
    async with server(model) as client:
        early = await client.get("/readyz")
        assert (early.status_code, (await client.get("/healthz")).status_code) == (503, 200)
        model.open.set()
        await asyncio.wait_for(ready(client), 60)


async def test_what_was_accepted_is_answered_at_the_end_and_nothing_more_is_taken() -> None:
    model, metrics = Lengths(), new_metrics()
    batcher = Batcher(model, BatchSettings(max_texts=1, max_wait_seconds=0), metrics)
    batcher.start()
    model.open.clear()
    asks = [asyncio.create_task(batcher.ask(["abcdef"])) for _ in range(3)]
    await asyncio.sleep(0)
    closing = asyncio.create_task(batcher.close())
    await asyncio.sleep(0)
    with pytest.raises(Leaving):
        await batcher.ask(["abcdef"])
    model.open.set()
    assert [float((await ask)[0, 0]) for ask in asks] == [2.0] * 3
    await closing
    assert not batcher.alive


async def test_a_client_that_left_takes_no_others_answer() -> None:
    model = Lengths()
    batcher = Batcher(model, BatchSettings(max_wait_seconds=0), new_metrics())
    batcher.start()
    model.open.clear()
    gone, here = asyncio.create_task(batcher.ask(["abc"])), asyncio.create_task(batcher.ask(["abcdef"]))
    await asyncio.sleep(0)
    gone.cancel()
    model.open.set()
    assert (await here)[0, 0] == 2.0
    await batcher.close()


async def test_a_single_request_larger_than_the_queue_is_answered() -> None:
    batcher = Batcher(Lengths(), BatchSettings(max_texts=2, max_queue=2, max_wait_seconds=0), new_metrics())
    batcher.start()
    assert (await batcher.ask(["a"] * 5)).shape == (5, 2)
    await batcher.close()
    assert issubclass(Busy, Exception)


@pytest.mark.parametrize(
    ("lengths", "max_tokens", "want"),
    [
        pytest.param([5, 8, 3], 100, [[2, 0, 1]], id="short ones stand together"),
        pytest.param([100, 10, 120], 1000, [[1], [0, 2]], id="a long one does not stand with a short one"),
        pytest.param([10, 10, 10], 20, [[0, 1], [2]], id="no more tokens than allowed"),
        pytest.param([50], 20, [[0]], id="a longer one stands alone"),
        pytest.param([], 20, [], id="nothing"),
    ],
)
def test_a_pass_holds_texts_of_like_length(lengths: Iterable[int], max_tokens: int, want: list[list[int]]) -> None:
    made = passes(np.array(list(lengths), dtype=np.int64), max_tokens=max_tokens)
    assert [each.tolist() for each in made] == want


async def test_every_answer_carries_a_signed_id_that_says_who_answered_in_which_arm() -> None:
    headers = {"x-ratchet-arm": "canary", "x-ratchet-propensity": "0.05", "x-ratchet-experiment": EXPERIMENT}
    async with server(Lengths(), ring=RING, behind_router=True) as client:
        answer = await client.post("/v1/classify", json={"text": "abcdef"}, headers=headers)
    signed = answer.headers["x-ratchet-interaction"]
    assert answer.json()["interactionId"] == signed
    said = verify_interaction(signed, RING, now=NOW + timedelta(days=29))
    assert (said.policy, said.version, said.arm, said.propensity) == ("router", 3, "canary", 0.05)
    assert said.experiment == EXPERIMENT


async def test_an_arm_that_a_client_makes_up_is_ignored_without_a_router() -> None:
    headers = {"x-ratchet-arm": "canary", "x-ratchet-propensity": "0.05", "x-ratchet-experiment": EXPERIMENT}
    async with server(Lengths(), ring=RING) as client:
        answer = await client.post("/v1/classify", json={"text": "abcdef"}, headers=headers)
    said = verify_interaction(answer.headers["x-ratchet-interaction"], RING, now=NOW)
    assert (said.arm, said.propensity, said.experiment) == (None, None, None)


@pytest.mark.parametrize(
    ("name", "text", "want"),
    [
        ("x-ratchet-arm", "blue", "x-ratchet-arm 'blue' is unknown"),
        ("x-ratchet-propensity", "often", "x-ratchet-propensity 'often'"),
        ("x-ratchet-propensity", "0", "x-ratchet-propensity '0'"),
        ("x-ratchet-propensity", "nan", "x-ratchet-propensity 'nan'"),
        ("x-ratchet-subject", "s" * 257, "x-ratchet-subject: has 257 characters"),
        ("x-ratchet-experiment", "first", "x-ratchet-experiment 'first'"),
        ("x-ratchet-shadow", "2", "x-ratchet-shadow '2': the router says VERSION/EXPERIMENT"),
        ("x-ratchet-shadow", f"3/{EXPERIMENT}", "x-request-id: is missing"),
    ],
)
async def test_a_header_that_cannot_be_is_refused(name: str, text: str, want: str) -> None:
    async with server(Lengths(), behind_router=True) as client:
        answer = await client.post("/v1/classify", json={"text": "abcdef"}, headers={name: text})
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith(want)


async def test_two_subjects_are_refused() -> None:
    async with server(Lengths(), behind_router=True) as client:
        headers = [("x-ratchet-subject", "ann"), ("x-ratchet-subject", "bob")]
        answer = await client.post("/v1/classify", json={"text": "abcdef"}, headers=headers)
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith("x-ratchet-subject: stands there 2 times")


@pytest.mark.parametrize(("behind_router", "want"), [(True, "by-header"), (False, "by-body")])
async def test_an_answer_is_recorded_of_the_subject_that_was_dealt_its_arm(behind_router: bool, want: str) -> None:
    """P31: behind the router that is the header's."""
    gateway = Gateway()
    async with server(Lengths(), ring=RING, gateway=gateway, behind_router=behind_router) as client:
        body = {"text": "abcdef", "subject": "by-body"}
        await client.post("/v1/classify", json=body, headers={"x-ratchet-subject": "by-header"})
    assert [record["subject"] for record in gateway.records] == [want]


async def test_every_answer_is_recorded_as_the_gateway_takes_it() -> None:
    gateway = Gateway()
    async with server(Lengths(4), TASKS, ring=RING, gateway=gateway) as client:
        answer = await client.post("/v1/classify", json={"text": "abcdef", "subject": "ann"})
    # the end of the server has sent what waited
    batch = InteractionBatch.model_validate({"events": gateway.records})
    assert [event.label for event in batch.events] == ["topic/card", "mood/calm"]
    assert {event.subject for event in batch.events} == {"ann"}
    assert [event.tags["abstain"] for event in batch.events] == ["false", "true"]
    ids = [each["interactionId"] for each in answer.json()["tasks"].values()]
    assert [event.interaction_id for event in batch.events] == ids
    assert len({event.idempotency_key for event in batch.events}) == 2


async def test_an_answer_is_recorded_with_the_milliseconds_that_it_took() -> None:
    gateway, worked = Gateway(), list[float]()

    class Timed(Lengths):
        def logits(self, texts: Sequence[str]) -> NDArray[np.float64]:
            began = time.perf_counter()
            try:
                return super().logits([*texts, *("text" for _ in range(100_000))])[: len(texts)]
            finally:
                worked.append(time.perf_counter() - began)

    async with server(Timed(), ring=RING, gateway=gateway) as client:
        await ready(client)
        began = time.perf_counter()
        await client.post("/v1/classify", json={"text": "abcdef"})
        whole = time.perf_counter() - began
    [event] = InteractionBatch.model_validate({"events": gateway.records}).events
    assert event.milliseconds is not None
    assert 1000 * worked[-1] <= event.milliseconds <= 1000 * whole


async def test_who_got_no_answer_in_a_trial_is_recorded_too() -> None:
    """P34: leaving them out would make a version that fails look good. Outside a trial nobody compares."""
    gateway = Gateway()
    headers = {"x-ratchet-arm": "canary", "x-ratchet-subject": "ann", "x-ratchet-experiment": EXPERIMENT}
    async with server(Lengths(), ring=RING, gateway=gateway, behind_router=True) as client:
        assert (await client.post("/v1/classify", json={"text": "nan"})).status_code == 500
        assert (await client.post("/v1/classify", json={"text": "nan"}, headers=headers)).status_code == 500
        assert (await client.post("/v1/classify", json={"texts": ["card"]}, headers=headers)).status_code == 200
    batch = InteractionBatch.model_validate({"events": gateway.records})
    seen = [(event.subject, event.experiment, event.failed, event.abstained) for event in batch.events]
    assert seen == [("ann", EXPERIMENT, True, None), ("ann", EXPERIMENT, None, True)]
    said = verify_interaction(batch.events[0].interaction_id or "", RING, now=NOW)
    assert (said.arm, said.experiment) == ("canary", EXPERIMENT)


async def test_what_two_versions_answer_to_a_request_is_recorded_under_the_same_names_and_of_nobody() -> None:
    """Version 3 is asked besides version 2: its answer is only compared, and never taken for what somebody got."""
    told: dict[int, list[Any]] = {}
    headers = {"x-ratchet-subject": "ann", "x-ratchet-shadow": f"3/{EXPERIMENT}", "x-request-id": "r-1"}
    for version in (2, 3):
        gateway = Gateway()
        more: dict[str, Any] = {"ring": RING, "gateway": gateway, "behind_router": True, "version": version}
        async with server(Lengths(4), TASKS, **more) as client:
            answer = await client.post("/v1/classify", json={"texts": ["abcdef", "abc"]}, headers=headers)
            assert answer.status_code == 200
            assert (await client.post("/v1/classify", json={"text": "nan"}, headers=headers)).status_code == 500
        told[version] = list(InteractionBatch.model_validate({"events": gateway.records}).events)
    assert [event.pair is None for event in told[2]] == [True] * 4 + [False] * 6
    assert [event.pair is None for event in told[3]] == [False] * 6
    champion, shadow = told[2][4:], told[3]
    for mine, theirs, label in zip(
        champion, shadow, ["topic/card", "mood/calm", "topic/loan", "mood/calm", None, None], strict=True
    ):
        assert mine.pair is not None
        assert theirs.pair is not None
        assert (mine.pair.request, mine.pair.experiment) == (theirs.pair.request, theirs.pair.experiment)
        assert (mine.pair.shadow, theirs.pair.shadow) == (False, True)
        assert mine.label == theirs.label == label
        assert (mine.failed, mine.subject, mine.interaction_id) == (None if label else True, None, None)
    assert len({event.pair.request for event in shadow if event.pair is not None}) == 4  # r-1 was said of two requests
    assert len({event.idempotency_key for event in champion + shadow}) == 12


async def test_a_shadow_that_a_client_makes_up_is_ignored_without_a_router() -> None:
    gateway = Gateway()
    async with server(Lengths(), ring=RING, gateway=gateway) as client:
        headers = {"x-ratchet-shadow": f"3/{EXPERIMENT}", "x-request-id": "r-1"}
        await client.post("/v1/classify", json={"text": "abcdef"}, headers=headers)
    assert [("pair" in record, "interactionId" in record) for record in gateway.records] == [(False, True)]


def test_records_tell_how_many_of_their_trial_were_lost_before() -> None:
    """P35: whoever reads the log knows what it lacks; another trial's records tell of their own losses alone."""
    gateway, metrics, pause = Gateway(), new_metrics(), threading.Event()
    recorder = Recorder(gateway, size=1, metrics=metrics, gather_seconds=0)
    for number in range(3):
        recorder.put({"id": number, "experiment": "a"})
    recorder.start()
    for number, experiment in ((3, "a"), (4, "b")):
        while value(metrics, "ratchet_serving_records_waiting"):
            pause.wait(0.001)
        recorder.put({"id": number, "experiment": experiment})
    recorder.close(seconds=60)
    assert [(record["id"], record.get("dropped")) for record in gateway.records] == [(0, None), (3, 2), (4, None)]
    assert len(gateway.records[1]["recorder"]) == 16


def test_records_that_do_not_fit_are_dropped_and_counted_and_never_waited_for() -> None:
    metrics, gateway = new_metrics(), Gateway()
    recorder = Recorder(gateway, size=3, metrics=metrics, gather_seconds=0)
    for number in range(5):
        recorder.put({"id": number})
    recorder.start()
    recorder.close(seconds=60)
    assert [record["id"] for record in gateway.records] == [0, 1, 2]
    assert value(metrics, "ratchet_serving_records_total", outcome="dropped") == 2
    assert value(metrics, "ratchet_serving_records_total", outcome="stored") == 3
    recorder.put({"id": 9})
    assert value(metrics, "ratchet_serving_records_total", outcome="dropped") == 3


def test_records_stay_until_the_gateway_is_back_and_those_it_refuses_are_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ratchet_serving.recording.AGAIN_SECONDS", 0.0)
    metrics = new_metrics()
    gateway = Gateway(GatewayError("away"), GatewayError("later", status=503), None, GatewayError("bad", status=422))
    recorder = Recorder(gateway, size=10, metrics=metrics, gather_seconds=0)
    recorder.put({"id": 1})
    recorder.start()
    for _ in range(3):
        assert gateway.asked.acquire(timeout=60)
    recorder.put({"id": 2})
    assert gateway.asked.acquire(timeout=60)
    recorder.close(seconds=60)
    assert [record["id"] for record in gateway.records] == [1]
    assert value(metrics, "ratchet_serving_records_total", outcome="dropped") == 1


def test_records_that_nobody_takes_by_the_end_are_counted_as_dropped() -> None:
    metrics = new_metrics()
    recorder = Recorder(Gateway(*[GatewayError("away")] * 100), size=10, metrics=metrics, gather_seconds=0)
    recorder.put({"id": 1})
    recorder.start()
    recorder.close(seconds=5)
    assert value(metrics, "ratchet_serving_records_total", outcome="dropped") == 1
    assert value(metrics, "ratchet_serving_records_waiting") == 0


GOOD_ENV = {
    "RATCHET_STORE_URI": "file:///store",
    "RATCHET_SERVING_NAMESPACE": "team",
    "RATCHET_SERVING_POLICY": "router",
    "RATCHET_SERVING_ARTIFACT_URI": "file:///store/team/runs/r/evaluate/1-abc",
    "RATCHET_SERVING_ARTIFACT_DIGEST": "0" * 64,
}


def test_the_environment_says_what_is_served_and_how() -> None:
    settings = Settings.from_env(
        {**GOOD_ENV, "RATCHET_SERVING_VERSION": "3", "RATCHET_SERVING_BATCH_MILLISECONDS": "5"}
    )
    assert (settings.policy, settings.version, settings.batch.max_wait_seconds) == ("router", 3, 0.005)
    assert Settings.from_env(GOOD_ENV).version is None
    assert Source.from_env(GOOD_ENV).artifact.digest == "0" * 64


def test_an_exported_folder_is_served_instead_of_a_store() -> None:
    assert Exported.from_env(GOOD_ENV) is None
    exported = Exported.from_env({"RATCHET_SERVING_EXPORT": "/mnt/models", "RATCHET_SERVING_ARTIFACT_DIGEST": "1" * 64})
    assert exported is not None
    assert (exported.folder, exported.artifact.digest) == (Path("/mnt/models"), "1" * 64)
    for other in ("RATCHET_STORE_URI", "RATCHET_SERVING_ENGINE_URL"):
        with pytest.raises(SettingsError, match=f"RATCHET_SERVING_EXPORT='/mnt' and {other} are both set"):
            Exported.from_env({"RATCHET_SERVING_EXPORT": "/mnt", other: "file:///store"})
    with pytest.raises(SettingsError, match="RATCHET_SERVING_ARTIFACT_DIGEST is not set"):
        Exported.from_env({"RATCHET_SERVING_EXPORT": "/mnt"})


@pytest.mark.parametrize(
    ("name", "text", "want"),
    [
        ("RATCHET_SERVING_POLICY", "", "RATCHET_SERVING_POLICY is not set; set it to the name of the RLPolicy"),
        ("RATCHET_SERVING_VERSION", "two", "RATCHET_SERVING_VERSION='two' is not a number"),
        ("RATCHET_SERVING_PORT", "70000", "RATCHET_SERVING_PORT='70000' is out of bounds; set a number between 0"),
        ("RATCHET_SERVING_BATCH_TEXTS", "0", "RATCHET_SERVING_BATCH_TEXTS='0' is out of bounds"),
        ("RATCHET_SERVING_BEHIND_ROUTER", "yes", "RATCHET_SERVING_BEHIND_ROUTER='yes' is unknown; set true or false"),
        ("RATCHET_LOG_LEVEL", "loud", "RATCHET_LOG_LEVEL='loud' is unknown"),
        ("RATCHET_SERVING_GATEWAY_URL", "http://gateway", "without RATCHET_SERVING_SIGNING_KEYS"),
        ("RATCHET_STORE_URI", "", "RATCHET_STORE_URI is not set"),
        ("RATCHET_SERVING_ARTIFACT_DIGEST", "abc", "RATCHET_SERVING_ARTIFACT_DIGEST='abc' cannot be"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_by_name(name: str, text: str, want: str) -> None:
    environment = {**GOOD_ENV, name: text}
    with pytest.raises(SettingsError) as caught:
        _ = Settings.from_env(environment), Source.from_env(environment)
    assert want in str(caught.value)


def test_a_token_that_is_not_there_is_told(tmp_path: Path) -> None:
    from ratchet_serving.serving import _token

    with pytest.raises(SettingsError, match=r"TOKEN_FILE=.*No such file"):
        _token(Settings("router", gateway_token_file=tmp_path / "none"))
