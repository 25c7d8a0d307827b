"""`ratchet evaluate`: measure any trained version again, on its own held-out rows or on others.

Decides how the numbers of classifiers look; what they are is decided by the evaluate stage's functions. Generators have
their own (`generated`, `generated_views`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ratchet_api.training_run import Evaluation
from ratchet_cli.errors import UsageProblem
from ratchet_cli.generated import (
    MaxNewTokens,
    Prompts,
    RewardsOf,
    asked_of,
    is_generator,
    measure_said,
    refuse_generator_options,
    rewarding_by,
    rows_shown,
    shown_source,
)
from ratchet_cli.generated_views import evaluated, print_evaluated, write_json
from ratchet_cli.held_out import HeldOut, Result, Split, measure_version, rows_of
from ratchet_cli.options import Context, HomeDir, Local, Namespace
from ratchet_cli.results import worst_table
from ratchet_cli.screen import metric, out, say
from ratchet_cli.texts import Data, Form, LabelColumn, Source, SplitColumn, TextColumn, label_columns
from ratchet_cli.versions import VERSION_HELP, BaseFolder, Place, Version, find_version

FORMS = ("table", "json")
WORST_CLASSES = 10
SHOWN = (
    "accuracy",
    "macro_f1",
    "ece",
    "brier",
    "loss",
    "coverage",
    "selective_accuracy",
    "threshold",
    "temperature",
    "ms_per_sample_1",
    "ms_per_sample_32",
    "n_test",
)
SHOWN_OF_TASKS = ("accuracy", "macro_f1", "ece", "coverage", "threshold", "temperature", "n_test")
Bins = Annotated[
    int | None, typer.Option("--ece-bins", min=2, max=100, help="Bins of the calibration error. If omitted, the run's.")
]


def evaluate(
    version: Annotated[str, typer.Argument(help=VERSION_HELP)],
    data: Data = None,
    split: Split = None,
    column: TextColumn = "text",
    label_column: LabelColumn = None,
    split_column: SplitColumn = "split",
    form: Form = None,
    ece_bins: Bins = None,
    output: Annotated[str, typer.Option("-o", "--output", help="table or json.")] = "table",
    prompts: Prompts = None,
    max_new_tokens: MaxNewTokens = None,
    rewards_of: RewardsOf = None,
    base: BaseFolder = None,
    namespace: Namespace = None, local: Local = None, context: Context = None, home: HomeDir = None,
) -> None:  # fmt: skip
    """Measure a trained version: on its run's test split, or on the rows of a file."""
    if output not in FORMS:
        raise UsageProblem(f"--output {output!r} is unknown; use one of {', '.join(FORMS)}")
    place = Place(namespace, local, context, home)
    found = find_version(version, place)
    if is_generator(found):
        if ece_bins is not None:
            raise UsageProblem("--ece-bins is for classifiers and this is a generator; leave it out")
        shown = None if data is None else shown_source(data, form, column, label_column, split, split_column)
        asked = asked_of(found, prompts=prompts, max_new_tokens=max_new_tokens)
        judge = rewarding_by(rewards_of, found, place)
        pairs = rows_shown(found, shown, split)
        said = measure_said([found], pairs, asked=asked, base=base, judge=judge)[0]
        told = evaluated(found, pairs, said, rewards_of=None if judge is None else judge[0].run)
        (write_json if output == "json" else print_evaluated)(told)
        return
    refuse_generator_options(prompts, max_new_tokens, rewards_of)
    source = None if data is None else Source(data, form, column, label_columns(label_column), split, split_column)
    rows = rows_of(found, source, split)
    result = measure_version(found, rows, base=base, bins=ece_bins)
    document = report_of(found, rows, result)
    if output == "json":
        write_json(document)
        return
    _print_tables(document)


def report_of(version: Version, rows: HeldOut, result: Result) -> dict[str, Any]:
    """Return everything that was measured, the classes from the worst to the best."""
    report = {name: value for name, value in result.measured.report.items() if value is not None}
    classes = sorted(report["per_class"], key=lambda each: float(each["f1"]))
    metrics = result.measured.judged(Evaluation(), result.order) | result.timings
    return {"version": version.title, "rows": rows.what} | report | {"metrics": metrics, "per_class": classes}


def _print_tables(document: dict[str, Any]) -> None:
    metrics = document["metrics"]
    say(f"{document['version']} on {document['rows']}")
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 3, 0, 0))
    table.add_column()
    table.add_column(justify="right")
    for name in SHOWN:
        if name in metrics:
            table.add_row(name, Text(metric(name, metrics[name]), style="number"))
    out.print(Padding(table, (1, 0, 0, 2)))
    if tasks := document.get("tasks"):
        out.print(Padding(_tasks_table(tasks), (1, 0, 0, 2)))
    # a class without rows here was not measured: its F1 of 0 says nothing
    seen = [each for each in document["per_class"] if each["support"]]
    out.print(Padding(worst_table(seen[:WORST_CLASSES]), (1, 0, 0, 2)))


def _tasks_table(tasks: Mapping[str, Mapping[str, Any]]) -> Table:
    """Show the numbers of each of several tasks; those above are their means."""
    table = Table(box=None, pad_edge=False, header_style="faint", padding=(0, 3, 0, 0))
    table.add_column("task")
    for name in SHOWN_OF_TASKS:
        table.add_column(name, justify="right")
    for task, report in tasks.items():
        numbers = (Text(metric(name, report["metrics"][name]), style="number") for name in SHOWN_OF_TASKS)
        table.add_row(Text(task), *numbers)
    return table
