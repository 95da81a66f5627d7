"""`jaxnas plot` and `jaxnas compare`: pictures and tables of runs."""

from __future__ import annotations

import itertools
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer


class Format(StrEnum):
    """Formats of pictures."""

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


def compare(
    run: Annotated[list[Path], typer.Argument(help="Run directories of searches.")],
    out: Annotated[
        Path | None,
        typer.Option(help="The picture, .png, .pdf or .svg. Default: compare.png, or compare-2.png if that exists."),
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Also write all numbers, as JSON.")] = None,
    metric: Annotated[
        str | None, typer.Option(help="Score of the history without its derived_; default accuracy, else loss.")
    ] = None,
) -> None:
    """Put runs side by side: a table, how far their architectures agree, and a picture of their curves."""
    from json import dumps

    from rich.console import Console

    from jaxnas.errors import RunError
    from jaxnas.files import write_text
    from jaxnas.report import compare as comparing

    comparison = comparing.read(run, metric)
    numbers = comparing.as_json(comparison)
    console = Console()
    for table in tables(comparison, numbers):
        console.print(table)
        console.print()
    if json is not None:
        try:
            write_text(json, dumps(numbers, indent=2))
        except OSError as e:
            raise RunError(f"{json}: cannot be written: {e.strerror}.") from None
        print(f"numbers in {json}")
    _need_matplotlib()
    from jaxnas.report import figures

    picture = comparing.draw(comparison)
    if picture is None:
        print(f"no run has a derived {comparison.metric} yet, so there is no picture")
    else:
        print(f"picture in {figures.save(picture, out or _free('compare', '.png'))[0]}")


def _free(stem: str, suffix: str) -> Path:
    """A file in the current folder that does not exist yet."""
    names = itertools.chain([stem], (f"{stem}-{number}" for number in itertools.count(2)))
    return next(file for name in names if not (file := Path(f"{name}{suffix}")).exists())


def tables(comparison: Any, numbers: dict[str, Any]) -> list[Any]:
    """What `jaxnas compare` prints: the runs, their architectures, and how far these agree."""
    from rich.table import Table
    from rich.text import Text

    from jaxnas.report.compare import agreements, in_short

    measure = comparison.metric.replace("_", " ")
    title = f"{measure}; test {measure} of trainings"
    table = Table(title=title, collapse_padding=True, show_edge=False, pad_edge=False)  # 80 columns
    table.add_column("run", overflow="fold", min_width=11)
    for name in ("method", "seed", "epochs", "derived", "best", "super-\nnet", "test", "time"):
        table.add_column(name, no_wrap=True)
    for run in numbers["runs"]:
        status = "" if run["status"] == "finished" else run["status"]
        table.add_row(
            Text(f"{run['name']}\n{status}".strip()),
            *(Text(str(run[key])) for key in ("algorithm", "seed")),
            f"{run['epochs']}/{run['planned']}",
            *(_number(run[of][what]) for of, what in (("derived", "last"), ("derived", "best"), ("supernet", "last"))),
            "\n".join(map(_number, run["test"])),
            _clock(run["seconds"]),
        )
    for group in numbers["groups"]:
        shown = [_mean(group[column]) for column in ("derived_last", "derived_best", "supernet_last", "test")]
        ended = f"{group['finished']} of {len(group['runs'])}\nended"
        table.add_section()
        table.add_row(
            Text(group["name"]),
            "mean\n±std",
            "",
            ended,
            *shown,
            _clock(group["seconds"]["mean"]) if group["seconds"] else "",
        )
    archs = Table("run", "architecture", show_edge=False, pad_edge=False)
    for run in comparison.runs:
        archs.add_row(Text(run.name), Text(in_short(run)))
    agreed = [part for agreement in agreements(comparison.runs) for part in _agreement(agreement)]
    return [table, archs, *agreed]


def _agreement(agreement: Any, most: int = 12) -> list[Any]:
    """In how many choices each pair of runs agrees; for many runs only the mean."""
    from rich.table import Table
    from rich.text import Text

    keys = ", ".join(agreement.common[:8]) + (", …" if len(agreement.common) > 8 else "")
    text = (
        f"Two of these {len(agreement.runs)} runs agree on {100 * agreement.mean:.0f} % of the {agreement.choices} "
        f"choices on average; all of them agree on {len(agreement.common)}" + (f": {keys}." if keys else ".")
    )
    if len(agreement.runs) > most:
        return [Text(text)]
    table = Table(
        "choices in agreement", *(str(i + 1) for i in range(len(agreement.runs))), show_edge=False, pad_edge=False
    )
    for i, run in enumerate(agreement.runs):
        numbers = [str(same) if i != j else "" for j, same in enumerate(agreement.same[i])]
        table.add_row(Text(f"{i + 1} {run.name}"), *numbers)
    return [table, Text(text)]


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _mean(pair: dict[str, float] | None) -> str:
    return "" if pair is None else f"{pair['mean']:.4f}\n±{pair['std']:.4f}"


def _need_matplotlib() -> None:
    from jaxnas.errors import RunError
    from jaxnas.extras import how_to_install

    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError:
        raise RunError(f"pictures need matplotlib: {how_to_install('plots')}.") from None
