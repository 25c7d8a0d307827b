"""A trained policy in a notebook: load it by path or URI, ask it for labels, probabilities and whether it abstains.

Decides nothing that the policy's own files do not say: tasks, label map, temperature and abstain threshold come from
its policy.json. Never trains (see `trainer`). Called by users; the same formulas stand behind `evaluate`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import numpy as np
from numpy.typing import NDArray

from ratchet_api.stage import StoreConfig
from ratchet_jobs.metrics import classification as formulas
from ratchet_jobs.models.card import Head
from ratchet_jobs.models.classifier import LoadedPolicy, load_classifier
from ratchet_jobs.models.inference import predict_logits
from ratchet_jobs.models.tokenizing import tokenize
from ratchet_jobs.runtime.errors import BadConfigError, BadModelError
from ratchet_jobs.runtime.store import check_key, open_store

PATIENCE_SECONDS = 30.0
"""How long an unreachable store is asked again before a notebook hears of it."""


class TaskAnswers(NamedTuple):
    """What a policy says about N texts in one of its tasks."""

    labels: list[str]
    """The likeliest label of each text."""
    probs: NDArray[np.float64]
    """(N, C) calibrated probabilities, columns in the order of `Policy.labels_of` the task."""
    abstained: NDArray[np.bool_]
    """(N,) True where the policy is too unsure to answer."""


class Policy:
    """A classifier that answers texts, in one task or in several."""

    def __init__(self, loaded: LoadedPolicy, *, batch_size: int = 64) -> None:
        """Wrap what `load_classifier` gave; use `load_policy` instead.

        Args:
            loaded: classifier, card and tokenizer.
            batch_size: texts per forward pass.
        """
        self._loaded = loaded
        self._batch_size = batch_size

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of its tasks; empty if it has one task without a name."""
        return self._loaded.card.task_names or ()

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names, in the order of the columns of `predict_proba`; with several tasks `task/label` of them all."""
        return self._loaded.card.labels

    def labels_of(self, task: str) -> tuple[str, ...]:
        """Class names of one of several tasks, in the order of the columns of its probabilities."""
        return self._head(task).task.plain_labels

    @property
    def abstain_threshold(self) -> float | None:
        """The policy abstains below this confidence; None = never. Of several tasks see `abstain_thresholds`."""
        return self._loaded.card.abstain_threshold

    @property
    def abstain_thresholds(self) -> dict[str, float | None]:
        """The threshold of each of several tasks."""
        return {head.task.name: head.fit.threshold for head in self._loaded.card.heads if head.task.name}

    def predict_proba(self, texts: Sequence[str], *, task: str | None = None) -> NDArray[np.float64]:
        """Calibrated probabilities of N texts, (N, C); each row sums to 1.

        Args:
            texts: N texts.
            task: which of several tasks; needed if there are several.

        Raises:
            BadConfigError: texts is one string, or task is none of the policy's.
        """
        return self._answer(texts, self._head(task)).probs

    def predict(self, texts: Sequence[str], *, task: str | None = None) -> list[str]:
        """The likeliest label of each text, whether or not the policy would rather abstain; as `predict_proba`."""
        return self._answer(texts, self._head(task)).labels

    def abstain(self, texts: Sequence[str], *, task: str | None = None) -> NDArray[np.bool_]:
        """(N,) True where the policy is too unsure to answer; as `predict_proba`."""
        return self._answer(texts, self._head(task)).abstained

    def predict_tasks(self, texts: Sequence[str]) -> dict[str, TaskAnswers]:
        """All answers in all tasks, by the name of the task, in one pass of the encoder.

        Raises:
            BadConfigError: texts is one string.
        """
        logits = self._logits(texts)
        return {head.task.name: _answers(logits, head) for head in self._loaded.card.heads}

    def _head(self, task: str | None) -> Head:
        heads = {head.task.name: head for head in self._loaded.card.heads}
        if task is None and "" not in heads:
            raise BadConfigError(
                f"task: the policy has {', '.join(map(repr, heads))}; name one, as in policy.predict(texts, task=…), "
                "or call policy.predict_tasks(texts)"
            )
        if (task or "") not in heads:
            there = ", ".join(map(repr, self.tasks)) or "one without a name; leave task out"
            raise BadConfigError(f"task: {task!r} is none of the policy's, which has {there}")
        return heads[task or ""]

    def _answer(self, texts: Sequence[str], head: Head) -> TaskAnswers:
        return _answers(self._logits(texts), head)

    def _logits(self, texts: Sequence[str]) -> NDArray[np.float64]:
        if isinstance(texts, str):
            raise BadConfigError("texts: one string was given; give a list of texts, as in policy.predict([text])")
        if not texts:
            return np.zeros((0, len(self.labels)))
        classifier, _, tokenizer = self._loaded
        tokens = tokenize(tokenizer, texts)
        return predict_logits(classifier, tokens, batch_size=self._batch_size, after_batch=lambda _: None)


def _answers(logits: NDArray[np.float64], head: Head) -> TaskAnswers:
    """Read (N, C) logits of all tasks as answers in one of them."""
    task, fit = head
    labels = task.plain_labels
    if not len(logits):
        return TaskAnswers([], np.zeros((0, len(labels))), np.zeros(0, dtype=np.bool_))
    said = formulas.predict(logits[:, task.start : task.stop], temperature=fit.temperature)
    return TaskAnswers([labels[place] for place in said.classes], said.probs, said.confidence < (fit.threshold or 0.0))


def load_policy(
    path_or_uri: str | Path, *, base: str | Path, endpoint: str | None = None, batch_size: int = 64
) -> Policy:
    """Load a committed policy.

    Args:
        path_or_uri: local folder, file:///FOLDER, or s3://BUCKET/PREFIX as a run's status.artifact.uri shows it; S3
            credentials come from the environment.
        base: folder of the base model that the policy's policy.json names, local or a URI of the same kinds.
        endpoint: of the S3 service; None = AWS.
        batch_size: texts per forward pass.

    Raises:
        BadConfigError: the URI is of no kind above.
        BadModelError: nothing is there, or the files are no policy or do not fit the base.
    """
    with tempfile.TemporaryDirectory(prefix="ratchet-") as scratch:
        folder = _local(path_or_uri, Path(scratch) / "policy", endpoint=endpoint)
        base_folder = _local(base, Path(scratch) / "base", endpoint=endpoint)
        loaded = load_classifier(folder, base_folder)
    return Policy(loaded, batch_size=batch_size)


def _local(path_or_uri: str | Path, into: Path, *, endpoint: str | None) -> Path:
    """Return a local folder with the files; downloads from S3."""
    text = str(path_or_uri)
    parts = urlsplit(text)
    if parts.scheme == "s3" and parts.netloc and parts.path.strip("/"):
        return _download(text, into, endpoint=endpoint)
    if parts.scheme not in ("", "file"):
        raise BadConfigError(f"policy {text!r}: expected a folder, file:///FOLDER or s3://BUCKET/PREFIX")
    folder = Path(unquote(parts.path)) if parts.scheme == "file" else Path(text)
    if not folder.is_dir():
        raise BadModelError(f"policy {text!r}: there is no such folder; name a committed policy's folder")
    return folder


def _download(uri: str, into: Path, *, endpoint: str | None) -> Path:
    parts = urlsplit(uri)
    store = open_store(StoreConfig(uri=f"s3://{parts.netloc}", endpoint=endpoint), patience_seconds=PATIENCE_SECONDS)
    prefix = check_key(parts.path.strip("/"))
    names = [info.key[len(prefix) + 1 :] for info in store.list(prefix)]
    files = [name for name in names if not name.startswith("checkpoints/")]
    if not files:
        raise BadModelError(f"policy {uri!r}: no files there; take the URI of a run's status.artifact")
    for name in files:
        target = into / check_key(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        store.download(f"{prefix}/{name}", target)
    return into
