"""`ratchet chat` and `ratchet serve`: what a committed generator answers, by command and over HTTP; and how other verbs
refuse one."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch
from ruamel.yaml import YAML
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from bench.contenders import free_port
from ratchet_api.attempts import Artifact
from ratchet_api.stage import StoreConfig
from ratchet_cli.errors import CliError
from ratchet_cli.main import run_command
from ratchet_cli.samples_verb import pairs_of
from ratchet_cli.versions import Version
from ratchet_gateway.log.writer import LogSettings
from ratchet_gateway.policies import FixedPolicies, PolicyView
from ratchet_serving.loading import LoadedGenerator, load
from ratchet_serving.settings import Source
from tests.gateway_app import key_of, listening
from tests.generator_bench import GeneratorBench
from tests.tiny_llama import dialogues
from tests.trained_home import TrainedHome
from tests.workbench import NAMESPACE

Command = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainedHome, Path, Path]:
    """A home with a version of a generator; the folders of its stages."""
    bench = GeneratorBench(tmp_path_factory.mktemp("chat"), train=dialogues(48, seed=0), test=dialogues(12, seed=5))
    _, learned = bench.pod(bench.supervised(epochs=2.0))
    commit, folder = bench.pod(bench.evaluate())
    home = TrainedHome(bench)
    home.put_run("helper-1", commit, policyType="generator")
    home.put_policy("helper", ("helper-1", commit))
    return home, learned, folder


@pytest.fixture
def ratchet(
    made: tuple[TrainedHome, Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Command:
    """Runs a command line on the home; returns exit code and all that was printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RATCHET_HOME", str(made[0].path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr("ratchet_cli.screen.err.width", 300)

    def run(*arguments: str, typed: str | None = None) -> tuple[int, str]:
        if typed is not None:
            monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
        code = run_command([*arguments, "-n", "team"])
        printed = capfd.readouterr()
        return code, printed.out + printed.err

    return run


def first(made: tuple[TrainedHome, Path, Path]) -> dict[str, str]:
    found: dict[str, str] = json.loads((made[2] / "evaluation.json").read_text())["answers"][0]
    return found


def test_a_prompt_is_answered_as_the_evaluation_noted(made: tuple[TrainedHome, Path, Path], ratchet: Command) -> None:
    told = first(made)
    asked = ("--max-new-tokens", "10", "--prompt")
    assert ratchet("chat", "helper@1", *asked, told["prompt"]) == (0, told["answer"] + "\n")
    assert ratchet("chat", "helper", *asked, "-", typed=told["prompt"]) == (0, told["answer"] + "\n")
    assert ratchet("chat", str(made[2]), *asked, told["prompt"]) == (0, told["answer"] + "\n")


def test_a_conversation_goes_on_until_nothing_is_said(made: tuple[TrainedHome, Path, Path], ratchet: Command) -> None:
    told = first(made)
    code, printed = ratchet("chat", "helper", "--max-new-tokens", "10", typed=f"{told['prompt']}\nthe card\n\nmore\n")
    assert code == 0
    assert printed.splitlines()[0] == told["answer"]
    assert len(printed.splitlines()) == 2


def test_drawn_answers_follow_the_seed(ratchet: Command) -> None:
    def drawn(seed: int) -> str:
        asked = ("--prompt", "the card", "--temperature", "3", "--max-new-tokens", "12", "--seed", str(seed))
        return ratchet("chat", "helper", *asked)[1]

    assert drawn(1) == drawn(1)
    assert len({drawn(seed) for seed in range(4)}) > 1


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("chat", "helper", "-p", " "), 2, "--prompt is empty"),
        (("chat", "helper", "--system", "", "-p", "hi"), 2, "--system is empty"),
        (("chat", "helper", "-p", "hi", "--temperature", "-1"), 2, "--temperature"),
        (("chat", "helper@9", "-p", "hi"), 4, "has no version 9; it has 1"),
        (("chat", "helper", "-p", "the " * 80), 1, "has 82 tokens and the model's context 64, so no answer fits"),
        (("predict", "helper", "hi"), 1, "policyType 'generator', a classifier is needed"),
        (("export", "helper", "--format", "merged", "-o", "out"), 1, "a classifier is needed"),
    ],
)
def test_what_cannot_be_done_is_said(arguments: tuple[str, ...], code: int, says: str, ratchet: Command) -> None:
    """P39."""
    got, printed = ratchet(*arguments)
    assert (got, says in printed) == (code, True), printed
    assert "defect" not in printed


def test_standard_input_without_words_is_refused(ratchet: Command) -> None:
    assert ratchet("chat", "helper", "-p", "-", typed=" \n")[0] == 2


