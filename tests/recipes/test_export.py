"""`ratchet export`: what other programs load computes what the policy computes, or nothing is written."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import transformers
from ruamel.yaml import YAML
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer

from ratchet_api.stage import artifact_digest
from ratchet_api.training_run import BaseModelRef, Lora
from ratchet_cli.main import run_command
from ratchet_jobs import load_policy
from ratchet_jobs.data.base_model import local_digest
from ratchet_jobs.export.kserve_classifier import ClassifierRecord, check_place
from ratchet_jobs.export.merging import Merged
from ratchet_jobs.export.record import LAYOUTS, ExportRecord
from ratchet_jobs.models.card import PolicyCard, TaskCard
from ratchet_jobs.models.classifier import build_classifier, save_classifier
from ratchet_jobs.runtime.errors import BadConfigError, BadModelError
from ratchet_jobs.runtime.store import sha256_file
from ratchet_serving.app import create_app
from ratchet_serving.loading import load_exported
from ratchet_serving.serving import parts_of
from ratchet_serving.settings import Exported, Settings
from tests.recipes.semantic_router_loaders import CandleModernBert, OnnxClassifier, category_mapping
from tests.tiny_bert import reviews, write_tiny_bert, write_tiny_modernbert

TEXTS = [text for text, _ in reviews(40, seed=3)] + [
    "card",
    "the",
    "my visa card was charged and the bank said it " * 5,
]
LABELS = ("card", "loan & <b>lender</b>", "mortgage")
MAX_TOKENS, TEMPERATURE, THRESHOLD = 48, 1.7, 0.4
Command = Callable[..., tuple[int, str]]


class Trained:
    """A policy's folder beside its base, as training would leave them: every adapter and the head have moved."""

    def __init__(
        self,
        root: Path,
        base: Path,
        *,
        labels: tuple[str, ...] = LABELS,
        calibration: Mapping[str, Any] = MappingProxyType({"temperature": TEMPERATURE, "abstain_threshold": THRESHOLD}),
    ) -> None:
        self.base, self.folder = base, root / "policy"
        self.folder.mkdir()
        classifier = build_classifier(
            base, classes=len(labels), lora=Lora.model_validate({"rank": 4}), max_tokens=MAX_TOKENS, seed=1
        )
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for name, parameter in classifier.trainable().items():
                size = 2.0 if name.startswith("head.") else 0.2
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * size)
        card = PolicyCard(
            labels=labels, max_tokens=MAX_TOKENS, **calibration,
            base_model=BaseModelRef(uri="store://models/tiny", sha256=local_digest(base)),
        )  # fmt: skip
        save_classifier(classifier, self.folder, card=card, tokenizer_from=base)

    def probabilities(self, texts: list[str] = TEXTS) -> np.ndarray:
        return load_policy(self.folder, base=self.base).predict_proba(texts)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    root = tmp_path_factory.mktemp("bert")
    return Trained(root, write_tiny_bert(root / "base", positions=512))


