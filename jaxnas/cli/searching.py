"""`jaxnas search`."""

from __future__ import annotations

from typing import Annotated

import typer

from jaxnas.cli.inputs import import_model, load_data
from jaxnas.cli.options import (
    AugmentName,
    AugmentOption,
    BatchingOption,
    BatchSize,
    CheckpointMinutes,
    Data,
    DataDir,
    Derive,
    Epochs,
    Hypergradient,
    ImageSize,
    MaxMinutes,
    Model,
    Out,
    Resume,
    SearchSeed,
    Seeds,
    StopOn,
    StopOnOption,
    TrainPortion,
    UseTensorBoard,
    Warmup,
)
from jaxnas.cli.running import chosen_seeds, ending_well, followers, say_found

app = typer.Typer(no_args_is_help=True, help="Search a model's choices.")


@app.command("darts")
def search_darts(
    model: Model,
    out: Out,
    data: Data = "digits",
    data_dir: DataDir = None,
    augment: AugmentOption = AugmentName.default,
    image_size: ImageSize = None,
    epochs: Epochs = 50,
    batch_size: BatchSize = 64,
    order: Annotated[int, typer.Option(min=1, max=2, help="1, or 2 to look one weight step ahead.")] = 1,
    hypergradient: Annotated[Hypergradient, typer.Option(help="For order 2.")] = Hypergradient.exact,
    warmup_epochs: Warmup = 0,
    train_portion: TrainPortion = 0.5,
    seed: SearchSeed = None,
    seeds: Seeds = None,
    batching: BatchingOption = None,
    resume: Resume = True,
    checkpoint_minutes: CheckpointMinutes = 10.0,
    max_minutes: MaxMinutes = None,
    tensorboard: UseTensorBoard = False,
    stop_on: StopOnOption = None,
) -> None:
    """DARTS (arXiv 1806.09055)."""
    import jaxnas

    chosen = chosen_seeds(seed, seeds, batching)
    with ending_well(out):
        result = jaxnas.darts.search(
            import_model(model),
            load_data(data, data_dir, augment, image_size),
            epochs=epochs,
            batch_size=batch_size,
            order=order,
            hypergradient=hypergradient.value,
            warmup_epochs=warmup_epochs,
            train_portion=train_portion,
            **chosen,
            workdir=out,
            callbacks=followers(tensorboard, stop_on),
            resume=resume,
            checkpoint_minutes=checkpoint_minutes,
            max_minutes=max_minutes,
        )
        say_found(result, out, chosen["seeds"])


@app.command("enas")
def search_enas(
    model: Model,
    out: Out,
    data: Data = "digits",
    data_dir: DataDir = None,
    augment: AugmentOption = AugmentName.default,
    image_size: ImageSize = None,
    epochs: Epochs = 310,
    batch_size: BatchSize = 64,
    child_steps: Annotated[
        int | None, typer.Option(min=1, help="Steps of the weights per epoch; default: a pass over their data.")
    ] = None,
    controller_steps: Annotated[int, typer.Option(min=1, help="Updates of the controller per epoch.")] = 50,
    controller_samples: Annotated[int, typer.Option(min=1, help="Architectures per update.")] = 20,
    entropy_weight: Annotated[float, typer.Option(help="Weight of the policy's entropy in the return.")] = 1e-4,
    skip_weight: Annotated[float, typer.Option(help="Weight of the skip penalty in the return.")] = 0.8,
    derive: Annotated[Derive, typer.Option(help="The best of many samples, or one.")] = Derive.best,
    derive_samples: Annotated[int, typer.Option(min=1, help="How many are sampled and scored.")] = 100,
    warmup_epochs: Warmup = 0,
    train_portion: TrainPortion = 0.9,
    seed: SearchSeed = None,
    seeds: Seeds = None,
    batching: BatchingOption = None,
    resume: Resume = True,
    checkpoint_minutes: CheckpointMinutes = 10.0,
    max_minutes: MaxMinutes = None,
    tensorboard: UseTensorBoard = False,
    stop_on: StopOnOption = None,
) -> None:
    """ENAS (arXiv 1802.03268)."""
    import jaxnas

    if StopOn.eigenvalue in (stop_on or ()):
        raise typer.BadParameter("eigenvalue is that of the alphas, which ENAS does not have", param_hint="--stop-on")
    chosen = chosen_seeds(seed, seeds, batching)
    with ending_well(out):
        result = jaxnas.enas.search(
            import_model(model),
            load_data(data, data_dir, augment, image_size),
            epochs=epochs,
            batch_size=batch_size,
            child_steps=child_steps,
            controller_steps=controller_steps,
            controller_samples=controller_samples,
            entropy_weight=entropy_weight,
            skip_weight=skip_weight,
            derive=derive.value,
            derive_samples=derive_samples,
            warmup_epochs=warmup_epochs,
            train_portion=train_portion,
            **chosen,
            workdir=out,
            callbacks=followers(tensorboard, stop_on),
            resume=resume,
            checkpoint_minutes=checkpoint_minutes,
            max_minutes=max_minutes,
        )
        say_found(result, out, chosen["seeds"])
