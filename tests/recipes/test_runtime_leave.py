"""How a stage's process leaves: in time, with the right code, and saying why."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ratchet_api.columns import Columns
from ratchet_api.feedback_dataset import Filters, Source, Split
from ratchet_api.stage import SnapshotConfig
from ratchet_jobs.runtime.errors import BadConfigError
from ratchet_jobs.runtime.store import resolve_uri
from ratchet_jobs.runtime.store_directory import DirectoryStore
from tests.recipes.stage_process import NAMESPACE, StageProcess

STUCK = """
import sys, threading
from ratchet_jobs.runtime import main

def run(ctx, config):
    print("working", flush=True)
    threading.Event().wait()

main.find_recipe = lambda stage: run
main.main()
"""
"""A recipe that never looks at the wish to stop, as one that waits for a store that is down."""


def test_stage_that_cannot_checkpoint_in_its_grace_leaves_as_preempted_not_as_killed(tmp_path: Path) -> None:
    """P13: a preemption during an outage is not counted as a kill, of which the second would be fatal."""
    process = StageProcess(tmp_path)
    inline = [{"text": f"t{i}", "label": "ab"[i % 2]} for i in range(20)]
    config = SnapshotConfig(
        type="classification",
        source=Source.model_validate({"inline": inline}),
        columns=Columns(),
        filters=Filters(),
        split=Split(),
    )
    job = process.stage(config, prefix=f"{NAMESPACE}/datasets/d/snapshot/t")
    (tmp_path / "stage.json").write_text(job.model_dump_json(by_alias=True, exclude_none=True))
    env = os.environ | {
        "RATCHET_STAGE_FILE": str(tmp_path / "stage.json"),
        "RATCHET_TERMINATION_PATH": str(tmp_path / "termination"),
        "RATCHET_SCRATCH": str(tmp_path),
        "RATCHET_POD_UID": "pod-uid-1",
        "RATCHET_PROGRESS_HOST": "127.0.0.1",
        "RATCHET_PROGRESS_PORT": "0",
        "RATCHET_LEAVE_SECONDS": "0.2",
    }
    pod = subprocess.Popen([sys.executable, "-c", STUCK], env=env, stdout=subprocess.PIPE, text=True)
    assert pod.stdout is not None
    assert pod.stdout.readline() == "working\n"
    pod.send_signal(signal.SIGTERM)
    assert pod.wait(timeout=60) == 75
    pod.stdout.close()
    said = json.loads((tmp_path / "termination").read_text())
    assert (said["state"], said["reason"]) == ("Preempted", "Preempted")
    assert "longer than the grace" in said["message"]
    assert not process.store.exists(f"{job.prefix}/COMMIT.json")


class BucketStore(DirectoryStore):
    """A directory that calls itself a bucket."""

    @property
    def uri(self) -> str:
        return "s3://bucket/root"


@pytest.mark.parametrize(
    ("uri", "want"),
    [
        pytest.param("s3://bucket/root/ns/data.csv", "ns/data.csv", id="the namespace's own part"),
        pytest.param("s3://bucket/root/other/data.csv", None, id="another namespace's part (P21)"),
        pytest.param("s3://bucket/root/ns-2/data.csv", None, id="a namespace whose name begins alike"),
        pytest.param("s3://bucket/elsewhere/data.csv", None, id="outside the root"),
        pytest.param("s3://bucket/root/ns/../other/x", None, id="a way out"),
        pytest.param("s3://buckets/root/ns/data.csv", None, id="another bucket"),
    ],
)
def test_s3_uris_stay_in_the_namespaces_own_part_of_the_store(tmp_path: Path, uri: str, want: str | None) -> None:
    """P21, P23: stages of all namespaces may share one set of credentials."""
    store = BucketStore(tmp_path)
    if want is not None:
        assert resolve_uri(uri, store=store, namespace="ns", field="spec.x") == want
        return
    with pytest.raises(BadConfigError, match=r"spec\.x"):
        resolve_uri(uri, store=store, namespace="ns", field="spec.x")
