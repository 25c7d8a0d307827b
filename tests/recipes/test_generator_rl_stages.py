"""The stages in which a generator learns from rewards learn, resume to the bit, and stop when numbers go wrong."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from ratchet_api.attempts import Artifact
from ratchet_api.stage import ResolveConfig, Stage
from ratchet_jobs.data.base_model import local_digest
from ratchet_jobs.generators.loading import load_generator
from ratchet_jobs.rlhf.policies import open_trunk, save_policy
from ratchet_jobs.rlhf.reward_model import read_saved
from ratchet_jobs.runtime.errors import BadConfigError, BadDataError, BadModelError, DivergedError, Preempted
from ratchet_jobs.runtime.history import read_history
from tests.generator_bench import GeneratorBench
from tests.tiny_bert import write_tiny_bert
from tests.tiny_llama import dialogues
from tests.workbench import NAMESPACE, Killed

pytestmark = pytest.mark.usefixtures("one_thread")

SHORT = [{"type": "expression", "expression": "1 - tokens / max_tokens"}]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> GeneratorBench:
    """A bench whose supervised policy exists, and a reward model that liked answers of one word."""
    bench = GeneratorBench(tmp_path_factory.mktemp("bench"), train=dialogues(32, seed=0), test=dialogues(12, seed=5))
    bench.pod(bench.supervised(epochs=1.0))
    return bench


def pairs(count: int) -> list[tuple[str, str, str]]:
    return [(prompt, "never", f"never never {answer}") for prompt, answer in dialogues(count, seed=1)]


def test_a_reward_model_learns_what_people_liked_and_resumes_to_the_bit(bench: GeneratorBench) -> None:
    """P12: asked to leave between checkpoints, the reward model's bytes are those of an undisturbed stage."""
    config = bench.reward_model(bench.put_preferences(pairs(30)), checkpointEverySteps=2)
    calm, _ = bench.pod(config, run="judge")
    with pytest.raises(Preempted):
        bench.pod(config, run="judge-left", leave_after=3)
    stormy, _ = bench.pod(config, run="judge-left")
    assert stormy.digest == calm.digest
    metrics = calm.result.metrics
    assert metrics["train_rows"] + metrics["held_out_rows"] == 30
    assert metrics["pair_accuracy"] > 0.9, "one word against three is easily told"


def test_answers_that_are_rewarded_for_being_short_become_short_and_a_left_stage_ends_alike(
    bench: GeneratorBench,
) -> None:
    """P12, P39: killed once, the curves and the policy are bit-equal."""
    # over seeds 0 to 4 the three means fell by 3.1 to 9.3 tokens in sum; faster, and silence is what is learned
    config = bench.rlhf(rewards=SHORT, interactions=64, learningRate=5e-3, initKl=0.001, checkpointEverySteps=3)
    calm, folder = bench.pod(config, run="short")
    with pytest.raises(Killed):
        bench.pod(config, run="short-killed", die_after=5)
    stormy, again = bench.pod(config, run="short-killed")
    assert stormy.digest == calm.digest
    curve, other = (read_history(each / "rl-history.parquet") for each in (folder, again))
    assert curve["avg_return"] == other["avg_return"]
    assert curve["reward/expression"] == curve["avg_return"]
    assert sum(curve["mean_tokens"][-3:]) < sum(curve["mean_tokens"][:3])
    assert calm.result.metrics["rollouts"] == 8


