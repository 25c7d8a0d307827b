"""P16 and P17: every field of every spec changes a child or the status, and taking a bad edit back heals."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from pydantic import BaseModel

from ratchet_api.feedback_dataset import FeedbackDatasetSpec
from ratchet_api.generation import OF_GENERATORS
from ratchet_api.policy import RLPolicySpec
from ratchet_api.stage import StageInput
from ratchet_api.training_run import RLTrainingRunSpec
from ratchet_operator.cluster.memory_jobs import Act, golden
from tests.world import builders as b
from tests.world.harness import World, masked
from tests.world.serving import ROLLOUT, Served
from tests.world.spec_paths import leaves

RESOURCES = {"cpu": 3.0, "memoryGi": 9.0, "gpus": 1, "ephemeralStorageGi": 7.0}
TOLERATION = {"key": "gpu", "operator": "Equal", "value": "yes", "effect": "NoSchedule"}
PLACEMENT = {
    "nodeSelector": {"zone": "a"},
    "tolerations": [TOLERATION],
    "priorityClassName": "batch",
    "queueName": "team",
}
RL: dict[str, Any] = {
    "datasetRef.name": "another-log",
    "minEffectiveSamples": 99,
    "algorithm": "a2c",
    "interactions": 512,
    "rolloutSize": 128,
    "minibatchSize": 32,
    "updateEpochs": 2,
    "learningRate": 1e-4,
    "headLearningRate": 3e-3,
    "valueLearningRate": 3e-3,
    "lrSchedule": "constant",
    "gamma": 0.9,
    "lam": 0.9,
    "clipRange": 0.1,
    "clipRangeValue": 0.1,
    "vfCoef": 0.1,
    "entropyCoef": 0.1,
    "verdictCoef": 1.0,
    "verdictNoise": 0.1,
    "klCoef": 0.1,
    "maxGradNorm": 1.0,
    "targetKl": 0.1,
    "normalizeAdvantages": False,
    "bufferCapacity": 512,
    "explorationEpsilon.start": 0.5,
    "explorationEpsilon.end": 0.05,
    "targetUpdateInterval": 100,
    "episodes": "group",
    "traffic": "fresh",
    "checkpointEverySteps": 7,
    "nodes": 2,
    "maxKl": 0.5,
    "minEntropyRatio": 0.1,
    "rewards": [{"type": "f1"}],
    **{f"resources.{k}": v for k, v in RESOURCES.items()},
}
OWN_BASE = {"uri": "store://another-encoder", "sha256": "d" * 64, "method": "full", "maxTokens": 64}
REWARD_MODEL: dict[str, Any] = {
    "datasetRef.name": "another-log",
    "scores": "judge",
    "ratingLoss": "ordinal",
    **{f"baseModel.{k}": v for k, v in OWN_BASE.items()},
    "epochs": 5,
    "batchSize": 4,
    "learningRate": 1e-3,
    "headLearningRate": 1e-2,
    "warmupRatio": 0.2,
    "maxGradNorm": 2.0,
    "heldOutPercent": 30.0,
    "loraRank": 4,
    "loraDropout": 0.1,
    "checkpointEverySteps": 7,
    **{f"resources.{k}": v for k, v in RESOURCES.items()},
}
RLHF: dict[str, Any] = {
    "algorithm": "grpo",
    "groupSize": 8,
    "interactions": 512,
    "rolloutSize": 64,
    "minibatchSize": 4,
    "accumulation": 2,
    "gradientCheckpointing": True,
    "dtype": "bfloat16",
    "updateEpochs": 3,
    "maxNewTokens": 16,
    "temperature": 0.9,
    "topP": 0.9,
    "missingEndPenalty": 1.0,
    "stop": ["Customer:"],
    "scoreWhitening": "batch",
    "scoreClip": 2.0,
    "loraRank": 4,
    "learningRate": 1e-3,
    "warmupRatio": 0.2,
    "valueLearningRate": 1e-2,
    "clipRange": 0.1,
    "clipRangeValue": 0.1,
    "vfCoef": 0.5,
    "gamma": 0.9,
    "lam": 0.9,
    "maxGradNorm": 2.0,
    "initKl": 0.1,
    "targetKl": 3.0,
    "maxKl": 20.0,
    "maxUpdateKl": 1.0,
    "minEntropyRatio": 0.1,
    "rewards": [{"type": "rewardModel", "weight": 2.0}],
    "agents": [{"name": "response"}, {"name": "emotion", "frozen": True}],
    "checkpointEverySteps": 7,
    **{f"resources.{k}": v for k, v in RESOURCES.items()},
}
PREFERENCE: dict[str, Any] = {
    "algorithm": "kto",
    "datasetRef.name": "more-pairs",
    "beta": 0.5,
    "desirableWeight": 2.0,
    "undesirableWeight": 2.0,
    "epochs": 5,
    "batchSize": 4,
    "gradientCheckpointing": True,
    "learningRate": 1e-3,
    "warmupRatio": 0.2,
    "maxGradNorm": 2.0,
    "heldOutPercent": 30.0,
    "loraRank": 4,
    "checkpointEverySteps": 7,
    **{f"resources.{k}": v for k, v in RESOURCES.items()},
}
SLICES = [{"label": "spam", "margin": 0.1}]
COMPARISON: dict[str, Any] = {"confidence": 0.9, "margin": 0.1, "resamples": 500, "slices": SLICES}
START: dict[str, Any] = {"policy.name": "elsewhere", "policy.version": 2}
START |= {"artifact.uri": "store://runs/other", "artifact.sha256": "e" * 64}
TEMPLATE: dict[str, Any] = {
    "mode": "supervised_then_rl",
    **{f"startFrom.{k}": v for k, v in START.items()},
    **{f"stages.rl.{k}": v for k, v in RL.items()},
    **{f"stages.rewardModel.{k}": v for k, v in REWARD_MODEL.items()},
    **{f"stages.rlhf.{k}": v for k, v in RLHF.items()},
    **{f"stages.preference.{k}": v for k, v in PREFERENCE.items()},
    **{f"evaluation.comparison.{k}": v for k, v in COMPARISON.items()},
    "baseModel.uri": "store://other",
    "baseModel.sha256": "b" * 64,
    "datasetRef.name": "other",
    "seed": 7,
    "lora.rank": 8,
    "lora.alpha": 8.0,
    "lora.dropout": 0.1,
    "lora.targetModules": ["query"],
    "lora.lastBlocks": 4,
    "stages.supervised.epochs": 3.0,
    "stages.supervised.batchSize": 8,
    "stages.supervised.learningRate": 1e-5,
    "stages.supervised.headLearningRate": 1e-3,
    "stages.supervised.warmupRatio": 0.2,
    "stages.supervised.weightDecay": 0.2,
    "stages.supervised.maxGradNorm": 2.0,
    "stages.supervised.maxTokens": 64,
    "stages.supervised.labelSmoothing": 0.1,
    "stages.supervised.classWeights": "balanced",
    "stages.supervised.taskWeights": {"intent": 2.0},
    "stages.supervised.checkpointEverySteps": 5,
    "stages.supervised.nodes": 4,
    **{f"stages.supervised.resources.{k}": v for k, v in RESOURCES.items()},
    "stages.evaluate.batchSize": 8,
    "stages.evaluate.answers.prompts": 5,
    "stages.evaluate.answers.maxNewTokens": 7,
    **{f"stages.evaluate.judge.{k}": v for k, v in b.OTHER_JUDGE.items()},
    **{f"stages.evaluate.resources.{k}": v for k, v in RESOURCES.items()},
    "evaluation.calibrate": False,
    "evaluation.eceBins": 10,
    "evaluation.abstainTargetAccuracy": 0.9,
    "evaluation.gates": [{"metric": "accuracy", "minimum": 0.5}],
    **{f"placement.{k}": v for k, v in PLACEMENT.items()},
    "tracking.tensorboard": True,
    "tracking.mlflow.uri": "https://mlflow.example",
    "tracking.mlflow.experiment": "routers",
    "tracking.wandb.project": "routers",
    "tracking.wandb.entity": "team",
    "tracking.wandb.mode": "offline",
    "image": "registry/custom:2",
    "activeDeadlineSeconds": 5000,
    "backoffLimit": 1,
    "ttlSecondsAfterFinished": 5,
}
RUN: dict[str, Any] = {
    **TEMPLATE,
    "policyType": "generator",
    "publishTo.name": "support",
    "suspend": True,
    "dryRun": True,
}
PEOPLE = ["2026-11:" + "0" * 32]
FEEDBACK: dict[str, Any] = {
    "type": "ratings",
    "source.feedback.policyRef.name": "other",
    "source.feedback.types": ["correction"],
    "source.feedback.versions": [2],
    "source.feedback.tags": [{"name": "team", "value": "a"}],
    "source.feedback.minRating": 4.0,
    "source.feedback.groupBy": "subject",
    "source.feedback.quarantine.minAgreement": 0.6,
    "source.feedback.quarantine.minComparisons": 7,
    "source.feedback.quarantine.release": PEOPLE,
    "source.feedback.sampling.disagreement.sharePercent": 30.0,
    "source.feedback.asOf": "a" * 64,
    "refresh.schedule": "0 5 * * *",
    "refresh.everyEvents": 100,
}
DATASET: dict[str, Any] = {
    **FEEDBACK,
    "source.objects": [{"uri": "store://b.jsonl", "format": "jsonl", "sha256": "c" * 64, "split": "train"}],
    "source.inline": [{"text": "hello", "label": "x"}],
    "columns.text": "body",
    "columns.label": "kind",
    "columns.labels": {"intent": "a", "pii": "b"},
    "columns.response": "answer",
    "columns.messages": "turns",
    "columns.turns": "said",
    "columns.items": "films",
    "columns.emotion": "mood",
    "columns.group": "thread",
    "columns.subject": "user",
    "columns.timestamp": "at",
    "columns.score": "verdict",
    "columns.propensity": "chance",
    "columns.policy": "who",
    "columns.task": "asked",
    "labels": ["spam", "ham"],
    **{f"scoring.{k}": v for k, v in b.OTHER_SCORING.items()},
    "filters.maxSamples": 100,
    "filters.maxAgeDays": 30,
    "filters.minTextChars": 5,
    "filters.maxTextChars": 500,
    "filters.maxSubjectSharePercent": 5.0,
    "split.trainPercent": 81,
    "split.validationPercent": 11,
    "split.testPercent": 11,
    "split.salt": "x",
    **{f"resources.{k}": v for k, v in RESOURCES.items()},
    **{f"placement.{k}": v for k, v in PLACEMENT.items()},
    "image": "registry/custom:2",
    "suspend": True,
    "activeDeadlineSeconds": 900,
    "backoffLimit": 1,
}
SERVED: dict[str, Any] = {
    "serving.replicas": 3,
    **{f"serving.resources.{k}": v for k, v in RESOURCES.items()},
    **{f"serving.placement.{k}": v for k, v in PLACEMENT.items() if k != "queueName"},
    "serving.engine": "vllm",
    **{f"serving.generation.{k}": v for k, v in b.GENERATION.items()},
    "serving.explorePercent": 10.0,
    "serving.routers.replicas": 3,
    "serving.routers.cpu": 4.0,
    "serving.routers.memoryGi": 2.0,
    "serving.routers.subjectCookie": "who",
    "serving.routers.testerHeader": "x-version",
    "serving.httpRoute.parentRefs": [{"name": "other", "namespace": "infra", "sectionName": "https"}],
    "serving.httpRoute.hostnames": ["support.example.com"],
    "serving.httpRoute.testerHeader": "x-version",
    "rollout.shadow.percent": 50.0,
    "rollout.shadow.seconds": 90,
    "rollout.shadow.minPairs": 100_000,
    "rollout.shadow.maxFlipRate": 0.05,
    "rollout.abTest.arms": [{"version": 2, "percent": 30}],
    "rollout.abTest.seconds": 20,
    "rollout.abTest.subjects": 10,
    "rollout.abTest.promoteBest": True,
    "rollout.canary.steps": [20.0, 40.0],
    "rollout.canary.stepSeconds": 90,
    "rollout.canary.readySeconds": 10,
    "rollout.canary.unreadySeconds": 1,
    "rollout.judged.goal": "nonInferior",
    "rollout.judged.margin": 0.4,
    "rollout.judged.abstentionMargin": 0.1,
    "rollout.judged.feedbackRateMargin": 0.1,
    "rollout.judged.errorRatio": 9.0,
    "rollout.judged.latency.p99Milliseconds": 5000.0,
    "rollout.judged.latency.ratio": 9.0,
    "rollout.judged.queries": [{"name": "lost carts", "query": "lost", "most": 0.2}],
    "rollout.judged.alpha": 0.2,
    "rollout.judged.minSubjects": 100_000,
    "rollout.judged.minAgeSeconds": 900,
    "rollout.judged.deadlineSeconds": 60,
    "rollout.allowOtherLabels": True,
    "rollout.promotion": "manual",
}
POLICY: dict[str, Any] = {
    **SERVED,
    "type": "generator",
    **{f"training.template.{k}": v for k, v in TEMPLATE.items()},
    "training.suspend": True,
}
COMPANIONS: dict[str, dict[str, Any]] = {
    # these need another field beside them to be a valid spec
    "source.inline": {"source": {"inline": [{"text": "hello", "label": "x"}]}},
    "filters.maxAgeDays": {"filters": {"maxAgeDays": 30}, "columns": {"timestamp": "at"}},
    "filters.maxSubjectSharePercent": {"filters": {"maxSubjectSharePercent": 5.0}, "columns": {"subject": "user"}},
    "split.trainPercent": {"split": {"trainPercent": 81, "validationPercent": 9, "testPercent": 10}},
    "split.validationPercent": {"split": {"trainPercent": 79, "validationPercent": 11, "testPercent": 10}},
    "split.testPercent": {"split": {"trainPercent": 79, "validationPercent": 10, "testPercent": 11}},
}


LOGGED: dict[str, Any] = {
    "mode": "supervised_then_rl",
    "stages": {"rl": {"datasetRef": {"name": "log"}, "rewards": [{"type": "feedback"}]}},
}
JUDGED: dict[str, Any] = {
    "mode": "supervised_then_rl",
    "datasetRef": {"name": "shown"},
    "stages": {"rewardModel": {"datasetRef": {"name": "log"}}},
}
PAIRS: dict[str, Any] = {"type": "preferences", "source": {"feedback": {"policyRef": {"name": "support"}}}}


def preferring(**settings: Any) -> dict[str, Any]:
    preference = {"datasetRef": {"name": "pairs"}} | settings
    return {"mode": "supervised_then_rl", "datasetRef": {"name": "shown"}, "stages": {"preference": preference}}


WITH: dict[str, dict[str, Any]] = {
    # what the spec holds besides, for fields that act only there
    "startFrom.policy": {"mode": "rl_only", "startFrom": {"policy": {"name": "support", "version": 1}}},
    "startFrom.artifact": {
        "mode": "rl_only",
        "startFrom": {"artifact": {"uri": "store://runs/it", "sha256": "d" * 64}},
    },
    "stages.rl.explorationEpsilon": {"mode": "supervised_then_rl", "stages": {"rl": {"algorithm": "dqn"}}},
    "stages.rl.targetUpdateInterval": {"mode": "supervised_then_rl", "stages": {"rl": {"algorithm": "dqn"}}},
    "stages.rl.datasetRef": LOGGED,
    "stages.rl.minEffectiveSamples": LOGGED,
    "tracking.mlflow.experiment": {"tracking": {"mlflow": {"uri": "https://mlflow"}}},
    "tracking.wandb.entity": {"tracking": {"wandb": {"project": "p"}}},
    "tracking.wandb.mode": {"tracking": {"wandb": {"project": "p"}}},
    "stages.rewardModel": JUDGED,
    "stages.rlhf.groupSize": {**JUDGED, "stages": {**JUDGED["stages"], "rlhf": {"algorithm": "rloo"}}},
    "stages.rlhf": JUDGED,
    "stages.preference.desirableWeight": preferring(algorithm="kto"),
    "stages.preference.undesirableWeight": preferring(algorithm="kto"),
    "stages.preference": preferring(),
    "stages.rl": {"mode": "supervised_then_rl"},
    "stages.evaluate.answers": {"datasetRef": {"name": "shown"}},
    "stages.evaluate.judge": {
        **JUDGED,
        "stages": {**JUDGED["stages"], "evaluate": {"judge": b.PAIR_JUDGE}},
    },
    "scoring": {"type": "demonstrations", "scoring": b.SCORING},
    "columns.response": {"type": "demonstrations"},
    "columns.messages": {"type": "demonstrations"},
    "columns.turns": {"type": "demonstrations", "columns": {"group": "chat"}},
    "columns.items": {"type": "demonstrations"},
    "columns.emotion": {"type": "demonstrations"},
    "columns.score": {"type": "ratings"},
    "columns.propensity": {"type": "ratings"},
    "columns.policy": {"type": "ratings"},
    "columns.task": {"type": "ratings"},
    "evaluation.comparison": {"mode": "supervised_then_rl"},
}


def besides(path: str) -> dict[str, Any]:
    """What a run's template holds for this field to act."""
    path = path.removeprefix("training.template.")
    return next((fields for start, fields in WITH.items() if path.startswith(start)), {})


