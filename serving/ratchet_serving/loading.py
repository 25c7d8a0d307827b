"""A committed policy brought from the store, every file checked against its digest, and made ready to answer.

Decides what is fetched and that nothing is served whose bytes are not the committed ones. Loads safetensors and JSON
only. `load`, `load_exported` and `fetch` are called once by `__main__`; `load_generator` by `ratchet serve`, too.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ratchet_jobs.data.base_model import fetch_model, local_digest
from ratchet_jobs.data.policy_folder import BASE_FOLDER, POLICY_FOLDER, fetch_policy, folder_digest, is_generator
from ratchet_jobs.generators.artifact import MERGED_FOLDER
from ratchet_jobs.generators.serving import open_merged, open_wording
from ratchet_jobs.generators.templates import Wording
from ratchet_jobs.models.classifier import LoadedPolicy, load_classifier, read_card
from ratchet_jobs.runtime.errors import BadModelError
from ratchet_jobs.runtime.store import open_store
from ratchet_serving.generation.upstream import Remote
from ratchet_serving.settings import Exported, Source

PATIENCE_SECONDS = 60.0
"""How long an unreachable store is asked again before the server ends, to be started again."""


@dataclass(frozen=True, slots=True)
class LoadedGenerator:
    """A generator's merged model, on the GPU if there is one, and its template."""

    model: Any
    wording: Wording


@dataclass(frozen=True, slots=True)
class RemoteGenerator:
    """A generator that another engine has loaded, and its template."""

    remote: Remote
    wording: Wording


def load(source: Source) -> LoadedPolicy | LoadedGenerator:
    """Fetch a policy, of a classifier its base model, too, and load them.

    Raises:
        StageError: the store cannot be read, or what lies there is not what the digests say.
    """
    store = open_store(source.store, patience_seconds=PATIENCE_SECONDS)
    with tempfile.TemporaryDirectory(prefix="ratchet-serve-") as scratch:
        folder = fetch_policy(
            store, source.artifact, namespace=source.namespace, into=Path(scratch) / "policy", field="artifact"
        )
        if is_generator(folder):
            return load_generator(folder)
        base = fetch_model(store, read_card(folder).base_model, namespace=source.namespace, into=Path(scratch) / "base")
        return load_classifier(folder, base)


def load_exported(exported: Exported) -> LoadedPolicy:
    """Load a classifier from an exported folder; nothing is fetched.

    Raises:
        BadModelError: policy or base model are missing, no classifier, or not what the digests say.
    """
    policy, base = exported.folder / POLICY_FOLDER, exported.folder / BASE_FOLDER
    for each in (policy, base):
        if not each.is_dir():
            raise BadModelError(
                f"RATCHET_SERVING_EXPORT {exported.folder}: no folder {each.name}/; name the model/ that "
                "`ratchet export --format kserve` wrote"
            )
    if (seen := folder_digest(policy)) != exported.artifact.digest:
        raise BadModelError(
            f"RATCHET_SERVING_ARTIFACT_DIGEST is {exported.artifact.digest}, but {policy} has {seen}; export the "
            "version again, and upload all of its model/"
        )
    wanted = read_card(policy).base_model
    if (seen := local_digest(base)) != wanted.sha256:
        raise BadModelError(
            f"{base}: the digest is {seen}, but the policy was trained on {wanted.sha256} ({wanted.uri}); export the "
            "version again, and upload all of its model/"
        )
    return load_classifier(policy, base)


def load_generator(folder: Path) -> LoadedGenerator:
    """Load a committed generator.

    Raises:
        BadModelError: the folder holds no generator, or one that was not evaluated yet.
    """
    return LoadedGenerator(*open_merged(folder))


def fetch(source: Source, *, into: Path) -> Path:
    """Leave a committed generator where the engine takes it from; never half of one.

    Args:
        source: what is fetched.
        into: folder that is made; one that is there is replaced.

    Returns:
        The folder of the merged model.

    Raises:
        StageError: the store cannot be read, what lies there is not what the digest says, or no generator.
    """
    part = into.with_name(into.name + ".part")
    for left in (part, into):  # of a fetch that was killed, or of one whose pod began anew
        shutil.rmtree(left, ignore_errors=True)
    store = open_store(source.store, patience_seconds=PATIENCE_SECONDS)
    fetch_policy(store, source.artifact, namespace=source.namespace, into=part, field="artifact")
    if not is_generator(part):
        raise BadModelError(
            f"artifact {source.artifact.uri}: a classifier, and vLLM serves generators; set serving.engine: builtin"
        )
    if not (part / MERGED_FOLDER).is_dir():
        raise BadModelError(
            f"artifact {source.artifact.uri}: no folder {MERGED_FOLDER}/ with the merged model, which evaluate writes; "
            "publish what the run's evaluate stage committed"
        )
    part.rename(into)
    return into / MERGED_FOLDER


def load_remote(folder: Path, url: str) -> RemoteGenerator:
    """Read what must be known of a fetched generator to have another engine answer.

    Args:
        folder: as `fetch` left it.
        url: of the engine.

    Raises:
        BadModelError: it is not there, or does not say how long a conversation may be.
    """
    config, wording = open_wording(folder)
    text = config.get_text_config()
    context = getattr(text, "max_position_embeddings", None)
    if not isinstance(context, int) or context < 2:
        raise BadModelError(
            f"policy: config.json says {context!r} for max_position_embeddings, so nobody knows which prompts are too "
            "long; set serving.engine: builtin"
        )
    return RemoteGenerator(Remote(url, context=context, vocabulary=int(text.vocab_size)), wording)
