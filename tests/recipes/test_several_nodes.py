"""Several nodes train as one: the same parameters, through the death of any of them.

Each node is a process that runs a whole stage as its pod would, forked so that it need not import everything anew.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from safetensors.torch import load_file

from ratchet_api.stage import ExitCode, Owner, RlConfig, Stage, StageInput, StoreConfig, SupervisedConfig
from ratchet_jobs.runtime.commit import find_commit
from ratchet_jobs.runtime.history import read_history
from ratchet_jobs.runtime.main import run_stage
from ratchet_jobs.runtime.progress import ProgressBoard
from tests.generator_bench import GeneratorBench
from tests.tiny_bert import THEMES, log_of, reviews
from tests.tiny_llama import dialogues
from tests.workbench import NAMESPACE, Workbench

PATIENCE_SECONDS = 200
NUMBERS = itertools.count(1)
"""Of the pods."""
Config = SupervisedConfig | RlConfig
OnStep = Callable[[int], None]


def nothing(_: int) -> None:
    """A step like any other."""


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    """A policy that few labels taught little, and 203 queries that it has not seen: no number of nodes divides them."""
    made = Workbench(tmp_path_factory.mktemp("nodes"), train=reviews(51, seed=5))
    made.pod(made.supervised(epochs=2.0), run="start")
    made.dataset = made.put_snapshot(train=reviews(203, seed=0), validation=(), test=(), labels=sorted(THEMES))
    return made


class Nodes:
    """The pods of one stage's Job."""

    def __init__(self, bench: Workbench, config: Config, run: str) -> None:
        self.bench, self.config, self.run = bench, config, run
        stage = Stage(config.stage)
        self.job = StageInput(
            owner=Owner(kind="RLTrainingRun", namespace=NAMESPACE, name=run, uid="u" * 8),
            attempt=1,
            prefix=bench.prefix(run, stage),
            store=StoreConfig(uri=bench.store.uri),
            config=config,
        )

    def start(self, rank: int, on_step: OnStep = nothing, **env: str) -> Pod:
        """Start the pod of a node."""
        number = next(NUMBERS)
        folder = self.bench.root / f"{self.run}-pod-{number}"
        folder.mkdir()
        (folder / "stage.json").write_text(self.job.model_dump_json(by_alias=True, exclude_none=True))
        environment = {
            "RATCHET_STAGE_FILE": str(folder / "stage.json"),
            "RATCHET_TERMINATION_PATH": str(folder / "said.json"),
            "RATCHET_SCRATCH": str(folder),
            "RATCHET_POD_UID": f"{number:08d}-{self.run}",
            "RATCHET_POD_IP": "127.0.0.1",
            "RATCHET_PROGRESS_HOST": "127.0.0.1",
            "RATCHET_PROGRESS_PORT": "0",
            "JOB_COMPLETION_INDEX": str(rank),
            **env,
        }
        return Pod(environment, on_step)

    def result(self) -> dict[str, torch.Tensor]:
        """What the stage committed."""
        return committed(self.bench, self.run, Stage(self.config.stage))


class Pod:
    """One process."""

    def __init__(self, env: Mapping[str, str], on_step: OnStep) -> None:
        self.said_path = Path(env["RATCHET_TERMINATION_PATH"])
        self.process = multiprocessing.get_context("fork").Process(target=_node, args=(env, on_step), daemon=True)
        self.process.start()

    def ended(self) -> int | None:
        """Exit code; minus n for signal n."""
        self.process.join(PATIENCE_SECONDS)
        if self.process.is_alive():
            self.process.kill()
            raise AssertionError("a node did not end")
        return self.process.exitcode

    @property
    def said(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.said_path.read_text())
        return found


def _node(env: Mapping[str, str], on_step: OnStep) -> None:
    report = ProgressBoard.report

    def reporting(board: ProgressBoard, step: int, steps: int, **values: Any) -> None:
        report(board, step, steps, **values)
        on_step(step)

    torch.set_num_threads(1)  # before the first computation: a fork has none of its parent's threads
    with mock.patch.dict(os.environ, OMP_NUM_THREADS="1"), mock.patch.object(ProgressBoard, "report", reporting):
        code = run_stage(env)
    sys.exit(code)


