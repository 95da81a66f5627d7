"""Runs DARTS on CIFAR-10, in several calls if need be: the same command resumes."""

import argparse
from pathlib import Path

from experiments.darts.settings import PAPER, PAPER_ERRORS, SMALL
from experiments.darts.steps import GENOTYPE, PUBLISHED, read_genotype, run
from jaxnas import cache_compilations, data, keep_heap


def main() -> None:
    keep_heap()
    cache_compilations()
    parser = argparse.ArgumentParser(prog="python -m experiments.darts", description=__doc__)
    parser.add_argument("steps", choices=["search", "evaluate", "both"])
    parser.add_argument("--order", type=int, choices=[1, 2], default=2, help="of the search (default: 2)")
    parser.add_argument(
        "--hypergradient",
        choices=["exact", "finite_difference"],
        default="exact",
        help="for the second order: the exact gradient, or the paper's estimate of it (default: exact; see README.md)",
    )
    parser.add_argument(
        "--genotype", help=f"what to evaluate: {', '.join(PUBLISHED)}, or a file (default: what the search found)"
    )
    parser.add_argument("--small", action="store_true", help="smaller nets, fewer images and epochs: minutes on a CPU")
    parser.add_argument(
        "--data", help="cifar10, digits, or an .npz file (default: cifar10; digits if --small is without --data-dir)"
    )
    parser.add_argument("--data-dir", help="folder of prepared tensorflow-datasets")
    parser.add_argument(
        "--max-minutes", type=float, default=10.0, help="time limit; the same command resumes (default: 10)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--out", help="run directory (default: runs/darts-ORDER[-estimated][-small]-SEED, or with the genotype)"
    )
    options = parser.parse_args()
    if options.genotype and options.steps != "evaluate":
        parser.error("--genotype is for `evaluate`")

    estimated = options.order == 2 and options.hypergradient == "finite_difference"
    what = f"order{options.order}{'-estimated' * estimated}"
    what = Path(options.genotype).stem if options.genotype else what
    out = Path(options.out or Path("runs") / f"darts-{what}{'-small' * options.small}-{options.seed}")
    genotype = None
    if options.steps == "evaluate":
        try:
            genotype = read_genotype(options.genotype or str(out / GENOTYPE))
        except FileNotFoundError as e:
            parser.error(f"{e.filename or e}: there is no such genotype; run `search` first, or give --genotype")
        except (OSError, ValueError) as e:
            parser.error(str(e))
    name = options.data or ("digits" if options.small and options.data_dir is None else "cifar10")
    accuracy = run(
        SMALL if options.small else PAPER,
        data.load(name, data_dir=options.data_dir),
        steps=options.steps,
        order=options.order,
        hypergradient=options.hypergradient,
        genotype=genotype,
        out=out,
        seed=options.seed,
        minutes=options.max_minutes,
    )
    if accuracy is not None:
        paper = PAPER_ERRORS[{"DARTS_V1": 1, "DARTS_V2": 2}.get(options.genotype, options.order)]
        print(f"trained from scratch: test error {100 * (1 - accuracy):.2f} % (paper, all of CIFAR-10: {paper})")
        print(f"results are in {out}")


if __name__ == "__main__":
    main()
