"""Several agents learn on one trunk, each by rewards of its own, and none changes a bit of another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from ratchet_api.attempts import Artifact
from ratchet_api.stage import Commit, Stage
from ratchet_jobs.data.policy_folder import fetch_policy
from ratchet_jobs.data.turns import Turn
from ratchet_jobs.generators.agents import AGENTS_FILE, AgentFiles
from ratchet_jobs.generators.loading import load_generator
from ratchet_jobs.generators.serving import open_talker
from ratchet_jobs.recipes.evaluate_agents import copy_alone
from ratchet_jobs.runtime.errors import BadConfigError, BadModelError, DivergedError, Preempted
from ratchet_jobs.runtime.history import read_history
from ratchet_jobs.runtime.progress import StageMetrics
from tests.generator_bench import GeneratorBench
from tests.tiny_llama import dialogues
from tests.workbench import NAMESPACE

pytestmark = pytest.mark.usefixtures("one_thread")

SHORT = [{"type": "expression", "expression": "1 - tokens / max_tokens"}]
SAYS_THE = [{"type": "words", "words": ["the"]}]
VARIED = [{"type": "expression", "expression": "distinct - 0.1 * words", "weight": 2.0}]
TRIO = [
    {"name": "response", "rewards": SHORT},
    {"name": "emotion", "rewards": SAYS_THE},
    {"name": "recommendation", "rewards": VARIED},
]
QUICK: dict[str, Any] = {"interactions": 64, "learningRate": 2e-2, "initKl": 0.001}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> GeneratorBench:
    """A bench whose supervised policy exists."""
    bench = GeneratorBench(tmp_path_factory.mktemp("bench"), train=dialogues(32, seed=0), test=dialogues(12, seed=5))
    bench.pod(bench.supervised(epochs=1.0))
    return bench


@pytest.fixture(scope="module")
def trio(bench: GeneratorBench) -> tuple[Commit, Path]:
    return bench.pod(bench.rlhf(agents=TRIO, **QUICK), run="trio")


@pytest.fixture(scope="module")
def measured(bench: GeneratorBench, trio: tuple[Commit, Path]) -> tuple[Commit, Path]:
    return bench.pod(bench.compare(bench.rlhf(agents=TRIO, **QUICK), run="trio"), run="trio-measured")


def agents_in(folder: Path) -> list[AgentFiles]:
    return [AgentFiles.model_validate(each) for each in json.loads((folder / AGENTS_FILE).read_bytes())]


def adapter_bytes(folder: Path) -> bytes:
    return (folder / "adapter_model.safetensors").read_bytes()


def test_each_agent_earns_more_of_its_own_reward(trio: tuple[Commit, Path]) -> None:
    commit, folder = trio
    curve = read_history(folder / "rl-history.parquet")
    for agent in TRIO:
        earned = [value or 0.0 for value in curve[f"agent/{agent['name']}/avg_return"]]
        # over seeds 0 and 1 the last three rollouts earned 1.3 to 4.2 times what the first three did
        assert sum(earned[-3:]) > sum(earned[:3]), agent["name"]
    assert commit.result.metrics["agent/response/mean_tokens"] < commit.result.metrics["agent/emotion/mean_tokens"]
    weighed = [2.0 * (value or 0.0) for value in curve["agent/recommendation/reward/expression"]]
    assert curve["agent/recommendation/avg_return"] == pytest.approx(weighed), "each by its own weights"
    mean = sum((curve[f"agent/{agent['name']}/avg_return"][-1] or 0.0) for agent in TRIO) / 3
    assert curve["avg_return"][-1] == pytest.approx(mean)
    assert commit.result.metrics["interactions"] == 3 * 64


def test_freezing_an_agent_leaves_the_others_as_they_are_and_it_as_its_start(
    bench: GeneratorBench, trio: tuple[Commit, Path]
) -> None:
    frozen = [{**agent, "frozen": agent["name"] == "emotion"} for agent in TRIO]
    commit, folder = bench.pod(bench.rlhf(agents=frozen, **QUICK), run="frozen")
    assert adapter_bytes(folder) == adapter_bytes(trio[1])
    last = Path("agents") / "recommendation"
    assert adapter_bytes(folder / last) == adapter_bytes(trio[1] / last)
    assert adapter_bytes(folder / "agents" / "emotion") != adapter_bytes(trio[1] / "agents" / "emotion")
    learned = load_file(folder / "agents" / "emotion" / "adapter_model.safetensors")
    ups = [tensor for name, tensor in learned.items() if name.endswith("lora_B.weight")]
    assert all(not up[:, -4:].any() for up in ups), "the part that RL adds says nothing"
    assert not any("emotion" in name for name in commit.result.metrics)


def test_a_stage_that_leaves_between_two_agents_turns_ends_alike(
    bench: GeneratorBench, trio: tuple[Commit, Path]
) -> None:
    """P12: asked to leave once, and killed once, the bytes of all agents are those of an undisturbed stage."""
    config = bench.rlhf(agents=TRIO, checkpointEverySteps=3, **QUICK)
    with pytest.raises(Preempted):
        bench.pod(config, run="left", leave_after=2)
    with pytest.raises(Preempted):  # at once, so after the turn of the agent whose turn it is
        bench.pod(config, run="left", leave_after=0)
    stormy, folder = bench.pod(config, run="left")
    assert stormy.digest == trio[0].digest
    assert read_history(folder / "rl-history.parquet") == read_history(trio[1] / "rl-history.parquet")


def test_every_agent_is_measured_by_its_own_reward_and_has_its_part_of_the_report(
    measured: tuple[Commit, Path], trio: tuple[Commit, Path]
) -> None:
    """The first agent is what is judged and kept; the others lie beside it, ready to be talked to."""
    commit, folder = measured
    compared = json.loads((folder / "comparison.json").read_text())
    assert list(compared["agents"]) == ["emotion", "recommendation"]
    assert list(compared["components"]) == ["expression"], "the first agent's"
    varied = compared["agents"]["recommendation"]
    for role in ("baseline", "candidate"):
        assert varied["reward"][role] == pytest.approx(2.0 * varied["components"]["expression"][role])
    gain = varied["reward"]["candidate"] - varied["reward"]["baseline"]
    assert commit.result.metrics["diff/agent/recommendation/reward"] == pytest.approx(gain)
    page = (folder / "report.html").read_text()
    assert f"{100 * gain / abs(varied['reward']['baseline']):+.1f} %" in page, "the change in percent"
    assert "Agent recommendation, in the folder agents/recommendation" in page
    assert page.count("while it learned") == 3
    emotion = agents_in(folder)[1]
    assert emotion.digest != agents_in(trio[1])[1].digest, "its merged model is part of it now"
    said = open_talker(folder / emotion.folder, seed=0).answer([Turn("user", "my card")], max_new_tokens=8)
    assert said


def test_agents_of_the_run_that_was_started_from_leave_nothing_in_the_next_one(
    bench: GeneratorBench, measured: tuple[Commit, Path]
) -> None:
    """The start is kept, its agents are not: one of the same name is this run's, one that is gone stays so."""
    commit, old = measured
    start = Artifact(uri=f"{bench.store.uri}/{commit.directory}", digest=commit.digest)
    config = bench.rlhf(agents=TRIO[:2], start_artifact=start, interactions=8, learningRate=2e-2)
    bench.pod(config, run="again")
    asked = bench.compare(config, run="again", gates=[{"metric": "mean_tokens", "minimum": 500}])
    asked = asked.model_copy(update={"candidates": asked.candidates[:1], "start": start})
    kept, folder = bench.pod(asked, run="again-measured")
    assert kept.result.choice is not None
    assert kept.result.choice.chosen == "start"
    assert [each.name for each in agents_in(folder)] == ["response", "emotion"]
    assert [path.name for path in (folder / "agents").iterdir()] == ["emotion"]
    emotion = folder / "agents" / "emotion"
    assert adapter_bytes(emotion) != adapter_bytes(old / "agents" / "emotion")
    whole = load_generator(emotion, bench.base)[0].merge_and_unload().state_dict()
    merged = load_file(emotion / "policy" / "model.safetensors")
    assert merged
    assert all(tensor.equal(whole[name]) for name, tensor in merged.items()), "merged of the adapter beside it"


