"""Trackers get every metric through their own libraries, and never fail, slow or change a stage."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ratchet_api.stage import StageInput, StageResult, SupervisedConfig
from ratchet_api.tracking import Tracking
from ratchet_jobs.runtime import main
from ratchet_jobs.runtime.context import StageContext
from ratchet_jobs.runtime.errors import NotANumberError
from ratchet_jobs.runtime.progress import StageMetrics
from ratchet_jobs.runtime.tracking.background import FAILURES, BackgroundTrackers, trackers_of
from ratchet_jobs.runtime.tracking.base import Tracked
from tests.recipes.stage_process import NAMESPACE, StageProcess

SETTINGS = {"hyper.learningRate": 5e-4, "hyper.epochs": 2, "seed": 1, "note": "<script>alert(1)</script>"}
LABELS = {"namespace": "team", "run": "router", "stage": "rl", "attempt": "1"}


def tracked(folder: Path) -> Tracked:
    return Tracked(title="team/router/rl/1", labels=LABELS, settings=SETTINGS, folder=folder)


def run_with(folder: Path, tracking: dict[str, Any], *, succeeded: bool = True) -> list[str]:
    """Track three steps; returns the names of trackers that failed, once per failure."""
    failed: list[str] = []
    trackers = trackers_of(Tracking.model_validate(tracking))
    assert trackers
    running = BackgroundTrackers(trackers, tracked(folder), count_failure=failed.append, clock=lambda: 1_700_000_000.0)
    for step in (1, 2, 3):
        running.log(step, {"loss": 1.0 / step, "reward/accuracy": 0.25 * step})
    # the machine may be busy, and what is asked here is what a tracker writes, not how soon
    running.finish(succeeded=succeeded, patience_seconds=300.0)
    return failed


def test_tensorboard_reads_every_scalar_and_the_settings_back(tmp_path: Path) -> None:
    assert run_with(tmp_path, {"tensorboard": True}) == []
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"loss", "reward/accuracy"}
    assert [(each.step, round(each.value, 4)) for each in events.Scalars("loss")] == [(1, 1.0), (2, 0.5), (3, 0.3333)]
    text = events.Tensors("settings/text_summary")[0].tensor_proto.string_val[0].decode()
    assert all(line.startswith("    ") for line in text.splitlines()), "a code block: nothing in it is markup"
    assert json.loads(text) == SETTINGS


def test_mlflow_has_metrics_with_steps_params_and_tags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = (tmp_path / "mlruns").as_uri()
    assert run_with(tmp_path, {"mlflow": {"uri": uri, "experiment": "routers"}}) == []
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("routers")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == ("team/router/rl/1", "FINISHED")
    assert run.data.params == {name: str(value) for name, value in SETTINGS.items()}
    assert {run.data.tags[f"ratchet.{name}"] for name in LABELS} == set(LABELS.values())
    history = client.get_metric_history(run.info.run_id, "reward/accuracy")
    assert [(each.step, each.value, each.timestamp) for each in history] == [
        (step, 0.25 * step, 1_700_000_000_000) for step in (1, 2, 3)
    ]


def test_a_stage_that_failed_is_failed_in_mlflow_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = (tmp_path / "mlruns").as_uri()
    assert run_with(tmp_path, {"mlflow": {"uri": uri}}, succeeded=False) == []
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("ratchet")
    assert experiment is not None
    assert client.search_runs([experiment.experiment_id])[0].info.status == "FAILED"


def test_wandb_offline_writes_files_that_it_can_send_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ratchet_jobs.runtime.tracking.wandb._PATIENCE_SECONDS", 120.0)  # with a process of its own
    assert run_with(tmp_path, {"wandb": {"project": "routers", "mode": "offline"}}) == []

    def written() -> bytes:
        return b"".join(each.read_bytes() for each in tmp_path.glob("wandb/wandb/offline-run-*/run-*.wandb"))

    words = (b"reward/accuracy", b"hyper.learningRate", b"team/router/rl/1", b"routers")
    deadline = time.monotonic() + 120  # a process of the library's writes the file, when the machine lets it
    while missing := [word for word in words if word not in written()]:
        assert time.monotonic() < deadline, missing
        time.sleep(0.1)
    assert len(list(tmp_path.glob("wandb/wandb/offline-run-*"))) == 1


@pytest.mark.parametrize("name", ["tensorboard", "mlflow", "wandb"])
def test_a_tracker_that_is_not_installed_is_counted_once_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    module = {"tensorboard": "tensorboardX"}.get(name, name)
    for loaded in [each for each in sys.modules if each == module or each.startswith(f"{module}.")]:
        monkeypatch.setitem(sys.modules, loaded, None)
    monkeypatch.setitem(sys.modules, module, None)
    settings: dict[str, Any] = {
        "tensorboard": {"tensorboard": True},
        "mlflow": {"mlflow": {"uri": "http://127.0.0.1:9"}},
        "wandb": {"wandb": {"project": "p", "mode": "offline"}},
    }[name]
    other = {"mlflow": {"uri": (tmp_path / "mlruns").as_uri()}} if name == "tensorboard" else {"tensorboard": True}
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    assert run_with(tmp_path, settings | other) == [name]
    assert any(path.is_file() for path in tmp_path.rglob("*")), "the other one wrote"


class Flaky:
    """A tracker that fails from one step to another."""

    def __init__(self, *, start: bool = True, bad: range = range(0)) -> None:
        self.name, self.got, self.ended = "flaky", [], None
        self._start, self._bad = start, bad

    def start(self, tracked: Tracked) -> None:
        if not self._start:
            raise ConnectionError("down")

    def log(self, step: int, metrics: Mapping[str, float], time_seconds: float) -> None:
        if step in self._bad:
            raise ConnectionError("down")
        self.got.append(step)

    def finish(self, *, succeeded: bool) -> None:
        self.ended = succeeded


def after_steps(flaky: Flaky, steps: int, folder: Path) -> list[str]:
    failed: list[str] = []
    running = BackgroundTrackers([flaky], tracked(folder), count_failure=failed.append)
    for step in range(steps):
        running.log(step, {"loss": 1.0})
    running.finish(succeeded=True)
    return failed


def test_a_tracker_that_cannot_start_is_never_asked_again(tmp_path: Path) -> None:
    flaky = Flaky(start=False)
    assert after_steps(flaky, 5, tmp_path) == ["flaky"]
    assert (flaky.got, flaky.ended) == ([], None)


def test_a_tracker_that_fails_now_and_then_is_asked_again(tmp_path: Path) -> None:
    flaky = Flaky(bad=range(1, FAILURES))
    assert after_steps(flaky, 6, tmp_path) == ["flaky"] * (FAILURES - 1)
    assert (flaky.got, flaky.ended) == ([0, 3, 4, 5], True)


def test_a_tracker_that_keeps_failing_is_left_alone(tmp_path: Path) -> None:
    flaky = Flaky(bad=range(2, 100))
    assert after_steps(flaky, 50, tmp_path) == ["flaky"] * FAILURES
    assert (flaky.got, flaky.ended) == ([0, 1], None)


def test_a_tracker_that_hangs_delays_the_end_by_no_more_than_its_patience(tmp_path: Path) -> None:
    """The stage's own calls return at once; what does not fit the queue is counted, and that it was left unfinished."""
    let_go = threading.Event()

    class Hanging(Flaky):
        def start(self, tracked: Tracked) -> None:
            let_go.wait()

    failed: list[str] = []
    running = BackgroundTrackers([Hanging()], tracked(tmp_path), count_failure=failed.append)
    for step in range(10_100):
        running.log(step, {"loss": 1.0})
    assert failed == ["flaky"] * 100
    running.finish(succeeded=True, patience_seconds=0.05)
    assert failed == ["flaky"] * 101, "what it still held is counted, too"
    let_go.set()


