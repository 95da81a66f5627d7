"""The page of a report: one HTML file that needs nothing from the network."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from importlib import resources
from typing import Any

from jaxnas.errors import RunError
from jaxnas.extras import how_to_install

_SCRIPTS = ("elements.js", "charts.js", "architecture.js", "choices.js", "tables.js", "page.js")


def page(data: Mapping[str, Any]) -> str:
    """The HTML for what `payload` gives; with `live: true` in it, the page asks for news at `data.json`.

    Everything that came from a user is in one block of JSON, which the scripts only ever show as text. The page's
    policy (Content-Security-Policy) lets only these scripts run, and lets nothing be loaded.

    Raises:
      RunError: if plotly is not installed.
    """
    script = "(() => {\n'use strict';\n" + "".join(_file(name) for name in _SCRIPTS) + "})();\n"
    plotly = _plotly()
    hashes = " ".join(f"'sha256-{_sha256(text)}'" for text in (script, plotly))
    policy = f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; connect-src 'self'"
    parts = {"policy": policy, "style": _file("page.css"), "data": embedded(data), "script": script, "plotly": plotly}
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _file("page.html"))


def embedded(data: Mapping[str, Any]) -> str:
    """JSON that can be put into a script element: pure ASCII, without anything that HTML could read as markup."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _file(name: str) -> str:
    return (resources.files("jaxnas.report") / "page" / name).read_text(encoding="utf-8")


def _plotly() -> str:
    try:
        from plotly.offline import get_plotlyjs
    except ModuleNotFoundError:
        raise RunError(f"a report needs plotly: {how_to_install('report')}.") from None
    return get_plotlyjs().replace("\r\n", "\n").replace("\r", "\n")  # as a browser reads it, for the hash


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