def test_who_wants_the_runs_policy_does_not_fetch_the_agents_beside_it(
    bench: GeneratorBench, measured: tuple[Commit, Path], tmp_path: Path
) -> None:
    commit, folder = measured
    committed = Artifact(uri=f"{bench.store.uri}/{commit.directory}", digest=commit.digest)
    policy = fetch_policy(bench.store, committed, namespace=NAMESPACE, into=tmp_path / "policy")
    assert not (policy / "agents").exists()
    want = [path.name for path in folder.iterdir() if path.name != "agents"]
    assert sorted(path.name for path in policy.iterdir()) == sorted(want)
    emotion = f"{commit.directory}/agents/emotion"
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    agent = Artifact(uri=f"{bench.store.uri}/{emotion}", digest=agents_in(folder)[1].digest or "")
    assert (fetch_policy(bench.store, agent, namespace=NAMESPACE, into=tmp_path / "agent") / "policy").is_dir()
    # without the run's commit, or beside one of another digest, only all files together prove what they are
    above = bench.store.read(f"{bench.prefix('trio-measured', Stage.EVALUATE)}/COMMIT.json")
    for name, beside in (("alone", None), ("beside", above.replace(commit.files[0].sha256.encode(), b"0" * 64))):
        copied = f"{NAMESPACE}/runs/{name}/evaluate"
        for path, local in files.items():
            bench.store.upload(local, f"{copied}/1-copy/{path}")
        if beside is not None:
            bench.store.write(f"{copied}/COMMIT.json", beside)
        there = Artifact(uri=f"{bench.store.uri}/{copied}/1-copy", digest=commit.digest)
        whole = fetch_policy(bench.store, there, namespace=NAMESPACE, into=tmp_path / name)
        assert (whole / "agents" / "emotion" / "policy").is_dir()
    copied = f"{NAMESPACE}/runs/beside/evaluate"
    bench.store.write(f"{copied}/COMMIT.json", above)
    bench.store.write(f"{copied}/1-copy/policy.json", b"{}")
    changed = Artifact(uri=f"{bench.store.uri}/{copied}/1-copy", digest=commit.digest)
    with pytest.raises(BadModelError, match="the digest is"):
        fetch_policy(bench.store, changed, namespace=NAMESPACE, into=tmp_path / "changed")