class _Refusing(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.send_error(500, "broken")

    do_GET = do_POST

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


@pytest.fixture
def refusing() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Refusing)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_an_mlflow_server_that_is_broken_costs_a_warning(tmp_path: Path, refusing: str) -> None:
    assert run_with(tmp_path, {"mlflow": {"uri": refusing}}) == ["mlflow"]


def test_no_tracker_is_on_unless_asked_for(tmp_path: Path) -> None:
    assert trackers_of(None) == []
    idle = BackgroundTrackers([], tracked(tmp_path), count_failure=lambda _: pytest.fail("nothing can fail"))
    idle.log(1, {"loss": 1.0})
    idle.finish(succeeded=True)
    assert list(tmp_path.iterdir()) == []


# --- a stage with trackers -------------------------------------------------------------------------------------------

PREFIX = f"{NAMESPACE}/runs/r/supervised"
CONFIG = SupervisedConfig.model_validate(
    {
        "dataset": {"digest": "e" * 64, "prefix": "ns/snapshots/e"},
        "baseModel": {"uri": "store://models/m", "sha256": "f" * 64},
        "lora": {},
        "hyper": {"learningRate": 0.25},
        "seed": 3,
    }
)


@pytest.fixture
def process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StageProcess:
    monkeypatch.setattr(main, "find_recipe", lambda _stage: recipe)
    return StageProcess(tmp_path)


