"""Power cuts at random moments, and what the same call then makes of the run."""

from __future__ import annotations

import random
import shutil
import sys
import time
import warnings
from collections import Counter
from pathlib import Path

from experiments.faults import work
from experiments.faults.power import Recorder
from jaxnas.runs import checkpoints


def cuts(kind: str, number: int, folder: Path, draw: random.Random, deadline: float) -> Counter:
    """Cuts the power of runs of one kind that often (or until a time), all in this process.

    Returns:
      Counts: `done` cuts, of which `lost` (refused, or less is saved than had been), `silent` (ended otherwise),
      `traceback`, and `warned` of damage that a cut should not do.
    """
    counts: Counter = Counter()
    work.run(kind, folder / "whole")
    expected = work.outcome(kind, folder / "whole")
    with Recorder(_disk(folder, "counted"), folder / "none", set(), draw) as counting:
        work.run(kind, folder / "counted" / "run")
    images = folder / "images"
    images.mkdir()
    moments = set(draw.sample(range(counting.moments), min(number, counting.moments)))
    with Recorder(_disk(folder, "recorded"), images, moments, draw) as recorder:
        work.run(kind, folder / "recorded" / "run")
    for image, saved in recorder.made:
        if time.monotonic() > deadline:
            break
        counts["done"] += 1
        what = _judged(kind, image / "run", saved, expected)
        if what != "same":
            counts[what] += 1
            print(f"{kind}: {what} in {image}", file=sys.stderr, flush=True)
        shutil.rmtree(image)
    return counts


def _disk(folder: Path, name: str) -> Path:
    (folder / name).mkdir()
    return folder / name


def _judged(kind: str, path: Path, saved: str, expected: dict) -> str:
    ended = (path / "result.json").exists() or (path / "seed_0" / "result.json").exists()
    if kind != "black box" and not ended and (checkpoints.newest(path / "checkpoints") or "") < saved:
        return "lost"
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            work.run(kind, path)
            if work.outcome(kind, path) != expected:
                return "silent"
        except ValueError as e:
            print(e, file=sys.stderr)
            return "lost" if type(e).__module__.startswith("jaxnas") else "traceback"
        except Exception as e:
            print(repr(e), file=sys.stderr)
            return "traceback"
    return "warned" if any("jaxnas" in str(w.filename) or "checkpoint" in str(w.message) for w in told) else "same"
