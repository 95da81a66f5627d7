"""The command `jaxnas`: search, retrain, show, report, watch, plot, compare."""

from __future__ import annotations

import sys

try:
    import typer

    from jaxnas.cli import looking, plotting, reporting, searching, training
except ModuleNotFoundError as missing:
    if missing.name not in ("typer", "rich"):
        raise
    raise SystemExit(f'the command line needs {missing.name}: pip install "jaxnas[cli]"') from None

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Neural architecture search for JAX and Flax.",
)
app.add_typer(searching.app, name="search")
app.command()(training.retrain)
app.command()(looking.show)
app.command()(reporting.report)
app.command()(reporting.watch)
app.command()(plotting.plot)
app.command()(plotting.compare)


def main() -> None:
    """Runs the command line; errors of jaxnas are printed without a traceback."""
    from jaxnas.compilation import cache_compilations, keep_heap
    from jaxnas.errors import NonFiniteLossError

    keep_heap()
    cache_compilations()
    try:
        app()
    except (ValueError, NonFiniteLossError, FileNotFoundError) as e:  # all of ours are ValueErrors but the second
        print(f"error: {e}", file=sys.stderr)
        raise SystemExit(1) from None
