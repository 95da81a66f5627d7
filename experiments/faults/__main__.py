"""Injects faults into runs of every kind and counts what becomes of them.

python -m experiments.faults [--kills 1000] [--cuts 300] [--damages 5000] [--files 10000] [--minutes 60]
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

BAD = ("lost", "silent", "traceback", "warned")


def main() -> int:
    """Prints a table; returns 1 if something was lost, silently wrong, or ended in a bare traceback."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--cuts", type=int, default=300)
    parser.add_argument("--damages", type=int, default=5000)
    parser.add_argument("--files", type=int, default=10000)
    parser.add_argument("--minutes", type=float, default=60.0, help="time limit for all faults together")
    parser.add_argument("--kinds", nargs="+", help="of runs, for kills and cuts; default: all")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        _compile_quickly(Path(folder) / "programs")
        from experiments.faults.cuts import cuts
        from experiments.faults.damages import bytes_damaged, damages, json_changed
        from experiments.faults.kills import kills
        from experiments.faults.work import KINDS

        kinds = options.kinds or list(KINDS)
        jobs: list[tuple[str, str, int, Callable]] = []
        for kind in kinds:
            jobs.append(("kills", kind, -(-options.kills // len(kinds)), lambda *a, kind=kind: kills(kind, *a)))
        for kind in kinds:  # after the kills: from here on this process computes, and is no longer forked
            jobs.append(("power cuts", kind, -(-options.cuts // len(kinds)), lambda *a, kind=kind: cuts(kind, *a)))
        jobs.append(("damaged files", "all", options.damages, lambda *a: damages(*a, bytes_damaged)))
        jobs.append(("changed JSON", "all", options.files, lambda *a: damages(*a, json_changed)))
        return _done(jobs, options, Path(folder))


def _done(jobs: list, options: argparse.Namespace, folder: Path) -> int:
    end, bad = time.monotonic() + 60 * options.minutes, 0
    jobs = [job for job in jobs if job[2] > 0]
    print("| fault | run | done | asked for | lost | silently other | bare traceback | warned | else |")
    print("|---|---|---|---|---|---|---|---|---|")
    for left, (fault, kind, number, job) in zip(range(len(jobs), 0, -1), jobs, strict=True):
        own = folder / f"{fault} {kind}"
        own.mkdir()
        deadline = time.monotonic() + max(end - time.monotonic(), 0) / left
        counts: Counter = job(number, own, random.Random(options.seed), deadline)
        bad += sum(counts[name] for name in BAD)
        others = ", ".join(f"{n} {name}" for name, n in sorted(counts.items()) if name not in (*BAD, "done"))
        shown = " | ".join(str(counts[name]) for name in BAD)
        print(f"| {fault} | {kind} | {counts['done']} | {number} | {shown} | {others} |", flush=True)
    return 1 if bad else 0


def _compile_quickly(folder: Path) -> None:
    """Keeps compiled programs on disk, for the many processes; set before jax is imported."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")


if __name__ == "__main__":
    sys.exit(main())
