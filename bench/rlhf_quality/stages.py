"""The stages of one learner, each in a folder of its own: supervised policy, reward model, judge, and PPO by seed.

A stage whose folder is whole is not run again, so that the command can be stopped and goes on where it was.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from bench.rlhf_quality.task import Task
from ratchet_api.preference import PreferenceAlgorithm, PreferenceStage
from ratchet_api.rlhf import GROUP_SIZE, OnlineAlgorithm
from ratchet_api.training_run import Lora
from ratchet_jobs.generators.answering import Pair
from ratchet_jobs.rl.seeds import generator_for
from ratchet_jobs.rlhf.config import Algorithm
from ratchet_jobs.rlhf.generate import (
    Episodes,
    Sampling,
    answer_pass,
    episodes_of,
    generate,
    pad_prompts,
    token_logprobs,
)
from ratchet_jobs.rlhf.held_out_judge import HeldOutJudge, make_judge
from ratchet_jobs.rlhf.ppo import LanguagePPO, PpoSettings
from ratchet_jobs.rlhf.preference_rows import Liked, Single
from ratchet_jobs.rlhf.preference_training import PreferenceTraining
from ratchet_jobs.rlhf.reward_model import RewardModel, RewardSettings, Row, split_rows, train_reward_model
from ratchet_jobs.rlhf.saving import save_policy
from ratchet_jobs.rlhf.scorers import Answer, EncoderScorer
from ratchet_jobs.rlhf.trunk import Trunk, load_trunk
from ratchet_jobs.rlhf.wording import prompt_tokens, response_tokens
from ratchet_jobs.runtime.errors import DivergedError

REWARD_SEED, JUDGE_SEED = 1, 2
_ENCODER_TOKENS = 64
_ANSWERS = "answers.json"
_BATCH = 32
"""Held-out prompts that are answered together."""


@dataclass(frozen=True, slots=True)
class Hyper:
    """Settings of all stages; PPO's other ones are the product's own."""

    rank: int = 16
    new_tokens: int = 16
    supervised_batch: int = 8
    supervised_rate: float = 2e-4
    reward_epochs: int = 1
    reward_batch: int = 16
    reward_rate: float = 1e-3
    reward_blocks: int = 3
    watched: int = 300
    steps: int = 16
    batch: int = 12
    mini_batch: int = 6
    learning_rate: float = 5e-4
    warmup_ratio: float = 0.2
    target_kl: float = 6.0
    preference_epochs: int = 3
    preference_rate: float = 1e-3


class Parts(NamedTuple):
    """What every learner starts from and is judged by: folders."""

    start: Path
    encoder: Path
    reward: Path
    judge: Path
    watch: Path
    begun: Path


def once(folder: Path, make: Callable[[Path], None]) -> Path:
    """A folder that is made whole or not at all."""
    if not folder.is_dir():
        fresh = folder.with_name(f"{folder.name}.unfinished")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        make(fresh)
        fresh.rename(folder)
    return folder


def supervise(base: Path, task: Task, hyper: Hyper, folder: Path) -> None:
    """Teach the base to go on like a reviewer, good or bad, and write it as a whole model: everybody starts from it."""
    trunk = load_trunk(base, rank=hyper.rank)
    words, parameters = trunk.wording, [p for n, p in trunk.policy_parameters().items() if "value_head" not in n]
    pairs = [
        (
            prompt_tokens(words, row.prompt, "continuation"),
            response_tokens(words, row.response, "continuation")[:-1][: hyper.new_tokens],  # a fragment has no end
        )
        for row in task.supervised
    ]
    optimizer = torch.optim.AdamW(parameters, lr=hyper.supervised_rate, weight_decay=0.0)
    order = torch.randperm(len(pairs), generator=generator_for(0, "supervised")).split(hyper.supervised_batch)
    for step, rows in enumerate(order):
        optimizer.param_groups[0]["lr"] = hyper.supervised_rate * (1 - step / len(order))
        episodes = episodes_of([pairs[row] for row in rows.tolist()], trunk)
        with trunk.training("policy"):
            logits, _ = answer_pass(trunk, episodes)
            loss = -token_logprobs(logits, episodes, temperature=1.0).sum() / episodes.response_mask.sum()
            torch.autograd.backward(loss)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        tell("supervised", step, len(order), loss=float(loss.detach()))
    save_policy(trunk, folder, tokenizer_from=base)


def scorer_of(encoder: Path, hyper: Hyper, *, seed: int = 0) -> EncoderScorer:
    """A small encoder with adapters in its last blocks: a reward model that is no part of the policy's trunk."""
    lora = Lora(rank=hyper.rank, alpha=2 * hyper.rank, last_blocks=hyper.reward_blocks)
    return EncoderScorer(encoder, lora=lora, max_tokens=_ENCODER_TOKENS, seed=seed, device="cpu")