@pytest.fixture(scope="module")
def modernbert(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    root = tmp_path_factory.mktemp("modernbert")
    return Trained(root, write_tiny_modernbert(root / "base"))


TASKS: dict[str, tuple[tuple[str, ...], float, float | None]] = {
    "mood": (("calm", "upset"), 0.7, None),
    "topic": (("card", "loan", "mortgage"), 1.7, 0.4),
}
"""Classes, temperature and threshold of each task."""


@pytest.fixture(scope="module")
def tasked(tmp_path_factory: pytest.TempPathFactory, modernbert: Trained) -> Trained:
    """A policy of two tasks on the same base."""
    labels = tuple(f"{task}/{label}" for task, (names, _, _) in TASKS.items() for label in names)
    cards = tuple(TaskCard(name=name, temperature=t, abstain_threshold=a) for name, (_, t, a) in TASKS.items())
    return Trained(tmp_path_factory.mktemp("tasked"), modernbert.base, labels=labels, calibration={"tasks": cards})


@pytest.fixture
def ratchet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """Exports the policy in a folder of its own; returns exit code and all that was printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RATCHET_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr("ratchet_cli.screen.out.width", 300)
    monkeypatch.setattr("ratchet_cli.screen.err.width", 300)
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))

    def command(policy: Trained, layout: str, *words: str) -> tuple[int, str]:
        capfd.readouterr()
        data = () if "--data" in words else ("--data", "texts.jsonl")
        output = () if "-o" in words else ("-o", "out")
        code = run_command(
            ["export", str(policy.folder), "--base", str(policy.base), "--format", layout, *data, *output, *words]
        )
        printed = capfd.readouterr()
        return code, printed.out + printed.err

    return command


@pytest.fixture(scope="module")
def exported(
    tmp_path_factory: pytest.TempPathFactory, bert: Trained, modernbert: Trained, tasked: Trained
) -> Callable[..., Path]:
    """Exports a policy once, checked on TEXTS; later tests read the same folder. Tracing a graph takes seconds."""
    root = tmp_path_factory.mktemp("exported")
    (root / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    policies = {"bert": bert, "modernbert": modernbert, "tasked": tasked}

    def export(which: str, layout: str) -> Path:
        out = root / f"{which}-{layout}"
        if not out.exists():
            policy = policies[which]
            words = ["export", str(policy.folder), "--base", str(policy.base), "--format", layout, "-o", str(out)]
            assert run_command([*words, "--data", str(root / "texts.jsonl")]) == 0
        return out

    return export


def softmax(logits: np.ndarray, *, temperature: float = TEMPERATURE) -> np.ndarray:
    powers = np.exp((logits - logits.max(1, keepdims=True)) / temperature)
    return powers / powers.sum(1, keepdims=True)


# --- what each layout computes ---------------------------------------------------------------------------------------


def test_merged_is_read_by_sentence_transformers_and_gives_the_policys_logits(
    exported: Callable[..., Path], bert: Trained
) -> None:
    model = SentenceTransformer(str(exported("bert", "merged")), device="cpu", local_files_only=True)
    logits = model.encode(TEXTS)
    assert logits.shape == (len(TEXTS), len(LABELS))
    np.testing.assert_allclose(softmax(logits), bert.probabilities(), atol=1e-5)


def test_merged_never_claims_a_class_that_computes_something_else(exported: Callable[..., Path]) -> None:
    out = exported("bert", "merged")
    assert json.loads((out / "config.json").read_text())["architectures"] == ["BertModel"]
    encoder, notes = transformers.AutoModel.from_pretrained(str(out), local_files_only=True, output_loading_info=True)
    assert isinstance(encoder, transformers.BertModel)
    assert not notes["unexpected_keys"]
    assert all("pooler" in name for name in notes["missing_keys"])
    assert "`AutoModelForSequenceClassification` must not be used" in (out / "README.md").read_text()


def run_readme(folder: Path, policy: Trained) -> Any:
    """Run the Python of an export's README as its reader would."""
    code = (folder / "README.md").read_text().split("```python\n")[1].split("```")[0]
    scope: dict[str, Any] = {"FOLDER": str(folder), "BASE": str(policy.base), "texts": TEXTS}
    exec(compile(code, "README.md", "exec"), scope)
    return scope["probabilities"]


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft asks for it
@pytest.mark.parametrize("which", ["bert", "modernbert"])
@pytest.mark.parametrize("layout", ["merged", "lora", "onnx"])
def test_the_readme_of_an_export_computes_the_policys_probabilities(
    exported: Callable[..., Path], request: pytest.FixtureRequest, which: str, layout: str
) -> None:
    """Its Python uses nothing of Ratchet's: sentence-transformers, PEFT, ONNX Runtime."""
    policy = request.getfixturevalue(which)
    np.testing.assert_allclose(run_readme(exported(which, layout), policy), policy.probabilities(), atol=1e-5)


def test_onnx_takes_any_batch_and_length_and_carries_its_metadata(exported: Callable[..., Path], bert: Trained) -> None:
    out = exported("bert", "onnx")
    session = onnxruntime.InferenceSession(str(out / "model.onnx"), providers=["CPUExecutionProvider"])
    tokenizer = Tokenizer.from_file(str(out / "tokenizer.json"))
    want = bert.probabilities()
    for texts in (TEXTS[:1], TEXTS[:2], TEXTS):
        tokenizer.enable_padding(pad_id=0)
        rows = tokenizer.encode_batch(texts)
        feeds = {"input_ids": [row.ids for row in rows], "attention_mask": [row.attention_mask for row in rows]}
        (logits,) = session.run(["logits"], {name: np.array(value, dtype=np.int64) for name, value in feeds.items()})
        np.testing.assert_allclose(softmax(logits), want[: len(texts)], atol=1e-5)
    notes = {name: json.loads(text) for name, text in session.get_modelmeta().custom_metadata_map.items()}
    wanted = {"temperature": TEMPERATURE, "abstain_threshold": THRESHOLD, "max_tokens": MAX_TOKENS}
    assert notes == {"labels": list(LABELS), **wanted}


def test_semantic_router_gets_safetensors_that_its_candle_loader_computes_the_policy_from(
    exported: Callable[..., Path], modernbert: Trained
) -> None:
    out = exported("modernbert", "semantic-router")
    loader = CandleModernBert(out)
    assert loader.labels == list(LABELS)
    got = [loader.probabilities(text) for text in TEXTS[:-1]]  # the last one is longer than training's cut
    np.testing.assert_allclose(got, modernbert.probabilities(TEXTS[:-1]), atol=1e-5)
    assert "candle" in (out / "README.md").read_text()


def test_semantic_router_gets_a_graph_where_its_default_build_would_pool_otherwise(
    exported: Callable[..., Path], bert: Trained
) -> None:
    out = exported("bert", "semantic-router")
    assert not list(out.glob("*.safetensors")), "its candle BERT would answer from the first token"
    loader = OnnxClassifier(out)
    assert loader.labels == list(LABELS)
    np.testing.assert_allclose(loader.probabilities(TEXTS[:-1]), bert.probabilities(TEXTS[:-1]), atol=1e-5)
    assert "`AI_BINDING=onnx`" in (out / "README.md").read_text()


@pytest.mark.parametrize("which", ["bert", "modernbert"])
def test_semantic_router_gets_the_label_map_and_the_threshold(exported: Callable[..., Path], which: str) -> None:
    out = exported(which, "semantic-router")
    numbers, names = category_mapping(out / "category_mapping.json")
    assert numbers == {label: place for place, label in enumerate(LABELS)}
    assert names == {str(place): label for place, label in enumerate(LABELS)}
    assert f"threshold: {THRESHOLD}" in (out / "README.md").read_text()


UNLIKE: dict[str, tuple[dict[str, Any], str]] = {
    "biases in the attention": ({"attention_bias": True}, "attention_bias is True"),
    "another activation": ({"hidden_activation": "relu"}, "hidden_activation is 'relu'"),
    "too few positions": ({"max_position_embeddings": 256}, "feeds up to 512 tokens"),
    "another order of layers": (
        {"layer_types": ["sliding_attention", "full_attention", "full_attention", "sliding_attention"]},
        "layer_types is",
    ),
}


@pytest.mark.parametrize(("settings", "want"), UNLIKE.values(), ids=UNLIKE.keys())
def test_semantic_router_is_refused_what_its_loader_would_compute_otherwise(
    ratchet: Command, tmp_path: Path, settings: dict[str, Any], want: str
) -> None:
    policy = Trained(tmp_path, write_tiny_modernbert(tmp_path / "base", **settings))
    code, printed = ratchet(policy, "semantic-router")
    assert code == 1
    assert want in printed
    assert "take layout onnx" in printed
    assert not (tmp_path / "out").exists()


# --- several tasks ---------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft asks for it
@pytest.mark.parametrize("layout", ["merged", "lora", "onnx"])
def test_the_readme_of_several_tasks_computes_each_tasks_probabilities(
    exported: Callable[..., Path], tasked: Trained, layout: str
) -> None:
    got = run_readme(exported("tasked", layout), tasked)
    want = load_policy(tasked.folder, base=tasked.base).predict_tasks(TEXTS)
    assert got.keys() == want.keys() == TASKS.keys()
    for task, answers in want.items():
        np.testing.assert_allclose(np.asarray(got[task]), answers.probs, atol=1e-5)


def test_the_graph_of_several_tasks_has_an_output_for_each(exported: Callable[..., Path]) -> None:
    session = onnxruntime.InferenceSession(str(exported("tasked", "onnx") / "model.onnx"))
    assert [each.name for each in session.get_outputs()] == ["logits_mood", "logits_topic"]
    feeds = {name: np.ones((4, 9), np.int64) for name in ("input_ids", "attention_mask")}
    (logits,) = session.run(["logits_topic"], feeds)
    assert logits.shape == (4, 3)
    notes = {name: json.loads(text) for name, text in session.get_modelmeta().custom_metadata_map.items()}
    assert notes["tasks"]["topic"] == {
        "labels": ["card", "loan", "mortgage"], "temperature": 1.7, "abstain_threshold": 0.4,
    }  # fmt: skip


def test_semantic_router_gets_a_folder_for_each_task(exported: Callable[..., Path], tasked: Trained) -> None:
    out = exported("tasked", "semantic-router")
    want = load_policy(tasked.folder, base=tasked.base).predict_tasks(TEXTS[:-1])
    readme = (out / "README.md").read_text()
    for task, (labels, _, threshold) in TASKS.items():
        loader = CandleModernBert(out / task)
        assert loader.labels == list(labels)
        assert category_mapping(out / task / "category_mapping.json")[0] == {n: i for i, n in enumerate(labels)}
        got = [loader.probabilities(text) for text in TEXTS[:-1]]
        np.testing.assert_allclose(got, want[task].probs, atol=1e-5)
        section = readme.split(f"## Task `{task}`")[1].split("##")[0]
        assert f"model_id: models/FOLDER/{task}" in section
        assert f"threshold: {threshold or 0.0}" in section


def test_the_record_of_several_tasks_tells_columns_and_calibration_of_each(exported: Callable[..., Path]) -> None:
    out = exported("tasked", "lora")
    record = ExportRecord.model_validate_json((out / "ratchet_export.json").read_bytes())
    told = {each.name: (each.labels, each.temperature, each.abstain_threshold) for each in record.tasks or ()}
    assert told == TASKS
    assert [each.first_column for each in record.tasks or ()] == [0, 2]
    assert record.labels[2:] == ("topic/card", "topic/loan", "topic/mortgage")
    readme = (out / "README.md").read_text()
    assert "| topic: temperature | 1.7 |" in readme
    assert "| mood: abstains | never |" in readme


# --- the folder ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_record_says_what_was_exported_from_what_and_how_it_was_checked(
    exported: Callable[..., Path], modernbert: Trained, layout: str
) -> None:
    out = exported("modernbert", layout)
    record = ExportRecord.model_validate_json((out / "ratchet_export.json").read_bytes())
    files = {path.relative_to(out).as_posix(): sha256_file(path) for path in out.rglob("*") if path.is_file()}
    del files["ratchet_export.json"]
    assert (record.files, record.digest) == (files, artifact_digest(files))
    own = {path.name: sha256_file(path) for path in modernbert.folder.iterdir()}
    assert record.policy_digest == artifact_digest(own)
    assert (record.layout, record.labels, record.temperature) == (layout, LABELS, TEMPERATURE)
    assert (record.abstain_threshold, record.max_tokens) == (THRESHOLD, MAX_TOKENS)
    assert record.temperature_folded == (layout == "semantic-router")
    assert record.base_model.sha256 == local_digest(modernbert.base)
    assert (record.parity.texts, record.parity.which) == (len(TEXTS), "texts.jsonl")
    assert record.parity.largest_difference <= record.parity.tolerance


