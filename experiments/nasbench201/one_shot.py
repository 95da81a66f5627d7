"""A one-shot search of NAS-Bench-201's space on CIFAR-10, in several calls if need be: the same call resumes."""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import optax

import jaxnas
from experiments.nasbench201.methods import METHODS, PAPER, SMALL, Settings, supernet
from experiments.nasbench201.pieces import load_pieces
from jaxnas import data, runs
from jaxnas.benchmarks import nasbench201
from jaxnas.data import Augment, Dataset


def prepare(images: Dataset, settings: Settings) -> Dataset:
    """The images that the settings ask for."""
    factor = 32 // settings.side

    def smaller(x: np.ndarray) -> np.ndarray:
        blocks = x.reshape(len(x), settings.side, factor, settings.side, factor, 3)
        return np.rint(blocks.mean((2, 4))).astype(np.uint8)

    assert images.x_test is not None
    fields = {
        "x_train": smaller(images.x_train[: settings.images]),
        "y_train": images.y_train[: settings.images],
        "x_test": smaller(images.x_test),
        "y_test": images.y_test,
        "mean": images.mean,
        "std": images.std,
        "augment": Augment(crop=settings.side // 8, flip=True),
    }
    return Dataset(**fields)


def epochs_of(method: str, settings: Settings) -> int:
    """How long a search is."""
    return settings.epochs or METHODS[method].epochs


def search(
    method: str, settings: Settings, images: Dataset, *, out: Path, seed: int, minutes: float | None = None
) -> bool:
    """Starts or resumes a search; returns whether it has ended.

    The optimiser of the weights is that of the authors' one-shot searches: SGD with Nesterov momentum 0.9, its rate
    falling along a cosine once per epoch. Only the last epoch is validated, for the derived cells are in the table.
    """
    if (out / "result.json").exists():
        return True
    entry, epochs = METHODS[method], epochs_of(method, settings)
    built = entry.method(settings)
    portion = built.defaults.get("train_portion", 0.5) if entry.rate is not None else 0.5
    steps = int(len(images.x_train) * portion) // entry.batch
    high, low, decay = entry.weights
    cosine = optax.cosine_decay_schedule(high, epochs, alpha=low / high)
    result = jaxnas.search(
        supernet(settings, entry),
        images,
        built,
        epochs=epochs,
        batch_size=entry.batch,
        train_portion=portion,
        warmup_epochs=0,
        seed=seed,
        workdir=out,
        max_minutes=minutes,
        validate_every=epochs if entry.rate is not None else 1,
        arch_lr=None if entry.rate is None else entry.rate * settings.faster,
        weight_optimizer=optax.chain(
            optax.add_decayed_weights(decay), optax.sgd(lambda step: cosine(step // steps), momentum=0.9, nesterov=True)
        ),
        progress=False,
    )
    return len(result.history) == epochs


def course(out: Path) -> list[dict[str, Any]]:
    """For each epoch that derived one the architecture, its numbers in the table, its number of skip connections."""
    return [
        {
            "epoch": record["epoch"] + 1,
            "arch": nasbench201.to_string(record["arch"]),
            "cifar10": nasbench201.query(record["arch"], "cifar10"),
            "cifar100": nasbench201.query(record["arch"], "cifar100"),
            "imagenet16-120": nasbench201.query(record["arch"], "imagenet16-120"),
            "skips": list(record["arch"].values()).count("skip_connect"),
            "seconds": record["seconds"],
        }
        for record in runs.read_history(out)
        if "arch" in record
    ]


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """The options that say which images."""
    parser.add_argument("--small", action="store_true", help="fewer channels, cells and images: minutes on a CPU")
    parser.add_argument("--data", default="cifar10", help="cifar10, an .npz file, or a folder of pieces (pieces.py)")
    parser.add_argument("--data-dir", help="folder of prepared tensorflow-datasets")


def chosen(options: argparse.Namespace) -> tuple[Settings, Dataset]:
    """The settings and images that options ask for."""
    settings = SMALL if options.small else PAPER
    in_pieces = Path(options.data).is_dir()
    images = load_pieces(options.data) if in_pieces else data.load(options.data, data_dir=options.data_dir)
    return settings, prepare(images, settings)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.nasbench201.one_shot", description=__doc__)
    parser.add_argument("method", choices=METHODS)
    add_data_options(parser)
    parser.add_argument("--minutes", type=float, default=9.0, help="time limit; the same command resumes (default: 9)")
    parser.add_argument("--epochs", type=int, help="other than the settings'")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="default: runs/nasbench201/METHOD[-small]-SEED")
    options = parser.parse_args()

    settings, images = chosen(options)
    if options.epochs:
        settings = settings._replace(epochs=options.epochs)
    name = f"{options.method}{'-small' if options.small else ''}-{options.seed}"
    out = options.out or Path("runs") / "nasbench201" / name
    if search(options.method, settings, images, out=out, seed=options.seed, minutes=options.minutes):
        found = course(out)
        (out / "course.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
        last = found[-1]
        accuracies = " / ".join(f"{last[name]:.2f}" for name in nasbench201.DATASETS)
        print(f"{options.method} found {last['arch']} ({last['skips']} skip connections)")
        print(f"in the table: {accuracies} % test accuracy on {', '.join(nasbench201.DATASETS)}")
        print(f"results are in {out}")


if __name__ == "__main__":
    main()
