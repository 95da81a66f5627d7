"""CIFAR-10 in files of under 60 MB, for a machine to which only small files can be copied."""

import argparse
from pathlib import Path

import numpy as np

from jaxnas import data
from jaxnas.data import Dataset

_PER_PIECE = 15_000  # 46 MB of 32×32×3 bytes


def save_pieces(images: Dataset, folder: str | Path) -> list[Path]:
    """Writes a data set as `train-0.npz`, …, `test-0.npz`, …, each with x and y."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for part in ("train", "test"):
        x, y = getattr(images, f"x_{part}"), getattr(images, f"y_{part}")
        for number, start in enumerate(range(0, len(x), _PER_PIECE)):
            written.append(folder / f"{part}-{number}.npz")
            np.savez(written[-1], x=x[start : start + _PER_PIECE], y=y[start : start + _PER_PIECE])
    return written


def load_pieces(folder: str | Path) -> Dataset:
    """Reads what `save_pieces` wrote.

    Raises:
      FileNotFoundError: if there are no pieces, or one is missing.
    """
    arrays = []
    for part in ("train", "test"):
        files = sorted(Path(folder).glob(f"{part}-*.npz"))
        if not files or files[-1].stem != f"{part}-{len(files) - 1}":
            raise FileNotFoundError(f"{folder}: expected {part}-0.npz and so on; found {[f.name for f in files]}.")
        loaded = [np.load(file) for file in files]
        arrays += [np.concatenate([piece[name] for piece in loaded]) for name in ("x", "y")]
    return Dataset(*arrays, name="cifar10")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.nasbench201.pieces", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data-dir", help="folder of prepared tensorflow-datasets")
    options = parser.parse_args()
    for file in save_pieces(data.load("cifar10", data_dir=options.data_dir), options.folder):
        print(f"{file}: {file.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
