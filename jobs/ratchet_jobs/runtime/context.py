"""What a recipe is handed: its input, its store, a place for its files, and the wish to stop.

A recipe is `run(ctx: StageContext, config) -> StageResult`: it reads inputs through the context, writes the files to be
committed into `ctx.output`, reports progress, and raises a StageError to end. It never talks to a cluster.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ratchet_api.stage import GRACE_SECONDS, Commit, StageInput, StageRef
from ratchet_jobs.runtime.checkpoint import Checkpoints
from ratchet_jobs.runtime.commit import open_committed
from ratchet_jobs.runtime.errors import BadConfigError, Preempted
from ratchet_jobs.runtime.progress import ProgressBoard
from ratchet_jobs.runtime.store import Store
from ratchet_jobs.runtime.team import Solo, Team


@dataclass(frozen=True, slots=True)
class Settings:
    """What the pod's environment says."""

    stage_file: Path
    termination_path: Path
    scratch: Path
    pod_uid: str
    pod_name: str
    node_name: str
    progress_host: str
    progress_port: int
    patience_seconds: float
    leave_seconds: float
    log_level: str
    rank: int
    """Which of the stage's nodes this pod is; 0 speaks for all."""
    address: str
    """Where the other nodes reach this pod."""
    silence_seconds: float
    """After which a silent node counts as gone; above the store's patience, with which node 0 writes a checkpoint."""

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Settings:
        """Read the RATCHET_* variables; everything has a default but the pod's uid.

        Raises:
            BadConfigError: a variable is missing or no number.
        """
        uid = env.get("RATCHET_POD_UID", "")
        if not uid:
            raise BadConfigError("RATCHET_POD_UID is not set: start stages through the operator or `ratchet run`")
        return cls(
            stage_file=Path(env.get("RATCHET_STAGE_FILE", "/etc/ratchet/stage.json")),
            termination_path=Path(env.get("RATCHET_TERMINATION_PATH", "/dev/termination-log")),
            scratch=Path(env.get("RATCHET_SCRATCH", "/tmp")),
            pod_uid=uid,
            pod_name=env.get("RATCHET_POD_NAME", ""),
            node_name=env.get("RATCHET_NODE_NAME", ""),
            progress_host=env.get("RATCHET_PROGRESS_HOST", "0.0.0.0"),
            progress_port=int(_number(env, "RATCHET_PROGRESS_PORT", 9402)),
            patience_seconds=_number(env, "RATCHET_STORE_PATIENCE_SECONDS", 600.0),
            leave_seconds=_number(env, "RATCHET_LEAVE_SECONDS", GRACE_SECONDS - 15.0),
            log_level=env.get("RATCHET_LOG_LEVEL", "info"),
            rank=int(_number(env, "JOB_COMPLETION_INDEX", 0)),
            address=env.get("RATCHET_POD_IP", ""),
            silence_seconds=_number(env, "RATCHET_SILENCE_SECONDS", 900.0),
        )


def _number(env: Mapping[str, str], name: str, default: float) -> float:
    text = env.get(name, "")
    try:
        return float(text) if text else default
    except ValueError as error:
        raise BadConfigError(f"{name} is {text!r}: expected a number") from error


@dataclass(slots=True)
class StageContext:
    """Everything a recipe may touch."""

    job: StageInput
    store: Store
    scratch: Path
    """Local folder for whatever is not committed."""
    output: Path
    """Local folder whose files are committed when the recipe returns."""
    checkpoints: Checkpoints
    progress: ProgressBoard
    stop: threading.Event = field(default_factory=threading.Event)
    team: Team = field(default_factory=Solo)
    """The nodes that run this recipe, this one among them."""

    @property
    def namespace(self) -> str:
        """Namespace of the object that the stage works for."""
        return self.job.owner.namespace

    @property
    def threads(self) -> int:
        """CPU threads to use: OMP_NUM_THREADS, else every core of the machine."""
        return int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)

    def should_stop(self) -> bool:
        """True once the pod was asked to leave; finish the step, checkpoint, then call `preempted`.

        Of several nodes each asks after the same step, and all get the same answer: one that leaves takes all with it.
        """
        return self.team.any(self.stop.is_set())

    def preempted(self, step: int) -> Preempted:
        """The error to raise after the checkpoint of that step is saved."""
        return Preempted(f"asked to leave; checkpoint of step {step} is saved and the next pod goes on from it")

    def folder(self, name: str) -> Path:
        """Return a new folder below scratch."""
        path = self.scratch / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def open_stage(self, ref: StageRef) -> tuple[Path, Commit]:
        """Download another stage's committed files, verified; returns their folder and the commit."""
        into = self.folder(f"input-{ref.stage.value}")
        return into, open_committed(self.store, ref, namespace=self.namespace, into=into)
