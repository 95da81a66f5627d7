"""The report of a search: one HTML file, or a page that is served while the search runs.

jaxnas.report.write("runs/x")  # runs/x/report.html
jaxnas.report.serve("runs/x")  # at http://127.0.0.1:8080/, until Ctrl-C
jaxnas.report.plots.plot("runs/x")  # pictures for papers
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

from jaxnas.errors import RunError
from jaxnas.files import write_text
from jaxnas.report.page import page
from jaxnas.report.payload import payload
from jaxnas.report.watch import serve

__all__ = ["compare", "payload", "plots", "serve", "write"]


def __getattr__(name: str) -> Any:
    """The modules `plots` and `compare`, which are loaded on first use: they need matplotlib."""
    if name in ("compare", "plots"):
        return importlib.import_module(f"jaxnas.report.{name}")
    raise AttributeError(f"module 'jaxnas.report' has no attribute {name!r}")


def write(run: str | os.PathLike, out: str | os.PathLike | None = None) -> Path:
    """Writes the report of a run as one HTML file, which opens from disk and loads nothing.

    Args:
      run: run directory of a search, finished or not.
      out: the file; default `report.html` in the run directory.

    Returns:
      The file.

    Raises:
      RunError: if the run cannot be read, the file cannot be written, or plotly is not installed.
    """
    file = Path(run) / "report.html" if out is None else Path(out)
    html = page(payload(run))
    try:
        write_text(file, html)
    except OSError as e:
        raise RunError(f"{file}: cannot be written: {e.strerror}.") from None
    return file
