"""`jaxnas report` and `jaxnas watch`: a run as a page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Run = Annotated[Path, typer.Argument(help="Run directory of a search.")]


def report(
    run: Run,
    out: Annotated[Path | None, typer.Option(help="The file; default: RUN/report.html.")] = None,
) -> None:
    """Write a run's report: one HTML file that opens from disk."""
    from jaxnas.report import write

    print(f"report in {write(run, out)}")


def watch(
    run: Run,
    host: Annotated[str, typer.Option(help="What to listen on; the default is this machine only.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free port.")] = 8080,
) -> None:
    """Serve a run's report while the search runs, or before it has begun, until Ctrl-C."""
    from jaxnas.report import serve

    serve(run, host, port)
