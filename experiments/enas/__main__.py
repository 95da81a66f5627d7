"""Runs ENAS on CIFAR-10, in several calls if need be: the same command resumes."""

import argparse
from pathlib import Path

from experiments.enas.settings import SETTINGS
from experiments.enas.steps import run
from jaxnas import data


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.enas", description=__doc__)
    parser.add_argument("space", choices=["macro", "micro"])
    parser.add_argument("--small", action="store_true", help="a smaller net, fewer images and epochs: minutes on a CPU")
    parser.add_argument(
        "--data", default="cifar10", help="cifar10, or an .npz file of it (see jaxnas.data.Dataset.save)"
    )
    parser.add_argument("--data-dir", help="folder of prepared tensorflow-datasets")
    parser.add_argument("--minutes", type=float, default=9.0, help="time limit; the same command resumes (default: 9)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", help="run directory (default: runs/enas-SPACE[-small]-SEED)")
    options = parser.parse_args()

    name = f"enas-{options.space}{'-small' if options.small else ''}-{options.seed}"
    out = Path(options.out or Path("runs") / name)
    settings = SETTINGS[options.space, "small" if options.small else "paper"]
    images = data.load(options.data, data_dir=options.data_dir)
    run(settings, images, out=out, seed=options.seed, minutes=options.minutes)


if __name__ == "__main__":
    main()
