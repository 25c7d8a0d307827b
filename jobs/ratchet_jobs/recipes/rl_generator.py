"""RL stage of a generator: learn from rewards on the answers that the policy itself drew.

Implements PPO on a language model (Ziegler et al. 2019, arXiv:1909.08593; Stiennon et al. 2020, arXiv:2009.01325), GRPO
(arXiv:2402.03300) and RLOO (arXiv:2402.14740), with a penalty on leaving the policy that it starts from, whose weight
follows a target. The loop stands in `rlhf/ppo.py`, the algorithms in `rlhf/objectives`.

 1. Read the prompts (of the snapshot's train split, each once), the start policy, its base, and the reward model.
 2. Make the trunk: the start's adapter is added to the weights; policy and reference, value head and reward model
    stand on it as adapters and heads.
 3. Make rewards and algorithm.
 4. Resume from the newest checkpoint, if this run was interrupted.
 5. For each rollout: draw rolloutSize answers, reward them, update; stop on numbers that say that learning went wrong,
    such as a reward model's score that rises while a judge made of held-out labels likes the answers less.
 6. Report; checkpoint every checkpointEverySteps rollouts and when asked to leave; then, in the latter case, leave
    (exit 75).
 7. Write the policy: both adapters, the start's and what was learned here, as one on the same base.

A stage that those numbers stop leaves the weights of the last step at which nothing was wrong in `last-good/`.

Prompts, draws and minibatches are functions of (seed, rollout); the state of everything else is in the checkpoint; so a
resumed run repeats the curves of an undisturbed one bit for bit on one kind of CPU and number of threads.
"""

from __future__ import annotations

import json
from pathlib import Path

import structlog
import torch
from safetensors.torch import load_file, save_file

from ratchet_api.rlhf import CLIP_RANGE_VALUE, GAMMA, LAM, VALUE_LEARNING_RATE, VF_COEF, RlhfStage
from ratchet_api.stage import RlConfig, StageResult
from ratchet_jobs.judging.judge import counts_of
from ratchet_jobs.recipes.generator_parts import (
    make_answer_rewards,
    make_judges,
    mentioned_by,
    open_learning,
    stop_texts,
    watch_reward_model,
)
from ratchet_jobs.recipes.last_good import keep_last_good, save_value_head
from ratchet_jobs.recipes.reward_files import Fetching
from ratchet_jobs.recipes.rl_parts import CURVES, NOTES_FILE, STATE_FILE, newest_of, totals_of
from ratchet_jobs.rlhf.breakers import AnswerLimits
from ratchet_jobs.rlhf.generate import Sampling
from ratchet_jobs.rlhf.policies import save_policy
from ratchet_jobs.rlhf.ppo import LanguagePPO, PpoSettings
from ratchet_jobs.runtime.context import StageContext
from ratchet_jobs.runtime.errors import BadConfigError, DivergedError, NotANumberError

TOLD = {
    "score_mean": "avg_return",
    "kl": "kl",
    "kl_coef": "kl_coef",
    "response_length": "mean_tokens",
    "stopped_share": "ended",
    "empty_share": "empty",
}
"""PPO's numbers by the names that they have in a stage."""

FIELDS = {
    "init_kl_coef": "initKl",
    "target_kl": "targetKl",
    "max_kl": "maxKl",
    "max_update_kl": "maxUpdateKl",
    "warmup_ratio": "warmupRatio",
    "learning_rate": "learningRate",
    "ppo_epochs": "updateEpochs",
    "batch_size": "rolloutSize",
    "score_whitening": "scoreWhitening",
    "score_clip": "scoreClip",
}
"""The loop's settings by the names that they have in stages.rlhf, for messages."""

log = structlog.get_logger(__name__)


