"""How a stage begins and ends: committed once, never trained twice, every failure with its code and its words."""

from __future__ import annotations

import errno
import json
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest
from safetensors import SafetensorError

from ratchet_api.names import index_key
from ratchet_api.stage import ExitCode, Stage, StageInput, StageResult, SupervisedConfig, exit_rule
from ratchet_jobs.runtime import errors, main
from ratchet_jobs.runtime.commit import find_commit
from ratchet_jobs.runtime.context import StageContext
from ratchet_jobs.runtime.store_directory import DirectoryStore
from tests.recipes.stage_process import NAMESPACE, StageProcess

DIGEST = "d" * 64
CONFIG = SupervisedConfig.model_validate(
    {
        "dataset": {"digest": "e" * 64, "prefix": "ns/snapshots/e"},
        "baseModel": {"uri": "store://models/m", "sha256": "f" * 64},
        "lora": {},
        "hyper": {},
        "seed": 0,
    }
)

RecipeBody = Callable[[StageContext], StageResult]


@pytest.fixture
def process(tmp_path: Path) -> StageProcess:
    return StageProcess(tmp_path)


@pytest.fixture
def with_recipe(monkeypatch: pytest.MonkeyPatch) -> Callable[[RecipeBody], list[int]]:
    """Put a recipe in the place of every stage's; returns the list that counts its starts."""

    def put(body: RecipeBody) -> list[int]:
        starts: list[int] = []

        def recipe(ctx: StageContext, config: Any) -> StageResult:
            starts.append(ctx.job.attempt)
            return body(ctx)

        monkeypatch.setattr(main, "find_recipe", lambda stage: recipe)
        return starts

    return put


def trains(ctx: StageContext, text: str = "weights") -> StageResult:
    (ctx.output / "sub").mkdir()
    (ctx.output / "sub" / "weights.safetensors").write_text(text)
    return StageResult(metrics={"loss": 0.5})


def job(process: StageProcess, run: str = "r1", *, digest: str | None = DIGEST, attempt: int = 1) -> StageInput:
    return process.stage(CONFIG, prefix=f"{NAMESPACE}/runs/{run}/supervised", input_digest=digest, attempt=attempt)


def test_committed_stage_is_not_run_again(process: StageProcess, with_recipe: Any) -> None:
    """P6: the pod's report was lost, a new attempt finds the commit."""
    starts = with_recipe(trains)
    _, first = process.run(job(process))
    code, second = process.run(job(process, attempt=2))
    assert code == 0
    assert (first["state"], second["state"]) == ("Committed", "AlreadyCommitted")
    assert second["artifact"] == first["artifact"]
    assert second["result"] == first["result"]
    assert starts == [1]


def test_equal_inputs_of_another_run_are_found_and_become_this_runs_commit(
    process: StageProcess, with_recipe: Any
) -> None:
    starts = with_recipe(trains)
    _, first = process.run(job(process, "r1"))
    _, second = process.run(job(process, "r2"))
    assert second["state"] == "AlreadyCommitted"
    assert second["artifact"] == first["artifact"]
    assert starts == [1]
    assert process.store.exists(f"{NAMESPACE}/runs/r2/supervised/COMMIT.json")


def test_other_inputs_are_not_found(process: StageProcess, with_recipe: Any) -> None:
    starts = with_recipe(trains)
    process.run(job(process, "r1"))
    process.run(job(process, "r2", digest="c" * 64))
    process.run(job(process, "r3", digest=None))
    assert len(starts) == 3


def test_looking_a_stage_up_lists_nothing_that_grows_with_the_number_of_runs(tmp_path: Path) -> None:
    listed: list[str] = []

    class Watched(DirectoryStore):
        def list(self, prefix: str) -> Any:
            found = super().list(prefix)
            listed.append(prefix)
            assert not found
            return found

    store = Watched(tmp_path)
    store.write(index_key("ns", "a" * 64), b"{}")
    store.write("ns/runs/other-1/supervised/1-pod/weights.safetensors", b"x")
    assert find_commit(store, prefix="ns/runs/r-1/supervised", namespace="ns", input_digest=DIGEST) is None
    assert listed, "a missing bucket would be taken for a missing commit"


