"""Runs the quickstart and says where the results are."""

import argparse
import os
import sys
from pathlib import Path

from jaxnas import data, runs
from jaxnas.model.entropy import sureness
from jaxnas.quickstart.steps import run


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m jaxnas.quickstart", description=__doc__)
    parser.add_argument("--data", default="digits", help='"digits", an .npz file, or e.g. cifar10 (default: digits)')
    parser.add_argument(
        "--data-dir", help="folder of NAME.npz (python -m jaxnas.data prepare) or of prepared tensorflow-datasets"
    )
    parser.add_argument("--epochs", type=int, default=20, help="epochs of search (default: 20)")
    parser.add_argument("--retrain-epochs", type=int, default=20, help="epochs of retraining (default: 20)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="runs/quickstart", help="run directory (default: runs/quickstart, or -2, …)")
    options = parser.parse_args()

    out = runs.free(options.out)
    images = data.load(options.data, data_dir=options.data_dir)
    print(f"Searching {options.data} with DARTS.", flush=True)
    result, trained = run(
        images, epochs=options.epochs, retrain_epochs=options.retrain_epochs, out=out, seed=options.seed
    )
    print(f"\nFound {result.arch}. How sure each choice is:")
    last = result.history[-1]
    for key, spec in result.space.items():
        print(f"  {key}: {sureness(spec, last['probabilities'][key])}")
    print(f"With the weights of the search it has {100 * last['derived_accuracy']:.2f} % on held-out training data;")
    print(f"trained on its own it has {100 * trained.test_accuracy:.2f} % test accuracy.")
    print(f"Architecture: {out / 'final_arch.json'}   history: {out / 'history.jsonl'}   retraining: {out / 'retrain'}")
    here = _programs()
    print("\nNext, try:")
    print(f"  {here}jaxnas show {out}                       what the search found, and how sure it is")
    print(f"  {here}jaxnas report {out}                     the whole search as a page to open in a browser")
    print(f"  {here}jaxnas retrain {out} --inherit          start from the supernet's weights")
    print(f"  {here}jaxnas predict {out / 'retrain'} FILE    classify images with the trained model")
    print(f"  {here}python -m jaxnas.quickstart --data cifar10 --data-dir DIR --epochs 2 --retrain-epochs 10")
    print(f"  {here}jaxnas search darts --model my_module:MyNet --data my_data.npz --out runs/mine")


def _programs() -> str:
    """The folder of this environment's programs, with a slash, where a shell would not find them by itself."""
    folder = Path(sys.prefix) / "bin"
    if str(folder) in os.environ.get("PATH", "").split(os.pathsep):
        return ""
    return f"{os.path.relpath(folder) if folder.is_relative_to(Path.cwd()) else folder}/"


if __name__ == "__main__":
    main()
