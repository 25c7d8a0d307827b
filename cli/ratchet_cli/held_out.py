"""Rows with true labels, and what a version's answers to them are worth, by the evaluate stage's own functions.

Decides which rows are meant: those of a file, or a split of the snapshot that the version was trained on. On that
snapshot the stage's batches are made again (validation and test in one pass), so that its numbers come out to the last
digit. Temperature and threshold are the policy's own; nothing is fitted here. Used by evaluate and compare.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ratchet_api.feedback_dataset import DEMONSTRATIONS, SplitName
from ratchet_api.names import snapshot_prefix
from ratchet_api.stage import DatasetRef
from ratchet_api.tasks import UNSAID, Task, class_name, tasks_of
from ratchet_cli.errors import CliError, UsageProblem
from ratchet_cli.texts import Source, read_source
from ratchet_cli.trained import PATIENCE_SECONDS, explained, logits_of, opened
from ratchet_cli.versions import Version

if TYPE_CHECKING:
    from ratchet_jobs.metrics.classification import Ints
    from ratchet_jobs.metrics.measuring import Measured

SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")
SPLIT_HELP = "train, validation or test of its snapshot, by default test; with --data, rows of this split only."
Split = Annotated[str | None, typer.Option("--split", help=SPLIT_HELP)]
TIMED_BATCH_SIZES = (1, 32)
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Rows to be measured on.

    Attributes:
        what: the rows in words.
        texts: all texts that go through the policy together.
        first: the texts from here on are measured; those before it only fill the batches as the stage does.
        labels: the true class of each measured text in each task, as the label map calls it; None = not known.
        named: the tasks that the rows name; None = one without a name.
        tasks: every task with its classes, in the order of the snapshot's label map; None = as the policy has them.
    """

    what: str
    texts: list[str]
    first: int
    labels: list[tuple[str | None, ...]]
    named: tuple[str, ...] | None
    tasks: tuple[Task, ...] | None


@dataclass(frozen=True, slots=True)
class Result:
    """What was measured of one version; `truth` (N, T) and `measured.classes` hold places in `order`."""

    measured: Measured
    truth: Ints
    tasks: tuple[Task, ...]
    timings: dict[str, float]

    @property
    def order(self) -> tuple[str, ...]:
        """Every class."""
        return tuple(label for task in self.tasks for label in task.labels)


def rows_of(version: Version, source: Source | None, split: str | None) -> HeldOut:
    """Return the rows of a file, or of a split of the version's own snapshot.

    Raises:
        UsageProblem: there is no such split.
        CliError: the rows cannot be read, or there are none.
    """
    if source is not None:
        rows = read_source(source)
        named = f" where {source.split_column} is {source.split}" if source.split is not None else ""
        tasks = tuple(source.labels or {"": ""})
        labels = [tuple(map(_class_name, tasks, said)) for said in rows.labels]
        return HeldOut(f"{source.path}{named}", rows.texts, 0, labels, tasks if tasks[0] else None, None)
    wanted = split or "test"
    if wanted not in SPLITS:
        raise UsageProblem(f"--split {wanted!r} is none of the snapshot's; use one of {', '.join(SPLITS)}")
    if version.snapshot is None:
        raise CliError(
            f"{version.title}: does not say which snapshot it was trained on; name labelled rows by --data FILE"
        )
    with explained(version.title), tempfile.TemporaryDirectory(prefix="ratchet-") as scratch:
        return _of_snapshot(version, version.snapshot, wanted, Path(scratch) / "snapshot")


def _of_snapshot(version: Version, digest: str, split: SplitName, into: Path) -> HeldOut:
    from ratchet_jobs.data.snapshots import open_snapshot
    from ratchet_jobs.models.examples import read_examples
    from ratchet_jobs.runtime.store import open_store

    store = open_store(version.store, patience_seconds=PATIENCE_SECONDS)
    dataset = DatasetRef(digest=digest, prefix=snapshot_prefix(version.namespace, digest))
    snapshot = open_snapshot(store, dataset, into=into)
    if snapshot.manifest.type == DEMONSTRATIONS:
        raise CliError(
            f"{version.title}: is a generator, and this measures classifiers; `ratchet report` shows its numbers, "
            "`ratchet chat` asks it"
        )
    rows = read_examples(snapshot, split)
    if not rows.texts:
        raise CliError(f"{version.title}: the {split} split of its snapshot has no rows; name others by --data FILE")
    before = read_examples(snapshot, "validation").texts if split == "test" else []
    what = f"the {split} split of snapshot {digest[:12]}"
    flat = [*snapshot.labels, None]  # UNSAID = -1 is the last place
    labels = [tuple(flat[place] for place in said) for said in rows.labels]
    return HeldOut(what, [*before, *rows.texts], len(before), labels, snapshot.manifest.task_names, snapshot.tasks)


