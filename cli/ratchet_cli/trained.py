"""A trained policy opened for the command line, and its answers: the files, the base model, the logits.

Decides what is said when a policy or its base cannot be read. Loads the training libraries, on first use only. The
formulas and the forward pass are those of the evaluate stage. Used by predict, chat, evaluate, compare and export.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from ratchet_cli.errors import CliError
from ratchet_cli.screen import err
from ratchet_cli.versions import Version

if TYPE_CHECKING:
    from ratchet_api.training_run import BaseModelRef
    from ratchet_jobs.metrics.classification import Floats
    from ratchet_jobs.models.classifier import LoadedPolicy

PATIENCE_SECONDS = 20.0


@contextmanager
def explained(title: str) -> Iterator[None]:
    """Turn what the stages' code raises into an error of the command line that begins with what it is about.

    Raises:
        CliError: the policy cannot be used, or the extra `jobs` is not installed.
    """
    try:
        # a missing package is told before the policy is looked at, as the cause that it is
        import torch  # noqa: F401
        import transformers  # noqa: F401

        from ratchet_jobs.runtime.errors import StageError
    except ImportError as error:
        raise CliError(f"asking a policy needs the package {error.name}; install ratchet[jobs]") from error
    try:
        yield
    except StageError as error:
        raise CliError(f"{title}: {error}") from error


class Unpacked(NamedTuple):
    """Two folders on this machine: a policy's files, and its base model."""

    policy: Path
    base: Path


@contextmanager
def opened(version: Version, *, base: Path | None) -> Iterator[LoadedPolicy]:
    """Load a policy onto its base model, on the GPU if there is one.

    Args:
        version: what to load.
        base: folder of the base model; None = as the policy's card names it, in its store.

    Raises:
        CliError: its files or its base are missing, changed, or do not fit each other.
    """
    with unpacked(version, base=base) as folders:
        import torch

        from ratchet_jobs.models.classifier import load_classifier

        policy = load_classifier(folders.policy, folders.base)
        policy.classifier.to("cuda" if torch.cuda.is_available() else "cpu")
        yield policy


@contextmanager
def unpacked(version: Version, *, base: Path | None) -> Iterator[Unpacked]:
    """Bring a policy's files and its base model onto this machine, both checked by their digests.

    Args:
        version: what to bring.
        base: folder of the base model; None = as the policy's card names it, in its store.

    Raises:
        CliError: the files of one of the two are missing or changed; also what the block raises of a stage's errors.
    """
    with explained(version.title), tempfile.TemporaryDirectory(prefix="ratchet-") as scratch:
        from ratchet_jobs.models.classifier import read_card

        yield unpack(version, base, Path(scratch), base_of=lambda folder: read_card(folder).base_model)


def policy_folder(version: Version, scratch: Path) -> Path:
    """Return the folder of a policy's files; one in a store is brought here and checked by its digest.

    Args:
        version: which policy.
        scratch: where it is put.

    Raises:
        StageError: it is missing or changed.
    """
    import torch

    from ratchet_jobs.data.policy_folder import fetch_policy
    from ratchet_jobs.runtime.store import open_store

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1))  # as a stage has it
    if isinstance(version.files, Path):
        return version.files
    store = open_store(version.store, patience_seconds=PATIENCE_SECONDS)
    into = scratch / "policy"
    return fetch_policy(store, version.files, namespace=version.namespace, into=into, field="artifact")


def unpack(version: Version, base: Path | None, scratch: Path, *, base_of: Callable[[Path], BaseModelRef]) -> Unpacked:
    """Bring a policy's files and its base model into a folder, both checked by their digests.

    Args:
        version: what to bring.
        base: folder of the base model; None = as the policy's card names it, in its store.
        scratch: where they are put.
        base_of: reads the card.

    Raises:
        CliError: --base is another model.
        StageError: the files of one of the two are missing or changed.
    """
    from ratchet_jobs.data.base_model import fetch_model, local_digest
    from ratchet_jobs.runtime.store import open_store

    folder = policy_folder(version, scratch)
    store = open_store(version.store, patience_seconds=PATIENCE_SECONDS)
    wanted = base_of(folder)
    if base is None:
        base = fetch_model(store, wanted, namespace=version.namespace, into=scratch / "base")
    elif not base.is_dir():
        raise CliError(f"--base {base} is no folder; give the one with config.json and *.safetensors")
    elif (seen := local_digest(base)) != wanted.sha256:
        raise CliError(
            f"--base {base}: its digest is {seen}, {version.title} was trained on {wanted.sha256} ({wanted.uri}); "
            "give that model's folder"
        )
    return Unpacked(folder, base)


def logits_of(policy: LoadedPolicy, texts: Sequence[str], *, batch_size: int, title: str) -> Floats:
    """Return (N, C) logits of the texts, with a bar on a terminal.

    Raises:
        CliError: they are not all finite.
    """
    import numpy as np

    from ratchet_jobs.models.inference import predict_logits
    from ratchet_jobs.models.tokenizing import tokenize

    columns = (TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
        task = progress.add_task(title, total=len(texts))
        logits = predict_logits(
            policy.classifier,
            tokenize(policy.tokenizer, texts),
            batch_size=batch_size,
            after_batch=lambda rows: progress.advance(task, rows),
        )
    if not np.isfinite(logits).all():
        raise CliError(f"{title}: its logits are not all finite; train again with a lower learningRate")
    return logits
