"""`ratchet demo`: real complaints, a real encoder, the support-router example, and a baseline beside the result.

Decides the order and what is printed; every part is the ordinary one: the manifests of examples/01-support-router go
through `ratchet run`. Run again, it does only what is not done yet.
"""

from __future__ import annotations

import copy
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.padding import Padding
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from ratchet_api.training_run import RLTrainingRunSpec, RLTrainingRunStatus
from ratchet_cli.demo.baseline import Baseline, cut_rows, train_baseline
from ratchet_cli.demo.carriers import COMPLAINTS, ENCODER, Asset, fetch, is_cached
from ratchet_cli.demo.dataset import Rows, choose_rows, write_splits
from ratchet_cli.errors import CliError
from ratchet_cli.home import DEFAULT_NAMESPACE, cache_dir, find_home, log_level
from ratchet_cli.manifests import Manifest, check, load
from ratchet_cli.options import HomeDir, LogLevel, Store
from ratchet_cli.results import local_path, print_results
from ratchet_cli.run_verb import run_manifests
from ratchet_cli.screen import duration, metric, out, say

EXAMPLE = "01-support-router"
MINIMUM_FREE_BYTES = 1_000_000_000


def demo(
    full: Annotated[bool, typer.Option("--full", help="Train on all rows instead of 4,000.")] = False,
    home: HomeDir = None,
    store: Store = None,
    level: LogLevel = None,
    plain: Annotated[bool, typer.Option("--plain", help="Lines instead of a live screen.")] = False,
) -> None:
    """Train a support router on real complaints, from nothing, in a few minutes."""
    place = find_home(home, store)
    target = local_path(place.store_uri)
    if target is None:
        raise CliError(f"the demo keeps its data in a directory, not in {place.store_uri}; unset RATCHET_STORE")
    times = _set_up_time(os.environ)
    with _timed(times, "download"):
        folders = {asset.name: _fetch(asset) for asset in (COMPLAINTS, ENCODER)}
    with _timed(times, "prepare data"):
        _check_room(place.path)
        rows = choose_rows(folders[COMPLAINTS.name], full=full)
        write_splits(rows, target / DEFAULT_NAMESPACE / ("support-router-full" if full else "support-router"))
        _copy_model(folders[ENCODER.name], target / DEFAULT_NAMESPACE / "models" / ENCODER.name)
    train, validation, test = len(rows.train), len(rows.validation), len(rows.test)
    say(f"data   {train:,} rows to train on, {validation:,} to calibrate, {test:,} to test")
    manifests = example_manifests(full=full)
    with _timed(times, "run"):
        again = "make demo" if "MAKELEVEL" in os.environ else "ratchet demo" + (" --full" if full else "")
        bodies = run_manifests(manifests, place, namespace=None, level=log_level(level), plain=plain, again=again)
    run = next(body for body in bodies if body["kind"] == "RLTrainingRun")
    max_tokens = RLTrainingRunSpec.model_validate(run["spec"]).stages.supervised.max_tokens
    with _timed(times, "baselines"), out.status("training the baselines: tf-idf and a linear SVM on the same rows"):
        cut = train_baseline(cut_rows(rows, model=folders[ENCODER.name], max_tokens=max_tokens))
        whole = train_baseline(rows)
    well = print_results(bodies, place)
    out.print()
    _print_comparison(run, {f"the same {max_tokens} tokens": cut, "whole texts": whole}, rows)
    _print_times(times, run)
    if not well:
        raise typer.Exit(1)


def example_folder() -> Path:
    """Return the folder with the example's manifests: beside this module in a wheel, else in the repository.

    Raises:
        CliError: neither is there.
    """
    here = Path(__file__).resolve()
    for folder in (here.parent / "demo" / "manifests", here.parents[2] / "examples" / EXAMPLE):
        if (folder / "run.yaml").is_file():
            return folder
    raise CliError(f"the manifests of examples/{EXAMPLE} are not installed; run the demo from a checkout")


def example_manifests(*, full: bool) -> list[Manifest]:
    """Return the example's manifests; `full` names dataset and run apart and publishes to the same policy."""
    manifests = load([str(example_folder())])
    return [_for_all_rows(each) if full and each.kind.kind != "RLPolicy" else each for each in manifests]


def _for_all_rows(manifest: Manifest) -> Manifest:
    body = copy.deepcopy(manifest.body)
    body["metadata"]["name"] += "-full"
    if "datasetRef" in body["spec"]:
        body["spec"]["datasetRef"]["name"] += "-full"
    for each in body["spec"].get("source", {}).get("objects", []):
        each["uri"] = each["uri"].replace("store://support-router/", "store://support-router-full/")
    return check(manifest.source, body)


