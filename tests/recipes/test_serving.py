"""The policy server on a policy that the product's own stages trained: as a process, and by `ratchet serve`."""

from __future__ import annotations

import datetime
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.contenders import free_port
from ratchet_api.attempts import Artifact
from ratchet_api.signing import KeyRing, verify_interaction
from ratchet_api.stage import Commit, StoreConfig
from ratchet_jobs import load_policy
from ratchet_jobs.runtime.errors import BadModelError
from ratchet_serving.__main__ import main
from ratchet_serving.engine import Engine
from ratchet_serving.loading import load
from ratchet_serving.settings import Source
from tests.tiny_bert import reviews
from tests.trained_home import TrainedHome
from tests.workbench import NAMESPACE, Workbench

pytestmark = pytest.mark.slow
TEXTS = [text for text, _ in reviews(40, seed=3)] + ["card", "nothing that it knows", "card " * 60]


class Trained:
    """A committed policy, its folder, and a home that names it router@1."""

    def __init__(self, root: Path) -> None:
        self.bench = Workbench(
            root, train=reviews(120, seed=0), validation=reviews(40, seed=1), test=reviews(40, seed=2)
        )
        self.bench.pod(self.bench.supervised(epochs=2.0))
        self.commit: Commit
        self.commit, self.folder = self.bench.pod(self.bench.evaluate(abstainTargetAccuracy=0.9))
        self.artifact = Artifact(uri=f"{self.bench.store.uri}/{self.commit.directory}", digest=self.commit.digest)
        self.home = TrainedHome(self.bench)
        self.home.put_run("good", self.commit)
        self.home.put_policy("router", ("good", self.commit))
        self.home.put_variant("router", 1, {"abstainThreshold": 0.0})

    @property
    def source(self) -> Source:
        return Source(StoreConfig(uri=self.bench.store.uri), NAMESPACE, self.artifact)

    def environment(self, port: int, **more: str) -> dict[str, str]:
        return {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "RATCHET_STORE_URI": self.bench.store.uri,
            "RATCHET_SERVING_NAMESPACE": NAMESPACE,
            "RATCHET_SERVING_POLICY": "router",
            "RATCHET_SERVING_VERSION": "1",
            "RATCHET_SERVING_ARTIFACT_URI": self.artifact.uri,
            "RATCHET_SERVING_ARTIFACT_DIGEST": self.artifact.digest,
            "RATCHET_SERVING_PORT": str(port),
            **more,
        }


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return Trained(tmp_path_factory.mktemp("served"))


def ask(url: str, body: Mapping[str, Any] | None = None) -> tuple[int, Any, Mapping[str, str]]:
    request = urllib.request.Request(url, None if body is None else json.dumps(body).encode())
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read(), answer.headers
    except urllib.error.HTTPError as error:
        return error.code, error.read(), error.headers


