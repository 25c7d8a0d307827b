"""Rules across fields as CEL, the API server's half of what the models' validators check.

Decides which rule stands on which model and what its refusal says. Each rule here has a validator of the same
meaning in the model (immutability aside, which only a server that knows the old object can judge); one table of
cases runs through both. Pure data, called by `schema` and `crdgen`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence

from pydantic import BaseModel

from ratchet_api.columns import LABEL_COLUMN, OF_DEMONSTRATIONS, OF_DIALOGUES, TEXT_COLUMN, Columns, InlineRow
from ratchet_api.feedback_dataset import FeedbackDatasetSpec, Filters, Source, Split
from ratchet_api.judge import Judge
from ratchet_api.placement import Toleration
from ratchet_api.policy import RLPolicySpec
from ratchet_api.policy_types import (
    ABOVE_ONE,
    AGAINST_START,
    CLASSIFIER_METRICS,
    CLASSIFIER_ONLY,
    GENERATOR_METRICS,
    ITEM_RATIO,
    ITEM_REWARDS,
    JUDGED,
)
from ratchet_api.refresh import Refresh
from ratchet_api.rule import Rule
from ratchet_api.rules_of_rl import RL_RULES, RLHF_RULES
from ratchet_api.rules_of_rollouts import (
    ENGINE_OF_GENERATORS,
    EXPLORING_CLASSIFIERS,
    GENERATION_OF_TYPE,
    LABELS_OF_CLASSIFIERS,
    ROLLOUT_OF_SERVED,
    ROLLOUT_RULES,
    SHADOW_OF_CLASSIFIERS,
    SHADOW_OF_ROUTERS,
)
from ratchet_api.scoring import SCORE, SCORED_TYPES, Scoring
from ratchet_api.tracking import Tracking
from ratchet_api.training_run import (
    GATED_LABEL_BYTES,
    Evaluation,
    Gate,
    RLTrainingRunSpec,
    RunTemplate,
    SupervisedStage,
)

MUTABLE_ONCE_STARTED = ("suspend", "ttlSecondsAfterFinished")
"""Fields of a started run's spec that may still change."""


GENERATORS_RL = ("rewardModel", "rlhf", "preference")
"""Stages that only a generator that learns from people's judgement has."""

_MODE_RULES = (
    Rule(
        "(self.mode == 'rl_only') == has(self.startFrom)",
        "startFrom is needed with mode rl_only and only there; add it, remove it or change mode",
        field_path=".mode",
    ),
    Rule(
        "self.mode != 'supervised' || !has(self.stages.rl)",
        "stages.rl is only for a mode with RL; remove it or set mode: supervised_then_rl",
        field_path=".stages.rl",
    ),
    *(
        Rule(
            f"self.mode != 'supervised' || !has(self.stages.{field})",
            f"stages.{field} is only for a mode with RL; remove it or set mode: supervised_then_rl",
            field_path=f".stages.{field}",
        )
        for field in GENERATORS_RL
    ),
    Rule(
        "self.mode != 'supervised' || !has(self.stages.evaluate.judge)",
        "stages.evaluate.judge is only for a mode with RL; remove it or set mode: supervised_then_rl",
        field_path=".stages.evaluate.judge",
    ),
    Rule(
        "!has(self.stages.rlhf) || !has(self.stages.preference)",
        "stages.rlhf and stages.preference exclude each other; remove one",
        field_path=".stages.preference",
    ),
    Rule(
        "self.mode != 'supervised' || !has(self.evaluation.comparison)",
        "evaluation.comparison is only for a mode with RL; remove it or set mode: supervised_then_rl",
        field_path=".evaluation.comparison",
    ),
)
"""Which fields a run's mode needs and which it has no use for."""


def _type_rules(kind: str, *, guard: str = "", at: str = "") -> tuple[Rule, ...]:
    """Which fields mean nothing to a type of policy.

    Args:
        kind: field that says the type.
        guard: what makes the template's absence no matter.
        at: where the template stands, with a dot at its end.
    """

    def rule(of: str, cel: str, field: str, message: str) -> Rule:
        return Rule(f"{guard}self.{kind} != '{of}' || {cel}", message, field_path=f".{at}{field}")

    return (
        *_reward_rules(rule, at),
        *(
            rule(
                "generator",
                f"!has(self.{at}{field})" if absent is None else f"self.{at}{field} == {json.dumps(absent)}",
                field,
                f"{field} is about classes and not for a generator; remove it",
            )
            for field, absent in CLASSIFIER_ONLY.items()
        ),
        rule(
            "classifier",
            f"!has(self.{at}stages.evaluate.answers)",
            "stages.evaluate.answers",
            "stages.evaluate.answers is only for a generator; remove it or set the type generator",
        ),
        rule(
            "classifier",
            f"!has(self.{at}stages.evaluate.judge)",
            "stages.evaluate.judge",
            "stages.evaluate.judge is only for a generator; remove it or set the type generator",
        ),
        *_gate_rules(rule, at),
    )