def test_a_policy_that_was_not_evaluated_yet_is_refused(made: tuple[TrainedHome, Path, Path], ratchet: Command) -> None:
    code, printed = ratchet("chat", str(made[1]), "-p", "hi")
    assert code == 1
    assert "no folder policy/ with the merged model, which evaluate writes" in printed


# over HTTP


@pytest.fixture(scope="module")
def url(made: tuple[TrainedHome, Path, Path]) -> Iterator[str]:
    with serving(made[0], "helper") as address:
        yield address


@contextmanager
def serving(home: TrainedHome, version: str) -> Iterator[str]:
    """Address of `ratchet serve VERSION`, ended as by Ctrl-C."""
    port = free_port()
    arguments = ["serve", version, "--port", str(port), "-n", NAMESPACE, "--local"]
    process = subprocess.Popen(
        [sys.executable, "-c", "from ratchet_cli.main import app; app()", *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", "RATCHET_HOME": str(home.path), "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + 250
        while process.poll() is None and time.monotonic() < end:
            try:
                urllib.request.urlopen(f"{address}/readyz", timeout=60).close()
                break
            except OSError:
                time.sleep(0.05)
        yield address
    finally:
        process.send_signal(signal.SIGINT)
        printed, _ = process.communicate(timeout=250)
    assert process.returncode in (0, 130), printed
    assert f"{address}/v1/chat/completions" in printed
    assert "Traceback" not in printed


def test_a_server_answers_as_the_command_does(made: tuple[TrainedHome, Path, Path], url: str, ratchet: Command) -> None:
    told = first(made)
    asked = ("--max-new-tokens", "10", "--temperature", "0", "--prompt", told["prompt"])
    assert ratchet("chat", "helper@1", "--url", url, *asked) == (0, told["answer"] + "\n")
    assert ratchet("chat", "helper", "--url", f"{url}/v1/", *asked) == (0, told["answer"] + "\n")
    body = {"messages": [{"role": "user", "content": told["prompt"]}], "temperature": 0, "max_tokens": 10}
    request = urllib.request.Request(f"{url}/v1/chat/completions", json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=60) as answer:
        said = json.load(answer)
    assert (said["model"], said["choices"][0]["message"]["content"]) == ("helper@1", told["answer"])
    assert said["system_fingerprint"].startswith("fp_")


def test_a_version_is_served_by_its_config(made: tuple[TrainedHome, Path, Path], ratchet: Command) -> None:
    """Its system prompt is worded by the model's own template, and what is said on the command line wins."""
    home = made[0]
    home.put_copy("helper", "brief")
    home.put_variant("brief", 1, {"temperature": 0.0, "maxTokens": 3, "systemPrompt": "the loan"})
    plain = ("-p", "the card", "--temperature", "0", "--max-new-tokens")
    with serving(home, "brief@2") as address:
        served = ratchet("chat", "brief", "-p", "the card", "--url", address)
        longer = ratchet("chat", "brief", *plain, "12", "--url", address)
        other = ratchet("chat", "brief", *plain, "12", "--system", "the bank", "--url", address)
    assert served == ratchet("chat", "brief@1", *plain, "3", "--system", "the loan")
    assert longer == ratchet("chat", "brief@1", *plain, "12", "--system", "the loan")
    assert other == ratchet("chat", "brief@1", *plain, "12", "--system", "the bank")
    assert len({served, longer, other}) == 3
    assert longer != ratchet("chat", "brief@1", *plain, "12"), "the prompt acts"


def test_a_conversation_with_a_server_follows_its_seed(url: str, ratchet: Command) -> None:
    heat = ("--temperature", "2", "--max-new-tokens", "8", "--url", url)
    drawn = [ratchet("chat", "helper", *heat, "--seed", seed, typed="the card\nthe loan\n\n") for seed in "1123"]
    assert {code for code, _ in drawn} == {0}
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) > 1


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("helper@9", "-p", "hi"), 1, ": 404: model: 'helper@9' is not served here; ask for 'helper@1'"),
        (("helper", "-p", "the " * 80), 1, ": 400: messages: has 82 tokens and the policy's context 64"),
        (
            ("helper", "-p", "hi", "--temperature", "3"),
            1,
            ": 400: temperature: Input should be less than or equal to 2",
        ),
    ],
)
def test_a_servers_refusal_is_told(
    arguments: tuple[str, ...], code: int, says: str, url: str, ratchet: Command
) -> None:
    got, printed = ratchet("chat", *arguments, "--url", url)
    assert (got, says in printed) == (code, True), printed