def _fetch(asset: Asset) -> Path:
    cache = cache_dir()
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    if is_cached(asset, cache):
        return fetch(asset, cache, advance=lambda done, total: None)
    with Progress(*columns, console=out, transient=True) as progress:
        task = progress.add_task(f"getting {asset.title}", total=asset.carriers[0].size)
        folder = fetch(asset, cache, advance=lambda done, total: progress.update(task, completed=done, total=total))
    say(f"got    {asset.title}")
    return folder


def _copy_model(source: Path, target: Path) -> None:
    """Put the encoder into the store, unless it is there."""
    target.mkdir(parents=True, exist_ok=True)
    for file in ENCODER.files:
        there = target / file.name
        if there.exists() and there.stat().st_size == file.size:
            continue
        partial = target / f".{file.name}.new"
        shutil.copyfile(source / file.name, partial)
        partial.replace(there)


def _check_room(path: Path) -> None:
    existing = next(p for p in (path, *path.parents) if p.exists())
    free = shutil.disk_usage(existing).free
    if free < MINIMUM_FREE_BYTES:
        need = f"{MINIMUM_FREE_BYTES / 1e6:,.0f} MB"
        raise CliError(f"{path}: {free / 1e6:,.0f} MB free, the demo needs {need}; free some or set --home")


def _set_up_time(environ: Mapping[str, str]) -> dict[str, float]:
    """Begin the time table with what `make demo` spent on the environment before it called us."""
    seconds = environ.get("RATCHET_SETUP_SECONDS", "")
    return {"set-up": float(seconds)} if seconds.isdecimal() else {}


@contextmanager
def _timed(times: dict[str, float], name: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    times[name] = time.monotonic() - began


def _print_comparison(run: Mapping[str, Any], baselines: Mapping[str, Baseline], rows: Rows) -> None:
    status = RLTrainingRunStatus.model_validate(run.get("status", {}))
    if not status.metrics:
        return
    table = Table(box=None, pad_edge=False, header_style="faint", padding=(0, 3, 0, 0))
    table.add_column(f"same {len(rows.train):,} rows, same {len(rows.test):,} test rows")
    table.add_column("accuracy", justify="right")
    table.add_column("macro F1", justify="right")
    ours = {name: status.metrics.get(name, float("nan")) for name in ("accuracy", "macro_f1")}
    table.add_row("ratchet, LoRA on the encoder", *(Text(metric(n, v), style="number") for n, v in ours.items()))
    for reads, theirs in baselines.items():
        figures = (metric("accuracy", theirs.accuracy), metric("macro_f1", theirs.macro_f1))
        table.add_row(f"tf-idf + linear SVM, {reads}", *figures)
    out.print(Padding(table, (0, 0, 1, 2)))
    for sentence in where_the_baseline_wins(ours, baselines):
        out.print(Padding(sentence, (0, 0, 1, 2)))


def where_the_baseline_wins(ours: Mapping[str, float], baselines: Mapping[str, Baseline]) -> list[str]:
    """Say each number that a baseline has higher than we: a demo that hides it would help nobody choose."""
    found = []
    for reads, theirs in baselines.items():
        ahead = {"accuracy": theirs.accuracy - ours["accuracy"], "macro F1": theirs.macro_f1 - ours["macro_f1"]}
        if lost := [f"{name} by {by:.3f}" for name, by in ahead.items() if by >= 0.0005]:
            found.append(f"The SVM on {reads} is ahead in {' and '.join(lost)}.")
    return found


def _print_times(times: Mapping[str, float], run: Mapping[str, Any]) -> None:
    table = Table(box=None, pad_edge=False, header_style="faint", padding=(0, 3, 0, 0))
    table.add_column("time")
    table.add_column("", justify="right")
    for name, seconds in times.items():
        table.add_row(name, duration(seconds) if seconds >= 1 else "<1s")
        if name == "run":
            for stage, spent in _stage_times(run):
                table.add_row(f"  {stage}", duration(spent), style="faint")
    table.add_row("in all", duration(sum(times.values())), style="bold")
    out.print(Padding(table, (0, 0, 0, 2)))


def _stage_times(run: Mapping[str, Any]) -> Sequence[tuple[str, float]]:
    status = RLTrainingRunStatus.model_validate(run.get("status", {}))
    return [
        (stage.name, (stage.finished - stage.attempt.started).total_seconds())
        for stage in status.stages
        if stage.finished is not None and stage.attempt is not None and stage.attempt.started is not None
    ]
