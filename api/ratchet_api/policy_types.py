"""What a policy is: a classifier or a generator; and which settings of a run have a meaning for which.

Decides the words, the numbers that are measured of each, and which fields are refused. Called by the kinds that name a
type; the same rules stand as CEL in `rules`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, Literal, get_args

if TYPE_CHECKING:
    from ratchet_api.base import ApiModel
    from ratchet_api.training_run import RunTemplate, Stages

PolicyType = Literal["classifier", "generator"]
GENERATOR: Final = "generator"

ClassifierMetric = Literal["accuracy", "macro_f1", "ece", "brier", "coverage", "selective_accuracy"]
GeneratorMetric = Literal[
    "perplexity",
    "kl",
    "bleu1",
    "bleu2",
    "distinct1",
    "distinct2",
    "repetition",
    "overlap",
    "empty",
    "mean_tokens",
    "item_ratio",
    "win_rate",
    "agreement",
    "judge_win_rate",
]
CLASSIFIER_METRICS: Final[tuple[str, ...]] = get_args(ClassifierMetric)
GENERATOR_METRICS: Final[tuple[str, ...]] = get_args(GeneratorMetric)
JUDGED: Final = "judge_win_rate"
"""Measured where stages.evaluate.judge is asked."""
ITEM_RATIO: Final = "item_ratio"
"""Measured where a reward of the run's policy is of one of `ITEM_REWARDS`, which know what an item is."""
ITEM_REWARDS: Final = ("itemRatio", "recommendation")
AGAINST_START: Final = {"win_rate": "stages.rlhf", "agreement": "stages.preference"}
"""Numbers that compare a generator with what RL started from, and the settings of rl with which they are measured."""
ABOVE_ONE: Final = ("perplexity", "kl", "mean_tokens")
"""Numbers that may be above 1; all others are shares."""

CLASSIFIER_ONLY: Final = {
    "stages.supervised.headLearningRate": None,
    "stages.supervised.taskWeights": None,
    "stages.supervised.labelSmoothing": 0.0,
    "stages.supervised.classWeights": "none",
    "evaluation.abstainTargetAccuracy": None,
    "evaluation.calibrate": True,
    "evaluation.eceBins": 15,
}
"""Fields about classes, with the value that leaves each of them out."""


def check_mode(template: RunTemplate) -> None:
    """Refuse settings that mean nothing in this mode, or exclude each other.

    Args:
        template: of a run, or a run's whole spec.

    Raises:
        ValueError: names the field and the remedy.
    """
    mode, stages = template.mode, template.stages
    if mode == "rl_only" and template.start_from is None:
        raise ValueError("mode rl_only needs startFrom; name a policy's version or an artifact")
    if mode != "rl_only" and template.start_from is not None:
        raise ValueError(f"startFrom is only for mode rl_only, not {mode}; remove it or change mode")
    of_rl = {
        "stages.rl": stages.rl,
        **_of_generators_rl(stages),
        "stages.evaluate.judge": stages.evaluate.judge,
        "evaluation.comparison": template.evaluation.comparison,
    }
    for field, given in of_rl.items():
        if mode == "supervised" and given is not None:
            raise ValueError(f"{field} is only for a mode with RL; remove it or set mode: supervised_then_rl")
    if stages.preference is not None and stages.rlhf is not None:
        raise ValueError("stages.rlhf and stages.preference exclude each other; remove one")


def _of_generators_rl(stages: Stages) -> dict[str, ApiModel | None]:
    """What only a generator that learns from people's judgement has, by field."""
    found = {"rewardModel": stages.reward_model, "rlhf": stages.rlhf, "preference": stages.preference}
    return {f"stages.{name}": given for name, given in found.items()}


def check_type(template: RunTemplate, policy_type: PolicyType, *, at: str = "") -> None:
    """Refuse settings that mean nothing to this type of policy.

    Args:
        template: of a run, or a run's whole spec.
        policy_type: what the run trains.
        at: where the template stands, with a dot at its end.

    Raises:
        ValueError: names the field and the remedy.
    """
    if finding := next(_misfits(template, policy_type), None):
        raise ValueError(f"{at}{finding}")