BREAKS = {
    "half": b'data: {"choices": [{"delta": {"content": "one"}}]}\n\n',
    "fails": b'data: {"error": {"message": "out of memory"}}\n\n',
    "page": b"data: <html>\n\n",
}


class Broken(BaseHTTPRequestHandler):
    """Answers by the path's first part, as no server of ours does."""

    def do_POST(self) -> None:
        part = self.path.split("/")[1]
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200 if part in BREAKS else 502)
        self.end_headers()
        self.wfile.write(BREAKS.get(part, b"bad gateway"))

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("half", "the answer broke off; ask again"),
        ("fails", "out of memory"),
        ("page", "sent what is no event"),
        ("away", "502: bad gateway"),
    ],
)
def test_a_server_that_breaks_off_is_told(path: str, says: str, ratchet: Command) -> None:
    with HTTPServer(("127.0.0.1", 0), Broken) as door:
        serving = threading.Thread(target=door.handle_request)
        serving.start()
        code, printed = ratchet("chat", "helper", "-p", "hi", "--url", f"http://127.0.0.1:{door.server_port}/{path}")
        serving.join(60)
    assert (code, says in printed) == (1, True), printed


def test_an_address_that_is_none_or_answers_nobody_is_told(ratchet: Command) -> None:
    assert ratchet("chat", "helper", "-p", "hi", "--url", "localhost:80")[0] == 2
    code, printed = ratchet("chat", "helper", "-p", "hi", "--url", f"http://127.0.0.1:{free_port()}")
    assert (code, "is a server running there?" in printed) == (1, True), printed


def test_serve_takes_no_base_for_a_generator(made: tuple[TrainedHome, Path, Path], ratchet: Command) -> None:
    code, printed = ratchet("serve", "helper", "--port", str(free_port()), "--base", str(made[2]))
    assert (code, "is a generator, which is served whole; leave --base out" in printed) == (2, True), printed


def test_a_container_loads_the_committed_generator_by_its_digest(made: tuple[TrainedHome, Path, Path]) -> None:
    status = json.loads((made[0].path / "objects" / "rlpolicies" / NAMESPACE / "helper.json").read_text())["status"]
    version = status["versions"][0]
    artifact = Artifact(uri=version["uri"], digest=version["digest"])
    loaded = load(Source(StoreConfig(uri=made[0].bench.store.uri), NAMESPACE, artifact))
    assert isinstance(loaded, LoadedGenerator)
    assert loaded.wording.template == "chat"


@pytest.fixture
def asked_for_votes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Address of a gateway that knows the policy, with a key for whoever reviews."""
    policies = FixedPolicies({"helper": PolicyView("helper", type="generator")})
    monkeypatch.setenv("RATCHET_GATEWAY_TOKEN", key_of("all"))
    with listening(tmp_path, policies=policies, log=LogSettings(window_seconds=0.002)) as address:
        yield address


def test_evaluated_answers_are_put_side_by_side_once_each(
    made: tuple[TrainedHome, Path, Path], ratchet: Command, asked_for_votes: str
) -> None:
    answers = json.loads((made[2] / "evaluation.json").read_text())["answers"]
    others = {each["prompt"]: each["base"] for each in answers if each.get("base", each["answer"]) != each["answer"]}
    differing = [each for each in answers if each["answer"].strip() and others.get(each["prompt"], "").strip()]
    assert len(differing) > 1, "the test needs a policy that learned something"
    code, said = ratchet("feedback", "samples", "helper", "--gateway", asked_for_votes, "--limit", "1")
    assert (code, "1 pairs of answers of helper@1" in said) == (0, True), said
    for before in (1, len(differing)):
        code, said = ratchet("feedback", "samples", "helper@1", "--gateway", asked_for_votes)
        assert (code, f"({before} were there before)" in said) == (0, True), said
    token = {"Authorization": f"Bearer {key_of('all')}"}
    pairs = httpx2.get(f"{asked_for_votes}/v1/review/helper", headers=token).json()["pairs"]
    wanted = {each["prompt"]: {each["base"]: None, each["answer"]: 1} for each in differing}
    assert {pair["input"]: {one["answer"]: one.get("version") for one in pair["answers"]} for pair in pairs} == wanted


@pytest.mark.parametrize(
    ("words", "want"),
    [
        (("helper-1",), "helper-1 is no version of an RLPolicy; say whose answers they are: --policy NAME"),
        (("helper@9",), "RLPolicy 'helper' has no version 9; it has 1"),
        (("helper", "--policy", "other"), "policy 'other': there is no RLPolicy of that name here"),
        (("helper", "--limit", "0"), "limit"),
    ],
)
def test_samples_that_cannot_be_shown_are_explained(
    words: tuple[str, ...], want: str, ratchet: Command, asked_for_votes: str
) -> None:
    code, said = ratchet("feedback", "samples", *words, "--gateway", asked_for_votes)
    assert code != 0
    assert want in said


def test_an_evaluation_without_answers_to_compare_is_refused() -> None:
    version = Version("router@1", Path(), StoreConfig(uri="file:///s"), "team")
    with pytest.raises(CliError, match="holds no answers, as that of a classifier"):
        pairs_of(b'{"metrics": {}}', version)
    with pytest.raises(CliError, match=r"evaluation\.json cannot be read"):
        pairs_of(b"{", version)
    same = {"prompt": "q", "answer": "a", "base": "a"}
    assert pairs_of(json.dumps({"answers": [same, same | {"answer": " "}]}).encode(), version) == []
    erased = [same | {"base": "[ERASED]"}, same | {"prompt": "[ERASED]", "base": "b"}]
    assert pairs_of(json.dumps({"answers": erased}).encode(), version) == []
    (kept,) = pairs_of(json.dumps({"answers": [same | {"rl": "r", "supervised": "a"}]}).encode(), version)
    assert (kept.other, kept.whose) == ("r", "rl"), "what was not kept, rather than the base"


def kserve_loads(folder: Path) -> tuple[PreTrainedModel, Any]:
    """Restates how KServe's Hugging Face server reads a folder (`task.py`, `__main__.py`, `generative_model.py`)."""
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    assert config.architectures[0].endswith("ForCausalLM"), "else it infers no task, or another"
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, padding_side="left")
    return AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).eval(), tokenizer


