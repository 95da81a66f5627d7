"""One-shot searches of NAS-Bench-201's space on CIFAR-10, in several calls if need be: the same call resumes."""

import argparse
import functools
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optax

from experiments.nasbench201.pieces import load_pieces
from jaxnas import darts, data, enas, rsps, runs, spaces
from jaxnas.benchmarks import nasbench201
from jaxnas.data import Augment, Dataset


class Settings(NamedTuple):
    """The settings of a search: network, images and method.

    Attributes:
      channels, cells: of the supernet.
      images: training images, None for all.
      side: of the images, a divisor of 32; smaller ones are averaged down.
      darts_epochs, rsps_epochs, enas_epochs: of the searches.
      alpha_rate: Adam's, of the alphas.
      controller_steps: of ENAS, per epoch.
      sampled: architectures that RSPS and ENAS score after each epoch; 100 after the last.
    """

    channels: int
    cells: int
    images: int | None
    side: int
    darts_epochs: int
    rsps_epochs: int
    enas_epochs: int
    alpha_rate: float
    controller_steps: int
    sampled: int = 10


PAPER = Settings(16, 5, None, 32, 50, 250, 250, 3e-4, 50)
SMALL = Settings(8, 1, 5_000, 16, 40, 250, 40, 3e-3, 10)

METHODS = {
    "darts-1": {"order": 1},
    "darts-2": {"order": 2, "hypergradient": "exact"},
    "darts-2-fd": {"order": 2, "hypergradient": "finite_difference"},
    "rsps": {},
    "enas": {},
}


def supernet(settings: Settings) -> Any:
    """The space's model, normalised as in the authors' searches."""
    return spaces.nasbench201(channels=settings.channels, cells=settings.cells, search_norm=True)


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


def search(method: str, settings: Settings, images: Dataset, *, out: Path, seed: int, minutes: float) -> bool:
    """Starts or resumes a search; returns whether it has ended.

    The optimisers are those of the authors' one-shot searches: SGD with Nesterov momentum 0.9, its rate falling along a
    cosine once per epoch; DARTS and RSPS 0.025 to 0.001 with weight decay 5e-4 and batches of 64, ENAS 0.05 to
    0.0005 with 2.5e-4 and 128.
    """
    if (out / "result.json").exists():
        return True
    batch = 128 if method == "enas" else 64
    lengths = {"rsps": settings.rsps_epochs, "enas": settings.enas_epochs}
    epochs = lengths.get(method, settings.darts_epochs)
    steps = len(images.x_train) // 2 // batch
    high, low, decay = (0.05, 0.0005, 2.5e-4) if method == "enas" else (0.025, 0.001, 5e-4)
    cosine = optax.cosine_decay_schedule(high, epochs, alpha=low / high)
    common: dict[str, Any] = {
        "epochs": epochs,
        "batch_size": batch,
        "seed": seed,
        "train_portion": 0.5,
        "workdir": out,
        "max_minutes": minutes,
        "weight_optimizer": optax.chain(
            optax.add_decayed_weights(decay), optax.sgd(lambda step: cosine(step // steps), momentum=0.9, nesterov=True)
        ),
    }
    if method.startswith("darts"):
        alphas = optax.chain(optax.add_decayed_weights(1e-3), optax.adam(settings.alpha_rate, b1=0.5, b2=0.999))
        result = darts.search(supernet(settings), images, arch_optimizer=alphas, **METHODS[method], **common)
        return len(result.history) == epochs
    common |= {"validate_samples": settings.sampled, "derive_samples": 100}
    if method == "rsps":
        return len(rsps.search(supernet(settings), images, **common).history) == epochs
    result = enas.search(
        supernet(settings),
        images,
        controller=functools.partial(enas.controller, step_embedding=False),  # the paper's
        controller_optimizer=optax.adam(1e-3, b1=0.0, b2=0.999),
        controller_steps=settings.controller_steps,
        baseline_decay=0.99,
        **common,
    )
    return len(result.history) == epochs


def course(out: Path) -> list[dict[str, Any]]:
    """For each epoch the derived architecture, its numbers in the table, and its number of skip connections."""
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
        epochs = options.epochs
        settings = settings._replace(darts_epochs=epochs, rsps_epochs=epochs, enas_epochs=epochs)
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