def _misfits(template: RunTemplate, policy_type: PolicyType) -> Iterator[str]:
    stages = template.stages
    yield from _misfits_of_rewards(template, policy_type)
    if policy_type == GENERATOR:
        wire = template.to_wire()
        for field, absent in CLASSIFIER_ONLY.items():
            part, *inner = field.split(".")
            value = wire[part]
            for name in inner:
                value = value.get(name)
            if value != absent:
                yield f"{field} is about classes and not for a generator; remove it"
    elif stages.evaluate.answers is not None:
        yield "stages.evaluate.answers is only for a generator; remove it or set the type generator"
    elif stages.evaluate.judge is not None:
        yield "stages.evaluate.judge is only for a generator; remove it or set the type generator"
    yield from _misfits_of_gates(template, policy_type)


def _misfits_of_gates(template: RunTemplate, policy_type: PolicyType) -> Iterator[str]:
    metrics = GENERATOR_METRICS if policy_type == GENERATOR else CLASSIFIER_METRICS
    for number, gate in enumerate(template.evaluation.gates):
        if gate.metric not in metrics:
            yield (
                f"evaluation.gates[{number}].metric {gate.metric} is not measured of a {policy_type}; take one of "
                f"{', '.join(metrics)}"
            )
        needed = AGAINST_START.get(gate.metric)
        if needed is not None and needed != _against_start(template):
            yield (
                f"evaluation.gates[{number}].metric {gate.metric} is measured only of a run with {needed}; take another "
                "metric, or remove the gate"
            )
        if gate.metric == JUDGED and template.stages.evaluate.judge is None:
            yield (
                f"evaluation.gates[{number}].metric {gate.metric} is measured only of a run with stages.evaluate.judge; "
                "add it, or remove the gate"
            )
        if gate.metric == ITEM_RATIO and not _knows_items(template):
            yield (
                f"evaluation.gates[{number}].metric {gate.metric} is measured only of a run with a reward of type "
                f"{' or '.join(ITEM_REWARDS)} in stages.rlhf, of several agents the first's; add it, or remove the gate"
            )
        if gate.task is not None and policy_type == GENERATOR:
            yield f"evaluation.gates[{number}].task is not for a generator, which has no tasks; remove it"


def _knows_items(template: RunTemplate) -> bool:
    """Whether a reward of the run's own policy says what an item is."""
    hyper = template.stages.rlhf
    if not template.with_rl or hyper is None:
        return False
    return any(reward.type in ITEM_REWARDS for reward in hyper.of_its_policy.rewards)


def _against_start(template: RunTemplate) -> str | None:
    """With which settings a generator's rl stage runs; None = it has none."""
    if not template.with_rl:
        return None
    return "stages.rlhf" if template.stages.preference is None else "stages.preference"


def _misfits_of_rewards(template: RunTemplate, policy_type: PolicyType) -> Iterator[str]:
    comparison, stages = template.evaluation.comparison, template.stages
    if policy_type != GENERATOR:
        for name, given in _of_generators_rl(stages).items():
            if given is not None:
                yield f"{name} is only for a generator; remove it or set the type generator"
        return
    if stages.rl is not None:
        yield "stages.rl is for a classifier; set stages.rlhf"
    if stages.preference is not None and stages.reward_model is not None:
        yield "stages.rewardModel rewards answers, stages.preference learns without; remove one"
    asked = template.with_rl and stages.preference is None and template.rlhf.asks_reward_model
    if stages.preference is None and asked != (stages.reward_model is not None):
        yield (
            "stages.rewardModel and a reward of type rewardModel without model in stages.rlhf.rewards, which is the "
            "default, go together; add the missing one or remove the other"
        )
    if comparison is not None and comparison.slices:
        yield "evaluation.comparison.slices is about classes and not for a generator; remove it"
