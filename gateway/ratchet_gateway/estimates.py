"""What training on the feedback so far would be: how many samples, how many steps, how long.

Decides the estimate and the least number of samples. Pure; starts nothing.
"""

from __future__ import annotations

import math

from ratchet_api.feedback import MIN_TRAIN_SAMPLES, TrainEstimate, TrainModel, TrainRequest
from ratchet_api.training_run import RunTemplate
from ratchet_gateway.errors import NotEnough
from ratchet_gateway.tally import Scores

TRAIN_SHARE = 0.8
"""Of the samples; the rest is for validation and test, as a FeedbackDataset splits unless told otherwise."""
SECONDS_PER_TOKEN = 1.0 / (16 * 96) / 2
"""Of training on two CPU cores: bench/supervised has 1.00 CPU second for a step of 16 rows of 96 tokens, with an
encoder of 22 million parameters. A GPU is many times faster."""
START_MINUTES = 1.0
"""Pods start, the model is loaded, the result is evaluated."""


def estimate(scores: Scores, template: RunTemplate, request: TrainRequest) -> TrainEstimate:
    """Return what a run of the template on these samples would be.

    Raises:
        NotEnough: fewer than MIN_TRAIN_SAMPLES samples.
    """
    if scores.count < MIN_TRAIN_SAMPLES:
        raise NotEnough(f"Insufficient feedback: {scores.count} samples (minimum {MIN_TRAIN_SAMPLES} required)")
    hyper = template.stages.supervised
    rows = math.ceil(scores.count * TRAIN_SHARE)
    steps = math.ceil(hyper.epochs * math.ceil(rows / hyper.batch_size))
    if request.max_steps is not None:
        steps = min(steps, request.max_steps)
    seconds = steps * min(hyper.batch_size, rows) * hyper.max_tokens * SECONDS_PER_TOKEN
    return TrainEstimate(
        status="dry_run",
        feedback_count=scores.count,
        estimated_steps=steps,
        estimated_time_minutes=round(START_MINUTES + seconds / 60, 1),
        score_mean=round(scores.mean, 6),
        score_std=round(scores.std, 6),
        model=TrainModel(
            base_model=template.base_model.uri,
            use_lora=True,
            learning_rate=request.learning_rate or hyper.learning_rate,
        ),
    )
