"""The page: draws what the sections hold, section by section, and writes one HTML file that needs nothing beside it.

Decides that a plot or a section that cannot be made says so in its place, and that none of it ever ends a stage whose
numbers are measured. Every text is escaped by the template, and the page forbids scripts and requests to whatever
opens it. Equal evidence gives equal bytes. Called by the evaluate recipe and by `compared`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import structlog
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ratchet_api.gates import judge_gate
from ratchet_api.stage import EvaluateConfig
from ratchet_jobs.data.snapshots import Manifest
from ratchet_jobs.report.blocks import Block, Plots
from ratchet_jobs.report.charts import Chart
from ratchet_jobs.report.drawing import DARK, LIGHT, inline_svg
from ratchet_jobs.report.evidence import Evidence, collect
from ratchet_jobs.report.generated import GENERATOR_SECTIONS
from ratchet_jobs.report.sections import DIGEST, SECTIONS
from ratchet_jobs.runtime.record import settings_of

REPORT_FILE = "report.html"

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Drawn:
    """A plot as markup, or why there is none."""

    title: str
    svg: Markup
    problem: str


@dataclass(frozen=True, slots=True)
class DrawnPlots:
    """`Plots`, drawn."""

    title: str
    charts: Sequence[Drawn]
    kind: Literal["plots"] = "plots"


@dataclass(frozen=True, slots=True)
class Section:
    """A section ready for the template: blocks, each plot drawn; or why there is nothing."""

    title: str
    anchor: str
    blocks: Sequence[Block | DrawnPlots]
    problem: str


@dataclass(frozen=True, slots=True)
class PageKind:
    """What a page of one sort of policy is made of: its title, from the evidence, and its sections in order."""

    title: Callable[[Evidence], str]
    sections: Sequence[tuple[str, Callable[[Evidence], Iterable[Block]]]]


CLASSIFIER = PageKind(
    lambda given: f"Evaluation of a classifier of {len(given.evaluation['labels'])} classes", SECTIONS
)
GENERATOR = PageKind(lambda _: "Evaluation of a generator", GENERATOR_SECTIONS)


def write_report(
    output: Path,
    kind: PageKind,
    *,
    folders: Mapping[str, Path],
    config: EvaluateConfig,
    metrics: Mapping[str, float],
    manifest: Manifest,
) -> None:
    """Write report.html beside what evaluate wrote; never raises, since by now all that counts is measured.

    Args:
        output: of the evaluate stage, with its documents.
        kind: `CLASSIFIER` or `GENERATOR`.
        folders: role -> folder of each policy that was measured.
        config: of the stage.
        metrics: that gates judge.
        manifest: of the snapshot.
    """
    try:
        gates = [judge_gate(gate, metrics) for gate in config.evaluation.gates]
        given = collect(output, folders=folders, settings=settings_of(config), gates=gates, manifest=manifest)
        sections = [section(title, partial(build, given)) for title, build in kind.sections]
        what = f"policy {given.evaluation['candidate'][:DIGEST]} on snapshot {manifest.digest[:DIGEST]}"
        (output / REPORT_FILE).write_text(render(kind.title(given), what, sections), encoding="utf-8")
    except Exception:  # measured results must not be lost for want of a page about them
        log.exception("the report could not be written; the results are committed without it")


def section(title: str, build: Callable[[], Iterable[Block]]) -> Section:
    """Build a section and draw its plots; what fails is logged and said in its place."""
    anchor = title.lower().replace(" ", "-")
    try:
        blocks = list(build())
    except Exception as error:  # one section of odd numbers must not cost the others
        log.exception("a section of the report could not be made", section=title)
        return Section(title, anchor, (), f"{type(error).__name__}: {error}")
    return Section(title, anchor, [_ready(block, f"{anchor}-{place}") for place, block in enumerate(blocks)], "")


def render(title: str, what: str, sections: Iterable[Section]) -> str:
    """Return the page of those sections that say something."""
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    shown = [each for each in sections if each.blocks or each.problem]
    colours = {"light": LIGHT.named(), "dark": DARK.named()}
    return templates.get_template("page.html.j2").render(title=title, what=what, sections=shown, colours=colours)


def _ready(block: Block, salt: str) -> Block | DrawnPlots:
    if not isinstance(block, Plots):
        return block
    return DrawnPlots(block.title, [_drawn(chart, f"{salt}-{place}") for place, chart in enumerate(block.charts)])


def _drawn(chart: Chart, salt: str) -> Drawn:
    try:
        return Drawn(chart.title, Markup(inline_svg(chart.draw, alt=chart.alt, salt=salt)), "")
    except Exception as error:  # likewise: one plot
        log.exception("a plot of the report could not be drawn", plot=chart.title)
        return Drawn(chart.title, Markup(""), f"{type(error).__name__}: {error}")
