"""Resolve, the run's first pod: what is missing is said before anything that costs a GPU starts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ratchet_api.answer_reward import AnswerReward
from ratchet_api.attempts import Artifact
from ratchet_api.comparison import Choice, Slice
from ratchet_api.label_sets import LabelSet
from ratchet_api.names import index_key, snapshot_prefix
from ratchet_api.stage import DatasetRef, ResolveConfig, Stage, StageRef, StageResult
from ratchet_api.training_run import BaseModelRef, Gate
from ratchet_jobs.models.card import PolicyCard, TaskCard
from ratchet_jobs.runtime.commit import commit_stage
from tests.recipes.stage_process import NAMESPACE, StageProcess, csv_of, many

BASE = BaseModelRef(uri="store://models/m", sha256="0" * 64)
MODEL = {"config.json": b"{}", "tokenizer.json": b"{}", "model.safetensors": b"weights"}


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
    process: StageProcess,
    ref: DatasetRef,
    *,
    lookups: Sequence[StageRef] = (),
    gates: Sequence[Gate] = (),
    slices: Sequence[Slice] = (),
    start: Artifact | None = None,
    named_tasks: dict[str, str] | None = None,
    rewards: Sequence[AnswerReward] = (),
) -> tuple[int, dict[str, Any]]:
    config = ResolveConfig(
        dataset=ref,
        base_model=BASE,
        lookups=tuple(lookups),
        gates=tuple(gates),
        slices=tuple(slices),
        start=start,
        named_tasks=named_tasks or {},
        rewards={"spec.stages.rlhf.agents[1].rewards": tuple(rewards)} if rewards else {},
    )
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
    config = ResolveConfig(dataset=ref, base_model=BASE, lookups=())
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
    config = ResolveConfig(dataset=ref, base_model=BASE, lookups=())
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
        pytest.param(list(MODEL), {}, ["no files there", "correct the URI"], id="no folder"),
        pytest.param(
            ["model.safetensors"],
            {"pytorch_model.bin": b"not opened"},
            ["no *.safetensors", "only pytorch_model.bin", "safe_serialization"],
            id="only a pickle",
        ),
    ],
)
def test_unusable_model_folder_is_refused_before_training(
    process: StageProcess, missing: list[str], added: dict[str, bytes], want: list[str]
) -> None:
    """P13, P39; what is never opened (P22) stands in tests/unit/test_base_model_folder.py."""
    ref = dataset(process)
    for name in missing:
        remove_model_file(process, name)
    put_model(process, added)
    code, message = resolve(process, ref)
    assert (code, message["reason"]) == (13, "BadModel")
    for part in ["spec.baseModel.uri store://models/m", *want]:
        assert part in message["message"]


def test_gate_on_a_class_that_the_snapshot_lacks_is_refused_before_training(process: StageProcess) -> None:
    """P13, P39."""
    ref = dataset(process)
    gates = [Gate(metric="accuracy", minimum=0.5)]
    gates += [Gate(metric="macro_f1", label=label, minimum=0.5) for label in ("a", "refunds")]
    code, message = resolve(process, ref, gates=gates)
    assert (code, message["reason"]) == (12, "BadLabels")
    for part in ("spec.evaluation.gates[2].label", "'refunds'", "'a', 'b'", "correct the gate"):
        assert part in message["message"]
    assert resolve(process, ref, gates=gates[:2])[0] == 0


def test_slice_of_a_class_that_the_snapshot_lacks_is_refused_before_training(process: StageProcess) -> None:
    """P13, P39."""
    code, message = resolve(process, dataset(process), slices=[Slice(label="a"), Slice(label="refunds")])
    assert (code, message["reason"]) == (12, "BadLabels")
    assert "spec.evaluation.comparison.slices[1].label 'refunds'" in message["message"]


def test_what_an_earlier_evaluation_chose_is_reported_with_its_hit(process: StageProcess) -> None:
    ref = dataset(process)
    config = ResolveConfig(dataset=ref, base_model=BASE, lookups=())
    job = process.stage(config, prefix=f"{NAMESPACE}/runs/earlier/evaluate", input_digest="b" * 64)
    folder = process.root / "artifact"
    folder.mkdir()
    (folder / "head.safetensors").write_bytes(b"head")
    choice = Choice(candidate="rl", baseline="supervised", chosen="supervised", why="worse")
    labels = LabelSet.of(("ham", "spam"))
    done = StageResult(metrics={"accuracy": 0.5}, choice=choice, labels=labels)
    commit_stage(process.store, job, folder=folder, directory=f"{job.prefix}/1-x", writer="w", result=done)
    _, message = resolve(process, ref, lookups=(lookup(Stage.EVALUATE, "b"),))
    assert Choice.model_validate(message["result"]["hits"]["evaluate"]["choice"]) == choice
    assert LabelSet.model_validate(message["result"]["hits"]["evaluate"]["labels"]) == labels


def two_tasks(process: StageProcess) -> DatasetRef:
    process.put("two.csv", "text,kind,pii\n" + "".join(f"text {n},{'ab'[n % 2]},{'yn'[n % 2]}\n" for n in range(200)))
    columns = {"labels": {"intent": "kind", "pii": "pii"}}
    digest = process.summary(target="two", source={"objects": [{"uri": "store://two.csv"}]}, columns=columns)["digest"]
    return DatasetRef(digest=digest, prefix=snapshot_prefix(NAMESPACE, digest))


def test_tasks_that_the_settings_name_must_be_the_datasets_before_training(process: StageProcess) -> None:
    """P13, P39."""
    ref = two_tasks(process)
    field = "spec.stages.supervised.taskWeights.mood"
    code, message = resolve(process, ref, named_tasks={field: "mood"})
    assert (code, message["reason"]) == (11, "BadConfig")
    assert f"{field}: 'mood' is no task of the dataset: it has 'intent', 'pii'" in message["message"]
    code, message = resolve(process, dataset(process), named_tasks={field: "mood"})
    assert "it names none in spec.columns.labels" in message["message"]
    code, message = resolve(process, ref, gates=[Gate(metric="ece", task="mood", maximum=0.1)])
    assert (code, "spec.evaluation.gates[0].task: 'mood'" in message["message"]) == (11, True)
    gates = [Gate(metric="ece", task="pii", maximum=0.1), Gate(metric="macro_f1", label="intent/a", minimum=0.1)]
    assert resolve(process, ref, gates=gates, slices=[Slice(label="pii/y")], named_tasks={field: "intent"})[0] == 0


@pytest.mark.parametrize(
    ("labels", "tasks", "words"),
    [
        pytest.param(
            ("a", "b"), None, "its tasks are not the dataset's, which differ in 'intent', 'pii'", id="no tasks"
        ),
        pytest.param(
            ("intent/a", "intent/b", "pii/n", "pii/z"), ("intent", "pii"), "differ in 'pii/y', 'pii/z'", id="a class"
        ),
        pytest.param(("intent/a", "intent/b"), ("intent",), "which differ in 'pii'", id="a task less"),
    ],
)
def test_start_policy_of_other_tasks_is_refused_by_the_name_of_the_task(
    process: StageProcess, labels: tuple[str, ...], tasks: tuple[str, ...] | None, words: str
) -> None:
    """P13: label map mismatch with the start version names the task."""
    cards = None if tasks is None else tuple(TaskCard(name=name) for name in tasks)
    card = PolicyCard(labels=labels, tasks=cards, max_tokens=32, base_model=BASE)
    process.put("runs/old/evaluate/1-x/policy.json", json.dumps(card.to_wire()))
    start = Artifact(uri=f"{process.store.uri}/{NAMESPACE}/runs/old/evaluate/1-x", digest="f" * 64)
    code, message = resolve(process, two_tasks(process), start=start)
    assert (code, message["reason"]) == (12, "BadLabels")
    assert words in message["message"]


# --- the policy that rl_only starts from ---


def start_policy(process: StageProcess, *, labels: tuple[str, ...] = ("a", "b"), sha256: str = BASE.sha256) -> Artifact:
    card = PolicyCard(labels=labels, max_tokens=32, base_model=BaseModelRef(uri="store://models/old", sha256=sha256))
    process.put("runs/old/evaluate/1-x/policy.json", json.dumps(card.to_wire()))
    return Artifact(uri=f"{process.store.uri}/{NAMESPACE}/runs/old/evaluate/1-x", digest="f" * 64)


@pytest.mark.parametrize("labels", [("a", "b"), ("b", "a")], ids=["as they are", "in an order of its own"])
def test_start_policy_of_the_same_base_and_classes_passes(process: StageProcess, labels: tuple[str, ...]) -> None:
    assert resolve(process, dataset(process), start=start_policy(process, labels=labels))[0] == 0


def test_start_policy_of_another_base_is_refused_before_training(process: StageProcess) -> None:
    """P13, P39."""
    code, message = resolve(process, dataset(process), start=start_policy(process, sha256="e" * 64))
    assert (code, message["reason"]) == (13, "BadModel")
    for part in ("spec.startFrom", "runs/old/evaluate/1-x", "store://models/old", "e" * 64, "spec.baseModel.sha256"):
        assert part in message["message"]


def test_start_policy_of_other_classes_is_refused_before_training(process: StageProcess) -> None:
    """P13: label map mismatch with the start version."""
    code, message = resolve(process, dataset(process), start=start_policy(process, labels=("a", "c", "d")))
    assert (code, message["reason"]) == (12, "BadLabels")
    assert "its 3 classes are not the dataset's 2, which differ in 'b', 'c', 'd'" in message["message"]


@pytest.mark.parametrize(("where", "code"), [("runs/nowhere", 13), ("../other/runs/x", 11)])
def test_start_policy_that_is_gone_or_elsewhere_is_refused(process: StageProcess, where: str, code: int) -> None:
    """P23: another namespace's policy is no policy of ours."""
    start = Artifact(uri=f"{process.store.uri}/{NAMESPACE}/{where}", digest="f" * 64)
    got, message = resolve(process, dataset(process), start=start)
    assert got == code
    assert "spec.startFrom" in message["message"]


