"""What `ratchet compare` found, drawn: one .png or .svg, or a page with the tables beside the plots.

Decides what such a drawing holds; the numbers are those that the command prints. Called by the command line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from ratchet_jobs.report.blocks import NOTHING, Block, Plots, Table, Text, Tone, number, row
from ratchet_jobs.report.charts import Chart, changed_classes, differences, draw_changed, draw_differences
from ratchet_jobs.report.drawing import Palette, save_plot, short
from ratchet_jobs.report.page import render, section

SUFFIXES = (".png", ".svg", ".html")
_TONES: Mapping[str, Tone] = {"better": "good", "not worse": "good", "worse": "bad", "undecided": ""}
_BY_CLASS = 250


def write_comparison(document: Mapping[str, Any], path: Path) -> None:
    """Draw what two versions' answers say about each other.

    Args:
        document: as `ratchet compare -o json` prints it.
        path: ends in one of SUFFIXES.

    Raises:
        OSError: the file cannot be written.
    """
    if path.suffix.lower() == ".html":
        title = f"{document['b']} against {document['a']}"
        what = f"{document['n']:,} rows: {document['rows']}"
        sections = [section("Comparison", lambda: _numbers(document)), section("Classes", lambda: _classes(document))]
        path.write_text(render(title, what, sections), encoding="utf-8")
        return
    save_plot(lambda palette: _poster(document, palette), path)


def _intervals(document: Mapping[str, Any]) -> dict[str, Mapping[str, float]]:
    return {name: each for name, each in document["differences"].items() if "low" in each}


def _by_class(document: Mapping[str, Any]) -> Chart:
    return changed_classes(document["per_class"], a=document["a"], b=document["b"])


def _numbers(document: Mapping[str, Any]) -> Iterator[Block]:
    yield Text(document["sentence"], tone=_TONES[document["verdict"]])
    confidence = f"{document['rules']['confidence']:.1%} interval"
    yield Plots("", [differences(_intervals(document), title="Differences", what="Differences")])
    rows = [
        row(
            name,
            number(each["a"]),
            number(each["b"]),
            f"{each['difference']:+.4f}",
            f"{each['low']:+.4f} to {each['high']:+.4f}" if "low" in each else NOTHING,
        )
        for name, each in document["differences"].items()
    ]
    test = document["mcnemar"]
    rows.append(row("right alone", f"{test['only_baseline']:,}", f"{test['only_candidate']:,}", NOTHING, NOTHING))
    note = f"McNemar's mid-p {test['p_mid']:.3g}."
    yield Table("On the same rows", ("number", document["a"], document["b"], "difference", confidence), rows, note=note)


def _classes(document: Mapping[str, Any]) -> Iterator[Block]:
    if any(each["f1"]["difference"] for each in document["per_class"]):
        yield Plots("", [_by_class(document)])
    rows = [
        row(
            each["label"],
            f"{each['f1']['a']:.3f}",
            f"{each['f1']['b']:.3f}",
            f"{each['f1']['difference']:+.3f}",
            f"{each['rows']:,}",
        )
        for each in document["per_class"][:_BY_CLASS]
    ]
    yield Table("F1 by class", ("class", document["a"], document["b"], "difference", "rows"), rows)


def _poster(document: Mapping[str, Any], palette: Palette) -> Figure:
    """Both plots below each other under the verdict."""
    changed = any(each["f1"]["difference"] for each in document["per_class"])
    figure = Figure(figsize=(8.0, 6.4 if changed else 3.2))
    figure.text(0.02, 0.99, short(f"{document['b']} against {document['a']}", length=80), va="top", fontsize=13)
    told = f"{document['verdict']} on {document['n']:,} rows: {document['rows']}"
    figure.text(0.02, 0.945 if changed else 0.89, short(told, length=110), va="top", color=palette.faint)
    top = figure.add_axes((0.24, 0.68, 0.73, 0.19) if changed else (0.24, 0.2, 0.73, 0.52))
    draw_differences(top, _intervals(document), palette)
    if changed:
        bottom = figure.add_axes((0.24, 0.08, 0.73, 0.48))
        draw_changed(bottom, document["per_class"], palette, a=document["a"], b=document["b"])
    return figure
