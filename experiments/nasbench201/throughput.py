"""Regularised evolution over the table: 500 seeds in one jitted call, compared with plain Python in the same run."""

import argparse
import os
import random
import statistics
import time
from collections import deque

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxnas import evolution, rollout
from jaxnas.benchmarks import nasbench201

BUDGET, POPULATION, SAMPLE = 12_000.0, 10, 3
TRIALS = 135  # enough for every seed to spend the budget; about 100 fit into it


def python_evolution(scores: np.ndarray, seconds: np.ndarray, rng: random.Random) -> tuple[float, int]:
    """One search; returns the best score and the number of architectures it evaluated."""
    population: deque = deque()
    clock, best, count = 0.0, -1.0, 0
    while True:
        if len(population) < POPULATION:
            arch = tuple(rng.randrange(5) for _ in range(6))
        else:
            drawn = [rng.choice(population) for _ in range(SAMPLE)]
            child = list(max(drawn, key=lambda member: member[1])[0])
            edge = rng.randrange(6)
            child[edge] = rng.choice([op for op in range(5) if op != child[edge]])
            arch = tuple(child)
        clock += seconds[arch]
        if clock > BUDGET:
            return best, count + 1
        score = scores[arch]
        best, count = max(best, score), count + 1
        population.append((arch, score))
        if len(population) > POPULATION:
            population.popleft()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.nasbench201.throughput", description=__doc__)
    parser.add_argument("--seeds", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    jax.config.update("jax_num_cpu_devices", cores)  # small operations use one core each, so seeds are spread over them
    score = nasbench201.device_table("cifar10", "valid_accuracy", 12)
    cost = nasbench201.device_table("cifar10", "train_seconds", 12)
    searcher = evolution.algorithm(nasbench201.SPACE, population=POPULATION, sample=SAMPLE)
    devices = next(n for n in range(len(jax.devices()), 0, -1) if options.seeds % n == 0)
    mesh = jax.make_mesh((devices,), ("seeds",), axis_types=(AxisType.Auto,))
    over_seeds = NamedSharding(mesh, PartitionSpec("seeds"))

    def search(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        run = rollout(searcher, score, key, trials=TRIALS)
        clock = jax.vmap(cost)(run.archs).cumsum()
        return jax.numpy.where(clock <= BUDGET, run.scores, 0).max(), clock[-1]

    keys = jax.device_put(jax.random.split(jax.random.key(0), options.seeds), over_seeds)
    start = time.perf_counter()
    compiled = jax.jit(jax.vmap(search), in_shardings=over_seeds, out_shardings=over_seeds).lower(keys).compile()
    print(f"{options.seeds} seeds, {devices} core(s); compiled in {time.perf_counter() - start:.1f} s")
    best, clocks = jax.device_get(compiled(keys))
    assert clocks.min() > BUDGET, "a search did not come to the end of its budget"
    tables = [np.asarray(table.values) for table in (score, cost)]

    ours, theirs = [], []
    for repeat in range(options.repeats):  # in turn, so that a busy machine affects both
        start = time.perf_counter()
        jax.block_until_ready(compiled(keys))
        ours.append(time.perf_counter() - start)
        start = time.perf_counter()
        found = [python_evolution(*tables, random.Random(f"{repeat} {i}")) for i in range(options.seeds)]
        theirs.append(time.perf_counter() - start)

    rates = [options.seeds * TRIALS / seconds for seconds in ours]
    python_rates = [sum(count for _, count in found) / seconds for seconds in theirs]
    ratios = [a / b for a, b in zip(rates, python_rates, strict=True)]
    print(f"one jitted call: {statistics.median(ours) * 1000:.2f} ms, best score {best.mean():.2f} on average")
    print(f"plain Python:    {statistics.median(theirs) * 1000:.0f} ms, {np.mean([b for b, _ in found]):.2f}")
    print(
        f"architectures evaluated per second: {statistics.median(rates):,.0f} against "
        f"{statistics.median(python_rates):,.0f}: {statistics.median(ratios):.0f} times as many "
        f"({min(ratios):.0f} to {max(ratios):.0f} in {len(ratios)} repeats)"
    )


if __name__ == "__main__":
    main()
