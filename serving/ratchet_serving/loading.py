"""A committed policy brought from the store, every file checked against its digest, and made ready to answer.

Decides what is fetched and that nothing is served whose bytes are not the committed ones. Loads safetensors and JSON
only. Called once by `__main__`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from ratchet_jobs.data.base_model import fetch_model
from ratchet_jobs.data.policy_folder import fetch_policy
from ratchet_jobs.models.classifier import LoadedPolicy, load_classifier, read_card
from ratchet_jobs.runtime.store import open_store
from ratchet_serving.settings import Source

PATIENCE_SECONDS = 60.0
"""How long an unreachable store is asked again before the server ends, to be started again."""


def load(source: Source) -> LoadedPolicy:
    """Fetch a policy and its base model, and load them.

    Raises:
        StageError: the store cannot be read, or what lies there is not what the digests say.
    """
    store = open_store(source.store, patience_seconds=PATIENCE_SECONDS)
    with tempfile.TemporaryDirectory(prefix="ratchet-serve-") as scratch:
        folder = fetch_policy(
            store, source.artifact, namespace=source.namespace, into=Path(scratch) / "policy", field="artifact"
        )
        base = fetch_model(store, read_card(folder).base_model, namespace=source.namespace, into=Path(scratch) / "base")
        return load_classifier(folder, base)
