"""Makes the package's NAS-Bench-201 table from a CSV file with one row per architecture, in the official order."""

import argparse
import csv
from pathlib import Path

import numpy as np

from jaxnas.benchmarks.nasbench201 import COLUMNS, TABLE


def make(source: Path, target: Path) -> None:
    """Writes each column as integers (digits after the point as `COLUMNS` says), their bytes separated, compressed.

    Bytes of one significance vary little from row to row once they stand together, so they compress to a third.

    Raises:
      ValueError: if the rows are not in order, or a number has more digits than its column keeps.
    """
    with open(source, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if [int(row["idx"]) for row in rows] != list(range(5**6)):
        raise ValueError(f"{source}: expected the rows 0 to {5**6 - 1} in order.")
    arrays = {"ops": np.array([[int(op) for op in row["ops"]] for row in rows], np.uint8).T.copy()}
    for name, column in COLUMNS.items():
        values = np.array([float(row[column.source]) for row in rows])
        scaled = np.rint(values * 10**column.digits).astype("<u4")
        if not np.array_equal(scaled / 10**column.digits, values):
            raise ValueError(f"{source}: {column.source} has more than {column.digits} digits after the point.")
        arrays[name] = scaled.view(np.uint8).reshape(-1, 4).T.copy()
    np.savez_compressed(target, **arrays)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.nasbench201.make_table", description=__doc__)
    parser.add_argument("source", type=Path, help="nb201.csv")
    parser.add_argument("--out", type=Path, default=TABLE, help=f"default: {TABLE.name} in the package")
    options = parser.parse_args()
    make(options.source, options.out)
    print(f"{options.out.name}: {options.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
