"""`ratchet-serve fetch`, and the server that has another engine answer: the committed bytes, and no weight of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ratchet_api.attempts import Artifact
from ratchet_api.stage import artifact_digest
from ratchet_api.training_run import BaseModelRef
from ratchet_jobs.data.turns import Turn
from ratchet_jobs.generators.artifact import MERGED_FOLDER
from ratchet_jobs.generators.card import GeneratorCard, write_generator_card
from ratchet_jobs.runtime.errors import BadModelError
from ratchet_jobs.runtime.store import sha256_file
from ratchet_serving.__main__ import main
from ratchet_serving.loading import load_remote
from tests.tiny_llama import WORDS, write_tiny_llama

CARD = GeneratorCard(template="chat", max_tokens=32, base_model=BaseModelRef(uri="store://m", sha256="0" * 64))
URL = "http://127.0.0.1:8081"


class Committed:
    """A generator's folder in a store, and the environment of a pod that fetches it."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.policy = root / "store" / "team" / "runs" / "helper" / "evaluate"
        write_tiny_llama(self.policy / MERGED_FOLDER, positions=48)
        write_generator_card(self.policy, CARD)
        self.into, self._root, self._patch = root / "model" / "policy", root, monkeypatch
        self.into.parent.mkdir()
        monkeypatch.setenv("RATCHET_SERVING_FOLDER", str(self.into))

    @property
    def artifact(self) -> Artifact:
        files = {str(path.relative_to(self.policy)): sha256_file(path) for path in self.policy.rglob("*.*")}
        return Artifact(uri="store://runs/helper/evaluate", digest=artifact_digest(files))

    def fetch(self, **more: str) -> None:
        told = {
            "RATCHET_STORE_URI": f"file://{self._root / 'store'}",
            "RATCHET_SERVING_NAMESPACE": "team",
            "RATCHET_SERVING_POLICY": "helper",
            "RATCHET_SERVING_ARTIFACT_URI": self.artifact.uri,
            "RATCHET_SERVING_ARTIFACT_DIGEST": self.artifact.digest,
        }
        for name, value in (told | more).items():
            self._patch.setenv(name, value)
        main(["fetch"])


@pytest.fixture
def committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Committed:
    return Committed(tmp_path, monkeypatch)


def test_what_was_committed_is_left_for_the_engine_and_told_without_its_weights(committed: Committed) -> None:
    committed.into.mkdir()
    (committed.into / "left over").write_text("by a fetch before")
    committed.fetch()
    assert {path.name for path in committed.into.iterdir()} == {"policy.json", MERGED_FOLDER}
    for path in committed.policy.rglob("*.*"):
        assert (committed.into / path.relative_to(committed.policy)).read_bytes() == path.read_bytes()
    assert [path.name for path in committed.into.parent.iterdir()] == ["policy"], "no half of one beside it"
    (committed.into / MERGED_FOLDER / "model.safetensors").unlink()
    loaded = load_remote(committed.into, URL)
    assert (loaded.remote.url, loaded.remote.context, loaded.remote.vocabulary) == (URL, 48, len(WORDS))
    assert loaded.wording.eos_id == 3
    assert loaded.wording.prompt([Turn(role="user", content="my card")])[0] == WORDS.index("<|user|>")


def test_bytes_that_were_not_committed_are_never_left_for_the_engine(
    committed: Committed, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        committed.fetch(RATCHET_SERVING_ARTIFACT_DIGEST="0" * 64)
    assert ended.value.code == 13
    assert "ratchet-serve: artifact: the digest is 0000" in capsys.readouterr().err
    assert not committed.into.exists()


def test_what_vllm_cannot_serve_is_told_before_it_is_started(
    committed: Committed, capsys: pytest.CaptureFixture[str]
) -> None:
    (committed.policy / MERGED_FOLDER).rename(committed.policy.with_name("elsewhere"))
    with pytest.raises(SystemExit):
        committed.fetch()
    assert "no folder policy/ with the merged model" in capsys.readouterr().err
    card: Any = (committed.policy / "policy.json").read_text()
    (committed.policy / "policy.json").write_text(card.replace('"generator"', '"classifier"'))
    with pytest.raises(SystemExit):
        committed.fetch()
    assert "a classifier, and vLLM serves generators; set serving.engine: builtin" in capsys.readouterr().err


def test_a_model_that_names_no_context_is_refused(committed: Committed) -> None:
    config = committed.policy / MERGED_FOLDER / "config.json"
    whole = config.read_text()
    config.write_text(whole.replace('"max_position_embeddings": 48', '"max_position_embeddings": 1'))
    with pytest.raises(BadModelError, match=r"config\.json says 1 for max_position_embeddings"):
        load_remote(committed.policy, URL)
    for broken in ("{", whole.replace('"max_position_embeddings": 48', '"max_position_embeddings": null')):
        config.write_text(broken)
        with pytest.raises(BadModelError, match=r"config.json cannot be read: .*restore the file"):
            load_remote(committed.policy, URL)


@pytest.mark.parametrize(
    ("arguments", "url", "want"),
    [
        (["bring"], "", "'bring' is no command"),
        (["fetch"], "", "RATCHET_SERVING_FOLDER is not set"),
        ([], URL, "RATCHET_SERVING_FOLDER is not set"),
    ],
    ids=["a word it does not know", "nowhere to fetch to", "an engine without a folder"],
)
def test_a_server_that_is_told_half_ends_with_the_other_half(
    arguments: list[str], url: str, want: str,
    committed: Committed, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    committed.fetch()
    monkeypatch.setenv("RATCHET_SERVING_FOLDER", "")
    monkeypatch.setenv("RATCHET_SERVING_ENGINE_URL", url)
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 78
    assert want in capsys.readouterr().err