def recipe(ctx: StageContext, config: SupervisedConfig) -> StageResult:
    """Two steps, then the numbers go wrong if the seed says so."""
    for step in (1, 2):
        ctx.progress.report(step, 2, loss=1.0 / step, examples=8, learning_rate=0.1)
    if config.seed == 13:
        raise NotANumberError("loss is nan")
    (ctx.output / "weights.safetensors").write_text("weights")
    return StageResult(metrics={"loss": 0.5})


def job(process: StageProcess, tracking: dict[str, Any] | None, *, prefix: str = PREFIX, seed: int = 3) -> StageInput:
    plain = process.stage(CONFIG.model_copy(update={"seed": seed}), prefix=prefix)
    return plain.model_copy(update={"tracking": None if tracking is None else Tracking.model_validate(tracking)})


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(folder))
    events.Reload()
    return {name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]}


def test_a_tracked_stage_leaves_its_metrics_and_its_result_beside_what_it_commits(process: StageProcess) -> None:
    code, message = process.run(job(process, {"tensorboard": True}))
    assert (code, message["state"]) == (0, "Committed")
    (written,) = [info.key for info in process.store.list(f"{PREFIX}/tracking")]
    assert written.startswith(f"{PREFIX}/tracking/1-00000001/tensorboard/events.out.tfevents.")
    got = scalars((process.root / "store" / written).parent)
    assert got["loss"] == [(1, 1.0), (2, 0.5)]
    assert [step for step, _ in got["learning_rate"]] == [1, 2]
    assert got["result/loss"] == [(2, 0.5)]


def test_trackers_change_nothing_of_what_a_stage_commits(process: StageProcess) -> None:
    _, tracked_ = process.run(job(process, {"tensorboard": True}))
    _, plain = process.run(job(process, None, prefix=f"{NAMESPACE}/runs/other/supervised"))
    assert tracked_["artifact"]["digest"] == plain["artifact"]["digest"]
    assert tracked_["result"] == plain["result"]


def test_a_stage_that_fails_keeps_what_it_tracked(process: StageProcess) -> None:
    code, _ = process.run(job(process, {"tensorboard": True}, seed=13))
    assert code == 30
    (written,) = [info.key for info in process.store.list(f"{PREFIX}/tracking")]
    assert scalars((process.root / "store" / written).parent)["loss"] == [(1, 1.0), (2, 0.5)]


def test_trackers_that_are_down_or_missing_never_fail_a_stage_and_are_counted(
    process: StageProcess, refusing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[str] = []
    monkeypatch.setattr(StageMetrics, "count_tracking_failure", lambda _self, name: counted.append(name))
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    code, message = process.run(job(process, {"tensorboard": True, "mlflow": {"uri": refusing}}))
    assert (code, message["state"]) == (0, "Committed")
    assert sorted(counted) == ["mlflow", "tensorboard"]


def test_failures_are_a_counter_by_tracker() -> None:
    metrics = StageMetrics(namespace="n", run="r", stage="rl")
    for _ in range(2):
        metrics.count_tracking_failure("mlflow")
    labels = {"namespace": "n", "run": "r", "stage": "rl", "tracker": "mlflow"}
    assert metrics.registry.get_sample_value("ratchet_stage_tracking_failures_total", labels) == 2
