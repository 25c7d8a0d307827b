"""Settings of `RLHFTrainer` by the names that its users know, and four presets of them.

Decides names, bounds and defaults of the Python door, and which algorithm has a use for which of them; how the loops
and the reward model understand them stands in their own settings. Called by `trainer.py` and `trainer_preference.py`.
"""

from __future__ import annotations

import os
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ratchet_api.preference import PreferenceStage
from ratchet_api.reward_model import RatingLoss
from ratchet_api.rlhf import GROUP_SIZE
from ratchet_jobs.rlhf.breakers import AnswerLimits
from ratchet_jobs.rlhf.generate import Sampling
from ratchet_jobs.rlhf.ppo import PpoSettings
from ratchet_jobs.rlhf.reward_model import RewardSettings
from ratchet_jobs.rlhf.wording import Format
from ratchet_jobs.runtime.errors import BadConfigError

DEVICE_ENV = "RATCHET_DEVICE"
MODELS_ENV = "RATCHET_MODELS_DIR"
LOG_ENV = "RATCHET_LOG_LEVEL"

Preset = Literal["quick_test", "production", "low_memory", "high_performance"]

MOST_JUDGED = 4096
"""Feedbacks per step with dpo and kto."""

PRESETS: dict[Preset, dict[str, Any]] = {
    "quick_test": {"max_steps": 4, "max_new_tokens": 8, "lora_r": 4, "reward_model_config": {"num_epochs": 1}},
    "production": {"max_steps": 400, "batch_size": 32, "mini_batch_size": 8, "checkpoint_steps": 20},
    "low_memory": {
        "batch_size": 8,
        "mini_batch_size": 1,
        "gradient_accumulation_steps": 8,
        "gradient_checkpointing": True,
    },
    "high_performance": {"batch_size": 64, "mini_batch_size": 32, "lora_r": 32, "max_new_tokens": 64},
}
"""What each preset changes of the defaults."""


Algorithm = Literal["ppo", "grpo", "rloo", "dpo", "kto"]

OWN_FIELDS: dict[str, tuple[Algorithm, ...]] = {
    "group_size": ("grpo", "rloo"),
    "beta": ("dpo", "kto"),
    "init_kl_coef": ("ppo", "grpo", "rloo"),
    "target_kl": ("ppo", "grpo", "rloo"),
    "max_kl": ("ppo", "grpo", "rloo"),
    "max_update_kl": ("ppo", "grpo", "rloo"),
    "warmup_ratio": ("ppo", "grpo", "rloo"),
    "ppo_epochs": ("ppo", "grpo", "rloo"),
    "mini_batch_size": ("ppo", "grpo", "rloo"),
    "gradient_accumulation_steps": ("ppo", "grpo", "rloo"),
    "max_new_tokens": ("ppo", "grpo", "rloo"),
    "temperature": ("ppo", "grpo", "rloo"),
    "top_p": ("ppo", "grpo", "rloo"),
    "stop": ("ppo", "grpo", "rloo"),
    "missing_eos_penalty": ("ppo", "grpo", "rloo"),
    "reward_model_config": ("ppo", "grpo", "rloo"),
}
"""Setting that not every algorithm has a use for, and the algorithms that have."""


