"""SIGKILL at random moments, and what the same call then makes of the run."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

from experiments.faults import work


def in_child(kind: str, path: Path, told: Path, seconds: float = 600.0) -> int | None:
    """Runs in a separate process, which is killed after that many seconds; None if it was.

    Returns:
      0 if the run has ended, 1 if jaxnas refused it, 2 for a bare traceback; `told` has what was said.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that jax has threads: it has computed nothing yet in this process
        child = os.fork()
    if child == 0:
        with open(told, "w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        code = 2
        try:
            work.run(kind, path)
            code = 0
        except (ValueError, ArithmeticError) as e:
            if type(e).__module__.startswith("jaxnas"):
                code = 1
            os.write(2, traceback.format_exc().encode())
        except BaseException:
            os.write(2, traceback.format_exc().encode())
        os._exit(code)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def kills(kind: str, number: int, folder: Path, draw: random.Random, deadline: float) -> Counter:
    """Kills runs of one kind that often (or until a time), and compares those that finish.

    Returns:
      Counts: `done` kills, `runs` that ended, and of these `lost`, `silent` (ended otherwise) and `traceback`.
    """
    told, counts = folder / "told.txt", Counter()
    for _ in range(2):  # the second time with compiled programs on the disk
        shutil.rmtree(folder / "whole", ignore_errors=True)
        started = time.monotonic()
        assert in_child(kind, folder / "whole", told) == 0, told.read_text()
        typical = time.monotonic() - started
    expected = work.outcome(kind, folder / "whole")
    path = folder / "cut"
    while counts["done"] < number and time.monotonic() < deadline:
        code = in_child(kind, path, told, draw.uniform(0, 1.2 * typical))
        if code is None:
            counts["done"] += 1
            continue
        counts["runs"] += 1
        what = judged(code, kind, path, expected)
        if what != "same":
            counts[what] += 1
            print(f"{kind}: {what}\n{told.read_text()[-3000:]}", file=sys.stderr, flush=True)
        shutil.rmtree(path)
    return counts


def judged(code: int | None, kind: str, path: Path, expected: dict) -> str:
    """What became of a run whose last process ended with this code."""
    if code == 0:
        return "same" if work.outcome(kind, path) == expected else "silent"
    return "lost" if code == 1 else "traceback"
