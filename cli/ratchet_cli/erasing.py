"""An erasure from its record to its proof: the removal, and the marks on what had learned from the person.

Decides which runs, versions and data sets are touched, and that the proof is written last: whatever dies before is
done again. Never asks who may erase. Called by the verb, by `ratchet up` and by the cluster's eraser.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from ratchet_api.attempts import Artifact
from ratchet_api.erasure import ErasureReport
from ratchet_api.feedback_dataset import FeedbackDatasetStatus
from ratchet_api.kinds import FEEDBACK_DATASET, RL_POLICY, RL_TRAINING_RUN, Kind
from ratchet_api.names import ANNOTATION_ERASED, ANNOTATION_REFRESH
from ratchet_api.policy import RLPolicyStatus
from ratchet_api.stage import Stage
from ratchet_api.training_run import RLTrainingRunStatus
from ratchet_jobs.data import erasure
from ratchet_jobs.data.erase_snapshots import with_earlier
from ratchet_jobs.feedback_log.erasures import ErasureRecord, write_report
from ratchet_jobs.runtime.store import Store


class Marked(Protocol):
    """What marking needs of a backend."""

    def list(self, kind: Kind[Any, Any]) -> Sequence[dict[str, Any]]:
        """Return all objects of the kind."""

    def patch(self, kind: Kind[Any, Any], name: str, patch: Mapping[str, Any]) -> None:
        """Merge a patch into the object."""


def finish(
    store: Store, namespace: str, record: ErasureRecord, backend: Marked | None, *, now: datetime
) -> ErasureReport:
    """Erase one person, mark what had learned from them, and keep the proof.

    Args:
        store: with the right to delete below the log and the snapshots.
        namespace: whose log.
        record: of who is erased.
        backend: where runs and policies are; None = nowhere.
        now: for the proof.

    Raises:
        StageError: the store failed, or something of the person is still there; may be repeated.
    """
    with tempfile.TemporaryDirectory() as scratch:
        report = erasure.erase(store, namespace, record, folder=Path(scratch), now=now)
    if backend is not None:
        # whoever learned from a snapshot before somebody else was erased from it learned from this person, too
        digests = with_earlier(store, namespace, {each.digest for each in report.snapshots})
        report = mark(backend, report, digests)
    write_report(store, namespace, report)
    return report


def finish_pending(
    store: Store, namespace: str, backend: Marked | None, *, now: Callable[[], datetime]
) -> Sequence[ErasureReport]:
    """Carry out every erasure that was asked for and has no proof yet; arguments as for `finish`."""
    records = erasure.pending(store, namespace)
    return [finish(store, namespace, record, backend, now=now()) for record in records]


class _Made:
    """What had learned from the person: by digest, and by where it lies, as parts of it have digests of their own."""

    def __init__(self) -> None:
        """Start with nothing."""
        self._digests: set[str] = set()
        self._places: set[str] = set()

    def add(self, uri: str, digest: str) -> None:
        """Add a committed folder, with all that lies below it."""
        self._digests.add(digest)
        self._places.add(f"{uri.rstrip('/')}/")

    def has(self, uri: str, digest: str) -> bool:
        """Tell whether a folder is one of these, or a part of one, as an agent's is."""
        return digest in self._digests or f"{uri.rstrip('/')}/".startswith(tuple(self._places))


class _Run(NamedTuple):
    """A run, and what it took in besides its data."""

    name: str
    status: RLTrainingRunStatus
    taken: Sequence[tuple[str, str]]
    """URI and digest of the policy it started from, and of every model that its spec names."""

    def learned(self, digests: Collection[str], made: _Made) -> bool:
        """Tell whether it learned from one of these snapshots, or from what such a run made."""
        fixed = self.status.resolved
        if fixed is None:
            return False
        read = {fixed.dataset_digest} | ({fixed.log.digest} if fixed.log is not None else set())
        return not read.isdisjoint(digests) or any(made.has(uri, digest) for uri, digest in self.taken)

    def made(self, digests: Collection[str]) -> Iterator[Artifact]:
        """Yield what the person went into; the supervised stage reads neither judged answers nor rewards."""
        fixed = self.status.resolved
        from_the_first = fixed is not None and fixed.dataset_digest in digests
        for stage in self.status.stages:
            if stage.artifact is not None and (from_the_first or stage.name != Stage.SUPERVISED):
                yield stage.artifact
        if self.status.artifact is not None:
            yield self.status.artifact


