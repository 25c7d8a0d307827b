"""From a matplotlib figure to an SVG that takes its colours from the page around it, or to a file that stands alone.

Decides how plots look: sizes, fonts, colours, light and dark. Inside a page a plot is drawn in stand-in colours, which
become CSS variables, so that one drawing serves both themes; in a file it has the colours of the light one. Equal
figures give equal bytes: no date, ids from a given salt. No text is read as mathematics, and matplotlib's own writer
escapes it. Called by `charts`, `page` and `compared`.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure


class Palette(NamedTuple):
    """Colours of a plot."""

    ink: str
    faint: str
    line: str
    ground: str
    series: tuple[str, ...]

    def named(self) -> dict[str, str]:
        """Colour of each CSS variable, whose name is given without its dashes."""
        plain = {"ink": self.ink, "faint": self.faint, "line": self.line, "ground": self.ground}
        return plain | {f"s{number}": colour for number, colour in enumerate(self.series, 1)}


LIGHT = Palette(
    "#1b1f24", "#59636e", "#d1d9e0", "#ffffff", ("#0b6bcb", "#c2410c", "#1a7f4b", "#8250df", "#9a6700", "#bf3989")
)
DARK = Palette(
    "#e6edf3", "#9198a1", "#3d444d", "#151b23", ("#58a6ff", "#ff9a57", "#4ac97f", "#bc8cff", "#e3b341", "#f778ba")
)
_STAND_IN = Palette(
    "#010203", "#010204", "#010205", "#010206", ("#020301", "#020302", "#020303", "#020304", "#020305", "#020306")
)
"""Colours that nothing else has."""

Draw = Callable[[Palette], Figure]
LABEL_LENGTH = 34
ALT_LENGTH = 400
_HEAD = re.compile(r"\A.*?(?=<svg )", re.DOTALL)
_OPENING = re.compile(r'<svg [^>]*?viewBox="([^"]+)"[^>]*>')
_PLAIN_IDS = re.compile(r' id="[A-Za-z.0-9]+_\d+"')
_METADATA = re.compile(r" *<metadata>.*?</metadata>\n?", re.DOTALL)
_FONT_NAMES = re.compile(r"'DejaVu Sans'[^;\"]*")
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufffe\uffff\ud800-\udfff]")


def short(text: str, *, length: int = LABEL_LENGTH) -> str:
    """Return a name fit for a plot: on one line, without control characters, cut with an ellipsis."""
    plain = _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)
    return plain if len(plain) <= length else f"{plain[: length - 1]}…"


def axes(*, width: float = 4.2, height: float = 2.7, left: float = 0.14) -> Axes:
    """Return the axes of a new figure; sizes in inches, `left` is the share of the width that names may take."""
    figure = Figure(figsize=(width, height))
    return figure.add_axes((left, 0.5 / height, 0.97 - left, 1 - 0.62 / height))


def inline_svg(draw: Draw, *, alt: str, salt: str) -> str:
    """Return an <svg> element for a page that defines the variables of `Palette.named`.

    Args:
        draw: makes the figure.
        alt: what the plot shows, in words.
        salt: of the names of clip paths and markers: two plots of a page must not share one.
    """
    words = escape(short(alt, length=ALT_LENGTH))
    text = _HEAD.sub("", _svg(draw, _STAND_IN, salt=salt))
    text = _OPENING.sub(lambda found: f'<svg viewBox="{found[1]}" role="img" aria-label="{words}">', text, count=1)
    for name, colour in _STAND_IN.named().items():
        text = text.replace(colour, f"var(--{name})")
    return _PLAIN_IDS.sub("", text).strip()


def save_plot(draw: Draw, path: Path) -> None:
    """Write a figure as .svg or .png in the light colours."""
    if path.suffix.lower() == ".svg":
        path.write_text(_svg(draw, LIGHT, salt="ratchet"), encoding="utf-8")
        return
    with _style(LIGHT, salt=""):
        figure = draw(LIGHT)
        FigureCanvasAgg(figure)
        figure.savefig(path, format="png", dpi=200, facecolor=LIGHT.ground, metadata={"Software": None})


def _svg(draw: Draw, palette: Palette, *, salt: str) -> str:
    with _style(palette, salt=salt):
        figure = draw(palette)
        FigureCanvasSVG(figure)
        buffer = io.StringIO()
        ground = "none" if palette is _STAND_IN else palette.ground
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", facecolor=ground, metadata=nothing)
    return _FONT_NAMES.sub(_FONT, _METADATA.sub("", buffer.getvalue()))


@contextmanager
def _style(palette: Palette, *, salt: str) -> Iterator[None]:
    """Draw as this module wants it, whatever the user's matplotlibrc says."""
    with warnings.catch_warnings(), mpl.style.context(["default", _settings(palette, salt)]):
        warnings.simplefilter("ignore")  # the viewer has the scripts of class names that the measuring font lacks
        yield


def _settings(palette: Palette, salt: str) -> dict[str, Any]:
    return {
        "text.parse_math": False,  # a class called $x_1$ is no formula
        "svg.fonttype": "none",  # words stay words: they can be read aloud, searched and selected
        "svg.hashsalt": salt,
        "font.size": 9.0,
        "text.color": palette.ink,
        "axes.labelcolor": palette.faint,
        "axes.edgecolor": palette.line,
        "axes.facecolor": "none",
        "axes.axisbelow": True,
        "axes.grid": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.formatter.useoffset": False,
        "grid.color": palette.line,
        "grid.linewidth": 0.6,
        "xtick.color": palette.line,
        "ytick.color": palette.line,
        "xtick.labelcolor": palette.faint,
        "ytick.labelcolor": palette.faint,
        "xtick.major.size": 0.0,
        "ytick.major.size": 0.0,
        "legend.frameon": False,
        "legend.fontsize": 8.5,
        "lines.linewidth": 1.6,
    }
