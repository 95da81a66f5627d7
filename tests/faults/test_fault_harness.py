"""The short form of `python -m experiments.faults`: kills, power cuts and damages lose nothing; and it would tell."""

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.faults.cuts import cuts
from experiments.faults.damages import bytes_damaged, json_changed
from experiments.faults.power import Recorder
from jaxnas import files

ROOT = Path(__file__).resolve().parents[2]


def test_the_short_form_finds_nothing():
    command = [sys.executable, "-m", "experiments.faults", "--kinds", "miniature", "black box", "--minutes", "2"]
    numbers = ["--kills", "8", "--cuts", "40", "--damages", "80", "--files", "80"]
    done = subprocess.run([*command, *numbers], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr[-5000:]
    rows = [line.split(" | ") for line in done.stdout.splitlines()[2:]]
    faults = ["kills", "kills", "power cuts", "power cuts", "damaged files", "changed JSON"]
    assert [row[0].strip("| ") for row in rows] == faults
    assert all(int(row[2]) > 0 for row in rows), done.stdout


@pytest.mark.parametrize("missing", ["the folder's sync", "the file's sync"])
def test_power_cuts_find_what_is_not_synced(tmp_path, monkeypatch, missing):
    if missing == "the folder's sync":
        monkeypatch.setattr(files, "sync_folder", lambda path: None)
    else:
        monkeypatch.setattr(files, "_sync", lambda file: file.flush())
    counts = cuts("miniature", 25, tmp_path, random.Random(0), time.monotonic() + 120)
    assert counts["lost"] > 5


def test_an_image_has_what_was_synced_and_no_more(tmp_path):
    """By hand: a synced file, an unsynced end of it, an unsynced name, and a name that is gone but was synced."""
    disk, images = tmp_path / "disk", tmp_path / "images"
    disk.mkdir()
    images.mkdir()
    files.write_text(disk / "a", "old")
    files.write_text(disk / "gone", "here")
    always_strict = random.Random(0)
    always_strict.random = lambda: 0.0
    with Recorder(disk, images, {0, 3}, always_strict) as recorder:
        files.append_line(disk / "a", "")  # moment 0 is its fsync
        (disk / "a").open("a").close()
        (disk / "gone").unlink()  # moment 1
        (disk / "folder").mkdir()  # moment 2
        (disk / "folder").rmdir()  # moment 3
    found = [{file.name: file.read_text() for file in image.iterdir()} for image, _ in recorder.made]
    assert found == [{"a": "", "gone": ""}, {"a": "old\n", "gone": ""}]


@pytest.mark.parametrize("damage", [bytes_damaged, json_changed])
def test_damages_change_a_file(tmp_path, damage):
    changed = 0
    for number in range(60):
        file = tmp_path / f"{number}.json"
        whole = json.dumps({"a": [1, 2, {"b": "c"}], "d": None, "e": 0.25})
        file.write_text(whole)
        assert damage(file, random.Random(number))
        changed += not file.is_file() or file.read_text(errors="replace") != whole
    assert changed > 50
