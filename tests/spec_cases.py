# ruff: noqa: E501 -- a table is read row by row
"""One table of specs, good and bad, for pydantic and for a real API server (the first half of promise P16).

A case changes one thing of a valid spec. `field` must stand in either refusal, `pydantic` and `server` are what each
says besides; a case without `field` is accepted by both.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

DIGEST = "0" * 64
REMOVE = object()

VALID: Mapping[str, Mapping[str, Any]] = {
    "FeedbackDataset": {
        "type": "classification",
        "source": {"objects": [{"uri": "store://data/train.csv"}]},
    },
    "RLTrainingRun": {
        "policyType": "classifier",
        "baseModel": {"uri": "store://models/encoder", "sha256": DIGEST},
        "datasetRef": {"name": "tickets"},
    },
    "RLPolicy": {
        "type": "classifier",
        "training": {
            "template": {
                "baseModel": {"uri": "store://models/encoder", "sha256": DIGEST},
                "datasetRef": {"name": "tickets"},
            }
        },
    },
}


@dataclass(frozen=True)
class Case:
    """One change to a valid spec and what becomes of it."""

    rule: str
    kind: str
    change: Mapping[str, Any] = field(default_factory=dict)
    field: str = ""
    pydantic: str = ""
    server: str = ""

    @property
    def spec(self) -> dict[str, Any]:
        """The valid spec with the change made."""
        return changed(VALID[self.kind], self.change)

    @property
    def accepted(self) -> bool:
        """Whether both must take it."""
        return not self.field


def changed(spec: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy with dotted paths set, or removed where the value is REMOVE."""
    made = copy.deepcopy(dict(spec))
    for path, value in change.items():
        *parents, last = path.split(".")
        here = made
        for name in parents:
            here = here.setdefault(name, {})
        if value is REMOVE:
            del here[last]
        else:
            here[last] = copy.deepcopy(value)
    return made


FBD, RUN, RLP = VALID
LOG = {"source": {"feedback": {"policyRef": {"name": "router"}}}}
RL = {"mode": "supervised_then_rl"}
FROM_LOG = {"datasetRef": {"name": "log"}}
GEN = {"policyType": "generator"}
SAID = {"text": "hello", "label": "greeting"}
SHARED = {"uri": "store://judges/kind", "sha256": "c" * 64}
LIKED = {"stages.rewardModel": {"datasetRef": {"name": "liked"}}}
PAIRS = {"stages.preference.datasetRef": {"name": "liked"}}
WINS, AGREES = {"metric": "win_rate", "minimum": 0.6}, {"metric": "agreement", "minimum": 0.6}
JUDGE: dict[str, Any] = {"endpoint": "http://judge.ml:8000/v1", "model": "qwen", "prompt": "Rate: {response}"}
PAIR_JUDGE: dict[str, Any] = {
    "endpoint": "http://judge.ml:8000/v1",
    "model": "qwen",
    "prompt": "Which is better? 1: {first} 2: {second}",
}
FORMULA = [{"type": "expression", "expression": "ended", "weight": 0.5}]
AGENTS = [{"name": "response"}, {"name": "emotion", "rewards": FORMULA, "frozen": True}]
START = {"policy": {"name": "router", "version": 1}}

