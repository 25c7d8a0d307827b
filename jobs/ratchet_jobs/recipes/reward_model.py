"""Reward-model stage: learn what people think of a generator's answers, on the very weights that RL starts from.

Implements a Bradley-Terry model of pairs (Bradley and Terry 1952; Stiennon et al. 2020, arXiv:2009.01325, eq. 1) and
cross-entropy with given scores or with their levels (ratingLoss), on a LoRA adapter and a linear head beside the
policy's own, or on an encoder of the reward model's own (baseModel), calibrated to 0..1 (Platt 1999). The maths
stands in `rlhf/reward_model.py`.

 1. Read the judged answers (preferences or ratings, or what a judge said), the policy to stand on, and its base.
 2. Make the trunk: the policy's adapter is added to the weights, a new adapter and head learn on top. With baseModel
    the trunk only cuts what does not fit the policy, and reads for the judge of step 6.
 3. Resume from the newest checkpoint, if this run was interrupted.
 4. For each step: the epoch's next batch, loss, gradient, step.
 5. Checkpoint every checkpointEverySteps and when asked to leave; then, in the latter case, leave (exit 75).
 6. Calibrate and measure on the prompts that were held out; write adapter, head and scale. What people said of the
    held-out answers becomes a judge of its own, which the rl stage holds against the reward.

Rows of one prompt stay on one side of the split, so that no held-out prompt was learned from. The order of batches and
the dropout are functions of (seed, step), so a resumed run repeats an undisturbed one bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import structlog
import torch
from safetensors.torch import load_file, save_file

from ratchet_api.stage import RewardModelConfig, StageResult
from ratchet_api.training_run import Lora
from ratchet_jobs.data.base_model import REWARD_FIELD, fetch_model
from ratchet_jobs.data.judged import Criticised, Pair, Scored, read_judged, read_scores
from ratchet_jobs.data.snapshots import open_snapshot
from ratchet_jobs.recipes.generator_parts import fetch_start
from ratchet_jobs.recipes.rl_parts import STATE_FILE
from ratchet_jobs.rlhf.held_out_judge import make_judge
from ratchet_jobs.rlhf.policies import open_trunk
from ratchet_jobs.rlhf.reward_model import Preferred, Rated, RewardSettings, RewardTraining, Row
from ratchet_jobs.rlhf.scorers import EncoderScorer, Scorer, TrunkScorer
from ratchet_jobs.rlhf.trunk import Trunk
from ratchet_jobs.rlhf.wording import prompt_tokens, response_tokens
from ratchet_jobs.runtime.context import StageContext
from ratchet_jobs.runtime.errors import BadDataError, NotANumberError

FIELD = "spec.stages.rewardModel.datasetRef"
LAST_STEPS = 20
"""The training loss in the result is the mean over this many last steps."""

log = structlog.get_logger(__name__)


def run(ctx: StageContext, config: RewardModelConfig) -> StageResult:
    """Train and write the reward model's files into the stage's output folder.

    Args:
        ctx: store, checkpoints, progress and stop signal of this pod.
        config: judged answers, policy to stand on and hyper-parameters.

    Returns:
        Metrics: loss (mean of the last steps), steps, train_rows, held_out_rows, skipped_rows (prompt and answer do not
        fit the policy's maxTokens, or cannot be learned from with scores: judge), and, on held-out rows, pair_accuracy,
        mean_squared_error and ece where they exist, mean_squared_error/QUALITY of a critic, and judge_agreement (of the
        judge made of them) where they suffice for one.

    Raises:
        StageError: data, settings or policy cannot be used; the loss is no number; or the pod must leave.
    """
    hyper = config.hyper
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(ctx.threads)

    # 1. judged answers, policy and base
    snapshot = open_snapshot(ctx.store, config.dataset, into=ctx.folder("snapshot"))
    scored = read_scores(snapshot, field=FIELD) if hyper.scores == "judge" else None
    judged: Sequence[Pair | Scored | Criticised] = (
        scored.rows if scored is not None else read_judged(snapshot, field=FIELD)
    )
    start, digest = fetch_start(ctx, config.start, config.start_artifact)
    base = fetch_model(ctx.store, config.base_model, namespace=ctx.namespace, into=ctx.folder("base"))

    # 2. trunk
    trunk, card = open_trunk(
        start,
        base,
        digest=digest,
        rank=1,  # the policy's adapter says nothing here and is not kept
        reward_rank=hyper.lora_rank if hyper.base_model is None else None,
        reward_dropout=hyper.lora_dropout,
        seed=config.seed,
        device=device,
    )

    def fits(row: Row) -> bool:
        answers = (row.chosen, row.rejected) if isinstance(row, Preferred) else (row.response,)
        words = [len(response_tokens(trunk.wording, answer, "dialogue")) for answer in answers]
        return len(prompt_tokens(trunk.wording, row.prompt, "dialogue")) + max(words) <= card.max_tokens

    given: list[Row] = [Preferred(*row) if isinstance(row, Pair) else Rated(*row) for row in judged]
    rows = [row for row in given if fits(row)]
    skipped = len(given) - len(rows)
    if scored is not None and scored.left_out:
        log.warning("rows have no numbers of the judge, or several turns", left_out=scored.left_out)
    if skipped:
        log.warning("rows do not fit maxTokens", left_out=skipped, of=len(given))
    if skipped == len(given) and given:
        raise BadDataError(
            f"{FIELD}: prompt and answer of all {skipped} rows have more tokens than the "
            f"policy's maxTokens {card.max_tokens}; raise stages.supervised.maxTokens"
        )
    settings = RewardSettings(
        rating_loss=hyper.rating_loss,
        num_epochs=hyper.epochs,
        batch_size=hyper.batch_size,
        learning_rate=hyper.learning_rate,
        head_learning_rate=hyper.head_learning_rate,
        warmup_ratio=hyper.warmup_ratio,
        held_out_share=hyper.held_out_percent / 100,
        max_grad_norm=hyper.max_grad_norm,
    )
    try:
        scorer = _scorer(ctx, config, trunk, qualities=scored.qualities if scored is not None else ())
        training = RewardTraining(scorer, rows, settings, seed=config.seed)
    except BadDataError as error:
        raise BadDataError(f"{FIELD}, train split: {error}") from error

    # 3. resume: the number of losses is the step to go on from
    losses: list[float] = []
    if (checkpoint := ctx.checkpoints.latest()) is not None:
        state = load_file(checkpoint.folder / STATE_FILE)
        losses = state.pop("losses").tolist()
        training.load_state(state)

    def save_state(folder: Path) -> None:
        tensors = training.state() | {"losses": torch.tensor(losses)}
        save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, folder / STATE_FILE)

    # 4. steps
    while training.done < training.steps:
        try:
            step = training.step()
        except NotANumberError as error:
            raise NotANumberError(f"stages.rewardModel, step {training.done + 1}: {error}") from error
        losses.append(step.loss)

        # 5. progress, checkpoint, leave
        done = training.done
        ctx.progress.report(
            done,
            training.steps,
            loss=step.loss,
            examples=step.rows,
            learning_rate=step.learning_rate,
            grad_norm=step.grad_norm,
        )
        leaving = ctx.should_stop()
        if leaving or (done % hyper.checkpoint_every_steps == 0 and done < training.steps):
            ctx.checkpoints.save(done, save_state)
        if leaving:
            raise ctx.preempted(done)

    # 6. calibrate, measure, write
    model, quality = training.finished()
    model.save(ctx.output)
    judge = make_judge(trunk, training.held_out)
    if judge is not None:
        judge.save(ctx.output)
    tail = losses[-min(len(losses), LAST_STEPS) :]
    measured = {
        "pair_accuracy": quality.pair_accuracy,
        "mean_squared_error": quality.mean_squared_error,
        "ece": quality.ece,
        "judge_agreement": None if judge is None else judge.agreement,
    }
    return StageResult(
        metrics={
            "loss": sum(tail) / len(tail),
            "steps": float(training.steps),
            "train_rows": float(len(rows) - quality.held_out),
            "held_out_rows": float(quality.held_out),
            "skipped_rows": float(skipped + (scored.left_out if scored is not None else 0)),
            **{name: value for name, value in measured.items() if value is not None},
            **{f"mean_squared_error/{name}": error for name, error in quality.quality_errors.items()},
        }
    )


def _scorer(ctx: StageContext, config: RewardModelConfig, trunk: Trunk, *, qualities: Sequence[str]) -> Scorer:
    """What is trained: an adapter on the policy's trunk, or an encoder of the reward model's own.

    Raises:
        StageError: the encoder is not there, not what its digest says, or not usable.
    """
    hyper, own = config.hyper, config.hyper.base_model
    if own is None:
        return TrunkScorer(trunk, qualities=qualities)
    into = ctx.folder("encoder")
    return EncoderScorer(
        fetch_model(ctx.store, own, namespace=ctx.namespace, into=into, field=REWARD_FIELD),
        lora=Lora(rank=hyper.lora_rank, alpha=2 * hyper.lora_rank, dropout=hyper.lora_dropout)
        if own.method == "lora"
        else None,
        max_tokens=own.max_tokens,
        seed=config.seed,
        device=trunk.device,
        qualities=qualities,
        uri=own.uri,
    )