def type_of(path: str) -> str:
    """Which type of policy this field is for."""
    of_generators = ("evaluate.answers", "evaluate.judge", "stages.rewardModel", "stages.rlhf", "stages.preference")
    return "generator" if any(part in path for part in of_generators) else "classifier"


@pytest.mark.parametrize(
    ("model", "table"),
    [(RLTrainingRunSpec, RUN), (FeedbackDatasetSpec, DATASET), (RLPolicySpec, POLICY)],
    ids=["run", "dataset", "policy"],
)
def test_the_tables_name_every_field(model: type[BaseModel], table: dict[str, Any]) -> None:
    """A field that is added to a spec must be added here with a value that makes it act."""
    assert sorted(leaves(model)) == sorted(table)


def with_field(spec: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    if path in COMPANIONS:
        return {**spec, **COMPANIONS[path]}
    head, _, rest = path.partition(".")
    return {**spec, head: with_field(spec.get(head, {}), rest, value) if rest else value}


def fails(stage: StageInput, pod: int) -> Act:
    """Trainings and snapshots of the object under test fail for want of the store."""
    failing = stage.config.stage == "supervised" or stage.owner.name == "tried"
    return Act(exit_code=20) if failing else golden(stage, pod)


async def ends(kind: str, spec: dict[str, Any]) -> list[str]:
    """What a spec leads to, in a world where all goes well and in one where its stage fails."""
    found = []
    for play in (golden, fails):
        world = World(play)
        world.submit(b.dataset(), b.dataset("other", split={"salt": "other"}), b.policy())
        world.submit(b.dataset("shown", type="demonstrations", split={"salt": "shown"}))
        world.submit(b.dataset("log", type="ratings"), b.dataset("another-log", type="ratings", split={"salt": "log"}))
        world.submit(b.dataset("pairs", **PAIRS), b.dataset("more-pairs", **PAIRS, split={"salt": "more"}))
        world.submit(b.manifest(kind, "tried", spec))
        await world.settle(60)
        state = masked(world, deadlines=False)
        for obj in state.values():
            if obj["metadata"]["name"] == "tried":
                del obj["spec"], obj["metadata"]["generation"]
            # digests of the whole spec change with every field: they prove nothing
            status = obj.get("status") or {}
            status.get("resolved", {}).pop("specDigest", None)
            for digest in ("target", "snapshotTarget", "failedTarget"):
                status.pop(digest, None)
        found.append(json.dumps(state, sort_keys=True))
    return found


def policy_spec(path: str) -> dict[str, Any]:
    return {"type": type_of(path), "training": {"template": b.template(**besides(path))}}


def same_as_a_runs(path: str) -> bool:
    """A template is the model that a run's spec extends and is stamped whole: its deep parts are tried as a run's."""
    deep = ("stages.rl.", "stages.rewardModel.", "stages.rlhf.", "stages.preference.", "evaluation.comparison.")
    return path.startswith(tuple(f"training.template.{part}" for part in deep)) and not (
        path.endswith((".algorithm", ".margin", ".rewardModel.datasetRef.name", ".preference.datasetRef.name"))
    )


def feedback_spec(path: str) -> dict[str, Any]:
    judged: dict[str, Any] = {"quarantine": {}} if "quarantine" in path else {}
    fewer: dict[str, Any] = {"filters": {"maxSamples": 100}} if "sampling" in path else {}
    return b.dataset_spec(source={"feedback": {"policyRef": {"name": "support"}} | judged}, **fewer)


CASES = [
    *(("FeedbackDataset", feedback_spec(path), path, value) for path, value in FEEDBACK.items()),
    *(
        ("RLTrainingRun", b.run_spec(policyType=type_of(path), **besides(path)), path, value)
        for path, value in RUN.items()
    ),
    *(
        ("FeedbackDataset", b.dataset_spec(**besides(path)), path, value)
        for path, value in DATASET.items()
        if path not in FEEDBACK
    ),
    *(
        ("RLPolicy", policy_spec(path), path, value)
        for path, value in POLICY.items()
        if path not in SERVED and not same_as_a_runs(path)
    ),
]


@pytest.fixture(scope="module")
def baseline() -> dict[str, list[str]]:
    return {}


@pytest.mark.parametrize(("kind", "spec", "path", "value"), CASES, ids=[f"{c[0]}.{c[2]}" for c in CASES])
async def test_a_changed_field_changes_a_child_or_the_status(
    kind: str, spec: dict[str, Any], path: str, value: Any, baseline: dict[str, list[str]]
) -> None:
    """P16: no field is accepted and ignored."""
    before = f"{kind} {spec}"
    if before not in baseline:
        baseline[before] = await ends(kind, spec)
        assert '"InvalidSpec"' not in json.dumps(baseline[before])
    after = await ends(kind, with_field(spec, path, value))
    assert after != baseline[before]
    assert '"InvalidSpec"' not in json.dumps(after), "a refusal would differ, too"


WORSE = {
    "rollout.judged.margin": {"likes": {1: 0.5, 2: 0.2}},
    "rollout.judged.errorRatio": {"errors": {1: 0.05, 2: 0.3}},
    "rollout.judged.latency.p99Milliseconds": {"slow": {1: 0.05, 2: 0.3}},
    "rollout.judged.latency.ratio": {"slow": {1: 0.05, 2: 0.3}},
}
"""People for whom the field makes a difference; else those of a version that is hardly better."""


OF_A_GENERATOR = tuple(f"serving.generation.{name}" for name in OF_GENERATORS)


async def served(path: str, value: Any = None) -> str:
    """What a policy's trial leads to."""
    world = Served()
    if "Labels" in path:
        world.labels = {1: ["billing", "login"], 2: ["billing", "delivery"]}
    if "judged" in path:
        world.people = replace(world.people, **WORSE.get(path, {"likes": {1: 0.5, 2: 0.52}}))
        world.cluster.counts = world.people.told
    shadowed = {"shadow": {"seconds": 10, "minPairs": 50}} if "shadow" in path else {}
    tested = {"abTest": {"arms": [{"version": 2, "percent": 50}], "seconds": 60}} if "abTest" in path else {}
    fields = {"serving": {}, "rollout": ROLLOUT | shadowed | tested}
    if "httpRoute" in path:
        fields["serving"] = {"httpRoute": {"parentRefs": [{"name": "edge"}]}}
    if path in OF_A_GENERATOR:
        fields |= {"type": "generator"}
    if path == "serving.engine":
        fields |= {"type": "generator", "serving": {"resources": {"gpus": 1}}}
    if "latency" in path:
        fields = with_field(fields, "rollout.judged.latency", {"p99Milliseconds": 100})
    world.policy(**(fields if value is None else with_field(fields, path, value)))
    if path.endswith(("readySeconds", "unreadySeconds")):
        await world.settle(12 if path.endswith("unreadySeconds") else 0)
        world.broken.add(2)
    await world.settle(28)
    state = masked(world)
    for obj in state.values():
        if obj["kind"] == "RLPolicy":
            del obj["spec"]
    return json.dumps(state, sort_keys=True)


@pytest.mark.parametrize(("path", "value"), SERVED.items(), ids=SERVED.keys())
async def test_a_changed_field_of_serving_or_rollout_changes_a_child_or_the_status(
    path: str, value: Any, baseline: dict[str, list[str]]
) -> None:
    """P16: as above, where a version is on trial."""
    own = path in (*WORSE, *OF_A_GENERATOR) or path.endswith(("readySeconds", "unreadySeconds", "engine", "Labels"))
    beside = ("judged", "shadow", "abTest", "httpRoute")
    alike = path if own else path.rpartition(".")[0] if any(each in path for each in beside) else "any"
    if alike not in baseline:
        baseline[alike] = [await served(path)]
    after = await served(path, value)
    assert after != baseline[alike][0]
    assert '"InvalidSpec"' not in after


BAD_EDITS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "an unknown mode": ("RLTrainingRun", "router", {"mode": "telepathy"}),
    "a changed seed": ("RLTrainingRun", "router", {"seed": 9}),
    "a foreign image": ("RLTrainingRun", "router", {"image": "evil:1"}),
    "a missing base model": ("RLTrainingRun", "router", {"baseModel": None}),
    "a dataset without sources": ("FeedbackDataset", "complaints", {"source": {"objects": []}}),
    "a dataset with a foreign image": ("FeedbackDataset", "complaints", {"image": "evil:1"}),
    "a split that does not add up": ("FeedbackDataset", "complaints", {"split": {"trainPercent": 50}}),
    "a policy of an unknown type": ("RLPolicy", "support", {"type": "oracle"}),
    "a template without a dataset": ("RLPolicy", "support", {"training": {"template": {"datasetRef": None}}}),
}


