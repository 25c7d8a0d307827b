"""The stages of a generator: they learn, resume to the bit, measure, and refuse what they cannot use."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from ratchet_api.stage import Commit
from ratchet_jobs.data.base_model import local_digest
from ratchet_jobs.data.demonstrations import Demonstration
from ratchet_jobs.data.turns import Turn
from ratchet_jobs.generators.answering import generate, score
from ratchet_jobs.generators.card import read_generator_card
from ratchet_jobs.generators.examples import tokenize_rows
from ratchet_jobs.generators.loading import load_generator
from ratchet_jobs.generators.templates import load_wording
from ratchet_jobs.metrics.generation import bleu, distinct, repetition, taken_up
from ratchet_jobs.runtime.errors import BadConfigError, BadDataError, NotANumberError, Preempted
from ratchet_jobs.runtime.history import read_history
from tests.generator_bench import GeneratorBench
from tests.tiny_bert import reviews
from tests.tiny_llama import dialogues
from tests.workbench import Killed, Workbench

TEST = dialogues(40, seed=5)


@pytest.fixture
def bench(tmp_path: Path) -> GeneratorBench:
    return GeneratorBench(tmp_path, train=dialogues(48, seed=0), test=TEST)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[GeneratorBench, Commit, Commit, Path]:
    """A bench, and what both stages committed of a policy that learned."""
    bench = GeneratorBench(tmp_path_factory.mktemp("trained"), train=dialogues(240, seed=0), test=TEST)
    learned, _ = bench.pod(bench.supervised(epochs=4.0))
    gates = [{"metric": "perplexity", "maximum": 4}, {"metric": "bleu1", "minimum": 0.99}]
    measured, folder = bench.pod(bench.evaluate(gates=gates))
    assert (folder / "report.html").is_file(), "there is no report; the log of this set-up says why"
    return bench, learned, measured, folder


def losses(folder: Path) -> list[float]:
    return read_history(folder / "supervised-history.parquet")["loss"]


# learning


def test_a_policy_learns_to_answer_as_it_was_shown(trained: tuple[GeneratorBench, Commit, Commit, Path]) -> None:
    _, learned, measured, _ = trained
    metrics = measured.result.metrics
    assert learned.result.metrics["steps"] == 4 * 30
    assert (learned.result.metrics["train_rows"], learned.result.metrics["skipped_rows"]) == (240, 0)
    # Each response is one of three, and a word of the prompt says which: who knows it is sure of every token.
    assert metrics["perplexity"] < 1.5 < metrics["base_perplexity"]
    assert metrics["bleu2"] > 0.5
    assert metrics["ended"] > 0.9
    assert metrics["kl"] > 0.5
    assert (metrics["n_test"], metrics["n_answers"], metrics["skipped_rows"]) == (40, 12, 0)


def test_only_the_response_is_learned(tmp_path: Path) -> None:
    """With one answer to everything, a perfect policy has no loss, however little prompts can be foretold."""
    rows = [(prompt, "never") for prompt, _ in dialogues(64, seed=0)]
    bench = GeneratorBench(tmp_path, train=rows)
    commit, _ = bench.pod(bench.supervised(epochs=6.0))
    assert commit.result.metrics["loss"] < 0.1


def test_equal_inputs_give_equal_bytes_and_another_seed_does_not(bench: GeneratorBench) -> None:
    first, _ = bench.pod(bench.supervised(epochs=0.5), run="one")
    second, _ = bench.pod(bench.supervised(epochs=0.5), run="two")
    other, _ = bench.pod(bench.supervised(epochs=0.5, seed=1), run="three")
    assert first.digest == second.digest != other.digest


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_run_interrupted_at_random_steps_ends_with_the_same_bytes(bench: GeneratorBench, dropout: float) -> None:
    """P12: killed and asked to leave, the loss curve and the policy are bit-equal."""
    config = bench.supervised(epochs=3.0, checkpointEverySteps=4, lora={"dropout": dropout})  # 18 steps, 6 per epoch
    want, folder = bench.pod(config, run="calm")
    first, second = sorted(random.Random(dropout).sample(range(5, 17), 2))
    seen: list[int] = []
    with pytest.raises(Killed):
        bench.pod(config, run="stormy", die_after=first)
    with pytest.raises(Preempted):
        bench.pod(config, run="stormy", leave_after=second, on_step=seen.append)
    assert seen[0] - 1 == first - 1 - (first - 1) % 4, "a kill loses no more than the steps since the last checkpoint"
    got, stormy = bench.pod(config, run="stormy")
    assert losses(stormy) == losses(folder)
    assert got.digest == want.digest


def test_a_loss_that_is_no_number_ends_the_stage_with_the_setting_to_lower(bench: GeneratorBench) -> None:
    """P13."""
    weights = load_file(bench.base / "model.safetensors")
    weights["model.norm.weight"] = torch.full_like(weights["model.norm.weight"], torch.inf)
    save_file(weights, bench.base / "model.safetensors", metadata={"format": "pt"})
    bench.base_ref = bench.base_ref.model_copy(update={"sha256": local_digest(bench.base)})
    with pytest.raises(NotANumberError, match=r"step 1 of 6: loss .*lower stages.*learningRate \(now 0\.02\)"):
        bench.pod(bench.supervised())


# rows that do not fit


def test_a_prompt_without_room_is_left_out_and_a_long_response_is_cut_and_both_are_counted(tmp_path: Path) -> None:
    rows = dialogues(30, seed=0)
    rows += [("the " * 40, "never"), ("the card", "never " * 40)]
    bench = GeneratorBench(tmp_path, train=rows)
    commit, _ = bench.pod(bench.supervised(epochs=0.1, maxTokens=20))
    metrics = commit.result.metrics
    assert (metrics["train_rows"], metrics["skipped_rows"], metrics["cut_rows"]) == (31, 1, 1)


def test_a_cut_response_does_not_teach_its_end(bench: GeneratorBench) -> None:
    wording = load_wording(bench.base)
    rows = [Demonstration((Turn("user", "the"),), "never never never never")]
    pair = tokenize_rows(rows, wording, max_tokens=6, split="train").pairs[0]
    assert pair.length == 6
    assert wording.eos_id not in pair.response
    whole = tokenize_rows(rows, wording, max_tokens=20, split="train").pairs[0]
    assert whole.response[-1] == wording.eos_id


def test_prompts_that_all_take_the_whole_room_are_refused_with_both_ways_out(tmp_path: Path) -> None:
    bench = GeneratorBench(tmp_path, train=[("the " * 40, "never")] * 12)
    with pytest.raises(BadDataError, match=r"the prompts of all 12 rows have 20 tokens or more.*maxTokens, or lower"):
        bench.pod(bench.supervised(maxTokens=20))


def test_a_context_that_the_base_does_not_have_is_refused(bench: GeneratorBench) -> None:
    with pytest.raises(BadConfigError, match=r"stages\.supervised\.maxTokens: 65 is above the 64 positions"):
        bench.pod(bench.supervised(maxTokens=65))


def test_a_snapshot_of_another_type_is_refused(tmp_path: Path) -> None:
    """Of both kinds, before any pod with a GPU starts and again in the stage."""
    classes = Workbench(tmp_path / "classes", train=reviews(20, seed=0))
    config = GeneratorBench(tmp_path / "g", train=dialogues(20, seed=0)).supervised()
    with pytest.raises(BadDataError, match=r"is of type classification; a generator's stages learn from type demonstr"):
        classes.pod(config.model_copy(update={"dataset": classes.dataset, "base_model": classes.base_ref}))


# measuring


def test_the_committed_folder_is_a_policy_that_transformers_loads_as_it_is(
    trained: tuple[GeneratorBench, Commit, Commit, Path],
) -> None:
    bench, _, measured, folder = trained
    names = {file.path for file in measured.files}
    assert names >= {"policy.json", "adapter_model.safetensors", "adapter_config.json", "tokenizer.json", "report.html",
                     "policy/config.json", "policy/model.safetensors", "policy/tokenizer.json"}  # fmt: skip
    model = transformers.AutoModelForCausalLM.from_pretrained(folder / "policy")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "policy")
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": TEST[0][0]}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    with torch.inference_mode():
        made = model.generate(**chat, max_new_tokens=10, do_sample=False)
    answer = tokenizer.decode(made[0, chat["input_ids"].shape[1] :], skip_special_tokens=True).strip()
    told = json.loads((folder / "evaluation.json").read_text())["answers"][0]
    assert (told["prompt"], told["reference"], told["answer"]) == (*TEST[0], answer)
    assert read_generator_card(folder).base_model == bench.base_ref


def test_numbers_are_those_of_the_definitions(trained: tuple[GeneratorBench, Commit, Commit, Path]) -> None:
    bench, _, measured, folder = trained
    metrics, told = measured.result.metrics, json.loads((folder / "evaluation.json").read_text())
    assert told["metrics"] == metrics
    model, wording, _ = load_generator(folder, bench.base)
    examples = tokenize_rows(
        [Demonstration((Turn("user", p),), r) for p, r in TEST], wording, max_tokens=32, split="test"
    )
    scores = [score(model, [pair], pad_id=wording.pad_id) for pair in examples.pairs]
    tokens = sum(each.tokens for each in scores)
    assert metrics["perplexity"] == pytest.approx(math.exp(sum(each.nll for each in scores) / tokens), rel=1e-4)
    assert metrics["base_perplexity"] == pytest.approx(math.exp(sum(s.base_nll for s in scores) / tokens), rel=1e-4)
    assert metrics["kl"] == pytest.approx(sum(each.kl for each in scores) / tokens, rel=1e-4)
    answers = [each["answer"] for each in told["answers"]]
    again = generate(model, [pair.prompt for pair in examples.pairs[:12]], wording=wording, max_new_tokens=10)
    assert answers == [wording.text(ids) for ids in again]
    references = [response for _, response in TEST[:12]]
    assert metrics["bleu1"] == bleu(answers, references, order=1)
    assert (metrics["distinct2"], metrics["repetition"]) == (distinct(answers, order=2), repetition(answers))
    assert metrics["overlap"] == sum(taken_up(a, p) for a, (p, _) in zip(answers, TEST[:12], strict=True)) / 12
    assert metrics["mean_tokens"] == sum(len([i for i in ids if i != wording.eos_id]) for ids in again) / 12


def test_the_report_shows_gates_numbers_and_answers_beside_the_base(
    trained: tuple[GeneratorBench, Commit, Commit, Path],
) -> None:
    page = (trained[3] / "report.html").read_text()
    assert "Evaluation of a generator" in page
    assert "could not be" not in page
    for word in ("perplexity", "&lt;= 4", "base model", TEST[0][0], TEST[0][1], "Learning curves"):
        assert word in page


def test_an_untrained_policy_is_measured_as_its_base(bench: GeneratorBench) -> None:
    bench.pod(bench.supervised(epochs=0.1, learningRate=1e-9))
    commit, folder = bench.pod(bench.evaluate(answers={"prompts": 3}))
    metrics = commit.result.metrics
    assert metrics["perplexity"] == pytest.approx(metrics["base_perplexity"], rel=1e-4)
    assert metrics["kl"] == pytest.approx(0, abs=1e-4)
    assert metrics["n_answers"] == 3
    assert all(
        each["answer"] == each["base"] for each in json.loads((folder / "evaluation.json").read_text())["answers"]
    )


def test_answers_longer_than_the_context_are_refused_with_the_field(bench: GeneratorBench) -> None:
    bench.pod(bench.supervised(epochs=0.1))
    with pytest.raises(BadConfigError, match=r"stages\.evaluate\.answers\.maxNewTokens 60 after the longest prompt of"):
        bench.pod(bench.evaluate(answers={"maxNewTokens": 60}))


def test_an_evaluation_asked_to_leave_measures_again_in_the_next_pod(bench: GeneratorBench) -> None:
    bench.pod(bench.supervised(epochs=0.1))
    config = bench.evaluate()
    with pytest.raises(Preempted, match="the next pod measures again"):
        bench.pod(config, run="it", leave_after=16)
    calm, _ = bench.pod(config, run="calm")
    again, _ = bench.pod(config, run="it")
    assert again.digest == calm.digest