class RewardModelConfig(BaseModel):
    """How the reward model is trained."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    base_model: Annotated[
        str | None,
        Field(default=None, min_length=1, description="Folder of an encoder; None = an adapter on the policy's trunk."),
    ]
    rating_loss: Annotated[
        RatingLoss, Field(default="regression", description="How scores teach: as numbers, or ordinal as levels.")
    ]
    num_epochs: Annotated[int, Field(default=3, ge=1, le=1000, description="Passes over the feedback.")]
    batch_size: Annotated[int, Field(default=8, ge=1, le=4096, description="Feedbacks per step.")]
    learning_rate: Annotated[float, Field(default=2e-4, gt=0, le=1, description="Of the adapter, at its peak.")]
    lora_dropout: Annotated[float, Field(default=0.05, ge=0, le=0.9, description="On the adapter's input.")]


class TrainingConfig(BaseModel):
    """Settings of `RLHFTrainer`."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())

    base_model: Annotated[
        str, Field(min_length=1, description="Folder of a causal language model: config, tokenizer, safetensors.")
    ]
    policy_id: Annotated[
        str,
        Field(
            default="policy", pattern=r"^[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?$", description="Folder of its versions."
        ),
    ]
    prompt_format: Annotated[
        Format, Field(default="dialogue", description="dialogue = in the model's chat template; or continuation.")
    ]
    algorithm: Annotated[
        Algorithm,
        Field(
            default="ppo",
            description="ppo, grpo, rloo: from the reward model's scores of drawn answers; dpo, kto: from feedback.",
        ),
    ]
    group_size: Annotated[
        int | None,
        Field(default=None, ge=2, le=1024, description="For grpo and rloo: answers to each prompt. If omitted, 4."),
    ]
    beta: Annotated[
        float | None,
        Field(default=None, gt=0, le=100, description="For dpo and kto: how near to the base. If omitted, 0.1."),
    ]
    use_lora: Annotated[
        bool, Field(default=True, description="False = all weights of a copy of the model are trained.")
    ]
    lora_r: Annotated[int, Field(default=16, ge=1, le=256, description="Rank of the adapters.")]
    learning_rate: Annotated[float, Field(default=1e-4, gt=0, le=1, description="Of the policy.")]
    warmup_ratio: Annotated[
        float, Field(default=0.0, ge=0, le=1, description="Share of the steps over which learning rates rise.")
    ]
    max_steps: Annotated[
        int, Field(default=100, ge=1, le=10**7, description="Steps; batch_size episodes or feedbacks each.")
    ]
    batch_size: Annotated[int, Field(default=8, ge=1, le=65536, description="Episodes or feedbacks per step.")]
    mini_batch_size: Annotated[int, Field(default=4, ge=1, le=65536, description="Episodes per pass with gradient.")]
    gradient_accumulation_steps: Annotated[int, Field(default=1, ge=1, le=65536, description="Passes per step.")]
    ppo_epochs: Annotated[int, Field(default=2, ge=1, le=100, description="Passes over a step's episodes.")]
    init_kl_coef: Annotated[float, Field(default=0.05, ge=0, le=100, description="First weight of the KL penalty.")]
    target_kl: Annotated[
        float | None, Field(default=6.0, description="KL of an answer that is steered to, nats; None = fixed weight.")
    ]
    max_kl: Annotated[float | None, Field(default=50.0, gt=0, description="KL of an answer that stops training.")]
    max_update_kl: Annotated[
        float, Field(default=0.5, gt=0, le=1000, description="KL of a token in one step's update that stops training.")
    ]
    max_new_tokens: Annotated[int, Field(default=32, ge=1, le=65536, description="Longest answer.")]
    temperature: Annotated[float, Field(default=1.0, gt=0, le=100, description="Of the draws.")]
    top_p: Annotated[float, Field(default=1.0, gt=0, le=1, description="Mass of tokens that draws are limited to.")]
    stop: Annotated[
        tuple[str, ...], Field(default=(), max_length=16, description="Texts of one token that end an answer, too.")
    ]
    missing_eos_penalty: Annotated[float, Field(default=0.0, ge=0, le=100, description="Off scores of cut answers.")]
    gradient_checkpointing: Annotated[bool, Field(default=False, description="Less memory, a third more time.")]
    checkpoint_steps: Annotated[int, Field(default=10, ge=1, le=10**6, description="Steps between checkpoints.")]
    device: Annotated[
        str | None,
        Field(default=None, description="Such as cpu or cuda; None = RATCHET_DEVICE, else the best there is."),
    ]
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16"],
        Field(default="auto", description="Of the frozen weights; auto = bfloat16 on a GPU with LoRA, else float32."),
    ]
    seed: Annotated[int, Field(default=0, ge=0, le=2**31 - 1, description="Of every random choice.")]
    reward_model_config: Annotated[
        RewardModelConfig, Field(default_factory=RewardModelConfig, description="How the reward model is trained.")
    ]

    def __init__(self, **settings: Any) -> None:
        """Check the settings.

        Raises:
            BadConfigError: a setting is unknown, of the wrong type or out of range; names it.
        """
        try:
            super().__init__(**settings)
        except ValidationError as error:
            raise BadConfigError(_worded(error)) from error
        for name, algorithms in OWN_FIELDS.items():
            default = type(self).model_fields[name].get_default(call_default_factory=True)
            if self.algorithm not in algorithms and getattr(self, name) != default:
                raise BadConfigError(
                    f"{name}: is for algorithm {', '.join(algorithms)} and not for {self.algorithm}; leave it out"
                )
        if self.judges and self.prompt_format != "dialogue":
            raise BadConfigError(
                f"prompt_format: {self.prompt_format} is not for {self.algorithm}, which learns answers; set dialogue"
            )

    @property
    def judges(self) -> bool:
        """Whether the policy learns from the feedback itself, without a reward model."""
        return self.algorithm in ("dpo", "kto")

    @classmethod
    def quick_test(cls, **settings: Any) -> TrainingConfig:
        """Minutes, to see that everything works; arguments and errors as `preset`."""
        return cls.preset("quick_test", **settings)

    @classmethod
    def production(cls, **settings: Any) -> TrainingConfig:
        """Many steps of large batches, with checkpoints; arguments and errors as `preset`."""
        return cls.preset("production", **settings)

    @classmethod
    def low_memory(cls, **settings: Any) -> TrainingConfig:
        """One episode at a time with checkpointed gradients; arguments and errors as `preset`."""
        return cls.preset("low_memory", **settings)

    @classmethod
    def high_performance(cls, **settings: Any) -> TrainingConfig:
        """Large batches and ranks, for a GPU; arguments and errors as `preset`."""
        return cls.preset("high_performance", **settings)

    @classmethod
    def preset(cls, name: Preset, **settings: Any) -> TrainingConfig:
        """A preset, with settings of one's own on top of it.

        Args:
            name: quick_test (minutes, to see that everything works), production, low_memory or high_performance.
            settings: base_model at least.

        Raises:
            BadConfigError: no such preset, or a setting does not fit.
        """
        if name not in PRESETS:
            raise BadConfigError(f"preset: {name!r}; give one of {', '.join(PRESETS)}")
        algorithm = settings.get("algorithm", "ppo")
        changes = {key: value for key, value in PRESETS[name].items() if algorithm in OWN_FIELDS.get(key, (algorithm,))}
        return cls(**{**changes, **settings})

    def chosen_device(self) -> torch.device:
        """Where to compute.

        Raises:
            BadConfigError: the device does not exist here.
        """
        name = self.device or os.environ.get(DEVICE_ENV) or ("cuda" if torch.cuda.is_available() else "cpu")
        try:
            device = torch.device(name)
            torch.empty(1, device=device)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise BadConfigError(
                f"device: {name!r} cannot be used: {reason}; give cpu, or one that is there"
            ) from error
        return device

    def chosen_dtype(self, device: torch.device) -> torch.dtype:
        """Of the frozen weights."""
        if self.dtype == "auto":
            return torch.bfloat16 if device.type == "cuda" and self.use_lora else torch.float32
        return torch.bfloat16 if self.dtype == "bfloat16" else torch.float32

    def ppo(self, *, stop_ids: tuple[int, ...]) -> PpoSettings:
        """What PPO makes of them.

        Raises:
            BadConfigError: they do not fit each other.
        """
        if self.algorithm == "dpo" or self.algorithm == "kto":
            raise BadConfigError(f"algorithm: {self.algorithm} draws no answers; ask `preference` for its settings")
        return PpoSettings(
            algorithm=self.algorithm,
            group_size=1 if self.algorithm == "ppo" else self.group_size or GROUP_SIZE,
            max_update_kl=self.max_update_kl,
            sampling=Sampling(self.max_new_tokens, self.temperature, self.top_p, stop_ids),
            batch_size=self.batch_size,
            mini_batch_size=self.mini_batch_size,
            gradient_accumulation_steps=self.gradient_accumulation_steps,
            ppo_epochs=self.ppo_epochs,
            learning_rate=self.learning_rate,
            warmup_ratio=self.warmup_ratio,
            init_kl_coef=self.init_kl_coef,
            target_kl=self.target_kl,
            missing_eos_penalty=self.missing_eos_penalty,
            gradient_checkpointing=self.gradient_checkpointing,
            limits=AnswerLimits(max_kl=self.max_kl),
        )

    def preference(self) -> PreferenceStage:
        """What dpo and kto make of them."""
        given = {"beta": self.beta} if self.beta is not None else {}
        return PreferenceStage.model_validate(
            {
                "datasetRef": {"name": "feedbacks"},
                "algorithm": self.algorithm,
                "batchSize": self.batch_size,
                "learningRate": self.learning_rate,
                "gradientCheckpointing": self.gradient_checkpointing,
            }
            | given
        )

    def check(self) -> None:
        """Refuse settings that do not fit each other.

        Raises:
            BadConfigError: says which.
        """
        if not self.judges:
            self.ppo(stop_ids=())
        elif not 2 <= self.batch_size <= MOST_JUDGED:
            raise BadConfigError(
                f"batch_size: {self.batch_size} with algorithm {self.algorithm}; give 2 to {MOST_JUDGED}"
            )

    def reward(self) -> RewardSettings:
        """What the reward model's training makes of them."""
        own = self.reward_model_config
        return RewardSettings(
            rating_loss=own.rating_loss,
            num_epochs=own.num_epochs,
            batch_size=own.batch_size,
            learning_rate=own.learning_rate,
        )


def _worded(error: ValidationError) -> str:
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"]) or "settings"
    if first["type"] == "extra_forbidden":
        return f"{place}: no such setting; see TrainingConfig for those there are"
    if first["type"] == "missing":
        return f"{place}: missing; give the folder of a causal language model"
    return f"{place}: {first['input']!r}: {first['msg'].lower()}; change it"
