"""How a finished run rewarded answers: its rewards, the policy that they stand on, its reward model.

Decides whether a run rewarded any. A pure function of the run's object. Used by `versions`, for evaluate and compare.
"""

from __future__ import annotations

from dataclasses import dataclass

from ratchet_api.attempts import Artifact
from ratchet_api.policy_types import GENERATOR
from ratchet_api.rlhf import RlhfStage
from ratchet_api.stage import Stage
from ratchet_api.training_run import RLTrainingRunSpec, RLTrainingRunStatus


@dataclass(frozen=True, slots=True)
class Rewarding:
    """What answers are worth to a run.

    Attributes:
        run: its name.
        settings: of its rl stage, the rewards among them; of several agents the first one's.
        start: the policy that its rl stage started from; a reward model stands on it.
        model: the reward model; None = no reward asks one.
        seed: of the run.
    """

    run: str
    settings: RlhfStage
    start: Artifact
    model: Artifact | None
    seed: int


def rewarding_of(name: str, spec: RLTrainingRunSpec, status: RLTrainingRunStatus) -> Rewarding | None:
    """Return how a run rewarded answers; None = it rewarded none, or its stages are not known."""
    if spec.policy_type != GENERATOR or not spec.with_rl or spec.stages.preference is not None:
        return None
    made = {stage.name: stage.artifact for stage in status.stages}
    chosen = status.resolved.start if status.resolved is not None else None
    start = made.get(Stage.SUPERVISED.value) if chosen is None else Artifact(uri=chosen.uri, digest=chosen.digest)
    settings = spec.rlhf.of_its_policy
    shared = settings.shared_reward_model
    model = None if shared is None else Artifact(uri=shared.uri, digest=shared.sha256)
    if settings.asks_reward_model:
        model = made.get(Stage.REWARD_MODEL.value)
    if start is None or (settings.asks_reward_model and model is None):
        return None
    return Rewarding(name, settings, start, model, spec.seed)
