"""Supervised stage of a generator: teach a pretrained language model to answer as the demonstrations do.

Implements LoRA (Hu et al. 2021, arXiv:2106.09685, eq. 3) on every linear layer of the model's blocks, trained by
next-token cross-entropy on the tokens of the responses alone, and AdamW with decoupled decay (Loshchilov and Hutter
2019, arXiv:1711.05101, alg. 2); learning rate linear up, linear down.

 1. Read the snapshot's train split and the base model; refuse what cannot be trained.
 2. Build the policy: adapters start as the identity.
 3. Word and tokenise every row once; count what does not fit.
 4. Make the optimizer.
 5. Resume from the newest checkpoint, if this run was interrupted.
 6. For each step: take the epoch's next batch, set the learning rate, forward, stop on a loss that is no number,
    backward, clip, update.
 7. Checkpoint every checkpointEverySteps and when asked to leave; then, in the latter case, leave (exit 75).
 8. Write the policy's adapter; `evaluate` adds the merged model.

Deviations from the common fine-tuning script (TRL's SFTTrainer), and why:
 a. A loop of our own: transformers' Trainer writes optimizer and generators with pickle (docs/adr/0013).
 b. The loss of a batch is the mean over its response tokens, so every token of a batch weighs alike, not every row.
 c. Prompt and response are tokenised apart (`templates`), and a prompt is never cut.
 d. Batches hold rows of like length, padded to their own longest; nothing is packed, so no row sees another.
 e. The model's own dropout is off, lora.dropout alone acts.

Several nodes learn as one: each computes its share of every batch, and the gradients are summed (`rl.sharing`); without
dropout the result is one node's up to the order of additions.

The order of batches is a function of (seed, epoch), the state of everything else is in the checkpoint; so a resumed
run repeats the loss curve of an undisturbed one bit for bit on one kind of CPU and number of threads.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import structlog
import torch
from numpy.typing import NDArray
from torch import nn

from ratchet_api.stage import StageResult, SupervisedConfig
from ratchet_api.steps import steps_per_epoch, total_steps
from ratchet_jobs.data.base_model import fetch_model
from ratchet_jobs.data.demonstrations import read_demonstrations
from ratchet_jobs.data.snapshots import open_snapshot
from ratchet_jobs.generators.answering import response_logits, stacked, to_device
from ratchet_jobs.generators.artifact import save_adapter
from ratchet_jobs.generators.card import GeneratorCard
from ratchet_jobs.generators.examples import tokenize_rows
from ratchet_jobs.generators.loading import build_generator, train_mode, trainable
from ratchet_jobs.models.batching import bucketed_batches
from ratchet_jobs.models.schedule import learning_rate_factor
from ratchet_jobs.models.training_state import load_training_state, save_training_state
from ratchet_jobs.rl.sharing import seed_share, share_of, sum_gradients
from ratchet_jobs.runtime.context import StageContext
from ratchet_jobs.runtime.errors import NotANumberError

LAST_STEPS = 20
"""The training loss in the result is the mean over this many last steps."""

log = structlog.get_logger(__name__)


def run(ctx: StageContext, config: SupervisedConfig) -> StageResult:
    """Train and write the policy's files into the stage's output folder.

    Args:
        ctx: store, checkpoints, progress and stop signal of this pod.
        config: dataset, base model and hyper-parameters.

    Returns:
        Metrics: loss (mean of the last steps), steps, train_rows, skipped_rows (their prompt left no room), cut_rows
        (their response was cut).

    Raises:
        StageError: data, settings or model cannot be used; the loss is no number; or the pod must leave.
    """
    hyper, team = config.hyper, ctx.team
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(ctx.threads)

    # 1. snapshot and base model
    snapshot = open_snapshot(ctx.store, config.dataset, into=ctx.folder("snapshot"))
    train = read_demonstrations(snapshot, "train")
    base = fetch_model(ctx.store, config.base_model, namespace=ctx.namespace, into=ctx.folder("base"))

    # 2. policy
    model, wording = build_generator(base, lora=config.lora, max_tokens=hyper.max_tokens, seed=config.seed)
    model.to(device)
    parameters = trainable(model)

    # 3. tokenise once
    examples = tokenize_rows(train, wording, max_tokens=hyper.max_tokens, split="train")
    pairs, lengths = examples.pairs, examples.lengths
    if examples.long_prompts or examples.cut:
        log.warning("rows do not fit maxTokens", left_out=examples.long_prompts, cut=examples.cut, of=len(train))

    # 4. optimizer
    optimizer = torch.optim.AdamW(
        parameters.values(), lr=hyper.learning_rate, weight_decay=hyper.weight_decay, fused=True
    )
    epoch_steps = steps_per_epoch(len(pairs), hyper.batch_size)
    steps = total_steps(len(pairs), hyper.batch_size, hyper.epochs)
    torch.manual_seed(config.seed)  # of the adapters' dropout, the only randomness inside a step

    # 5. resume: the number of losses is the step to go on from
    losses: list[float] = []
    if (checkpoint := ctx.checkpoints.latest()) is not None:
        losses = load_training_state(checkpoint.folder, parameters=parameters, optimizer=optimizer)

    def save_state(folder: Path) -> None:
        save_training_state(folder, parameters=parameters, optimizer=optimizer, losses=losses)

    # 6. steps
    autocast = torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext()
    train_mode(model)
    batches: list[NDArray[np.int64]] = []
    for step in range(len(losses), steps):
        epoch, place = divmod(step, epoch_steps)
        if place == 0 or not batches:
            batches = bucketed_batches(lengths, hyper.batch_size, seed=config.seed, epoch=epoch)
        batch = batches[place]
        rows = [pairs[i] for i in batch[share_of(team)]]
        rate = hyper.learning_rate * learning_rate_factor(step, steps=steps, warmup_ratio=hyper.warmup_ratio)
        for group in optimizer.param_groups:
            group["lr"] = rate
        seed_share(team, config.seed, step)
        optimizer.zero_grad(set_to_none=True)
        tokens, loss = torch.zeros(1), torch.zeros(1)
        if rows:  # a team larger than the batch: this node has no row
            with autocast:
                logits, targets = response_logits(model, to_device(stacked(rows, pad_id=wording.pad_id), device))
            loss = nn.functional.cross_entropy(logits, targets)  # (M, V), (M,): M response tokens of this node's rows
            tokens += len(targets)
        mine = float(tokens)
        team.sum_(tokens)  # N of the batch
        if rows:
            if team.size > 1:
                loss = loss * (mine / float(tokens))
            loss.backward()
        sum_gradients(team, parameters.values())
        grad_norm = float(nn.utils.clip_grad_norm_(parameters.values(), hyper.max_grad_norm))
        loss = loss.detach().reshape(1)
        team.sum_(loss)
        losses.append(float(loss))
        if not math.isfinite(losses[-1]) or not math.isfinite(grad_norm):
            raise NotANumberError(
                f"step {step + 1} of {steps}: loss {losses[-1]}, gradient norm {grad_norm}; "
                f"lower stages.supervised.learningRate (now {hyper.learning_rate})"
            )
        optimizer.step()

        # 7. progress, checkpoint, leave
        done = step + 1
        ctx.progress.report(done, steps, loss=losses[-1], examples=len(batch), learning_rate=rate, grad_norm=grad_norm)
        leaving = ctx.should_stop()
        if leaving or (done % hyper.checkpoint_every_steps == 0 and done < steps):
            ctx.checkpoints.save(done, save_state)
        if leaving:
            raise ctx.preempted(done)

    # 8. policy
    card = GeneratorCard(template=wording.template, max_tokens=hyper.max_tokens, base_model=config.base_model)
    save_adapter(model, ctx.output, card=card, tokenizer_from=base)
    tail = losses[-min(len(losses), LAST_STEPS) :]
    return StageResult(
        metrics={
            "loss": sum(tail) / len(tail),
            "steps": float(steps),
            "train_rows": float(len(pairs)),
            "skipped_rows": float(examples.long_prompts),
            "cut_rows": float(examples.cut),
        }
    )
