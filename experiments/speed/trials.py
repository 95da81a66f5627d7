"""What it costs to evaluate a trial elsewhere: milliseconds per trial of an evaluator that does nothing.

python -m experiments.speed.trials --workers 4
"""

from __future__ import annotations

import argparse
import functools
import time
from concurrent.futures import ThreadPoolExecutor

import jaxnas
from jaxnas.benchmarks import nasbench201

FIRST, ALL = 20, 220


def evaluate(arch: dict) -> float:
    """Nothing."""
    return 0.0


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=4)
    workers = parser.parse_args().workers
    ways = {
        "in the process": None,
        "threads": functools.partial(ThreadPoolExecutor, workers),
        "processes": jaxnas.trials.processes(workers),
        "ray": jaxnas.trials.on_ray(workers, num_cpus=0),
    }
    for name, executor in ways.items():
        try:
            seconds = [_seconds(executor, trials) for trials in (FIRST, ALL)]
        except ImportError as e:
            print(f"{name}: {e}")
            continue
        each = 1e3 * (seconds[1] - seconds[0]) / (ALL - FIRST)
        print(f"{name}: {each:.1f} ms per trial; first {FIRST}: {seconds[0]:.1f} s")


def _seconds(executor: object, trials: int) -> float:
    start = time.perf_counter()
    jaxnas.random_search.search(nasbench201.SPACE, evaluate, trials=trials, executor=executor, progress=False)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
