"""What one bilevel step of DARTS takes on a TPU that is not here: ours beside plain Flax, by XLA's own count.

It needs libtpu (the extra `tpu`), and no TPU. It writes `results.json` into the folder, and prints the table.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import jaxnas
from experiments.tpu import plain
from jaxnas.programs.forecast import Forecast, StepForecast, device_of, forecast_steps
from jaxnas.quickstart.net import Net

IMAGES = jaxnas.data.Dataset(
    np.zeros((50_000, 32, 32, 3), np.uint8), np.arange(50_000) % 10, mean=(0.5,) * 3, std=(0.25,) * 3
)
"""As large as CIFAR-10; what is in them does not matter, since nothing is computed."""


class Row(NamedTuple):
    """A supernet in both forms, and its batch size."""

    ours: Callable[[], Any]
    plain: Callable[[], Any]
    batch: int = 64


ROWS = {
    "quickstart": Row(Net, plain.Quickstart),
    "nasbench201": Row(jaxnas.spaces.nasbench201, plain.NasBench201),
    "darts": Row(jaxnas.spaces.darts, plain.Darts),
}


def ours(row: Row, topology: str | None) -> StepForecast:
    method = jaxnas.darts.method()
    forecast: Forecast = jaxnas.plan(row.ours(), IMAGES, method, batch_size=row.batch, topology=topology)
    return forecast.steps[0]


def theirs(row: Row, topology: str | None) -> StepForecast:
    space = jaxnas.space(row.ours(), IMAGES.example(row.batch))
    choices = {key: spec.n_candidates for key, spec in space.items()}
    init, step = plain.bilevel(row.plain(), choices)
    labels = jax.ShapeDtypeStruct((row.batch,), np.int32)
    sample = IMAGES.example(row.batch), labels
    _, [counted] = forecast_steps(
        step,
        IMAGES,
        init=lambda key: init(key, sample),
        watched=("train_loss",),
        batches=[(1, (row.batch, row.batch))],
        device=device_of(topology)[0],
    )
    return counted


def numbers(step: StepForecast) -> dict[str, Any]:
    cost = step.cost
    return {
        "gflop": cost.flops / 1e9,
        "traffic_mb": (cost.bytes or 0) / 1e6,
        "temporaries_mb": (cost.temporaries or 0) / 1e6,
        "collectives": dict(cost.collectives or {}),
        "compile_seconds": cost.seconds,
    }


def table(results: dict[str, Any]) -> str:
    lines = [
        "| supernet | form | GFLOP | MB of traffic | MB of temporaries | s to compile |",
        "|---|---|---|---|---|---|",
    ]
    names = ("gflop", "traffic_mb", "temporaries_mb", "compile_seconds")
    for name, both in results.items():
        for form in ("jaxnas", "plain"):
            lines.append(f"| {name} | {form} | {' | '.join(f'{both[form][each]:,.2f}' for each in names)} |")
        ratios = [both["jaxnas"][each] / max(both["plain"][each], 1e-9) for each in names]
        lines.append(f"| | *ratio* | {' | '.join(f'{ratio:.2f}' for ratio in ratios)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.tpu", description=__doc__)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--topology", default="v5e:2x2", help='"here" for the device of this machine')
    parser.add_argument("--out", type=Path, default=Path("runs/tpu"), help="default: runs/tpu")
    options = parser.parse_args()
    topology = None if options.topology == "here" else options.topology
    results = {}
    for name in options.rows:
        row = ROWS[name]
        results[name] = {"jaxnas": numbers(ours(row, topology)), "plain": numbers(theirs(row, topology))}
        print(f"{name} done", flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    known = {"topology": options.topology, "device": device_of(topology)[1], "jax": jax.__version__, "rows": results}
    (options.out / "results.json").write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    print(table(results))
    print(f"results are in {options.out}")


if __name__ == "__main__":
    main()
