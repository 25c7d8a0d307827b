"""A committed policy brought from the store, every file checked against its digest, and made ready to answer.

Decides what is fetched and that nothing is served whose bytes are not the committed ones. Loads safetensors and JSON
only. `load` is called once by `__main__`; `load_generator` by `ratchet serve`, too.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ratchet_jobs.data.base_model import fetch_model
from ratchet_jobs.data.policy_folder import fetch_policy
from ratchet_jobs.generators.serving import open_merged
from ratchet_jobs.generators.templates import Wording
from ratchet_jobs.models.card import CARD_FILE, policy_type_of
from ratchet_jobs.models.classifier import LoadedPolicy, load_classifier, read_card
from ratchet_jobs.runtime.errors import BadModelError
from ratchet_jobs.runtime.store import open_store
from ratchet_serving.settings import Source

PATIENCE_SECONDS = 60.0
"""How long an unreachable store is asked again before the server ends, to be started again."""


@dataclass(frozen=True, slots=True)
class LoadedGenerator:
    """A generator's merged model, on the GPU if there is one, and its template."""

    model: Any
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


def is_generator(folder: Path) -> bool:
    """Whether a policy's folder holds a generator.

    Raises:
        BadModelError: its card cannot be read.
    """
    try:
        return policy_type_of((folder / CARD_FILE).read_bytes()) == "generator"
    except (OSError, ValueError) as error:
        raise BadModelError(f"policy: {CARD_FILE} cannot be read: {error}; take a committed policy folder") from error


def load_generator(folder: Path) -> LoadedGenerator:
    """Load a committed generator.

    Raises:
        BadModelError: the folder holds no generator, or one that was not evaluated yet.
    """
    return LoadedGenerator(*open_merged(folder))
