"""All commands under one name."""

from __future__ import annotations

from typing import Annotated

import typer

from jaxnas.cli import about, looking, plotting, predicting, reporting, searching, training
from jaxnas.version import __version__

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Neural architecture search for JAX and Flax.",
)
app.add_typer(searching.app, name="search")
app.command()(training.retrain)
app.command()(predicting.predict)
app.command()(looking.show)
app.command()(reporting.report)
app.command()(reporting.watch)
app.command()(plotting.plot)
app.command()(plotting.compare)
app.command()(about.methods)
app.command()(about.spaces)
app.command()(about.doctor)


def _say_version(asked: bool) -> None:
    if asked:
        print(f"jaxnas {__version__}")
        raise typer.Exit()


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Neural architecture search for JAX and Flax."""