def test_index_entry_whose_artifact_was_pruned_or_damaged_is_no_hit(process: StageProcess, with_recipe: Any) -> None:
    starts = with_recipe(trains)
    _, first = process.run(job(process, "r1"))
    artifact = first["artifact"]["uri"].removeprefix(f"{process.store.uri}/")
    process.store.delete([f"{artifact}/sub/weights.safetensors"])
    process.run(job(process, "r2"))
    assert len(starts) == 2
    process.store.write(index_key(NAMESPACE, DIGEST), b"not json")
    process.run(job(process, "r3"))
    assert len(starts) == 3


def test_of_two_pods_one_commits_and_the_other_reports_the_winners_result(
    process: StageProcess, with_recipe: Any
) -> None:
    """P7: both run at the same time; the loser's files change nothing."""
    rivals: list[dict[str, Any]] = []

    def slow(ctx: StageContext) -> StageResult:
        with_recipe(lambda inner: trains(inner, "the rival's"))
        rivals.append(process.run(job(process))[1])
        return trains(ctx, "mine, too late")

    with_recipe(slow)
    code, mine = process.run(job(process))
    assert code == 0
    assert (rivals[0]["state"], mine["state"]) == ("Committed", "Superseded")
    assert mine["artifact"] == rivals[0]["artifact"]
    directory = mine["artifact"]["uri"].removeprefix(f"{process.store.uri}/")
    assert process.store.read(f"{directory}/sub/weights.safetensors") == b"the rival's"
    kept = [info.key for info in process.store.list(directory.rpartition("/")[0])]
    own = [f"{directory}/sub/weights.safetensors", f"{directory}/supervised-settings.json"]
    assert kept == [*own, f"{directory.rpartition('/')[0]}/COMMIT.json"]


class Crash(BaseException):
    """The process is gone."""


class CrashingStore(DirectoryStore):
    """Dies before or after the n-th call that changes something."""

    def __init__(self, root: Path, *, at: int, after: bool) -> None:
        super().__init__(root)
        self.calls, self._at, self._after = 0, at, after

    def _around(self, call: Callable[[], Any]) -> Any:
        self.calls += 1
        if self.calls == self._at and not self._after:
            raise Crash
        answer = call()
        if self.calls == self._at:
            raise Crash
        return answer

    def write(self, key: str, data: bytes) -> None:
        self._around(lambda: DirectoryStore.write(self, key, data))

    def create(self, key: str, data: bytes) -> bool:
        return bool(self._around(lambda: DirectoryStore.create(self, key, data)))

    def upload(self, path: Path, key: str) -> None:
        self._around(lambda: DirectoryStore.upload(self, path, key))


def checkpoints_and_trains(ctx: StageContext) -> StageResult:
    ctx.checkpoints.save(1, lambda folder: (folder / "state.json").write_text("{}"))
    return trains(ctx)


def end_state(process: StageProcess) -> dict[str, Any]:
    """What later readers see: the commit's content and the index, without who wrote them."""
    commit = json.loads(process.store.read(f"{NAMESPACE}/runs/r1/supervised/COMMIT.json"))
    for file in commit["files"]:
        assert process.store.read(f"{commit['directory']}/{file['path']}")
    index = json.loads(process.store.read(index_key(NAMESPACE, DIGEST)))
    return {k: commit[k] for k in ("files", "digest", "result", "inputDigest")} | {"index": index}