def mark(backend: Marked, report: ErasureReport, digests: Collection[str]) -> ErasureReport:
    """Mark runs and policies that had learned from the person, ask data sets for new snapshots, and list all three.

    A run has also learned from the person if its reward model or preference stage did, and if it started from what such
    a run made, was rewarded by it or stands on it; so has whoever goes on from there.

    Args:
        backend: where the objects are.
        report: the proof, as far as the store goes.
        digests: of the snapshots that held the person.
    """
    policies = backend.list(RL_POLICY)
    made, touched = _Made(), set[str]()
    for version in (each for body in policies for each in _status_of(body).versions):
        if version.dataset_digest in digests:  # its run may be deleted by now
            made.add(version.uri, version.digest)
    runs = [_read(body) for body in backend.list(RL_TRAINING_RUN)]
    while more := [run for run in runs if run.name not in touched and run.learned(digests, made)]:
        touched |= {run.name for run in more}
        for artifact in (each for run in more for each in run.made(digests)):
            made.add(artifact.uri, artifact.digest)
    for name in sorted(touched):
        backend.patch(RL_TRAINING_RUN, name, {"metadata": {"annotations": {ANNOTATION_ERASED: report.id}}})
    return report.model_copy(
        update={
            "runs": tuple(sorted(touched)),
            "versions": _mark_versions(backend, policies, made),
            "datasets": _refresh(backend, digests, report.id),
        }
    )


def _read(body: Mapping[str, Any]) -> _Run:
    """Read a run; its spec as it stands, since an older program may have written it."""
    meta, status = body["metadata"], RLTrainingRunStatus.model_validate(body.get("status", {}))
    if (fixed := status.resolved) is None:
        return _Run(meta["name"], status, ())
    taken = [*_named(body.get("spec", {}))]
    if fixed.start is not None:
        taken.append((fixed.start.uri, fixed.start.digest))
    own = f"{fixed.store_uri.rstrip('/')}/{meta['namespace']}/"
    return _Run(meta["name"], status, [(_absolute(uri, own), digest) for uri, digest in taken])


def _named(spec: Any) -> Iterator[tuple[str, str]]:
    """Yield URI and digest of all that a spec names by both, wherever it does."""
    if isinstance(spec, dict):
        if isinstance(spec.get("uri"), str) and isinstance(spec.get("sha256"), str):
            yield spec["uri"], spec["sha256"]
        for part in spec.values():
            yield from _named(part)
    elif isinstance(spec, list):
        for part in spec:
            yield from _named(part)


def _absolute(uri: str, own: str) -> str:
    """Return a URI as status shows it; `own` is the namespace's folder, below which store:// lies."""
    return own + uri.removeprefix("store://").lstrip("/") if uri.startswith("store://") else uri


def _status_of(policy: Mapping[str, Any]) -> RLPolicyStatus:
    return RLPolicyStatus.model_validate(policy.get("status", {}))


def _mark_versions(backend: Marked, policies: Sequence[Mapping[str, Any]], made: _Made) -> Sequence[str]:
    found = []
    for body in policies:
        name = body["metadata"]["name"]
        theirs = [each.version for each in _status_of(body).versions if made.has(each.uri, each.digest)]
        if theirs:
            before = body["metadata"].get("annotations", {}).get(ANNOTATION_ERASED, "")
            known = {int(part) for part in before.split(",") if part.isdecimal()}
            text = ",".join(map(str, sorted(known | set(theirs))))
            backend.patch(RL_POLICY, name, {"metadata": {"annotations": {ANNOTATION_ERASED: text}}})
        found += [f"{name}@{version}" for version in theirs]
    return tuple(found)


def _refresh(backend: Marked, digests: Collection[str], erasure: str) -> Sequence[str]:
    found = []
    for body in backend.list(FEEDBACK_DATASET):
        snapshot = FeedbackDatasetStatus.model_validate(body.get("status", {})).snapshot
        asked = body["metadata"].get("annotations", {}).get(ANNOTATION_REFRESH) == f"erasure-{erasure}"
        if asked or (snapshot is not None and snapshot.digest in digests):
            name = body["metadata"]["name"]
            patch = {"metadata": {"annotations": {ANNOTATION_REFRESH: f"erasure-{erasure}"}}}
            backend.patch(FEEDBACK_DATASET, name, patch)
            found.append(name)
    return tuple(found)
