"""The command `jaxnas`: search, retrain, show, report, watch, plot, compare."""

from __future__ import annotations

import sys
import warnings

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
    from jaxnas.errors import ArchitectureError, DataError, NonFiniteLossError, RunError

    keep_heap()
    cache_compilations()
    before, warnings.formatwarning = warnings.formatwarning, _as_one_line
    try:
        app()
    except (ArchitectureError, DataError, NonFiniteLossError, RunError, FileNotFoundError) as e:
        print(f"error: {e}", file=sys.stderr)
        raise SystemExit(1) from None
    finally:
        warnings.formatwarning = before


def _as_one_line(message: Warning | str, category: type[Warning], *place: object, **line: object) -> str:
    return f"warning: {message}\n"
