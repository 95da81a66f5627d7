"""The page about data: its Python is run, in one go, in an empty folder."""

import re
import sys
import types
from pathlib import Path

import pytest
from test_data import classes, rows

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "data.md").read_text(encoding="utf-8")


def test_the_code_of_the_page_runs(tmp_path, monkeypatch):
    pytest.importorskip("PIL")
    monkeypatch.chdir(tmp_path)
    for split in ("train", "test"):
        classes(tmp_path / "pets" / split, size=(7, 9))
    monkeypatch.setitem(
        sys.modules, "datasets", types.SimpleNamespace(load_dataset=lambda name: {"train": rows([0, 1])})
    )
    names = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    assert len(blocks) == 5
    found = []
    for block in blocks:
        exec(block, names)
        found.append(names["data"])
    several = found.pop(1)
    assert {name: str(part.dtype) for name, part in several.preprocessing.parts.items()} == {
        **{"image": "uint8", "age": "float32", "words": "int64"}
    }
    assert [data.x_train.shape for data in found] == [(50, 28, 28, 1), (6, 32, 32, 3), (2, 4, 6, 3), (50, 28, 28, 1)]
    assert found[1].num_classes == 2
    assert found[3].augment.cutout == 8
