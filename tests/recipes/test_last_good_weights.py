"""A stage that a breaker stops keeps the weights of the last step at which nothing was wrong, and says where."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ratchet_api.attempts import Artifact
from ratchet_api.stage import RlConfig
from ratchet_jobs.data.policy_folder import fetch_policy
from ratchet_jobs.generators.loading import load_generator
from ratchet_jobs.recipes.last_good import VALUE_HEAD_FILE
from ratchet_jobs.runtime.errors import DivergedError, NotANumberError, StoreUnavailable
from ratchet_jobs.runtime.store_directory import DirectoryStore
from tests.generator_bench import GeneratorBench
from tests.tiny_llama import dialogues
from tests.workbench import NAMESPACE, Killed

pytestmark = pytest.mark.usefixtures("one_thread")

VARIED = [{"type": "expression", "expression": "distinct - 0.1 * words"}]
SHORT = [{"type": "expression", "expression": "distinct - tokens / max_tokens"}]
RANK = 4
"""Of the adapter that learns from rewards, on the bench."""
LEAVES: dict[str, Any] = {
    "interactions": 96,
    "learningRate": 1e-2,
    "initKl": 0.001,
    "maxKl": 0.5,
    "checkpointEverySteps": 1,
}
"""A policy that learns fast, hardly pays for its distance, and may not go far."""

Weights = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> GeneratorBench:
    """A bench whose supervised policy exists."""
    bench = GeneratorBench(tmp_path_factory.mktemp("bench"), train=dialogues(32, seed=0))
    bench.pod(bench.supervised(epochs=1.0))
    return bench


def stopped(
    bench: GeneratorBench, config: RlConfig, *, run: str, die_after: int | None = None
) -> tuple[str, dict[int, Weights]]:
    """What the stage said when it was stopped, and its checkpoint after each step that has a later one."""
    steps: dict[int, Weights] = {}

    def remember(step: int) -> None:  # told before the step's own checkpoint is written
        if step > 1:
            steps[step - 1] = bench.checkpoint(run)

    with pytest.raises((DivergedError, NotANumberError)) as caught:
        bench.pod(config, run=run, on_step=remember, die_after=die_after)
    steps.setdefault(max(steps, default=0) + 1, bench.checkpoint(run))
    return str(caught.value), steps


def kept_at(message: str) -> Artifact:
    found = re.search(r"startFrom: \{artifact: \{uri: (\S+), sha256: ([0-9a-f]{64})\}\}", message)
    assert found, message
    return Artifact(uri=found[1], digest=found[2])


def learned(folder: Path, *, agent: str | None = None) -> Weights:
    """The policy's adapter as it is in a checkpoint: what it adds to the start's, by the trunk's names."""
    files = load_file(folder / "adapter_model.safetensors")
    name = "policy" if agent is None else f"policy-{agent}"
    found = {}
    for key, tensor in files.items():
        layer, _, side = key.removeprefix("base_model.model.").removesuffix(".weight").rpartition(".")
        found[f"{layer}.{side}.{name}.weight"] = tensor[-RANK:] if side == "lora_A" else tensor[:, -RANK:]
    return found


def assert_equal(folder: Path, want: Weights, *, agent: str | None = None) -> None:
    """The folder's weights are a checkpoint's, to the bit; the scale of an adapter is a power of two."""
    own = learned(folder, agent=agent)
    assert own
    for name, tensor in own.items():
        there = want[f"parameter/{name}"]
        if "lora_B" in name:
            scale = tensor.norm() / there.norm()
            assert scale == pytest.approx(2.0, rel=1e-5)
            there = 2.0 * there
        assert torch.equal(tensor, there), name
    head = load_file(folder / VALUE_HEAD_FILE)
    assert all(torch.equal(head[name], want[f"parameter/value_head.{name}"]) for name in ("weight", "bias"))
    assert head["weight"].any(), "the value head has learned"


