"""Black-box searches over the table of NAS-Bench-201, 500 seeds each, in a simulated time of 12,000 seconds."""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas import Searcher, evolution, local_search, random_search, reinforce, rollout
from jaxnas.benchmarks import nasbench201

BUDGET = 12_000.0  # seconds
COLUMNS = [(data, metric) for data in nasbench201.DATASETS for metric in ("valid_accuracy", "test_accuracy")]
SPACE = nasbench201.SPACE

SEARCHERS: dict[str, Searcher] = {
    "random search": random_search.algorithm(SPACE),
    "evolution": evolution.algorithm(SPACE, population=10, sample=3),
    "REINFORCE, rate 0.001": reinforce.algorithm(SPACE, learning_rate=0.001),
    "REINFORCE, rate 0.01": reinforce.algorithm(SPACE, learning_rate=0.01),
    "REINFORCE, rate 0.1": reinforce.algorithm(SPACE, learning_rate=0.1),
    "local search, best neighbour": local_search.algorithm(SPACE),
    "local search, first better": local_search.algorithm(SPACE, first_improvement=True),
}

# arXiv 2001.00326, table 5: means in the order of COLUMNS, and the deviations given for CIFAR-10.
PAPER = {
    "random search": ((90.93, 93.70, 70.93, 71.04, 44.45, 44.57), (0.36, 0.36)),
    "evolution": ((91.19, 93.92, 71.81, 71.84, 45.15, 45.54), (0.31, 0.30)),
    "REINFORCE": ((91.09, 93.85, 71.61, 71.71, 45.05, 45.24), (0.37, 0.37)),
}


class Outcome(NamedTuple):
    """The results of searches from many seeds.

    Attributes:
      found: float32 `[seeds, 6]`: `COLUMNS` of the best architecture within the budget.
      trials: int32 `[seeds]`: architectures trained within the budget.
      curve: float32 `[times, seeds, 3]`: test accuracy, on the three data sets, of the best architecture so far.
      derived: as `found`, for the most probable architecture of a policy at the end; for other searchers as `found`.
    """

    found: jax.Array
    trials: jax.Array
    curve: jax.Array
    derived: jax.Array


def simulate(searcher: Searcher, *, budget: float = BUDGET, points: int = 120) -> Callable[[jax.Array], Outcome]:
    """The searches from many seeds as one pure function of their keys, for jit.

    As in the paper's code: an architecture costs what 12 epochs of training it took, is scored by its validation
    accuracy after them, and the search ends before the first that exceeds the budget.
    """
    score = nasbench201.device_table("cifar10", "valid_accuracy", 12)
    seconds = nasbench201.device_table("cifar10", "train_seconds", 12)
    tables = [nasbench201.device_table(*column) for column in COLUMNS]
    trials = int(np.ceil(budget / float(seconds.values.min())))

    def most_probable(state: Any) -> Any:
        return {k: v.argmax() for k, v in state.params.items()} if hasattr(state, "params") else ()

    def one(key: jax.Array) -> Outcome:
        run = rollout(searcher, score, key, trials=trials, observe=most_probable)
        clock = jnp.cumsum(jax.vmap(seconds)(run.archs))
        best = jax.lax.associative_scan(lambda i, j: jnp.where(run.scores[j] > run.scores[i], j, i), jnp.arange(trials))
        count = (clock <= budget).sum()

        def at(archs: Any, i: jax.Array) -> jax.Array:
            return jnp.stack([table({k: leaf[i] for k, leaf in archs.items()}) for table in tables])

        times = jnp.linspace(0, budget, points + 1)[1:]
        so_far = jnp.searchsorted(clock, times, side="right") - 1
        curve = jax.vmap(lambda i: at(run.archs, best[i]))(so_far)[:, 1::2]
        curve = jnp.where(so_far[:, None] < 0, jnp.nan, curve)
        found = at(run.archs, best[count - 1])
        return Outcome(found, count, curve, at(run.observed, count - 1) if run.observed else found)

    return jax.vmap(one, out_axes=Outcome(0, 0, 1, 0))


def run(*, seeds: int = 500, seed: int = 0) -> dict[str, dict[str, Any]]:
    """Runs every searcher; returns its numbers."""
    keys = jax.random.split(jax.random.key(seed), seeds)
    results = {}
    for name, searcher in SEARCHERS.items():
        compiled = jax.jit(simulate(searcher)).lower(keys).compile()
        start = time.perf_counter()
        outcome = jax.device_get(jax.block_until_ready(compiled(keys)))
        results[name] = {
            "seconds": time.perf_counter() - start,
            "trials": float(outcome.trials.mean()),
            "mean": outcome.found.mean(0).tolist(),
            "deviation": outcome.found.std(0).tolist(),
            "derived_mean": outcome.derived.mean(0).tolist(),
            "curve_mean": np.nanmean(outcome.curve, 1).tolist(),
            "curve_deviation": np.nanstd(outcome.curve, 1).tolist(),
        }
        print(f"{name:30s} {row(results[name]['mean'], results[name]['deviation'])}", flush=True)
    return results


def row(means: Any, deviations: Any = ()) -> str:
    """Cells of a Markdown table."""
    cells = [f"{mean:.2f}" for mean in means]
    for i, deviation in enumerate(deviations):
        cells[i] += f" ± {deviation:.2f}"
    return " | ".join(cells)


def markdown(results: dict[str, dict[str, Any]]) -> str:
    """The table of the README: ours, the paper's, and their difference."""
    names = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "imagenet16-120": "ImageNet16-120"}
    head = [f"{names[data]} {metric.removesuffix('_accuracy')}" for data, metric in COLUMNS]
    lines = [f"| method | trials | {' | '.join(head)} |", "|---" * (len(head) + 2) + "|"]
    for name, found in results.items():
        lines.append(f"| {name} | {found['trials']:.0f} | {row(found['mean'], found['deviation'])} |")
        if found["derived_mean"] != found["mean"]:
            lines.append(f"| its most probable one | | {row(found['derived_mean'])} |")
        paper = PAPER.get(name.split(",")[0])
        if paper:
            lines.append(f"| *the paper's* | | {row(*paper)} |")
            difference = np.subtract(found["mean"], paper[0])
            lines.append(f"| *difference* | | {' | '.join(f'{d:+.2f}' for d in difference)} |")
    best = [nasbench201.table(*column).max() for column in COLUMNS]
    lines.append(f"| best in the table | 15,625 | {row(best)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.nasbench201.black_box", description=__doc__)
    parser.add_argument("--seeds", type=int, default=500, help="searches per method (default: 500)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/nasbench201"), help="default: runs/nasbench201")
    parser.add_argument("--picture", type=Path, help="also draw the curves, into this .svg or .png (needs matplotlib)")
    options = parser.parse_args()
    results = run(seeds=options.seeds, seed=options.seed)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "black_box.json").write_text(json.dumps(results), encoding="utf-8")
    table = markdown(results)
    (options.out / "black_box.md").write_text(table + "\n", encoding="utf-8")
    print("\n" + table)
    if options.picture:
        from experiments.nasbench201.pictures import draw_curves

        draw_curves(results, options.picture, budget=BUDGET)
        print(f"\n{options.picture}")


if __name__ == "__main__":
    main()
