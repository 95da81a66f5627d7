"""The pictures of this experiment. Needs matplotlib."""

import argparse
import json
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


COLOURS = {"darts-1": "#0072B2", "darts-2": "#56B4E9", "darts-2-fd": "#CC79A7", "rsps": "#009E73", "enas": "#E69F00"}

LINES = {"darts-2": "--", "darts-2-fd": ":"}


def draw_courses(courses: list[tuple[str, list[dict[str, Any]]]], path: Path) -> None:
    """CIFAR-10 test accuracy, in the table, of the architecture derived after each epoch, and its skip connections.

    The bold line is the median over a tenth of the search around each epoch, the thin one the epochs themselves. A
    second search by the same method is dash-dotted.
    """
    figure, (accuracy, skips) = plt.subplots(1, 2, figsize=(10, 3.8), constrained_layout=True)
    for number, (name, course) in enumerate(courses):
        line = "-." if name in [before for before, _ in courses[:number]] else LINES.get(name, "-")
        share = 100 * np.array([point["epoch"] for point in course]) / course[-1]["epoch"]
        for axis, column in ((accuracy, "cifar10"), (skips, "skips")):
            values = np.array([point[column] for point in course])
            half = max(1, len(values) // 20)
            smooth = [np.median(values[max(0, i - half) : i + half + 1]) for i in range(len(values))]
            axis.plot(share, values, color=COLOURS[name], linewidth=0.6, alpha=0.35)
            label = f"{name} ({len(course)} epochs)"
            axis.plot(share, smooth, line, color=COLOURS[name], linewidth=2, label=label)
    collapsed = nasbench201.query(1835)
    accuracy.axhline(collapsed, color="0.6", linewidth=1, linestyle=":")
    across = accuracy.get_yaxis_transform()
    accuracy.text(0.02, collapsed - 0.6, "skip connections only", transform=across, va="top", color="0.4", fontsize=8)
    accuracy.set(xlabel="share of the search (%)", ylabel="test accuracy in the table (%)", title="CIFAR-10")
    skips.set(
        xlabel="share of the search (%)",
        ylabel="skip connections, of 6 edges",
        title="The derived cell",
        ylim=(-0.2, 6.2),
    )
    for axis in (accuracy, skips):
        axis.grid(color="0.92")
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    figure.legend(*accuracy.get_legend_handles_labels(), loc="outside right center", frameon=False)
    save(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.nasbench201.pictures", description="Draws searches.")
    parser.add_argument("runs", nargs="+", type=Path, help="run directories of one_shot")
    parser.add_argument("--out", type=Path, required=True, help=".svg or .png")
    options = parser.parse_args()
    courses = []
    for run in options.runs:
        name = next(name for name in sorted(COLOURS, key=len, reverse=True) if run.name.startswith(name))
        courses.append((name, json.loads((run / "course.json").read_text(encoding="utf-8"))))
    draw_courses(courses, options.out)


def save(figure: Any, path: Path) -> None:
    """Writes a picture without dates or random names, so that the same numbers give the same bytes."""
    plt.rcParams["svg.hashsalt"] = "jaxnas"
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"Date": None} if path.suffix == ".svg" else {}
    figure.savefig(path, dpi=110, metadata=metadata)
    plt.close(figure)


if __name__ == "__main__":
    main()
