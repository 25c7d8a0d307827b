"""Resolve, the run's first pod: what is missing is said before anything that costs a GPU starts."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ratchet_api.names import index_key, snapshot_prefix
from ratchet_api.stage import DatasetRef, ResolveConfig, Stage, StageRef, StageResult
from ratchet_api.training_run import BaseModelRef
from ratchet_jobs.data.base_model import fetch_model, local_digest
from ratchet_jobs.runtime.commit import commit_stage
from ratchet_jobs.runtime.errors import BadModelError
from tests.recipes.stage_process import NAMESPACE, StageProcess, csv_of, many

MODEL = {"config.json": b"{}", "tokenizer.json": b"{}", "model.safetensors": b"weights"}
PICKLE = b"cos\nsystem\n(S'touch /tmp/unpickled'\ntR."
"""What `pickle.loads` would run a command for."""


@pytest.fixture
def process(tmp_path: Path) -> StageProcess:
    made = StageProcess(tmp_path)
    put_model(made, MODEL)
    return made


def put_model(process: StageProcess, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        process.put(f"models/m/{name}", content)


def remove_model_file(process: StageProcess, name: str) -> None:
    process.store.delete([f"{NAMESPACE}/models/m/{name}"])


def dataset(process: StageProcess) -> DatasetRef:
    process.put("d.csv", csv_of(many(200)))
    digest = process.summary(source={"objects": [{"uri": "store://d.csv"}]})["digest"]
    return DatasetRef(digest=digest, prefix=snapshot_prefix(NAMESPACE, digest))


def lookup(stage: Stage, digit: str) -> StageRef:
    return StageRef(stage=stage, prefix=f"{NAMESPACE}/runs/r/{stage.value}", input_digest=digit * 64)


def resolve(
    process: StageProcess, ref: DatasetRef, *, lookups: tuple[StageRef, ...] = ()
) -> tuple[int, dict[str, Any]]:
    base = BaseModelRef(uri="store://models/m", sha256="0" * 64)
    config = ResolveConfig(dataset=ref, base_model=base, lookups=lookups)
    return process.run(process.stage(config, prefix=f"{NAMESPACE}/runs/r/resolve"))


def test_inputs_that_are_there_pass_and_the_train_rows_are_counted(process: StageProcess) -> None:
    ref = dataset(process)
    code, message = resolve(process, ref)
    assert (code, message["result"]["hits"]) == (0, {})
    assert 100 < message["result"]["metrics"]["train_rows"] < 200


def test_stages_committed_by_another_run_are_reported_with_artifact_and_metrics(process: StageProcess) -> None:
    """P6: what is reported here never becomes a Job."""
    ref = dataset(process)
    wanted = (lookup(Stage.SUPERVISED, "a"), lookup(Stage.EVALUATE, "b"))
    config = ResolveConfig(dataset=ref, base_model=BaseModelRef(uri="store://models/m", sha256="0" * 64), lookups=())
    job = process.stage(config, prefix=f"{NAMESPACE}/runs/earlier/supervised", input_digest="a" * 64)
    folder = process.root / "artifact"
    folder.mkdir()
    (folder / "head.safetensors").write_bytes(b"head")
    done = StageResult(metrics={"loss": 0.25})
    commit_stage(process.store, job, folder=folder, directory=f"{job.prefix}/1-x", writer="w", result=done)

    code, message = resolve(process, ref, lookups=wanted)
    assert code == 0
    hits = message["result"]["hits"]
    assert set(hits) == {"supervised"}
    assert hits["supervised"]["metrics"] == {"loss": 0.25}
    assert hits["supervised"]["artifact"]["uri"].endswith("/ns/runs/earlier/supervised/1-x")


def test_index_entry_to_a_pruned_artifact_is_replaced_by_the_next_commit(process: StageProcess) -> None:
    ref = dataset(process)
    config = ResolveConfig(dataset=ref, base_model=BaseModelRef(uri="store://models/m", sha256="0" * 64), lookups=())
    folder = process.root / "artifact"
    folder.mkdir()
    (folder / "head.safetensors").write_bytes(b"head")

    def commit(run: str) -> None:
        job = process.stage(config, prefix=f"{NAMESPACE}/runs/{run}/supervised", input_digest="a" * 64)
        directory = f"{job.prefix}/1-x"
        commit_stage(process.store, job, folder=folder, directory=directory, writer=run, result=StageResult())

    def indexed() -> str:
        return process.store.read(index_key(NAMESPACE, "a" * 64)).decode()

    commit("first")
    commit("second")
    assert "runs/first/" in indexed(), "an entry that holds stays"
    process.store.delete([f"{NAMESPACE}/runs/first/supervised/1-x/head.safetensors"])
    commit("third")
    assert "runs/third/" in indexed()


@pytest.mark.parametrize(
    ("missing", "added", "want"),
    [
        pytest.param(["config.json"], {}, ["no config.json", "found"], id="no config"),
        pytest.param(["tokenizer.json"], {}, ["no tokenizer.json"], id="no fast tokenizer"),
        pytest.param(["model.safetensors"], {}, ["no *.safetensors"], id="no weights"),
        pytest.param(list(MODEL), {}, ["no files there", "correct the URI"], id="no folder"),
        pytest.param(
            ["model.safetensors"],
            {"pytorch_model.bin": PICKLE},
            ["only pytorch_model.bin", "run code when loaded", "safe_serialization"],
            id="only a pickle (P22)",
        ),
        pytest.param(["model.safetensors"], {"model.pt": PICKLE}, ["run code when loaded"], id="only a .pt (P22)"),
    ],
)
def test_unusable_model_folder_is_refused_before_training(
    process: StageProcess, missing: list[str], added: dict[str, bytes], want: list[str]
) -> None:
    """P13, P22, P39."""
    ref = dataset(process)
    for name in missing:
        remove_model_file(process, name)
    put_model(process, added)
    code, message = resolve(process, ref)
    assert (code, message["reason"]) == (13, "BadModel")
    for part in ["spec.baseModel.uri store://models/m", *want]:
        assert part in message["message"]


def test_pickle_beside_safetensors_is_never_fetched(process: StageProcess, tmp_path: Path) -> None:
    """P22."""
    put_model(process, {"pytorch_model.bin": PICKLE, "modeling_evil.py": b"import os"})
    local = tmp_path / "local"
    local.mkdir()
    for name, content in MODEL.items():
        (local / name).write_bytes(content)
    ref = BaseModelRef(uri="store://models/m", sha256=local_digest(local))
    fetched = fetch_model(process.store, ref, namespace=NAMESPACE, into=tmp_path / "fetched")
    assert sorted(path.name for path in fetched.iterdir()) == sorted(MODEL)


def test_model_with_other_bytes_is_refused_with_both_digests(process: StageProcess, tmp_path: Path) -> None:
    ref = BaseModelRef(uri="store://models/m", sha256="1" * 64)
    with pytest.raises(BadModelError, match=rf"sha256 is {'1' * 64}, but store://models/m has [0-9a-f]{{64}}"):
        fetch_model(process.store, ref, namespace=NAMESPACE, into=tmp_path / "fetched")


def test_model_digest_is_what_the_documented_shell_line_prints(tmp_path: Path) -> None:
    for name, content in {**MODEL, "vocab.txt": b"a\n", "README.md": b"not used", "old.bin": PICKLE}.items():
        (tmp_path / name).write_bytes(content)
    line = "ls *.json *.model *.safetensors *.txt 2>/dev/null | LC_ALL=C sort | xargs sha256sum | sha256sum"
    printed = subprocess.run(["sh", "-c", line], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert local_digest(tmp_path) == printed.split()[0]


def test_snapshot_that_is_gone_or_of_another_digest_is_said(process: StageProcess) -> None:
    ref = dataset(process)
    gone = DatasetRef(digest="e" * 64, prefix=snapshot_prefix(NAMESPACE, "e" * 64))
    assert resolve(process, gone)[0] == 22

    manifest = f"{ref.prefix}/MANIFEST.json"
    data = process.store.read(manifest)
    file_digest = hashlib.sha256(process.store.read(f"{ref.prefix}/train.parquet")).hexdigest().encode()
    assert file_digest in data
    process.store.write(manifest, data.replace(file_digest, b"0" * 64))
    job = process.stage(
        ResolveConfig(dataset=ref, base_model=BaseModelRef(uri="store://models/m", sha256="0" * 64), lookups=()),
        prefix=f"{NAMESPACE}/runs/other/resolve",
    )
    code, message = process.run(job)
    assert (code, message["reason"]) == (23, "StoreCorrupt")
    assert "something else wrote it" in message["message"]


def test_store_is_probed_once_for_its_namespace(process: StageProcess) -> None:
    """P27: before any stage relies on it."""
    resolve(process, dataset(process))
    assert [info.key for info in process.store.list(f"{NAMESPACE}/probe")] == [f"{NAMESPACE}/probe/passed"]
