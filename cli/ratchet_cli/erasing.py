"""An erasure from its record to its proof: the removal, and the marks on what had learned from the person.

Decides which runs, versions and data sets are touched, and that the proof is written last: whatever dies before is
done again. Never asks who may erase. Called by the verb, by `ratchet up` and by the cluster's eraser.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from ratchet_api.erasure import ErasureReport
from ratchet_api.feedback_dataset import FeedbackDatasetStatus
from ratchet_api.kinds import FEEDBACK_DATASET, RL_POLICY, RL_TRAINING_RUN, Kind
from ratchet_api.names import ANNOTATION_ERASED, ANNOTATION_REFRESH
from ratchet_api.policy import RLPolicyStatus
from ratchet_api.training_run import RLTrainingRunStatus
from ratchet_jobs.data import erasure
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
    report = mark(backend, report) if backend is not None else report
    write_report(store, namespace, report)
    return report


def finish_pending(
    store: Store, namespace: str, backend: Marked | None, *, now: Callable[[], datetime]
) -> Sequence[ErasureReport]:
    """Carry out every erasure that was asked for and has no proof yet; arguments as for `finish`."""
    records = erasure.pending(store, namespace)
    return [finish(store, namespace, record, backend, now=now()) for record in records]


def mark(backend: Marked, report: ErasureReport) -> ErasureReport:
    """Mark runs and policies that had learned from the person, ask data sets for new snapshots, and list all three.

    A run that started from such a run's policy had learned from the person, too.
    """
    digests = {each.digest for each in report.snapshots}
    runs = {
        body["metadata"]["name"]: RLTrainingRunStatus.model_validate(body.get("status", {}))
        for body in backend.list(RL_TRAINING_RUN)
    }
    touched: set[str] = set()
    made: set[str] = set()
    while True:
        more = {
            name
            for name, status in runs.items()
            if status.resolved is not None
            and (
                status.resolved.dataset_digest in digests
                or (status.resolved.start is not None and status.resolved.start.digest in made)
            )
        } - touched
        if not more:
            break
        touched |= more
        made |= {found.digest for name in more if (found := runs[name].artifact) is not None}
    for name in sorted(touched):
        backend.patch(RL_TRAINING_RUN, name, {"metadata": {"annotations": {ANNOTATION_ERASED: report.id}}})
    return report.model_copy(
        update={
            "runs": tuple(sorted(touched)),
            "versions": _mark_versions(backend, digests, made),
            "datasets": _refresh(backend, digests, report.id),
        }
    )


def _mark_versions(backend: Marked, digests: Collection[str], made: Collection[str]) -> Sequence[str]:
    found = []
    for body in backend.list(RL_POLICY):
        name = body["metadata"]["name"]
        status = RLPolicyStatus.model_validate(body.get("status", {}))
        theirs = [each.version for each in status.versions if each.dataset_digest in digests or each.digest in made]
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
