"""The plots of an evaluation: learning curves, reliability, abstaining, differences, classes that changed.

Decides what each plot shows and its words for those who cannot see it. Pure functions from numbers to `Chart`s; knows
nothing of files or pages. Called by `sections` and `compared`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ratchet_jobs.metrics.classification import Floats
from ratchet_jobs.report.drawing import Draw, Palette, axes, short

Column = Sequence[float | None]
POINTS = 300
"""Points of a learning curve; a longer one is averaged over neighbours, which its plot could not show anyway."""

SMOOTHED_FROM = 40
"""Curves with this many points or more get a moving average over a tenth of them."""

MOST_SERIES = 6
ROW_HEIGHT = 0.26
SHOWN_CHANGES = 12


@dataclass(frozen=True, slots=True)
class Chart:
    """A plot that is yet to be drawn.

    Attributes:
        title: what it shows, in a few words.
        alt: what is to be seen on it, in a sentence or two.
        draw: makes the figure.
    """

    title: str
    alt: str
    draw: Draw


def learning_curves(history: Mapping[str, Column], *, unit: str) -> list[Chart]:
    """One plot per number of a stage; those called FAMILY/PART share the family's plot, up to six a plot.

    Those of one of several agents, called agent/NAME/…, are left out: they are no family.

    Args:
        history: metric -> values, `step` among them.
        unit: what a step is: step or rollout.
    """
    families: dict[str, dict[str, Column]] = {}
    for name, values in history.items():
        if name != "step" and not name.startswith("agent/") and any(value is not None for value in values):
            family, _, part = name.partition("/")
            families.setdefault(family, {})[part or family] = values
    charts: list[Chart] = []
    for family in sorted(families, key=_place_of):
        parts = list(families[family].items())
        shares = (dict(parts[start : start + MOST_SERIES]) for start in range(0, len(parts), MOST_SERIES))
        charts.extend(_curve(family, share, history["step"], unit) for share in shares)
    return charts


_ORDER = (
    "loss",
    "avg_return",
    "best_return",
    "reward",
    "judged",
    "accuracy",
    "margin",
    "train_agreement",
    "kl",
    "kl_coef",
    "mean_tokens",
    "policy_loss",
    "value_loss",
    "entropy",
    "approx_kl",
    "clipfrac",
    "explained_variance",
    "grad_norm",
    "learning_rate",
)


def _place_of(family: str) -> tuple[int, str]:
    return (_ORDER.index(family) if family in _ORDER else len(_ORDER), family)


def _curve(family: str, parts: Mapping[str, Column], steps: Column, unit: str) -> Chart:
    lines = {name: _told(steps, values) for name, values in parts.items()}
    ends = ", ".join(
        f"{'' if name == family else name + ' '}{y[0]:.4g} at {unit} {x[0]:.0f} to {y[-1]:.4g} at {x[-1]:.0f}"
        for name, (x, y) in lines.items()
    )

    def draw(palette: Palette) -> Figure:
        ax = axes()
        for (name, (x, y)), colour in zip(lines.items(), palette.series, strict=False):
            x, y = _thinned(x, POINTS), _thinned(y, POINTS)
            smooth = len(y) >= SMOOTHED_FROM and family not in ("learning_rate", "best_return")
            marker = "o" if len(y) < 3 else None
            ax.plot(x, y, color=colour, alpha=0.3 if smooth else 1.0, linewidth=0.8 if smooth else 1.6, marker=marker)
            shown = _moving_mean(y, len(y) // 10) if smooth else y
            ax.plot(x, shown, color=colour, label=short(name))
        if len(lines) > 1:
            ax.legend(loc="best", handlelength=1.2)
        ax.margins(x=0.01)
        ax.set_xlabel(unit)
        return _figure(ax)

    only = next(iter(lines)) if len(lines) == 1 else family
    return Chart(title=family if only == family else f"{family}/{only}", alt=f"{family}: {ends}", draw=draw)


def reliability_diagram(tables: Mapping[str, Sequence[Mapping[str, float]]]) -> Chart:
    """Accuracy against confidence before and after the temperature; on the diagonal a policy is as good as it says.

    Args:
        tables: uncalibrated and calibrated -> bins with confidence, accuracy and rows.
    """
    names = {"uncalibrated": "before the temperature", "calibrated": "after it"}
    rows = tables["calibrated"]
    widest = max(rows, key=lambda each: each["rows"])
    alt = (
        f"Reliability of {len(rows)} bins; most answers ({widest['rows']:.0f}) have a confidence near "
        f"{widest['confidence']:.2f}, and {widest['accuracy']:.0%} of those are right."
    )

    def draw(palette: Palette) -> Figure:
        ax = axes(width=4.2, height=3.6)
        ax.plot([0, 1], [0, 1], color=palette.faint, linewidth=1.0, linestyle="--")
        for (key, title), colour in zip(names.items(), (palette.series[1], palette.series[0]), strict=True):
            confidence, right, count = (
                np.array([each[column] for each in tables[key]]) for column in ("confidence", "accuracy", "rows")
            )
            ax.plot(confidence, right, color=colour, label=title)
            area = 10 + 90 * count / count.max()
            ax.scatter(confidence, right, s=area, color=colour, alpha=0.55, linewidth=0, clip_on=False)
        ax.set_xlim(-0.02, 1.02)
        ax.set_ylim(-0.02, 1.02)
        ax.set_xlabel("confidence")
        ax.set_ylabel("accuracy")
        ax.legend(loc="upper left", handlelength=1.2)
        return _figure(ax)

    return Chart("Reliability", alt, draw)


def abstain_curves(curves: Mapping[str, Sequence[Mapping[str, float]]], *, chosen: tuple[float, float] | None) -> Chart:
    """Accuracy of what is answered against the share that is answered.

    Args:
        curves: policy -> points with coverage and accuracy.
        chosen: coverage and accuracy at the threshold that the policy has; None = it never abstains.
    """
    first = next(iter(curves.values()))
    alt = f"Accuracy is {first[0]['accuracy']:.3f} when every row is answered"
    alt += f" and {first[-1]['accuracy']:.3f} on the surest {first[-1]['coverage']:.0%}."

    def draw(palette: Palette) -> Figure:
        ax = axes(width=4.2, height=3.6)
        for (name, points), colour in zip(curves.items(), palette.series, strict=False):
            ax.plot([p["coverage"] for p in points], [p["accuracy"] for p in points], color=colour, label=short(name))
        if chosen is not None:
            ax.scatter(*chosen, s=60, color=palette.ink, zorder=3, label="the threshold chosen")
        ax.set_xlim(1.02, 0)
        ax.set_xlabel("share of rows answered")
        ax.set_ylabel("accuracy of the answers")
        ax.legend(loc="best", handlelength=1.2)
        return _figure(ax)

    return Chart("Abstaining", alt, draw)


def differences(rows: Mapping[str, Mapping[str, Any]], *, title: str, what: str) -> Chart:
    """Differences with their intervals; what lies right of nought is better.

    Args:
        rows: name -> difference, low, high; one that was not measured is left out.
        title: of the plot.
        what: who is compared with whom.
    """
    known = {name: row for name, row in rows.items() if row["low"] is not None}
    alt = f"{what}: " + "; ".join(
        f"{name} {row['difference']:+.4f}, interval {row['low']:+.4f} to {row['high']:+.4f}"
        for name, row in known.items()
    )

    def draw(palette: Palette) -> Figure:
        ax = axes(width=5.2, height=0.85 + ROW_HEIGHT * 1.4 * len(known), left=0.32)
        draw_differences(ax, known, palette)
        return _figure(ax)

    return Chart(title, alt, draw)


def draw_differences(ax: Axes, rows: Mapping[str, Mapping[str, Any]], palette: Palette) -> None:
    """Draw one interval a row, coloured where it lies on one side of nought as a whole."""
    for place, row in enumerate(rows.values()):
        colour = palette.series[2] if row["low"] > 0 else palette.series[1] if row["high"] < 0 else palette.faint
        ax.plot([row["low"], row["high"]], [place, place], color=colour, linewidth=2.4, solid_capstyle="round")
        ax.scatter([row["difference"]], [place], s=34, color=colour, zorder=3)
    ax.axvline(0, color=palette.ink, linewidth=0.9)
    ax.set_yticks(range(len(rows)), [short(name, length=24) for name in rows], color=palette.ink)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.grid(axis="y", visible=False)
    ax.set_xlabel("difference; right of 0 is better")


def worths(series: Mapping[str, Sequence[float]], *, name: str) -> Chart:
    """Share of answers that are worth at most so much, one line per policy: the line further right is better.

    Args:
        series: policy -> what each of its answers is worth.
        name: of the worth.
    """
    halves = {policy: float(np.median(values)) for policy, values in series.items()}
    alt = f"Distribution of the {name}: " + ", ".join(
        f"half of the answers of {policy} are worth {half:.4g} or less" for policy, half in halves.items()
    )

    def draw(palette: Palette) -> Figure:
        ax = axes(width=5.2, height=3.0)
        for (policy, values), colour in zip(series.items(), palette.series, strict=False):
            ax.ecdf(values, color=colour, label=short(policy))
        ax.set_xlabel(name)
        ax.set_ylabel("share of answers")
        ax.legend(loc="best", handlelength=1.2)
        return _figure(ax)

    return Chart(f"Distribution of the {name}", alt, draw)


def changed_classes(rows: Sequence[Mapping[str, Any]], *, a: str, b: str) -> Chart:
    """F1 of the classes that changed most, from one version to the other.

    Args:
        rows: label and f1 with a, b, difference; the most changed first.
        a: title of the first version.
        b: title of the second.
    """
    shown = _changed(rows)
    alt = f"F1 of the most changed classes from {a} to {b}: " + ", ".join(
        f"{row['label']} {row['f1']['a']:.3f} to {row['f1']['b']:.3f}" for row in shown
    )

    def draw(palette: Palette) -> Figure:
        ax = axes(width=5.2, height=1.2 + ROW_HEIGHT * len(shown), left=0.32)
        draw_changed(ax, shown, palette, a=a, b=b)
        return _figure(ax)

    return Chart("Most changed classes", alt, draw)


def draw_changed(ax: Axes, rows: Sequence[Mapping[str, Any]], palette: Palette, *, a: str, b: str) -> None:
    """Draw one line a class from the first version's F1 to the second's."""
    shown = _changed(rows)
    for place, row in enumerate(shown):
        colour = palette.series[2] if row["f1"]["difference"] > 0 else palette.series[1]
        ax.plot([row["f1"]["a"], row["f1"]["b"]], [place, place], color=colour, linewidth=2.0)
    places = range(len(shown))
    ax.scatter([row["f1"]["a"] for row in shown], places, s=26, color=palette.faint, zorder=3, label=short(a))
    ax.scatter([row["f1"]["b"] for row in shown], places, s=34, color=palette.series[0], zorder=4, label=short(b))
    ax.set_yticks(places, [short(row["label"], length=24) for row in shown], color=palette.ink)
    ax.set_ylim(len(shown) - 0.4, -0.6)
    ax.grid(axis="y", visible=False)
    ax.set_xlabel("F1")
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, handlelength=1.0, borderaxespad=0)


def _changed(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [row for row in rows if row["f1"]["difference"]][:SHOWN_CHANGES]


def _figure(ax: Any) -> Figure:
    figure: Figure = ax.figure
    return figure


def _told(steps: Column, values: Column) -> tuple[Floats, Floats]:
    pairs = [(step, value) for step, value in zip(steps, values, strict=True) if value is not None and step is not None]
    x, y = np.array(pairs, dtype=np.float64).T
    return x, y


def _thinned(values: Floats, points: int) -> Floats:
    """Means over equal numbers of neighbours, so that at most `points` are left."""
    size = -(-len(values) // points)
    if size == 1:
        return values
    starts = np.arange(0, len(values), size)
    means: Floats = np.add.reduceat(values, starts) / np.diff(np.append(starts, len(values)))
    return means


def _moving_mean(values: Floats, width: int) -> Floats:
    """Mean over `width` neighbours to either side, fewer at both ends."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    places = np.arange(len(values))
    low, high = np.maximum(places - width, 0), np.minimum(places + width + 1, len(values))
    means: Floats = (sums[high] - sums[low]) / (high - low)
    return means
