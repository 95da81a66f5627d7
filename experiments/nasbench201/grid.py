"""One-shot searches of NAS-Bench-201 by many methods from many seeds: runs what is left of them, and writes the table.

The same command goes on where it was stopped, and takes what is in the folder's `grid.json` as done. It writes
`grid.json`, `grid.md` and `grid.svg` into the folder.
"""

import argparse
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import rankdata, spearmanr

from experiments.nasbench201.methods import METHODS, Settings
from experiments.nasbench201.one_shot import add_data_options, chosen, course, search
from experiments.nasbench201.rank import rank
from jaxnas import compilation
from jaxnas.benchmarks import nasbench201
from jaxnas.data import Dataset

Found = dict[str, dict[str, dict[str, Any]]]
"""method -> seed -> what `looked_up` says."""


def looked_up(out: Path, method: str, settings: Settings, images: Dataset) -> dict[str, Any]:
    """What a search that has ended found, and how its supernet ranks. Kept in its folder.

    Returns:
      `course`, see `one_shot.course`; `index`, the derived cell's in the table; test accuracies, `skips` and `tau`;
      `seconds`, of the search without its first epoch, which compiles, and `step_seconds`.
    """
    kept = out / "looked_up.json"
    if kept.exists():
        return json.loads(kept.read_text(encoding="utf-8"))
    followed = course(out)
    last = followed[-1]
    portion = METHODS[method].method(settings).defaults.get("train_portion", 0.5)
    steps = int(len(images.x_train) * portion) // METHODS[method].batch
    seconds = [point["seconds"] for point in followed[1:]] or [followed[0]["seconds"]]
    found = {
        "course": followed,
        "index": nasbench201.to_index(last["arch"]),
        **{name: last[name] for name in (*nasbench201.DATASETS, "skips")},
        "tau": rank(out, settings, images, method=method)["tau"],
        "seconds": sum(seconds),
        "step_seconds": statistics.median(seconds) / steps,
    }
    kept.write_text(json.dumps(found), encoding="utf-8")
    return found


def agreement(found: Found, *, draws: int = 2000) -> dict[str, float]:
    """Spearman's rho of our order of the methods against the published one, by mean test accuracy on CIFAR-10.

    Returns:
      `rho`, and `low` and `high`, between which it lies in 95 % of `draws` draws of our seeds, with replacement;
      `methods`, how many have a published number. NaN for fewer than three.
    """
    names = [name for name in found if METHODS[name].published]
    if len(names) < 3:
        return {"rho": np.nan, "low": np.nan, "high": np.nan, "methods": len(names)}
    theirs = rankdata([METHODS[name].published[0][0] for name in names])
    ours = [np.array([each["cifar10"] for each in found[name].values()]) for name in names]
    random = np.random.default_rng(0)
    drawn = [
        spearmanr([random.choice(each, len(each)).mean() for each in ours], theirs).statistic for _ in range(draws)
    ]
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    rho = spearmanr([each.mean() for each in ours], theirs).statistic
    return {"rho": float(rho), "low": float(low), "high": float(high), "methods": len(names)}


def markdown(found: Found) -> str:
    """The table: a row for each method, means and standard deviations over the seeds."""
    lines = [
        "| method | seeds | CIFAR-10 | CIFAR-100 | ImageNet16-120 | skip connections | cells (index in the table) | "
        "Kendall's τ | ms per step | published, CIFAR-10 |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, seeds in found.items():
        each = list(seeds.values())
        accuracies = " | ".join(_spread([one[data] for one in each]) for data in nasbench201.DATASETS)
        published = (
            " ± ".join(f"{value:.2f}" for value in METHODS[name].published[0]) if METHODS[name].published else ""
        )
        skips = ", ".join(str(one["skips"]) for one in each)
        cells = ", ".join(str(one["index"]) for one in each)
        tau = _spread([one["tau"] for one in each])
        step = 1000 * statistics.median(one["step_seconds"] for one in each)
        lines.append(f"| {name} | {len(each)} | {accuracies} | {skips} | {cells} | {tau} | {step:.0f} | {published} |")
    rho = agreement(found)
    lines += [
        "",
        f"Spearman's ρ of our order against the published one, {rho['methods']} methods: {rho['rho']:.2f} "
        f"({rho['low']:.2f} to {rho['high']:.2f}).",
    ]
    return "\n".join(lines) + "\n"


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.mean(values):.2f}" + (f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else "")


def write(found: Found, folder: Path) -> None:
    """The results as data, as a table, and as a picture."""
    from experiments.nasbench201.pictures import draw_grid

    (folder / "grid.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (folder / "grid.md").write_text(markdown(found), encoding="utf-8")
    draw_grid(found, folder / "grid.svg")


def known(folder: Path) -> Found:
    """What a folder's `grid.json` says; `{}` if it has none."""
    file = folder / "grid.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def ordered(found: Mapping[str, Mapping[str, Any]]) -> Found:
    """In the order of `METHODS`, and the seeds ascending."""
    return {
        name: {seed: found[name][seed] for seed in sorted(found[name], key=int)} for name in METHODS if found.get(name)
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.nasbench201.grid",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), metavar="METHOD")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="SEED")
    add_data_options(parser)
    parser.add_argument("--minutes", type=float, default=1e6, help="time limit; the same command resumes")
    parser.add_argument("--out", type=Path, help="default: runs/nasbench201/grid[-small]")
    options = parser.parse_args()
    compilation.cache_compilations()
    compilation.keep_heap()
    settings, images = chosen(options)
    folder = options.out or Path("runs") / "nasbench201" / ("grid-small" if options.small else "grid")
    end = time.monotonic() + 60 * options.minutes
    found: Found = {name: {} for name in METHODS} | known(folder)
    for seed in options.seeds:  # outside, so that every method has one search before any has two
        for method in options.methods:
            if str(seed) in found[method]:
                continue
            out = folder / f"{method}-{seed}"
            new, left = not (out / "looked_up.json").exists(), (end - time.monotonic()) / 60
            if new and (left <= 0 or not search(method, settings, images, out=out, seed=seed, minutes=left)):
                continue
            one = found[method][str(seed)] = looked_up(out, method, settings, images)
            if new:
                print(f"{out.name}: {one['cifar10']:.2f} %, {one['skips']} skip connections", flush=True)
                write(ordered(found), folder)
    write(ordered(found), folder)
    print((folder / "grid.md").read_text(encoding="utf-8"))
    print(f"results are in {folder}")


if __name__ == "__main__":
    main()
