"""Resolve: the run's first, light pod. Are the inputs there, and which later stages are committed already?

    1 the pinned snapshot's manifest is there and is the one pinned, with every class that a gate names
    2 the base model's folder is there with config, tokenizer and safetensors
    3 each later stage's input digest is looked up in the index; hits go into the result
    4 the store keeps conditional PUTs, on which every later commit rests (asked once per namespace)

Torch-free and without a GPU, so that a mistyped URI fails in a second and not after a GPU was granted.
"""

from __future__ import annotations

from ratchet_api.attempts import Artifact
from ratchet_api.stage import ResolveConfig, StageHit, StageResult
from ratchet_jobs.data.base_model import list_model
from ratchet_jobs.data.gates import check_gates
from ratchet_jobs.data.snapshots import read_manifest
from ratchet_jobs.runtime.commit import find_commit
from ratchet_jobs.runtime.context import StageContext
from ratchet_jobs.runtime.probe import ensure_probed


def run(ctx: StageContext, config: ResolveConfig) -> StageResult:
    """Check inputs and look stages up; see the module's docstring."""
    steps = 3 + len(config.lookups)

    # 1 snapshot
    manifest = read_manifest(ctx.store, config.dataset)
    check_gates(config.gates, labels=manifest.label_map)
    ctx.progress.report(1, steps)

    # 2 base model
    list_model(ctx.store, config.base_model, namespace=ctx.namespace)
    ctx.progress.report(2, steps)

    # 3 look-ups
    hits = {}
    for place, ref in enumerate(config.lookups, 3):
        commit = find_commit(ctx.store, prefix=ref.prefix, namespace=ctx.namespace, input_digest=ref.input_digest)
        if commit is not None:
            artifact = Artifact(uri=f"{ctx.store.uri}/{commit.directory}", digest=commit.digest)
            hits[ref.stage.value] = StageHit(artifact=artifact, metrics=commit.result.metrics)
        ctx.progress.report(place, steps)

    # 4 conditional PUT
    ensure_probed(ctx.store, namespace=ctx.namespace)
    ctx.progress.report(steps, steps)
    return StageResult(metrics={"train_rows": float(manifest.counts.train), "hits": float(len(hits))}, hits=hits)