def _gate_rules(rule: Callable[[str, str, str, str], Rule], at: str) -> tuple[Rule, ...]:
    """Which numbers a gate may ask for, made by `_type_rules`' rule."""

    def gates(of: str, metrics: Sequence[str]) -> Rule:
        listed = ", ".join(f"'{name}'" for name in metrics)
        return rule(
            of,
            f"self.{at}evaluation.gates.all(gate, gate.metric in [{listed}])",
            "evaluation.gates",
            f"a gate's metric is not measured of a {of}; take one of {', '.join(metrics)}",
        )

    return (
        gates("generator", GENERATOR_METRICS),
        gates("classifier", CLASSIFIER_METRICS),
        rule(
            "generator",
            f"has(self.{at}stages.evaluate.judge) || self.{at}evaluation.gates.all(gate, gate.metric != '{JUDGED}')",
            "evaluation.gates",
            f"a gate on {JUDGED} needs stages.evaluate.judge; add it, or remove the gate",
        ),
        *(
            rule(
                "generator",
                f"self.{at}evaluation.gates.all(gate, gate.metric != '{metric}') || (self.{at}mode != 'supervised' && "
                f"{'' if needed == 'stages.preference' else '!'}has(self.{at}stages.preference))",
                "evaluation.gates",
                f"a gate on {metric} needs a run with {needed}; take another metric, or remove the gate",
            )
            for metric, needed in AGAINST_START.items()
        ),
        rule(
            "generator",
            f"self.{at}evaluation.gates.all(gate, gate.metric != '{ITEM_RATIO}') || (self.{at}mode != 'supervised' && "
            f"has(self.{at}stages.rlhf) && (has(self.{at}stages.rlhf.agents) ? "
            f"self.{at}stages.rlhf.agents[0].rewards.exists(r, r.type in {list(ITEM_REWARDS)}) : "
            f"self.{at}stages.rlhf.rewards.exists(r, r.type in {list(ITEM_REWARDS)})))",
            "evaluation.gates",
            f"a gate on {ITEM_RATIO} needs a reward of type {' or '.join(ITEM_REWARDS)} in stages.rlhf, of several "
            "agents the first's; add it, or remove the gate",
        ),
        rule(
            "generator",
            f"self.{at}evaluation.gates.all(gate, !has(gate.task))",
            "evaluation.gates",
            "a gate's task is not for a generator, which has no tasks; remove it",
        ),
    )


def _reward_rules(rule: Callable[[str, str, str, str], Rule], at: str) -> tuple[Rule, ...]:
    """Which fields about learning from rewards mean nothing to a type of policy, made by `_type_rules`' rule."""
    return (
        rule(
            "generator",
            f"!has(self.{at}stages.rl)",
            "stages.rl",
            "stages.rl is for a classifier; set stages.rlhf",
        ),
        *(
            rule(
                "classifier",
                f"!has(self.{at}stages.{field})",
                f"stages.{field}",
                f"stages.{field} is only for a generator; remove it or set the type generator",
            )
            for field in GENERATORS_RL
        ),
        rule(
            "generator",
            f"!has(self.{at}stages.preference) || !has(self.{at}stages.rewardModel)",
            "stages.preference",
            "stages.rewardModel rewards answers, stages.preference learns without; remove one",
        ),
        rule(
            "generator",
            f"self.{at}mode == 'supervised' || has(self.{at}stages.preference) || has(self.{at}stages.rewardModel) == (!has(self.{at}stages.rlhf) || "
            f"(has(self.{at}stages.rlhf.agents) ? "
            f"self.{at}stages.rlhf.agents.exists(a, a.rewards.exists(r, r.type == 'rewardModel' && !has(r.model))) : "
            f"self.{at}stages.rlhf.rewards.exists(r, r.type == 'rewardModel' && !has(r.model))))",
            "stages.rewardModel",
            "stages.rewardModel and a reward of type rewardModel without model in stages.rlhf.rewards, which is the "
            "default, go together; add the missing one or remove the other",
        ),
        rule(
            "generator",
            f"!has(self.{at}evaluation.comparison) || size(self.{at}evaluation.comparison.slices) == 0",
            "evaluation.comparison.slices",
            "evaluation.comparison.slices is about classes and not for a generator; remove it",
        ),
    )


