"""The analyst over HTTP, on a log that the real gateway wrote, and as the process that is deployed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.testclient import TestClient

from bench.contenders import free_port
from ratchet_api.client import GatewayClient
from ratchet_api.evidence import ExperimentEvidence
from ratchet_gateway.analyst.app import create_app
from ratchet_jobs.runtime.errors import StoreUnavailable
from ratchet_jobs.runtime.store_directory import DirectoryStore
from ratchet_serving.app import Parts as ServingParts
from ratchet_serving.app import create_app as create_server
from ratchet_serving.settings import Settings as ServingSettings
from tests.analyst_log import EXPERIMENT, Analyst, TrialLog, analyst
from tests.gateway_app import RING, Clock, key_of, listening, running
from tests.unit.test_serving import CARD, Lengths

URL = f"/v1/policies/router/experiments/{EXPERIMENT}"


@contextmanager
def serving(made: Analyst) -> Iterator[TestClient]:
    """The application, which looks by itself."""
    with TestClient(create_app(made.watch, made.metrics)) as client:
        yield client


def until(done: Any) -> Any:
    """Ask until the answer is not empty."""
    pause = threading.Event()
    for _ in range(6000):
        if answer := done():
            return answer
        pause.wait(0.01)
    raise AssertionError("never")


def test_what_people_say_through_the_gateway_is_counted(tmp_path: Path) -> None:
    """Ten people in each arm; those of the candidate like it."""
    clock = Clock()
    with running(tmp_path, clock=clock) as gateway:
        for number in range(20):
            arm = "canary" if number % 2 else "control"
            answer = {"policy": "router", "input": "text", "label": "card", "abstained": False}
            trial = {"experiment": EXPERIMENT, "arm": arm, "version": 2 if number % 2 else 1, "subject": f"s{number}"}
            stored = gateway.post("/v1/interactions", answer | trial).json()["events"][0]
            kind = "thumbs_up" if number % 2 else "thumbs_down"
            sent = gateway.post("/v1/feedback", {"type": kind, "interactionId": stored["interactionId"]})
            assert sent.status_code == 200, sent.text
        clock.pass_(seconds=200)
        gateway.post("/v1/feedback", {"type": "thumbs_up", "policy": "router"})
        with serving(analyst(gateway.store, seconds=200, look_seconds=0.05)) as client:
            until(lambda: client.get("/readyz").status_code == 200)
            answer = client.get(URL)
            seen = ExperimentEvidence.model_validate_json(answer.content)
            metrics = client.get("/metrics").text
    assert answer.status_code == 200
    assert (seen.split.counts, seen.candidate, seen.champion, seen.problem) == ((10, 10), 2, 1, "")
    assert (seen.means["feedback"].candidate.total, seen.means["feedback"].champion.total) == (10.0, 0.0)
    assert 'ratchet_analyst_answers_total{code="200"} 1.0' in metrics
    assert "ratchet_analyst_events_total 41.0" in metrics


async def test_what_the_router_says_reaches_the_evidence_through_server_gateway_and_log(tmp_path: Path) -> None:
    """P34: every request of the candidate fails, and the champion's are answered and liked."""
    clock = Clock()
    with listening(tmp_path, clock=clock) as url, GatewayClient(url, token=key_of("all")) as gateway:
        for version, arm in ((1, "control"), (2, "canary")):
            settings = ServingSettings(policy="router", version=version, behind_router=True)
            app = create_server(settings, ServingParts(Lengths(), CARD, ring=RING, gateway=gateway, now=clock.now))
            async with app.router.lifespan_context(app):
                transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
                async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
                    for number in range(8):
                        headers = {"x-ratchet-subject": f"{arm}-{number}", "x-ratchet-arm": arm}
                        headers |= {"x-ratchet-propensity": "0.5", "x-ratchet-experiment": EXPERIMENT}
                        body = {"text": "nan" if version == 2 else "12345678"}
                        answer = await client.post("/v1/classify", json=body, headers=headers)
                        if version == 1:
                            about = answer.headers["x-ratchet-interaction"]
                            await asyncio.to_thread(gateway.send, {"type": "thumbs_up", "interactionId": about})
        clock.pass_(seconds=200)
        await asyncio.to_thread(gateway.record, {"policy": "router", "input": "later", "label": "card"})
        seen = analyst(DirectoryStore(tmp_path / "store"), seconds=200).see()
    errors = seen.rare["errors"]
    assert (seen.split.counts, seen.candidate, seen.champion, seen.problem) == ((8, 8), 2, 1, "")
    assert (errors.candidate_events, errors.candidate_subjects, errors.champion_events) == (8, 8, 0)
    assert (seen.means["feedback"].candidate.subjects, seen.means["feedback"].champion.total) == (0, 8.0)