def test_a_generator_is_exported_as_kserves_server_loads_it_and_answers_alike(
    ratchet: Command, made: tuple[TrainedHome, Path, Path], tmp_path: Path
) -> None:
    place = "s3://bucket/helper"
    code, text = ratchet("export", "helper@1", "--format", "kserve", "-o", "out", "--storage-uri", place, "--local")
    assert code == 0, text
    service = YAML(typ="safe").load((tmp_path / "out" / "inferenceservice.yaml").read_text())
    model = service["spec"]["predictor"]["model"]
    assert (service["kind"], service["metadata"]["name"]) == ("InferenceService", "helper")
    assert (model["modelFormat"], model["storageUri"]) == ({"name": "huggingface"}, place)
    assert "--task=text_generation" in model["args"]
    assert (tmp_path / "out" / "inferenceservice.yaml").read_text() in text, "it is printed, too"

    loaded, tokenizer = kserve_loads(tmp_path / "out" / "model")
    asked = [{"role": "user", "content": first(made)["prompt"]}]
    prompt = tokenizer.apply_chat_template(asked, tokenize=True, add_generation_prompt=True, return_dict=False)
    ids = loaded.generate(torch.tensor([prompt]), max_new_tokens=10, do_sample=False)[0, len(prompt) :]
    said = tokenizer.decode(ids, skip_special_tokens=True).strip()
    assert said == first(made)["answer"]

    record = json.loads((tmp_path / "out" / "ratchet_export.json").read_text())
    for name, digest in record["files"].items():
        assert hashlib.sha256((tmp_path / "out" / name).read_bytes()).hexdigest() == digest
    again = ratchet(
        "export", "helper@1", "--format", "kserve", "-o", "out", "--storage-uri", place, "--local", "--force"
    )
    assert again[0] == 0
    assert json.loads((tmp_path / "out" / "ratchet_export.json").read_text())["digest"] == record["digest"]


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ((), "from where KServe reads nothing; upload the model/ that is written and name that place by --storage-uri"),
        (("--storage-uri", "/srv/models"), "lies at /srv/models, from where KServe reads nothing"),
        (("--storage-uri", "s3://b/m", "--data", "x.csv"), "--data x.csv is not for --format kserve"),
        (("--storage-uri", "s3://b/m", "--base", "x"), "--base x: helper@1 is a generator, which is exported whole"),
        (("--storage-uri", "s3://b/m", "--image", "x"), "--image x: helper@1 is a generator, which is exported whole"),
    ],
    ids=["a store of this machine", "a path", "texts to check", "a base", "an image"],
)
def test_what_kserve_could_not_read_is_told_and_nothing_is_written(
    ratchet: Command, tmp_path: Path, more: tuple[str, ...], text: str
) -> None:
    code, printed = ratchet("export", "helper@1", "--format", "kserve", "-o", "none", *more, "--local")
    assert code != 0
    assert text in printed
    assert not (tmp_path / "none").exists()