def _class_name(task: str, label: str | None) -> str | None:
    return None if label is None else class_name(task, label)


def measure_version(
    version: Version,
    rows: HeldOut,
    *,
    base: Path | None,
    bins: int | None = None,
    tasks: Sequence[Task] | None = None,
    timed: bool = True,
) -> Result:
    """Ask a version for every row and measure its answers.

    Args:
        version: what is measured.
        rows: on which rows.
        base: folder of the base model; None = as the policy names it.
        bins: of the expected calibration error; None = as the version's run had it.
        tasks: the tasks and classes that it must know, in the order of the result's numbers; None = as the rows or the
            policy have them.
        timed: whether to measure milliseconds per text, too.

    Raises:
        CliError: the policy cannot be read, or knows other classes than the rows have.
    """
    from_rows = rows.tasks if tasks is None else tuple(tasks)
    with opened(version, base=base) as policy:
        import numpy as np

        from ratchet_jobs.metrics.measuring import Answers, in_order_of
        from ratchet_jobs.metrics.tasks import measure_fitted_tasks
        from ratchet_jobs.models.timing import ms_per_sample

        card = policy.card
        _check_tasks(version.title, rows, known=card.task_names)
        asked = from_rows or _in_order([head.task for head in card.heads], rows.named)
        wanted = tuple(label for task in asked for label in task.labels)
        _check_labels(version.title, rows, known=card.labels, wanted=wanted)
        logits = logits_of(policy, rows.texts, batch_size=version.batch_size, title=version.title)[rows.first :]
        number_of: dict[str | None, int] = {name: number for number, name in enumerate(wanted)} | {None: UNSAID}
        truth = np.array([[number_of[label] for label in said] for said in rows.labels], dtype=np.int64)
        measured = measure_fitted_tasks(
            Answers(in_order_of(logits, given=card.labels, wanted=wanted), truth),
            fits={head.task.name: head.fit for head in card.heads},
            bins=bins or version.ece_bins,
            tasks=asked,
        )
        sizes, texts = TIMED_BATCH_SIZES if timed else (), rows.texts[rows.first :]
        timings = {f"ms_per_sample_{size}": ms_per_sample(policy, texts, batch_size=size) for size in sizes}
    return Result(measured, truth, asked, timings)


def _in_order(tasks: Sequence[Task], names: tuple[str, ...] | None) -> tuple[Task, ...]:
    """Tasks and their classes in the order of the names."""
    labels = {task.name: task.labels for task in tasks}
    return tasks_of([label for name in names or ("",) for label in labels[name]], names)


def _check_tasks(title: str, rows: HeldOut, *, known: Sequence[str] | None) -> None:
    if set(rows.named or ()) != set(known or ()):
        one = "one task without a name"
        has = f"the tasks {_named(list(known))}" if known else one
        rows_have = f"the tasks {_named(list(rows.named))}" if rows.named else one
        remedy = "name the column of each" if known else "name one column"
        raise CliError(f"{title}: it has {has}, the rows of {rows.what} have {rows_have}; {remedy} by --label-column")
    for place, task in enumerate(rows.named or ()):
        if all(said[place] is None for said in rows.labels):
            raise CliError(f"{rows.what}: no row has a label of the task {task!r}; add rows, or correct its column")


def _check_labels(title: str, rows: HeldOut, *, known: Sequence[str], wanted: Sequence[str]) -> None:
    unknown = sorted({label for said in rows.labels for label in said if label is not None} - set(known))
    if unknown:
        there = ", ".join(map(repr, list(known)[:_SHOWN])) + (", …" if len(known) > _SHOWN else "")
        raise CliError(
            f"{rows.what}: {len(unknown)} of its labels are no classes of {title}: {_named(unknown)}; "
            f"it knows {len(known)}: {there}. Correct the labels, --label-column, or the version"
        )
    if odd := sorted(set(known) ^ set(wanted)):
        raise CliError(
            f"{title}: its {len(known)} classes are not the {len(wanted)} wanted, which differ in {_named(odd)}; "
            "take versions of one set of classes"
        )


def _named(labels: Sequence[str]) -> str:
    return ", ".join(map(repr, labels[:_SHOWN])) + (", …" if len(labels) > _SHOWN else "")