@pytest.mark.parametrize("moment", ["at once", "while training", "at the end"])
@pytest.mark.parametrize(("kind", "name", "patch"), BAD_EDITS.values(), ids=BAD_EDITS.keys())
async def test_taking_a_bad_edit_back_heals(kind: str, name: str, patch: dict[str, Any], moment: str) -> None:
    """P17: the end is the one of a world where nobody made the edit."""

    def play(stage: StageInput, pod: int) -> Act:
        return Act(message=golden(stage, pod).message, steps=4)

    async def story(*, edited: bool) -> dict[str, Any]:
        world = World(play)
        # only a policy's own case stamps: else which of two runs is published first would be a race
        training = {"training": {"template": b.template()}} if kind == "RLPolicy" else {}
        world.submit(b.dataset(), b.policy(**training), b.run(publishTo={"name": "support"}))
        if moment == "while training":
            await world.run_until(lambda: world.status().get("stage") == "supervised")
        elif moment == "at the end":
            await world.finish()
            await world.settle(40)
        original = world.object(kind, name)["spec"]
        if edited:
            world.edit(kind, name, {"spec": patch})
        await world.settle(6)
        if edited:
            world.replace_spec(kind, name, original)
        await world.finish()
        await world.settle(80)
        return masked(world)

    want, got = await story(edited=False), await story(edited=True)
    for state in (want, got):
        for obj in state.values():
            obj["metadata"].pop("generation")
            obj.pop("status", None) if obj["kind"] == "Job" else _without_generations(obj.get("status") or {})
    assert got == want


def _without_generations(status: dict[str, Any]) -> None:
    for key in ("observedGeneration", "snapshotGeneration"):
        status.pop(key, None)
    # that it was Stalled once is remembered as Stalled=False; what it says now must be equal
    rows = [c for c in status.get("conditions", []) if (c["type"], c["status"]) != ("Stalled", "False")]
    status["conditions"] = [{**c, "observedGeneration": 0} for c in rows]
