"""`ratchet-stage`: runs the one stage that stage.json names, and ends as the stage contract says.

    1 read stage.json, set up logs, signals and the progress server
    2 committed already, here or by equal inputs elsewhere? then say so and end
    3 run the recipe; a stage of several nodes together with the others
    4 commit its files; the first commit wins, and of several nodes the first alone tries
    5 write the termination message and exit with the contract's code

Asked to leave (SIGTERM), a stage finishes its step and checkpoints; if that takes longer than its grace, say because
the store is down, it leaves without, so that a preemption is never mistaken for a kill.

Decides nothing about learning. The only place that turns an exception into an exit code.
"""

from __future__ import annotations

import importlib
import logging
import os
import secrets
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import structlog
from pydantic import ValidationError

from ratchet_api.kinds import explain
from ratchet_api.stage import EndState, ExitCode, Stage, StageInput, StageResult, TerminationMessage, exit_rule
from ratchet_jobs.runtime.checkpoint import Checkpoints
from ratchet_jobs.runtime.commit import Outcome, commit_stage, find_commit, publish
from ratchet_jobs.runtime.context import Settings, StageContext
from ratchet_jobs.runtime.errors import BadConfigError, PeerLost, Preempted, StageError, StoreError, is_disk_full
from ratchet_jobs.runtime.nodes import find_team, part
from ratchet_jobs.runtime.progress import ProgressBoard, ProgressServer, StageMetrics
from ratchet_jobs.runtime.record import write_record
from ratchet_jobs.runtime.store import Store, open_store
from ratchet_jobs.runtime.team import Team
from ratchet_jobs.runtime.tracking.watching import watched

Recipe = Callable[[StageContext, Any], StageResult]

RECIPES: Mapping[Stage, str] = {
    Stage.SNAPSHOT: "ratchet_jobs.recipes.snapshot",
    Stage.RESOLVE: "ratchet_jobs.recipes.resolve",
    Stage.SUPERVISED: "ratchet_jobs.recipes.supervised",
    Stage.REWARD_MODEL: "ratchet_jobs.recipes.reward_model",
    Stage.RL: "ratchet_jobs.recipes.rl_classifier",
    Stage.EVALUATE: "ratchet_jobs.recipes.evaluate",
}
"""Module with the stage's `run(ctx, config)`."""

_REMEDIES: Mapping[ExitCode, str] = {
    ExitCode.KILLED: "out of memory: raise the stage's resources.memoryGi, or lower batchSize or maxTokens. ",
    ExitCode.BAD_CONFIG: "the local disk is full: raise the stage's resources.ephemeralStorageGi, or free space. ",
}
"""What to do about an end that no recipe foresaw."""

log = structlog.get_logger(__name__)


def find_recipe(stage: Stage) -> Recipe:
    """Return the recipe of a stage; imported only now, so that light stages never import torch."""
    recipe: Recipe = importlib.import_module(RECIPES[stage]).run
    return recipe


def main() -> None:
    """Entry point of stage pods."""
    sys.exit(run_stage(os.environ))


def run_stage(env: Mapping[str, str]) -> int:
    """Run the stage that the environment names and return its exit code."""
    termination = Path(env.get("RATCHET_TERMINATION_PATH", "/dev/termination-log"))
    stop = threading.Event()
    timers: list[threading.Timer] = []
    try:
        settings = Settings.from_env(env)
        _set_up_logs(settings.log_level)
        _set_up_signals(stop, timers, lambda: _leave_now(termination), settings.leave_seconds)
        job = _read_input(settings.stage_file)
        structlog.contextvars.bind_contextvars(
            namespace=job.owner.namespace, owner=job.owner.name, stage=job.config.stage, attempt=job.attempt
        )
        message, code = _run(settings, job, stop)
    except StageError as error:
        message, code = _failure(error.code, str(error)), int(error.code)
        level = log.info if isinstance(error, Preempted) else log.error
        level("stage ended", code=code, reason=message.reason, message=message.message)
    except Exception as error:  # the outermost frame: everything unforeseen becomes an exit code here
        code = int(_code_of_unforeseen(error))
        log.exception("stage crashed", code=code)
        hint = _REMEDIES.get(ExitCode(code), "")
        message = _failure(ExitCode(code), f"{hint}{type(error).__name__}: {error}")
    for timer in timers:
        timer.cancel()
    _write_termination(termination, message)
    return code


def _write_termination(path: Path, message: TerminationMessage) -> None:
    try:
        path.write_bytes(message.fit())
    except OSError as error:
        log.warning("termination message not written", path=str(path), error=str(error))


def _leave_now(termination: Path) -> None:
    """End the process from the timer's thread; whatever is half written is no checkpoint and no commit."""
    text = "asked to leave; the step, its checkpoint or the store took longer than the grace, so the last one counts"
    _write_termination(termination, _failure(ExitCode.PREEMPTED, text))
    os._exit(int(ExitCode.PREEMPTED))


def _run(settings: Settings, job: StageInput, stop: threading.Event) -> tuple[TerminationMessage, int]:
    store = open_store(job.store, patience_seconds=settings.patience_seconds)
    metrics = StageMetrics(namespace=job.owner.namespace, run=job.owner.name, stage=job.config.stage)
    board = ProgressBoard(job.config.stage, metrics, silent=settings.rank > 0)
    server = ProgressServer(board, metrics, host=settings.progress_host, port=settings.progress_port)
    scratch = Path(tempfile.mkdtemp(prefix="ratchet-", dir=settings.scratch))
    try:
        outcome = _already(store, job) or _tracked(store, job, settings, scratch, board, metrics, stop)
    finally:
        server.close()
        shutil.rmtree(scratch, ignore_errors=True)
    log.info("stage done", state=outcome.state.value, digest=outcome.commit.digest)
    return (
        TerminationMessage(state=outcome.state, artifact=outcome.artifact(store), result=outcome.commit.result),
        int(ExitCode.OK),
    )


