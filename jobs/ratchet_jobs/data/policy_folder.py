"""A committed policy as an input: found by its URI, checked by its digest. Torch-free; called by the recipes."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from ratchet_api.attempts import Artifact
from ratchet_api.stage import artifact_digest
from ratchet_api.training_run import BaseModelRef
from ratchet_jobs.generators.card import parse_generator_card
from ratchet_jobs.models.card import CARD_FILE, PolicyCard, parse_card
from ratchet_jobs.runtime.commit import ERASED_FILE, ErasedFiles, erased_files
from ratchet_jobs.runtime.errors import BadModelError, StoreNotFound
from ratchet_jobs.runtime.store import Store, check_key, resolve_uri, sha256_file

FIELD = "spec.startFrom"


def fetch_policy(store: Store, artifact: Artifact, *, namespace: str, into: Path, field: str = FIELD) -> Path:
    """Download a policy's folder and compare its digest with the one wanted.

    Args:
        store: of the stage.
        artifact: URI as status shows it (or store://PATH), digest over all files.
        namespace: the folder must lie in its part of the store.
        into: local folder, made if missing.
        field: how messages call it.

    Raises:
        BadConfigError: the URI leaves the namespace's part of the store.
        BadModelError: nothing is there, or not what the digest says.
    """
    key = _key_of(store, artifact, namespace, field)
    into.mkdir(parents=True, exist_ok=True)
    names = [info.key[len(key) + 1 :] for info in store.list(key)]
    # a pod's checkpoints lie below its directory until they are cleared; they are no part of what it committed
    names = sorted(name for name in names if not name.startswith("checkpoints/"))
    if not names:
        raise BadModelError(f"{field} {artifact.uri}: no files there; name a committed policy folder")
    marked = erased_files(store, key) if ERASED_FILE in names else ErasedFiles()
    digests = {}
    for name in names:
        if name == ERASED_FILE:
            continue
        target = into / check_key(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        store.download(f"{key}/{name}", target)
        seen = sha256_file(target)
        # what was changed for an erasure counts as it was committed
        digests[name] = marked.committed[name] if marked.now.get(name) == seen else seen
    if (digest := artifact_digest(digests)) != artifact.digest:
        raise BadModelError(
            f"{field}: the digest is {artifact.digest}, but {artifact.uri} has {digest}; take the digest that the "
            "run's status.artifact shows, or restore the files"
        )
    return into


def read_policy_card(store: Store, artifact: Artifact, *, namespace: str) -> PolicyCard:
    """Read what a policy says of itself, without its weights; its digest is checked by whoever fetches it.

    Raises:
        BadConfigError: the URI leaves the namespace's part of the store.
        BadModelError: no policy is there.
    """
    key = f"{_key_of(store, artifact, namespace, FIELD)}/{CARD_FILE}"
    try:
        return parse_card(store.read(key))
    except (StoreNotFound, ValidationError) as error:
        raise BadModelError(
            f"{FIELD} {artifact.uri}: no {CARD_FILE} that can be read; name a committed policy folder: {error}"
        ) from error


def read_generator_base(store: Store, artifact: Artifact, *, namespace: str) -> BaseModelRef:
    """Read which base a generator stands on; otherwise as `read_policy_card`.

    Raises:
        BadConfigError: the URI leaves the namespace's part of the store.
        BadModelError: no generator is there.
    """
    key = f"{_key_of(store, artifact, namespace, FIELD)}/{CARD_FILE}"
    try:
        return parse_generator_card(store.read(key)).base_model
    except (StoreNotFound, BadModelError) as error:
        raise BadModelError(f"{FIELD} {artifact.uri}: name a committed generator's folder: {error}") from error


def _key_of(store: Store, artifact: Artifact, namespace: str, field: str) -> str:
    own = f"{store.uri}/{namespace}/"
    uri = f"store://{artifact.uri.removeprefix(own)}" if artifact.uri.startswith(own) else artifact.uri
    return resolve_uri(uri, store=store, namespace=namespace, field=field)
