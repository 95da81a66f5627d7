"""How well the scores of a trained supernet rank architectures: Kendall's tau with the table."""

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from scipy.stats import kendalltau

import jaxnas
from experiments.nasbench201.methods import METHODS, Settings, supernet
from experiments.nasbench201.one_shot import add_data_options, chosen
from jaxnas import runs
from jaxnas.benchmarks import nasbench201
from jaxnas.data import Dataset


def rank(
    out: Path,
    settings: Settings,
    images: Dataset,
    *,
    method: str = "darts",
    architectures: int = 200,
    examples: int = 2048,
) -> dict[str, Any]:
    """Scores random architectures with a supernet's weights, and compares with the table.

    Args:
      out: run directory of a one-shot search that has ended. Of one in stages the first is ranked, whose supernet has
        all candidates.
      settings: those it was searched with.
      images: as it was searched on.
      method: with which it was searched; it may have a supernet of its own.
      architectures: how many, drawn uniformly (the same for every supernet).
      examples: test images, in whole batches of 256, since they are normalised by batch statistics.

    Returns:
      `tau` and its `p_value` (against no association), `top`: the mean accuracy in the table of the 10 that score
      best, and of all.
    """
    images = dataclasses.replace(images, x_test=images.x_test[:examples], y_test=images.y_test[:examples])
    archs = jax.vmap(nasbench201.SPACE.sample)(jax.random.split(jax.random.key(2001), architectures))
    first = out / "stage_1"
    weights = runs.read_weights(first if first.is_dir() else out)
    scores = jaxnas.evaluate(supernet(settings, METHODS[method]), weights, archs, images)["accuracy"]
    device = nasbench201.device_table("cifar10", "test_accuracy")
    truth = np.asarray(jax.vmap(device)(archs))
    found = kendalltau(scores, truth)
    best = np.argsort(-scores)[:10]
    return {
        "tau": float(found.statistic),
        "p_value": float(found.pvalue),
        "top": float(truth[best].mean()),
        "all": float(truth.mean()),
        "architectures": architectures,
        "examples": examples,
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.nasbench201.rank", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="run directories of one_shot")
    parser.add_argument("--method", choices=METHODS, default="darts", help="whose supernets these are (default: darts)")
    add_data_options(parser)
    options = parser.parse_args()
    settings, images = chosen(options)
    for out in options.runs:
        found = rank(out, settings, images, method=options.method)
        (out / "rank.json").write_text(json.dumps(found), encoding="utf-8")
        print(
            f"{out.name}: Kendall tau {found['tau']:.3f} (p {found['p_value']:.1g}) over {found['architectures']} "
            f"architectures; the 10 that score best have {found['top']:.2f} % in the table, all {found['all']:.2f} %",
            flush=True,
        )


if __name__ == "__main__":
    main()