def teach(encoder: Path, rows: Sequence[Row], hyper: Hyper, folder: Path, *, seed: int) -> None:
    """Train a reward model; beside it lies how good it is."""
    settings = RewardSettings(
        num_epochs=hyper.reward_epochs, batch_size=hyper.reward_batch, learning_rate=hyper.reward_rate
    )
    model, quality = train_reward_model(
        scorer_of(encoder, hyper, seed=seed),
        rows,
        settings,
        seed=seed,
        after_step=lambda step, steps, loss: tell("rewards", step, steps, loss=loss),
    )
    model.save(folder)
    (folder / "quality.json").write_text(json.dumps(asdict(quality)) + "\n")


def watch(start: Path, rows: Sequence[Row], hyper: Hyper, folder: Path) -> None:
    """Make the judge of the reward-hacking breaker, as the product does: of rows that the reward model never saw."""
    held_out = split_rows(rows, share=RewardSettings().held_out_share, seed=REWARD_SEED)[1]
    judge = make_judge(load_trunk(start, rank=hyper.rank), held_out[: hyper.watched], wording="continuation")
    if judge is None:
        print(
            f"  judge of the breaker: none, {len(held_out)} labels foretell nothing; ask for more ratings", flush=True
        )
        return
    judge.save(folder)
    print(f"  judge of the breaker: agreement {judge.agreement:.3f} with {hyper.watched} labels", flush=True)


def begin(start: Path, task: Task, hyper: Hyper, folder: Path) -> None:
    """Let the start answer the held-out prompts: what every learner is held against."""
    trunk = load_trunk(start, rank=hyper.rank)
    answers = [answer for each in answered(trunk, task.held_out, hyper) for answer in said(trunk, each)]
    (folder / _ANSWERS).write_text(json.dumps(answers) + "\n")


def improve(parts: Parts, task: Task, hyper: Hyper, folder: Path, *, algorithm: Algorithm, seed: int) -> None:
    """Learn from the start policy; writes what its answers to the held-out prompts are worth beside the start's."""
    trunk = load_trunk(parts.start, rank=hyper.rank, seed=seed)
    model, other = (RewardModel.load(each, scorer_of(parts.encoder, hyper)) for each in (parts.reward, parts.judge))
    prompts = [prompt_tokens(trunk.wording, prompt, "continuation") for prompt in task.prompts]
    before = [Answer(*each) for each in json.loads((parts.begun / _ANSWERS).read_text())]
    began, spent = time.perf_counter(), time.process_time()
    if algorithm == "dpo" or algorithm == "kto":
        stopped, told = "", prefer(trunk, model, prompts, hyper, algorithm=algorithm, seed=seed)
    else:
        stopped, told = draw_and_learn(trunk, model, parts, prompts, hyper, algorithm=algorithm, seed=seed)
    spent, wall = time.process_time() - spent, time.perf_counter() - began
    drawn = answered(trunk, task.held_out, hyper)
    after = [answer for each in drawn for answer in said(trunk, each)]
    result = {
        "algorithm": algorithm,
        "seed": seed,
        "stopped": stopped,
        **compared("score", model, before, after),
        **compared("judge", other, before, after),
        "kl": divergence(trunk, drawn),
        "tokens": float(torch.cat([each.lengths for each in drawn]).double().mean()),
        "cpu_seconds": spent,
        "wall_seconds": wall,
        "load": os.getloadavg()[0],
        "examples": [[answer.response for answer in each[:4]] for each in (before, after)],
        "steps": told,
    }
    (folder / "result.json").write_text(json.dumps(result) + "\n")


def draw_and_learn(
    trunk: Trunk,
    model: RewardModel,
    parts: Parts,
    prompts: list[list[int]],
    hyper: Hyper,
    *,
    algorithm: OnlineAlgorithm,
    seed: int,
) -> tuple[str, list[dict[str, float]]]:
    """PPO, GRPO or RLOO with all breakers on; returns why it stopped early, and the numbers of each step."""
    settings = PpoSettings(
        algorithm=algorithm,
        group_size=1 if algorithm == "ppo" else GROUP_SIZE,
        sampling=Sampling(max_new_tokens=hyper.new_tokens),
        batch_size=hyper.batch,
        mini_batch_size=hyper.mini_batch,
        learning_rate=hyper.learning_rate,
        warmup_ratio=hyper.warmup_ratio,
        target_kl=hyper.target_kl,
    )
    learner = LanguagePPO(
        settings,
        trunk=trunk,
        prompts=prompts,
        score=lambda episodes: scores_of(model, trunk, episodes),
        steps=hyper.steps,
        seed=seed,
        judge=HeldOutJudge.load(parts.watch, trunk),
    )
    told: list[dict[str, float]] = []
    try:
        for step in range(hyper.steps):
            told.append(learner.step())
            tell(algorithm, step, hyper.steps, score=told[-1]["score_mean"], kl=told[-1]["kl"])
    except DivergedError as error:  # the policy is that of the last good step
        return str(error), told
    return "", told