def test_the_weights_of_the_last_good_step_are_kept_to_the_bit(bench: GeneratorBench, tmp_path: Path) -> None:
    """P13: the message names the step, what to change and where they lie; a run may start from them."""
    config = bench.rlhf(rewards=VARIED, **LEAVES)
    message, steps = stopped(bench, config, run="far")
    assert re.search(r"stages.rlhf: step \d+: .* nats from the reference, above maxKl 0.5,.*: raise initKl", message)
    fired, good = (int(re.search(pattern, message)[1]) for pattern in (r"step (\d+):", r"weights, of step (\d+),"))  # type: ignore[index]
    assert 0 < good <= fired - 3, "two steps that broke the rule were waited for"
    folder = fetch_policy(bench.store, kept_at(message), namespace=NAMESPACE, into=tmp_path / "kept")
    assert_equal(folder, steps[good])
    last = learned(folder)
    assert any(not torch.equal(tensor, steps[fired - 1][f"parameter/{name}"]) for name, tensor in last.items())
    again, _ = bench.pod(bench.rlhf(rewards=VARIED, start_artifact=kept_at(message), interactions=8), run="goes-on")
    assert again.result.metrics["rollouts"] == 1


def test_a_stage_that_was_killed_while_a_rule_was_broken_keeps_the_same_weights(bench: GeneratorBench) -> None:
    """P12: the good weights are in its checkpoints while they are not the latest."""
    config = bench.rlhf(rewards=VARIED, **LEAVES)
    message, _ = stopped(bench, config, run="calm")
    fired = int(re.search(r"step (\d+):", message)[1])  # type: ignore[index]
    with pytest.raises(Killed):
        bench.pod(config, run="stormy", die_after=fired - 1)
    again, _ = stopped(bench, config, run="stormy")
    assert kept_at(again).digest == kept_at(message).digest


def test_every_agent_keeps_what_it_was_before_something_was_wrong(bench: GeneratorBench, tmp_path: Path) -> None:
    agents = [
        {"name": "response", "rewards": VARIED},
        {"name": "emotion", "rewards": SHORT},
        {"name": "calm", "frozen": True},
    ]
    config = bench.rlhf(agents=agents, **LEAVES)
    message, _ = stopped(bench, config, run="agents")
    assert re.search(r"stages.rlhf.agents\[\d\], agent \w+: step \d+: .* nats from the reference", message)
    good = {name: int(step) for name, step in re.findall(r"(response|emotion) step (\d+)", message)}
    assert set(good) == {"response", "emotion"}
    whole = tmp_path / "kept"
    fetch_policy(bench.store, kept_at(message), namespace=NAMESPACE, into=whole)
    checkpoint = bench.checkpoint("agents")
    for name, folder in (("response", whole), ("emotion", whole / "agents" / "emotion")):
        own = {key.removeprefix(f"{name}/"): tensor for key, tensor in checkpoint.items() if key.startswith(f"{name}/")}
        # the newest checkpoint is a step behind, and has the good weights apart while they are not its own
        want = {key.replace("good/", "parameter/"): t for key, t in own.items() if key.startswith("good/")} or own
        assert_equal(folder, want, agent=name)
    assert not (whole / "agents" / "calm" / VALUE_HEAD_FILE).exists(), "it learns nothing"
    load_generator(whole / "agents" / "calm", bench.base)


def test_what_was_never_good_is_not_kept(bench: GeneratorBench) -> None:
    config = bench.rlhf(rewards=[{"type": "expression", "expression": "1"}], **LEAVES)
    message, _ = stopped(bench, config, run="never")
    assert "got the same reward" in message
    assert "no step before was good, so nothing is kept: start anew from what rl started from" in message
    assert not [info.key for info in bench.store.list(f"{NAMESPACE}/runs/never") if "last-good" in info.key]


def test_a_store_that_fails_does_not_hide_why_the_stage_stopped(
    bench: GeneratorBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload: Callable[..., None] = DirectoryStore.upload

    def failing(self: DirectoryStore, path: Path, key: str) -> None:
        if "last-good" in key:
            raise StoreUnavailable("the store is down")
        upload(self, path, key)

    monkeypatch.setattr(DirectoryStore, "upload", failing)
    message, _ = stopped(bench, bench.rlhf(rewards=VARIED, **LEAVES), run="down")
    assert "nats from the reference" in message
    assert re.search(r"the last good weights, of step \d+, could not be kept: the store is down", message)