RULES: Mapping[type[BaseModel], tuple[Rule, ...]] = {
    Source: (
        Rule(
            "[has(self.objects), has(self.inline), has(self.feedback)].exists_one(set, set)",
            "exactly one of objects, inline and feedback must be set; remove one or add the missing one",
        ),
    ),
    InlineRow: (
        Rule(
            "[has(self.label), has(self.labels) && size(self.labels) > 0, has(self.response)].exists_one(set, set)",
            "exactly one of label, labels and response must be set; remove one or add the missing one",
        ),
    ),
    Columns: (
        Rule(
            f"!has(self.labels) || self.label == '{LABEL_COLUMN}'",
            "label and labels exclude each other; remove label",
            field_path=".label",
        ),
        Rule(
            "!has(self.labels) || size(self.labels) >= 2",
            "labels must name at least two tasks; for one, set label",
            field_path=".labels",
        ),
        Rule(
            f"!has(self.messages) || (self.text == '{TEXT_COLUMN}' && !has(self.response))",
            "messages stands in place of text and response; remove them or messages",
            field_path=".messages",
        ),
        Rule(
            f"!has(self.turns) || (self.text == '{TEXT_COLUMN}' && !has(self.messages))",
            "turns stands in place of text and messages; remove them or turns",
            field_path=".turns",
        ),
        Rule(
            "!has(self.turns) || has(self.group)",
            "turns needs group; name the column of the dialogue, whose rows never part across splits",
            field_path=".turns",
        ),
    ),
    Filters: (
        Rule(
            "self.minTextChars <= self.maxTextChars",
            "minTextChars must not be above maxTextChars; lower it or raise maxTextChars",
            field_path=".minTextChars",
        ),
    ),
    Split: (
        Rule(
            "self.trainPercent + self.validationPercent + self.testPercent == 100",
            "trainPercent, validationPercent and testPercent must add up to 100",
        ),
    ),
    Refresh: (
        Rule(
            "has(self.schedule) || has(self.everyEvents)",
            "schedule or everyEvents must be set, or both; add one, or remove refresh",
        ),
    ),
    Scoring: (
        *RLHF_RULES[Judge],
        Rule(
            f"!('{SCORE}' in self.qualities)",
            f"qualities must not hold {SCORE}, which is always asked for; remove it",
            field_path=".qualities",
        ),
        Rule(
            f"self.qualities.size() == 0 || (self.prompt.contains('{SCORE}') && "
            "self.qualities.all(name, self.prompt.contains(name)))",
            f"prompt must name {SCORE} and each of qualities, or the judge cannot give them; add them to the prompt",
            field_path=".prompt",
        ),
    ),
    FeedbackDatasetSpec: (
        Rule(
            f"!has(self.scoring) || self.type in {list(SCORED_TYPES)}",
            f"scoring is only for types {' and '.join(SCORED_TYPES)}, whose rows hold one response; remove it or "
            "change type",
            field_path=".scoring",
        ),
        Rule(
            "!has(self.source.feedback) || !has(self.source.feedback.sampling) || has(self.filters.maxSamples)",
            "source.feedback.sampling needs filters.maxSamples; set it, or remove sampling",
            field_path=".source.feedback.sampling",
        ),
        Rule(
            "!has(self.refresh) || has(self.source.feedback)",
            "refresh needs source.feedback, the only source that grows by itself; remove refresh",
            field_path=".refresh",
        ),
        Rule(
            "!has(self.refresh) || !has(self.source.feedback) || !has(self.source.feedback.asOf)",
            "refresh is not for source.feedback.asOf, which reads the same events for ever; remove one",
            field_path=".refresh",
        ),
        Rule(
            "self.type != 'preferences' || has(self.source.feedback)",
            "this type needs source.feedback; name the policy, or set type: classification",
            field_path=".type",
        ),
        Rule(
            "!has(self.labels) || self.type in ['classification', 'ratings']",
            "labels is only for types classification and ratings; remove it",
            field_path=".labels",
        ),
        Rule(
            "!has(self.source.feedback) || (self.columns.text == 'text' && self.columns.label == 'label' && "
            "!has(self.columns.labels) && !has(self.columns.group) && !has(self.columns.subject) && "
            "!has(self.columns.timestamp) && "
            "!has(self.columns.response) && !has(self.columns.messages) && "
            "!has(self.columns.score) && !has(self.columns.propensity) && !has(self.columns.policy) && "
            "!has(self.columns.task))",
            "columns is not for source.feedback, whose fields are known; remove it",
            field_path=".columns",
        ),
        Rule(
            "!has(self.source.feedback) || !has(self.source.feedback.minRating) || self.type != 'preferences'",
            "minRating is not for type preferences; remove it or change type",
            field_path=".source.feedback.minRating",
        ),
        Rule(
            "!has(self.filters.maxAgeDays) || has(self.columns.timestamp) || has(self.source.feedback)",
            "filters.maxAgeDays needs columns.timestamp; name the column that holds each row's time",
            field_path=".filters.maxAgeDays",
        ),
        Rule(
            "!has(self.filters.maxSubjectSharePercent) || has(self.columns.subject) || has(self.source.feedback)",
            "filters.maxSubjectSharePercent needs columns.subject; name the column that holds the person",
            field_path=".filters.maxSubjectSharePercent",
        ),
        *(
            Rule(
                f"self.type == 'ratings' || !has(self.columns.{field})",
                f"columns.{field} is only for type ratings; remove it or set type: ratings",
                field_path=f".columns.{field}",
            )
            for field in ("score", "propensity", "policy", "task")
        ),
        *(
            Rule(
                f"self.type == 'demonstrations' || !has(self.columns.{field})",
                f"columns.{field} is only for type demonstrations; remove it or set type: demonstrations",
                field_path=f".columns.{field}",
            )
            for field in OF_DEMONSTRATIONS
        ),
        Rule(
            f"self.type != 'demonstrations' || self.columns.label == '{LABEL_COLUMN}'",
            "columns.label is not for type demonstrations; remove it or change type",
            field_path=".columns.label",
        ),
        *(
            Rule(
                f"!has(self.columns.{field}) || !has(self.source.inline)",
                f"columns.{field} is not for source.inline, whose rows have text and response; remove it",
                field_path=f".columns.{field}",
            )
            for field in OF_DIALOGUES
        ),
        Rule(
            "!has(self.source.inline) || self.source.inline.all(row, has(row.response) == (self.type == 'demonstrations'))",
            "response is needed for type demonstrations and only there; add it, remove it or change type",
            field_path=".source.inline",
        ),
        Rule(
            "!has(self.source.inline) || self.source.inline.all(row, has(row.score) == (self.type == 'ratings') && "
            "has(row.propensity) == (self.type == 'ratings'))",
            "score and propensity are needed for type ratings and only there; add them, remove them or change type",
            field_path=".source.inline",
        ),
        Rule(
            "self.type == 'classification' || !has(self.columns.labels)",
            "columns.labels is only for type classification; remove it or change type",
            field_path=".columns.labels",
        ),
        Rule(
            "!has(self.labels) || !has(self.columns.labels)",
            "labels is only for a dataset without columns.labels; remove it",
            field_path=".labels",
        ),
        Rule(
            "!has(self.source.inline) || self.source.inline.all(row, has(row.response) || "
            "has(row.labels) == has(self.columns.labels))",
            "source.inline must have labels if columns.labels is set, and label if it is not; change it",
            field_path=".source.inline",
        ),
        Rule(
            "!has(self.source.inline) || !has(self.columns.labels) || self.source.inline.all(row, !has(row.labels) || "
            "row.labels.all(task, task in self.columns.labels))",
            "source.inline must name tasks of columns.labels; correct it",
            field_path=".source.inline",
        ),
    ),
    Toleration: (
        Rule(
            "self.operator != 'Exists' || !has(self.value) || self.value == ''",
            "value is only for operator Equal; remove it or set operator: Equal",
            field_path=".value",
        ),
    ),
    SupervisedStage: (
        Rule(
            "self.batchSize % self.nodes == 0",
            "batchSize must be a multiple of nodes, which share it evenly; change one of them",
            field_path=".nodes",
        ),
    ),
    Evaluation: (
        Rule(
            "self.gates.map(gate, has(gate.label) ? bytes(gate.label).size() : 0).sum() <= " + str(GATED_LABEL_BYTES),
            f"the labels of all gates together must have at most {GATED_LABEL_BYTES} bytes; gate fewer classes",
            field_path=".gates",
        ),
    ),
    Gate: (
        Rule(
            "has(self.minimum) || has(self.maximum)",
            "a gate needs minimum or maximum; set at least one of them",
        ),
        Rule(
            "!has(self.minimum) || !has(self.maximum) || self.minimum <= self.maximum",
            "minimum must not be above maximum; no value could pass",
            field_path=".minimum",
        ),
        Rule(
            f"self.metric in {list(ABOVE_ONE)} || "
            "((!has(self.minimum) || self.minimum <= 1.0) && (!has(self.maximum) || self.maximum <= 1.0))",
            "minimum and maximum of this metric must not be above 1, which it never is; lower them",
            field_path=".metric",
        ),
        Rule(
            "!has(self.label) || self.metric == 'macro_f1'",
            "label is only for metric macro_f1; remove it or change metric",
            field_path=".label",
        ),
        Rule(
            "!has(self.label) || !has(self.task)",
            "label and task exclude each other, since a class is called TASK/LABEL; remove task",
            field_path=".task",
        ),
    ),
    Tracking: (
        Rule(
            "self.tensorboard || has(self.mlflow) || has(self.wandb)",
            "tracking names no tracker; set tensorboard: true, mlflow or wandb, or remove it",
        ),
    ),
    **RL_RULES,
    **RLHF_RULES,
    **ROLLOUT_RULES,
    RunTemplate: _MODE_RULES,
    RLTrainingRunSpec: (*_MODE_RULES, *_type_rules("policyType")),
    RLPolicySpec: (
        *_type_rules("type", guard="!has(self.training) || ", at="training.template."),
        ROLLOUT_OF_SERVED,
        SHADOW_OF_CLASSIFIERS,
        LABELS_OF_CLASSIFIERS,
        ENGINE_OF_GENERATORS,
        EXPLORING_CLASSIFIERS,
        SHADOW_OF_ROUTERS,
        *GENERATION_OF_TYPE,
    ),
}