NAMED = {
    "model": ({"type": "rewardModel"}, "no reward_model.json there; name the artifact of a reward-model stage"),
    "classifier": ({"type": "empathy"}, "no policy.json that can be read; name a committed policy folder"),
    "catalogue": ({"type": "itemRatio"}, "is not there; `ratchet put` it, or correct the uri"),
}


@pytest.mark.parametrize("name", NAMED)
def test_what_a_reward_names_is_looked_for_before_anything_is_trained(process: StageProcess, name: str) -> None:
    """P39."""
    ref, (reward, want) = dataset(process), NAMED[name]
    named = AnswerReward.model_validate(reward | {name: {"uri": "store://shared/it", "sha256": "a" * 64}})
    code, message = resolve(process, ref, rewards=[named])
    assert code == (10 if name == "catalogue" else 13)
    assert f"spec.stages.rlhf.agents[1].rewards[0].{name} store://shared/it: {want}" in message["message"]
    outside = AnswerReward.model_validate(reward | {name: {"uri": "s3://elsewhere/it", "sha256": "a" * 64}})
    code, message = resolve(process, ref, rewards=[outside])
    assert (code, f"rewards[0].{name}" in message["message"]) == (11, True)
    process.put("shared/it" if name == "catalogue" else "shared/it/reward_model.json", b"{}")
    if name == "classifier":
        labels = ("mood/a", "mood/b", "topic/a", "topic/b")
        tasks = (TaskCard(name="mood"), TaskCard(name="topic"))
        card = PolicyCard(labels=labels, tasks=tasks, max_tokens=32, base_model=BASE)
        process.put("shared/it/policy.json", json.dumps(card.to_wire()))
        code, message = resolve(process, ref, rewards=[named])
        assert "name a classifier of emotions alone" in message["message"]
    else:
        assert resolve(process, ref, rewards=[named])[0] == 0


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
        ResolveConfig(dataset=ref, base_model=BASE, lookups=()),
        prefix=f"{NAMESPACE}/runs/other/resolve",
    )
    code, message = process.run(job)
    assert (code, message["reason"]) == (23, "StoreCorrupt")
    assert "something else wrote it" in message["message"]


def test_store_is_probed_once_for_its_namespace(process: StageProcess) -> None:
    """P27: before any stage relies on it."""
    resolve(process, dataset(process))
    assert [info.key for info in process.store.list(f"{NAMESPACE}/probe")] == [f"{NAMESPACE}/probe/passed"]
