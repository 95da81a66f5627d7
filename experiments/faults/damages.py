"""Damages every file of runs in every way, and checks what every command then says."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import re
import shutil
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

import jaxnas
from experiments.faults import work
from jaxnas import runs
from jaxnas.report.watch import Source
from jaxnas.runs.reading import with_checksums

Command = Callable[[Path], Any]
"""(copy of the subject) -> result, which can be compared by ==."""

_TOLD = (ValueError, ArithmeticError, FileNotFoundError)
_VALUES: list[Any] = [
    None,
    True,
    -1,
    0.5,
    1e300,
    "",
    "x",
    "\u200b",
    [],
    {},
    [1],
    [[]],
    {"a": None},
    10**18,
    [None, "x"],
]


def build(folder: Path) -> None:
    """Makes the subjects: a search that has finished and was retrained, one that was interrupted, and so on."""
    work.darts(folder / "finished")
    work.fit(folder / "finished" / "retrain")
    work.darts(folder / "interrupted", max_minutes=0)
    work.fit(folder / "fit", max_minutes=0)
    work.seeds(folder / "seeds")
    work.miniature(folder / "miniature")
    with contextlib.suppress(KeyboardInterrupt), mock.patch.object(jaxnas, "export", side_effect=KeyboardInterrupt):
        work.miniature(folder / "begun")
    (folder / "files").mkdir()
    work.trials(folder / "files")
    jaxnas.export({"op": "tanh", "two": (0, 1)}, folder / "files" / "arch.json")
    x, y = work.data()
    np.savez(folder / "files" / "data.npz", x_train=x, y_train=y)


def _cli(*arguments: str) -> Command:
    """A command of the command line, in this process."""

    def command(path: Path) -> Any:
        from jaxnas import cli

        named = [argument.replace("RUN", path.name) for argument in arguments]
        out, err = io.StringIO(), io.StringIO()
        with (
            mock.patch.object(sys, "argv", ["jaxnas", *named]),
            mock.patch.dict(os.environ, {"COLUMNS": "300"}),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            contextlib.chdir(path.parent),
        ):
            try:
                cli.main()
            except SystemExit as e:
                if e.code:
                    lines = [line for line in err.getvalue().splitlines() if line.strip()]
                    if len(lines) != 1 or not lines[0].startswith("error: ") or len(lines[0]) > 3000:
                        raise AssertionError(
                            f"exit {e.code}, not one line of error: {err.getvalue()[-2000:]}"
                        ) from None
                    raise jaxnas.RunError(lines[0]) from None
        written = {name: (path / name).read_bytes() for name in ("report.html",) if (path / name).exists()}
        return re.sub(r"\d+\.\d+ s\b", "", out.getvalue()), written

    return command


def _continued(kind: str) -> Command:
    def command(path: Path) -> Any:
        work.run(kind, path)
        return work.outcome(kind, path)

    return command


def _inherited(path: Path) -> Any:
    weights = runs.read_weights(path)
    return jaxnas.load(path / "final_arch.json"), repr(weights)


def _watched(path: Path) -> Any:
    with contextlib.chdir(path.parent):
        data = json.loads(Source(path).get()[0])
    if "error" in data:
        raise jaxnas.RunError(data["error"])
    return data


def _loaded(path: Path) -> Any:
    return jaxnas.load(path / "arch.json")


def _data(path: Path) -> Any:
    data = jaxnas.data.load(path / "data.npz")
    return data.x_train.tobytes(), data.y_train.tobytes()


_LOOKS = {"show": _cli("show", "RUN"), "report": _cli("report", "RUN"), "watch": _watched}
COMMANDS: dict[str, dict[str, Command]] = {
    "finished": {
        **_LOOKS,
        "compare": _cli("compare", "RUN", "--out", "RUN/picture.svg"),
        "same call": _continued("search"),
        "inherit": _inherited,
    },
    "interrupted": {**_LOOKS, "same call": _continued("search")},
    "fit": {"same call": _continued("fit")},
    "seeds": {"same call": _continued("seeds")},
    "miniature": {"same call": _continued("miniature")},
    "begun": {"same call": _continued("miniature")},
    "files": {"load": _loaded, "data": _data, "same call": _continued("black box")},
}
SLOW = {("interrupted", "same call"), ("fit", "same call"), ("seeds", "same call"), ("finished", "same call")}


def damages(
    number: int, folder: Path, draw: random.Random, deadline: float, damage: Callable[[Path, random.Random], bool]
) -> Counter:
    """Damages files that often (or until a time).

    Args:
      number: how many files to damage.
      folder: an empty folder.
      draw: which subject, command, file.
      deadline: as `time.monotonic` counts.
      damage: `damage(file, draw)` damages it, and says whether it could.

    Returns:
      Counts: `done`; `same` and `told` (a warning, or one clear error) are as it should be; `silent` (the command gives
      something else and reports nothing), `traceback`.
    """
    counts: Counter = Counter()
    build(folder / "whole")
    expected: dict[tuple[str, str], Any] = {}
    for subject, commands in COMMANDS.items():
        for name, command in commands.items():
            path = _copied(folder, subject)
            expected[subject, name] = command(path)
    picks = [(s, c) for s, commands in COMMANDS.items() for c in commands for _ in range(1 if (s, c) in SLOW else 8)]
    while counts["done"] < number and time.monotonic() < deadline:
        subject, name = draw.choice(picks)
        path = _copied(folder, subject)
        files = sorted(file for file in path.rglob("*") if file.is_file() and file.suffix != ".lock")
        file = draw.choice(files)
        if not damage(file, draw):
            continue
        counts["done"] += 1
        what, said = _judged(COMMANDS[subject][name], path, expected[subject, name], file)
        if what == "silent" and (damage is json_changed or name == "load"):
            what = "given"
        counts[what] += 1
        if what in ("silent", "traceback"):
            print(
                f"{what}: {name} of {subject}, {file.relative_to(path)} ({_left(file)}): {said}",
                file=sys.stderr,
                flush=True,
            )
    return counts


def _left(file: Path) -> str:
    return f"{file.stat().st_size} bytes" if file.is_file() else "a folder" if file.is_dir() else "gone"


def _copied(folder: Path, subject: str) -> Path:
    path = folder / "copy" / subject
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(folder / "whole" / subject, path)
    return path


def _judged(command: Command, path: Path, expected: Any, file: Path) -> tuple[str, str]:
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            found = command(path)
        except _TOLD as e:
            ours = type(e).__module__.startswith("jaxnas") or isinstance(e, FileNotFoundError)
            return ("told" if ours and len(str(e)) < 3000 else "traceback"), repr(e)[:2000]
        except Exception as e:
            return "traceback", repr(e)[:2000]
    if found == expected:
        return "same", ""
    names = (f"{file.parent.name}/{file.name}", f"has no {file.name}")  # in a row of a table, say
    told = bool(warned) or any(name in repr(found) and name not in repr(expected) for name in names)
    return ("told" if told else "silent"), str(found)[-700:]


def bytes_damaged(file: Path, draw: random.Random) -> bool:
    """Cuts a file off, empties it, flips a bit, removes it, puts a folder or other bytes in its place."""
    whole = file.read_bytes()
    how = draw.choice(["cut", "empty", "flip", "flip", "flip", "remove", "folder", "type", "noise"])
    if how in ("cut", "flip") and not whole:
        return False
    file.unlink()
    at = draw.randrange(len(whole)) if whole else 0
    if how == "folder":
        file.mkdir()
    elif how != "remove":
        kinds = {
            "cut": whole[:at],
            "empty": b"",
            "flip": whole[:at] + bytes([whole[at] ^ (1 << draw.randrange(8))]) + whole[at + 1 :] if whole else b"",
            "type": json.dumps(draw.choice(_VALUES)).encode() + b"\n",
            "noise": draw.randbytes(draw.randrange(1, 300)),
        }
        file.write_bytes(kinds[how])
    return True


def json_changed(file: Path, draw: random.Random) -> bool:
    """Puts a value of another type somewhere into a JSON file, and makes its checksums fit, as if it had been so."""
    if file.suffix not in (".json", ".jsonl") or "checkpoints" in file.parts:
        return False
    lines = file.read_text().splitlines() if file.suffix == ".jsonl" else [file.read_text()]
    if not lines:
        return False
    number = draw.randrange(len(lines))
    value = json.loads(lines[number])
    if not _changed(value, draw):
        return False
    lines[number] = json.dumps(value)
    file.write_text("\n".join(lines) + "\n")
    result = file.parent / "result.json"
    if result.exists():
        with contextlib.suppress(ValueError, AttributeError, jaxnas.RunError):
            held = json.loads(result.read_text())
            held.pop("checksums", None)
            result.write_text(json.dumps(with_checksums(file.parent, held, {})))
    return True


def _changed(value: Any, draw: random.Random) -> bool:
    """Changes something in a JSON value in place."""
    while isinstance(value, (dict, list)) and value:
        key = draw.choice(list(value) if isinstance(value, dict) else range(len(value)))
        if isinstance(value[key], (dict, list)) and value[key] and draw.random() < 0.7:
            value = value[key]
            continue
        if draw.random() < 0.15:
            del value[key]
        elif isinstance(value, dict) and draw.random() < 0.1:
            value[draw.choice(["", "x" * 3000, "\u200b", "__class__"])] = value.pop(key)
        else:
            value[key] = draw.choice(_VALUES)
        return True
    return False
