"""What a training by `RLHFTrainer` left behind, as training_results.json says it and as Python reads it.

    OUTPUT/POLICY/VERSION/
      policy/                  loads with AutoModelForCausalLM.from_pretrained and AutoTokenizer.from_pretrained
      reward_model/            weights and scale, and the judge of held-out feedback, but with dpo and kto
      training_results.json    this
      training_log.jsonl       one line per step
      checkpoints/             while it trains; the same call goes on from the last one

Paths in the file are relative to it, so a folder may be moved. Torch-free. Called by `trainer.py` and
`trainer_preference.py`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError

from ratchet_api.base import StatusModel
from ratchet_jobs.runtime.errors import BadModelError

RESULTS_FILE = "training_results.json"
POLICY_FOLDER = "policy"
REWARD_FOLDER = "reward_model"
LOG_FILE = "training_log.jsonl"
CHECKPOINTS = "checkpoints"


class RewardModelQuality(StatusModel):
    """The reward model on feedback that it was not trained on."""

    held_out: Annotated[int, Field(description="heldOut: feedbacks.")]
    pair_accuracy: Annotated[float | None, Field(default=None, description="pairAccuracy: pairs ranked as people did.")]
    mean_squared_error: Annotated[float | None, Field(default=None, description="meanSquaredError: of scores.")]
    ece: Annotated[float | None, Field(default=None, description="ece: expected calibration error, ten bins.")]
    judge_agreement: Annotated[
        float | None,
        Field(
            default=None,
            description="judgeAgreement: what a judge made of the rest of it foretells; left out = none is made.",
        ),
    ]


class TrainingResult(StatusModel):
    """The outcome of one training."""

    status: Annotated[
        Literal["trained", "stopped"],
        Field(description="status: stopped = a breaker fired; policy/ is that of the last good step."),
    ]
    detail: Annotated[str, Field(default="", description="detail: why it stopped.")]
    policy_id: Annotated[str, Field(description="policyId: the policy.")]
    version: Annotated[int, Field(ge=1, description="version: rises with each training.")]
    model_path: Annotated[str, Field(description="modelPath: folder of the policy.")]
    reward_model_path: Annotated[
        str | None,
        Field(default=None, description="rewardModelPath: folder of the reward model; left out with dpo and kto."),
    ]
    feedback_count: Annotated[int, Field(description="feedbackCount: feedbacks given.")]
    training_steps: Annotated[int, Field(description="trainingSteps: steps taken.")]
    reward_mean: Annotated[
        float | None, Field(default=None, description="rewardMean: mean score of the feedbacks; left out for pairs.")
    ]
    reward_std: Annotated[float | None, Field(default=None, description="rewardStd: standard deviation of those.")]
    start_reward_mean: Annotated[
        float | None, Field(default=None, description="startRewardMean: of answers before training, 0..1.")
    ]
    final_reward_mean: Annotated[
        float | None, Field(default=None, description="finalRewardMean: of answers by the trained policy, 0..1.")
    ]
    final_reward_std: Annotated[
        float | None, Field(default=None, description="finalRewardStd: standard deviation of those.")
    ]
    kl: Annotated[
        float | None, Field(default=None, description="kl: of the last step's answers from the start, nats per answer.")
    ]
    reward_model: Annotated[
        RewardModelQuality | None, Field(default=None, description="rewardModel: how good the reward model is.")
    ]
    agreement: Annotated[
        float | None,
        Field(
            default=None,
            description="agreement: with dpo and kto, held-out pairs of which the better answer gained more; start 0.5",
        ),
    ]

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read the results of a version, its paths made absolute.

        Args:
            path: the version's folder, or its training_results.json.

        Raises:
            BadModelError: there is none, or it cannot be read.
        """
        file = Path(path)
        file = file / RESULTS_FILE if file.is_dir() else file
        try:
            found = cls.model_validate_json(file.read_bytes())
        except (OSError, ValidationError) as error:
            reason = str(error).splitlines()[0]
            raise BadModelError(f"{file}: cannot be read: {reason}; give the folder of a version that ended") from error
        here = file.resolve().parent
        told = {name: getattr(found, name) for name in ("model_path", "reward_model_path")}
        return found.model_copy(update={name: str(here / path) for name, path in told.items() if path is not None})


def write_result(result: TrainingResult, folder: Path) -> TrainingResult:
    """Write a version's results, from which moment on the version is there; returns them as `load` reads them."""
    text = json.dumps(result.model_dump(mode="json", by_alias=True), indent=2) + "\n"
    unfinished = folder / f"{RESULTS_FILE}.unfinished"
    unfinished.write_text(text)
    unfinished.rename(folder / RESULTS_FILE)
    return TrainingResult.load(folder)
