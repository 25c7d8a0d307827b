"""What training on the feedback so far would be: how many samples, how many steps of all its stages, how long.

Decides the estimate and the least number of samples. Pure; starts nothing.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from ratchet_api.feedback import MIN_TRAIN_SAMPLES, TrainEstimate, TrainModel, TrainRequest
from ratchet_api.training_run import RunTemplate
from ratchet_gateway.errors import NotEnough
from ratchet_gateway.tally import Scores
from ratchet_web.errors import Malformed

TRAIN_SHARE = 0.8
"""Of the samples; the rest is for validation and test, as a FeedbackDataset splits unless told otherwise."""
SECONDS_PER_TOKEN = 1.0 / (16 * 96) / 2
"""Of training on two CPU cores: bench/supervised has 1.00 CPU second for a step of 16 rows of 96 tokens, with an
encoder of 22 million parameters. A GPU is many times faster."""
READ = 1 / 3
"""What a token costs that is read or drawn without a gradient, as a share of one that is learned from."""
START_MINUTES = 1.0
"""Pods start, the model is loaded, the result is evaluated."""


class Work(NamedTuple):
    """What stages would do."""

    steps: int
    """Optimizer steps."""
    tokens: float
    """Tokens that a step learns from; one that is only read or drawn counts as READ of one."""


def estimate(samples: int, scores: Scores, template: RunTemplate, request: TrainRequest) -> TrainEstimate:
    """Return what a run of the template on these samples would be.

    Args:
        samples: events that teach something.
        scores: of those that are rated.
        template: of the policy.
        request: what was asked for.

    Raises:
        NotEnough: fewer than MIN_TRAIN_SAMPLES samples.
        Malformed: the request changes a stage that the template does not run.
    """
    if samples < MIN_TRAIN_SAMPLES:
        raise NotEnough(f"Insufficient feedback: {samples} samples (minimum {MIN_TRAIN_SAMPLES} required)")
    supervised = template.mode != "rl_only"
    for name, given in (("maxSteps", request.max_steps), ("learningRate", request.learning_rate)):
        if given is not None and not supervised:
            raise Malformed(
                f"{name} {given}: is of the supervised stage, which mode rl_only does not run; leave it out"
            )
    rows = math.ceil(samples * TRAIN_SHARE)
    work = [_supervised(template, rows, request.max_steps)] if supervised else []
    work += _rewarded(template, rows) if template.with_rl else []
    seconds = sum(each.tokens for each in work) * SECONDS_PER_TOKEN
    return TrainEstimate(
        status="dry_run",
        feedback_count=samples,
        estimated_steps=sum(each.steps for each in work),
        estimated_time_minutes=round(START_MINUTES + seconds / 60, 1),
        score_mean=round(scores.mean, 6),
        score_std=round(scores.std, 6),
        model=TrainModel(
            base_model=template.base_model.uri,
            use_lora=True,
            learning_rate=request.learning_rate or _learning_rate(template),
        ),
    )


def _supervised(template: RunTemplate, rows: int, most: int | None) -> Work:
    hyper = template.stages.supervised
    steps = math.ceil(hyper.epochs * math.ceil(rows / hyper.batch_size))
    steps = steps if most is None else min(steps, most)
    return Work(steps, steps * min(hyper.batch_size, rows) * hyper.max_tokens)


def _rewarded(template: RunTemplate, rows: int) -> list[Work]:
    """The stages of RL; judged answers are taken to be as many as the samples, since they are what people said."""
    stages, tokens = template.stages, template.stages.supervised.max_tokens
    if (liked := stages.preference) is not None:
        taught = math.ceil(rows * (1 - liked.held_out_percent / 100))
        steps = liked.epochs * math.ceil(taught / liked.batch_size)
        # two answers, each read by the reference, too
        return [Work(steps, 2 * liked.epochs * taught * tokens * (1 + READ))]
    if stages.rlhf is None and stages.reward_model is None:
        rl = template.rl
        updates = math.ceil(rl.interactions / rl.rollout_size)
        learned = rl.update_epochs * math.ceil(rl.rollout_size / rl.minibatch_size)
        cost = READ if rl.learning_rate is None else 1.0  # heads alone learn from what is read
        return [Work(updates * learned, rl.interactions * tokens * (READ + cost * rl.update_epochs))]
    found = []
    if (judge := stages.reward_model) is not None:
        taught = math.ceil(rows * (1 - judge.held_out_percent / 100))
        found.append(Work(judge.epochs * math.ceil(taught / judge.batch_size), judge.epochs * taught * tokens))
    rlhf = template.rlhf
    rollouts = rlhf.rollouts * rlhf.learners
    steps = rollouts * rlhf.update_epochs * (rlhf.rollout_size // rlhf.minibatch_size)
    answers = rollouts * rlhf.rollout_size
    asked = rlhf.asks_reward_model or rlhf.shared_reward_model is not None
    read = 2 + asked  # drawn, read by the reference, and by the reward model
    found.append(Work(steps, answers * tokens * (read * READ + rlhf.update_epochs)))
    return found


def _learning_rate(template: RunTemplate) -> float:
    """Of the first stage that learns."""
    stages = template.stages
    if template.mode != "rl_only":
        return stages.supervised.learning_rate
    if stages.preference is not None:
        return stages.preference.learning_rate
    if stages.rlhf is not None or stages.reward_model is not None:
        return template.rlhf.learning_rate
    return template.rl.learning_rate or template.rl.head_learning_rate
