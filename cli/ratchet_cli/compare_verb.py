"""`ratchet compare`: is one trained version better than another, on the same rows?

Decides the verdict of classifiers from the intervals of the differences (`judge`) and how both versions look side by
side; generators have their own (`generated_views`). The intervals, McNemar's test and what "not worse" means are those
of the evaluate stage.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ratchet_api.comparison import Comparison as Rules
from ratchet_api.training_run import Answers
from ratchet_cli.errors import CliError, UsageProblem
from ratchet_cli.evaluate_verb import FORMS
from ratchet_cli.generated import (
    MaxNewTokens,
    Prompts,
    RewardsOf,
    Shown,
    asked_of,
    is_generator,
    measure_said,
    refuse_generator_options,
    rewarding_by,
    rows_shown,
    shown_source,
)
from ratchet_cli.generated_views import compared, print_compared, write_json
from ratchet_cli.held_out import HeldOut, Result, Split, measure_version, rows_of
from ratchet_cli.options import Context, HomeDir, Local, Namespace
from ratchet_cli.report_verb import local_report
from ratchet_cli.screen import err, metric, out, say
from ratchet_cli.texts import Data, Form, LabelColumn, Source, SplitColumn, TextColumn, label_columns
from ratchet_cli.versions import VERSION_HELP, BaseFolder, Place, Version, find_version

if TYPE_CHECKING:
    from ratchet_jobs.metrics.comparison import Comparison, Difference

Verdict = Literal["better", "not worse", "worse", "undecided"]
SEED = 0
"""Of the resamples: the same versions and rows give the same intervals."""
COMPARED = ("accuracy", "macro_f1")
SHOWN = (*COMPARED, "ece", "brier", "loss", "coverage", "selective_accuracy")
CHANGED_CLASSES = 10
PLOTS = (".png", ".svg", ".html")
_DEFAULTS = Rules()
Margin = Annotated[float, typer.Option(min=0, max=1, help="Largest loss that is tolerated.")]
Confidence = Annotated[float, typer.Option(min=0.5, max=0.999, help="Of the intervals of the differences.")]
Resamples = Annotated[int, typer.Option(min=100, max=100_000, help="Of the paired bootstrap.")]
Plot = Annotated[
    Path | None,
    typer.Option("--plot", help="Also draw it into this file: .png, .svg, or .html with the tables.", metavar="FILE"),
]


def compare(
    a: Annotated[str, typer.Argument(help=f"What is held against: {VERSION_HELP}", metavar="A")],
    b: Annotated[str, typer.Argument(help="What is judged; written likewise.", metavar="B")],
    data: Data = None,
    split: Split = None,
    column: TextColumn = "text",
    label_column: LabelColumn = None,
    split_column: SplitColumn = "split",
    form: Form = None,
    margin: Margin = _DEFAULTS.margin,
    confidence: Confidence = _DEFAULTS.confidence,
    resamples: Resamples = _DEFAULTS.resamples,
    output: Annotated[str, typer.Option("-o", "--output", help="table or json.")] = "table",
    plot: Plot = None,
    prompts: Prompts = None,
    max_new_tokens: MaxNewTokens = None,
    rewards_of: RewardsOf = None,
    base: BaseFolder = None,
    namespace: Namespace = None, local: Local = None, context: Context = None, home: HomeDir = None,
) -> None:  # fmt: skip
    """Hold version B against version A, on the test split of B's run or on the rows of a file."""
    if output not in FORMS:
        raise UsageProblem(f"--output {output!r} is unknown; use one of {', '.join(FORMS)}")
    place = Place(namespace, local, context, home)
    first, second = find_version(a, place), find_version(b, place)
    rules = Rules(margin=margin, confidence=confidence, resamples=resamples)
    kinds = [is_generator(each) for each in (first, second)]
    if kinds[0] != kinds[1]:
        raise CliError(f"{first.title} and {second.title}: one is a generator, the other is none; take two of a kind")
    _check_plot(plot, generators=kinds[0])
    if kinds[0]:
        shown = None if data is None else shown_source(data, form, column, label_column, split, split_column)
        asked = asked_of(second, prompts=prompts, max_new_tokens=max_new_tokens)
        told = _generators((first, second), rows_shown(second, shown, split), rules, asked, rewards_of, place, base)
        (write_json if output == "json" else print_compared)(told)
        return
    refuse_generator_options(prompts, max_new_tokens, rewards_of)
    source = None if data is None else Source(data, form, column, label_columns(label_column), split, split_column)
    rows = rows_of(second, source, split)
    if source is None and first.snapshot != second.snapshot:
        _warn_of_snapshots(first, second)
    bins = second.ece_bins  # one number of bins for both, or their ECE could not be compared
    one = measure_version(first, rows, base=base, bins=bins, timed=False)
    other = measure_version(second, rows, base=base, bins=bins, tasks=one.tasks, timed=False)
    document = report_of((first, second), rows, (one, other), rules)
    if plot is not None:
        _draw(document, plot)
    if output == "json":
        write_json(document)
    else:
        _print_tables(document, reports={each.title: page for each in (first, second) if (page := local_report(each))})


