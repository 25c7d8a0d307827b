"""A generator on the real cluster: a judge scores, a critic learns it, two agents learn from the critic, one is served.

The judge is a pod that speaks OpenAI's API and goes by a rule; the language model is small enough for a test.
Everything else is what a user would apply: a scored data set, one run of five stages, a policy that serves.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from ratchet_api.names import LABEL_COMPONENT, LABEL_POLICY, LABEL_STAGE, ROUTER_PORT
from ratchet_jobs.data.base_model import local_digest
from tests.e2e.platform import Platform
from tests.lab.settings import JOBS_IMAGE
from tests.tiny_llama import ANSWERS, FILLERS, dialogues, write_tiny_llama

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(1500)]

POLICY, RUN, JUDGE = "speaker", "speaker-1", "judge"
PORT = 8000
SCORED_ROWS = 120
STAGES = ["resolve", "supervised", "reward-model", "rl", "evaluate"]
SMALL = {"cpu": 0.6, "memoryGi": 2}
GOOD = 9
RULE = f"""
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

GOOD = {sorted(ANSWERS.values())!r}


def worth(answer):
    return {GOOD} if answer.strip() in GOOD else min(4, len(answer.split()))


def judged(question):
    lines = dict(line.split(": ", 1) for line in question.splitlines() if ": " in line)
    if "First" in lines:
        return "1" if worth(lines["First"]) > worth(lines.get("Second", "")) else "2"
    answer = lines.get("Answer", "")
    return json.dumps({{"score": worth(answer), "empathy": 8 if "please" in answer else 2}})


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        said = {{"role": "assistant", "content": judged(asked["messages"][-1]["content"])}}
        body = json.dumps({{"choices": [{{"index": 0, "message": said, "finish_reason": "stop"}}]}}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


ThreadingHTTPServer(("", {PORT}), Handler).serve_forever()
"""


def judge(namespace: str) -> list[dict[str, Any]]:
    """A pod and a Service that answer as a language model would that goes by a rule."""
    labels = {"app": JUDGE}
    container = {
        "name": JUDGE,
        "image": JOBS_IMAGE,
        "command": ["python3", "-c", RULE],
        "readinessProbe": {"tcpSocket": {"port": PORT}, "periodSeconds": 1},
        "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    spec = {
        "containers": [container],
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "terminationGracePeriodSeconds": 0,
    }
    metadata = {"name": JUDGE, "namespace": namespace, "labels": labels}
    return [
        {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec},
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata,
            "spec": {"selector": labels, "ports": [{"port": PORT}]},
        },
    ]


def endpoint(prompt: str) -> dict[str, Any]:
    return {"endpoint": f"http://{JUDGE}:{PORT}/v1", "model": "rule", "prompt": prompt}


def manifests(digest: str) -> list[dict[str, Any]]:
    """What a user applies: prompts and answers, answers for the judge to score, the policy, the run."""
    scoring = endpoint('JSON with "score" and "empathy", 0 to 10.\nAnswer: {response}') | {"qualities": ["empathy"]}
    source = {name: {"objects": [{"uri": f"store://{POLICY}/{name}.jsonl"}]} for name in ("shown", "scored")}
    agents = [
        {"name": "response", "rewards": [{"type": "rewardModel"}]},
        {
            "name": "emotion",
            "rewards": [{"type": "rewardModel", "weight": 0.2}, {"type": "words", "words": ["please"], "weight": 2.0}],
        },
    ]
    specs: list[tuple[str, str, dict[str, Any]]] = [
        ("FeedbackDataset", "shown", {"type": "demonstrations", "source": source["shown"], "resources": SMALL}),
        (
            "FeedbackDataset",
            "scored",
            {"type": "demonstrations", "source": source["scored"], "scoring": scoring, "resources": SMALL},
        ),
        (
            "RLPolicy",
            POLICY,
            {
                "type": "generator",
                "serving": {
                    "resources": {"cpu": 0.4, "memoryGi": 1.5, "ephemeralStorageGi": 1},
                    "routers": {"replicas": 1, "cpu": 0.15, "memoryGi": 0.25},
                },
            },
        ),
        (
            "RLTrainingRun",
            RUN,
            {
                "policyType": "generator",
                "mode": "supervised_then_rl",
                "baseModel": {"uri": f"store://{POLICY}/base", "sha256": digest},
                "datasetRef": {"name": "shown"},
                "publishTo": {"name": POLICY},
                "lora": {"rank": 4, "alpha": 8},
                "stages": {
                    "supervised": {
                        "epochs": 1,
                        "batchSize": 8,
                        "learningRate": 0.01,
                        "maxTokens": 32,
                        "resources": SMALL,
                    },
                    "rewardModel": {
                        "datasetRef": {"name": "scored"},
                        "scores": "judge",
                        "epochs": 3,
                        "learningRate": 0.005,
                        "headLearningRate": 0.02,
                        "loraRank": 4,
                        "resources": SMALL,
                    },
                    "rlhf": {
                        "interactions": 256,
                        "rolloutSize": 16,
                        "minibatchSize": 8,
                        "maxNewTokens": 10,
                        "learningRate": 0.005,
                        "loraRank": 4,
                        "checkpointEverySteps": 2,
                        "agents": agents,
                        "resources": SMALL,
                    },
                    "evaluate": {
                        "answers": {"prompts": 16, "maxNewTokens": 10},
                        "judge": endpoint("Say 1 or 2.\nFirst: {first}\nSecond: {second}"),
                        "resources": SMALL,
                    },
                },
            },
        ),
    ]
    return [
        {"apiVersion": "ratchet.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}
        for kind, name, spec in specs
    ]


def inputs(folder: Path) -> tuple[str, dict[str, bytes | Path]]:
    """Return the base model's digest, and key below the team's prefix -> content."""
    base = write_tiny_llama(folder / "base")
    rng = random.Random(1)

    def said(right: str) -> str:
        return right if rng.random() < 0.5 else " ".join(rng.choices(FILLERS, k=rng.randint(1, 6)))

    shown = [{"text": text, "response": response} for text, response in dialogues(160, seed=0)]
    scored = [{"text": text, "response": said(response)} for text, response in dialogues(SCORED_ROWS, seed=1)]
    files: dict[str, bytes | Path] = {f"{POLICY}/base/{path.name}": path for path in base.iterdir()}
    for name, rows in (("shown", shown), ("scored", scored)):
        files[f"{POLICY}/{name}.jsonl"] = "".join(json.dumps(row) + "\n" for row in rows).encode()
    return local_digest(base), files


@pytest.fixture(scope="module")
def run(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    digest, files = inputs(tmp_path_factory.mktemp("generator"))
    platform.upload(files)
    platform.apply(*judge(platform.namespace))
    platform.kubectl("wait", "pod", JUDGE, "--for=condition=Ready", "--timeout=100s")
    platform.apply(*manifests(digest))
    yield platform.finish(RUN, 900)
    platform.kubectl("delete", "rlp", POLICY, "--wait=false")
    platform.kubectl("delete", "pod,service", JUDGE, "--wait=false")


def stage(run: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(row for row in run["status"]["stages"] if row["name"] == name)
    return found


def test_every_stage_ran_in_a_job_of_its_own_and_the_version_is_published(
    platform: Platform, run: dict[str, Any]
) -> None:
    assert [row["name"] for row in run["status"]["stages"]] == STAGES
    assert {row["state"] for row in run["status"]["stages"]} == {"Succeeded"}
    jobs = sorted(job["metadata"]["labels"][LABEL_STAGE] for job in platform.jobs_of(RUN))
    assert jobs == sorted(STAGES)
    (version,) = platform.get("rlp", POLICY)["status"]["versions"]
    assert (version["version"], version["digest"]) == (1, run["status"]["artifact"]["digest"])


def test_each_answer_of_the_data_set_has_the_judges_numbers(platform: Platform, run: dict[str, Any]) -> None:
    scored = platform.get("fbd", "scored")["status"]["snapshot"]["scored"]
    assert (scored["responses"], scored["scored"]) == (SCORED_ROWS, SCORED_ROWS)
    means = {each["name"]: each["mean"] for each in scored["means"]}
    assert 0.4 < means["score"] < 0.8, "half of the answers are worth 9 of 10, the others at most 4"
    assert 0.2 <= means["empathy"] < 0.8


def test_the_critic_learned_what_the_judge_said(run: dict[str, Any]) -> None:
    learned = stage(run, "reward-model")["metrics"]
    # a model that says the mean of all scores has an error of a sixteenth and more
    assert learned["mean_squared_error"] < 0.06
    assert "mean_squared_error/empathy" in learned


def test_the_agents_lie_in_the_artifact_and_each_earned_by_rewards_of_its_own(
    platform: Platform, run: dict[str, Any]
) -> None:
    learned = stage(run, "rl")["metrics"]
    assert learned["interactions"] == 2 * 256
    assert {name for name in learned if name.endswith("/avg_return")} >= {
        "agent/response/avg_return",
        "agent/emotion/avg_return",
    }
    uid = run["metadata"]["uid"][:8]
    commit = json.loads(platform.read_object(f"{platform.namespace}/runs/{RUN}-{uid}/evaluate/COMMIT.json"))
    assert commit["digest"] == run["status"]["artifact"]["digest"]
    paths = {file["path"] for file in commit["files"]}
    assert {"policy/model.safetensors", "agents.json", "agents/emotion/policy/model.safetensors"} <= paths
    assert stage(run, "evaluate")["choice"]["chosen"] == "rl"
    # the supervised policy has hardly learned; with `ratchet run` RL gained 0.116, between 0.054 and 0.187
    assert run["status"]["metrics"]["diff/reward"] > 0.03
    assert run["status"]["metrics"]["judge_win_rate"] > 0.5


def test_prometheus_saw_both_agents_learn(platform: Platform, run: dict[str, Any]) -> None:
    found = platform.lab.prometheus(f'sum by (agent) (count_over_time(ratchet_stage_agent{{run="{RUN}"}}[30m]))')
    assert {row["metric"]["agent"] for row in found} == {"response", "emotion"}  # type: ignore[index]


def test_people_talk_to_the_promoted_version_through_the_router(
    platform: Platform, serving_image: None, run: dict[str, Any]
) -> None:
    platform.kubectl("annotate", "rlp", POLICY, "ratchet.dev/promote=1", "--overwrite")

    def served() -> bool:
        status = platform.get("rlp", POLICY)["status"]
        return status.get("state") == "Ready" and status.get("rollout", {}).get("serving") == 1

    platform.wait(f"{POLICY} to be served", served, 600)
    (pod,) = platform.items("pods", f"{LABEL_POLICY}={POLICY},{LABEL_COMPONENT}=router")
    asked = {"messages": [{"role": "user", "content": "my card was called"}], "max_tokens": 10, "temperature": 0}
    url = f"http://{pod['status']['podIP']}:{ROUTER_PORT}"
    with platform.lab.inside(), httpx2.Client(base_url=url, headers={"x-ratchet-subject": "anna"}, timeout=60) as http:
        whole = http.post("/v1/chat/completions", json=asked).raise_for_status()
        streamed = http.post("/v1/chat/completions", json=asked | {"stream": True}).raise_for_status()
    (choice,) = whole.json()["choices"]
    assert choice["message"]["content"].strip()
    assert whole.headers["x-ratchet-version"] == "1"
    assert whole.headers["x-ratchet-interaction"]
    events = [line.removeprefix("data: ") for line in streamed.text.splitlines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    parts = (json.loads(event)["choices"][0]["delta"].get("content", "") for event in events[:-1])
    assert "".join(parts) == choice["message"]["content"], "the likeliest tokens, whether sent at once or one by one"
