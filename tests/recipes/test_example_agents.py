"""Example 05 at tiny size, by `ratchet run`: a judge scores answers, a critic learns it, three agents learn of that."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ratchet_cli.home import DEFAULT_NAMESPACE, find_home
from ratchet_cli.kubeyaml import load_documents
from ratchet_cli.manifests import Manifest, check
from ratchet_cli.results import local_path
from ratchet_cli.run_verb import run_manifests
from ratchet_jobs.data.base_model import local_digest
from ratchet_jobs.runtime.history import read_history
from tests.judge_server import judge_server
from tests.tiny_llama import ANSWERS, dialogues, write_tiny_llama
from tests.tools.files import ROOT

EXAMPLE = ROOT / "examples/05-agents"
QUICK: dict[str, Any] = {
    "supervised": {"epochs": 1, "learningRate": 2e-2, "maxTokens": 32},
    "rewardModel": {"epochs": 2, "learningRate": 5e-3, "headLearningRate": 2e-2, "loraRank": 4},
    "rlhf": {
        "interactions": 192,
        "rolloutSize": 16,
        "minibatchSize": 8,
        "maxNewTokens": 8,
        "learningRate": 2e-2,
        "initKl": 0.001,
        "loraRank": 4,
    },
    "evaluate": {"answers": {"prompts": 8, "maxNewTokens": 8}},
}


def says(question: str) -> str:
    """What the tiny judge thinks: short answers are good, and those that say "you" have a heart."""
    answer = question.partition("Answer: ")[2].partition("\n")[0].split()
    score = max(0, 10 - len(answer))
    return json.dumps({"score": score, "empathy": 10 * ("you" in answer), "fluency": 5, "relevance": score})


def tiny(url: str, base: Path) -> list[Manifest]:
    """The example's own manifests, with the endpoint, the model and the words of the test."""
    found = []
    for name in ("films.yaml", "run.yaml"):
        for document in load_documents((EXAMPLE / name).read_text()):
            spec = document["spec"]
            if "scoring" in spec:
                spec["scoring"]["endpoint"] = url
            if document["kind"] == "RLTrainingRun":
                spec["baseModel"]["sha256"] = local_digest(base)
                spec["lora"] = {"rank": 4, "alpha": 8}
                for stage, settings in QUICK.items():
                    spec["stages"][stage] |= settings
                response, emotion, _ = spec["stages"]["rlhf"]["agents"]
                response["rewards"][1] |= {"minWords": 1, "maxWords": 2}  # of the eight that it may say
                emotion["rewards"][1]["words"] = ["you", "the"]
            found.append(check(name, document))
    return found


@pytest.mark.slow
def test_the_example_of_agents_learns_from_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    place = find_home(str(tmp_path / "home"))
    store = (local_path(place.store_uri) or place.path) / DEFAULT_NAMESPACE
    base = write_tiny_llama(store / "models" / "smollm2")
    rows = dialogues(80, seed=0)
    films = [next(word for word in ANSWERS if word in prompt.split()) for prompt, _ in rows]
    (store / "agents").mkdir()
    (store / "agents" / "films.jsonl").write_text(
        "".join(
            json.dumps({"text": prompt, "response": answer, "films": [film]}) + "\n"
            for (prompt, answer), film in zip(rows, films, strict=True)
        )
    )
    with judge_server(says) as server:
        bodies = run_manifests(
            tiny(server.url, base), place, namespace=None, level="warning", plain=True, again="again"
        )
        asked = len(server.asked)
    status = {body["metadata"]["name"]: body["status"] for body in bodies}
    scored = status["film-answers-judged"]["snapshot"]["scored"]
    assert scored["scored"] == scored["responses"] <= asked, "asked again only where an answer did not come"
    assert [mean["name"] for mean in scored["means"]] == ["score", "empathy", "fluency", "relevance"]
    run = status["film-agents"]
    assert run["state"] == "Complete", json.dumps(run.get("conditions"), indent=1)
    home = store / "runs"
    critic = committed(home, "reward-model")
    assert {"mean_squared_error/empathy", "mean_squared_error/fluency", "mean_squared_error/relevance"} <= set(critic)
    curves = read_history(next(home.rglob("rl-history.parquet")))
    for agent in ("response", "emotion", "recommendation"):
        earned = [value or 0.0 for value in curves[f"agent/{agent}/avg_return"]]
        # over seeds 1 to 3 the last four rollouts earned 1.2 to 2.0 times what the first four did
        assert sum(earned[-4:]) > sum(earned[:4]), (agent, earned)
        told = curves[f"agent/{agent}/reward/rewardModel/empathy"]
        assert all(0.0 <= (value or 0.0) <= 1.0 for value in told), "the critic's qualities stand beside its reward"
    agents = json.loads(next(home.rglob("evaluate/**/agents.json")).read_text())
    assert [each["name"] for each in agents] == ["response", "emotion", "recommendation"]


def committed(home: Path, stage: str) -> dict[str, float]:
    """Metrics of a stage."""
    commit = next(path for path in home.rglob("COMMIT.json") if stage in path.parts)
    metrics: dict[str, float] = json.loads(commit.read_text())["result"]["metrics"]
    return metrics