def committed(bench: Workbench, run: str, stage: Stage) -> dict[str, torch.Tensor]:
    commit = find_commit(bench.store, prefix=bench.prefix(run, stage), namespace=NAMESPACE, input_digest=None)
    assert commit is not None
    folder = bench.root / "store" / commit.directory
    return {
        f"{file.path}/{name}": tensor
        for file in commit.files
        if file.path.endswith(".safetensors")
        for name, tensor in load_file(folder / file.path).items()
    }


def assert_close(got: Mapping[str, torch.Tensor], want: Mapping[str, torch.Tensor], *, within: float) -> None:
    assert got.keys() == want.keys()
    for name, tensor in want.items():
        torch.testing.assert_close(
            got[name], tensor, rtol=0, atol=within, msg=lambda text, name=name: f"{name}: {text}"
        )


def of_log(bench: Workbench, **hyper: Any) -> RlConfig:
    """Settings of learning from a log of answers."""
    rewards = [{"type": "feedback", "estimator": "doublyRobust"}]
    config = bench.rl(start="start", datasetRef={"name": "log"}, minEffectiveSamples=2, rewards=rewards, **hyper)
    return config.model_copy(update={"log": bench.put_log(log_of(150, seed=3)), "log_policy": "router"})


EXPLORE = {"learningRate": 1e-3, "klCoef": 0.1, "verdictCoef": 0.0}
CASES = {
    "supervised, weighted classes": lambda bench, **nodes: bench.supervised(
        batchSize=12, classWeights="balanced", labelSmoothing=0.1, learningRate=1e-3, **nodes
    ),
    "ppo with adapters": lambda bench, **nodes: bench.rl(start="start", **EXPLORE, **nodes),
    "a log of answers": of_log,
}


@pytest.mark.parametrize("case", CASES)
def test_two_nodes_learn_what_one_learns_from_the_whole_batch(bench: Workbench, case: str) -> None:
    """Every parameter within 1e-6, after all steps; metrics, too."""
    run = case.replace(" ", "-").replace(",", "")
    alone, _ = bench.pod(CASES[case](bench), run=f"{run}-1")
    nodes = Nodes(bench, CASES[case](bench, nodes=2), f"{run}-2")
    pods = [nodes.start(rank) for rank in (0, 1)]
    assert [pod.ended() for pod in pods] == [0, 0], [pod.said for pod in pods]
    assert_close(nodes.result(), committed(bench, f"{run}-1", Stage(nodes.config.stage)), within=1e-6)
    assert pods[0].said["state"] == "Committed"
    assert pods[1].said["state"] == "AlreadyCommitted"
    assert pods[0].said["artifact"] == pods[1].said["artifact"], "either message tells the operator the result"
    assert pods[0].said["result"]["metrics"] == pytest.approx(alone.result.metrics, abs=1e-5)
    keys = [info.key for info in bench.store.list(nodes.job.prefix)]
    assert not [key for key in keys if "team-" in key or "checkpoints" in key]


def test_two_nodes_teach_a_generator_what_one_does(tmp_path: Path) -> None:
    """Every token of the whole batch weighs alike, however the rows are shared."""
    shown = GeneratorBench(tmp_path, train=dialogues(19, seed=0))
    shown.pod(shown.supervised(learningRate=1e-3), run="alone")
    nodes = Nodes(shown, shown.supervised(learningRate=1e-3, nodes=2), "shared")
    pods = [nodes.start(rank) for rank in (0, 1)]
    assert [pod.ended() for pod in pods] == [0, 0], [pod.said for pod in pods]
    assert_close(nodes.result(), committed(shown, "alone", Stage.SUPERVISED), within=1e-6)


def quick(bench: Workbench) -> RlConfig:
    return bench.rl(start="start", interactions=96, nodes=2, checkpointEverySteps=2)