def immutable_once_started(spec: type[BaseModel], mutable: tuple[str, ...]) -> Rule:
    """Return the transition rule by which the spec's fields may not change after status.startTime is set.

    It stands at the root of the object, because only there a rule sees both spec and status. There it is judged at
    every write, also of status, so it is one rule and asks early whether the spec changed at all: a rule for each
    field made a status write half as dear again. A field that is added to the model is immutable from its first day
    unless it is named in `mutable`.
    """
    names = {field.alias or name: field.default is not None for name, field in spec.model_fields.items()}
    if unknown := set(mutable) - set(names):
        raise ValueError(f"{spec.__name__} has no field {sorted(unknown)}")
    same = {name: _unchanged(name, always=always) for name, always in names.items() if name not in mutable}
    # comparing the specs costs most, and the status that starts a run need not pay for it
    free = "!has(oldSelf.status) || !has(oldSelf.status.startTime) || self.spec == oldSelf.spec"
    # not a list with filter and join: the server cannot bound the cost of those
    changed = " + ".join(f"({unchanged} ? '' : 'spec.{name} ')" for name, unchanged in same.items())
    text = "cannot change once the run has started; revert it and make a new run for new settings"
    return Rule(
        f"{free} || ({' && '.join(f'({unchanged})' for unchanged in same.values())})",
        f"the spec {text}; only {' and '.join(mutable)} may change",
        field_path=".spec",
        reason="FieldValueForbidden",
        message_expression=f"{changed} + '{text}'",
    )


def _unchanged(name: str, *, always: bool) -> str:
    """CEL for "the field is as it was". Not `.?name`: the server cannot bound the cost of comparing optionals."""
    same = f"self.spec.{name} == oldSelf.spec.{name}"
    if always:  # required or with a default, which the server fills in before it asks
        return same
    return f"has(self.spec.{name}) == has(oldSelf.spec.{name}) && (!has(self.spec.{name}) || {same})"


ROOT_RULES: Mapping[str, tuple[Rule, ...]] = {
    "RLTrainingRun": (immutable_once_started(RLTrainingRunSpec, MUTABLE_ONCE_STARTED),),
}
"""Rules at the root of an object, by kind."""