def prefer(
    trunk: Trunk,
    model: RewardModel,
    prompts: list[list[int]],
    hyper: Hyper,
    *,
    algorithm: PreferenceAlgorithm,
    seed: int,
) -> list[dict[str, float]]:
    """DPO or KTO on as many answers as the others draw: of the start's to one prompt the best and the worst."""
    rows: list[Liked | Single] = []
    sampling, asked = Sampling(max_new_tokens=hyper.new_tokens), hyper.batch // GROUP_SIZE
    for step in range(hyper.steps):
        group = [prompt for prompt in prompts[step * asked : (step + 1) * asked] for _ in range(GROUP_SIZE)]
        batch = pad_prompts(group, pad_id=trunk.wording.pad_id)
        episodes = generate(trunk, batch, sampling, generator=generator_for(seed, "answers", step))
        scores = scores_of(model, trunk, episodes).view(-1, GROUP_SIZE)
        tokens = [
            ids[:length] for ids, length in zip(episodes.response_ids.tolist(), episodes.lengths.tolist(), strict=True)
        ]
        for place, (best, worst) in enumerate(zip(scores.argmax(1).tolist(), scores.argmin(1).tolist(), strict=True)):
            first = place * GROUP_SIZE
            better, worse = (Pair(group[first], tokens[first + row]) for row in (best, worst))
            rows += [Liked(better, worse)] if algorithm == "dpo" else [Single(better, True), Single(worse, False)]
    settings = PreferenceStage.model_validate(
        {
            "datasetRef": {"name": "drawn"},
            "algorithm": algorithm,
            "epochs": hyper.preference_epochs,
            "learningRate": hyper.preference_rate,
        }
    )
    training = PreferenceTraining(trunk, rows, settings, seed=seed)
    told = []
    while training.done < training.steps:
        told.append(asdict(training.step()))
        tell(algorithm, training.done - 1, training.steps, loss=told[-1]["loss"], agreement=told[-1]["agreement"])
    return told


def said(trunk: Trunk, episodes: Episodes) -> list[Answer]:
    """Prompts and answers as texts."""
    rows = zip(*(part.tolist() for part in (episodes.prompt_ids, episodes.prompt_mask)), strict=True)
    asked = [[token for token, real in zip(*row, strict=True) if real] for row in rows]
    answers = zip(episodes.response_ids.tolist(), episodes.lengths.tolist(), strict=True)
    texts = [trunk.wording.text(ids[:length]) for ids, length in answers]
    return [Answer(trunk.wording.text(prompt), text) for prompt, text in zip(asked, texts, strict=True)]


def scores_of(model: RewardModel, trunk: Trunk, episodes: Episodes) -> Tensor:
    """What an encoder says of answers, (B,)."""
    return torch.from_numpy(model.scores(said(trunk, episodes))).float()


def answered(trunk: Trunk, prompts: Sequence[str], hyper: Hyper) -> list[Episodes]:
    """Answers to all prompts by the same draws, whoever answers: what differs is the policy."""
    made: list[Episodes] = []
    sampling = Sampling(max_new_tokens=hyper.new_tokens)
    for start in range(0, len(prompts), _BATCH):
        rows = [prompt_tokens(trunk.wording, prompt, "continuation") for prompt in prompts[start : start + _BATCH]]
        batch = pad_prompts(rows, pad_id=trunk.wording.pad_id)
        made.append(generate(trunk, batch, sampling, generator=generator_for(0, "held out", start)))
    return made


def compared(name: str, model: RewardModel, before: list[Answer], after: list[Answer]) -> dict[str, float]:
    """Mean scores, and how often the trained policy's answer is worth more than the start's; a tie counts half."""
    start, end = (torch.from_numpy(model.scores(part)).double() for part in (before, after))
    wins = (end > start).double() + 0.5 * (end == start).double()
    return {f"{name}_before": float(start.mean()), name: float(end.mean()), f"{name}_wins": float(wins.mean())}


def divergence(trunk: Trunk, made: list[Episodes]) -> float:
    """Mean KL of the answers from the start policy, in nats per answer."""
    gaps = []
    for each in made:
        logits, _ = answer_pass(trunk, each, reference=True)
        gaps.append((each.logprobs - token_logprobs(logits, each, temperature=1.0)).sum(1))
    return float(torch.cat(gaps).double().mean())


def tell(stage: str, step: int, steps: int, **numbers: float) -> None:
    """A line now and then."""
    if step % max(1, steps // 10) == 0:
        shown = " ".join(f"{name} {value:.3f}" for name, value in numbers.items())
        print(f"  {stage} {step}/{steps} {shown}", flush=True)
