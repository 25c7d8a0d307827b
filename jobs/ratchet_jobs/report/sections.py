"""The sections of an evaluation's report: which numbers stand where, and in which words.

Decides content and order; a section with nothing to say is left out. Pure functions of `Evidence`; drawing and markup
are not its business. Called by `page`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ratchet_api.gates import NOT_MEASURED, judged_name
from ratchet_jobs.report.blocks import NOTHING, Block, Cell, Figures, Plots, Table, Text, cut, number, row
from ratchet_jobs.report.charts import abstain_curves, differences, learning_curves, reliability_diagram
from ratchet_jobs.report.evidence import Evidence

WHOLE_CONFUSION = 16
"""Classes up to which the whole confusion matrix is shown; above it, the pairs that are confused most."""

WORST_PAIRS = 25
MOST_ROWS = 250
MOST_CHARTS = 30
DIGEST = 16
MEANINGS = {
    "accuracy": "share of test rows answered rightly",
    "macro_f1": "mean F1 of the classes",
    "ece": "expected calibration error",
    "brier": "squared error of the probabilities",
    "loss": "negative log-likelihood, nats",
    "coverage": "share of rows that is answered",
    "selective_accuracy": "accuracy among the answered",
    "temperature": "fitted on validation",
    "threshold": "abstains below this confidence",
    "n_test": "test rows",
}
Metrics = Mapping[str, float]


def _summary(given: Evidence) -> Iterator[Block]:
    failed = [gate for gate in given.gates if not gate.passed]
    if given.comparison is not None:
        choice = given.comparison["choice"]
        kept = choice["chosen"] == choice["candidate"]
        words = "What RL made was committed" if kept else f"RL was refused; the {choice['chosen']} policy was committed"
        yield Text(f"{words}: {choice['why']}", tone="good" if kept else "bad")
    if given.gates:
        held = len(given.gates) - len(failed)
        yield Text(f"{held} of {len(given.gates)} gates hold.", tone="bad" if failed else "good")
    metrics: Metrics = given.evaluation["metrics"]
    shown = ("accuracy", "macro_f1", "ece", "coverage", "selective_accuracy", "n_test")
    yield Figures([(name, _value(name, metrics[name]), MEANINGS[name]) for name in shown if name in metrics])
    if given.evaluation.get("tasks"):
        rows = [
            row(task, *(_value(name, found["metrics"][name]) for name in shown))
            for task, found in given.evaluation["tasks"].items()
        ]
        yield Table("Tasks", ("task", *shown), rows, note="The numbers above are the means of these.")


def _gates(given: Evidence) -> Iterator[Block]:
    if not given.gates:
        return
    rows = [
        row(
            judged_name(gate),
            gate.bound,
            "not measured" if gate.value == NOT_MEASURED else number(gate.value),
            Cell("holds", "good") if gate.passed else Cell("does not hold", "bad"),
        )
        for gate in given.gates
    ]
    note = "As the run that measured this set them; a run that reuses the numbers judges them by its own gates."
    yield Table("Gates on the test split", ("number", "must be", "is", "verdict"), rows, numeric=False, note=note)


def _comparison(given: Evidence) -> Iterator[Block]:
    found = given.comparison
    if found is None:
        return
    policies = {name: each["metrics"] for name, each in found.get("policies", {}).items()}
    if found.get("champion"):
        policies["champion"] = found["champion"]["metrics"]
    if policies:
        rows = [
            row(name, *(_value(name, each[name]) if name in each else NOTHING for each in policies.values()))
            for name in MEANINGS
            if any(name in each for each in policies.values())
        ]
        yield Table("On the same test rows", ("number", *policies), rows)
    if found.get("champion_absent"):
        yield Text(f"The champion is not compared: {found['champion_absent']}.", tone="faint")
    baseline = found["choice"]["baseline"]
    pairs = (
        ("rl", baseline, found.get("rl_against_baseline")),
        (found["choice"]["chosen"], "champion", found.get("chosen_against_champion")),
    )
    for one, other, table in pairs:
        if table:
            yield from _differences(one, other, table, found["rules"])


def _differences(one: str, other: str, table: Mapping[str, Any], rules: Mapping[str, Any]) -> Iterator[Block]:
    known = {name: each for name, each in table.items() if name != "mcnemar"}
    confidence = f"{rules.get('confidence', 0.95):.1%}"
    rows = [
        row(
            name,
            number(each["baseline"]),
            number(each["candidate"]),
            _signed(each["difference"]),
            f"{_signed(each['low'])} to {_signed(each['high'])}" if each["low"] is not None else "not measured",
        )
        for name, each in known.items()
    ]
    test = table["mcnemar"]
    note = (
        f"Paired bootstrap. {test['only_baseline']:,} rows are answered rightly by {other} alone, "
        f"{test['only_candidate']:,} by {one} alone: McNemar's mid-p {test['p_mid']:.3g}."
    )
    title = f"{one} against {other}"
    columns = ("number", other, one, "difference", f"{confidence} interval")
    yield Plots("", [differences(known, title=title, what=title)])
    yield Table(title, columns, rows, note=note)


def _learning(given: Evidence) -> Iterator[Block]:
    for record in given.stages:
        if record.history:
            unit = "rollout" if record.stage == "rl" else "step"
            yield Plots(record.title, learning_curves(record.history, unit=unit)[:MOST_CHARTS])


def _calibration(given: Evidence) -> Iterator[Block]:
    yield Text(
        "Left: accuracy against confidence, a bigger dot stands for more rows; on the diagonal a policy is as good as "
        "it says. Right: how accurate the answers are if the least sure ones are left out."
    )
    for task, found in _tasks(given.evaluation).items():
        metrics: Metrics = found["metrics"]
        before, after, temperature = found["ece_uncalibrated"], metrics["ece"], metrics["temperature"]
        error = f"Expected calibration error {number(before)} before the temperature of {temperature:.3g}"
        yield Text(f"{task + ': ' if task else ''}{error}, {number(after)} after it.")
        chosen = (
            (metrics["coverage"], metrics["selective_accuracy"])
            if metrics["threshold"] and metrics["coverage"]
            else None
        )
        charts = [reliability_diagram(found["reliability"]), abstain_curves(_curves(given, task), chosen=chosen)]
        yield Plots(task, charts)


def _curves(given: Evidence, task: str) -> dict[str, Sequence[Mapping[str, float]]]:
    """Abstain curve of each policy that was measured."""
    compared = given.comparison or {}
    policies = dict(compared.get("policies") or {"this policy": given.evaluation})
    if compared.get("champion"):
        policies["champion"] = compared["champion"]
    return {name: _tasks(each)[task]["abstain_curve"] for name, each in policies.items()}


def _tasks(report: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    """Numbers of each of several tasks by its name; those of the only one by the empty name."""
    found: Mapping[str, Mapping[str, Any]] = report.get("tasks") or {"": report}
    return found


def _confusion(given: Evidence) -> Iterator[Block]:
    for task, found in _tasks(given.evaluation).items():
        many = len(found["labels"]) > WHOLE_CONFUSION
        title = "Most confused pairs" if many else "Confusion matrix"
        title = f"{title} of {task}" if task else title
        yield (_worst_pairs if many else _matrix)(title, found["labels"], found["confusion"])


def _matrix(title: str, labels: Sequence[str], counts: Sequence[Sequence[int]]) -> Table:
    rows = [
        [cut(label), *(Cell(f"{each:,}", heat=each / max(1, sum(line))) for each in line)]
        for label, line in zip(labels, counts, strict=True)
    ]
    note = "A row is a true class, a column an answer; the colour is the share of the row."
    return Table(title, ("is / was told", *(cut(label).text for label in labels)), rows, note=note)


def _worst_pairs(title: str, labels: Sequence[str], counts: Sequence[Sequence[int]]) -> Table:
    wrong = np.array(counts)
    support = wrong.sum(axis=1)
    np.fill_diagonal(wrong, 0)
    worst = np.argsort(-wrong, axis=None, kind="stable")[:WORST_PAIRS]
    pairs = [(*divmod(int(place), len(labels)), int(wrong.flat[place])) for place in worst]
    rows = [row(labels[i], labels[j], f"{n:,}", f"{n / support[i]:.1%}") for i, j, n in pairs if n]
    note = f"{np.count_nonzero(wrong):,} pairs of the {len(labels)} classes are confused at all."
    return Table(title, ("is", "was told", "rows", "of its rows"), rows, note=note)


def _classes(given: Evidence) -> Iterator[Block]:
    ranked = sorted(given.evaluation["per_class"], key=lambda each: (float(each["f1"]), each["label"]))
    rows = [
        row(
            each["label"],
            Cell(f"{each['f1']:.3f}", heat=float(each["f1"])),
            *(f"{each[name]:.3f}" for name in ("precision", "recall")),
            f"{each['support']:,}",
        )
        for each in ranked[:MOST_ROWS]
    ]
    left = len(ranked) - len(rows)
    note = f"{left:,} better classes are left out; evaluation.json has them." if left else ""
    columns = ("class", "F1", "precision", "recall", "test rows")
    yield Table("Classes, the weakest first", columns, rows, note=note, folded=len(rows) > 40)


def _data(given: Evidence) -> Iterator[Block]:
    manifest = given.manifest
    counts = manifest.counts
    rows = [row("rows", *(f"{each:,}" for each in (counts.train, counts.validation, counts.test)))]
    yield Table("Snapshot", ("", "train", "validation", "test"), rows)
    if manifest.removed:
        removed = [row(each.rule, f"{each.count:,}") for each in manifest.removed]
        yield Table("Rows left out", ("rule", "rows"), removed)
    if not manifest.labels:
        return
    labels = [
        row(each.label, f"{each.train:,}", f"{each.validation:,}", f"{each.test:,}")
        for each in manifest.labels[:MOST_ROWS]
    ]
    yield Table("Rows of each class", ("class", "train", "validation", "test"), labels, folded=True)


def _settings(given: Evidence) -> Iterator[Block]:
    yield Text("As they were resolved, defaults included; what does not decide the result is not listed.", tone="faint")
    stages = [*((each.title, each.settings) for each in given.stages), ("evaluate", given.settings)]
    for title, settings in stages:
        rows = [row(name, value) for name, value in _flat(settings) if name != "stage"][:MOST_ROWS]
        yield Table(title, ("setting", "value"), rows, numeric=False, folded=True)


def _lineage(given: Evidence) -> Iterator[Block]:
    base = given.card["baseModel"]
    rows = [
        row("snapshot", given.manifest.digest),
        row("base model", base["sha256"]),
        row("base model lies at", base["uri"]),
        row("policy before calibration", given.evaluation["candidate"]),
    ]
    if given.comparison is not None:
        rows += [row(f"policy {name}", each["digest"]) for name, each in given.comparison.get("policies", {}).items()]
        if given.comparison.get("champion"):
            rows.append(row("champion", given.comparison["champion"]["digest"]))
    rows += [row(f"source {each.uri}", each.sha256) for each in given.manifest.sources[:MOST_ROWS]]
    yield Table("SHA-256 digests", ("what", "digest"), rows, numeric=False)


SECTIONS: Sequence[tuple[str, Callable[[Evidence], Iterator[Block]]]] = (
    ("Summary", _summary),
    ("Gates", _gates),
    ("Comparison", _comparison),
    ("Learning curves", _learning),
    ("Calibration and abstaining", _calibration),
    ("Confusion", _confusion),
    ("Classes", _classes),
    ("Data", _data),
    ("Settings", _settings),
    ("Lineage", _lineage),
)
"""In the order of the page."""


def _value(name: str, value: float) -> str:
    return f"{value:,.0f}" if name.startswith("n_") else number(value)


def _signed(value: float | None) -> str:
    return NOTHING if value is None else f"{value:+.4f}"


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Dotted path of each plain value."""
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from _flat(each, f"{path}.{key}".lstrip("."))
    elif isinstance(value, list) and any(isinstance(each, Mapping | list) for each in value):
        for place, each in enumerate(value):
            yield from _flat(each, f"{path}[{place}]")
    else:
        yield path, ", ".join(map(str, value)) if isinstance(value, list) else str(value)
