"""Ratchet's PPO once, in a process of its own: `LanguagePPO` on a trunk, as the stage and `RLHFTrainer` use it.

    python -m bench.ppo.ours JSON        (bench/ppo/run.py says which)

Settings are the peer's where both have them (`task.Hyper`): a fixed KL weight, scores as they are, rates that fall to
0, one optimizer step per pass over the batch. What is left is ours alone: the value head and its learning rate.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from bench.ppo.run import Clock, adapter_file, answer, asked
from bench.ppo.task import Hyper, Task, read_task, score
from ratchet_jobs.rlhf.breakers import AnswerLimits
from ratchet_jobs.rlhf.generate import Sampling
from ratchet_jobs.rlhf.ppo import LanguagePPO, PpoSettings, ScoreFunction
from ratchet_jobs.rlhf.reward_model import RewardModel
from ratchet_jobs.rlhf.scorers import TrunkScorer
from ratchet_jobs.rlhf.trunk import Trunk, load_trunk


def ppo_settings(hyper: Hyper) -> PpoSettings:
    """What `Hyper` means to ours; nothing stops a run but NaN."""
    return PpoSettings(
        sampling=Sampling(max_new_tokens=hyper.new_tokens, temperature=hyper.temperature),
        batch_size=hyper.batch_size,
        mini_batch_size=hyper.batch_size // hyper.passes,
        gradient_accumulation_steps=hyper.passes,
        ppo_epochs=hyper.ppo_epochs,
        learning_rate=hyper.learning_rate,
        final_lr_factor=0.0,
        gamma=hyper.gamma,
        lam=hyper.lam,
        cliprange=hyper.cliprange,
        cliprange_value=hyper.cliprange_value,
        vf_coef=hyper.vf_coef,
        init_kl_coef=hyper.kl_coef,
        target_kl=None,
        score_whitening="none",
        score_clip=None,
        limits=AnswerLimits(max_kl=None),
        min_entropy_ratio=None,
        max_update_kl=None,
    )


def scorer(name: str, trunk: Trunk, task: Task, *, seed: int) -> ScoreFunction:
    """The table, or a reward model on the trunk whose head is drawn: it costs what a trained one costs."""
    if name == "table":
        return lambda episodes: score(task.reward, episodes.response_ids, episodes.response_mask)
    judge = TrunkScorer(trunk, wording="continuation")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        nn.init.normal_(judge.head.weight, std=0.02)
    return RewardModel(judge).of_episodes


def save_adapter(trunk: Trunk, file: Path) -> None:
    """Write the policy's adapter by layer name, as `judge.py` reads it."""
    tensors = {n.replace(".policy.", "."): p.detach() for n, p in trunk.policy_parameters().items() if ".policy." in n}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)


def main() -> None:
    wanted, hyper = asked(), Hyper()
    task = read_task(Path(wanted.task))
    trunk = load_trunk(Path(wanted.base), rank=hyper.rank, seed=wanted.seed, dtype=getattr(torch, wanted.dtype))
    settings = ppo_settings(hyper)
    ppo = LanguagePPO(
        settings,
        trunk=trunk,
        prompts=task.prompts[: wanted.episodes].tolist(),
        score=scorer(wanted.reward, trunk, task, seed=wanted.seed),
        steps=wanted.episodes // hyper.batch_size,
        seed=wanted.seed,
    )
    clock = Clock()
    told = [ppo.step() for _ in range(wanted.episodes // hyper.batch_size)]
    seconds = clock.seconds()
    if file := adapter_file(wanted):
        save_adapter(trunk, file)
    steps = [{"score": each["score_mean"], "kl": each["kl"], "tokens": each["response_length"]} for each in told]
    answer(wanted, seconds=seconds, steps=steps, settings=asdict(settings))


if __name__ == "__main__":
    main()
