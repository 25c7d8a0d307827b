"""Rules across the fields of the rl stages as CEL: of classifiers, of generators, and of comparing what they made.

Each has a validator of the same meaning in its model; `rules` has the words about both and puts them with all others.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel

from ratchet_api.answer_reward import (
    ANSWER_REWARD_FIELDS,
    MOST_JUDGES,
    OPTIONAL_ANSWER_REWARD_FIELDS,
    AnswerReward,
    Catalogue,
)
from ratchet_api.comparison import Comparison
from ratchet_api.judge import Judge, PairJudge
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
from ratchet_api.rlhf import GROUP_SIZE, GROUPED, ONLINE_FIELDS, Agent, RlhfStage
from ratchet_api.rule import Rule

_ASCENDING = Rule(
    "!has(self.curriculum) || (self.curriculum.map(p, p.atInteraction).isSorted() && "
    "self.curriculum.all(p, self.curriculum.exists_one(q, q.atInteraction == p.atInteraction)))",
    "curriculum must ascend in atInteraction; put its points in order",
    field_path=".curriculum",
)


def _only_for(field: str, key: str, value: str) -> Rule:
    """A field that only one value of another field of the same object knows."""
    return Rule(
        f"!has(self.{field}) || self.{key} == '{value}'",
        f"{field} is only for {key} {value}; remove it or set {key}: {value}",
        field_path=f".{field}",
    )


_ONE_REWARD_MODEL = Rule(
    "self.rewards.filter(r, r.type == 'rewardModel').size() <= 1",
    "rewards must not have type rewardModel twice; remove one and add up the weights",
    field_path=".rewards",
)
"""Of whatever has rewards of answers."""


def _same(field: str) -> str:
    return f"(has(r.{field}) ? has(s.{field}) && s.{field} == r.{field} : !has(s.{field}))"


_NO_WEIGHTS_CANCEL = Rule(
    "self.rewards.all(r, has(r.curriculum) || !self.rewards.exists(s, !has(s.curriculum) && s.type == r.type && "
    "s.weight + r.weight == 0.0 && "
    + " && ".join(_same(field) for field in (*ANSWER_REWARD_FIELDS, *OPTIONAL_ANSWER_REWARD_FIELDS))
    + "))",
    "rewards must not have two that are alike but for weights which cancel to zero; remove both or change a weight",
    field_path=".rewards",
)
"""Likewise; a component's weight is not 0, so that it does not cancel itself."""

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
        *(_only_for(field, "type", kind) for field, kind in OPTIONAL_REWARD_FIELDS.items()),
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
        _ASCENDING,
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
        *(_only_for(field, "algorithm", algorithm) for field, algorithm in ALGORITHM_FIELDS.items()),
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
    PairJudge: tuple(
        Rule(
            f"self.prompt.contains('{{{name}}}')",
            f"prompt must name {{{name}}}, or the judge never sees it; add it",
            field_path=".prompt",
        )
        for name in ("first", "second")
    ),
    Judge: (
        Rule(
            "self.prompt.contains('{response}')",
            "prompt must name {response}, or the judge never sees it; add it",
            field_path=".prompt",
        ),
        Rule(
            "self.minScore < self.maxScore",
            "minScore must be below maxScore; change one of them",
            field_path=".minScore",
        ),
    ),
    PreferenceStage: tuple(_only_for(field, "algorithm", "kto") for field in KTO_FIELDS),
    Catalogue: (
        Rule(
            "!has(self.column) || !self.uri.endsWith('.txt')",
            "column is not for a .txt file, which has a name on each line; remove it",
            field_path=".column",
        ),
    ),
    AnswerReward: (
        *(
            Rule(
                f"(self.type in {list(types)}) == has(self.{field})",
                f"{field} is needed for type {' and '.join(types)} and only there; add it, remove it or change type",
                field_path=".type",
            )
            for field, types in ANSWER_REWARD_FIELDS.items()
        ),
        *(
            Rule(
                f"!has(self.{field}) || self.type in {list(types)}",
                f"{field} is only for type {' and '.join(types)}; remove it or change type",
                field_path=f".{field}",
            )
            for field, types in OPTIONAL_ANSWER_REWARD_FIELDS.items()
        ),
        Rule(
            "self.type != 'length' || has(self.minWords) || has(self.maxWords)",
            "type length needs minWords or maxWords; add one",
            field_path=".type",
        ),
        Rule(
            "!has(self.minWords) || !has(self.maxWords) || self.minWords <= self.maxWords",
            "minWords must not be above maxWords; lower it",
            field_path=".minWords",
        ),
        Rule(
            "self.type != 'format' || has(self.pattern) != has(self.jsonSchema)",
            "type format needs exactly one of pattern and jsonSchema; add one or remove the other",
            field_path=".type",
        ),
        Rule(
            "self.weight != 0.0",
            "weight must not be 0, or the component says nothing; remove the component instead",
            field_path=".weight",
        ),
        Rule(
            "!has(self.curriculum) || self.weight == 1.0",
            "weight and curriculum exclude each other; remove one",
            field_path=".weight",
        ),
        _ASCENDING,
        Rule(
            "!has(self.curriculum) || self.curriculum.exists(p, p.weight != 0.0)",
            "curriculum must not weigh 0 throughout; remove the component instead",
            field_path=".curriculum",
        ),
    ),
    Agent: (_ONE_REWARD_MODEL, _NO_WEIGHTS_CANCEL),
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
        _ONE_REWARD_MODEL,
        _NO_WEIGHTS_CANCEL,
        Rule(
            "(has(self.agents) ? self.agents.map(a, a.rewards.filter(r, r.type == 'judge').size()).sum() : "
            f"self.rewards.filter(r, r.type == 'judge').size()) <= {MOST_JUDGES}",
            f"rewards must not have more than {MOST_JUDGES} judges; remove some",
            field_path=".rewards",
        ),
        Rule(
            "!has(self.agents) || self.agents.all(a, self.agents.exists_one(b, b.name == a.name))",
            "agents must not have one name twice; rename one",
            field_path=".agents",
        ),
        Rule(
            "!has(self.agents) || (size(self.rewards) == 1 && self.rewards[0].type == 'rewardModel' && "
            "self.rewards[0].weight == 1.0 && !has(self.rewards[0].name) && !has(self.rewards[0].model) && "
            "!has(self.rewards[0].curriculum))",
            "rewards must be left out with agents, each of which has its own; move them there",
            field_path=".rewards",
        ),
        Rule(
            "!has(self.agents) || self.agents.all(a, a.rewards.all(r, r.type != 'rewardModel' || "
            "self.agents.all(b, b.rewards.all(s, s.type != 'rewardModel' || (has(s.model) == has(r.model) && "
            "(!has(s.model) || (s.model.uri == r.model.uri && s.model.sha256 == r.model.sha256)))))))",
            "agents must all ask one reward model, which they share; name the same model, or none",
            field_path=".agents",
        ),
        Rule(
            "!has(self.agents) || self.agents.exists(a, !a.frozen)",
            "agents must not all be frozen, or nothing is learned; set frozen: false for one",
            field_path=".agents",
        ),
    ),
}
"""Rules of a generator's rl stage."""
