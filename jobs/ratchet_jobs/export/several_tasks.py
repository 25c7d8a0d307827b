"""What the layouts need where a policy answers several tasks: each task's columns, and the policy as if of one task.

Decides how a reader takes the logits of all tasks apart. Called by the layouts and by `exporting`.
"""

from __future__ import annotations

import torch
from torch import nn

from ratchet_jobs.export.layout import Source
from ratchet_jobs.models.card import Head, PolicyCard
from ratchet_jobs.models.classifier import LoadedPolicy, load_classifier

_NUMPY = """\
scaled = np.exp((logits - logits.max(1, keepdims=True)) / {temperature})
probabilities = scaled / scaled.sum(1, keepdims=True)"""

_NUMPY_BY_TASK = """\
heads = {heads}    # columns and temperature of each task
probabilities = {{}}
for task, (columns, temperature) in heads.items():
    mine = logits[:, columns]
    scaled = np.exp((mine - mine.max(1, keepdims=True)) / temperature)
    probabilities[task] = scaled / scaled.sum(1, keepdims=True)"""

_TORCH = "probabilities = (logits / {temperature}).softmax(-1)"

_TORCH_BY_TASK = """\
heads = {heads}    # columns and temperature of each task
probabilities = {{task: (logits[:, columns] / t).softmax(-1) for task, (columns, t) in heads.items()}}"""


def softmax_by_numpy(card: PolicyCard) -> str:
    """Lines of Python from `logits` to `probabilities`: an array, or one per task."""
    return _lines(card, _NUMPY, _NUMPY_BY_TASK)


def softmax_by_torch(card: PolicyCard) -> str:
    """The same for tensors."""
    return _lines(card, _TORCH, _TORCH_BY_TASK)


def _lines(card: PolicyCard, of_one: str, of_several: str) -> str:
    if card.tasks is None:
        return of_one.format(temperature=card.temperature)
    heads = ", ".join(
        f'"{task.name}": (slice({task.start}, {task.stop}), {fit.temperature})' for task, fit in card.heads
    )
    return of_several.format(heads=f"{{{heads}}}")


def alone(source: Source, head: Head) -> Source:
    """The policy as if it answered this task alone: its rows of the head, its calibration, its classes' plain names.

    Loaded anew, because a layout uses a policy up.
    """
    policy = load_classifier(source.folder, source.base)
    whole, task = policy.classifier.head, head.task
    mine = nn.Linear(whole.in_features, len(task.labels))
    with torch.no_grad():
        mine.weight.copy_(whole.weight[task.start : task.stop])
        mine.bias.copy_(whole.bias[task.start : task.stop])
    policy.classifier.head = mine
    card = policy.card.model_copy(
        update={
            "labels": task.plain_labels,
            "tasks": None,
            "temperature": head.fit.temperature,
            "abstain_threshold": head.fit.threshold,
        }
    )
    return Source(LoadedPolicy(policy.classifier, card, policy.tokenizer), source.folder, source.base, source.tokens)
