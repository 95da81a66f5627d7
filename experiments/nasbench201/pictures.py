"""The pictures of this experiment. Needs matplotlib."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from jaxnas.benchmarks import nasbench201

TITLES = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "imagenet16-120": "ImageNet16-120"}
SHOWN = {  # name of a search -> its colour (Okabe and Ito's palette, for colour-blind readers) and line
    "random search": ("#000000", "--"),
    "REINFORCE, rate 0.001": ("#E69F00", "-"),
    "REINFORCE, rate 0.1": ("#D55E00", "-"),
    "evolution": ("#0072B2", "-"),
    "local search, best neighbour": ("#56B4E9", "-"),
    "local search, first better": ("#009E73", "-"),
}
LOWEST = {"cifar10": 91.5, "cifar100": 66, "imagenet16-120": 39}


def draw_curves(results: dict[str, dict[str, Any]], path: Path, *, budget: float) -> None:
    """Test accuracy of the best architecture so far, against simulated time: mean over the seeds."""
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.6), constrained_layout=True)
    for i, (data, axis) in enumerate(zip(TITLES, axes, strict=True)):
        best = nasbench201.table(data, "test_accuracy").max()
        for name, (colour, style) in SHOWN.items():
            mean = np.array(results[name]["curve_mean"])[:, i]
            times = np.linspace(0, budget, len(mean) + 1)[1:] / 1000
            axis.plot(times, mean, style, color=colour, label=name, linewidth=1.6)
        axis.axhline(best, color="0.6", linewidth=1, linestyle=":")
        across = axis.get_yaxis_transform()
        axis.text(0.98, best, "best in the table", transform=across, ha="right", va="bottom", color="0.4", fontsize=8)
        axis.set(title=TITLES[data], xlabel="simulated training time (1000 s)", xlim=(0, budget / 1000))
        axis.set_ylim(LOWEST[data], best + 0.09 * (best - LOWEST[data]))
        axis.grid(color="0.92")
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("test accuracy (%), mean of 500 seeds")
    axes[2].legend(loc="lower right", fontsize=8, frameon=False)
    save(figure, path)


SEEDS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def draw_grid(found: dict[str, dict[str, dict[str, Any]]], path: Path) -> None:
    """For each method CIFAR-10 test accuracy, in the table, of the cell derived after each epoch: a line for each seed.

    Skip connections are shown as dots along the lower edge, larger for more of them (first seed).
    """
    columns = 5
    rows = -(-len(found) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(2.3 * columns, 1.9 * rows), sharey=True, constrained_layout=True, squeeze=False
    )
    for axis, (name, seeds) in zip(axes.flat, found.items(), strict=False):
        for number, (seed, one) in enumerate(seeds.items()):
            share = 100 * np.linspace(0, 1, len(one["course"]) + 1)[1:]
            colour = SEEDS[number % len(SEEDS)]
            values = [point["cifar10"] for point in one["course"]]
            axis.plot(share, values, color=colour, linewidth=1.2, label=f"seed {seed}")
            if number == 0:
                skips = np.array([point["skips"] for point in one["course"]])
                axis.scatter(share, np.full(len(share), 46.0), s=3 * skips, color="0.35", linewidths=0)
        axis.axhline(nasbench201.query(1835), color="0.6", linewidth=1, linestyle=":")
        axis.set_title(name, fontsize=9)
        axis.set(xlim=(0, 102), ylim=(43, 97))
        axis.grid(color="0.92")
        axis.set_axisbelow(True)
        axis.tick_params(labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes.flat[len(found) :]:
        axis.set_visible(False)
    if found:
        axes[0, 0].legend(fontsize=7, frameon=False, loc="lower center")
    figure.supxlabel("share of the search (%); dots: skip connections of the first seed's cell", fontsize=9)
    figure.supylabel("test accuracy in the table (%); dotted: skip connections only", fontsize=9)
    save(figure, path)


def save(figure: Any, path: Path) -> None:
    """Writes a picture without dates or random names, so that the same numbers give the same bytes."""
    plt.rcParams["svg.hashsalt"] = "jaxnas"
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"Date": None} if path.suffix == ".svg" else {}
    figure.savefig(path, dpi=110, metadata=metadata)
    plt.close(figure)