def test_crash_at_any_store_call_ends_in_the_fault_free_state(
    tmp_path: Path, with_recipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P4's half in the store: every changing call, before and after it."""
    with_recipe(checkpoints_and_trains)
    golden = StageProcess(tmp_path / "golden")
    (tmp_path / "golden").mkdir()
    counting = CrashingStore(tmp_path / "golden" / "store", at=-1, after=False)
    monkeypatch.setattr(main, "open_store", lambda *_, **__: counting)
    golden.run(job(golden))
    want = end_state(golden)
    assert counting.calls >= 5  # checkpoint file and manifest, artifact, COMMIT, index
    for at in range(1, counting.calls + 1):
        for after in (False, True):
            root = tmp_path / f"{at}-{after}"
            root.mkdir()
            process = StageProcess(root)
            faulty = CrashingStore(root / "store", at=at, after=after)
            monkeypatch.setattr(main, "open_store", lambda *_, store=faulty, **__: store)
            with pytest.raises(Crash):
                process.run(job(process))
            monkeypatch.setattr(main, "open_store", lambda *_, root=root, **__: DirectoryStore(root / "store"))
            code, _ = process.run(job(process, attempt=2))
            assert code == 0
            assert end_state(process) == want, (at, after)


ENDS = [
    pytest.param(errors.BadDataError("rows"), 10, "BadData", id="bad data"),
    pytest.param(errors.BadConfigError("field"), 11, "BadConfig", id="bad config"),
    pytest.param(errors.BadLabelsError("label"), 12, "BadLabels", id="bad labels"),
    pytest.param(errors.BadModelError("model"), 13, "BadModel", id="bad model"),
    pytest.param(errors.StoreUnavailable("s3"), 20, "StoreUnavailable", id="store away"),
    pytest.param(errors.StoreAccessDenied("key"), 21, "StoreAccessDenied", id="credentials"),
    pytest.param(errors.StoreNotFound("bucket"), 22, "StoreNotFound", id="no bucket"),
    pytest.param(errors.StoreCorrupt("sum"), 23, "StoreCorrupt", id="checksum"),
    pytest.param(errors.NotANumberError("nan"), 30, "NotANumber", id="NaN"),
    pytest.param(errors.DivergedError("kl"), 31, "Diverged", id="breaker"),
    pytest.param(errors.AcceleratorError("ecc"), 40, "AcceleratorFault", id="device"),
    pytest.param(errors.Preempted("bye"), 75, "Preempted", id="preempted"),
    pytest.param(ZeroDivisionError("bug"), 1, "StageCrashed", id="a bug"),
    pytest.param(MemoryError("host"), 137, "Killed", id="out of host memory"),
    pytest.param(RuntimeError("DefaultCPUAllocator: can't allocate memory"), 137, "Killed", id="torch out of memory"),
    pytest.param(RuntimeError("CUDA error: device-side assert"), 40, "AcceleratorFault", id="CUDA error"),
    pytest.param(duckdb.OutOfMemoryException("32 MiB"), 137, "Killed", id="the database is out of memory"),
    pytest.param(duckdb.IOException("write: No space left on device"), 11, "BadConfig", id="its disk is full"),
    pytest.param(OSError(errno.ENOSPC, "No space left on device"), 11, "BadConfig", id="the disk is full"),
    pytest.param(
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        11,
        "BadConfig",
        id="the disk is full at a checkpoint",
    ),
]


@pytest.mark.parametrize(("error", "want_code", "want_reason"), ENDS)
def test_every_end_has_its_code_reason_and_message(
    process: StageProcess, with_recipe: Any, error: Exception, want_code: int, want_reason: str
) -> None:
    """P13."""

    def fails(ctx: StageContext) -> StageResult:
        raise error

    with_recipe(fails)
    code, message = process.run(job(process))
    assert (code, message["reason"]) == (want_code, want_reason)
    assert str(error) in message["message"]
    assert exit_rule(code).reason.value == want_reason
    assert not process.store.exists(f"{NAMESPACE}/runs/r1/supervised/COMMIT.json")


def test_message_longer_than_the_termination_log_is_cut_not_lost(process: StageProcess, with_recipe: Any) -> None:
    def fails(ctx: StageContext) -> StageResult:
        raise errors.BadDataError("ä" * 100_000)

    with_recipe(fails)
    code, message = process.run(job(process))
    assert code == 10
    assert message["message"].startswith("ä" * 100)


def test_sigterm_sets_the_wish_to_stop_and_the_recipe_leaves_with_75(process: StageProcess, with_recipe: Any) -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)

    def loops(ctx: StageContext) -> StageResult:
        signal.raise_signal(signal.SIGTERM)
        assert ctx.stop.wait(60)
        ctx.checkpoints.save(7, lambda folder: (folder / "state.json").write_text("{}"))
        raise ctx.preempted(7)

    try:
        with_recipe(loops)
        code, message = process.run(job(process))
    finally:
        signal.signal(signal.SIGTERM, before[0])
        signal.signal(signal.SIGINT, before[1])
    assert (code, message["state"]) == (int(ExitCode.PREEMPTED), "Preempted")
    assert "step 7" in message["message"]

    resumed: list[int] = []

    def goes_on(ctx: StageContext) -> StageResult:
        found = ctx.checkpoints.latest()
        resumed.append(found.step if found else 0)
        return trains(ctx)

    with_recipe(goes_on)
    process.run(job(process, attempt=2))
    assert resumed == [7]
    assert not [i for i in process.store.list(NAMESPACE) if "checkpoints" in i.key], "cleared after the commit"


