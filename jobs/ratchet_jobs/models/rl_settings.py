"""How the rl stage's fields become an algorithm and its rewards: the one mapping from the API's words to the maths'.

Pure. Called by the rl recipe and the Python API.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from ratchet_api.rl import (
    ESTIMATOR,
    MAX_WEIGHT,
    VERDICT_COEF,
    Cost,
    Epsilon,
    Estimator,
    Reward,
    RlSettings,
    RlStage,
)
from ratchet_jobs.data.tasks import check_tasks
from ratchet_jobs.rewards import make_reward
from ratchet_jobs.rewards.compose import Term, WeightedSum
from ratchet_jobs.rewards.curriculum import Curriculum
from ratchet_jobs.runtime.errors import BadConfigError

TARGET_UPDATE_STEPS = 500
"""targetUpdateInterval has no default in the API: it exists for dqn only."""

_PASSED_ON = {
    "ppo": ("vf_coef", "entropy_coef", "normalize_advantages", "update_epochs", "minibatch_size", "target_kl"),
    "a2c": ("vf_coef", "entropy_coef", "normalize_advantages"),
    "reinforce": ("vf_coef", "entropy_coef", "normalize_advantages"),
    "dqn": ("minibatch_size",),
}
"""Fields that are settings of the same name."""

_ESTIMATORS: Mapping[Estimator, str] = {"doublyRobust": "doubly_robust", "ips": "ips", "direct": "direct"}
"""The API's name of an estimator, and the reward's."""

_OF_EPISODES = {"ppo": ("gamma", "lam"), "a2c": ("gamma", "lam"), "reinforce": ("gamma",), "dqn": ("gamma",)}
"""Fields that act on episodes of several turns only, which a stage knows and a notebook does not."""


def algorithm_settings(hyper: RlSettings) -> Mapping[str, object]:
    """Return the settings of `hyper.algorithm` by the names that its config has."""
    name = hyper.algorithm
    fields = (*_PASSED_ON[name], *(_OF_EPISODES[name] if isinstance(hyper, RlStage) else ()))
    settings: dict[str, object] = {field: getattr(hyper, field) for field in fields}
    settings["final_lr_factor"] = 0.0 if hyper.lr_schedule == "linear" else 1.0
    if name == "ppo":
        settings |= {
            "cliprange": hyper.clip_range,
            "cliprange_value": hyper.clip_range_value,
            "buffer_capacity": hyper.buffer_capacity or hyper.rollout_size,
            "verdict_coef": _verdict_coef(hyper),
            "verdict_noise": hyper.verdict_noise,
        }
    if name == "dqn":
        epsilon = hyper.exploration_epsilon or Epsilon()
        settings |= {
            "replay_capacity": hyper.buffer_capacity or max(hyper.interactions, hyper.rollout_size),
            "learning_starts": min(hyper.rollout_size, hyper.interactions),
            # each answer is learned from updateEpochs times on average
            "replay_ratio": hyper.update_epochs / hyper.minibatch_size,
            "target_update_steps": hyper.target_update_interval or TARGET_UPDATE_STEPS,
            "epsilon_start": epsilon.start,
            "epsilon_end": epsilon.end,
            "exploration_fraction": 1.0,
        }
    return settings


def _verdict_coef(hyper: RlSettings) -> float:
    if hyper.verdict_coef is not None:
        return hyper.verdict_coef
    is_single = not isinstance(hyper, RlStage) or hyper.episodes == "query"
    return VERDICT_COEF if is_single and hyper.is_right_or_wrong else 0.0


def rewards_are_verdicts(hyper: RlSettings) -> bool:
    """Tell whether a reward says how right an answer was, from 0 to 1, and nothing else."""
    return hyper.is_right_or_wrong or (hyper.verdict_coef or 0.0) > 0


def needs_latency(rewards: Sequence[Reward]) -> bool:
    """Tell whether a component asks how long an answer takes."""
    return any(reward.type == "latency" or "latency_ms" in (reward.expression or "") for reward in rewards)


def rewarded_tasks(rewards: Sequence[Reward], tasks: Sequence[str]) -> tuple[str, ...]:
    """Return the tasks that some component rewards; the others are not asked."""
    named = {reward.task for reward in rewards}
    return tuple(task for task in tasks if task in named or None in named)


def make_rewards(
    rewards: Sequence[Reward], *, labels: Sequence[str], tasks: Sequence[str] | None = None
) -> WeightedSum:
    """Build the sum of a spec's rewards.

    Args:
        rewards: components in the API's words.
        labels: the policy's classes, for the names in a cost matrix.
        tasks: of the policy; None = it has one without a name.

    Raises:
        BadConfigError: a component cannot be built: a cost names no class, an expression is not arithmetic, a task is
            none of the policy's, and so on.
    """
    named = {f"rewards[{n}].task": reward.task for n, reward in enumerate(rewards) if reward.task is not None}
    check_tasks(named, tasks=tasks)
    seen: Counter[str] = Counter()
    terms = []
    for reward in rewards:
        kind = reward.type if reward.task is None else f"{reward.type}/{reward.task}"
        seen[kind] += 1
        name = kind if seen[kind] == 1 else f"{kind}-{seen[kind]}"
        terms.append(
            Term(
                name,
                make_reward(*_component(reward, labels, tasks)),
                weight=_weight(reward),
                scale=1.0 if reward.scale is None else reward.scale,
                clip=None if reward.clip is None else (reward.clip.minimum, reward.clip.maximum),
                task=None if reward.task is None or tasks is None else list(tasks).index(reward.task),
            )
        )
    return WeightedSum(terms)


def _weight(reward: Reward) -> float | Curriculum:
    if reward.curriculum is not None:
        return Curriculum(tuple((point.at_interaction, point.weight) for point in reward.curriculum))
    return 1.0 if reward.weight is None else reward.weight


def _component(reward: Reward, labels: Sequence[str], tasks: Sequence[str] | None) -> tuple[str, dict[str, object]]:
    """Name and settings of a component in the registry's words."""
    match reward.type:
        case "confidencePenalty":
            return "custom", {"confidence_penalty": reward.penalty}
        case "expression":
            return "expression", {"expression": reward.expression}
        case "costMatrix":
            return "cost_matrix", {"costs": _cost_table(_of_one_task(reward, tasks), labels)}
        case "latency":
            return "latency", {"target_ms": reward.target_ms}
        case "feedback":
            estimator = reward.estimator or ESTIMATOR
            settings: dict[str, object] = {
                "estimator": _ESTIMATORS[estimator],
                "max_weight": reward.max_weight or MAX_WEIGHT,
            }
            return "feedback", settings
        case "entryPoint":
            return "entry_point", {"entry_point": reward.entry_point}
        case plain:
            return plain, {}


