"""Labels, then rewards, through the `ratchet` command: what RL bettered is published, and what it broke is not.

Real stages, a small BERT with random weights, learnable rows. Labels teach a little; right and wrong teach the rest.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.shell import DATASET, POLICY, Shell
from tests.tiny_bert import log_of, reviews

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

RUN = """
apiVersion: ratchet.dev/v1alpha1
kind: RLTrainingRun
metadata: {name: %(name)s}
spec:
  policyType: classifier
  %(mode)s
  baseModel: {uri: "store://models/tiny", sha256: %(digest)s}
  datasetRef: {name: mail}
  publishTo: {name: router}
  stages:
    supervised: {epochs: 0.2, batchSize: 8, learningRate: 5e-3, maxTokens: 32}
    rl: %(rl)s
  evaluation:
    gates: [{metric: accuracy, minimum: %(gate)s}]
"""
LOG = """
apiVersion: ratchet.dev/v1alpha1
kind: FeedbackDataset
metadata: {name: log}
spec:
  type: ratings
  source:
    objects: [{uri: "store://mail/log.jsonl"}]
  columns: {policy: who}
"""
THEN_RL = "mode: supervised_then_rl"
GOOD = "{interactions: 600, rolloutSize: 24, minibatchSize: 8, learningRate: 5e-3, headLearningRate: 5e-3}"
FROM_LOG = (
    "{interactions: 2700, rolloutSize: 60, headLearningRate: 2e-2, valueLearningRate: 1e-2, "
    "datasetRef: {name: NAME}, rewards: [{type: feedback}]}"
)


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """A folder with data and model in the store and manifests beside."""
    made = Shell(tmp_path_factory.mktemp("user"))
    made.put_mail(reviews(1200, seed=1))
    (made.folder / "digest").write_text(made.put_tiny_model())
    (made.folder / "dataset.yaml").write_text(DATASET)
    (made.folder / "policy.yaml").write_text(POLICY)
    return made


def ended(
    shell: Shell, name: str, *, rl: str, mode: str = THEN_RL, gate: float = 0.2, more: Sequence[str] = (), code: int = 0
) -> tuple[dict[str, Any], str]:
    """Run a run; returns its status and what was printed."""
    digest = (shell.folder / "digest").read_text()
    manifest = RUN % {"name": name, "mode": mode, "digest": digest, "rl": rl, "gate": gate}
    (shell.folder / f"{name}.yaml").write_text(manifest)
    printed = shell("run", "-f", "dataset.yaml", "-f", "policy.yaml", "-f", f"{name}.yaml", *more, code=code)
    return shell.object("rltrainingruns", name)["status"], printed


def gate_of(status: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = next(c for c in status["conditions"] if c["type"] == "GatePassed")
    return found


def committed(status: dict[str, Any]) -> Path:
    return Path(status["artifact"]["uri"].removeprefix("file://"))


def stage(status: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(s for s in status["stages"] if s["name"] == name)
    return found


def test_right_and_wrong_better_the_policy_and_the_better_one_is_published(shell: Shell) -> None:
    status, printed = ended(shell, "better", rl=GOOD)
    assert status["state"] == "Complete"
    assert [row["state"] for row in status["stages"]] == ["Succeeded"] * 4
    assert stage(status, "evaluate")["choice"]["chosen"] == "rl"
    numbers = status["metrics"]
    assert numbers["diff/accuracy_low"] > 0.05, "the whole interval lies above what labels alone taught"
    assert numbers["accuracy"] == pytest.approx(numbers["rl/accuracy"], abs=1e-6)
    assert {"comparison.json", "policy.json", "value_head.safetensors"} <= {p.name for p in committed(status).iterdir()}
    assert status["version"] == 1
    assert "on the same rows" in printed
    assert "committed" in printed


@pytest.mark.parametrize(
    ("name", "rl", "reason", "hint"),
    [
        (
            "broken",
            "{interactions: 240, rolloutSize: 24, minibatchSize: 8, headLearningRate: 1, learningRate: 1}",
            "",
            "earningRate",
        ),
        (
            "constant",
            '{interactions: 240, rolloutSize: 24, minibatchSize: 8, rewards: [{type: expression, expression: "1"}]}',
            "Diverged",
            "reward",
        ),
    ],
)
def test_rl_whose_numbers_go_wrong_leaves_the_supervised_policy_published(
    shell: Shell, name: str, rl: str, reason: str, hint: str
) -> None:
    """P13: the run is Complete, and says what to change."""
    status, printed = ended(shell, name, rl=rl)
    assert (status["state"], gate_of(status)["reason"]) == ("Complete", "RLFailed")
    assert stage(status, "rl")["state"] == "Failed"
    assert 30 <= stage(status, "rl")["attempt"]["lastExit"]["code"] < 40
    assert reason in stage(status, "rl")["attempt"]["lastExit"]["reason"]
    assert hint in gate_of(status)["message"]
    assert "value_head.safetensors" not in {path.name for path in committed(status).iterdir()}
    assert status["version"] >= 1
    assert "RLFailed" in printed


def test_a_policy_that_rl_made_worse_is_not_published(shell: Shell) -> None:
    """The reward asks for mistakes, and RL learns to make them; `never worse than before`."""
    start = "mode: rl_only\n  startFrom: {policy: {name: router, version: 1}}"
    before = shell.object("rlpolicies", "router")["status"]["versions"]
    rewards = "[{type: accuracy, weight: -1}]"
    rl = GOOD.replace("}", f", rewards: {rewards}}}")
    status, printed = ended(shell, "worse", mode=start, rl=rl)
    assert (status["state"], gate_of(status)["reason"]) == ("GateFailed", "CandidateWorse")
    numbers = status["metrics"]
    assert numbers["rl/accuracy"] < numbers["baseline/accuracy"] - 0.1
    assert (
        f"accuracy {numbers['rl/accuracy']:.4f} against {numbers['baseline/accuracy']:.4f}"
        in gate_of(status)["message"]
    )
    assert shell.object("rlpolicies", "router")["status"]["versions"] == before
    report = json.loads((committed(status) / "comparison.json").read_text())
    assert report["choice"]["chosen"] == "start"
    assert "CandidateWorse" in printed


def test_a_log_of_answers_betters_a_published_version(shell: Shell) -> None:
    """The supervised policy of the run whose RL broke learns from what another policy was told of its answers."""
    names = ("text", "label", "score", "propensity", "who")
    lines = [json.dumps(dict(zip(names, row, strict=True))) for row in log_of(900, seed=4, policy="router@7")]
    (shell.folder / "log.jsonl").write_text("\n".join(lines))
    shell("put", "log.jsonl", "store://mail/log.jsonl")
    (shell.folder / "log.yaml").write_text(LOG)
    version = shell.object("rltrainingruns", "broken")["status"]["version"]
    start = f"mode: rl_only\n  startFrom: {{policy: {{name: router, version: {version}}}}}"
    rl = FROM_LOG.replace("NAME", "log")
    status, printed = ended(shell, "from-log", mode=start, rl=rl, more=("-f", "log.yaml"))
    assert (status["state"], gate_of(status)["status"]) == ("Complete", "True")
    assert stage(status, "evaluate")["choice"]["chosen"] == "rl"
    assert status["metrics"]["diff/accuracy_low"] > 0
    learned = stage(status, "rl")["metrics"]
    assert learned["policy_value"] > learned["start_value"]
    assert learned["effective_sample_size"] > 50
    log = shell.object("feedbackdatasets", "log")["status"]["snapshot"]
    assert status["resolved"]["log"]["digest"] == log["digest"]
    assert f"log     log {log['digest'][:12]}" in printed


def test_the_log_of_another_policy_is_refused_and_named(shell: Shell) -> None:
    (shell.folder / "log.yaml").write_text(LOG.replace("name: log}", "name: others}").replace("who", "label"))
    start = "mode: rl_only\n  startFrom: {policy: {name: router, version: 1}}"
    rl = FROM_LOG.replace("NAME", "others")
    status, _ = ended(shell, "from-others", mode=start, rl=rl, more=("-f", "log.yaml"), code=1)
    failed = next(c for c in status["conditions"] if c["type"] == "Failed")
    assert failed["reason"] == "BadData"
    assert "the answer is that of policy" in failed["message"]
    assert "but the run learns for 'router'" in failed["message"]


def test_a_run_of_the_same_settings_starts_no_training_and_ends_alike(shell: Shell) -> None:
    """P6."""
    first = shell.object("rltrainingruns", "better")["status"]
    again, _ = ended(shell, "again", rl=GOOD)
    assert [row["state"] for row in again["stages"]] == ["Succeeded", "Cached", "Cached", "Cached"]
    assert again["artifact"] == first["artifact"]
    assert stage(again, "evaluate")["choice"] == stage(first, "evaluate")["choice"]
