"""The report of a search: one HTML file, or a page that is served while the search runs.

jaxnas.report.write("runs/x")  # runs/x/report.html
jaxnas.report.serve("runs/x")  # at http://127.0.0.1:8080/, until Ctrl-C
"""

from __future__ import annotations

import os
from pathlib import Path

from jaxnas.errors import RunError
from jaxnas.files import write_text
from jaxnas.report.page import page
from jaxnas.report.payload import payload
from jaxnas.report.watch import serve

__all__ = ["payload", "serve", "write"]


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