def _generators(
    versions: tuple[Version, Version],
    rows: Shown,
    rules: Rules,
    asked: Answers,
    rewards_of: str | None,
    place: Place,
    base: Path | None,
) -> dict[str, Any]:
    """Hold a generator against another; by the rewards of B's run, or of A's where B's has none."""
    first, second = versions
    judge = rewarding_by(rewards_of, second, place) or rewarding_by(None, first, place)
    if rows.of is not None and first.snapshot != rows.of:
        _warn_of_snapshots(first, second)
    one, other = measure_said(versions, rows, asked=asked, base=base, judge=judge)
    return compared(versions, rows, (one, other), rules, rewards_of=None if judge is None else judge[0].run)


def _check_plot(path: Path | None, *, generators: bool) -> None:
    """Refuse a file that could not be written before minutes are spent on what it shall show."""
    if path is None:
        return
    if generators:
        raise UsageProblem("--plot is for classifiers and these are generators; -o json has every number")
    if path.suffix.lower() not in PLOTS:
        raise UsageProblem(f"--plot {path}: a file must end in one of {', '.join(PLOTS)}")
    if path.is_dir():
        raise UsageProblem(f"--plot {path}: that is a folder; name a file in it")
    if not path.parent.is_dir():
        raise UsageProblem(f"--plot {path}: there is no folder {path.parent}; make it first")


def _draw(document: Mapping[str, Any], path: Path) -> None:
    from ratchet_jobs.report.compared import write_comparison

    try:
        write_comparison(document, path)
    except OSError as error:
        raise CliError(f"--plot {path}: {error.strerror or error}; name another file") from error
    err.print(escape(f"drawn into {path}"), style="faint", soft_wrap=True)


def _warn_of_snapshots(first: Version, second: Version) -> None:
    """Say that A may have been trained on some of these rows, which would flatter it."""
    note = (
        f"{first.title} was trained on another snapshot than {second.title}: it may have seen some of these rows; "
        "--data FILE compares on rows that are new to both"
    )
    err.print(escape(note), style="idle", soft_wrap=True)


def judge(accuracy: Difference, macro_f1: Difference, *, margin: float) -> Verdict:
    """Return whether B is better than A, not worse, worse, or whether these rows cannot tell.

    Both intervals must lie above the tolerated loss for B to be better or not worse, and one of them above 0 for
    better; B is worse if one of them lies below 0 as a whole and the loss is not tolerated.
    """
    both = (accuracy, macro_f1)
    if all(each.not_worse(margin) for each in both):
        return "better" if any(each.low > 0 for each in both) else "not worse"
    return "worse" if any(each.high < 0 for each in both) else "undecided"


def report_of(
    versions: tuple[Version, Version], rows: HeldOut, results: tuple[Result, Result], rules: Rules
) -> dict[str, Any]:
    """Return everything that two versions' answers to the same rows say about each other."""
    from ratchet_jobs.metrics.comparison import compare as compare_answers

    one, other = results
    found = compare_answers(
        one.truth,
        one.measured.classes,
        other.measured.classes,
        classes=len(one.order),
        tasks=one.tasks,
        slices=tuple(range(len(one.order))),
        confidence=rules.confidence,
        resamples=rules.resamples,
        seed=SEED,
    )
    verdict = judge(found.accuracy, found.macro_f1, margin=rules.margin)
    a, b = one.measured.metrics, other.measured.metrics
    differences: dict[str, dict[str, float]] = {
        name: {"a": a[name], "b": b[name], "difference": b[name] - a[name]} for name in SHOWN
    }
    for name, row in zip(COMPARED, (found.accuracy, found.macro_f1), strict=True):
        differences[name] |= {"low": row.low, "high": row.high}
    return {
        "a": versions[0].title,
        "b": versions[1].title,
        "rows": rows.what,
        "n": len(one.truth),
        "verdict": verdict,
        "sentence": _sentence(versions, verdict, found, rules),
        "rules": {"margin": rules.margin, "confidence": rules.confidence, "resamples": rules.resamples, "seed": SEED},
        "differences": differences,
        "mcnemar": found.mcnemar._asdict(),
        "per_class": _class_rows(results, found),
    }


