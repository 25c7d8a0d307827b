"""The base model's folder: what is used, what is refused, and the digest that a shell prints too."""

from __future__ import annotations

import pickle
import subprocess
from pathlib import Path

import pytest

from ratchet_api.training_run import BaseModelRef
from ratchet_jobs.data.base_model import fetch_model, local_digest
from ratchet_jobs.runtime.errors import BadModelError
from ratchet_jobs.runtime.store_directory import DirectoryStore

SHELL = "ls *.jinja *.json *.model *.safetensors *.txt 2>/dev/null | LC_ALL=C sort | xargs sha256sum | sha256sum"


class Bomb:
    """Touches a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (self.target,)  # type: ignore[return-value]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder with every file that is used, and some that are not."""
    place = tmp_path / "store" / "ns" / "m"
    place.mkdir(parents=True)
    for name in (
        "config.json",
        "tokenizer.json",
        "model.safetensors",
        "chat_template.jinja",
        "vocab.txt",
        "README.md",
        "model.onnx",
    ):
        (place / name).write_text(f"content of {name}")
    return place


def fetch(folder: Path, tmp_path: Path, sha256: str) -> Path:
    store = DirectoryStore(tmp_path / "store")
    return fetch_model(store, BaseModelRef(uri="store://m", sha256=sha256), namespace="ns", into=tmp_path / "local")


def test_digest_is_what_the_documented_shell_line_prints(folder: Path) -> None:
    printed = subprocess.run(SHELL, shell=True, cwd=folder, capture_output=True, text=True, check=True).stdout.split()[
        0
    ]
    assert local_digest(folder) == printed


def test_only_used_files_are_fetched_and_other_files_do_not_change_the_digest(folder: Path, tmp_path: Path) -> None:
    digest = local_digest(folder)
    (folder / "README.md").write_text("changed")
    got = fetch(folder, tmp_path, digest)
    assert sorted(p.name for p in got.iterdir()) == [
        "chat_template.jinja", "config.json", "model.safetensors", "tokenizer.json", "vocab.txt",
    ]  # fmt: skip


def test_other_digest_is_refused_with_both(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BadModelError) as caught:
        fetch(folder, tmp_path, "0" * 64)
    assert "0" * 64 in str(caught.value)
    assert local_digest(folder) in str(caught.value)


def test_pickled_weights_are_refused_and_never_opened(folder: Path, tmp_path: Path) -> None:
    """P22."""
    sentinel = tmp_path / "executed"
    (folder / "model.safetensors").unlink()
    for name in ("pytorch_model.bin", "model.pt"):
        (folder / name).write_bytes(pickle.dumps(Bomb(sentinel)))
    with pytest.raises(
        BadModelError, match=r"model\.pt, pytorch_model\.bin, which run code when loaded.*safe_serialization"
    ):
        fetch(folder, tmp_path, "0" * 64)
    assert not sentinel.exists()
    assert not (tmp_path / "local").exists() or not list((tmp_path / "local").iterdir())


def test_pickles_beside_safetensors_are_left_alone(folder: Path, tmp_path: Path) -> None:
    """P22; the model's own Python code too."""
    digest = local_digest(folder)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(tmp_path / "executed")))
    (folder / "modeling_own.py").write_text("raise SystemExit")
    assert local_digest(folder) == digest
    assert not {"pytorch_model.bin", "modeling_own.py"} & {p.name for p in fetch(folder, tmp_path, digest).iterdir()}
