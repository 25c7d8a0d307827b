"""How a generator learns from judged answers themselves, without drawing any and without a reward model.

Decides the fields, bounds and cross-field rules of `stages.preference`: the settings of stage rl with DPO or KTO. Pure;
the formulas are in `ratchet_jobs.rlhf.preference`.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ratchet_api.base import ApiModel, ObjectRef
from ratchet_api.placement import Resources

PreferenceAlgorithm = Literal["dpo", "kto"]

KTO_WEIGHT = 1.0
"""desirableWeight and undesirableWeight where they are omitted and act."""

KTO_FIELDS = ("desirableWeight", "undesirableWeight")
"""Fields that algorithm dpo has no use for."""


class PreferenceStage(ApiModel):
    """Settings of a generator's rl stage on answers that people judged."""

    algorithm: Annotated[
        PreferenceAlgorithm,
        Field(
            default="dpo",
            description="algorithm: dpo = the better answer of a pair gains on the worse one (arXiv:2305.18290); kto = good answers gain and bad ones lose, paired or not (arXiv:2402.01306).",
        ),
    ]
    dataset_ref: Annotated[
        ObjectRef,
        Field(
            description="datasetRef: a FeedbackDataset of type preferences (a better and a worse answer); for kto also of type ratings (an answer and its score: above 0.5 it is good, below it is bad)."
        ),
    ]
    beta: Annotated[
        float,
        Field(
            default=0.1,
            gt=0,
            le=100,
            description="beta: how strongly the policy is held to the one that it starts from; higher is nearer.",
        ),
    ]
    desirable_weight: Annotated[
        float | None,
        Field(
            default=None,
            gt=0,
            le=1000,
            description="desirableWeight: for algorithm kto; weight of a good answer's loss. If omitted, 1.",
        ),
    ]
    undesirable_weight: Annotated[
        float | None,
        Field(
            default=None,
            gt=0,
            le=1000,
            description="undesirableWeight: for algorithm kto; weight of a bad answer's loss. If omitted, 1.",
        ),
    ]
    epochs: Annotated[int, Field(default=1, ge=1, le=1000, description="epochs: passes over the rows to learn from.")]
    batch_size: Annotated[
        int,
        Field(default=8, ge=2, le=4096, description="batchSize: rows per optimizer step; with dpo a pair is one row."),
    ]
    gradient_checkpointing: Annotated[
        bool,
        Field(default=False, description="gradientCheckpointing: true needs less memory and a third more time."),
    ]
    learning_rate: Annotated[
        float, Field(default=5e-5, gt=0, le=1, description="learningRate: of the adapter, at its peak.")
    ]
    warmup_ratio: Annotated[
        float,
        Field(
            default=0.1, ge=0, le=1, description="warmupRatio: share of the steps over which the learning rate rises."
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
            description="heldOutPercent: of the prompts of the train split; whether the policy tells their answers apart decides whether it is kept.",
        ),
    ]
    lora_rank: Annotated[
        int,
        Field(
            default=16,
            ge=1,
            le=256,
            description="loraRank: of the adapter that learns; it is added to the rank of the adapters that the policy has.",
        ),
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
        Resources, Field(default=Resources(cpu=2, memory_gi=8), description="resources: of the stage's pod.")
    ]

    @model_validator(mode="after")
    def _fields_act(self) -> Self:
        for name, given in zip(KTO_FIELDS, (self.desirable_weight, self.undesirable_weight), strict=True):
            if given is not None and self.algorithm != "kto":
                raise ValueError(f"{name} is only for algorithm kto; remove it or set algorithm: kto")
        return self