def test_an_experiment_that_nobody_met_has_zeros_and_no_age(tmp_path: Path) -> None:
    with serving(analyst(DirectoryStore(tmp_path / "store"))) as client:
        until(lambda: client.get("/readyz").status_code == 200)
        seen = client.get(URL).json()
    assert (seen["split"], seen["ageSeconds"], seen["watermark"], seen["candidate"]) == (
        {"counts": [0, 0], "worst": 0.0},
        None,
        None,
        None,
    )


@pytest.mark.parametrize(
    ("path", "want"),
    [
        ("/v1/policies/Router!/experiments/00112233445566ff", "policy: "),
        ("/v1/policies/router/experiments/first", "experiment: "),
        ("/v1/policies/router/experiments/00112233445566FF", "experiment: "),
    ],
)
def test_a_name_that_cannot_be_is_refused(tmp_path: Path, path: str, want: str) -> None:
    with serving(analyst(DirectoryStore(tmp_path / "store"))) as client:
        answer = client.get(path)
    assert (answer.status_code, answer.json()["detail"][: len(want)]) == (422, want)


def test_a_store_that_is_away_is_said_and_healed(tmp_path: Path) -> None:
    """P35: 503 is no evidence."""
    log = TrialLog(DirectoryStore(tmp_path / "store"))
    log.answer("ann", "canary", 0)
    log.seal()
    whole, back = log.store.list, threading.Event()

    def listed(prefix: str) -> Any:
        if not back.is_set():
            raise StoreUnavailable("store s3://bucket: no answer")
        return whole(prefix)

    log.store.list = listed  # type: ignore[method-assign]
    with serving(analyst(log.store, look_seconds=0.05)) as client:
        until(lambda: "no answer" in client.get("/readyz").text)
        refused = client.get(URL)
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "5")
        assert "no answer" in refused.json()["detail"]
        assert client.get("/healthz").status_code == 200
        back.set()
        until(lambda: client.get("/readyz").status_code == 200)
        assert client.get(URL).json()["split"]["counts"] == [1, 0]


def test_an_analyst_whose_looks_ended_by_a_defect_says_that_it_must_be_replaced(tmp_path: Path) -> None:
    made = analyst(DirectoryStore(tmp_path / "store"))
    made.tables.close()
    with serving(made) as client:
        until(lambda: client.get("/healthz").status_code == 500)


def test_the_process_reads_answers_and_ends(tmp_path: Path) -> None:
    log = TrialLog(DirectoryStore(tmp_path / "store"))
    log.answer("ann", "canary", 0)
    log.seal()
    port = free_port()
    environment = os.environ | {
        "RATCHET_STORE_URI": f"file://{tmp_path}/store",
        "RATCHET_ANALYST_NAMESPACE": "ns",
        "RATCHET_ANALYST_PORT": str(port),
        "RATCHET_ANALYST_DAYS": "400",
        "TMPDIR": str(tmp_path),
    }
    command = [sys.executable, "-m", "ratchet_gateway.analyst"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def ready() -> bool:
        assert process.poll() is None
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=60) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    try:
        until(ready)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{URL}", timeout=60) as answer:
            assert json.load(answer)["policy"] == "router"
    finally:
        process.send_signal(signal.SIGTERM)
        printed, _ = process.communicate(timeout=60)
    assert process.returncode in (0, -signal.SIGTERM), printed
    assert {path.name for path in tmp_path.iterdir()} == {"store"}, "its file goes with it"


def test_a_process_without_a_store_says_which_variable_is_missing() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ratchet_gateway.analyst"],
        env={name: value for name, value in os.environ.items() if not name.startswith("RATCHET_")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (
        78,
        "ratchet-analyst: RATCHET_STORE_URI is not set; set it to s3://BUCKET[/PREFIX] or file:///DIR\n",
    )