@pytest.mark.parametrize("layout", LAYOUTS)
def test_equal_policies_export_to_equal_bytes_without_a_trace_of_this_machine(
    exported: Callable[..., Path], ratchet: Command, modernbert: Trained, tmp_path: Path, layout: str
) -> None:
    code, printed = ratchet(modernbert, layout)
    again, once = tmp_path / "out", exported("modernbert", layout)
    record = ExportRecord.model_validate_json((again / "ratchet_export.json").read_bytes())
    assert (code, record.digest in printed) == (0, True)
    assert (again / "ratchet_export.json").read_bytes() == (once / "ratchet_export.json").read_bytes()
    here = (str(tmp_path).encode(), str(modernbert.base).encode(), b"site-packages", b".py")
    for path in again.rglob("*"):
        # the record's title is what the user called the version; README repeats it
        if path.is_file() and path.name not in ("ratchet_export.json", "README.md"):
            assert not [word for word in here if word in path.read_bytes()], path


def test_a_label_cannot_become_markup_in_the_readme(exported: Callable[..., Path]) -> None:
    readme = (exported("modernbert", "lora") / "README.md").read_text()
    assert "1. loan \\& \\<b\\>lender\\</b\\>" in readme


def broken(self: Merged, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    return self.head(self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state[:, 0])


@pytest.mark.parametrize("layout", ["merged", "lora", "semantic-router"])
def test_what_computes_something_else_is_refused_and_nothing_is_left(
    ratchet: Command, modernbert: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    """The exported files pool the first token instead of the mean."""
    monkeypatch.setattr(Merged, "forward", broken)
    code, printed = ratchet(modernbert, layout)
    assert code == 1
    assert f"export {layout}: for text" in printed
    assert "so nothing was written" in printed
    assert {path.name for path in tmp_path.iterdir()} == {"texts.jsonl"}


def test_an_earlier_export_is_replaced_only_when_asked_to_and_nothing_else_ever_is(
    ratchet: Command, bert: Trained, tmp_path: Path
) -> None:
    assert ratchet(bert, "lora")[0] == 0
    before = sorted(path.name for path in (tmp_path / "out").iterdir())
    code, printed = ratchet(bert, "merged")
    assert code == 1
    assert "output out is not empty; name another folder, or replace an export with --force" in printed
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == before
    assert ratchet(bert, "merged", "--force")[0] == 0
    assert (tmp_path / "out/modules.json").exists()
    assert not (tmp_path / "out/adapter_model.safetensors").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years")
    code, printed = ratchet(bert, "lora", "--force", "-o", "mine")
    assert code == 1
    assert "holds no ratchet_export.json, so it is no export" in printed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "out", "texts.jsonl"]


def test_an_export_that_fails_leaves_the_earlier_one_as_it_was(
    ratchet: Command, bert: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ratchet(bert, "lora")[0] == 0
    before = (tmp_path / "out/ratchet_export.json").read_bytes()
    monkeypatch.setattr(Merged, "forward", broken)
    assert ratchet(bert, "merged", "--force")[0] == 1
    assert (tmp_path / "out/ratchet_export.json").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "texts.jsonl"]


WRONG: dict[str, tuple[tuple[str, ...], str, int]] = {
    "no such format": (
        ("gguf",),
        "--format 'gguf' is unknown; use one of merged, lora, onnx, semantic-router, kserve",
        2,
    ),
    "texts for a copy": (("kserve",), "--data texts.jsonl is not for --format kserve", 2),
    "an image for no server": (("lora", "--image", "x:1"), "--image is only for --format kserve, not lora", 2),
    "a place that only KServe reads": (
        ("lora", "--storage-uri", "s3://b/m"),
        "is only for --format kserve, not lora",
        2,
    ),
    "the folder one stands in": (("lora", "-o", "."), "is a folder that you stand in", 1),
    "a file": (("lora", "-o", "texts.jsonl"), "texts.jsonl exists and is no folder", 1),
    "below a file": (("lora", "-o", "texts.jsonl/out"), "is no folder that can be written to", 1),
    "no such texts": (("lora", "--data", "absent.csv"), "absent.csv", 4),
    "no such column": (("lora", "--column", "body"), "body", 1),
}


@pytest.mark.parametrize(("words", "want", "want_code"), WRONG.values(), ids=WRONG.keys())
def test_wrong_use_is_told_and_writes_nothing(
    ratchet: Command, bert: Trained, tmp_path: Path, words: tuple[str, ...], want: str, want_code: int
) -> None:
    code, printed = ratchet(bert, *words)
    assert (code, want in printed) == (want_code, True), printed
    assert {path.name for path in tmp_path.iterdir()} == {"texts.jsonl"}


# --- KServe: our own server loads the folder --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def for_kserve(tmp_path_factory: pytest.TempPathFactory, bert: Trained) -> Path:
    out = tmp_path_factory.mktemp("kserve") / "out"
    words = ["export", str(bert.folder), "--base", str(bert.base), "--format", "kserve", "-o", str(out)]
    assert run_command([*words, "--storage-uri", "s3://bucket/router", "--image", "registry/serving:1"]) == 0
    return out


def told(folder: Path) -> dict[str, str]:
    """The environment that the exported service gives its server, with KServe's mount here."""
    service = YAML(typ="safe").load((folder / "inferenceservice.yaml").read_text())
    (container,) = service["spec"]["predictor"]["containers"]
    assert (service["kind"], container["name"], container["image"]) == (
        "InferenceService", "kserve-container", "registry/serving:1",
    )  # fmt: skip
    named = {each["name"]: each["value"] for each in container["env"]}
    assert (named["STORAGE_URI"], named["RATCHET_SERVING_EXPORT"]) == ("s3://bucket/router", "/mnt/models")
    return named | {"RATCHET_SERVING_EXPORT": str(folder / "model")}


async def test_a_classifier_is_served_by_what_kserve_is_given(for_kserve: Path, bert: Trained) -> None:
    """As KServe does it: the service's environment, the exported folder, and nothing else."""
    environment = told(for_kserve)
    settings, exported = Settings.from_env(environment), Exported.from_env(environment)
    assert exported is not None
    parts = parts_of(settings, load_exported(exported), digest=exported.artifact.digest)
    app = create_app(settings, parts)
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://pod") as client,
    ):
        plain = (await client.post("/v1/classify", json={"texts": TEXTS, "probabilities": True})).json()
        kserve = await client.post("/v1/models/policy:predict", json={"instances": TEXTS, "probabilities": True})
    got = [[each["probabilities"][label] for label in LABELS] for each in plain["results"]]
    np.testing.assert_allclose(got, bert.probabilities(), atol=1e-5)
    assert kserve.json() == {"predictions": plain["results"]}


