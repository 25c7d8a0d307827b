"""How a reward model learns what people think of answers: the reward-model stage.

Decides the fields and bounds of `stages.rewardModel`; `rlhf` has what it is for. Pure; the formulas are in `ratchet_jobs.rlhf`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ratchet_api.base import ApiModel, ObjectRef, Sha256, StoreUri
from ratchet_api.placement import Resources

RatingLoss = Literal["regression", "ordinal"]


class OwnBase(ApiModel):
    """An encoder that a reward model stands on, in place of the policy's trunk."""

    uri: Annotated[
        StoreUri,
        Field(
            description="uri: folder with config.json, tokenizer.json and *.safetensors of a BERT-like encoder; store://PATH or s3://BUCKET/PREFIX."
        ),
    ]
    sha256: Annotated[Sha256, Field(description="sha256: digest of the folder, as `ratchet digest FOLDER` prints it.")]
    method: Annotated[
        Literal["lora", "full"],
        Field(
            default="lora",
            description="method: what is trained; lora = adapters of loraRank, full = every weight but the embeddings, which judges better and makes an artifact of the encoder's size.",
        ),
    ]
    max_tokens: Annotated[
        int,
        Field(
            default=256,
            ge=8,
            le=8192,
            description="maxTokens: of prompt and answer together; of longer ones the beginning of the prompt is cut.",
        ),
    ]


class RewardModelStage(ApiModel):
    """Settings of the reward-model stage: a model of what people think of an answer, from 0 to 1."""

    dataset_ref: Annotated[
        ObjectRef,
        Field(
            description="datasetRef: a FeedbackDataset of type preferences (a better and a worse answer) or ratings (an answer and its score) that says what people thought of answers; with scores: judge one that a judge scored."
        ),
    ]
    scores: Annotated[
        Literal["judge"] | None,
        Field(
            default=None,
            description="scores: judge = of a dataset with spec.scoring, of type demonstrations or ratings, what the judge said is learned in place of what people did; the model then tells each of the judge's qualities, too. Rows that the judge gave no numbers are left out, as are dialogues of several turns. If omitted, what people said.",
        ),
    ]
    rating_loss: Annotated[
        RatingLoss,
        Field(
            default="regression",
            description="ratingLoss: how an answer with a score teaches; regression = the score itself, from 0 to 1; ordinal = the levels that it is above (arXiv:1901.07884), of 2 to 20 that the scores have, such as stars or thumbs. Pairs teach alike with either.",
        ),
    ]
    base_model: Annotated[
        OwnBase | None,
        Field(
            default=None,
            description="baseModel: an encoder of the reward model's own, which reads text. If omitted, it is an adapter on the policy's trunk, and there is one model in memory.",
        ),
    ]
    epochs: Annotated[int, Field(default=3, ge=1, le=1000, description="epochs: passes over the rows to learn from.")]
    batch_size: Annotated[
        int, Field(default=8, ge=1, le=4096, description="batchSize: rows per optimizer step; a pair is one row.")
    ]
    learning_rate: Annotated[
        float, Field(default=2e-4, gt=0, le=1, description="learningRate: of the adapter, at its peak.")
    ]
    head_learning_rate: Annotated[
        float, Field(default=2e-3, gt=0, le=1, description="headLearningRate: of the head, at its peak.")
    ]
    warmup_ratio: Annotated[
        float,
        Field(
            default=0.1, ge=0, le=1, description="warmupRatio: share of the steps over which the learning rates rise."
        ),
    ]
    max_grad_norm: Annotated[
        float, Field(default=1.0, gt=0, le=1000, description="maxGradNorm: gradients are clipped to this norm.")
    ]
    held_out_percent: Annotated[
        float,
        Field(
            default=20.0,
            ge=1,
            le=90,
            description="heldOutPercent: of the prompts of the train split; they calibrate the model, measure it, and are held against the reward during rl.",
        ),
    ]
    lora_rank: Annotated[int, Field(default=16, ge=1, le=256, description="loraRank: of the reward model's adapter.")]
    lora_dropout: Annotated[
        float, Field(default=0.05, ge=0, le=0.9, description="loraDropout: on the adapter's input.")
    ]
    checkpoint_every_steps: Annotated[
        int,
        Field(
            default=100,
            ge=1,
            le=1_000_000,
            description="checkpointEverySteps: optimizer steps between checkpoints; a preemption loses at most this many.",
        ),
    ]
    resources: Annotated[
        Resources, Field(default=Resources(cpu=2, memory_gi=6), description="resources: of the stage's pod.")
    ]