ACCEPTED = (
    Case("the smallest dataset", FBD),
    Case("the smallest run", RUN),
    Case("the smallest policy with a template", RLP),
    Case("a policy without a template", RLP, {"training": REMOVE}),
    Case("a policy that is served", RLP, {"serving": {}}),
    Case("a policy with a default rollout", RLP, {"serving": {}, "rollout": {}}),
    Case("a policy whose versions are shadows first", RLP, {"serving": {}, "rollout.shadow": {"percent": 100, "seconds": 60, "minPairs": 1, "maxFlipRate": 0}}),
    Case("a test of versions", RLP, {"serving": {}, "rollout.abTest": {"arms": [{"version": 2, "percent": 20}, {"version": 3, "percent": 30}], "seconds": 60, "subjects": 100, "promoteBest": True}}),
    Case("a policy judged by its own numbers", RLP, {"serving": {}, "rollout.judged.queries": [{"name": "Cart losses", "query": "sum(rate(lost{v=\"{{version}}\",ns=\"{{namespace}}\"}[5m]))", "most": 0.5, "least": -1, "seconds": 60, "alive": "asked{policy=\"{{policy}}\"}"}, {"name": "b", "query": "x", "least": 0}]}),
    Case("a policy with every choice about rollouts", RLP, {"serving": {"replicas": 2, "resources": {"gpus": 1}, "placement": {"nodeSelector": {"pool": "gpu"}}, "routers": {"subjectCookie": "who", "testerHeader": "x-version"}}, "rollout": {"canary": {"steps": [0.5, 50]}, "judged": {"goal": "nonInferior", "margin": 0.05, "abstentionMargin": 0, "deadlineSeconds": 86400}, "promotion": "manual"}}),
    Case("a policy whose requests Gateways deal", RLP, {"serving": {"httpRoute": {"parentRefs": [{"name": "edge", "namespace": "infra", "sectionName": "https"}], "hostnames": ["support.example.com", "*.example.org"], "testerHeader": "x-version"}}, "rollout": {}}),
    Case("a policy whose tokens vLLM makes", RLP, {"type": "generator", "training": REMOVE, "serving": {"engine": "vllm", "resources": {"gpus": 2, "memoryGi": 64}}}),
    Case("Gateways beside routers that are as by default", RLP, {"serving": {"httpRoute": {"parentRefs": [{"name": "edge"}]}, "routers": {"replicas": 2, "cpu": 1, "memoryGi": 0.5}}}),
    Case("inline rows instead of objects", FBD, {"source": {"inline": [{"text": "hello", "label": "greeting"}]}}),
    Case("a nested column path", FBD, {"columns.text": "message.body"}),
    Case("blanks inside a column path", FBD, {"columns.text": "Consumer complaint narrative.first page"}),
    Case("an age filter with its column", FBD, {"filters.maxAgeDays": 30, "columns.timestamp": "at"}),
    Case("a subject cap with its column", FBD, {"filters.maxSubjectSharePercent": 2.5, "columns.subject": "user"}),
    Case("shares that add up to 100", FBD, {"split": {"trainPercent": 70, "validationPercent": 10, "testPercent": 20}}),
    Case(
        "a file put whole into one split", FBD, {"source.objects": [{"uri": "s3://bucket/a.parquet", "split": "test"}]}
    ),
    Case("a column per task", FBD, {"columns.labels": {"intent": "meta.intent", "pii": "contains PII"}}),
    Case("inline rows with labels per task", FBD, {"columns.labels": {"intent": "a", "pii": "b"}, "source": {"inline": [{"text": "hello", "labels": {"intent": "greeting"}}]}}),
    Case("eight tasks", FBD, {"columns.labels": {f"task-{n}": f"column {n}" for n in range(8)}}),
    Case("gates on a task and on a class of one", RUN, {"evaluation.gates": [{"metric": "ece", "task": "pii", "maximum": 0.1}, {"metric": "macro_f1", "label": "intent/refund", "minimum": 0.5}]}),
    Case("weights of tasks", RUN, {"stages.supervised.taskWeights": {"intent": 2, "pii": 0.5}}),
    Case("a reward of one task", RUN, {**RL, "stages.rl.rewards": [{"type": "accuracy", "task": "intent", "weight": 2}, {"type": "f1", "task": "pii"}]}),
    Case("labels in any script", FBD, {"labels": ["Rückfrage", "返品", "other stuff, with: signs"]}),
    Case("rows from feedback", FBD, LOG),
    Case("rated rows from feedback with every rule", FBD, {**LOG, "type": "ratings", "labels": ["a", "b"], "source.feedback.types": ["rating", "score"], "source.feedback.versions": [1], "source.feedback.tags": [{"name": "team", "value": "a"}], "source.feedback.minRating": 2.5, "source.feedback.groupBy": "subject", "source.feedback.quarantine": {"minAgreement": 1, "minComparisons": 1, "release": ["2026-11:" + "0" * 32]}, "source.feedback.asOf": DIGEST}),
    Case("disputed rows first", FBD, {**LOG, "source.feedback.sampling": {"disagreement": {"sharePercent": 50}}, "filters.maxSamples": 100}),
    Case("a refresh every night", FBD, {**LOG, "refresh": {"schedule": "0 5 * * *"}}),
    Case("a refresh by a schedule with everything in it, or by events", FBD, {**LOG, "refresh": {"schedule": "*/15,7 0-5/2 1,15 JAN-MAR,12 MON-FRI", "everyEvents": 1}}),
    Case("feedback limited by age and share without columns", FBD, {**LOG, "type": "preferences", "filters": {"maxAgeDays": 1, "maxSubjectSharePercent": 1}}),
    Case("a whole number where a fraction may stand", RUN, {"stages.supervised.epochs": 3}),
    Case("a fraction of an epoch", RUN, {"stages.supervised.epochs": 0.25}),
    Case("a rate just above zero", RUN, {"stages.supervised.learningRate": 1e-9}),
    Case("a gate with one bound", RUN, {"evaluation.gates": [{"metric": "accuracy", "minimum": 0.8}]}),
    Case("a gate with equal bounds", RUN, {"evaluation.gates": [{"metric": "ece", "minimum": 0, "maximum": 0}]}),
    Case("a gate on one class", RUN, {"evaluation.gates": [{"metric": "macro_f1", "label": "refund", "minimum": 0.5}]}),
    Case(
        "gates on a dozen long class names",
        RUN,
        {"evaluation.gates": [{"metric": "macro_f1", "minimum": 0.1, "label": f"{n:0>128}"} for n in range(12)]},
    ),
    Case("a dataset name of 253 characters", RUN, {"datasetRef.name": "a" * 253}),
    Case("a node selector", RUN, {"placement.nodeSelector": {"kubernetes.io/arch": "amd64", "gpu.model": ""}}),
    Case("a toleration of every value", RUN, {"placement.tolerations": [{"key": "gpu", "operator": "Exists"}]}),
    Case("an explicit null means omitted", RUN, {"publishTo": None, "lora.targetModules": None}),
    Case("a null means the default", RUN, {"suspend": None, "stages": None, "placement.nodeSelector": None}),
    Case("the largest seed", RUN, {"seed": 2**31 - 1}),
    Case("RL with its defaults", RUN, {"mode": "supervised_then_rl"}),
    Case("RL with settings and a comparison", RUN, {**RL, "stages.rl.rewards": [{"type": "f1", "weight": 0.5}], "evaluation.comparison.slices": [{"label": "refund", "margin": 0.1}]}),
    Case("every tracker", RUN, {"tracking": {"tensorboard": True, "mlflow": {"uri": "https://mlflow.example:5000"}, "wandb": {"project": "routers"}}}),
    Case("a minibatch that two nodes share evenly", RUN, {**RL, "stages.rl.nodes": 2, "stages.supervised.nodes": 4}),
    Case("RL from a published version", RUN, {"mode": "rl_only", "startFrom": {"policy": {"name": "router", "version": 3}}}),
    Case("RL from an artifact", RUN, {"mode": "rl_only", "startFrom": {"artifact": {"uri": "store://runs/a", "sha256": DIGEST}}}),
    Case("a template with RL", RLP, {"training.template.mode": "supervised_then_rl", "training.template.stages.rl": {"algorithm": "a2c"}}),
    Case("an answer's curriculum in order", RUN, {**GEN, **RL, **LIKED, "stages.rlhf.rewards": [{"type": "rewardModel", "curriculum": [{"atInteraction": 0, "weight": 0}, {"atInteraction": 10, "weight": 0.5}]}]}),
    Case("a curriculum in order", RUN, {**RL, "stages.rl.rewards": [{"type": "accuracy", "curriculum": [{"atInteraction": 0, "weight": 1}, {"atInteraction": 10, "weight": 0.5}]}]}),
    Case("a log of answers", FBD, {"type": "ratings", "columns.score": "verdict", "columns.propensity": "p", "columns.policy": "who"}),
    Case("inline rows of a log", FBD, {"type": "ratings", "source": {"inline": [{**SAID, "score": 0, "propensity": 1}]}}),
    Case("a generator", RUN, GEN),
    Case("a generator with all that has a meaning for it", RUN, {**GEN, "lora": {"rank": 8, "lastBlocks": 2}, "stages.supervised": {"epochs": 1, "maxTokens": 512}, "stages.evaluate.answers": {"prompts": 50, "maxNewTokens": 32}, "evaluation.gates": [{"metric": "perplexity", "maximum": 20}, {"metric": "bleu2", "minimum": 0.1}]}),
    Case("a generator that learns from a reward model", RUN, {**GEN, **RL, **LIKED}),
    Case("a generator that learns from formulas alone", RUN, {**GEN, **RL, "stages.rlhf.rewards": FORMULA, "evaluation.comparison": {"margin": 0.1}}),
    Case("a generator with a critic", RUN, {**GEN, **RL, "stages.rewardModel": {"datasetRef": {"name": "scored"}, "scores": "judge", "ratingLoss": "ordinal"}}),
    Case("a reward model on an encoder of its own", RUN, {**GEN, **RL, "stages.rewardModel": {"datasetRef": {"name": "liked"}, "baseModel": {"uri": "store://models/minilm", "sha256": "d" * 64, "method": "full"}, "learningRate": 1e-4}}),
    Case("a generator with a reward model and a formula", RUN, {**GEN, **RL, **LIKED, "stages.rlhf.rewards": [{"type": "rewardModel"}, *FORMULA]}),
    Case("a generator with another run's reward model", RUN, {**GEN, **RL, "stages.rlhf.rewards": [{"type": "rewardModel", "model": SHARED}, *FORMULA]}),
    Case("a generator that goes on learning", RUN, {**GEN, **LIKED, "mode": "rl_only", "startFrom": START}),
    Case("rewards of a recommender", RUN, {**GEN, **RL, "stages.rlhf.rewards": [{"type": "recommendation", "catalogue": {"uri": "store://films.csv", "sha256": "c" * 64, "column": "title"}}, {"type": "itemRatio", "name": "items"}, {"type": "empathy", "classifier": {"uri": "store://feels", "sha256": "c" * 64}}, {"type": "safety", "words": ["damn"]}, {"type": "length", "minWords": 4, "maxWords": 30}, {"type": "format", "pattern": ".*[.!?]"}]}),
    Case("a reward for words that are said", RUN, {**GEN, **RL, "stages.rlhf.rewards": [{"type": "words", "words": ["thanks", "Grüße"], "weight": -1}]}),
    Case("a judge over HTTP", RUN, {**GEN, **RL, "stages.rlhf.rewards": [{"type": "judge", "judge": {**JUDGE, "apiKeySecretRef": {"name": "judge"}, "minScore": 1, "maxScore": 5}}]}),
    Case("a judge of answers in the evaluation, and a gate on it", RUN, {**GEN, **RL, **PAIRS, "stages.evaluate.judge": PAIR_JUDGE, "evaluation.gates": [{"metric": "judge_win_rate", "minimum": 0.55}]}),
    Case("a gate on winning", RUN, {**GEN, **RL, **LIKED, "evaluation.gates": [WINS]}),
    Case("a gate on agreeing", RUN, {**GEN, **RL, **PAIRS, "evaluation.gates": [AGREES]}),
    Case("agents on one trunk", RUN, {**GEN, **RL, **LIKED, "stages.rlhf.agents": AGENTS}),
    Case("agents of formulas alone", RUN, {**GEN, **RL, "stages.rlhf.agents": [{"name": "short", "rewards": FORMULA}, {"name": "also-short", "rewards": FORMULA}]}),
    Case("a generator that learns in groups", RUN, {**GEN, **RL, **LIKED, "stages.rlhf.algorithm": "rloo", "stages.rlhf.groupSize": 8}),
    Case("a generator that learns from pairs", RUN, {**GEN, **RL, **PAIRS}),
    Case("a generator that learns from good and bad answers", RUN, {**GEN, **RL, **PAIRS, "stages.preference.algorithm": "kto", "stages.preference.desirableWeight": 2.0}),
    Case("a policy of generators that learn from pairs", RLP, {"type": "generator", "training.template.mode": "supervised_then_rl", "training.template.stages.preference.datasetRef": {"name": "liked"}}),
    Case("a policy of generators that learn from rewards", RLP, {"type": "generator", "training.template.mode": "supervised_then_rl", "training.template.stages.rlhf.rewards": FORMULA}),
    Case("a policy of generators", RLP, {"type": "generator", "training.template.stages.evaluate.answers": {"prompts": 5}}),
    Case("demonstrations from a file", FBD, {"type": "demonstrations", "columns.text": "question", "columns.response": "answer"}),
    Case("dialogues from a file", FBD, {"type": "demonstrations", "columns.messages": "body.turns", "columns.group": "chat"}),
    Case("turns, items and emotions from a file", FBD, {"type": "demonstrations", "columns.turns": "said", "columns.group": "chat", "columns.response": "answer", "columns.items": "films", "columns.emotion": "mood"}),
    Case("scored demonstrations", FBD, {"type": "demonstrations", "scoring": {**JUDGE, "prompt": "Rate {response} to {prompt}: score, empathy, fluency", "qualities": ["empathy", "fluency"], "apiKeySecretRef": {"name": "judge"}}}),
    Case("scored answers of feedback", FBD, {**LOG, "type": "ratings", "scoring": JUDGE}),
    Case("inline demonstrations", FBD, {"type": "demonstrations", "source": {"inline": [{"text": "hello", "response": "good day"}]}}),
    Case("RL from a log", RUN, {**RL, "stages.rl": {**FROM_LOG, "rewards": [{"type": "feedback", "estimator": "ips", "maxWeight": 5}, {"type": "latency", "targetMs": 9}]}}),
    Case("dqn from a log", RUN, {**RL, "stages.rl": {**FROM_LOG, "algorithm": "dqn", "rewards": [{"type": "feedback", "estimator": "direct"}]}}),
    Case("dqn with its own fields", RUN, {**RL, "stages.rl": {"algorithm": "dqn", "explorationEpsilon": {"start": 0.2, "end": 0.1}, "targetUpdateInterval": 100}}),
)  # fmt: skip

