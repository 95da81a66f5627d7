"""`jaxnas retrain`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jaxnas.cli.inputs import import_model, load_data, same_data
from jaxnas.cli.options import (
    AugmentName,
    AugmentOption,
    BatchSize,
    CheckpointMinutes,
    DataDir,
    Epochs,
    MaxMinutes,
    Seed,
    UseTensorBoard,
)
from jaxnas.cli.running import ending_well, followers


def retrain(
    run: Annotated[Path, typer.Argument(help="Run directory of a search.")],
    epochs: Epochs = 50,
    batch_size: BatchSize = 96,
    inherit: Annotated[bool, typer.Option(help="Start from the supernet's weights.")] = False,
    model: Annotated[str | None, typer.Option(help="The model, as module:name; default: the search's.")] = None,
    data: Annotated[str | None, typer.Option(help="Other data than the search's.")] = None,
    data_dir: DataDir = None,
    augment: AugmentOption = AugmentName.default,
    seed: Seed = 0,
    out: Annotated[Path | None, typer.Option(help="Where to; default: RUN/retrain, or retrain-2, …")] = None,
    checkpoint_minutes: CheckpointMinutes = 10.0,
    max_minutes: MaxMinutes = None,
    tensorboard: UseTensorBoard = False,
) -> None:
    """Train what a search found, and test it."""
    import jaxnas
    from jaxnas.runs import directory as runs

    config = runs.read_config(run)
    model_fn = import_model(model or config.get("model"))
    dataset = load_data(data, data_dir, augment) if data else same_data(config, run, data_dir, augment)
    fixed = jaxnas.apply_fixed_architecture(model_fn, run / "final_arch.json")
    variables = jaxnas.inherit(fixed, runs.read_weights(run), dataset.example()) if inherit else None
    out = out or runs.free(run / "retrain")
    with ending_well(out):
        result = jaxnas.training.fit(
            fixed,
            dataset,
            epochs=epochs,
            batch_size=batch_size,
            seed=seed,
            variables=variables,
            workdir=out,
            callbacks=followers(tensorboard),
            checkpoint_minutes=checkpoint_minutes,
            max_minutes=max_minutes,
        )
        if len(result.history) < epochs:
            print(f"to go on: the same command; what is done is in {out}")
        elif result.test_accuracy is None:
            print(f"trained; there are no test data. Results are in {out}.")
        else:
            print(f"test accuracy {100 * result.test_accuracy:.2f} %. Results are in {out}.")
