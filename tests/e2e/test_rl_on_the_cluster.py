"""RL on a real cluster: pods answer, hear right or wrong, learn, and the better of two policies is chosen.

Goes on from the reference run's supervised policy, which comes out of the stage cache; so only the rl and evaluate
stages run, on real complaints with the real encoder.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from tests.e2e.platform import EXAMPLE, Platform

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1200)]

ANSWERS = 4096
ROLLOUT = 128
"""Thirty-two updates: on a busy machine, too, Prometheus has time to find the pod and to ask it more than once."""


@pytest.fixture(scope="module")
def learned(platform: Platform, reference: dict[str, Any]) -> dict[str, Any]:
    manifest: dict[str, Any] = yaml.safe_load((EXAMPLE / "run.yaml").read_text())
    manifest["metadata"]["name"] = "learned"
    spec = manifest["spec"]
    spec["mode"] = "supervised_then_rl"
    spec["stages"]["supervised"]["learningRate"] = float(spec["stages"]["supervised"]["learningRate"])
    spec["stages"]["rl"] = {
        "interactions": ANSWERS,
        "rolloutSize": ROLLOUT,
        "checkpointEverySteps": 1,
        "rewards": [{"type": "accuracy"}, {"type": "calibration", "weight": 0.5}],
        "resources": {"cpu": 1, "memoryGi": 3},
    }
    spec["evaluation"] = {"comparison": {"confidence": 0.95, "margin": 0}}
    del spec["publishTo"]
    platform.apply(manifest)
    return platform.finish("learned", 600)


def stage(run: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(row for row in run["status"]["stages"] if row["name"] == name)
    return found


def test_rl_goes_on_from_the_cached_supervised_policy_in_pods_of_its_own(
    platform: Platform, learned: dict[str, Any]
) -> None:
    states = {row["name"]: row["state"] for row in learned["status"]["stages"]}
    assert states == {"resolve": "Succeeded", "supervised": "Cached", "rl": "Succeeded", "evaluate": "Succeeded"}
    jobs = sorted(job["metadata"]["labels"]["ratchet.dev/stage"] for job in platform.jobs_of("learned"))
    assert jobs == ["evaluate", "resolve", "rl"]
    assert stage(learned, "rl")["metrics"]["interactions"] == ANSWERS


def test_the_chosen_policy_is_the_committed_one_and_the_numbers_say_why(
    platform: Platform, learned: dict[str, Any]
) -> None:
    status = learned["status"]
    choice, numbers = stage(learned, "evaluate")["choice"], status["metrics"]
    assert choice["chosen"] in ("rl", "supervised")
    assert numbers["accuracy"] == pytest.approx(numbers[f"{BESIDE[choice['chosen']]}/accuracy"], abs=1e-6)
    gate = platform.condition("rltr", "learned", "GatePassed")
    assert (gate["status"] == "True") == (choice["chosen"] == "rl"), gate
    uid = learned["metadata"]["uid"][:8]
    commit = json.loads(platform.read_object(f"{platform.namespace}/runs/learned-{uid}/evaluate/COMMIT.json"))
    assert commit["digest"] == status["artifact"]["digest"]
    assert "comparison.json" in {file["path"] for file in commit["files"]}


BESIDE = {"rl": "rl", "supervised": "baseline"}
"""Name of each candidate in the metrics."""


def test_prometheus_saw_the_rl_stage_learn(platform: Platform, learned: dict[str, Any]) -> None:
    for name in ("policy_loss", "value_loss", "entropy", "approx_kl", "clipfrac", "explained_variance", "avg_return"):
        query = f'count_over_time(ratchet_stage_{name}{{run="learned",stage="rl"}}[30m])'
        assert platform.lab.prometheus(query), f"no sample of {name}"
    parts = platform.lab.prometheus('sum by (component) (count_over_time(ratchet_stage_reward{run="learned"}[30m]))')
    assert {row["metric"]["component"] for row in parts} == {"accuracy", "calibration"}  # type: ignore[index]
