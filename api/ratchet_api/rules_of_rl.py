"""Rules across the fields of the rl stages as CEL: of classifiers, of generators, and of comparing what they made.

Each has a validator of the same meaning in its model; `rules` has the words about both and puts them with all others.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel

from ratchet_api.comparison import Comparison
from ratchet_api.preference import KTO_FIELDS, PreferenceStage
from ratchet_api.rl import (
    ALGORITHM_FIELDS,
    LOG_REWARDS,
    OPTIONAL_REWARD_FIELDS,
    REWARD_FIELDS,
    Clip,
    Epsilon,
    Reward,
    RlStage,
    StartFrom,
)
from ratchet_api.rlhf import GROUP_SIZE, GROUPED, ONLINE_FIELDS, AnswerReward, RlhfStage
from ratchet_api.rule import Rule

RL_RULES: Mapping[type[BaseModel], tuple[Rule, ...]] = {
    Comparison: (
        Rule(
            "self.slices.all(s, self.slices.exists_one(t, t.label == s.label))",
            "slices must not name a class twice; remove one",
            field_path=".slices",
        ),
    ),
    StartFrom: (
        Rule(
            "has(self.policy) != has(self.artifact)",
            "exactly one of policy and artifact must be set; remove one or add the missing one",
        ),
    ),
    Clip: (
        Rule(
            "self.minimum < self.maximum",
            "minimum must be below maximum; no reward could vary",
            field_path=".minimum",
        ),
    ),
    Epsilon: (Rule("self.end <= self.start", "end must not be above start; exploration falls", field_path=".end"),),
    Reward: (
        *(
            Rule(
                f"(self.type == '{kind}') == has(self.{field})",
                f"{field} is needed for type {kind} and only there; add it, remove it or change type",
                field_path=".type",
            )
            for field, kind in REWARD_FIELDS.items()
        ),
        *(
            Rule(
                f"!has(self.{field}) || self.type == '{kind}'",
                f"{field} is only for type {kind}; remove it or set type: {kind}",
                field_path=f".{field}",
            )
            for field, kind in OPTIONAL_REWARD_FIELDS.items()
        ),
        Rule(
            "!has(self.scale) || self.scale != 0.0",
            "scale must not be 0, or the reward says nothing; remove the component instead",
            field_path=".scale",
        ),
        Rule(
            "!has(self.weight) || !has(self.curriculum)",
            "weight and curriculum exclude each other; remove one",
            field_path=".weight",
        ),
        Rule(
            "!has(self.curriculum) || (self.curriculum.map(p, p.atInteraction).isSorted() && "
            "self.curriculum.all(p, self.curriculum.exists_one(q, q.atInteraction == p.atInteraction)))",
            "curriculum must ascend in atInteraction; put its points in order",
            field_path=".curriculum",
        ),
    ),
    RlStage: (
        Rule(
            "self.minibatchSize <= self.rolloutSize",
            "minibatchSize must not be above rolloutSize; lower it",
            field_path=".minibatchSize",
        ),
        Rule(
            "self.minibatchSize % self.nodes == 0",
            "minibatchSize must be a multiple of nodes, which share it evenly; change one of them",
            field_path=".nodes",
        ),
        Rule(
            "!has(self.bufferCapacity) || self.bufferCapacity >= self.rolloutSize",
            "bufferCapacity must not be below rolloutSize; raise it",
            field_path=".bufferCapacity",
        ),
        *(
            Rule(
                f"!has(self.{field}) || self.algorithm == '{algorithm}'",
                f"{field} is only for algorithm {algorithm}; remove it or set algorithm: {algorithm}",
                field_path=f".{field}",
            )
            for field, algorithm in ALGORITHM_FIELDS.items()
        ),
        Rule(
            "has(self.datasetRef) == self.rewards.exists_one(r, r.type == 'feedback') && "
            "(has(self.datasetRef) || self.rewards.all(r, r.type != 'feedback'))",
            "datasetRef and one reward of type feedback go together; add the missing one or remove the other",
            field_path=".rewards",
        ),
        Rule(
            f"!has(self.datasetRef) || self.rewards.all(r, r.type in {list(LOG_REWARDS)})",
            f"with datasetRef rewards may be {', '.join(LOG_REWARDS)}: a log does not say which class is right",
            field_path=".rewards",
        ),
        Rule(
            "!has(self.datasetRef) || self.episodes == 'query'",
            "episodes must be query with datasetRef; each answer of a log stands for itself",
            field_path=".episodes",
        ),
        Rule(
            "!has(self.datasetRef) || self.algorithm != 'dqn' || "
            "self.rewards.all(r, r.type != 'feedback' || (has(r.estimator) && r.estimator == 'direct'))",
            "algorithm dqn learns from a log with estimator direct alone; set it, or take another algorithm",
            field_path=".algorithm",
        ),
    ),
}
"""Rules of the rl stage's models, and of the comparison of what it trained."""

RLHF_RULES: Mapping[type[BaseModel], tuple[Rule, ...]] = {
    PreferenceStage: tuple(
        Rule(
            f"!has(self.{field}) || self.algorithm == 'kto'",
            f"{field} is only for algorithm kto; remove it or set algorithm: kto",
            field_path=f".{field}",
        )
        for field in KTO_FIELDS
    ),
    AnswerReward: (
        Rule(
            "(self.type == 'expression') == has(self.expression)",
            "expression is needed for type expression and only there; add it, remove it or change type",
            field_path=".type",
        ),
        Rule(
            "(self.type == 'words') == has(self.words)",
            "words is needed for type words and only there; add it, remove it or change type",
            field_path=".type",
        ),
        Rule(
            "self.weight != 0.0",
            "weight must not be 0, or the component says nothing; remove the component instead",
            field_path=".weight",
        ),
    ),
    RlhfStage: (
        Rule(
            "self.rolloutSize % self.minibatchSize == 0",
            "rolloutSize must be a multiple of minibatchSize; change one of them",
            field_path=".rolloutSize",
        ),
        Rule(
            "self.minibatchSize % self.accumulation == 0",
            "minibatchSize must be a multiple of accumulation; change one of them",
            field_path=".minibatchSize",
        ),
        Rule(
            f"!(self.algorithm in {list(GROUPED)}) || "
            f"self.rolloutSize % (has(self.groupSize) ? self.groupSize : {GROUP_SIZE}) == 0",
            f"rolloutSize must be a multiple of groupSize, which is {GROUP_SIZE} where it is omitted; change one of them",
            field_path=".rolloutSize",
        ),
        *(
            Rule(
                f"!has(self.{field}) || self.algorithm in {list(algorithms)}",
                f"{field} is only for algorithm {' or '.join(algorithms)}; remove it or change algorithm",
                field_path=f".{field}",
            )
            for field, algorithms in ONLINE_FIELDS.items()
        ),
        Rule(
            "self.rewards.filter(r, r.type == 'rewardModel').size() <= 1",
            "rewards must not have type rewardModel twice; remove one and add up the weights",
            field_path=".rewards",
        ),
    ),
}
"""Rules of a generator's rl stage."""
