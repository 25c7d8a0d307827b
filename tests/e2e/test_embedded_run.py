"""The whole embedded path with real stages: the `ratchet` command, a small BERT with random weights, learnable rows.

No cluster and no download. What a user types is what is run here, in processes of their own.
"""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from tests.e2e.inputs import untimed
from tests.e2e.shell import DATASET, PATIENCE_SECONDS, POLICY, Shell
from tests.tiny_bert import reviews

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

RUN = """
apiVersion: ratchet.dev/v1alpha1
kind: RLTrainingRun
metadata: {name: %(name)s}
spec:
  policyType: classifier
  baseModel: {uri: "store://models/tiny", sha256: %(digest)s}
  datasetRef: {name: mail}
  publishTo: {name: router}
  stages:
    supervised: {epochs: %(epochs)s, batchSize: 8, learningRate: 5e-3, maxTokens: 32, checkpointEverySteps: 20}
  evaluation:
    gates: [{metric: accuracy, minimum: 0.5}]
"""


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """A folder with data and model in the store and manifests beside."""
    folder = tmp_path_factory.mktemp("user")
    made = Shell(folder)
    made.put_mail(reviews(400, seed=1))
    digest = made.put_tiny_model()
    assert digest == made("digest", "tiny").strip()
    (folder / "dataset.yaml").write_text(DATASET)
    (folder / "policy.yaml").write_text(POLICY)
    (folder / "short.yaml").write_text(RUN % {"name": "short", "digest": digest, "epochs": 4})
    (folder / "long.yaml").write_text(RUN % {"name": "long", "digest": digest, "epochs": 10})
    return made


def test_manifests_are_run_published_promoted_and_a_second_command_does_nothing(shell: Shell) -> None:
    """The title of the embedded default, and P6."""
    files = ("-f", "dataset.yaml", "-f", "policy.yaml", "-f", "short.yaml")
    assert "ok: 1 FeedbackDataset, 1 RLPolicy, 1 RLTrainingRun" in shell("lint", *files)
    printed = shell("run", *files)
    assert "Complete" in printed
    assert "weakest classes" in printed
    status = shell.object("rltrainingruns", "short")["status"]
    assert status["version"] == 1
    assert status["metrics"]["accuracy"] > 0.8, "three themes with words of their own are easy"
    assert (Path(status["artifact"]["uri"].removeprefix("file://")) / "policy.json").is_file()

    pods = sorted((shell.folder / ".ratchet/objects/pods/default").iterdir())
    again = shell("run", *files)
    assert "unchanged" in again
    assert sorted((shell.folder / ".ratchet/objects/pods/default").iterdir()) == pods

    assert "Complete" in shell("get", "run", "--local")
    assert "stage done" in shell("logs", "short", "supervised", "--local")
    assert "version 1 is champion" in shell("promote", "router", "1", "--local")
    assert shell.object("rlpolicies", "router")["status"]["champion"] == 1
    assert "has no version 7; it has 1" in shell("promote", "router", "7", "--local", code=4)


def test_ctrl_c_checkpoints_and_the_same_command_ends_where_an_uninterrupted_one_does(shell: Shell) -> None:
    """P12: the artifact of an interrupted run has the digest of an uninterrupted one."""
    files = ("-f", "dataset.yaml", "-f", "policy.yaml", "-f", "long.yaml")
    process = shell.start("run", *files)
    try:
        log = _wait_for_log(shell, "long-supervised", "checkpoint saved")
    finally:
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 130, err
    assert "everything is saved. Go on with: ratchet run" in out
    assert '"code": 75' in log.read_text()
    shell("run", *files)
    interrupted = shell.object("rltrainingruns", "long")["status"]

    other = Shell(shell.folder / "other")
    other.folder.mkdir()
    store = str(shell.folder / ".ratchet/store")
    (other.folder / "store/default").mkdir(parents=True)
    for name in ("mail", "models"):
        (other.folder / "store/default" / name).symlink_to(Path(store) / "default" / name)
    above = [
        word.replace("dataset.", "../dataset.").replace("policy.", "../policy.").replace("long.", "../long.")
        for word in files
    ]
    other("run", *above, "--store", str(other.folder / "store"))
    whole = other.object("rltrainingruns", "long")["status"]
    assert untimed(interrupted) == untimed(whole)
    first, second = (next(s for s in each["stages"] if s["name"] == "supervised") for each in (interrupted, whole))
    assert first["artifact"]["digest"] == second["artifact"]["digest"]


def _wait_for_log(shell: Shell, pod: str, text: str) -> Path:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        for path in (shell.folder / ".ratchet/logs/default").glob(f"{pod}*.log"):
            if text in path.read_text():
                return path
        time.sleep(0.1)
    raise AssertionError(f"no log of {pod} says {text!r}")