@pytest.fixture(scope="module")
def undisturbed(bench: Workbench) -> dict[str, torch.Tensor]:
    nodes = Nodes(bench, quick(bench), "undisturbed")
    assert [pod.ended() for pod in [nodes.start(0), nodes.start(1)]] == [0, 0]
    return nodes.result()


def dies(step: int) -> None:
    """The node is killed during its third step."""
    if step == 3:
        os.kill(os.getpid(), signal.SIGKILL)


def is_asked_to_leave(step: int) -> None:
    """The node is drained during its third step."""
    if step == 3:
        os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_node_takes_all_back_to_the_checkpoint_and_the_end_is_the_same(
    bench: Workbench, undisturbed: dict[str, torch.Tensor], victim: int
) -> None:
    """P12: bit-equal to the team that nobody disturbed; the other node ends as if it had been preempted itself."""
    nodes = Nodes(bench, quick(bench), f"killed-{victim}")
    pods = [nodes.start(rank, dies if rank == victim else nothing) for rank in (0, 1)]
    assert pods[victim].ended() == -signal.SIGKILL
    assert pods[1 - victim].ended() == ExitCode.PREEMPTED
    assert pods[1 - victim].said["state"] == "Preempted"
    assert "another node of the stage is gone" in pods[1 - victim].said["message"]
    again = [nodes.start(rank) for rank in (1, 0)]
    assert [pod.ended() for pod in again] == [0, 0]
    assert_close(nodes.result(), undisturbed, within=0)


def test_one_node_that_is_asked_to_leave_takes_all_with_it_after_a_checkpoint_of_that_very_step(
    bench: Workbench, undisturbed: dict[str, torch.Tensor]
) -> None:
    """P12: nothing is lost, for all learn in the same step that one of them must go."""
    nodes = Nodes(bench, quick(bench), "drained")
    pods = [nodes.start(0), nodes.start(1, is_asked_to_leave)]
    assert [pod.ended() for pod in pods] == [ExitCode.PREEMPTED] * 2
    assert all("checkpoint of step 3 is saved" in pod.said["message"] for pod in pods)
    again = [nodes.start(rank) for rank in (0, 1)]
    assert [pod.ended() for pod in again] == [0, 0]
    assert_close(nodes.result(), undisturbed, within=0)
    (path,) = (bench.root / "store").glob(f"{nodes.job.prefix}/*/rl-history.parquet")
    assert read_history(path)["step"] == [1, 2, 3, 4], "each step once"


@pytest.mark.usefixtures("undisturbed")
def test_a_node_that_is_replaced_after_the_commit_reads_it_and_trains_nothing(bench: Workbench) -> None:
    """P6, P7."""
    nodes = Nodes(bench, quick(bench), "undisturbed")
    late = nodes.start(1)
    assert late.ended() == 0
    assert late.said["state"] == "AlreadyCommitted"


@pytest.mark.parametrize(
    ("env", "hint"),
    [
        ({"JOB_COMPLETION_INDEX": "2"}, "JOB_COMPLETION_INDEX is 2, but stages.rl.nodes is 2"),
        ({"JOB_COMPLETION_INDEX": "-1"}, "JOB_COMPLETION_INDEX is -1"),
        ({"JOB_COMPLETION_INDEX": "first"}, "JOB_COMPLETION_INDEX is 'first': expected a number"),
        ({"RATCHET_POD_IP": ""}, "RATCHET_POD_IP is not set, but stages.rl.nodes is 2"),
    ],
    ids=["index too high", "negative index", "no index", "no address"],
)
def test_a_pod_that_does_not_fit_the_stage_says_so(bench: Workbench, env: dict[str, str], hint: str) -> None:
    """P13: exit code 11, for no retry could mend it."""
    pod = Nodes(bench, quick(bench), f"odd-{abs(hash(hint))}").start(0, **env)
    assert pod.ended() == ExitCode.BAD_CONFIG
    assert hint in pod.said["message"]
