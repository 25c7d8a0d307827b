"""Files that components of a reward name: catalogues of items and classifiers, fetched once and checked by digest.

Called by the stages in which answers are rewarded, and by whoever rewards answers without a stage.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from ratchet_api.answer_reward import Catalogue
from ratchet_api.attempts import Artifact
from ratchet_api.rl import PolicyArtifact
from ratchet_api.training_run import BaseModelRef
from ratchet_jobs.data.base_model import fetch_model
from ratchet_jobs.data.policy_folder import fetch_policy
from ratchet_jobs.models.classifier import load_classifier, read_card
from ratchet_jobs.policy import Policy
from ratchet_jobs.rlhf.reward_model import Saved
from ratchet_jobs.runtime.errors import BadDataError, BadModelError
from ratchet_jobs.runtime.store import Store, resolve_uri, sha256_file

FIELD = "stages.rlhf.rewards"


class Fetching:
    """Brings files of a namespace's part of the store."""

    def __init__(self, store: Store, *, namespace: str, into: Path) -> None:
        """Nothing is fetched yet.

        Args:
            store: to read.
            namespace: whose part of it.
            into: local folder, made if missing.
        """
        self._store, self._namespace, self._into = store, namespace, into

    def catalogue(self, wanted: Catalogue) -> Path:
        """Download a file of items.

        Raises:
            BadDataError: it is another file than the digest says.
            StoreNotFound: it is not there.
        """
        field = f"{FIELD}: catalogue"
        key = resolve_uri(wanted.uri, store=self._store, namespace=self._namespace, field=field)
        path = self._into / "catalogues" / f"{wanted.sha256}{PurePosixPath(wanted.uri).suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        self._store.download(key, path)
        if (seen := sha256_file(path)) != wanted.sha256:
            raise BadDataError(
                f"{field}: sha256 is {wanted.sha256}, but {wanted.uri} has {seen}; correct the digest or restore the "
                "file"
            )
        return path

    def encoder(self, of: Saved) -> Path:
        """Download the encoder that a saved reward model stands on.

        Raises:
            BadModelError: it lies in no store, is not there, or is not what its digest says.
        """
        if of.built is None or of.built.uri is None:
            raise BadModelError(
                f"{FIELD}: the reward model stands on an encoder {of.base[:12]}… that lies in no store; train it by "
                "stages.rewardModel"
            )
        ref = BaseModelRef(uri=of.built.uri, sha256=of.base)
        into = self._into / "encoders" / of.base
        return fetch_model(self._store, ref, namespace=self._namespace, into=into, field=f"{FIELD}: model, its base")

    def classifier(self, wanted: PolicyArtifact) -> Policy:
        """Download a committed classifier and the base model that it names.

        Raises:
            StageError: either is not there, or not what its digest says.
        """
        artifact = Artifact(uri=wanted.uri, digest=wanted.sha256)
        home = self._into / "classifiers" / wanted.sha256
        field = f"{FIELD}: classifier"
        folder = fetch_policy(self._store, artifact, namespace=self._namespace, into=home / "policy", field=field)
        base = fetch_model(self._store, read_card(folder).base_model, namespace=self._namespace, into=home / "base")
        return Policy(load_classifier(folder, base))
