"""The command `jaxnas`: search, retrain, predict, show, report, watch, plot, compare, methods, spaces, doctor."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from typing import Any

from jaxnas.extras import how_to_install
from jaxnas.version import __version__

_LONG = ("search", "retrain")
"""Commands that compile, so that nothing else is printed for seconds."""


def main() -> None:
    """Runs the command line; errors of jaxnas are printed without a traceback."""
    _say_at_once(sys.argv[1:])
    app = _app()
    from jaxnas.compilation import cache_compilations, keep_heap
    from jaxnas.errors import NonFiniteLossError

    keep_heap()
    cache_compilations()
    before, warnings.formatwarning = warnings.formatwarning, _as_one_line
    try:
        app()
    except (ValueError, NonFiniteLossError, FileNotFoundError) as e:  # jaxnas' own are ValueErrors but the second
        print(f"error: {e}", file=sys.stderr)
        raise SystemExit(1) from None
    finally:
        warnings.formatwarning = before


def _say_at_once(arguments: Sequence[str]) -> None:
    """The first line, before the rest is imported."""
    if arguments and arguments[0] in _LONG and "--help" not in arguments:
        called = " ".join(word for word in arguments[:2] if not word.startswith("-"))
        print(f"jaxnas {__version__} {called}: reading model and data", flush=True)


def _app() -> Any:
    try:
        from jaxnas.cli.commands import app
    except ModuleNotFoundError as missing:
        if missing.name not in ("typer", "rich"):
            raise
        raise SystemExit(f"the command line needs {missing.name}: {how_to_install('cli')}.") from None
    return app


def __getattr__(name: str) -> Any:
    if name == "app":
        return _app()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _as_one_line(message: Warning | str, category: type[Warning], *place: object, **line: object) -> str:
    return f"warning: {message}\n"
