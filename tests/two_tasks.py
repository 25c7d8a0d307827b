"""A dataset that asks two things of one text, with labels missing here and there, and a bench that trains on it.

Task `theme` is the class of `tiny_bert.reviews`, task `tone` is whether the word "never" stands in the text, so that
both can be learned by a mean over tokens. Of every six rows one has no theme and two have no tone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ratchet_api.names import snapshot_prefix
from ratchet_api.snapshot_summary import LabelCount, SnapshotCounts
from ratchet_api.stage import DatasetRef
from ratchet_jobs.data.snapshots import SPLITS, Manifest, content_digest, store_snapshot, write_split
from tests.tiny_bert import THEMES, reviews
from tests.workbench import NAMESPACE, Workbench

TASKS: Mapping[str, tuple[str, ...]] = {"theme": tuple(sorted(THEMES)), "tone": ("calm", "upset")}
LABELS = tuple(f"{task}/{label}" for task, labels in TASKS.items() for label in labels)
Row = tuple[str, dict[str, str]]


def tone_of(text: str) -> str:
    return "upset" if "never" in text.split() else "calm"


def rows_of(count: int, *, seed: int, noise: float = 0.0, whole: bool = False) -> list[Row]:
    """Make rows; `whole` = none lacks a label."""
    made: list[Row] = []
    for number, (text, theme) in enumerate(reviews(count, seed=seed, noise=noise)):
        labels = {"theme": theme, "tone": tone_of(text)}
        if not whole and number % 6 == 0:
            del labels["theme"]
        elif not whole and number % 3 == 1:
            del labels["tone"]
        made.append((text, labels))
    return made


def put_tasks(
    bench: Workbench,
    *,
    train: Sequence[Row],
    validation: Sequence[Row] = (),
    test: Sequence[Row] = (),
    tasks: Mapping[str, Sequence[str]] = TASKS,
) -> DatasetRef:
    """Store a snapshot of several tasks as the snapshot stage leaves it."""
    folder = bench.root / "tasks"
    folder.mkdir(exist_ok=True)
    names, files = tuple(tasks), {}
    for split, rows in zip(SPLITS, (train, validation, test), strict=True):
        records = [
            {"text": text, "component": place, "subject": None, "time": None}
            | {f"label/{name}": labels.get(name) for name in names}
            for place, (text, labels) in enumerate(rows)
        ]
        files[split] = write_split(records, folder / f"{split}.parquet", tasks=names)
    flat = tuple(f"{name}/{label}" for name, labels in tasks.items() for label in labels)
    digest = content_digest("classification", flat, files)
    manifest = Manifest(
        type="classification",
        digest=digest,
        files=files,
        labels=tuple(LabelCount(label=label) for label in flat),
        task_names=names,
        counts=SnapshotCounts(train=len(train), validation=len(validation), test=len(test)),
    )
    store_snapshot(bench.store, NAMESPACE, manifest, folder)
    return DatasetRef(digest=digest, prefix=snapshot_prefix(NAMESPACE, digest))


def two_task_bench(root: Path) -> Workbench:
    """A bench whose dataset has two tasks, with noise enough that no policy is perfect."""
    bench = Workbench(root, train=reviews(10, seed=0))
    bench.dataset = put_tasks(
        bench,
        train=rows_of(360, seed=0),
        validation=rows_of(120, seed=11, noise=0.2),
        test=rows_of(180, seed=12, noise=0.2),
    )
    return bench