def _class_rows(results: tuple[Result, Result], found: Comparison) -> list[dict[str, Any]]:
    """Classes with rows here, the most changed first."""
    one, other = results
    rows = []
    for place, label in enumerate(one.order):
        accuracy = found.slices[place]
        if accuracy.low != accuracy.low:  # no row is of this class: nothing was measured
            continue
        a, b = float(one.measured.f1[place]), float(other.measured.f1[place])
        rows.append(
            {
                "label": label,
                "rows": int((one.truth == place).sum()),
                "f1": {"a": a, "b": b, "difference": b - a},
                "accuracy": {
                    "a": accuracy.baseline,
                    "b": accuracy.candidate,
                    "difference": accuracy.difference,
                    "low": accuracy.low,
                    "high": accuracy.high,
                },
            }
        )
    return sorted(rows, key=lambda row: -abs(row["f1"]["difference"]))


def _sentence(versions: tuple[Version, Version], verdict: Verdict, found: Comparison, rules: Rules) -> str:
    a, b = (each.title for each in versions)
    words = {
        "better": f"{b} is better than {a}",
        "not worse": f"{b} is not worse than {a}",
        "worse": f"{b} is worse than {a}",
        "undecided": f"undecided: these rows cannot tell {b} from {a}",
    }[verdict]
    parts = [
        f"{name} {row.candidate:.4f} against {row.baseline:.4f}, difference {row.difference:+.4f} "
        f"({row.low:+.4f} to {row.high:+.4f})"
        for name, row in zip(COMPARED, (found.accuracy, found.macro_f1), strict=True)
    ]
    tolerated = f", a loss of {rules.margin:g} being tolerated" if rules.margin else ""
    return f"{words}{tolerated}: {'; '.join(parts)}; McNemar p {found.mcnemar.p_mid:.3g}"


def _print_tables(document: dict[str, Any], *, reports: Mapping[str, Path]) -> None:
    say(f"{document['n']:,} rows: {document['rows']}")
    table = _table("", document["a"], document["b"], "difference", f"{document['rules']['confidence']:.1%} interval")
    for name in SHOWN:
        row = document["differences"][name]
        interval = f"{row['low']:+.4f} to {row['high']:+.4f}" if "low" in row else ""
        numbers = (Text(metric(name, row[side]), style="number") for side in ("a", "b"))
        table.add_row(name, *numbers, f"{row['difference']:+.4f}", interval)
    test = document["mcnemar"]
    table.add_row("right alone", str(test["only_baseline"]), str(test["only_candidate"]), "", f"p {test['p_mid']:.3g}")
    out.print(Padding(table, (1, 0, 0, 2)))
    changed = [row for row in document["per_class"] if row["f1"]["difference"]][:CHANGED_CLASSES]
    if changed:
        table = _table("most changed, F1", document["a"], document["b"], "difference", "rows")
        for row in changed:
            numbers = (Text(f"{row['f1'][side]:.3f}", style="number") for side in ("a", "b"))
            table.add_row(Text(row["label"]), *numbers, f"{row['f1']['difference']:+.3f}", f"{row['rows']:,}")
        out.print(Padding(table, (1, 0, 0, 2)))
    out.print()
    for title, page in reports.items():
        say(f"report of {title}  {page}", style="faint")
    style = {"better": "good", "not worse": "good", "worse": "bad", "undecided": "idle"}[document["verdict"]]
    say(document["sentence"], style=style)


def _table(title: str, *columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="faint", padding=(0, 3, 0, 0))
    table.add_column(title)
    for column in columns:
        table.add_column(Text(column), justify="right")
    return table
