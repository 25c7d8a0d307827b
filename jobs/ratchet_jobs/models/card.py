"""policy.json: what a served classifier must know besides its weights: classes, tasks, limits, calibration.

Written by `supervised` (uncalibrated) and again by `evaluate` (with temperature and threshold); read by every later
stage and by the policy server. Pure data, no torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from ratchet_api.base import ApiModel, LabelName
from ratchet_api.tasks import MAX_TASKS, Task, TaskName, tasks_of
from ratchet_api.training_run import BaseModelRef
from ratchet_jobs.runtime.errors import BadModelError

CARD_FILE = "policy.json"
REWARD_MODEL_FILE = "reward_model.json"
"""What a reward model's folder has in its place."""

Temperature = Annotated[float, Field(gt=0)]
Threshold = Annotated[float, Field(ge=0, le=1)]


class Fit(NamedTuple):
    """What `evaluate` fits for one task."""

    temperature: float = 1.0
    """Logits are divided by this before the softmax."""
    threshold: float | None = None
    """The policy abstains when its largest probability is below this; None = it never abstains."""


class Head(NamedTuple):
    """One task of a policy: its rows of the head, and what was fitted for it."""

    task: Task
    fit: Fit


class TaskCard(ApiModel):
    """Calibration of one of several tasks; its classes are those of the label map that begin with its name."""

    name: TaskName
    temperature: Temperature = 1.0
    abstain_threshold: Threshold | None = None


class PolicyCard(ApiModel):
    """A trained classifier's label map, limits and calibration."""

    format: Literal["ratchet.dev/policy-v1"] = "ratchet.dev/policy-v1"
    policy_type: Literal["classifier"] = "classifier"
    labels: Annotated[tuple[LabelName, ...], Field(strict=False, min_length=2)]
    """Class names; the place in this list is the row of the head. With several tasks, `task/label`."""
    tasks: Annotated[tuple[TaskCard, ...], Field(strict=False, min_length=1, max_length=MAX_TASKS)] | None = None
    """Several tasks on one encoder, in the order of the label map; None = one task without a name."""
    max_tokens: Annotated[int, Field(ge=4)]
    """Texts are cut to this many tokens, as they were in training."""
    pooling: Literal["mean"] = "mean"
    base_model: BaseModelRef
    """The encoder that the adapter belongs to, by digest."""
    temperature: Temperature = 1.0
    """Logits are divided by this before the softmax. With several tasks each has its own instead."""
    abstain_threshold: Threshold | None = None
    """The policy abstains when its largest probability is below this; None = it never abstains. As temperature."""

    @model_validator(mode="after")
    def _whole_tasks(self) -> Self:
        for head in self.heads:
            if len(head.task.labels) < 2:
                raise ValueError(f"task {head.task.name!r} has one class only, {head.task.labels[0]!r}; it needs two")
        if self.tasks is not None and (self.temperature, self.abstain_threshold) != (1.0, None):
            raise ValueError("temperature and abstainThreshold stand in each of the tasks; remove them beside tasks")
        return self

    @property
    def task_names(self) -> tuple[str, ...] | None:
        """Names of the tasks; None = one task without a name."""
        return None if self.tasks is None else tuple(task.name for task in self.tasks)

    @property
    def heads(self) -> tuple[Head, ...]:
        """Every task with its calibration, in the order of the label map."""
        cards = self.tasks or (self,)
        fits = [Fit(card.temperature, card.abstain_threshold) for card in cards]
        return tuple(Head(*pair) for pair in zip(tasks_of(self.labels, self.task_names), fits, strict=True))

    def fitted(self, fits: Mapping[str, Fit]) -> PolicyCard:
        """The card with other calibrations, by task; a task that is left out gets none."""
        if self.tasks is None:
            fit = fits.get("", Fit())
            return self.model_copy(update={"temperature": fit.temperature, "abstain_threshold": fit.threshold})
        cards = (
            TaskCard(name=name, temperature=fits.get(name, Fit())[0], abstain_threshold=fits.get(name, Fit())[1])
            for name in self.task_names or ()
        )
        return self.model_copy(update={"tasks": tuple(cards)})

    def with_base_at(self, base: BaseModelRef | None) -> PolicyCard:
        """The card with its base where the run finds it, if it is the same one.

        A policy out of the cache, or of an earlier run, may name a place where the same bytes once were.
        """
        if base is None or base.sha256 != self.base_model.sha256:
            return self
        return self.model_copy(update={"base_model": base})


def policy_type_of(data: bytes) -> str:
    """Return what kind of policy a policy.json describes: classifier or generator.

    Raises:
        ValueError: it is no JSON object.
    """
    found = json.loads(data)
    if not isinstance(found, dict):
        raise ValueError("it holds no object")
    # policies that were written before there were generators may not say
    return str(found.get("policyType", "classifier"))


def parse_card(data: bytes) -> PolicyCard:
    """Read a classifier's policy.json.

    Raises:
        BadModelError: it is that of another kind of policy.
        ValidationError: it is no card.
    """
    try:
        kind = policy_type_of(data)
    except ValueError:
        kind = "classifier"  # what is wrong with it is told below
    if kind != "classifier":
        raise BadModelError(f"policy: {CARD_FILE} says policyType {kind!r}, a classifier is needed; name a classifier")
    return PolicyCard.model_validate_json(data)