def test_where_rl_made_nothing_no_agent_is_measured_or_waited_for(bench: GeneratorBench) -> None:
    asked = bench.evaluate().model_copy(update={"rlhf": bench.rlhf(agents=TRIO, **QUICK).rlhf})
    _, folder = bench.pod(asked, run="rl-failed")
    seen = bench.boards[-1].current()
    assert seen.step == seen.steps == 12 + 12 + 12, "one policy's scores, its answers and its base's"
    assert not (folder / "agents").exists()


def test_a_policy_is_copied_without_the_agents_beside_it_and_with_all_else(tmp_path: Path) -> None:
    for name in (AGENTS_FILE, "agents/emotion/policy.json", "policy.json", "policy/agents/notes.txt"):
        (tmp_path / "old" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "old" / name).write_text("{}")
    copy_alone(tmp_path / "old", tmp_path / "new")
    found = [path.relative_to(tmp_path / "new").as_posix() for path in (tmp_path / "new").rglob("*") if path.is_file()]
    assert sorted(found) == ["policy.json", "policy/agents/notes.txt"]


def test_every_agent_is_a_generator_of_its_own_that_a_run_can_start_from(
    bench: GeneratorBench, trio: tuple[Commit, Path]
) -> None:
    commit, folder = trio
    agents = agents_in(folder)
    assert [(each.name, each.folder) for each in agents] == [
        ("response", "."),
        ("emotion", "agents/emotion"),
        ("recommendation", "agents/recommendation"),
    ]
    model, _, _ = load_generator(folder / agents[1].folder, bench.base)
    assert model.peft_config["default"].r == 4 + 4
    uri = f"{bench.store.uri}/{commit.directory}/{agents[1].folder}"
    start = Artifact(uri=uri, digest=agents[1].digest or "")
    again, _ = bench.pod(bench.rlhf(rewards=SAYS_THE, interactions=8, start_artifact=start), run="emotion-goes-on")
    assert again.result.metrics["rollouts"] == 1


def test_an_agents_numbers_are_gauges_with_its_name() -> None:
    metrics = StageMetrics(namespace="team", run="trio", stage="rl")
    metrics.set("agent/emotion/reward/words", 0.25)
    metrics.set("agent/emotion/kl", 1.5)
    labels = {"namespace": "team", "run": "trio", "stage": "rl", "agent": "emotion"}
    for number, want in (("reward/words", 0.25), ("kl", 1.5)):
        assert metrics.registry.get_sample_value("ratchet_stage_agent", labels | {"number": number}) == want


def test_what_goes_wrong_names_the_agent(bench: GeneratorBench) -> None:
    wrong = [TRIO[0], {"name": "odd", "rewards": [{"type": "expression", "expression": "correct"}]}]
    with pytest.raises(BadConfigError, match=r"stages.rlhf.agents\[1\], agent odd: .*names 'correct'"):
        bench.pod(bench.rlhf(agents=wrong), run="odd")
    # one that learns: which of two is the first to be too far for three steps is a matter of the processor
    far = [TRIO[0], {**TRIO[1], "frozen": True}]
    with pytest.raises(DivergedError, match=r"stages.rlhf.agents\[0\], agent response: .*nats from the reference"):
        bench.pod(bench.rlhf(agents=far, maxKl=1e-6, learningRate=2e-2, interactions=96), run="far")
    missing = [TRIO[0], {"name": "items", "rewards": [{"type": "recommendation"}]}]
    with pytest.raises(Exception, match=r"agent items: stages.rlhf.agents\[1\].rewards: .* has no items"):
        bench.pod(bench.rlhf(agents=missing), run="items")


def test_agents_share_one_reward_model_and_weigh_it_each_in_its_own_way(bench: GeneratorBench) -> None:
    pairs = [(prompt, "never", f"never never {answer}") for prompt, answer in dialogues(30, seed=1)]
    bench.pod(bench.reward_model(bench.put_preferences(pairs), epochs=1), run="liked")
    weighed = [{"type": "rewardModel", "weight": 0.25}, *SAYS_THE]
    agents = [{"name": "response"}, {"name": "emotion", "rewards": weighed}]
    _, folder = bench.pod(bench.rlhf(judge="liked", agents=agents, interactions=8), run="critic")
    told = {name: values[0] or 0.0 for name, values in read_history(folder / "rl-history.parquet").items()}
    assert 0.0 < told["agent/response/reward/rewardModel"] < 1.0
    assert told["agent/response/avg_return"] == pytest.approx(told["agent/response/reward/rewardModel"])
    parts = {name: told[f"agent/emotion/reward/{name}"] for name in ("rewardModel", "words")}
    assert told["agent/emotion/avg_return"] == pytest.approx(0.25 * parts["rewardModel"] + parts["words"])