def run(ctx: StageContext, config: RlConfig) -> StageResult:
    """Train and write the policy's files into the stage's output folder.

    Args:
        ctx: store, checkpoints, progress and stop signal of this pod.
        config: prompts, start policy, reward model and hyper-parameters.

    Returns:
        Metrics: avg_return (mean reward over the last rollouts), best_return, interactions, rollouts, optimizer_steps,
        prompts, skipped_rows (their prompt left no room), and the last rollout's kl (from the start policy), kl_coef,
        mean_tokens, ended, empty and curves of the update; judged (what held-out labels say of its answers) where the
        reward model has such a judge; with judges over HTTP what this pod asked them: judge_asked, judge_cached,
        judge_failed.

    Raises:
        StageError: inputs cannot be used; the numbers went wrong; or the pod must leave.
    """
    hyper = config.rlhf
    if hyper is None or config.base_model is None:
        raise BadConfigError("rl stage of a generator: rlhf or baseModel is missing; the operator sets both")
    torch.set_num_threads(ctx.threads)

    # 1. and 2. prompts, start policy, base, reward model and trunk
    start, card, trunk, rows, known, skipped, judge = open_learning(ctx, config, hyper)
    prompts = list(known)

    # 3. rewards and algorithm
    judges = make_judges(hyper, ctx.store, ctx.namespace)
    fetch = Fetching(ctx.store, namespace=ctx.namespace, into=ctx.folder("rewards"))
    rewards = make_answer_rewards(
        trunk,
        hyper,
        judge,
        rows=known,
        mentioned=mentioned_by(rows),
        judges=judges,
        max_new_tokens=hyper.max_new_tokens,
        fetch=fetch,
    )
    watched = watch_reward_model(judge, trunk, rewards)
    ppo = LanguagePPO(
        settings_of(hyper),
        trunk=trunk,
        prompts=prompts,
        score=rewards,
        steps=hyper.rollouts,
        seed=config.seed,
        judge=watched.judge,
        claimed=watched.claimed,
    )

    # 4. resume: the length of the curve is the rollout to go on from
    curve: list[dict[str, float]] = []
    if (checkpoint := ctx.checkpoints.latest()) is not None:
        notes = json.loads((checkpoint.folder / NOTES_FILE).read_text())
        curve = notes["curve"]
        ppo.load_state(load_file(checkpoint.folder / STATE_FILE), notes["ppo"])

    def save_state(folder: Path) -> None:
        tensors, numbers = ppo.state()
        save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, folder / STATE_FILE)
        (folder / NOTES_FILE).write_text(json.dumps({"curve": curve, "ppo": numbers}))

    def save_good(folder: Path) -> None:
        save_policy(trunk, folder, start=start, card=card)
        if ppo.has_values:
            save_value_head(trunk, folder)

    while ppo.done < ppo.steps:
        # 5. rollout and update
        rewards.interactions = ppo.done * hyper.rollout_size
        try:
            seen = ppo.step()
        except (DivergedError, NotANumberError) as error:
            kept = keep_last_good(ctx, save_good, steps={"": ppo.good_step})
            raise type(error)(f"stages.rlhf: {by_fields(str(error))}; {kept}") from error

        # 6. report, checkpoint, leave
        told = {name: seen[ours] for ours, name in TOLD.items()}
        told["best_return"] = max(told["avg_return"], curve[-1]["best_return"] if curve else told["avg_return"])
        if watched.judge is not None:
            told["judged"] = seen["judge_mean"]
        told |= {f"reward/{name}": mean for name, mean in rewards.latest.items()}
        shown = {name: seen[name] for name in CURVES if name in seen}
        interactions = float(ppo.done * hyper.rollout_size)
        curve.append({"interactions": interactions, "optimizer_steps": seen["optimizer_steps"]} | told | shown)
        ctx.progress.report(ppo.done, ppo.steps, examples=hyper.rollout_size, **told, **shown)
        leaving = ctx.should_stop()
        if leaving or (ppo.done % hyper.checkpoint_every_steps == 0 and ppo.done < ppo.steps):
            ctx.checkpoints.save(ppo.done, save_state)
        if leaving:
            raise ctx.preempted(ppo.done)

    # 7. policy
    save_policy(trunk, ctx.output, start=start, card=card)
    last = (*TOLD.values(), "judged")
    newest = {name: value for name, value in curve[-1].items() if name in last or name.startswith("reward/")}
    return StageResult(
        metrics={
            **newest,
            **totals_of(curve),
            "prompts": float(len(prompts)),
            "skipped_rows": float(skipped),
            **dict(counts_of([each.asked for each in judges.values()])),
            **newest_of(curve),
        }
    )


def by_fields(message: str) -> str:
    """A message of the loop in the words of stages.rlhf."""
    for setting, field in FIELDS.items():
        message = message.replace(setting, field)
    return message


def settings_of(hyper: RlhfStage) -> PpoSettings:
    """What the loop makes of the stage's settings.

    Raises:
        BadConfigError: they do not fit each other.
    """

    def given(value: float | None, *, omitted: float) -> float:
        return omitted if value is None else value

    return PpoSettings(
        algorithm=hyper.algorithm,
        group_size=hyper.grouped or 1,
        sampling=Sampling(hyper.max_new_tokens, hyper.temperature, hyper.top_p, stop=stop_texts(hyper)),
        score_whitening=hyper.score_whitening,
        score_clip=hyper.score_clip,
        batch_size=hyper.rollout_size,
        mini_batch_size=hyper.minibatch_size // hyper.accumulation,
        gradient_accumulation_steps=hyper.accumulation,
        ppo_epochs=hyper.update_epochs,
        learning_rate=hyper.learning_rate,
        warmup_ratio=hyper.warmup_ratio,
        value_learning_rate=given(hyper.value_learning_rate, omitted=VALUE_LEARNING_RATE),
        gamma=given(hyper.gamma, omitted=GAMMA),
        lam=given(hyper.lam, omitted=LAM),
        cliprange=hyper.clip_range,
        cliprange_value=given(hyper.clip_range_value, omitted=CLIP_RANGE_VALUE),
        vf_coef=given(hyper.vf_coef, omitted=VF_COEF),
        init_kl_coef=hyper.init_kl,
        target_kl=hyper.target_kl,
        missing_eos_penalty=hyper.missing_end_penalty,
        max_grad_norm=hyper.max_grad_norm,
        gradient_checkpointing=hyper.gradient_checkpointing,
        limits=AnswerLimits(max_kl=hyper.max_kl),
        max_update_kl=hyper.max_update_kl,
        min_entropy_ratio=hyper.min_entropy_ratio,
    )
