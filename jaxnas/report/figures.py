"""What all pictures for papers share: sizes, fonts, colours, and how they are written."""

from __future__ import annotations

import io
import itertools
import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation

from jaxnas.errors import RunError
from jaxnas.files import write_bytes

ONE_COLUMN, TWO_COLUMNS, PAGE_HEIGHT = 3.25, 6.75, 8.5  # inches, of a paper with two columns
FORMATS = ("pdf", "svg", "png")
SIZE = 8  # points, of text
_BELOW = 28  # points that ticks and the label of an axis take

# Okabe and Ito's palette, which colour-blind readers can tell apart; the yellow is too light for lines.
BLUE, ORANGE, GREEN, RED, PURPLE, SKY, BLACK = (
    *("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"),
    "#000000",
)
COLOURS = (BLUE, ORANGE, GREEN, RED, PURPLE, SKY, BLACK)
LINES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (4, 1, 1, 1)))

_STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "font.size": SIZE,
    "axes.titlesize": SIZE,
    "axes.labelsize": SIZE,
    "legend.fontsize": SIZE - 1,
    "xtick.labelsize": SIZE - 1,
    "ytick.labelsize": SIZE - 1,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "lines.linewidth": 1.1,
    "lines.markersize": 2.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "0.92",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "text.usetex": False,
    "text.parse_math": False,  # a name with $ in it is no formula
    "pdf.fonttype": 42,  # whole TrueType fonts, which publishers ask for
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "jaxnas",  # else names in the file are random
}


def style() -> Any:
    """A context in which pictures are drawn and written, whatever the user's settings of matplotlib are."""
    settings: Any = dict(matplotlib.rcParamsDefault)
    return matplotlib.rc_context(settings | _STYLE | {"backend": "agg"})


def plain(text: Any, most: int = 60) -> str:
    """A name on one line; the middle of a long one is left out. An invisible one is spelled out."""
    name, text = str(text), " ".join(str(text).split())
    if all(unicodedata.category(letter)[0] in "CMZ" for letter in text):  # blanks, or of no width
        text = ascii(name)
    head = (most - 1) // 2
    return text if len(text) <= most else f"{text[:head]}…{text[head + 1 - most :]}"


def line_styles(n: int) -> list[dict[str, Any]]:
    """n ways to draw a line that can be told apart, up to 28."""
    ways = ({"color": colour, "linestyle": line} for line in LINES for colour in COLOURS)
    return list(itertools.islice(itertools.cycle(ways), n))


def legend(where: Any, handles: Sequence[Any], labels: Sequence[str], **options: Any) -> None:
    """A legend of a figure or of axes. (matplotlib itself leaves out names that begin with an underscore.)"""
    made = where.legend(handles, [f"{i}" for i in range(len(handles))], **options)
    for text, label in zip(made.get_texts(), labels, strict=True):
        text.set_text(plain(label, 40))


def legend_below(axis: Any, handles: Sequence[Any], labels: Sequence[str], **options: Any) -> None:
    """A legend under the axes and their label, where it hides no curve."""
    below = ScaledTranslation(0, -_BELOW / 72, axis.get_figure(root=True).dpi_scale_trans)
    anchor = {"bbox_to_anchor": (0.5, 0), "bbox_transform": axis.transAxes + below}
    legend(axis, handles, labels, loc="upper center", borderaxespad=0, **anchor, **options)


def save(figure: Figure, *paths: str | os.PathLike) -> list[Path]:
    """Writes a picture in the formats of the names. The same picture gives the same bytes: no dates.

    Raises:
      RunError: for another format than .pdf, .svg, .png, or a file that cannot be written.
    """
    files = [Path(path) for path in paths]
    for file in files:
        if file.suffix.removeprefix(".").lower() not in FORMATS:
            raise RunError(f"{file}: pictures are .pdf, .svg or .png; got {file.suffix or 'no suffix'!r}.")
    undated: dict[str, dict[str, Any]] = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}
    with style():
        figure.draw_without_rendering()  # places everything, once for all formats
        figure.set_layout_engine("none")
        for file in files:
            kind, buffer = file.suffix.removeprefix(".").lower(), io.BytesIO()
            figure.savefig(buffer, format=kind, dpi=300, metadata=undated.get(kind))
            try:
                write_bytes(file, buffer.getvalue())
            except OSError as e:
                raise RunError(f"{file}: cannot be written: {e.strerror}.") from None
    return files
