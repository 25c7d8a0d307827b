"""RL stage of a generator that learns from judged answers themselves: no reward model, no drawing.

Implements DPO (Rafailov et al. 2023, arXiv:2305.18290, eq. 7) and KTO (Ethayarajh et al. 2024, arXiv:2402.01306, eq.
8), both of which are RL under a penalty on leaving the start policy, with the policy itself as the reward model. The
maths stands in `rlhf/preference.py`.

 1. Read the judged answers, the policy to start from, and its base.
 2. Make the trunk: the start's adapter is added to the weights, a new adapter learns on top; without it the trunk is
    the reference. Deal the rows into those that teach and those that are held out.
 3. Resume from the newest checkpoint, if this run was interrupted.
 4. For each step: the epoch's next batch, loss, gradient, step.
 5. Checkpoint every checkpointEverySteps and when asked to leave; then, in the latter case, leave (exit 75).
 6. Measure on the held-out rows; write the policy: both adapters, the start's and what was learned here, as one.

Deviations from the common code (TRL's trainers): a loop of our own, for the reasons of docs/adr/0013; an answer's end
is learned like any token; KTO's reference point is that of its own batch.

The order of batches is a function of (seed, epoch), so a resumed run repeats an undisturbed one bit for bit.
"""

from __future__ import annotations

import json
from pathlib import Path

import structlog
import torch
from safetensors.torch import load_file, save_file

from ratchet_api.stage import RlConfig, StageResult
from ratchet_jobs.data.base_model import fetch_model
from ratchet_jobs.data.judged import read_judged
from ratchet_jobs.data.snapshots import open_snapshot
from ratchet_jobs.recipes.generator_parts import fetch_start
from ratchet_jobs.recipes.rl_parts import NOTES_FILE, STATE_FILE
from ratchet_jobs.rlhf.policies import open_trunk, save_policy
from ratchet_jobs.rlhf.preference_rows import FIELD, deal
from ratchet_jobs.rlhf.preference_training import PreferenceTraining
from ratchet_jobs.runtime.context import StageContext
from ratchet_jobs.runtime.errors import BadConfigError, NotANumberError

LAST_STEPS = 20
"""Loss, margin and train_agreement in the result are means over this many last steps."""

log = structlog.get_logger(__name__)


def run(ctx: StageContext, config: RlConfig) -> StageResult:
    """Train and write the policy's files into the stage's output folder.

    Args:
        ctx: store, checkpoints, progress and stop signal of this pod.
        config: judged answers, start policy and hyper-parameters.

    Returns:
        Metrics: loss, margin and train_agreement (means of the last steps), steps, train_rows, held_out_pairs,
        skipped_rows (they do not fit, or their score says nothing) and agreement (share of held-out pairs told apart
        rightly; the start is at 0.5).

    Raises:
        StageError: data, settings or policy cannot be used; the loss is no number; or the pod must leave.
    """
    hyper = config.preference
    if hyper is None or config.base_model is None or config.log is None:
        raise BadConfigError("rl stage of a generator: preference, baseModel or log is missing; the operator sets them")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(ctx.threads)

    # 1. judged answers, start policy and base
    judged = read_judged(open_snapshot(ctx.store, config.log, into=ctx.folder("snapshot")), field=FIELD)
    start, digest = fetch_start(ctx, config.start, config.start_artifact)
    base = fetch_model(ctx.store, config.base_model, namespace=ctx.namespace, into=ctx.folder("base"))

    # 2. trunk and rows
    trunk, card = open_trunk(start, base, digest=digest, rank=hyper.lora_rank, seed=config.seed, device=device)
    dealt = deal(judged, hyper, wording=trunk.wording, max_tokens=card.max_tokens, seed=config.seed)
    if dealt.skipped:
        log.warning("rows do not fit maxTokens or say nothing", left_out=dealt.skipped, of=len(judged))
    training = PreferenceTraining(trunk, dealt.train, hyper, seed=config.seed)

    # 3. resume: the length of the curve is the step to go on from
    curve: list[dict[str, float]] = []
    if (checkpoint := ctx.checkpoints.latest()) is not None:
        curve = json.loads((checkpoint.folder / NOTES_FILE).read_text())["curve"]
        training.load_state(load_file(checkpoint.folder / STATE_FILE))

    def save_state(folder: Path) -> None:
        save_file({n: tensor.cpu().contiguous() for n, tensor in training.state().items()}, folder / STATE_FILE)
        (folder / NOTES_FILE).write_text(json.dumps({"curve": curve}))

    # 4. steps
    while training.done < training.steps:
        try:
            step = training.step()
        except NotANumberError as error:
            raise NotANumberError(f"stages.preference, {error}") from error
        told = {"loss": step.loss, "margin": step.margin, "train_agreement": step.agreement}
        curve.append(told)

        # 5. progress, checkpoint, leave
        done = training.done
        rates = {"learning_rate": step.learning_rate, "grad_norm": step.grad_norm}
        ctx.progress.report(done, training.steps, examples=step.rows, **told, **rates)
        leaving = ctx.should_stop()
        if leaving or (done % hyper.checkpoint_every_steps == 0 and done < training.steps):
            ctx.checkpoints.save(done, save_state)
        if leaving:
            raise ctx.preempted(done)

    # 6. measure, write
    agreement = training.agreement(dealt.held_out)
    save_policy(trunk, ctx.output, start=start, card=card)
    tail = curve[-min(len(curve), LAST_STEPS) :]
    return StageResult(
        metrics={
            **{name: sum(point[name] for point in tail) / len(tail) for name in tail[0]},
            "steps": float(training.steps),
            "train_rows": float(len(dealt.train)),
            "held_out_pairs": float(len(dealt.held_out)),
            "skipped_rows": float(dealt.skipped),
            "agreement": agreement,
        }
    )