def _of_one_task(reward: Reward, tasks: Sequence[str] | None) -> Sequence[Cost]:
    """Return the costs; refuse one that no answer could ever have, because its classes are of different tasks.

    Raises:
        BadConfigError: names both classes.
    """
    for cost in reward.costs or () if tasks else ():
        named = {name.partition("/")[0] for name in (cost.label, cost.answer)} & set(tasks or ())
        if len(named) > 1 or (reward.task is not None and named and named != {reward.task}):
            of = "two tasks" if len(named) > 1 else f"another task than the component's, {reward.task!r}"
            raise BadConfigError(
                f"rewards.costs: {cost.label!r} and {cost.answer!r} are of {of}; name two classes of one task"
            )
    return reward.costs or ()


def _cost_table(costs: Sequence[Cost], labels: Sequence[str]) -> tuple[tuple[float, ...], ...]:
    """Minus the rewards, row = right class, column = answer: -1 for right and 0 for wrong where nothing is said."""
    place = {label: number for number, label in enumerate(labels)}
    table = [[-1.0 if row == column else 0.0 for column in range(len(labels))] for row in range(len(labels))]
    for cost in costs:
        for name in (cost.label, cost.answer):
            if name not in place:
                known = ", ".join(map(repr, labels[:12]))
                raise BadConfigError(f"rewards.costs: {name!r} is no class of the policy; there are: {known}")
        table[place[cost.label]][place[cost.answer]] = -cost.reward
    return tuple(map(tuple, table))
