"""Supervised stage: teach a pretrained encoder the classes of a snapshot.

Implements LoRA (Hu et al. 2021, arXiv:2106.09685, eq. 3) on every linear layer of the encoder's blocks, mean pooling
and a linear head per task, trained by cross-entropy with label smoothing (Szegedy et al. 2016, arXiv:1512.00567,
eq. 6), summed over tasks, and AdamW with decoupled decay (Loshchilov and Hutter 2019, arXiv:1711.05101, alg. 2);
learning rate linear up, linear down.

 1. Read the snapshot's train split and the base model; refuse what cannot be trained.
 2. Tokenise every text once, cut to maxTokens.
 3. Build the policy: adapters start as the identity.
 4. Make the optimizer.
 5. Resume from the newest checkpoint, if this run was interrupted.
 6. For each step: take the epoch's next batch, set the learning rate, forward, stop on a loss that is no number,
    backward, clip, update.
 7. Checkpoint every checkpointEverySteps and when asked to leave; then, in the latter case, leave (exit 75).
 8. Write the policy (uncalibrated; `evaluate` adds temperature and threshold).

Deviations from the common fine-tuning script, and why:
 a. Batches hold texts of like length (`batches_of_steps`), padded to their own longest: less work for equal learning.
 b. The encoder's own dropout is off, lora.dropout alone acts: adapters are small, a few epochs do not overfit them,
    and attention without dropout takes the fused kernel (measured in bench/supervised).
 c. Adapters are folded into the frozen weights in each pass (`fold_lora`): one product instead of four.
 d. The head starts at random. Fitting it to the frozen features first (LP-FT, Kumar et al. 2022, arXiv:2202.10054) was
    measured on the support-router rows: it cost a third of an epoch and gained nothing (accuracy .781 against .782,
    negative log-likelihood .72 against .66).
 e. The last weights are kept, not the best by validation: the learning rate ends at 0, where the loss is flat, and
    a choice on validation would flatter the temperature that `evaluate` fits on the same rows.
 f. What the frozen first blocks (lora.lastBlocks) make of a row is kept for the later epochs (`FrozenStates`): with
    two of six blocks learning and two epochs, a fifth of the work. On the CPU and one node only: a GPU's memory is
    dear, and a node of several sees another share of the rows in each epoch.

Several nodes learn as one: each computes its share of every batch, and the gradients are summed (`rl.sharing`); without
dropout the result is one node's up to the order of additions.

The order of batches is a function of (seed, epoch), the state of everything else is in the checkpoint; so a resumed
run repeats the loss curve of an undisturbed one bit for bit on one kind of CPU, number of threads and memory limit.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import structlog
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ratchet_api.policy_types import GENERATOR
from ratchet_api.stage import StageResult, SupervisedConfig
from ratchet_api.steps import steps_per_epoch, total_steps
from ratchet_api.tasks import UNSAID, Task
from ratchet_jobs.data.base_model import fetch_model
from ratchet_jobs.data.snapshots import open_snapshot
from ratchet_jobs.data.tasks import check_tasks
from ratchet_jobs.models.batching import batches_of_steps
from ratchet_jobs.models.card import PolicyCard, TaskCard
from ratchet_jobs.models.classifier import build_classifier, check_vocabulary, save_classifier
from ratchet_jobs.models.examples import Examples, read_examples
from ratchet_jobs.models.frozen import MOST_BYTES, SHARE_OF_MEMORY, FrozenStates
from ratchet_jobs.models.schedule import learning_rate_factor
from ratchet_jobs.models.task_loss import TaskLoss, class_weights_of
from ratchet_jobs.models.tokenizing import TokenRows, load_tokenizer, tokenize
from ratchet_jobs.models.training_state import load_training_state, save_training_state
from ratchet_jobs.recipes import supervised_generator
from ratchet_jobs.rl.sharing import seed_share, share_of, sum_gradients
from ratchet_jobs.runtime.context import StageContext
from ratchet_jobs.runtime.errors import BadDataError, BadLabelsError, NotANumberError
from ratchet_jobs.runtime.memory import memory_bytes

MAX_WORDLESS_SHARE = 0.01
"""Share of texts without any token up to which they are left out; above it, tokenizer and texts do not match."""

LAST_STEPS = 20
"""The training loss in the result is the mean over this many last steps."""

log = structlog.get_logger(__name__)


def run(ctx: StageContext, config: SupervisedConfig) -> StageResult:
    """Train and write the policy's files into the stage's output folder. A generator has a recipe of its own.

    Args:
        ctx: store, checkpoints, progress and stop signal of this pod.
        config: dataset, base model and hyper-parameters.

    Returns:
        Metrics: loss (mean of the last steps), steps, train_rows, skipped_rows.

    Raises:
        StageError: data, labels, settings or model cannot be used; the loss is no number; or the pod must leave.
    """
    if config.policy_type == GENERATOR:
        return supervised_generator.run(ctx, config)
    hyper, team = config.hyper, ctx.team
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(ctx.threads)

    # 1. snapshot and base model
    snapshot = open_snapshot(ctx.store, config.dataset, into=ctx.folder("snapshot"))
    labels, tasks, train = snapshot.labels, snapshot.tasks, read_examples(snapshot, "train")
    task_weights = hyper.task_weights or {}
    named = {f"stages.supervised.taskWeights.{name}": name for name in task_weights}
    check_tasks(named, tasks=snapshot.manifest.task_names)
    base = fetch_model(ctx.store, config.base_model, namespace=ctx.namespace, into=ctx.folder("base"))

    # 2. tokenise once
    tokenizer = load_tokenizer(base, max_tokens=hyper.max_tokens)
    tokens = tokenize(tokenizer, train.texts)
    kept = _check_rows(train, tokens, tasks)
    rows, lengths, targets = [tokens.rows[i] for i in kept], tokens.lengths[kept], train.labels[kept]

    # 3. policy
    classifier = build_classifier(
        base, classes=len(labels), lora=config.lora, max_tokens=hyper.max_tokens, seed=config.seed
    ).to(device)
    check_vocabulary(classifier.encoder, tokenizer)
    parameters = classifier.trainable()
    class_weights: list[Tensor | None] = [None for _ in tasks]
    if hyper.class_weights == "balanced":
        class_weights = [torch.from_numpy(each).to(device) for each in class_weights_of(tasks, targets)]
    loss_of = TaskLoss(tasks, weights=task_weights, class_weights=class_weights, label_smoothing=hyper.label_smoothing)

    # 4. optimizer: no decay on the head's bias, which holds the classes' frequencies
    head_rate = hyper.head_learning_rate or hyper.learning_rate
    groups = [
        {"params": [p for n, p in parameters.items() if not n.startswith("head.")], "peak": hyper.learning_rate},
        {"params": [classifier.head.weight], "peak": head_rate},
        {"params": [classifier.head.bias], "peak": head_rate, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=hyper.learning_rate, weight_decay=hyper.weight_decay, fused=True)
    epoch_steps = steps_per_epoch(len(rows), hyper.batch_size)
    steps = total_steps(len(rows), hyper.batch_size, hyper.epochs)
    torch.manual_seed(config.seed)  # of the adapters' dropout, the only randomness inside a step

    # 5. resume: the number of losses is the step to go on from
    losses: list[float] = []
    if (checkpoint := ctx.checkpoints.latest()) is not None:
        losses = load_training_state(checkpoint.folder, parameters=parameters, optimizer=optimizer)

    def save_state(folder: Path) -> None:
        save_training_state(folder, parameters=parameters, optimizer=optimizer, losses=losses)

    # 6. steps
    autocast = torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext()
    classifier.train_mode()

    batches_of = functools.partial(batches_of_steps, lengths, hyper.batch_size, seed=config.seed)
    done = len(losses)
    again = steps > epoch_steps and device.type == "cpu" and team.size == 1
    bytes_kept = min(MOST_BYTES, int(memory_bytes() * SHARE_OF_MEMORY)) if again else 0
    states = FrozenStates(classifier, rows, batches=[*batches_of(start=0, stop=epoch_steps)], bytes_kept=bytes_kept)
    for step, batch in enumerate(batches_of(start=done, stop=steps), start=done):
        factor = learning_rate_factor(step, steps=steps, warmup_ratio=hyper.warmup_ratio)
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        optimizer.zero_grad(set_to_none=True)
        mine, loss = batch[share_of(team)], torch.zeros(1)
        seed_share(team, config.seed, step)
        if len(mine):  # a team larger than the batch: this node has no row
            with autocast:
                logits = states.logits(mine).float()  # (B, C)
            # targets (N, T), T tasks
            if team.size == 1:
                loss = loss_of(logits, targets[batch])
            else:
                loss = loss_of.share(logits, targets[mine], batch=targets[batch])
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
        rate = hyper.learning_rate * factor
        ctx.progress.report(done, steps, loss=losses[-1], examples=len(batch), learning_rate=rate, grad_norm=grad_norm)
        leaving = ctx.should_stop()
        if leaving or (done % hyper.checkpoint_every_steps == 0 and done < steps):
            ctx.checkpoints.save(done, save_state)
        if leaving:
            raise ctx.preempted(done)

    # 8. policy
    names = snapshot.manifest.task_names
    cards = None if names is None else tuple(TaskCard(name=name) for name in names)
    card = PolicyCard(labels=labels, tasks=cards, max_tokens=hyper.max_tokens, base_model=config.base_model)
    save_classifier(classifier, ctx.output, card=card, tokenizer_from=base)
    tail = losses[-min(len(losses), LAST_STEPS) :]
    return StageResult(
        metrics={
            "loss": sum(tail) / len(tail),
            "steps": float(steps),
            "train_rows": float(len(rows)),
            "skipped_rows": float(len(train.texts) - len(rows)),
        }
    )


def _check_rows(train: Examples, tokens: TokenRows, tasks: Sequence[Task]) -> NDArray[np.int64]:
    """Return the places of the rows to train on: those that have tokens.

    Raises:
        BadDataError: more than MAX_WORDLESS_SHARE of the texts have none.
        BadLabelsError: fewer than two classes of a task have rows.
    """
    kept = np.flatnonzero(tokens.has_words)
    count, skipped = len(train.texts), len(train.texts) - len(kept)
    if skipped > MAX_WORDLESS_SHARE * count:
        first = int(np.flatnonzero(~tokens.has_words)[0])
        raise BadDataError(
            f"train split: {skipped} of {count} texts give no token with the base model's tokenizer, the first in row "
            f"{first}; remove such rows (filters.minTextChars) or take a base model of the texts' language"
        )
    if skipped:
        log.warning("texts without tokens are left out", rows=skipped, of=count)
    for place, task in enumerate(tasks):
        said = train.labels[kept, place]
        present = np.unique(said[said != UNSAID])
        if len(present) < 2:
            found = ", ".join(repr(task.labels[i - task.start]) for i in present) or "no class"
            of_task = f" of task {task.name!r}" if task.name else ""
            raise BadLabelsError(
                f"train split: rows of {found} only; training needs rows of at least two classes{of_task}"
            )
    return kept