BAD_STAGE_FILES = [
    pytest.param(None, "No such file", id="missing"),
    pytest.param("not json", "Invalid JSON", id="not JSON"),
    pytest.param('{"contract": "ratchet.dev/stage-v9"}', "contract", id="another version"),
]


@pytest.mark.parametrize(("content", "want"), BAD_STAGE_FILES)
def test_unusable_stage_file_is_a_config_error(tmp_path: Path, content: str | None, want: str) -> None:
    file, message = tmp_path / "stage.json", tmp_path / "message"
    if content is not None:
        file.write_text(content)
    env = {"RATCHET_STAGE_FILE": str(file), "RATCHET_TERMINATION_PATH": str(message), "RATCHET_POD_UID": "p"}
    assert main.run_stage(env) == 11
    assert want in json.loads(message.read_bytes())["message"]


@pytest.mark.parametrize(
    ("env", "want"),
    [
        pytest.param({"RATCHET_POD_UID": ""}, "RATCHET_POD_UID", id="no pod uid"),
        pytest.param({"RATCHET_PROGRESS_PORT": "http"}, "'http'", id="port is no number"),
        pytest.param({"RATCHET_LOG_LEVEL": "loud"}, "'loud'", id="unknown log level"),
    ],
)
def test_wrong_environment_is_named(process: StageProcess, env: dict[str, str], want: str) -> None:
    code, message = process.run(job(process), env)
    assert code == 11
    assert want in message["message"]


def test_every_stage_has_a_recipe() -> None:
    assert {stage: callable(main.find_recipe(stage)) for stage in Stage} == dict.fromkeys(Stage, True)


def test_progress_is_served_as_json_and_as_metrics() -> None:
    import urllib.request

    from ratchet_jobs.runtime.progress import ProgressBoard, ProgressServer, StageMetrics

    ticks = iter(range(100))
    metrics = StageMetrics(namespace="ns", run="r1", stage="supervised")
    board = ProgressBoard("supervised", metrics, clock=lambda: float(next(ticks)))
    server = ProgressServer(board, metrics, host="127.0.0.1", port=0)
    try:
        for step in range(5):
            board.report(step, 10, loss=2.0, examples=16)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{server.port}/progress", timeout=60) as reply:
            progress = json.load(reply)
        with opener.open(f"http://127.0.0.1:{server.port}/metrics", timeout=60) as reply:
            text = reply.read().decode()
    finally:
        server.close()
    # one second per step by the clock above, so six more steps take six seconds
    assert progress == {"stage": "supervised", "step": 4, "steps": 10, "loss": 2.0, "etaSeconds": 6}
    assert 'ratchet_stage_step{namespace="ns",run="r1",stage="supervised"} 4.0' in text
    assert "ratchet_stage_examples_per_second{" in text
    assert threading.active_count() < 50


def test_a_client_that_says_nothing_keeps_no_other_waiting_and_no_stage_from_ending() -> None:
    import socket
    import urllib.request

    from ratchet_jobs.runtime.progress import ProgressBoard, ProgressServer, StageMetrics

    metrics = StageMetrics(namespace="ns", run="r1", stage="supervised")
    server = ProgressServer(ProgressBoard("supervised", metrics), metrics, host="127.0.0.1", port=0)
    with socket.create_connection(("127.0.0.1", server.port)):
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{server.port}/progress", timeout=60) as reply:
            assert json.load(reply)["stage"] == "supervised"
        ending = threading.Thread(target=server.close, daemon=True)
        ending.start()
        ending.join(60)
        assert not ending.is_alive()


def test_the_slowest_stage_still_says_how_far_it_is() -> None:
    from ratchet_jobs.runtime.progress import ProgressBoard, StageMetrics

    ticks = iter([0.0, 1e6])
    board = ProgressBoard("supervised", StageMetrics(namespace="ns", run="r", stage="s"), clock=lambda: next(ticks))
    board.report(0, 10**6)
    board.report(1, 10**6)
    assert board.current().eta_seconds == 10**9