def test_the_record_for_kserve_names_every_file_and_what_the_server_compares(for_kserve: Path, bert: Trained) -> None:
    record = ClassifierRecord.model_validate_json((for_kserve / "ratchet_export.json").read_bytes())
    assert record.policy_digest == record.served_digest == told(for_kserve)["RATCHET_SERVING_ARTIFACT_DIGEST"]
    for name, digest in record.files.items():
        assert sha256_file(for_kserve / name) == digest
    there = {path.relative_to(for_kserve).as_posix() for path in for_kserve.rglob("*") if path.is_file()}
    assert there == {*record.files, "ratchet_export.json"}
    assert local_digest(for_kserve / "model" / "base") == record.base_model.sha256 == local_digest(bert.base)


@pytest.mark.parametrize(
    ("name", "want"),
    [
        ("policy/head.safetensors", "RATCHET_SERVING_ARTIFACT_DIGEST is .*export the version again"),
        ("policy/added.json", "RATCHET_SERVING_ARTIFACT_DIGEST is .*export the version again"),
        ("base/config.json", "base: the digest is .*but the policy was trained on .*store://models/tiny"),
        ("base", r"no folder base/; name the model/ that `ratchet export --format kserve` wrote"),
    ],
)
def test_a_server_takes_no_byte_from_kserve_that_was_not_exported(
    for_kserve: Path, tmp_path: Path, name: str, want: str
) -> None:
    shutil.copytree(for_kserve / "model", tmp_path / "model")
    changed = tmp_path / "model" / name
    if changed.is_dir():
        shutil.rmtree(changed)
    else:
        changed.write_bytes(changed.read_bytes() + b" " if changed.exists() else b"{}")
    exported = Exported.from_env(told(for_kserve) | {"RATCHET_SERVING_EXPORT": str(tmp_path / "model")})
    assert exported is not None
    with pytest.raises(BadModelError, match=want):
        load_exported(exported)