def test_own_code_rewards_answers_in_training_and_in_the_comparison(
    bench: GeneratorBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P39: told like every other component, in curves, comparison, samples and report."""
    module = ModuleType("team_rewards")
    monkeypatch.setitem(sys.modules, "team_rewards", module)
    known: list[bool] = []

    def brief(prompts: list[str], answers: list[str], rows: list[list[dict[str, Any]]]) -> list[float]:
        pairs = zip(prompts, rows, strict=True)
        known.extend(any(row["turns"][-1]["content"] == prompt for row in own) for prompt, own in pairs)
        return [1 / (1 + len(answer.split())) for answer in answers]

    module.brief = brief  # type: ignore[attr-defined]
    own = {"type": "entryPoint", "entryPoint": "team_rewards:brief", "name": "brief"}
    config = bench.rlhf(rewards=[own, SHORT[0] | {"weight": 0.1}], interactions=16)
    commit, folder = bench.pod(config, run="own")
    assert 0 < commit.result.metrics["reward/brief"] < 1
    assert len(read_history(folder / "rl-history.parquet")["reward/brief"]) == 2
    _, measured = bench.pod(bench.compare(config, run="own"), run="own-measured")
    assert known
    assert all(known), "each answer has its prompt's rows"
    compared = json.loads((measured / "comparison.json").read_text())["components"]["brief"]
    assert 0 < compared["baseline"] < 1
    for answer in json.loads((measured / "evaluation.json").read_text())["answers"]:
        assert answer["worth"]["rl"]["brief"] == pytest.approx(1 / (1 + len(answer["rl"].split())), abs=1e-4)
    assert "brief" in (measured / "report.html").read_text()


def test_a_curriculum_moves_the_weight_while_the_stage_learns(bench: GeneratorBench) -> None:
    points = [{"atInteraction": 0, "weight": 1.0}, {"atInteraction": 32, "weight": 3.0}]
    reward = {"type": "expression", "expression": "1 + ended", "curriculum": points}
    rlhf = bench.rlhf(rewards=[reward], interactions=48, rolloutSize=16, minibatchSize=8, checkpointEverySteps=1)
    with pytest.raises(Killed):
        bench.pod(rlhf, run="curriculum", die_after=1)
    _, folder = bench.pod(rlhf, run="curriculum")
    curve = read_history(folder / "rl-history.parquet")
    # rollouts begin after 0, 16 and 32 answers
    want = [weight * mean for weight, mean in zip((1.0, 2.0, 3.0), curve["reward/expression"], strict=True)]
    assert curve["avg_return"] == pytest.approx(want, abs=1e-5)


def test_frozen_weights_in_bfloat16_learn_the_same_and_a_left_stage_ends_alike(bench: GeneratorBench) -> None:
    """P12 for `dtype`: rounding makes another policy, and a kill does not."""
    settings: dict[str, Any] = {"interactions": 64, "learningRate": 5e-3, "initKl": 0.001, "checkpointEverySteps": 3}
    exact, _ = bench.pod(bench.rlhf(rewards=SHORT, **settings), run="exact")
    config = bench.rlhf(rewards=SHORT, dtype="bfloat16", **settings)
    calm, folder = bench.pod(config, run="half")
    with pytest.raises(Killed):
        bench.pod(config, run="half-killed", die_after=5)
    stormy, _ = bench.pod(config, run="half-killed")
    assert stormy.digest == calm.digest != exact.digest
    said = read_history(folder / "rl-history.parquet")["mean_tokens"]
    assert sum(said[-3:]) < sum(said[:3])


def test_the_better_rewarded_policy_is_kept_unless_it_breaks_a_gate(bench: GeneratorBench) -> None:
    bench.pod(bench.reward_model(bench.put_preferences(pairs(30))), run="liked")
    config = bench.rlhf(judge="liked", interactions=64, initKl=0.001)
    bench.pod(config, run="better")
    kept, folder = bench.pod(bench.compare(config, run="better"), run="kept")
    numbers, choice = kept.result.metrics, kept.result.choice
    assert choice is not None
    assert (choice.candidate, choice.baseline, choice.chosen) == ("rl", "supervised", "rl")
    assert numbers["reward"] == pytest.approx(numbers["rl/reward"], abs=1e-5)
    assert numbers["diff/reward"] == pytest.approx(numbers["rl/reward"] - numbers["baseline/reward"], abs=2e-6)
    assert numbers["diff/reward_low"] >= 0
    assert numbers["rl/win_rate"] >= 0.5
    said = json.loads((folder / "evaluation.json").read_text())["answers"][0]
    assert said["answer"] == said["rl"]
    assert {"prompt", "reference", "supervised", "base"} < set(said)
    assert (folder / "policy" / "model.safetensors").exists()
    gated = bench.compare(config, run="better", gates=[{"metric": "mean_tokens", "minimum": 500}])
    lost, other = bench.pod(gated, run="lost")
    assert lost.result.choice is not None
    assert lost.result.choice.chosen == "supervised"
    assert "mean_tokens" in lost.result.choice.why
    card = json.loads((other / "comparison.json").read_text())
    assert card["rl_against_baseline"]["win_rate"] == pytest.approx(numbers["rl/win_rate"], abs=1e-6)
    assert lost.result.metrics["reward"] == pytest.approx(numbers["baseline/reward"], abs=1e-5)


def test_the_reward_models_score_is_the_reward_of_the_run_that_made_it_and_of_one_that_names_it(
    bench: GeneratorBench,
) -> None:
    """P39."""
    made, _ = bench.pod(bench.reward_model(bench.put_preferences(pairs(30)), epochs=1), run="score")
    own, taught = bench.pod(bench.rlhf(judge="score", interactions=16), run="scored")
    metrics = own.result.metrics
    assert 0.0 < metrics["reward/rewardModel"] < 1.0
    assert metrics["kl_coef"] > 0
    assert metrics["optimizer_steps"] == 2 * 2 * 2
    model = {"uri": f"store://{made.directory.removeprefix(f'{NAMESPACE}/')}", "sha256": made.digest}
    config = bench.rlhf(rewards=[{"type": "rewardModel", "model": model}], interactions=16)
    _, again = bench.pod(config, run="names")
    for name in ("adapter_model.safetensors", "rl-history.parquet"):  # what else differs says which model it was
        assert (again / name).read_bytes() == (taught / name).read_bytes()
    kept, _ = bench.pod(bench.compare(config, run="names"), run="names-kept")
    assert 0.0 < kept.result.metrics["rl/reward"] < 1.0
    bench.pod(bench.supervised(epochs=0.5), run="other")
    with pytest.raises(BadModelError, match=r"reward model .*: of kind trunk on base .*, but this is trunk on"):
        bench.pod(config.model_copy(update={"start": bench.ref(Stage.SUPERVISED, run="other")}), run="odd-start")
    wrong = bench.rlhf(rewards=[{"type": "rewardModel", "model": model | {"sha256": "0" * 64}}])
    with pytest.raises(BadModelError, match=r"stages.rlhf.rewards: model: the digest is 0{64}, but"):
        bench.pod(wrong, run="odd-digest")


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_reward_model_on_an_encoder_of_its_own_rewards_what_it_liked(bench: GeneratorBench, method: str) -> None:
    """P12, P39: taught, left and gone on with, asked by rl and by evaluate, and named by another run."""
    place = f"models/encoder-{method}"
    encoder = write_tiny_bert(bench.root / "store" / NAMESPACE / place)
    own = {"uri": f"store://{place}", "sha256": local_digest(encoder), "method": method, "maxTokens": 40}
    config = bench.reward_model(bench.put_preferences(pairs(40)), baseModel=own, epochs=3, checkpointEverySteps=3)
    calm, folder = bench.pod(config, run=f"own-{method}")
    with pytest.raises(Preempted):
        bench.pod(config, run=f"own-left-{method}", leave_after=4)
    assert bench.pod(config, run=f"own-left-{method}")[0].digest == calm.digest
    assert calm.result.metrics["pair_accuracy"] > 0.9, "one word against three is easily told"
    card = json.loads((folder / "reward_model.json").read_text())
    assert (card["kind"], card["base"]) == ("encoder", own["sha256"])
    rlhf = bench.rlhf(judge=f"own-{method}", interactions=16)
    taught, curves = bench.pod(rlhf, run=f"own-scored-{method}")
    assert 0.0 < taught.result.metrics["reward/rewardModel"] < 1.0
    model = {"uri": f"store://{calm.directory.removeprefix(f'{NAMESPACE}/')}", "sha256": calm.digest}
    named = bench.rlhf(rewards=[{"type": "rewardModel", "model": model}], interactions=16)
    _, again = bench.pod(named, run=f"own-names-{method}")
    assert (again / "rl-history.parquet").read_bytes() == (curves / "rl-history.parquet").read_bytes()
    kept, _ = bench.pod(bench.compare(named, run=f"own-names-{method}"), run=f"own-kept-{method}")
    assert 0.0 < kept.result.metrics["rl/reward"] < 1.0
    bench.pod(bench.supervised(epochs=0.5), run=f"own-other-{method}")
    elsewhere = named.model_copy(update={"start": bench.ref(Stage.SUPERVISED, run=f"own-other-{method}")})
    bench.pod(elsewhere, run=f"own-elsewhere-{method}")  # it reads words, whoever said them
    (encoder / "config.json").unlink()
    with pytest.raises(BadModelError, match=r"stages.rlhf.rewards: model, its base.uri .*: no config.json"):
        bench.pod(named, run=f"own-gone-{method}")
    with pytest.raises(BadModelError, match=r"spec.stages.rewardModel.baseModel.uri .*: no config.json"):
        bench.pod(config, run=f"own-gone-too-{method}")


def test_ratings_teach_a_reward_model_too(bench: GeneratorBench) -> None:
    rows = [(prompt, "never", 0.9) for prompt, _ in dialogues(16, seed=1)]
    rows += [(prompt, f"never never {answer}", 0.1) for prompt, answer in dialogues(16, seed=2)]
    commit, _ = bench.pod(bench.reward_model(bench.put_ratings(rows), epochs=3), run="rated")
    metrics = commit.result.metrics
    assert metrics["pair_accuracy"] > 0.9
    assert metrics["mean_squared_error"] < 0.16, "what always 0.5 would give"


def test_a_critic_learns_what_a_judge_said_and_tells_the_qualities_beside_the_reward(bench: GeneratorBench) -> None:
    """P39: short answers have the score, long ones the empathy; rows without numbers and dialogues are left out."""
    rows: list[tuple[str, str, float | None, float | None]] = []
    for (prompt, _), (other, answer) in zip(dialogues(16, seed=1), dialogues(16, seed=2), strict=True):
        rows += [(prompt, "never", 0.9, 0.2), (other, f"never never {answer}", 0.1, 0.8)]
    rows += [("of this", "nothing is known", None, None), ("one turn\nand another", "never", 0.9, 0.2)]
    scored = bench.put_scored(rows)
    commit, folder = bench.pod(bench.reward_model(scored, scores="judge", epochs=3, seed=1), run="critic")
    metrics = commit.result.metrics
    assert (metrics["train_rows"] + metrics["held_out_rows"], metrics["skipped_rows"]) == (32, 2)
    # over seeds 0 to 3 the errors were 0.09 to 0.14 and 0.04 to 0.08
    assert metrics["mean_squared_error"] < 0.16, "what always 0.5 would give"
    assert metrics["mean_squared_error/empathy"] < 0.09, "what always 0.5 would give"
    assert read_saved(folder).qualities == ("empathy",)
    _, curves = bench.pod(bench.rlhf(judge="critic", interactions=16), run="criticised")
    curve = read_history(curves / "rl-history.parquet")
    score = pytest.approx(curve["avg_return"], abs=1e-6)
    assert curve["reward/rewardModel"] == score, "the qualities are no part of the reward"
    assert all(0 < mean < 1 for mean in curve["reward/rewardModel/empathy"])
    assert curve["reward/rewardModel/empathy"] != score


def test_resolve_refuses_a_critic_of_what_no_judge_scored(bench: GeneratorBench) -> None:
    scored, liked = bench.put_scored([("a", "b", 0.5, 0.5)]), bench.put_ratings([("a", "b", 0.5)])
    asked = ResolveConfig(
        policy_type="generator",
        dataset=bench.dataset,
        log=scored,
        log_scored=True,
        base_model=bench.base_ref,
        lookups=(),
    )
    bench.pod(asked, run="scored-data")
    with pytest.raises(BadDataError, match=r"rewardModel.datasetRef: no judge scored its snapshot .* set spec.scoring"):
        bench.pod(asked.model_copy(update={"log": liked}), run="liked-data")
    with pytest.raises(BadDataError, match=r"datasetRef: .* is of type demonstrations; judged answers are"):
        bench.pod(asked.model_copy(update={"log_scored": False}), run="people")


def test_what_ppo_made_is_a_generator_that_says_what_the_trunk_said(bench: GeneratorBench, tmp_path: Path) -> None:
    """Two adapters become one of the sum of their ranks, to rounding."""
    _, start = bench.pod(bench.supervised(epochs=0.5), run="stacked")
    trunk, card = open_trunk(start, bench.base, digest="0" * 64, rank=3, seed=0, device=torch.device("cpu"))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in trunk.policy_parameters().items():
            if "value_head" not in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    save_policy(trunk, tmp_path, start=start, card=card)
    model, _, _ = load_generator(tmp_path, bench.base)
    assert model.peft_config["default"].r == 4 + 3
    ids = torch.tensor([[5, 6, 7, 8]])
    mask = torch.ones_like(ids, dtype=torch.bool)
    with torch.no_grad():
        want, got = trunk.policy(ids, mask, keep=4).logits, model(input_ids=ids, attention_mask=mask.long()).logits
        reference = trunk.reference(ids, mask, keep=4).logits
        old, _, _ = load_generator(start, bench.base)
        before = old(input_ids=ids, attention_mask=mask.long()).logits
    assert (got - want).abs().max() < 1e-4 < (got - before).abs().max()
    assert (reference - before).abs().max() < 1e-4, "the reference is the policy that RL started from"


def test_answers_too_far_from_the_start_end_the_stage_with_the_settings_to_change(bench: GeneratorBench) -> None:
    """P13."""
    config = bench.rlhf(rewards=SHORT, maxKl=1e-6, learningRate=5e-3)
    with pytest.raises(DivergedError, match=r"stages.rlhf: .* nats from the reference"):
        bench.pod(config, run="far")


def test_what_cannot_be_learned_from_is_refused_with_the_field(bench: GeneratorBench) -> None:
    with pytest.raises(BadDataError, match=r"stages.rewardModel.datasetRef: .* is of type demonstrations"):
        bench.pod(bench.reward_model(bench.dataset), run="odd")
    with pytest.raises(
        BadDataError, match=r"stages.rewardModel.datasetRef: no judge scored its snapshot .* of type dem"
    ):
        bench.pod(bench.reward_model(bench.dataset, scores="judge"), run="nobody")
    unsaid = bench.put_scored([("of this", "nothing is known", None, None)])
    with pytest.raises(BadDataError, match=r"none of the 1 train rows is a single prompt .* status.snapshot.scored"):
        bench.pod(bench.reward_model(unsaid, scores="judge"), run="unsaid")
    with pytest.raises(BadDataError, match=r"stages.rewardModel.datasetRef, train split: Insufficient feedback: 4"):
        bench.pod(bench.reward_model(bench.put_preferences(pairs(4))), run="few")
    with pytest.raises(BadConfigError, match="maxNewTokens 5000 after the longest prompt"):
        bench.pod(bench.rlhf(rewards=SHORT, maxNewTokens=5000), run="long")
    with pytest.raises(BadConfigError, match="names 'correct'; there are: tokens"):
        bench.pod(bench.rlhf(rewards=[{"type": "expression", "expression": "correct"}]), run="name")


@pytest.mark.parametrize("algorithm", ["dpo", "kto"])
def test_pairs_teach_a_policy_without_a_reward_model_and_it_is_kept_for_that(
    bench: GeneratorBench, algorithm: str
) -> None:
    """P12: asked to leave between checkpoints, the policy's bytes are those of an undisturbed stage."""
    config = bench.preference(bench.put_preferences(pairs(30)), algorithm=algorithm, checkpointEverySteps=2)
    calm, folder = bench.pod(config, run=algorithm)
    with pytest.raises(Preempted):
        bench.pod(config, run=f"{algorithm}-left", leave_after=3)
    stormy, _ = bench.pod(config, run=f"{algorithm}-left")
    assert stormy.digest == calm.digest
    numbers = calm.result.metrics
    # over seeds 0 to 4 all six held-out pairs were told apart, and the last steps' margin was 0.25 to 0.50
    assert numbers["agreement"] > 0.8
    curve = read_history(folder / "rl-history.parquet")
    assert curve["margin"][0] == pytest.approx(0.0, abs=1e-4), "at first the policy is its reference"
    assert curve["margin"][-1] > 0.1
    kept, _ = bench.pod(bench.compare(config, run=algorithm), run=f"{algorithm}-kept")
    assert kept.result.choice is not None
    assert kept.result.choice.chosen == "rl"
    measured = kept.result.metrics
    assert measured["agreement"] == pytest.approx(numbers["agreement"]), "both stages deal the rows alike"
    assert measured["baseline/agreement"] == 0.5
    assert measured["diff/agreement_low"] > 0
    assert "reward" not in measured


def test_ratings_teach_a_policy_what_is_good_and_bad(bench: GeneratorBench) -> None:
    rows = [(prompt, "never", 0.9) for prompt, _ in dialogues(16, seed=1)]
    rows += [(prompt, f"never never {answer}", 0.1) for prompt, answer in dialogues(16, seed=2)]
    config = bench.preference(bench.put_ratings(rows), algorithm="kto", undesirableWeight=1.5)
    commit, _ = bench.pod(config, run="good-and-bad")
    assert commit.result.metrics["agreement"] > 0.8
    with pytest.raises(BadDataError, match=r"datasetRef: algorithm dpo learns from pairs, .* set algorithm: kto"):
        bench.pod(bench.preference(bench.put_ratings(rows)), run="no-pairs")


def test_a_policy_from_elsewhere_goes_on_learning_in_groups(bench: GeneratorBench) -> None:
    """Mode rl_only: the start is an artifact, whose adapter the new one is stacked on."""
    commit, start = bench.pod(bench.supervised(epochs=1.0), run="elsewhere")
    artifact = Artifact(uri=f"{bench.store.uri}/{commit.directory}", digest=commit.digest)
    config = bench.rlhf(rewards=SHORT, algorithm="rloo", groupSize=4, interactions=16, start_artifact=artifact)
    done, folder = bench.pod(config, run="rl-only")
    assert done.result.metrics["rollouts"] == 2
    assert not {"value_loss", "explained_variance"} & set(done.result.metrics)
    ranks = [json.loads((each / "adapter_config.json").read_text())["r"] for each in (start, folder)]
    assert ranks == [4, 8]