class Process:
    """A server as it is deployed, or as it is typed."""

    def __init__(self, command: list[str], environment: Mapping[str, str], port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def wait_ready(self) -> None:
        end = time.monotonic() + 250
        while time.monotonic() < end and self._process.poll() is None:
            try:
                if ask(f"{self.url}/readyz")[0] == 200:
                    return
            except OSError:
                pass
            time.sleep(0.05)
        raise AssertionError(f"not ready: {self.end()}")

    def end(self, how: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        if self._process.poll() is None:
            self._process.send_signal(how)
        printed, _ = self._process.communicate(timeout=250)
        return self._process.returncode, printed


@pytest.fixture(scope="module")
def server(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Process, KeyRing]]:
    keys = tmp_path_factory.mktemp("keys")
    (keys / "2026-11").write_text("k" * 40)
    port = free_port()
    environment = trained.environment(port, RATCHET_SERVING_SIGNING_KEYS=str(keys))
    process = Process([sys.executable, "-m", "ratchet_serving"], environment, port)
    try:
        process.wait_ready()
        yield process, KeyRing.from_directory(keys)
    finally:
        code, printed = process.end()
    assert code in (0, -signal.SIGTERM), printed


def test_batches_of_any_mixture_are_answered_as_load_policy_answers(trained: Trained) -> None:
    engine, policy = Engine(load(trained.source), max_tokens=64), load_policy(trained.folder, base=trained.bench.base)
    logits = engine.logits(TEXTS)
    alone = np.concatenate([engine.logits([text]) for text in TEXTS])
    np.testing.assert_allclose(logits, alone, atol=1e-5)
    probs = policy.predict_proba(TEXTS)
    scaled = np.exp(logits / engine.card.temperature)
    np.testing.assert_allclose(scaled / scaled.sum(1, keepdims=True), probs, atol=1e-5)


@pytest.mark.parametrize("changed", ["head.safetensors", "policy.json", "tokenizer.json"])
def test_a_policy_whose_bytes_are_not_the_committed_ones_is_not_served(
    trained: Trained, changed: str, tmp_path: Path
) -> None:
    key = f"{trained.commit.directory}/{changed}"
    before = trained.bench.store.read(key)
    trained.bench.store.write(key, before + b" ")
    try:
        with pytest.raises(
            BadModelError, match=rf"the digest is .* as committed, but .*/{changed} has [0-9a-f]{{64}}; re"
        ):
            load(trained.source)
    finally:
        trained.bench.store.write(key, before)


def test_the_server_answers_what_the_policy_says_and_signs_it(
    trained: Trained, server: tuple[Process, KeyRing]
) -> None:
    process, ring = server
    policy = load_policy(trained.folder, base=trained.bench.base)
    code, raw, headers = ask(f"{process.url}/v1/classify", {"text": TEXTS[0], "probabilities": True})
    said = json.loads(raw)
    assert (code, said["policy"], said["version"]) == (200, "router", 1)
    assert said["label"] == policy.predict([TEXTS[0]])[0]
    assert said["abstain"] == bool(policy.abstain([TEXTS[0]])[0])
    expected = dict(zip(policy.labels, policy.predict_proba([TEXTS[0]])[0].tolist(), strict=True))
    assert said["probabilities"] == pytest.approx(expected, abs=1e-5)
    exposure = verify_interaction(headers["x-ratchet-interaction"], ring, now=datetime.datetime.now(datetime.UTC))
    assert (exposure.policy, exposure.version) == ("router", 1)


def test_the_server_counts_and_documents_itself(trained: Trained, server: tuple[Process, KeyRing]) -> None:
    process, _ = server
    ask(f"{process.url}/v1/classify", {"texts": TEXTS[:3]})
    metrics = ask(f"{process.url}/metrics")[1].decode()
    assert f'ratchet_serving_info{{digest="{trained.artifact.digest}",policy="router",version="1"}} 1.0' in metrics
    assert 'ratchet_serving_requests_total{code="200",route="/v1/classify"}' in metrics
    document = json.loads(ask(f"{process.url}/openapi.json")[1])
    assert list(document["paths"]) == ["/v1/classify", "/v1/models/{name}:predict"]
    assert ask(f"{process.url}/docs")[0] == 200


@pytest.mark.parametrize(
    ("name", "text", "code", "want"),
    [
        ("RATCHET_SERVING_ARTIFACT_DIGEST", "0" * 64, 13, "ratchet-serve: artifact: the digest is 0000"),
        ("RATCHET_SERVING_PORT", "nine", 78, "ratchet-serve: RATCHET_SERVING_PORT='nine' is not a number"),
        ("RATCHET_SERVING_GENERATION", '{"maxTokens": 9}', 78, "GENERATION: maxTokens means nothing to a classifier"),
        ("RATCHET_SERVING_SIGNING_KEYS", "/none", 78, "ratchet-serve: key directory /none: No such file"),
    ],
)
def test_a_server_that_cannot_be_says_why_and_ends_with_its_code(
    trained: Trained, name: str, text: str, code: int, want: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    for variable, value in trained.environment(0, **{name: text}).items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == code
    assert want in capsys.readouterr().err


@pytest.mark.parametrize("gone", ["head.safetensors", "all"])
def test_a_server_whose_files_are_gone_leaves_the_missing_file_in_its_pods_status(
    trained: Trained, gone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = tmp_path / "termination-log"
    said.touch()
    names = [file.path for file in trained.commit.files]
    keys = [f"{trained.commit.directory}/{name}" for name in (names if gone == "all" else [gone])]
    before = {key: trained.bench.store.read(key) for key in keys}
    for variable, value in trained.environment(0, RATCHET_TERMINATION_PATH=str(said)).items():
        monkeypatch.setenv(variable, value)
    trained.bench.store.delete(keys)
    try:
        with pytest.raises(SystemExit) as ended:
            main([])
    finally:
        for key, data in before.items():
            trained.bench.store.write(key, data)
    assert ended.value.code == 13
    first = names[0] if gone == "all" else gone
    told = f"; {len(names)} of its {len(names)} files are missing" if gone == "all" else ""
    assert said.read_text() == (
        f"artifact: {trained.artifact.uri}/{first} is missing in the store{told}; restore it from a backup or an older "
        "version of the bucket, or publish another version of the policy"
    )


def test_a_reason_that_is_longer_than_a_pods_status_is_cut_and_none_is_written_outside_of_pods(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = tmp_path / "termination-log"
    monkeypatch.setenv("RATCHET_TERMINATION_PATH", str(said))
    monkeypatch.setenv("RATCHET_SERVING_POLICY", "router")
    monkeypatch.setenv("RATCHET_SERVING_PORT", "n" * 5000)
    for there in (False, True):
        if there:
            said.touch()
        with pytest.raises(SystemExit):
            main([])
        assert said.exists() is there
    assert said.stat().st_size == 4096
    assert "RATCHET_SERVING_PORT='nnn" in capsys.readouterr().err


@pytest.mark.parametrize(("number", "abstains"), [(1, True), (2, False)], ids=["as trained", "by its own config"])
def test_ratchet_serve_serves_a_published_version_on_loopback(trained: Trained, number: int, abstains: bool) -> None:
    port = free_port()
    command = [
        sys.executable,
        "-c",
        "from ratchet_cli.main import app; app()",
        "serve",
        f"router@{number}",
        "--port",
        str(port),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RATCHET_HOME": str(trained.home.path)}
    process = Process([*command, "-n", NAMESPACE, "--local"], environment, port)
    process.wait_ready()
    code, raw, _ = ask(f"{process.url}/v1/classify", {"text": TEXTS[0]})
    said = json.loads(raw)
    assert (code, said["policy"], said["version"], said["abstain"]) == (200, "router", number, abstains)
    ended, printed = process.end(signal.SIGINT)
    assert ended in (0, 130), printed
    assert f"http://127.0.0.1:{port}/v1/classify" in printed
    assert "Traceback" not in printed
