"""`jaxnas plot` and `jaxnas compare`: pictures and tables of runs."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Format(StrEnum):
    """Of pictures."""

    pdf = "pdf"
    svg = "svg"
    png = "png"


def plot(
    run: Annotated[Path, typer.Argument(help="Run directory of a search.")],
    out: Annotated[Path | None, typer.Option(help="Where to; default: RUN/plots.")] = None,
    format: Annotated[list[Format] | None, typer.Option(help="May be given several times; default: all.")] = None,
) -> None:
    """Draw a run for a paper: its curves, its choices over the epochs, the architecture it found."""
    _need_matplotlib()
    from jaxnas.report import plots

    for file in plots.plot(run, out, [kind.value for kind in format or Format]):
        print(file)


def _need_matplotlib() -> None:
    from jaxnas.errors import RunError

    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError:
        raise RunError('pictures need matplotlib: pip install "jaxnas[plots]"') from None