@pytest.mark.parametrize(
    ("words", "want", "want_code"),
    [
        ((), "from where KServe reads nothing; upload the model/ that is written", 1),
        (("--storage-uri", "/srv"), "lies at /srv, from where KServe reads nothing", 1),
        (("--storage-uri", "s3://b/m", "--image", " "), "--image is empty; drop it, or say which", 2),
    ],
    ids=["a folder of this machine", "a path", "an image without a name"],
)
def test_what_kserve_could_not_run_is_told_and_writes_nothing(
    bert: Trained, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...], want: str, want_code: int,
) -> None:  # fmt: skip
    monkeypatch.setattr("ratchet_cli.screen.err.width", 300)
    out = str(tmp_path / "out")
    code = run_command(["export", str(bert.folder), "--base", str(bert.base), "--format", "kserve", "-o", out, *words])
    printed = capfd.readouterr().err
    assert (code, want in printed) == (want_code, True), printed
    assert not list(tmp_path.iterdir())


def test_a_committed_classifier_is_not_served_from_where_its_base_is_not() -> None:
    with pytest.raises(BadConfigError, match=r"^router@1 is a classifier, .*upload the model/ .* by --storage-uri"):
        check_place(None, version="router@1")


@pytest.mark.parametrize("missing", ["onnx", "onnxscript", "onnxruntime"])
def test_without_the_extra_the_message_names_it(
    ratchet: Command, bert: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    code, printed = ratchet(bert, "onnx")
    assert code == 1
    assert f"the package {missing} is missing; install ratchet[export]" in printed
    assert not (tmp_path / "out").exists()


def test_the_other_layouts_do_without_the_extra(
    ratchet: Command, modernbert: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("onnx", "onnxscript", "onnxruntime", "sentence_transformers"):
        monkeypatch.setitem(sys.modules, name, None)
    for layout in ("merged", "lora", "semantic-router"):
        code, printed = ratchet(modernbert, layout, "-o", layout)
        assert code == 0, printed


def test_without_a_snapshot_or_a_file_the_built_in_texts_are_asked(bert: Trained, tmp_path: Path) -> None:
    words = ["--base", str(bert.base), "--format", "merged", "-o", str(tmp_path / "out")]
    assert run_command(["export", str(bert.folder), *words]) == 0
    record = ExportRecord.model_validate_json((tmp_path / "out/ratchet_export.json").read_bytes())
    assert (record.parity.which, record.parity.texts) == ("built-in probes", 6)


def test_the_graph_is_valid_onnx_in_one_file(exported: Callable[..., Path]) -> None:
    out = exported("bert", "onnx")
    model = onnx.load(str(out / "model.onnx"), load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    assert [each.name for each in model.graph.input] == ["input_ids", "attention_mask"]
    assert not list(out.glob("*.data"))


def test_the_adapter_is_the_policys_own(exported: Callable[..., Path], bert: Trained) -> None:
    mine = load_file(bert.folder / "adapter_model.safetensors")
    theirs = load_file(exported("bert", "lora") / "adapter_model.safetensors")
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
