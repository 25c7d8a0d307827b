"""Which trained policy a word on the command line means: POLICY@N, POLICY, a run, or a committed policy's folder.

Decides the order in which a word is read and where the policy and its base model lie. Reads objects and the names of
folders, never a policy's files; imports no training library. Used by predict, evaluate, compare and export.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from ratchet_api.attempts import Artifact
from ratchet_api.generation import KeptGeneration
from ratchet_api.kinds import RL_POLICY, RL_TRAINING_RUN
from ratchet_api.policy import PolicyVersion, RLPolicyStatus
from ratchet_api.stage import StoreConfig
from ratchet_api.training_run import Answers, EvaluateStage, Evaluation, RLTrainingRunSpec, RLTrainingRunStatus
from ratchet_cli.backend import Backend, Body, choose_local
from ratchet_cli.errors import NotFound, UsageProblem
from ratchet_cli.home import DEFAULT_NAMESPACE, find_home
from ratchet_cli.options import open_backend
from ratchet_cli.results import REPORT_FILE, local_path
from ratchet_cli.rewarding import Rewarding, rewarding_of
from ratchet_cli.screen import err

_COMMITTED = re.compile(r"(?P<store>.+)/(?P<namespace>[^/]+)/runs/[^/]+/[^/]+/[^/]+")
"""A committed folder below its store, as stages lay it out."""

VERSION_HELP = "POLICY@N, POLICY (its champion, else its newest version), a finished run, or a policy's folder."
BASE_HELP = "Folder of the base model. If omitted, as the policy names it, in its store."
BaseFolder = Annotated[Path | None, typer.Option("--base", help=BASE_HELP, metavar="DIR")]


@dataclass(frozen=True, slots=True)
class Place:
    """Where names are looked up: the options that the verbs share."""

    namespace: str | None
    local: bool | None
    context: str | None
    home: str | None


@dataclass(frozen=True, slots=True)
class Version:
    """A trained policy that was found.

    Attributes:
        title: how tables and messages call it.
        files: the committed files, or a plain folder.
        store: where its base model, its snapshot and, unless it is a plain folder, its files lie.
        namespace: the part of the store.
        snapshot: digest of the snapshot that it was trained on, if known.
        batch_size: rows per forward pass, as in the run's evaluate stage; a run's default if the run is not known.
        ece_bins: likewise.
        answers: likewise: what a generator is asked.
        rewarding: how its run rewarded a generator's answers; None = it rewarded none, or the run is not known.
        policy: the RLPolicy that published it; None = a run or a folder.
        number: of the version there.
        generation: how it answers where it is served; None = as it was trained.
    """

    title: str
    files: Artifact | Path
    store: StoreConfig
    namespace: str
    snapshot: str | None = None
    batch_size: int = EvaluateStage().batch_size
    ece_bins: int = Evaluation().ece_bins
    answers: Answers = field(default_factory=Answers)
    rewarding: Rewarding | None = None
    policy: str | None = None
    number: int | None = None
    generation: KeptGeneration | None = None


def find_version(word: str, place: Place, *, served: bool = False) -> Version:
    """Return what the word means: NAME@N and KIND/NAME are objects, then what looks like a path, then names.

    Args:
        word: from the command line.
        place: where names are looked up.
        served: it is to answer by its generation config; else it is told that its files alone are looked at.

    Raises:
        UsageProblem: the word cannot be read.
        NotFound: there is no such thing, or nothing was trained yet; says what there is.
    """
    found = _found(word, place)
    if found.generation is not None and not served:
        told = f"{found.title} is served with {found.generation.sentence}; here its files answer as they were trained"
        err.print(escape(told), style="faint", soft_wrap=True)
    return found


def _found(word: str, place: Place) -> Version:
    if not word:
        raise UsageProblem(f"VERSION is empty; give {VERSION_HELP}")
    if word.startswith(("file://", ".", "~", os.sep)) or Path(word).is_file():
        return _of_folder(local_path(word) or Path(word).expanduser(), place)
    kind, slash, name = word.partition("/")
    if not slash and "@" in word:
        policy, _, number = word.rpartition("@")
        return _numbered(policy, number, place)
    if slash and kind in ("run", "policy") and not Path(word).is_dir():
        return _named(name, place, kinds=(kind,))
    if slash:
        return _of_folder(Path(word), place)
    try:
        return _named(word, place, kinds=("policy", "run"))
    except NotFound:
        if Path(word).is_dir():
            return _of_folder(Path(word), place)
        raise


def _numbered(policy: str, number: str, place: Place) -> Version:
    digits = number.removeprefix("v")
    if not policy or not (digits.isascii() and digits.isdecimal()) or int(digits) < 1:
        raise UsageProblem(f"version {f'{policy}@{number}'!r} must be POLICY@N with a number from 1 on, as in router@2")
    backend = _backend(place)
    body = backend.get(RL_POLICY, policy)
    if body is None:
        raise NotFound(f"RLPolicy {policy!r} is not in namespace {backend.namespace!r} of {backend.where}")
    status = RLPolicyStatus.model_validate(body.get("status", {}))
    for each in status.versions:
        if each.version == int(digits):
            return _published(policy, each, backend, place)
    known = ", ".join(str(each.version) for each in status.versions)
    there = f"it has {known}" if known else "it has none yet; publish a run to it first"
    raise NotFound(f"RLPolicy {policy!r} has no version {digits}; {there}")


def _named(name: str, place: Place, *, kinds: tuple[str, ...]) -> Version:
    backend = _backend(place)
    if "policy" in kinds and (policy := backend.get(RL_POLICY, name)) is not None:
        status = RLPolicyStatus.model_validate(policy.get("status", {}))
        if status.versions:
            newest = max(status.versions, key=lambda each: each.version)
            champion = (each for each in status.versions if each.version == status.champion)
            return _published(name, next(champion, newest), backend, place)
        if kinds == ("policy",) or backend.get(RL_TRAINING_RUN, name) is None:
            raise NotFound(f"RLPolicy {name!r} has no version yet; publish a run to it first")
    if "run" in kinds and (run := backend.get(RL_TRAINING_RUN, name)) is not None:
        return _trained(name, run, backend, place)
    known = [f"{each['metadata']['name']}" for kind in (RL_POLICY, RL_TRAINING_RUN) for each in backend.list(kind)]
    there = f"there are: {', '.join(known[:10])}" if known else "there is none"
    what = "RLPolicy or RLTrainingRun" if len(kinds) > 1 else {"policy": "RLPolicy", "run": "RLTrainingRun"}[kinds[0]]
    raise NotFound(f"no {what} {name!r} in namespace {backend.namespace!r} of {backend.where}; {there}")


def _published(policy: str, version: PolicyVersion, backend: Backend, place: Place) -> Version:
    artifact = Artifact(uri=version.uri, digest=version.digest)
    run = backend.get(RL_TRAINING_RUN, version.run)
    if run is not None and run["metadata"].get("uid") != version.run_uid:
        run = None  # another run of the same name; it says nothing about this version
    title = f"{policy}@{version.version}"
    found = _of_artifact(title, artifact, version.dataset_digest, run, backend, place)
    return replace(found, policy=policy, number=version.version, generation=version.generation)


def _trained(name: str, body: Body, backend: Backend, place: Place) -> Version:
    status = RLTrainingRunStatus.model_validate(body.get("status", {}))
    if status.artifact is None or status.resolved is None:
        raise NotFound(
            f"RLTrainingRun {name!r} has no policy: it is {status.state or 'Pending'}; "
            "take one that is Complete, or see `ratchet status` for what this one waits for"
        )
    return _of_artifact(name, status.artifact, status.resolved.dataset_digest, body, backend, place)


def _of_artifact(
    title: str, artifact: Artifact, snapshot: str, run: Body | None, backend: Backend, place: Place
) -> Version:
    store = _store(artifact.uri, place)
    if run is None:
        return Version(title, artifact, store, backend.namespace, snapshot=snapshot)
    spec = RLTrainingRunSpec.model_validate(run["spec"])
    return Version(
        title,
        artifact,
        store,
        backend.namespace,
        snapshot=snapshot,
        batch_size=spec.stages.evaluate.batch_size,
        ece_bins=spec.evaluation.ece_bins,
        answers=spec.stages.evaluate.answers or Answers(),
        rewarding=rewarding_of(
            run["metadata"]["name"], spec, RLTrainingRunStatus.model_validate(run.get("status", {}))
        ),
    )


def _of_folder(folder: Path, place: Place) -> Version:
    if not folder.is_dir():
        raise NotFound(f"{folder} is no folder; give {VERSION_HELP}")
    whole = folder.resolve()
    inside = _COMMITTED.fullmatch(whole.as_uri())
    if inside is not None:
        store, namespace = _local_store(inside["store"]), place.namespace or inside["namespace"]
    else:
        store, namespace = _local_store(find_home(place.home).store_uri), place.namespace or DEFAULT_NAMESPACE
    return Version(str(folder), whole, store, namespace, snapshot=_snapshot_of(whole))


def _snapshot_of(folder: Path) -> str | None:
    """Return the digest of the snapshot that evaluate noted beside the policy."""
    try:
        digest = json.loads((folder / REPORT_FILE).read_text())["snapshot"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return digest if isinstance(digest, str) else None


def _store(uri: str, place: Place) -> StoreConfig:
    """Return the store in which a committed folder lies: its run wrote it there, whatever the settings are now."""
    inside = _COMMITTED.fullmatch(uri)
    if choose_local(True if place.local is None and place.home is not None else place.local):
        return _local_store(inside["store"] if inside is not None else find_home(place.home).store_uri)
    from ratchet_cli.storage import store_config

    config, _ = store_config(True, None, None, place.namespace, place.context, place.home)
    return config.model_copy(update={"uri": inside["store"]}) if inside is not None else config


def _local_store(uri: str) -> StoreConfig:
    return StoreConfig(
        uri=uri,
        endpoint=os.environ.get("RATCHET_STORE_ENDPOINT") or None,
        region=os.environ.get("RATCHET_STORE_REGION") or "us-east-1",
    )


def _backend(place: Place) -> Backend:
    return open_backend(local=place.local, context=place.context, namespace=place.namespace, home=place.home)
