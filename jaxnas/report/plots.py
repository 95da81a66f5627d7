"""Pictures of a search for papers: its curves, its choices over the epochs, and the architecture it found."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from jaxnas.errors import RunError
from jaxnas.report import figures
from jaxnas.report.derived import architecture
from jaxnas.report.figures import ONE_COLUMN, TWO_COLUMNS, legend, legend_below, line_styles, plain
from jaxnas.report.payload import payload
from jaxnas.runs import reading as runs

CHOICES_PER_PAGE = 24
_COLUMNS = 4
_SHORT = 14  # characters of names that fit beside each other under a panel

_ROLES: dict[str | None, dict[str, Any]] = {
    "train": {"color": "0.45", "linestyle": figures.LINES[1]},
    "valid": {"color": figures.ORANGE, "linestyle": figures.LINES[3]},
    "supernet": {"color": figures.BLUE},
    "sampled": {"color": figures.BLUE},
    "derived": {"color": figures.RED},
    "test": {"color": figures.GREEN},
}


def plot(
    run: str | os.PathLike, out: str | os.PathLike | None = None, formats: Sequence[str] = figures.FORMATS
) -> list[Path]:
    """Draws a run: `curves`, `choices` (more than 24 on pages `choices`, `choices-2`, …) and `architecture`.

    A run that is still running or was interrupted is drawn up to its last epoch.

    Args:
      run: run directory of a search.
      out: where the pictures go; default `plots` in the run directory.
      formats: `"pdf"`, `"svg"`, `"png"`.

    Returns:
      The files.

    Raises:
      RunError: if the run cannot be read or has no epoch yet, or a picture cannot be written.
    """
    out = Path(run) / "plots" if out is None else Path(out)
    files = []
    for name, figure in _pictures(run):
        files += figures.save(figure, *(out / f"{name}.{kind}" for kind in dict.fromkeys(formats)))
    return files


def _pictures(run: str | os.PathLike) -> Iterator[tuple[str, Figure]]:
    data = payload(run)
    if not data["epochs"]:
        raise RunError(f"{run}: no epoch has ended yet; there is nothing to draw.")
    yield "curves", curves(data)
    for page, figure in enumerate(choices(data), 1):
        yield "choices" if page == 1 else f"choices-{page}", figure
    yield "architecture", architecture(runs.read_config(run).get("graph"), data["choices"])


def curves(data: Mapping[str, Any]) -> Figure:
    """Losses, accuracies, other scores and the entropy of the choices over the epochs, a panel for each.

    Args:
      data: from `jaxnas.report.payload`.
    """
    panels = [panel for panel in data["panels"] if panel["main"]]
    across = min(3, len(panels)) if len(panels) != 4 else 2
    down = math.ceil(len(panels) / across)
    with figures.style():
        names = [[series["name"] for series in panel["series"]] for panel in panels]
        columns = [2 if max(map(len, shown)) <= _SHORT else 1 for shown in names]
        lines_below = max(-(-len(shown) // n) for shown, n in zip(names, columns, strict=True))
        height = (1.9 + 0.16 * lines_below) * down
        figure = Figure(figsize=(TWO_COLUMNS if across > 1 else ONE_COLUMN, height), layout="constrained")
        axes = figure.subplots(down, across, squeeze=False).ravel()
        for axis in axes[len(panels) :]:
            axis.remove()
        for axis, panel, shown, n in zip(axes, panels, names, columns, strict=False):
            lines = [_curve(axis, data["epochs"], series) for series in panel["series"]]
            axis.set_title(plain(panel["title"]))
            if panel["range"]:
                axis.set_ylim(*panel["range"])
            _epoch_axis(axis, data["epochs"])
            legend_below(axis, lines, shown, ncols=n, handlelength=1.8, columnspacing=1.2)
    return figure


def choices(data: Mapping[str, Any]) -> list[Figure]:
    """The probabilities of each choice's candidates over the epochs; all panels have the same height.

    Args:
      data: from `jaxnas.report.payload`.

    Returns:
      A figure for every 24 choices, in the order of the space.
    """
    shown = data["choices"]
    known = [p for choice in shown for weights in choice["probabilities"] for p in weights if p is not None]
    low, high = min(known, default=0.0), max(known, default=1.0)
    pad = max(0.05 * (high - low), 0.005)
    limits = (max(low - pad, -0.02), min(high + pad, 1.02))
    pages = [shown[i : i + CHOICES_PER_PAGE] for i in range(0, len(shown), CHOICES_PER_PAGE)]
    with figures.style():
        return [_page_of_choices(page, data["epochs"], limits) for page in pages]


def _page_of_choices(page: Sequence[Mapping[str, Any]], epochs: Sequence[int], limits: tuple[float, float]) -> Figure:
    across = min(_COLUMNS, len(page))
    down = math.ceil(len(page) / across)
    labels = list(dict.fromkeys(label for choice in page for label in choice["labels"]))
    looks = dict(zip(labels, line_styles(len(labels)), strict=True))
    width = TWO_COLUMNS if across > 2 else ONE_COLUMN
    per_row = max(1, min(len(labels), int(width * 72 / (40 + 4.6 * min(40, max(map(len, labels)))))))
    legend_height = 0.17 * math.ceil(len(labels) / per_row) + 0.1
    figure = Figure(figsize=(width, 1.2 * down + 0.25 + legend_height), layout="constrained")
    axes = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True).ravel()
    for axis, choice in zip(axes, page, strict=False):
        for i, label in enumerate(choice["labels"]):
            values = [weights[i] for weights in choice["probabilities"]]
            _curve(axis, epochs, {"values": values, "role": None}, **looks[label])
        decided = [choice["labels"][i] for i in choice["chosen"][-1]]
        axis.set_title(f"{plain(choice['key'], 27)}\n→ {_short(decided)}", fontsize=7, linespacing=1.15)
        axis.set_ylim(*limits)
        _epoch_axis(axis, epochs, title=False)
    for axis in axes[len(page) :]:
        axis.set_axis_off()
    for i, axis in enumerate(axes[: len(page)]):
        axis.tick_params(labelbottom=i + across >= len(page))  # the lowest of each column
        if i >= (down - 1) * across:
            axis.set_xlabel("epoch")
    figure.supylabel("probability", fontsize=figures.SIZE)
    handles = [Line2D([], [], **look) for look in looks.values()]
    legend(figure, handles, labels, loc="outside lower center", ncols=per_row, handlelength=2.2)
    return figure


def _short(decided: Sequence[str]) -> str:
    shown = ", ".join(map(plain, decided)) or "none"
    return f"{len(decided)} chosen" if len(decided) > 1 and len(shown) > 24 else plain(shown, 24)


def _curve(axis: Any, epochs: Sequence[int], series: Mapping[str, Any], **look: Any) -> Line2D:
    """A line through the epochs that have a value; single points are seen."""
    known = [(e, v) for e, v in zip(epochs, series["values"], strict=True) if v is not None]
    marker = "o" if len(known) == 1 or len(known) < len(epochs) <= 60 else None
    look = look or _ROLES.get(series["role"], {"color": figures.PURPLE})
    return axis.plot([e for e, _ in known], [v for _, v in known], marker=marker, **look)[0]


def _epoch_axis(axis: Any, epochs: Sequence[int], *, title: bool = True) -> None:
    axis.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True, min_n_ticks=1))
    if len(epochs) > 1:
        axis.set_xlim(epochs[0], epochs[-1])
    else:
        axis.set_xticks(list(epochs))
    if title:
        axis.set_xlabel("epoch")
