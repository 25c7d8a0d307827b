"""The stages of one learner, each in a folder of its own: supervised policy, reward model, judge, and PPO by seed.

A stage whose folder is whole is not run again, so that the command can be stopped and goes on where it was.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from bench.rlhf_quality.task import Task
from ratchet_jobs.rl.seeds import generator_for
from ratchet_jobs.rlhf.generate import (
    Episodes,
    Sampling,
    answer_pass,
    episodes_of,
    generate,
    pad_prompts,
    token_logprobs,
)
from ratchet_jobs.rlhf.ppo import LanguagePPO, PpoSettings
from ratchet_jobs.rlhf.reward_model import RewardModel, RewardSettings, Row, train_reward_model
from ratchet_jobs.rlhf.saving import save_policy
from ratchet_jobs.rlhf.scorers import TrunkScorer
from ratchet_jobs.rlhf.trunk import Trunk, load_trunk
from ratchet_jobs.rlhf.wording import prompt_tokens, response_tokens
from ratchet_jobs.runtime.errors import DivergedError

_BATCH = 32
"""Held-out prompts that are answered together."""


@dataclass(frozen=True, slots=True)
class Hyper:
    """Settings of all stages; PPO's other ones are the product's own."""

    rank: int = 16
    new_tokens: int = 32
    supervised_batch: int = 8
    supervised_rate: float = 2e-4
    reward_epochs: int = 2
    ppo_steps: int = 100
    ppo_batch: int = 32
    mini_batch: int = 8
    ppo_rate: float = 1e-4
    target_kl: float = 6.0


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


def teach(start: Path, rows: Sequence[Row], hyper: Hyper, folder: Path, *, seed: int) -> None:
    """Train a reward model on the start policy; beside it lies how good it is."""
    trunk = load_trunk(start, rank=hyper.rank, reward_dropout=0.05, seed=seed)
    settings = RewardSettings(num_epochs=hyper.reward_epochs)
    scorer = TrunkScorer(trunk, wording="continuation")
    model, quality = train_reward_model(
        scorer, rows, settings, seed=seed, after_step=lambda step, steps, loss: tell("rewards", step, steps, loss=loss)
    )
    model.save(folder)
    (folder / "quality.json").write_text(json.dumps(asdict(quality)) + "\n")


def improve(start: Path, reward: Path, judge: Path, task: Task, hyper: Hyper, folder: Path, *, seed: int) -> None:
    """PPO from the start policy; writes what its answers to the held-out prompts are worth beside the start's."""
    trunk = load_trunk(start, rank=hyper.rank, seed=seed)
    model = RewardModel.load(reward, TrunkScorer(trunk, wording="continuation"))
    settings = PpoSettings(
        sampling=Sampling(max_new_tokens=hyper.new_tokens),
        batch_size=hyper.ppo_batch,
        mini_batch_size=hyper.mini_batch,
        learning_rate=hyper.ppo_rate,
        target_kl=hyper.target_kl,
    )
    prompts = [prompt_tokens(trunk.wording, prompt, "continuation") for prompt in task.prompts]
    ppo = LanguagePPO(settings, trunk=trunk, prompts=prompts, score=model.of_episodes, steps=hyper.ppo_steps, seed=seed)
    told: list[dict[str, float]] = []
    stopped, before = "", answered(trunk, task.held_out, hyper)
    try:
        for step in range(hyper.ppo_steps):
            told.append(ppo.step())
            tell("ppo", step, hyper.ppo_steps, score=told[-1]["score_mean"], kl=told[-1]["kl"])
    except DivergedError as error:  # the policy is that of the last good step
        stopped = str(error)
    after = answered(trunk, task.held_out, hyper)
    second = load_trunk(start, rank=hyper.rank)  # the judge has an adapter of its own, hence a trunk of its own
    other = RewardModel.load(judge, TrunkScorer(second, wording="continuation"))
    result = {
        "seed": seed,
        "stopped": stopped,
        **compared("score", model, before, after),
        **compared("judge", other, before, after),
        "kl": divergence(trunk, after),
        "tokens": float(torch.cat([each.lengths for each in after]).double().mean()),
        "examples": [ppo.answers(each)[:4] for each in (before[0], after[0])],
        "steps": told,
    }
    (folder / "result.json").write_text(json.dumps(result) + "\n")


def answered(trunk: Trunk, prompts: Sequence[str], hyper: Hyper) -> list[Episodes]:
    """Answers to all prompts by the same draws, whoever answers: what differs is the policy."""
    made: list[Episodes] = []
    sampling = Sampling(max_new_tokens=hyper.new_tokens)
    for start in range(0, len(prompts), _BATCH):
        rows = [prompt_tokens(trunk.wording, prompt, "continuation") for prompt in prompts[start : start + _BATCH]]
        batch = pad_prompts(rows, pad_id=trunk.wording.pad_id)
        made.append(generate(trunk, batch, sampling, generator=generator_for(0, "held out", start)))
    return made


def compared(name: str, model: RewardModel, before: list[Episodes], after: list[Episodes]) -> dict[str, float]:
    """Mean scores, and how often the trained policy's answer is worth more than the start's; a tie counts half."""
    start, end = (torch.cat([model.of_episodes(each) for each in part]).double() for part in (before, after))
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