REFUSED = (
    # shape
    Case("unknown field", RUN, {"epochs": 3}, "epochs", "unknown field", "unknown field"),
    Case("unknown field deep inside", RUN, {"stages.supervised.learning_rte": 1}, "learning_rte", "unknown field", "unknown field"),
    Case("stage that does not exist", RUN, {"stages.distill": {}}, "stages.distill", "unknown field", "unknown field"),
    Case("missing field", RUN, {"datasetRef": REMOVE}, "spec.datasetRef", "required", "Required"),
    Case("text for a number", RUN, {"seed": "7"}, "spec.seed", "valid integer", "must be of type integer"),
    Case("fraction for a whole number", RUN, {"stages.supervised.batchSize": 1.5}, "spec.stages.supervised.batchSize", "valid integer", "must be of type integer"),
    Case("number for text", RUN, {"datasetRef.name": 7}, "spec.datasetRef.name", "valid string", "must be of type string"),
    Case("text for a switch", RUN, {"suspend": "yes"}, "spec.suspend", "true or false", "must be of type boolean"),
    Case("list for an object", RUN, {"lora": []}, "spec.lora", "an object", "must be of type object"),
    Case("object for a list", RUN, {"evaluation.gates": {"metric": "ece"}}, "spec.evaluation.gates", "a list", "unknown field"),
    Case("word outside the list", RUN, {"mode": "telepathy"}, "spec.mode", "supervised", "Unsupported value"),
    Case("a type that no policy has", RLP, {"type": "oracle"}, "spec.type", "classifier", "Unsupported value"),
    Case("null for a required field", RUN, {"datasetRef": None}, "spec.datasetRef", "required", "Required"),
    Case("null as an item", RUN, {"lora.targetModules": [None]}, "spec.lora.targetModules[0]", "valid string", "must be of type string"),
    Case("null for an unknown field", RUN, {"epochs": None}, "epochs", "unknown field", "unknown field"),
    # bounds
    Case("rate of zero", RUN, {"stages.supervised.learningRate": 0}, "spec.stages.supervised.learningRate", "greater than 0", "should be greater than 0"),
    Case("rate above one", RUN, {"stages.supervised.learningRate": 1.1}, "spec.stages.supervised.learningRate", "less than or equal to 1", "should be less than or equal to 1"),
    Case("smoothing of everything", RUN, {"stages.supervised.labelSmoothing": 1}, "spec.stages.supervised.labelSmoothing", "less than 1", "should be less than 1"),
    Case("no processor at all", RUN, {"stages.supervised.resources.cpu": 0}, "spec.stages.supervised.resources.cpu", "greater than or equal to 0.1", "should be greater than or equal to 0.1"),
    Case("negative seed", RUN, {"seed": -1}, "spec.seed", "greater than or equal to 0", "should be greater than or equal to 0"),
    Case("deadline of a second", RUN, {"activeDeadlineSeconds": 1}, "spec.activeDeadlineSeconds", "greater than or equal to 10", "should be greater than or equal to 10"),
    Case("more GPUs than a node has", RUN, {"stages.supervised.resources.gpus": 17}, "spec.stages.supervised.resources.gpus", "less than or equal to 16", "should be less than or equal to 16"),
    Case("too many gates", RUN, {"evaluation.gates": [{"metric": "ece", "maximum": 1}] * 33}, "spec.evaluation.gates", "at most 32", "at most 32"),
    Case("empty label", FBD, {"labels": ["", "b"]}, "spec.labels[0]", "at least 1 character", "at least 1 char"),
    Case("one class only", FBD, {"labels": ["a"]}, "spec.labels", "at least 2", "at least 2"),
    Case("inline text of a megabyte", FBD, {"source": {"inline": [{"text": "x" * 1_000_000, "label": "a"}]}}, "spec.source.inline[0].text", "at most 8192", "may not be more than 8192"),
    Case("empty inline text", FBD, {"source": {"inline": [{"text": "", "label": "a"}]}}, "spec.source.inline[0].text", "at least 1 character", "at least 1 char"),
    # names and addresses
    Case("dataset in another namespace", RUN, {"datasetRef": {"name": "tickets", "namespace": "other"}}, "namespace", "unknown field", "unknown field"),
    Case("namespace smuggled into a name", RUN, {"datasetRef.name": "other/tickets"}, "spec.datasetRef.name", "match pattern", "should match"),
    Case("name of 254 characters", RUN, {"datasetRef.name": "a" * 254}, "spec.datasetRef.name", "at most 253", "may not be more than 253"),
    Case("upper case in a name", RUN, {"publishTo": {"name": "Router"}}, "spec.publishTo.name", "match pattern", "should match"),
    Case("local path as model", RUN, {"baseModel.uri": "/models/encoder"}, "spec.baseModel.uri", "match pattern", "should match"),
    Case("web address as model", RUN, {"baseModel.uri": "https://example.org/m"}, "spec.baseModel.uri", "match pattern", "should match"),
    Case("query in an address", RUN, {"baseModel.uri": "s3://bucket/m?versionId=1"}, "spec.baseModel.uri", "match pattern", "should match"),
    Case("shortened digest", RUN, {"baseModel.sha256": "abc123"}, "spec.baseModel.sha256", "at least 64", "at least 64"),
    Case("upper-case digest", RUN, {"baseModel.sha256": "A" * 64}, "spec.baseModel.sha256", "match pattern", "should match"),
    Case("blank at the edge of a column path", FBD, {"columns.text": "text "}, "spec.columns.text", "match pattern", "should match"),
    Case("tab in a column path", FBD, {"columns.text": "my\ttext"}, "spec.columns.text", "match pattern", "should match"),
    Case("nothing between two dots of a column path", FBD, {"columns.text": "a. .b"}, "spec.columns.text", "match pattern", "should match"),
    Case("label key that no node can have", RUN, {"placement.nodeSelector": {"a b": "c"}}, "spec.placement.nodeSelector", "match pattern", "each key must"),
    Case("label value that no node can have", RUN, {"placement.nodeSelector": {"a": "b c"}}, "spec.placement.nodeSelector.a", "match pattern", "should match"),
    Case("queue name that is no label value", RUN, {"placement.queueName": "a b"}, "spec.placement.queueName", "match pattern", "should match"),
    # across fields
    Case("two sources", FBD, {"source.inline": [{"text": "a", "label": "b"}]}, "spec.source", "exactly one of objects, inline and feedback", "exactly one of objects, inline and feedback"),
    Case("no source", FBD, {"source": {}}, "spec.source", "exactly one of objects, inline and feedback", "exactly one of objects, inline and feedback"),
    Case("feedback beside objects", FBD, {"source.feedback": {"policyRef": {"name": "router"}}}, "spec.source", "exactly one of objects, inline and feedback", "exactly one of objects, inline and feedback"),
    Case("feedback of no policy", FBD, {"source": {"feedback": {}}}, "spec.source.feedback.policyRef", "required", "Required value"),
    Case("a column of answers in a classification", FBD, {"columns.response": "answer"}, "columns.response", "only for type demonstrations", "only for type demonstrations"),
    Case("a column of dialogues in a log", FBD, {"type": "ratings", "columns.messages": "turns"}, "columns.messages", "only for type demonstrations", "only for type demonstrations"),
    Case("dialogues beside prompts", FBD, {"type": "demonstrations", "columns.messages": "turns", "columns.text": "question"}, "spec.columns", "in place of text and response", "in place of text and response"),
    Case("a column of items in a log", FBD, {"type": "ratings", "columns.items": "films"}, "columns.items", "only for type demonstrations", "only for type demonstrations"),
    Case("a column of emotions in a classification", FBD, {"columns.emotion": "mood"}, "columns.emotion", "only for type demonstrations", "only for type demonstrations"),
    Case("turns beside prompts", FBD, {"type": "demonstrations", "columns.turns": "said", "columns.group": "chat", "columns.text": "question"}, "spec.columns", "in place of text and messages", "in place of text and messages"),
    Case("turns beside messages", FBD, {"type": "demonstrations", "columns.turns": "said", "columns.group": "chat", "columns.messages": "chat"}, "spec.columns", "in place of text and messages", "in place of text and messages"),
    Case("turns of no dialogue", FBD, {"type": "demonstrations", "columns.turns": "said"}, "spec.columns", "turns needs group", "turns needs group"),
    Case("inline emotions", FBD, {"type": "demonstrations", "columns.emotion": "mood", "source": {"inline": [{"text": "a", "response": "b"}]}}, "columns.emotion", "not for source.inline", "not for source.inline"),
    Case("dialogues beside answers", FBD, {"type": "demonstrations", "columns.messages": "turns", "columns.response": "answer"}, "spec.columns", "in place of text and response", "in place of text and response"),
    Case("a class of a demonstration", FBD, {"type": "demonstrations", "columns.label": "kind"}, "columns.label", "not for type demonstrations", "not for type demonstrations"),
    Case("classes of demonstrations", FBD, {"type": "demonstrations", "labels": ["a", "b"]}, "labels", "only for types classification and ratings", "only for types classification and ratings"),
    Case("scores of demonstrations", FBD, {"type": "demonstrations", "columns.score": "stars"}, "columns.score", "only for type ratings", "only for type ratings"),
    Case("an inline demonstration without an answer", FBD, {"type": "demonstrations", "source": {"inline": [{"text": "a", "label": "b"}]}}, "inline", "response is needed", "response is needed"),
    Case("an inline answer in a classification", FBD, {"source": {"inline": [{"text": "a", "response": "b"}]}}, "inline", "response is needed", "response is needed"),
    Case("an inline row with a class and an answer", FBD, {"source": {"inline": [{"text": "a", "label": "b", "response": "c"}]}}, "spec.source.inline[0]", "exactly one of label, labels and response", "exactly one of label, labels and response"),
    Case("an empty inline answer", FBD, {"type": "demonstrations", "source": {"inline": [{"text": "a", "response": ""}]}}, "inline[0].response", "at least 1 character", "at least 1 char"),
    Case("inline dialogues", FBD, {"type": "demonstrations", "columns.messages": "turns", "source": {"inline": [{"text": "a", "response": "b"}]}}, "columns.messages", "not for source.inline", "not for source.inline"),
    Case("a generator that learns from rewards without any", RUN, {**GEN, **RL}, "stages.rewardModel", "go together", "go together"),
    Case("a generator with a reward model that nobody asks", RUN, {**GEN, **RL, **LIKED, "stages.rlhf.rewards": FORMULA}, "stages.rewardModel", "go together", "go together"),
    Case("a generator with two reward models", RUN, {**GEN, **RL, **LIKED, "stages.rlhf.rewards": [{"type": "rewardModel", "model": SHARED}]}, "stages.rewardModel", "go together", "go together"),
    Case("words with a reward model", RUN, {**GEN, **RL, "stages.rlhf.rewards": [{"type": "words", "words": ["a"], "model": SHARED}]}, "spec.stages.rlhf.rewards[0]", "model is only for type rewardModel", "model is only for type rewardModel"),
    Case("a reward model without a digest", RUN, {**GEN, **RL, "stages.rlhf.rewards": [{"type": "rewardModel", "model": {"uri": "store://judges/kind"}}]}, "spec.stages.rlhf.rewards[0].model.sha256", "required", "Required value"),
    Case("a generator with a classifier's RL", RUN, {**GEN, **RL, **LIKED, "stages.rl": {"interactions": 512}}, "stages.rl", "is for a classifier", "is for a classifier"),
    Case("a generator that compares classes", RUN, {**GEN, **RL, **LIKED, "evaluation.comparison.slices": [{"label": "a"}]}, "evaluation.comparison.slices", "about classes and not for a generator", "about classes and not for a generator"),
    Case("a reward model trained as nobody knows", RUN, {**GEN, **RL, "stages.rewardModel": {"datasetRef": {"name": "liked"}, "baseModel": {"uri": "store://models/minilm", "sha256": "d" * 64, "method": "half"}}}, "stages.rewardModel.baseModel.method", "'lora' or 'full'", "supported values"),
    Case("a reward model on an encoder without a digest", RUN, {**GEN, **RL, "stages.rewardModel": {"datasetRef": {"name": "liked"}, "baseModel": {"uri": "store://models/minilm"}}}, "stages.rewardModel.baseModel.sha256", "required", "Required value"),
    Case("a classifier with a reward model", RUN, {**RL, **LIKED}, "stages.rewardModel", "only for a generator", "only for a generator"),
    Case("a classifier with a generator's RL", RUN, {**RL, "stages.rlhf.rewards": FORMULA}, "stages.rlhf", "only for a generator", "only for a generator"),
    Case("a reward model without RL", RUN, {**GEN, **LIKED}, "stages.rewardModel", "only for a mode with RL", "only for a mode with RL"),
    Case("a generator's RL without RL", RUN, {**GEN, "stages.rlhf.rewards": FORMULA}, "stages.rlhf", "only for a mode with RL", "only for a mode with RL"),
    Case("a single agent", RUN, {**GEN, **RL, **LIKED, "stages.rlhf.agents": AGENTS[:1]}, "agents", "at least 2 items", "at least 2 items"),
    Case("two agents of one name", RUN, {**GEN, **RL, **LIKED, "stages.rlhf.agents": [AGENTS[0], AGENTS[0]]}, "spec.stages.rlhf", "agents must not have one name twice", "agents must not have one name twice"),
    Case("an agent whose name is no label", RUN, {**GEN, **RL, **LIKED, "stages.rlhf.agents": [AGENTS[0], {"name": "Emotion/2"}]}, "agents[1].name", "match pattern", "should match"),
    Case("agents beside rewards for all", RUN, {**GEN, **RL, **LIKED, "stages.rlhf.agents": AGENTS, "stages.rlhf.rewards": FORMULA}, "spec.stages.rlhf", "rewards must be left out with agents", "rewards must be left out with agents"),
    Case("agents that are all frozen", RUN, {**GEN, **RL, **LIKED, "stages.rlhf.agents": [{**each, "frozen": True} for each in AGENTS]}, "spec.stages.rlhf", "agents must not all be frozen", "agents must not all be frozen"),
    Case("agents that learn in groups", RUN, {**GEN, **RL, **LIKED, "stages.rlhf.agents": AGENTS, "stages.rlhf.algorithm": "rloo"}, "spec.stages.rlhf", "agents is only for algorithm ppo", "agents is only for algorithm ppo"),
    Case("agents with two reward models", RUN, {**GEN, **RL, **LIKED, "stages.rlhf.agents": [AGENTS[0], {"name": "b", "rewards": [{"type": "rewardModel", "model": {"uri": "store://judge", "sha256": "c" * 64}}]}]}, "spec.stages.rlhf", "must all ask one reward model", "must all ask one reward model"),
    Case("an agent with the reward model twice", RUN, {**GEN, **RL, **LIKED, "stages.rlhf.agents": [AGENTS[0], {"name": "b", "rewards": [{"type": "rewardModel"}, {"type": "rewardModel"}]}]}, "spec.stages.rlhf", "must not have type rewardModel twice", "must not have type rewardModel twice"),
    Case("agents with five judges", RUN, {**GEN, **RL, "stages.rlhf.agents": [{"name": "a", "rewards": [{"type": "judge", "judge": JUDGE}] * 3}, {"name": "b", "rewards": [{"type": "judge", "judge": JUDGE}] * 2}]}, "spec.stages.rlhf", "more than 4 judges", "more than 4 judges"),
    Case("agents of which none asks the reward model", RUN, {**GEN, **RL, **LIKED, "stages.rlhf.agents": [{"name": "a", "rewards": FORMULA}, {"name": "b", "rewards": FORMULA}]}, "stages.rewardModel", "go together", "go together"),
    Case("empathy that nobody can tell", RUN, {**GEN, **RL, "stages.rlhf.rewards": [{"type": "empathy"}]}, "spec.stages.rlhf.rewards[0]", "classifier is needed for type empathy", "classifier is needed for type empathy"),
    Case("a classifier of words", RUN, {**GEN, **RL, "stages.rlhf.rewards": [{"type": "words", "words": ["a"], "classifier": {"uri": "store://feels", "sha256": "c" * 64}}]}, "spec.stages.rlhf.rewards[0]", "classifier is needed for type empathy", "classifier is needed for type empathy"),
    Case("a catalogue of formats", RUN, {**GEN, **RL, "stages.rlhf.rewards": [{"type": "format", "pattern": "a", "catalogue": {"uri": "store://films.txt", "sha256": "c" * 64}}]}, "spec.stages.rlhf.rewards[0]", "catalogue is only for type recommendation and itemRatio", "catalogue is only for type recommendation and itemRatio"),
    Case("a column of a list of items", RUN, {**GEN, **RL, "stages.rlhf.rewards": [{"type": "itemRatio", "catalogue": {"uri": "store://films.txt", "sha256": "c" * 64, "column": "name"}}]}, "spec.stages.rlhf.rewards[0]", "column is not for a .txt file", "column is not for a .txt file"),
    Case("a length without bounds", RUN, {**GEN, **RL, "stages.rlhf.rewards": [{"type": "length"}]}, "spec.stages.rlhf.rewards[0]", "type length needs minWords or maxWords", "type length needs minWords or maxWords"),
    Case("a length that nothing has", RUN, {**GEN, **RL, "stages.rlhf.rewards": [{"type": "length", "minWords": 9, "maxWords": 3}]}, "spec.stages.rlhf.rewards[0]", "must not be above maxWords", "must not be above maxWords"),
    Case("a format of two kinds", RUN, {**GEN, **RL, "stages.rlhf.rewards": [{"type": "format", "pattern": "a", "jsonSchema": "{}"}]}, "spec.stages.rlhf.rewards[0]", "exactly one of pattern and jsonSchema", "exactly one of pattern and jsonSchema"),
    Case("a format of no kind", RUN, {**GEN, **RL, "stages.rlhf.rewards": [{"type": "format"}]}, "spec.stages.rlhf.rewards[0]", "exactly one of pattern and jsonSchema", "exactly one of pattern and jsonSchema"),
    Case("a reward by formula without one", RUN, {**GEN, **RL, "stages.rlhf.rewards": [{"type": "expression"}]}, "spec.stages.rlhf.rewards[0]", "expression is needed", "expression is needed"),
    Case("a reward for words without any", RUN, {**GEN, **RL, "stages.rlhf.rewards": [{"type": "words"}]}, "spec.stages.rlhf.rewards[0]", "words is needed for type words", "words is needed for type words"),
    Case("a formula with words", RUN, {**GEN, **RL, "stages.rlhf.rewards": [{"type": "expression", "expression": "1", "words": ["a"]}]}, "spec.stages.rlhf.rewards[0]", "words is needed for type words", "words is needed for type words"),
    Case("a judge without settings", RUN, {**GEN, **RL, "stages.rlhf.rewards": [{"type": "judge"}]}, "spec.stages.rlhf.rewards[0]", "judge is needed for type judge", "judge is needed for type judge"),
    Case("a judge that never sees the answer", RUN, {**GEN, **RL, "stages.rlhf.rewards": [{"type": "judge", "judge": {**JUDGE, "prompt": "Rate the answer"}}]}, "spec.stages.rlhf.rewards[0].judge", "must name {response}", "must name {response}"),
    Case("a judge whose range is empty", RUN, {**GEN, **RL, "stages.rlhf.rewards": [{"type": "judge", "judge": {**JUDGE, "minScore": 10}}]}, "spec.stages.rlhf.rewards[0].judge", "must be below maxScore", "must be below maxScore"),
    Case("a judge with a password in its address", RUN, {**GEN, **RL, "stages.rlhf.rewards": [{"type": "judge", "judge": {**JUDGE, "endpoint": "http://a:b@c/v1"}}]}, "endpoint", "match pattern", "should match"),
    Case("a judge of pairs that sees one answer", RUN, {**GEN, **RL, **LIKED, "stages.evaluate.judge": {**PAIR_JUDGE, "prompt": "Is {first} good?"}}, "spec.stages.evaluate.judge", "must name {second}", "must name {second}"),
    Case("a judge of answers without RL", RUN, {**GEN, "stages.evaluate.judge": PAIR_JUDGE}, "stages.evaluate.judge", "only for a mode with RL", "only for a mode with RL"),
    Case("a judge of a classifier's answers", RUN, {**RL, "stages.evaluate.judge": PAIR_JUDGE}, "stages.evaluate.judge", "only for a generator", "only for a generator"),
    Case("a gate on a judge that nobody asks", RUN, {**GEN, **RL, **LIKED, "evaluation.gates": [{"metric": "judge_win_rate", "minimum": 0.5}]}, "evaluation.gates", "with stages.evaluate.judge", "needs stages.evaluate.judge"),
    Case("scores of classes", FBD, {"scoring": JUDGE}, "scoring", "only for types demonstrations and ratings", "only for types demonstrations and ratings"),
    Case("scores of pairs", FBD, {**LOG, "type": "preferences", "scoring": JUDGE}, "scoring", "only for types demonstrations and ratings", "only for types demonstrations and ratings"),
    Case("scores by a judge that never sees the response", FBD, {"type": "demonstrations", "scoring": {**JUDGE, "prompt": "Rate {prompt}"}}, "spec.scoring", "must name {response}", "must name {response}"),
    Case("scores within an empty range", FBD, {"type": "demonstrations", "scoring": {**JUDGE, "minScore": 10}}, "spec.scoring", "must be below maxScore", "must be below maxScore"),
    Case("a quality that the prompt does not ask for", FBD, {"type": "demonstrations", "scoring": {**JUDGE, "prompt": "Give score of {response}", "qualities": ["empathy"]}}, "spec.scoring", "prompt must name", "prompt must name"),
    Case("a quality that is the score", FBD, {"type": "demonstrations", "scoring": {**JUDGE, "prompt": "Give score of {response}", "qualities": ["score"]}}, "spec.scoring", "must not hold", "must not hold"),
    Case("a quality twice", FBD, {"type": "demonstrations", "scoring": {**JUDGE, "prompt": "score, empathy: {response}", "qualities": ["empathy", "empathy"]}}, "spec.scoring", "stands there twice", "Duplicate value"),
    Case("a quality with a blank in its name", FBD, {"type": "demonstrations", "scoring": {**JUDGE, "prompt": "score, my tone: {response}", "qualities": ["my tone"]}}, "spec.scoring.qualities[0]", "match pattern", "should match"),
    Case("nine qualities", FBD, {"type": "demonstrations", "scoring": {**JUDGE, "prompt": "score, abcdefghi: {response}", "qualities": list("abcdefghi")}}, "spec.scoring.qualities", "at most 8", "must have at most 8"),
    Case("five judges", RUN, {**GEN, **RL, "stages.rlhf.rewards": [{"type": "judge", "judge": JUDGE}] * 5}, "spec.stages.rlhf", "more than 4 judges", "more than 4 judges"),
    Case("a formula of a reward model", RUN, {**GEN, **RL, **LIKED, "stages.rlhf.rewards": [{"type": "rewardModel", "expression": "1"}]}, "spec.stages.rlhf.rewards[0]", "expression is needed", "expression is needed"),
    Case("an answer's reward that weighs nothing", RUN, {**GEN, **RL, **LIKED, "stages.rlhf.rewards": [{"type": "rewardModel", "weight": 0}]}, "spec.stages.rlhf.rewards[0]", "weight must not be 0", "weight must not be 0"),
    Case("an answer's curriculum beside a weight", RUN, {**GEN, **RL, **LIKED, "stages.rlhf.rewards": [{"type": "rewardModel", "weight": 2, "curriculum": [{"atInteraction": 0, "weight": 1}]}]}, "spec.stages.rlhf.rewards[0]", "exclude each other", "exclude each other"),
    Case("an answer's curriculum out of order", RUN, {**GEN, **RL, **LIKED, "stages.rlhf.rewards": [{"type": "rewardModel", "curriculum": [{"atInteraction": 9, "weight": 1}, {"atInteraction": 1, "weight": 0}]}]}, "spec.stages.rlhf.rewards[0]", "must ascend", "must ascend"),
    Case("an answer's curriculum of nothing", RUN, {**GEN, **RL, **LIKED, "stages.rlhf.rewards": [{"type": "rewardModel", "curriculum": [{"atInteraction": 1, "weight": 0}]}]}, "spec.stages.rlhf.rewards[0]", "weighs 0 throughout", "must not weigh 0 throughout"),
    Case("a divergence of nothing to steer to", RUN, {**GEN, **RL, **LIKED, "stages.rlhf.targetKl": 0}, "spec.stages.rlhf.targetKl", "greater than 0", "should be greater than 0"),
    Case("a loss of ratings that there is none of", RUN, {**GEN, **RL, "stages.rewardModel": {"datasetRef": {"name": "liked"}, "ratingLoss": "stars"}}, "spec.stages.rewardModel.ratingLoss", "'regression' or 'ordinal'", "Unsupported value"),
    Case("scores by nobody known", RUN, {**GEN, **RL, "stages.rewardModel": {"datasetRef": {"name": "scored"}, "scores": "people"}}, "spec.stages.rewardModel.scores", "should be 'judge'", "Unsupported value"),
    Case("a reward model asked twice", RUN, {**GEN, **RL, **LIKED, "stages.rlhf.rewards": [{"type": "rewardModel"}, {"type": "rewardModel"}]}, "spec.stages.rlhf", "rewardModel twice", "rewardModel twice"),
    Case("rollouts of odd minibatches of answers", RUN, {**GEN, **RL, **LIKED, "stages.rlhf.rolloutSize": 30}, "spec.stages.rlhf", "multiple of minibatchSize", "multiple of minibatchSize"),
    Case("a gate on winning where nothing is rewarded", RUN, {**GEN, **RL, **PAIRS, "evaluation.gates": [WINS]}, "evaluation.gates", "measured only of a run with stages.rlhf", "needs a run with stages.rlhf"),
    Case("a gate on winning without RL", RUN, {**GEN, "evaluation.gates": [WINS]}, "evaluation.gates", "measured only of a run with stages.rlhf", "needs a run with stages.rlhf"),
    Case("a gate on agreeing where answers are drawn", RUN, {**GEN, **RL, **LIKED, "evaluation.gates": [AGREES]}, "evaluation.gates", "measured only of a run with stages.preference", "needs a run with stages.preference"),
    Case("groups without an algorithm of groups", RUN, {**GEN, **RL, **LIKED, "stages.rlhf.groupSize": 4}, "spec.stages.rlhf", "groupSize is only for algorithm grpo or rloo", "groupSize is only for algorithm grpo or rloo"),
    Case("a value model where there is none", RUN, {**GEN, **RL, **LIKED, "stages.rlhf.algorithm": "grpo", "stages.rlhf.vfCoef": 0.1}, "spec.stages.rlhf", "vfCoef is only for algorithm ppo", "vfCoef is only for algorithm ppo"),
    Case("a rollout of a part of a group", RUN, {**GEN, **RL, **LIKED, "stages.rlhf.algorithm": "grpo", "stages.rlhf.groupSize": 5}, "spec.stages.rlhf", "multiple of groupSize", "multiple of groupSize"),
    Case("a rollout of a part of a group of usual size", RUN, {**GEN, **RL, **LIKED, "stages.rlhf.algorithm": "rloo", "stages.rlhf.rolloutSize": 6, "stages.rlhf.minibatchSize": 3}, "spec.stages.rlhf", "multiple of groupSize", "multiple of groupSize"),
    Case("a weight of good answers where all are paired", RUN, {**GEN, **RL, **PAIRS, "stages.preference.desirableWeight": 2.0}, "spec.stages.preference", "desirableWeight is only for algorithm kto", "desirableWeight is only for algorithm kto"),
    Case("answers drawn and judged in one stage", RUN, {**GEN, **RL, **PAIRS, "stages.rlhf.rewards": FORMULA}, "stages.preference", "exclude each other", "exclude each other"),
    Case("pairs beside a reward model", RUN, {**GEN, **RL, **PAIRS, **LIKED}, "stages.preference", "learns without", "learns without"),
    Case("pairs without RL", RUN, {**GEN, **PAIRS}, "stages.preference", "only for a mode with RL", "only for a mode with RL"),
    Case("a classifier that learns from pairs", RUN, {**RL, **PAIRS}, "stages.preference", "only for a generator", "only for a generator"),
    Case("answers that cannot be parted", RUN, {**GEN, **RL, **LIKED, "stages.rlhf.accumulation": 3}, "spec.stages.rlhf", "multiple of accumulation", "multiple of accumulation"),
    Case("a generator's head", RUN, {**GEN, "stages.supervised.headLearningRate": 1e-3}, "stages.supervised.headLearningRate", "about classes and not for a generator", "about classes and not for a generator"),
    Case("a generator's smoothing", RUN, {**GEN, "stages.supervised.labelSmoothing": 0.1}, "stages.supervised.labelSmoothing", "about classes and not for a generator", "about classes and not for a generator"),
    Case("a generator's class weights", RUN, {**GEN, "stages.supervised.classWeights": "balanced"}, "stages.supervised.classWeights", "about classes and not for a generator", "about classes and not for a generator"),
    Case("a generator's tasks", RUN, {**GEN, "stages.supervised.taskWeights": {"a": 1, "b": 1}}, "stages.supervised.taskWeights", "about classes and not for a generator", "about classes and not for a generator"),
    Case("a generator's calibration", RUN, {**GEN, "evaluation.calibrate": False}, "evaluation.calibrate", "about classes and not for a generator", "about classes and not for a generator"),
    Case("a generator's bins", RUN, {**GEN, "evaluation.eceBins": 10}, "evaluation.eceBins", "about classes and not for a generator", "about classes and not for a generator"),
    Case("a generator that abstains", RUN, {**GEN, "evaluation.abstainTargetAccuracy": 0.9}, "evaluation.abstainTargetAccuracy", "about classes and not for a generator", "about classes and not for a generator"),
    Case("a generator's accuracy", RUN, {**GEN, "evaluation.gates": [{"metric": "accuracy", "minimum": 0.5}]}, "evaluation.gates", "is not measured of a generator", "is not measured of a generator"),
    Case("a gate on a generator's task", RUN, {**GEN, "evaluation.gates": [{"metric": "bleu1", "minimum": 0.5, "task": "a"}]}, "evaluation.gates", "is not for a generator, which has no tasks", "is not for a generator, which has no tasks"),
    Case("a classifier's perplexity", RUN, {"evaluation.gates": [{"metric": "perplexity", "maximum": 5}]}, "evaluation.gates", "is not measured of a classifier", "is not measured of a classifier"),
    Case("a classifier's answers", RUN, {"stages.evaluate.answers": {"prompts": 5}}, "stages.evaluate.answers", "only for a generator", "only for a generator"),
    Case("an accuracy above one", RUN, {"evaluation.gates": [{"metric": "accuracy", "minimum": 80}]}, "spec.evaluation.gates[0]", "must not be above 1", "must not be above 1"),
    Case("no prompt at all", RUN, {**GEN, "stages.evaluate.answers": {"prompts": 0}}, "spec.stages.evaluate.answers.prompts", "greater than or equal to 1", "should be greater than or equal to 1"),
    Case("a generator's policy with a classifier's template", RLP, {"type": "generator", "training.template.evaluation.gates": [{"metric": "ece", "maximum": 0.1}]}, "training.template.evaluation.gates", "is not measured of a generator", "is not measured of a generator"),
    Case("a generator's policy whose template learns from nothing", RLP, {"type": "generator", "training.template.mode": "supervised_then_rl"}, "training.template.stages.rewardModel", "go together", "go together"),
    Case("preferences from a file", FBD, {"type": "preferences"}, "type", "needs source.feedback", "needs source.feedback"),
    Case("columns of feedback", FBD, {**LOG, "columns.text": "body"}, "columns", "not for source.feedback", "not for source.feedback"),
    Case("disputed rows first where all are kept", FBD, {**LOG, "source.feedback.sampling": {"disagreement": {"sharePercent": 50}}}, "sampling", "needs filters.maxSamples", "needs filters.maxSamples"),
    Case("a share of nothing for disputed rows", FBD, {**LOG, "source.feedback.sampling": {"disagreement": {"sharePercent": 0}}, "filters.maxSamples": 100}, "sharePercent", "greater than 0", "greater than 0"),
    Case("a refresh of files", FBD, {"refresh": {"everyEvents": 10}}, "refresh", "needs source.feedback", "needs source.feedback"),
    Case("a refresh of a fixed position", FBD, {**LOG, "source.feedback.asOf": DIGEST, "refresh": {"everyEvents": 10}}, "refresh", "not for source.feedback.asOf", "not for source.feedback.asOf"),
    Case("a refresh for no reason", FBD, {**LOG, "refresh": {}}, "refresh", "schedule or everyEvents must be set", "schedule or everyEvents must be set"),
    Case("a refresh after no event", FBD, {**LOG, "refresh": {"everyEvents": 0}}, "everyEvents", "greater than or equal to 1", "greater than or equal to 1"),
    Case("a schedule of six fields", FBD, {**LOG, "refresh": {"schedule": "0 0 5 * * *"}}, "schedule", "match pattern", "should match"),
    Case("a schedule by a nickname", FBD, {**LOG, "refresh": {"schedule": "@every 1h"}}, "schedule", "match pattern", "should match"),
    Case("labels of preferences", FBD, {**LOG, "type": "preferences", "labels": ["a", "b"]}, "labels", "only for types classification and ratings", "only for types classification and ratings"),
    Case("least rating of preferences", FBD, {**LOG, "type": "preferences", "source.feedback.minRating": 3}, "minRating", "not for type preferences", "not for type preferences"),
    Case("least rating of no stars", FBD, {**LOG, "source.feedback.minRating": 0}, "spec.source.feedback.minRating", "greater than or equal to 1", "greater than or equal to 1"),
    Case("unknown type of event", FBD, {**LOG, "source.feedback.types": ["shout"]}, "spec.source.feedback.types[0]", "'thumbs_up'", "supported values"),
    Case("released person by name", FBD, {**LOG, "source.feedback.quarantine": {"release": ["ann@example.org"]}}, "spec.source.feedback.quarantine.release[0]", "34 characters", "34 char"),
    Case("version 0", FBD, {**LOG, "source.feedback.versions": [0]}, "spec.source.feedback.versions[0]", "greater than or equal to 1", "greater than or equal to 1"),
    Case("shares that miss 100", FBD, {"split.trainPercent": 70}, "spec.split", "must add up to 100", "must add up to 100"),
    Case("texts shorter than the shortest", FBD, {"filters": {"minTextChars": 10, "maxTextChars": 9}}, "spec.filters", "must not be above maxTextChars", "must not be above maxTextChars"),
    Case("age filter without its column", FBD, {"filters.maxAgeDays": 30}, "filters.maxAgeDays", "needs columns.timestamp", "needs columns.timestamp"),
    Case("subject cap without its column", FBD, {"filters.maxSubjectSharePercent": 5}, "filters.maxSubjectSharePercent", "needs columns.subject", "needs columns.subject"),
    Case("a column and columns of labels", FBD, {"columns": {"label": "kind", "labels": {"intent": "a", "pii": "b"}}}, "spec.columns", "label and labels exclude each other", "label and labels exclude each other"),
    Case("tasks of a preferences dataset", FBD, {"type": "preferences", "source": {"feedback": {"policyRef": {"name": "router"}}}, "columns.labels": {"a": "a", "b": "b"}}, "columns", "columns is not for source.feedback", "columns is not for source.feedback"),
    Case("tasks of a log of answers", FBD, {"type": "ratings", "columns.labels": {"a": "a", "b": "b"}}, "columns.labels", "only for type classification", "only for type classification"),
    Case("one task with a name", FBD, {"columns.labels": {"intent": "a"}}, "spec.columns", "at least two tasks", "at least two tasks"),
    Case("no task at all", FBD, {"columns.labels": {}}, "spec.columns", "at least two tasks", "at least two tasks"),
    Case("nine tasks", FBD, {"columns.labels": {f"t{n}": "a" for n in range(9)}}, "spec.columns.labels", "at most 8", "at most 8"),
    Case("a slash in the name of a task", FBD, {"columns.labels": {"a/b": "a", "c": "b"}}, "spec.columns.labels", "match pattern", "each key must"),
    Case("a task's column that is no path", FBD, {"columns.labels": {"a": "a ", "c": "b"}}, "spec.columns.labels.a", "match pattern", "should match"),
    Case("a closed list of labels beside tasks", FBD, {"columns.labels": {"a": "a", "c": "b"}, "labels": ["x", "y"]}, "labels", "without columns.labels", "without columns.labels"),
    Case("an inline row with both kinds of labels", FBD, {"source": {"inline": [{"text": "a", "label": "b", "labels": {"c": "d"}}]}}, "spec.source.inline[0]", "exactly one of label, labels and response", "exactly one of label, labels and response"),
    Case("an inline row without a label", FBD, {"source": {"inline": [{"text": "a"}]}}, "spec.source.inline[0]", "exactly one of label, labels and response", "exactly one of label, labels and response"),
    Case("an inline row with one label where there are tasks", FBD, {"columns.labels": {"a": "a", "c": "b"}, "source": {"inline": [{"text": "a", "label": "b"}]}}, "source.inline", "must have labels if columns.labels is set", "must have labels if columns.labels is set"),
    Case("an inline row with a task that the columns do not name", FBD, {"columns.labels": {"a": "a", "c": "b"}, "source": {"inline": [{"text": "a", "labels": {"d": "e"}}]}}, "source.inline", "must name tasks of columns.labels", "must name tasks of columns.labels"),
    Case("a gate on a class and its task", RUN, {"evaluation.gates": [{"metric": "macro_f1", "label": "a/b", "task": "a", "minimum": 0.5}]}, "spec.evaluation.gates[0]", "label and task exclude each other", "label and task exclude each other"),
    Case("a gate on a task with a slash", RUN, {"evaluation.gates": [{"metric": "ece", "task": "a/b", "maximum": 0.5}]}, "spec.evaluation.gates[0].task", "match pattern", "should match"),
    Case("a task that weighs nothing", RUN, {"stages.supervised.taskWeights": {"a": 0}}, "spec.stages.supervised.taskWeights.a", "greater than 0", "should be greater than 0"),
    Case("a class twice", FBD, {"labels": ["a", "b", "a"]}, "labels", "must not repeat", "Duplicate value"),
    Case("gate without a bound", RUN, {"evaluation.gates": [{"metric": "ece"}]}, "spec.evaluation.gates[0]", "needs minimum or maximum", "needs minimum or maximum"),
    Case("gate that nothing passes", RUN, {"evaluation.gates": [{"metric": "ece", "minimum": 0.9, "maximum": 0.1}]}, "spec.evaluation.gates[0]", "must not be above maximum", "must not be above maximum"),
    Case("class gate on another metric", RUN, {"evaluation.gates": [{"metric": "accuracy", "label": "a", "minimum": 0.5}]}, "spec.evaluation.gates[0]", "only for metric macro_f1", "only for metric macro_f1"),
    Case("more class names in gates than a pod can report", RUN, {"evaluation.gates": [{"metric": "macro_f1", "minimum": 0.1, "label": "ж" * 99 + str(n)} for n in range(9)]}, "spec.evaluation", "at most 1600 bytes", "at most 1600 bytes"),
    Case("the same rule inside a policy's template", RLP, {"training.template.evaluation.gates": [{"metric": "ece"}]}, "spec.training.template.evaluation.gates[0]", "needs minimum or maximum", "needs minimum or maximum"),
    Case("tracking by nothing", RUN, {"tracking": {}}, "spec.tracking", "names no tracker", "names no tracker"),
    Case("a tracker's password in its address", RUN, {"tracking": {"mlflow": {"uri": "https://me:secret@mlflow"}}}, "spec.tracking.mlflow.uri", "should match pattern", "should match"),
    Case("a tracker of no scheme", RUN, {"tracking": {"mlflow": {"uri": "mlflow:5000"}}}, "spec.tracking.mlflow.uri", "should match pattern", "should match"),
    # RL
    Case("settings of a stage that the mode does not run", RUN, {"stages.rl": {}}, "stages.rl", "only for a mode with RL", "only for a mode with RL"),
    Case("comparison of a mode that compares nothing", RUN, {"evaluation.comparison": {}}, "evaluation.comparison", "only for a mode with RL", "only for a mode with RL"),
    Case("RL alone from nothing", RUN, {"mode": "rl_only"}, "spec", "needs startFrom", "needed with mode rl_only"),
    Case("a start that the mode does not use", RUN, {**RL, "startFrom": START}, "startFrom", "only for mode rl_only", "needed with mode rl_only and only there"),
    Case("a start in a supervised run", RUN, {"startFrom": START}, "startFrom", "only for mode rl_only", "needed with mode rl_only and only there"),
    Case("two starts", RUN, {"mode": "rl_only", "startFrom": {**START, "artifact": {"uri": "store://runs/a", "sha256": DIGEST}}}, "spec.startFrom", "exactly one of policy and artifact", "exactly one of policy and artifact"),
    Case("a start without a digest", RUN, {"mode": "rl_only", "startFrom": {"artifact": {"uri": "store://runs/a"}}}, "spec.startFrom.artifact.sha256", "required", "Required"),
    Case("a start in another namespace", RUN, {"mode": "rl_only", "startFrom": {"policy": {"name": "router", "version": 1, "namespace": "other"}}}, "namespace", "unknown field", "unknown field"),
    Case("the same rule inside a template", RLP, {"training.template.stages.rl": {}}, "stages.rl", "only for a mode with RL", "only for a mode with RL"),
    Case("a learning rate of 10", RUN, {**RL, "stages.rl.learningRate": 10}, "spec.stages.rl.learningRate", "less than or equal to 1", "should be less than or equal to 1"),
    Case("a buffer smaller than a rollout", RUN, {**RL, "stages.rl.bufferCapacity": 100}, "spec.stages.rl", "must not be below rolloutSize", "must not be below rolloutSize"),
    Case("a minibatch that three nodes cannot share evenly", RUN, {**RL, "stages.rl.nodes": 3}, "spec.stages.rl", "minibatchSize 16 must be a multiple of nodes 3", "must be a multiple of nodes"),
    Case("a batch that six nodes cannot share evenly", RUN, {"stages.supervised.nodes": 6}, "spec.stages.supervised", "batchSize 16 must be a multiple of nodes 6", "must be a multiple of nodes"),
    Case("no node", RUN, {"stages.supervised.nodes": 0}, "spec.stages.supervised.nodes", "greater than or equal to 1", "greater than or equal to 1"),
    Case("too many nodes", RUN, {**RL, "stages.rl.nodes": 17}, "spec.stages.rl.nodes", "less than or equal to 16", "less than or equal to 16"),
    Case("a minibatch larger than a rollout", RUN, {**RL, "stages.rl.minibatchSize": 300}, "spec.stages.rl", "must not be above rolloutSize", "must not be above rolloutSize"),
    Case("a curriculum out of order", RUN, {**RL, "stages.rl.rewards": [{"type": "accuracy", "curriculum": [{"atInteraction": 9, "weight": 1}, {"atInteraction": 1, "weight": 0}]}]}, "spec.stages.rl.rewards[0]", "must ascend", "must ascend"),
    Case("a field of another algorithm", RUN, {**RL, "stages.rl.targetUpdateInterval": 9}, "spec.stages.rl", "only for algorithm dqn", "only for algorithm dqn"),
    Case("a log without the reward that reads it", RUN, {**RL, "stages.rl": FROM_LOG}, "spec.stages.rl", "go together", "go together"),
    Case("logged feedback without a log", RUN, {**RL, "stages.rl.rewards": [{"type": "feedback"}]}, "spec.stages.rl", "go together", "go together"),
    Case("two rewards of logged feedback", RUN, {**RL, "stages.rl": {**FROM_LOG, "rewards": [{"type": "feedback"}] * 2}}, "spec.stages.rl", "go together", "go together"),
    Case("a log with a reward that wants labels", RUN, {**RL, "stages.rl": {**FROM_LOG, "rewards": [{"type": "feedback"}, {"type": "f1"}]}}, "spec.stages.rl", "does not say", "does not say"),
    Case("a log in turns", RUN, {**RL, "stages.rl": {**FROM_LOG, "rewards": [{"type": "feedback"}], "episodes": "group"}}, "spec.stages.rl", "episodes must be query", "episodes must be query"),
    Case("dqn from a log by propensity", RUN, {**RL, "stages.rl": {**FROM_LOG, "rewards": [{"type": "feedback"}], "algorithm": "dqn"}}, "spec.stages.rl", "estimator direct", "estimator direct"),
    Case("an estimator without logged feedback", RUN, {**RL, "stages.rl.rewards": [{"type": "accuracy", "estimator": "ips"}]}, "spec.stages.rl.rewards[0]", "estimator is only", "estimator is only"),
    Case("a weight's bound below one", RUN, {**RL, "stages.rl": {**FROM_LOG, "rewards": [{"type": "feedback", "maxWeight": 0.5}]}}, "spec.stages.rl.rewards[0].maxWeight", "greater than or equal to 1", "greater than or equal to 1"),
    Case("a log in another namespace", RUN, {**RL, "stages.rl": {"datasetRef": {"name": "log", "namespace": "other"}, "rewards": [{"type": "feedback"}]}}, "namespace", "unknown field", "unknown field"),
    Case("a column of verdicts for labelled rows", FBD, {"columns.score": "verdict"}, "spec", "columns.score is only", "columns.score is only"),
    Case("a column of propensities for labelled rows", FBD, {"columns.propensity": "p"}, "spec", "columns.propensity is only", "columns.propensity is only"),
    Case("a column of policies for labelled rows", FBD, {"columns.policy": "who"}, "spec", "columns.policy is only", "columns.policy is only"),
    Case("inline rows of a log without verdicts", FBD, {"type": "ratings", "source": {"inline": [SAID]}}, "spec", "score and propensity are needed", "score and propensity are needed"),
    Case("inline labelled rows with verdicts", FBD, {"source": {"inline": [{**SAID, "score": 1, "propensity": 1}]}}, "spec", "score and propensity are needed", "score and propensity are needed"),
    Case("an inline propensity of nothing", FBD, {"type": "ratings", "source": {"inline": [{**SAID, "score": 1, "propensity": 0}]}}, "spec.source.inline[0].propensity", "greater than 0", "greater than 0"),
    Case("an expression without one", RUN, {**RL, "stages.rl.rewards": [{"type": "expression"}]}, "spec.stages.rl.rewards[0]", "expression", "expression"),
    Case("a margin below nothing", RUN, {**RL, "evaluation.comparison.margin": -0.1}, "spec.evaluation.comparison.margin", "greater than or equal to 0", "should be greater than or equal to 0"),
    Case("a slice twice", RUN, {**RL, "evaluation.comparison.slices": [{"label": "a"}, {"label": "a", "margin": 0.1}]}, "spec.evaluation.comparison", "must not name a class twice", "must not name a class twice"),
    Case("vLLM without a GPU", RLP, {"type": "generator", "training": REMOVE, "serving": {"engine": "vllm", "resources": {"cpu": 8}}}, "spec.serving", "engine vllm needs resources.gpus", "engine vllm needs resources.gpus"),
    Case("a classifier by vLLM", RLP, {"serving": {"engine": "vllm", "resources": {"gpus": 1}}}, "spec", "makes a generator's tokens", "makes a generator's tokens"),
    Case("an engine nobody knows", RLP, {"serving": {"engine": "tgi"}}, "spec.serving.engine", "'builtin' or 'vllm'", "Unsupported value"),
    Case("Gateways beside routers", RLP, {"serving": {"httpRoute": {"parentRefs": [{"name": "edge"}]}, "routers": {"replicas": 3}}}, "spec.serving", "routers do nothing beside httpRoute", "routers do nothing beside httpRoute"),
    Case("Gateways that shall ask a shadow", RLP, {"serving": {"httpRoute": {"parentRefs": [{"name": "edge"}]}}, "rollout.shadow": {}}, "spec", "rollout.shadow is asked by routers", "rollout.shadow is asked by routers"),
    Case("no Gateway", RLP, {"serving": {"httpRoute": {"parentRefs": []}}}, "spec.serving.httpRoute.parentRefs", "at least 1 item", "should have at least 1 items"),
    Case("a Gateway without a name", RLP, {"serving": {"httpRoute": {"parentRefs": [{"namespace": "infra"}]}}}, "spec.serving.httpRoute.parentRefs[0].name", "required", "Required"),
    Case("a host with a port", RLP, {"serving": {"httpRoute": {"parentRefs": [{"name": "edge"}], "hostnames": ["a:80"]}}}, "spec.serving.httpRoute.hostnames[0]", "match pattern", "should match"),
    Case("a header of the router's own for a Gateway", RLP, {"serving": {"httpRoute": {"parentRefs": [{"name": "edge"}], "testerHeader": "x-ratchet-arm"}}}, "spec.serving.httpRoute", "keeps x-ratchet-", "must not begin with x-ratchet-"),
    Case("a rollout of what is not served", RLP, {"rollout": {}}, "spec", "rollout needs serving", "rollout needs serving"),
    Case("a generator that explores like a classifier", RLP, {"type": "generator", "training": REMOVE, "serving.explorePercent": 5}, "spec", "it is for classifiers", "explorePercent is for classifiers"),
    Case("more exploration than there are answers", RLP, {"serving.explorePercent": 101}, "spec.serving.explorePercent", "less than or equal to 100", "should be less than or equal to 100"),
    Case("a test that never ends", RLP, {"serving": {}, "rollout.abTest": {"arms": [{"version": 2, "percent": 5}]}}, "spec.rollout.abTest", "neither seconds nor subjects", "needs seconds or subjects"),
    Case("a test that names a version twice", RLP, {"serving": {}, "rollout.abTest": {"arms": [{"version": 2, "percent": 5}, {"version": 2, "percent": 6}], "seconds": 60}}, "spec.rollout.abTest", "more than once", "each version once"),
    Case("a test without room for its controls", RLP, {"serving": {}, "rollout.abTest": {"arms": [{"version": 2, "percent": 30}, {"version": 3, "percent": 21}], "seconds": 60}}, "spec.rollout.abTest", "51 percent together", "at most 50 percent together"),
    Case("a test of a shadow", RLP, {"serving": {}, "rollout": {"abTest": {"arms": [{"version": 2, "percent": 5}], "seconds": 60}, "shadow": {}}}, "spec.rollout", "abTest and shadow exclude", "abTest and shadow exclude"),
    Case("a test judged by queries", RLP, {"serving": {}, "rollout": {"abTest": {"arms": [{"version": 2, "percent": 5}], "seconds": 60}, "judged": {"queries": [{"name": "load", "query": "up", "most": 1}]}}}, "spec.rollout", "abTest and judged.queries exclude", "abTest and judged.queries exclude"),
    Case("a test with a deadline", RLP, {"serving": {}, "rollout": {"abTest": {"arms": [{"version": 2, "percent": 5}], "seconds": 60}, "judged": {"deadlineSeconds": 60}}}, "spec.rollout", "abTest and judged.deadlineSeconds exclude", "abTest and judged.deadlineSeconds exclude"),
    Case("a test that promotes and asks people", RLP, {"serving": {}, "rollout": {"abTest": {"arms": [{"version": 2, "percent": 5}], "seconds": 60, "promoteBest": True}, "promotion": "manual"}}, "spec.rollout", "promoteBest is true and promotion is manual", "promoteBest needs promotion automatic"),
    Case("a query without a bound", RLP, {"serving": {}, "rollout.judged.queries": [{"name": "load", "query": "up"}]}, "spec.rollout.judged.queries[0]", "has neither most nor least", "needs most or least"),
    Case("a query of bounds that exclude each other", RLP, {"serving": {}, "rollout.judged.queries": [{"name": "load", "query": "up", "most": 1, "least": 2}]}, "spec.rollout.judged.queries[0]", "most is 1, below least, 2", "most must not be below least"),
    Case("two queries of one name", RLP, {"serving": {}, "rollout.judged.queries": [{"name": "load", "query": "up", "most": 1}, {"name": "load", "query": "down", "most": 1}]}, "spec.rollout.judged", "more than once", "names of their own"),
    Case("a query with a place that there is not", RLP, {"serving": {}, "rollout.judged.queries": [{"name": "load", "query": "up{v=\"{{model}}\"}", "most": 1}]}, "spec.rollout.judged.queries[0].query", "should match pattern", "should match"),
    Case("a latency of no time", RLP, {"serving": {}, "rollout.judged.latency": {}}, "spec.rollout.judged.latency", "p99Milliseconds", "Required value"),
    Case("a latency below what is kept", RLP, {"serving": {}, "rollout.judged.latency.p99Milliseconds": 0}, "spec.rollout.judged.latency.p99Milliseconds", "greater than or equal to 0.01", "should be greater than or equal to 0.01"),
    Case("a shadow of a generator", RLP, {"type": "generator", "training": REMOVE, "serving": {}, "rollout.shadow": {}}, "spec", "rollout.shadow compares classes", "rollout.shadow compares classes"),
    Case("a shadow of no request", RLP, {"serving": {}, "rollout.shadow.percent": 0}, "spec.rollout.shadow.percent", "greater than or equal to 0.01", "should be greater than or equal to 0.01"),
    Case("a shadow of no text", RLP, {"serving": {}, "rollout.shadow.minPairs": 0}, "spec.rollout.shadow.minPairs", "greater than or equal to 1", "should be greater than or equal to 1"),
    Case("a shadow that may always differ", RLP, {"serving": {}, "rollout.shadow.maxFlipRate": 1}, "spec.rollout.shadow.maxFlipRate", "less than 1", "should be less than 1"),
    Case("steps that do not rise", RLP, {"serving": {}, "rollout.canary.steps": [5, 5]}, "spec.rollout.canary", "each must be above", "steps must rise"),
    Case("a step above half", RLP, {"serving": {}, "rollout.canary.steps": [60]}, "spec.rollout.canary.steps[0]", "less than or equal to 50", "should be less than or equal to 50"),
    Case("no step at all", RLP, {"serving": {}, "rollout.canary.steps": []}, "spec.rollout.canary.steps", "at least 1 item", "should have at least 1 items"),
    Case("no worse by nothing", RLP, {"serving": {}, "rollout.judged": {"goal": "nonInferior", "margin": 0}}, "spec.rollout.judged", "margin is 0 with goal nonInferior", "margin must be above 0"),
    Case("an alpha of nothing", RLP, {"serving": {}, "rollout.judged.alpha": 0}, "spec.rollout.judged.alpha", "greater than 0", "should be greater than 0"),
    Case("a queue for servers", RLP, {"serving.placement.queueName": "team"}, "queueName", "unknown field", "unknown field"),
    Case("a header of the router's own", RLP, {"serving.routers.testerHeader": "x-ratchet-arm"}, "spec.serving.routers", "keeps x-ratchet-", "must not begin with x-ratchet-"),
    Case("a header in capitals", RLP, {"serving.routers.testerHeader": "X-Version"}, "spec.serving.routers.testerHeader", "match pattern", "should match"),
    Case("a cookie with a blank", RLP, {"serving.routers.subjectCookie": "a b"}, "spec.serving.routers.subjectCookie", "match pattern", "should match"),
    Case("no router", RLP, {"serving.routers.replicas": 0}, "spec.serving.routers.replicas", "greater than or equal to 1", "should be greater than or equal to 1"),
    Case("toleration with a value that cannot matter", RUN, {"placement.tolerations": [{"key": "gpu", "operator": "Exists", "value": "a"}]}, "spec.placement.tolerations[0]", "only for operator Equal", "only for operator Equal"),
)  # fmt: skip

CASES = (*ACCEPTED, *REFUSED)
