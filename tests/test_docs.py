"""The pages of docs/ whose code is run: every ```python block, in order, in one namespace and an empty folder."""

import re
import sys
import types
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"

PAGES = ("other-tasks", "predict", "own-loop", "budget", "devices", "other-tools", "plan", "trials")


def code_of(page):
    """The page's Python, every line where it is in the page, so that errors point there."""
    text = (DOCS / f"{page}.md").read_text()
    kept = [""] * (text.count("\n") + 1)
    for block in re.finditer(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        first = text[: block.start(1)].count("\n")
        lines = block[1].splitlines()
        kept[first : first + len(lines)] = lines
    return "\n".join(kept)


@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_a_page_runs(page, tmp_path, monkeypatch):
    code = code_of(page)
    assert code.strip(), f"{page}.md has no ```python block"
    module = types.ModuleType(f"page_{page.replace('-', '_')}")
    monkeypatch.setitem(sys.modules, module.__name__, module)  # where classes look for what they are made of
    monkeypatch.chdir(tmp_path)
    exec(compile(code, str(DOCS / f"{page}.md"), "exec"), module.__dict__)


def test_lines_stay_where_they_are():
    for page in PAGES:
        written = (DOCS / f"{page}.md").read_text().splitlines()
        for number, line in enumerate(code_of(page).splitlines()):
            assert line in ("", written[number])
