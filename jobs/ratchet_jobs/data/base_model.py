"""The pretrained model's folder in the store: which of its files are used, their digest, and what is refused.

The digest is what a shell prints for the folder:
    ls *.jinja *.json *.model *.safetensors *.txt | LC_ALL=C sort | xargs sha256sum | sha256sum
Only those files are ever fetched; formats that run code when loaded are refused. Torch-free. Called by `resolve`
(listing only), `supervised` and `evaluate` (fetch), and `ratchet digest` (local folder).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from ratchet_api.reward_model import OwnBase
from ratchet_api.training_run import BaseModelRef
from ratchet_jobs.runtime.errors import BadModelError
from ratchet_jobs.runtime.store import Store, resolve_uri, sha256_file

USED_SUFFIXES = frozenset({".jinja", ".json", ".model", ".safetensors", ".txt"})
PICKLE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib"})
FIELD = "spec.baseModel"
REWARD_FIELD = "spec.stages.rewardModel.baseModel"


def check_listing(names: Iterable[str], *, where: str, field: str = FIELD) -> list[str]:
    """Return the used files of a model folder, sorted; nothing below it in subfolders counts.

    Raises:
        BadModelError: config, tokenizer or safetensors weights are missing; says so when only pickles are there.
    """
    plain = sorted(name for name in names if "/" not in name)
    used = [name for name in plain if PurePosixPath(name).suffix in USED_SUFFIXES]
    if not plain:
        raise BadModelError(f"{field}.uri {where}: no files there; put the model's folder there or correct the URI")
    if not any(name.endswith(".safetensors") for name in used):
        pickles = [name for name in plain if PurePosixPath(name).suffix in PICKLE_SUFFIXES]
        seen = f"only {', '.join(pickles)}, which run code when loaded" if pickles else f"only {', '.join(plain[:20])}"
        raise BadModelError(
            f"{field}.uri {where}: no *.safetensors, {seen}; save the model with safe_serialization=True"
        )
    for needed in ("config.json", "tokenizer.json"):
        if needed not in used:
            raise BadModelError(
                f"{field}.uri {where}: no {needed} (found {', '.join(used)}); save model and fast tokenizer there"
            )
    return used


def folder_digest(sha256_of: Mapping[str, str]) -> str:
    """Digest of a model folder from its used files' SHA-256s, as the shell line in the module's docstring prints it."""
    lines = "".join(f"{sha256_of[name]}  {name}\n" for name in sorted(sha256_of))
    return hashlib.sha256(lines.encode()).hexdigest()


def local_digest(folder: Path) -> str:
    """Digest of a model folder on the local disk.

    Raises:
        BadModelError: the folder is no usable model.
    """
    used = check_listing((p.name for p in folder.iterdir() if p.is_file()), where=str(folder))
    return folder_digest({name: sha256_file(folder / name) for name in used})


def list_model(
    store: Store, ref: BaseModelRef | OwnBase, *, namespace: str, field: str = FIELD
) -> tuple[str, list[str]]:
    """Return the folder's key and its used files, without reading them.

    Raises:
        BadModelError: as `check_listing`.
    """
    key = resolve_uri(ref.uri, store=store, namespace=namespace, field=f"{field}.uri")
    names = [info.key[len(key) + 1 :] for info in store.list(key)]
    return key, check_listing(names, where=ref.uri, field=field)


def fetch_model(store: Store, ref: BaseModelRef | OwnBase, *, namespace: str, into: Path, field: str = FIELD) -> Path:
    """Download the used files and compare their digest with the one in the spec.

    Args:
        store: to read.
        ref: where the folder lies, and its digest.
        namespace: whose part of the store.
        into: local folder, made if missing.
        field: that names it, for messages.

    Raises:
        BadModelError: the folder is unusable or not the one named.
    """
    key, used = list_model(store, ref, namespace=namespace, field=field)
    into.mkdir(parents=True, exist_ok=True)
    for name in used:
        store.download(f"{key}/{name}", into / name)
    seen = folder_digest({name: sha256_file(into / name) for name in used})
    if seen != ref.sha256:
        raise BadModelError(
            f"{field}.sha256 is {ref.sha256}, but {ref.uri} has {seen}; "
            "correct the digest (`ratchet digest FOLDER` prints it) or restore the files"
        )
    return into
