"""A stage that keeps the contract without training: run as a process by the tests of the embedded runner.

FAKE_STAGE names a JSON file {stage: [act, …]}; each start of a stage takes its next act, the last one repeats.
Acts: commit, preempted, wait (until SIGTERM, then 75), ignore (SIGTERM is ignored), until (FAKE_STAGE + ".release"
exists, then commit), a number (exit with it), or `after wait NUMBER` (exit with it once another start waits).
Each start is noted in FAKE_STAGE + ".starts", so that a test can count them; nodes of one stage start at once.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

DIGEST = "d" * 64
METRICS = {"accuracy": 0.9, "macro_f1": 0.85, "ece": 0.02, "n_test": 100.0}


def result(stage: str) -> dict[str, Any]:
    if stage == "snapshot":
        counts = {"read": 100, "kept": 100, "train": 80, "validation": 10, "test": 10}
        return {"snapshot": {"digest": DIGEST, "uri": "file:///snapshot", "counts": counts, "classes": 2}}
    return {"metrics": METRICS if stage == "evaluate" else {}, "hits": {}}


def note_waiting(plan_file: Path) -> None:
    with Path(f"{plan_file}.waiting").open("a") as file:
        file.write(f"{os.getpid()}\n")


def note_start(plan_file: Path, stage: str) -> int:
    """Note a start; returns how many of the stage were before it."""
    with Path(f"{plan_file}.starts").open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        earlier = file.read().split().count(stage)
        file.write(f"{stage}\n")
    return earlier


def wait_for_file(path: Path) -> None:
    while not path.exists():
        time.sleep(0.05)


def main() -> int:
    stage_input = json.loads(Path(os.environ["RATCHET_STAGE_FILE"]).read_text())
    stage = stage_input["config"]["stage"]
    plan_file = Path(os.environ["FAKE_STAGE"])
    earlier = note_start(plan_file, stage)
    acts = json.loads(plan_file.read_text()).get(stage, ["commit"])
    act = acts[min(earlier, len(acts) - 1)]
    sys.stderr.write(f"{stage}: {act}\n")
    asked = threading.Event()
    if act in ("wait", "ignore"):
        signal.signal(signal.SIGTERM, (lambda *_: asked.set()) if act == "wait" else signal.SIG_IGN)
        note_waiting(plan_file)
        asked.wait(120)
        act = "preempted"
    if act == "until":
        note_waiting(plan_file)
        wait_for_file(Path(f"{plan_file}.release"))
        act = "commit"
    if act.startswith("after wait "):
        wait_for_file(Path(f"{plan_file}.waiting"))
        act = act.removeprefix("after wait ")
    says: dict[str, Any] = {"contract": "ratchet.dev/stage-v1"}
    if act == "commit":
        says |= {
            "state": "Committed",
            "artifact": {"uri": f"file:///{stage}", "digest": DIGEST},
            "result": result(stage),
        }
        code = 0
    else:
        code = 75 if act == "preempted" else int(act)
        says |= {"state": "Preempted" if code == 75 else "Failed", "reason": "", "message": f"{stage} said {act}"}
    Path(os.environ["RATCHET_TERMINATION_PATH"]).write_text(json.dumps(says))
    return code


if __name__ == "__main__":
    sys.exit(main())
