"""A committed policy as an input: found by its URI, checked by its digest.

Torch-free; called by the recipes, the policy server and the exports.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from ratchet_api.attempts import Artifact
from ratchet_api.stage import Commit, artifact_digest
from ratchet_api.training_run import BaseModelRef
from ratchet_jobs.generators.agents import AGENTS_FILE, AGENTS_FOLDER
from ratchet_jobs.generators.card import parse_generator_card
from ratchet_jobs.models.card import CARD_FILE, REWARD_MODEL_FILE, PolicyCard, parse_card, policy_type_of
from ratchet_jobs.runtime.commit import COMMIT_FILE, ERASED_FILE, ErasedFiles, erased_files
from ratchet_jobs.runtime.errors import BadModelError, StoreNotFound
from ratchet_jobs.runtime.store import Store, check_key, resolve_uri, sha256_file

FIELD = "spec.startFrom"
POLICY_FOLDER, BASE_FOLDER = "policy", "base"
"""Where a classifier and its base model lie in an exported folder that a policy server loads."""


def fetch_policy(store: Store, artifact: Artifact, *, namespace: str, into: Path, field: str = FIELD) -> Path:
    """Download a policy's folder and compare its digest with the one wanted.

    Other agents that lie beside the policy are left where they are, if the run's commit names their files: whoever
    wants one of them names its own folder.

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
        _name_what_is_wrong(store, key, artifact, {}, field)
        raise BadModelError(f"{field} {artifact.uri}: no files there; name a committed policy folder")
    marked = erased_files(store, key) if ERASED_FILE in names else ErasedFiles()
    digests = _beside(store, key, artifact.digest) if AGENTS_FILE in names else {}
    for name in names:
        if name == ERASED_FILE or name in digests:
            continue
        target = into / check_key(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        store.download(f"{key}/{name}", target)
        seen = sha256_file(target)
        # what was changed for an erasure counts as it was committed
        digests[name] = marked.committed[name] if marked.now.get(name) == seen else seen
    if (digest := artifact_digest(digests)) != artifact.digest:
        _name_what_is_wrong(store, key, artifact, digests, field)
        raise BadModelError(
            f"{field}: the digest is {artifact.digest}, but {artifact.uri} has {digest}; take the digest that the "
            "run's status.artifact shows, or restore the files"
        )
    return into


def read_policy_card(store: Store, artifact: Artifact, *, namespace: str, field: str = FIELD) -> PolicyCard:
    """Read what a policy says of itself, without its weights; its digest is checked by whoever fetches it.

    Args:
        store: of the stage.
        artifact: where it lies.
        namespace: the folder must lie in its part of the store.
        field: how messages call it.

    Raises:
        BadConfigError: the URI leaves the namespace's part of the store.
        BadModelError: no policy is there.
    """
    key = f"{_key_of(store, artifact, namespace, field)}/{CARD_FILE}"
    try:
        return parse_card(store.read(key))
    except (StoreNotFound, ValidationError) as error:
        raise BadModelError(
            f"{field} {artifact.uri}: no {CARD_FILE} that can be read; name a committed policy folder: {error}"
        ) from error


def read_generator_base(store: Store, artifact: Artifact, *, namespace: str, field: str = FIELD) -> BaseModelRef:
    """Read which base a generator stands on; otherwise as `read_policy_card`.

    Args:
        store: of the stage.
        artifact: see `fetch_policy`.
        namespace: see `fetch_policy`.
        field: how messages call it.

    Raises:
        BadConfigError: the URI leaves the namespace's part of the store.
        BadModelError: no generator is there.
    """
    key = f"{_key_of(store, artifact, namespace, field)}/{CARD_FILE}"
    try:
        return parse_generator_card(store.read(key)).base_model
    except (StoreNotFound, BadModelError) as error:
        raise BadModelError(f"{field} {artifact.uri}: name a committed generator's folder: {error}") from error


def check_reward_model(store: Store, artifact: Artifact, *, namespace: str, field: str) -> None:
    """See that a reward model lies there, without reading its weights.

    Raises:
        BadConfigError: the URI leaves the namespace's part of the store.
        BadModelError: none is there.
    """
    if not store.exists(f"{_key_of(store, artifact, namespace, field)}/{REWARD_MODEL_FILE}"):
        raise BadModelError(
            f"{field} {artifact.uri}: no {REWARD_MODEL_FILE} there; name the artifact of a reward-model stage, as "
            "status.stages of the run that made it shows it"
        )


def is_generator(folder: Path) -> bool:
    """Whether a policy's folder holds a generator.

    Raises:
        BadModelError: its card cannot be read.
    """
    try:
        return policy_type_of((folder / CARD_FILE).read_bytes()) == "generator"
    except (OSError, ValueError) as error:
        raise BadModelError(f"policy: {CARD_FILE} cannot be read: {error}; take a committed policy folder") from error


def folder_digest(folder: Path) -> str:
    """Digest of a policy's folder, as its commit has it: left-over checkpoints are no part of it."""
    files = digests_of(folder)
    return artifact_digest({name: sha256 for name, sha256 in files.items() if not name.startswith("checkpoints/")})


def digests_of(folder: Path) -> dict[str, str]:
    """Return SHA-256 of every file below a folder, by its path there."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256_file(path) for path in paths}


def _name_what_is_wrong(store: Store, key: str, artifact: Artifact, found: dict[str, str], field: str) -> None:
    """Refuse a folder by the file that its commit names and that is not there, or is another; say nothing without one.

    Args:
        store: of the folder.
        key: of the folder.
        artifact: that was asked for.
        found: SHA-256 of what is there, by path.
        field: how messages call it.

    Raises:
        BadModelError: a file is missing, or its bytes are not those that were committed.
    """
    committed = _committed(store, key, artifact.digest)
    remedy = "restore it from a backup or an older version of the bucket, or publish another version of the policy"
    missing = [name for name in committed if name not in found]
    if missing:
        all_told = f"; {len(missing)} of its {len(committed)} files are missing" if len(missing) > 1 else ""
        raise BadModelError(f"{field}: {artifact.uri}/{missing[0]} is missing in the store{all_told}; {remedy}")
    for name, sha256 in committed.items():
        if found[name] != sha256:
            raise BadModelError(
                f"{field}: the digest is {sha256} as committed, but {artifact.uri}/{name} has {found[name]}; {remedy}"
            )


def _committed(store: Store, key: str, digest: str) -> dict[str, str]:
    """SHA-256 of the files of a folder by the commit of the run, which stands above it; empty = it is not known.

    Believed only if all files that it names have the wanted digest together; a folder that was copied to a place
    without such a commit is read whole.
    """
    try:
        commit = Commit.model_validate_json(store.read(f"{key.rpartition('/')[0]}/{COMMIT_FILE}"))
    except (StoreNotFound, ValidationError):
        return {}
    files = {file.path: file.sha256 for file in commit.files}
    return files if artifact_digest(files) == digest else {}


def _beside(store: Store, key: str, digest: str) -> dict[str, str]:
    """SHA-256 of the other agents' files, which are not fetched, as far as the commit names them."""
    files = _committed(store, key, digest)
    return {name: sha256 for name, sha256 in files.items() if name.startswith(f"{AGENTS_FOLDER}/")}


def _key_of(store: Store, artifact: Artifact, namespace: str, field: str) -> str:
    own = f"{store.uri}/{namespace}/"
    uri = f"store://{artifact.uri.removeprefix(own)}" if artifact.uri.startswith(own) else artifact.uri
    return resolve_uri(uri, store=store, namespace=namespace, field=field)
