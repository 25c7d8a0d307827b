"""Resolve: the run's first, light pod. Are the inputs there, and which later stages are committed already?

    1 the pinned snapshot's manifest is there and is the one pinned, with every task and class that the settings
      name and every class that a log of answers holds
    2 the base model's folder is there with config, tokenizer and safetensors; a policy to start from is there, has
      learned on that base, and tells the snapshot's classes; so are the models and files that rewards name
    3 each later stage's input digest is looked up in the index; hits go into the result
    4 the store keeps conditional PUTs, on which every later commit rests (asked once per namespace)

Torch-free and without a GPU, so that a mistyped URI fails in a second and not after a GPU was granted.
"""

from __future__ import annotations

from ratchet_api.answer_reward import AnswerReward
from ratchet_api.attempts import Artifact
from ratchet_api.policy_types import GENERATOR
from ratchet_api.stage import ResolveConfig, StageHit, StageResult
from ratchet_api.training_run import BaseModelRef
from ratchet_jobs.data.base_model import REWARD_FIELD, list_model
from ratchet_jobs.data.demonstrations import check_demonstrations
from ratchet_jobs.data.gates import check_gates, check_slices
from ratchet_jobs.data.judged import check_judged, scored_names
from ratchet_jobs.data.policy_folder import check_reward_model, read_generator_base, read_policy_card
from ratchet_jobs.data.ratings import check_log
from ratchet_jobs.data.snapshots import Manifest, read_manifest
from ratchet_jobs.data.tasks import check_tasks, task_difference
from ratchet_jobs.runtime.commit import find_commit
from ratchet_jobs.runtime.context import StageContext
from ratchet_jobs.runtime.errors import BadDataError, BadLabelsError, BadModelError
from ratchet_jobs.runtime.probe import ensure_probed
from ratchet_jobs.runtime.store import resolve_uri

SCORED_FIELD = "spec.stages.rewardModel.datasetRef"
JUDGED_FIELD = "spec.stages.rewardModel.datasetRef or spec.stages.preference.datasetRef"
"""A run has one of them; messages need not know which."""


def run(ctx: StageContext, config: ResolveConfig) -> StageResult:
    """Check inputs and look stages up; see the module's docstring."""
    steps = 3 + len(config.lookups)

    # 1 snapshot
    manifest = read_manifest(ctx.store, config.dataset)
    if config.policy_type == GENERATOR:
        check_demonstrations(manifest)
    elif manifest.type != "classification":
        raise BadDataError(
            f"spec.datasetRef: its snapshot {manifest.digest[:12]}… is of type {manifest.type}; a classifier's stages "
            "learn from type classification: name such a dataset"
        )
    if config.policy_type != GENERATOR:  # whose gates name no class
        check_gates(config.gates, labels=manifest.label_map, tasks=manifest.task_names)
    check_tasks(config.named_tasks, tasks=manifest.task_names)
    check_slices(config.slices, labels=manifest.label_map)
    if config.log is not None and config.policy_type == GENERATOR:
        if config.log_scored:
            scored_names(read_manifest(ctx.store, config.log), field=SCORED_FIELD)
        else:
            check_judged(read_manifest(ctx.store, config.log), field=JUDGED_FIELD)
    elif config.log is not None:
        check_log(read_manifest(ctx.store, config.log), labels=manifest.label_map, tasks=manifest.task_names)
    ctx.progress.report(1, steps)

    # 2 base model
    list_model(ctx.store, config.base_model, namespace=ctx.namespace)
    if (own := config.reward_base) is not None:
        list_model(ctx.store, own, namespace=ctx.namespace, field=REWARD_FIELD)
    if config.start is not None:
        _check_start(ctx, config, config.start, manifest)
    for field, rewards in config.rewards.items():
        for place, reward in enumerate(rewards):
            _check_named(ctx, reward, f"{field}[{place}]")
    ctx.progress.report(2, steps)

    # 3 look-ups
    hits = {}
    for place, ref in enumerate(config.lookups, 3):
        commit = find_commit(ctx.store, prefix=ref.prefix, namespace=ctx.namespace, input_digest=ref.input_digest)
        if commit is not None:
            artifact = Artifact(uri=f"{ctx.store.uri}/{commit.directory}", digest=commit.digest)
            result = commit.result
            hits[ref.stage.value] = StageHit(
                artifact=artifact, metrics=result.metrics, choice=result.choice, labels=result.labels
            )
        ctx.progress.report(place, steps)

    # 4 conditional PUT
    ensure_probed(ctx.store, namespace=ctx.namespace)
    ctx.progress.report(steps, steps)
    return StageResult(metrics={"train_rows": float(manifest.counts.train), "hits": float(len(hits))}, hits=hits)


def _check_start(ctx: StageContext, config: ResolveConfig, start: Artifact, manifest: Manifest) -> None:
    """Refuse a start policy that cannot go on learning here.

    Raises:
        StageError: it is not there, stands on another base model, or tells other tasks or classes.
    """
    labels = manifest.label_map
    if config.policy_type == GENERATOR:
        base = read_generator_base(ctx.store, start, namespace=ctx.namespace)
        if base.sha256 != config.base_model.sha256:
            raise _other_base(start, base, config.base_model)
        return
    card = read_policy_card(ctx.store, start, namespace=ctx.namespace)
    if card.base_model.sha256 != config.base_model.sha256:
        raise _other_base(start, card.base_model, config.base_model)
    if tasks := task_difference(manifest.task_names, card.task_names):
        raise BadLabelsError(
            f"spec.startFrom {start.uri}: its tasks are not the dataset's, which differ in {tasks}; take a dataset of "
            "the same tasks, or train anew with mode supervised_then_rl"
        )
    if odd := sorted(set(labels) ^ set(card.labels)):
        raise BadLabelsError(
            f"spec.startFrom {start.uri}: its {len(card.labels)} classes are not the dataset's {len(labels)}, which "
            f"differ in {', '.join(map(repr, odd[:5]))}; take a dataset of the same classes, or train anew with mode "
            "supervised_then_rl"
        )


def _check_named(ctx: StageContext, reward: AnswerReward, field: str) -> None:
    """Refuse a component whose model or file is not there, before the stages that come first are paid for.

    Raises:
        StageError: names the component's field.
    """
    store, namespace = ctx.store, ctx.namespace
    if (model := reward.model) is not None:
        artifact = Artifact(uri=model.uri, digest=model.sha256)
        check_reward_model(store, artifact, namespace=namespace, field=f"{field}.model")
    if (classifier := reward.classifier) is not None:
        artifact = Artifact(uri=classifier.uri, digest=classifier.sha256)
        card = read_policy_card(store, artifact, namespace=namespace, field=f"{field}.classifier")
        if tasks := card.task_names:
            raise BadModelError(
                f"{field}.classifier {classifier.uri}: it has the tasks {', '.join(tasks)}; name a "
                "classifier of emotions alone"
            )
    if (catalogue := reward.catalogue) is not None:
        key = resolve_uri(catalogue.uri, store=store, namespace=namespace, field=f"{field}.catalogue")
        if not store.exists(key):
            raise BadDataError(f"{field}.catalogue {catalogue.uri}: is not there; `ratchet put` it, or correct the uri")


def _other_base(start: Artifact, own: BaseModelRef, wanted: BaseModelRef) -> BadModelError:
    return BadModelError(
        f"spec.startFrom {start.uri}: it was trained on the base model {own.uri} with sha256 {own.sha256}, "
        f"spec.baseModel.sha256 is {wanted.sha256}; name the policy's own base"
    )