def _already(store: Store, job: StageInput) -> Outcome | None:
    commit = find_commit(store, prefix=job.prefix, namespace=job.owner.namespace, input_digest=job.input_digest)
    if commit is None:
        return None
    # a hit of the index becomes this stage's own COMMIT too: later readers need no second look-up
    return Outcome(EndState.ALREADY_COMMITTED, publish(store, job, commit).commit)


def _tracked(
    store: Store,
    job: StageInput,
    settings: Settings,
    scratch: Path,
    board: ProgressBoard,
    metrics: StageMetrics,
    stop: threading.Event,
) -> Outcome:
    """Work, and let the trackers that the run names watch; whatever becomes of them, the stage goes on."""
    where = scratch / "tracking"
    if settings.rank > 0:  # node 0 has the same numbers
        job = job.model_copy(update={"tracking": None})
    with watched(store, job, settings.pod_uid, where, count_failure=metrics.count_tracking_failure) as watcher:
        board.listener = watcher.step
        team = find_team(store, job, settings, stop)
        if team is None:
            return _of_another(store, job)
        with closing(team):
            outcome = _work(store, job, settings, scratch, board, stop, team)
        watcher.result(outcome.commit.result.metrics)
        return outcome


def _of_another(store: Store, job: StageInput) -> Outcome:
    """The commit of another node of the stage."""
    outcome = _already(store, job)
    if outcome is None:
        raise PeerLost("node 0 of the stage ended without a commit; all nodes start over from the last checkpoint")
    return outcome


def _work(
    store: Store,
    job: StageInput,
    settings: Settings,
    scratch: Path,
    board: ProgressBoard,
    stop: threading.Event,
    team: Team,
) -> Outcome:
    directory = f"{job.prefix}/{job.attempt}-{settings.pod_uid[:8]}"
    output = scratch / "output"
    output.mkdir()
    checkpoints = Checkpoints(
        store, prefix=job.prefix, directory=directory, scratch=scratch / "checkpoints", history=board.history, team=team
    )
    ctx = StageContext(
        job=job,
        store=store,
        scratch=scratch,
        output=output,
        checkpoints=checkpoints,
        progress=board,
        stop=stop,
        team=team,
    )
    result = find_recipe(Stage(job.config.stage))(ctx, job.config)
    if team.rank > 0:
        part(team)
        return _of_another(store, job)
    write_record(output, job.config, board.history)
    writer = f"{settings.pod_uid}:{secrets.token_hex(8)}"
    outcome = commit_stage(store, job, folder=output, directory=directory, writer=writer, result=result)
    try:
        checkpoints.clear()
    except StoreError as error:  # the stage is done; left-over checkpoints only take room
        log.warning("checkpoints not cleared", error=str(error))
    part(team)
    return outcome


def _read_input(path: Path) -> StageInput:
    try:
        return StageInput.model_validate_json(path.read_bytes())
    except OSError as error:
        raise BadConfigError(
            f"stage file {path}: {error.strerror}; start stages through the operator or `ratchet run`"
        ) from error
    except ValidationError as error:
        raise BadConfigError(
            f"stage file {path}: {explain(error)}; use operator and stage image of one version"
        ) from error


def _failure(code: ExitCode, text: str) -> TerminationMessage:
    state = EndState.PREEMPTED if code is ExitCode.PREEMPTED else EndState.FAILED
    # a message may quote broken bytes of the user's data, which JSON cannot carry
    text = text.encode("utf-8", "replace").decode()
    return TerminationMessage(state=state, reason=exit_rule(int(code)).reason.value, message=text)


def _code_of_unforeseen(error: Exception) -> ExitCode:
    """Out of memory looks like a kill to the operator, a full disk like a setting; the rest but CUDA is a crash."""
    name = type(error).__name__
    text = str(error)
    if (
        isinstance(error, MemoryError)
        or name in ("OutOfMemoryError", "OutOfMemoryException")  # torch's and DuckDB's
        or "DefaultCPUAllocator: can't allocate" in text
    ):
        return ExitCode.KILLED
    if is_disk_full(error):
        return ExitCode.BAD_CONFIG
    if name == "AcceleratorError" or "CUDA error" in text or "NCCL" in text:
        return ExitCode.ACCELERATOR_FAULT
    return ExitCode.CRASHED


def _set_up_signals(
    stop: threading.Event, timers: list[threading.Timer], leave_now: Callable[[], None], seconds: float
) -> None:
    """Let SIGTERM and Ctrl-C set the flag and start the clock of the grace; the caller cancels the timer at the end."""
    if threading.current_thread() is not threading.main_thread():
        return

    def asked(*_: object) -> None:
        if not stop.is_set():
            stop.set()
            timer = threading.Timer(seconds, leave_now)
            timer.daemon = True
            timer.start()
            timers.append(timer)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, asked)


def _set_up_logs(level: str) -> None:
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise BadConfigError(f"RATCHET_LOG_LEVEL is {level!r}: expected debug, info, warning or error")
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(level=max(number, logging.WARNING), stream=sys.stderr)


if __name__ == "__main__":
    main()
