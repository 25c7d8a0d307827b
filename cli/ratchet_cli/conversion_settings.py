"""Which setting of an `rl_training` block becomes which field of a run, and what is said of one that becomes none.

The names are those of the block proposed for vLLM Semantic Router in its issue 586, and those that PPO programs use
for the same things. A value that a field refuses is told and left out, never rounded. Pure; used by `conversion`.
"""

from __future__ import annotations

import difflib
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError

from ratchet_api.kinds import findings
from ratchet_api.rl import RlStage
from ratchet_api.training_run import Lora, SupervisedStage

RL_FIELDS = {
    "algorithm": "algorithm",
    **dict.fromkeys(("learning_rate", "lr", "policy_learning_rate", "policy_lr"), "learningRate"),
    **dict.fromkeys(("head_learning_rate", "head_lr"), "headLearningRate"),
    **dict.fromkeys(("value_learning_rate", "value_lr", "critic_learning_rate", "critic_lr"), "valueLearningRate"),
    **dict.fromkeys(("gamma", "discount", "discount_factor"), "gamma"),
    **dict.fromkeys(("lam", "gae_lambda"), "lam"),
    **dict.fromkeys(("batch_size", "minibatch_size", "mini_batch_size"), "minibatchSize"),
    **dict.fromkeys(("rollout_size", "rollout_length", "rollout_steps", "n_steps"), "rolloutSize"),
    **dict.fromkeys(("update_epochs", "ppo_epochs", "n_epochs"), "updateEpochs"),
    **dict.fromkeys(("clip_range", "cliprange", "clip_ratio", "clip_epsilon", "clip_coef"), "clipRange"),
    **dict.fromkeys(("clip_range_value", "cliprange_value", "clip_range_vf"), "clipRangeValue"),
    **dict.fromkeys(("entropy_coef", "ent_coef", "entropy_coefficient", "entropy_bonus"), "entropyCoef"),
    **dict.fromkeys(("vf_coef", "value_coef", "value_loss_coef"), "vfCoef"),
    **dict.fromkeys(("kl_coef", "kl_coefficient", "init_kl_coef"), "klCoef"),
    **dict.fromkeys(("max_grad_norm", "gradient_clip", "grad_clip"), "maxGradNorm"),
    "target_kl": "targetKl",
    **dict.fromkeys(("normalize_advantages", "normalize_advantage", "norm_adv"), "normalizeAdvantages"),
    **dict.fromkeys(("buffer_capacity", "buffer_size", "replay_buffer_size"), "bufferCapacity"),
    **dict.fromkeys(("target_update_interval", "target_update_freq"), "targetUpdateInterval"),
    **dict.fromkeys(("interactions", "total_timesteps", "total_steps", "max_steps"), "interactions"),
    "lr_schedule": "lrSchedule",
}
"""Setting -> field of stages.rl, where the value stays as it is."""
_SUPERVISED = {
    **dict.fromkeys(("epochs", "num_epochs", "supervised_epochs"), "epochs"),
    **dict.fromkeys(("max_length", "max_seq_length", "max_tokens"), "maxTokens"),
}
_LORA = {"lora_rank": "rank", "lora_r": "rank", "lora_alpha": "alpha", "lora_dropout": "dropout"}
_REWARDS = {
    "accuracy": "accuracy",
    "f1": "f1",
    "f1_score": "f1",
    "calibration": "calibration",
    "confidence": "calibration",
    "custom": "confidencePenalty",
    "confidence_penalty": "confidencePenalty",
}
_KNOWN = sorted({*RL_FIELDS, *_SUPERVISED, *_LORA, "enabled", "reward_metric", "seed", "dataset", "base_model"})
ALGORITHMS = ("ppo", "a2c", "reinforce", "dqn")
_WORDS = {"algorithm", "lr_schedule"}
"""Whose values programs write in capitals, too."""
REWARD_SETTINGS = ("reward_metric", "reward")
_MODELS: dict[str, type[BaseModel]] = {"rl": RlStage, "supervised": SupervisedStage, "lora": Lora}


class Note(NamedTuple):
    """One setting that has no place in the manifests, or not quite the same one."""

    path: str
    value: Any
    why: str
    remedy: str

    def __str__(self) -> str:
        """One line: path, value, cause, remedy."""
        return f"{self.path} ({self.value!r}): {self.why}; {self.remedy}"


class Settings:
    """The parts of a run's spec, grown setting by setting; a value that a part refuses is told and left out."""

    def __init__(self) -> None:
        self.parts: dict[str, dict[str, Any]] = {"rl": {}, "supervised": {}, "lora": {}}
        self.top: dict[str, Any] = {}
        self.notes: list[Note] = []
        self._set_by: dict[tuple[str, str], str] = {}

    def convert(self, path: str, name: str, value: Any) -> None:
        """Take one setting of the block: its path in the file, its name, its value."""
        if name in RL_FIELDS:
            word = value.lower() if name in _WORDS and isinstance(value, str) else value
            self._put("rl", RL_FIELDS[name], word, path, value)
        elif name in _SUPERVISED:
            self._put("supervised", _SUPERVISED[name], value, path, value)
        elif name in _LORA:
            self._put("lora", _LORA[name], value, path, value)
        elif name in REWARD_SETTINGS:
            self._put_reward(path, value)
        elif name == "seed" and isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31:
            self.top["seed"] = value
        elif name == "dataset" and str(value).startswith(("store://", "s3://")):
            self.top["dataset"] = value
        else:
            self.notes.append(_unknown(path, name, value))

    def _put_reward(self, path: str, value: Any) -> None:
        kind = _REWARDS.get(value.lower()) if isinstance(value, str) else None
        if kind is None:
            remedy = f"take one of {', '.join(sorted(_REWARDS))}, or write spec.stages.rl.rewards by hand"
            self.notes.append(Note(path, value, "names no reward of Ratchet's", remedy))
            return
        self._put("rl", "rewards", [{"type": kind}], path, value)

    def _put(self, part: str, name: str, value: Any, path: str, seen: Any) -> None:
        # a field at a time, so that the one that is refused can be told by its path in the file
        earlier = self._set_by.setdefault((part, name), path)
        if earlier != path:
            self.notes.append(Note(path, seen, f"means the same as {earlier}, which came first", "remove one of them"))
            return
        grown = self.parts[part] | {name: value}
        if part == "rl" and name == "minibatchSize" and isinstance(value, int):
            grown.setdefault("rolloutSize", max(value, RlStage().rollout_size))
        try:
            _MODELS[part].model_validate(grown)
        except ValidationError as error:
            why = findings(error)[0].removeprefix("spec.").removeprefix("spec: ")
            self.notes.append(Note(path, seen, f"is refused: {why}", "correct the value and convert again"))
            return
        self.parts[part] = grown


def _unknown(path: str, name: str, value: Any) -> Note:
    if name == "seed":
        return Note(path, value, "is no whole number from 0 to 2147483647", "correct the value and convert again")
    if name == "dataset":
        remedy = "copy it with `ratchet put FILE store://PATH` and give --data store://PATH"
        return Note(path, value, "is no object of a store", remedy)
    if name == "base_model":
        return Note(path, value, "is a name, and a run pins its base by digest", "give --base-model and --base-sha256")
    if name.split(".")[0].lower() in ALGORITHMS:
        return Note(path, value, "belongs to an algorithm that is not in use", "set algorithm to it, or remove it")
    near = difflib.get_close_matches(name, _KNOWN, 1, 0.6)
    remedy = f"did you mean {near[0]}?" if near else "see docs/reference/api.md for what a run can be told"
    return Note(path, value, "is no setting that Ratchet has", remedy)
