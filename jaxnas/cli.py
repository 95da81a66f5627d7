"""The command `jaxnas`: search, retrain, show."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

try:
    import typer
    from rich.console import Console
    from rich.table import Table
except ModuleNotFoundError as missing:
    raise SystemExit(f'the command line needs {missing.name}: pip install "jaxnas[cli]"') from None

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Neural architecture search for JAX and Flax.",
)
search_app = typer.Typer(no_args_is_help=True, help="Search a model's choices.")
app.add_typer(search_app, name="search")


class AugmentName(StrEnum):
    """How training images are augmented."""

    default = "default"
    none = "none"
    standard = "standard"
    cutout = "cutout"


class Derive(StrEnum):
    """How ENAS decides in the end."""

    best = "best"
    sample = "sample"


class Hypergradient(StrEnum):
    """How the second order takes its gradient."""

    exact = "exact"
    finite_difference = "finite_difference"


Model = Annotated[str, typer.Option(help="The model, as module:name, e.g. experiments.quickstart:Net.")]
Out = Annotated[Path, typer.Option(help="Run directory; the same command goes on with a run that was interrupted.")]
Data = Annotated[str, typer.Option(help='"digits", an .npz file, or a tensorflow-datasets name such as cifar10.')]
DataDir = Annotated[Path | None, typer.Option(help="Folder of prepared tensorflow-datasets.")]
AugmentOption = Annotated[
    AugmentName,
    typer.Option(help="The data set's own; nothing; crop and flip; or crop, flip and cutout of half the side."),
]
ImageSize = Annotated[int | None, typer.Option(help="Resize images to this side, if theirs differ.")]
Epochs = Annotated[int, typer.Option(min=1)]
BatchSize = Annotated[int, typer.Option(min=1)]
Warmup = Annotated[int, typer.Option(min=0, help="Epochs that train only the weights.")]
TrainPortion = Annotated[float, typer.Option(help="Share of the training data for the weights.")]
MaxMinutes = Annotated[float | None, typer.Option(min=0, help="Stop in time; the same command goes on.")]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1)]


@search_app.command("darts")
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
    seed: Seed = 0,
    max_minutes: MaxMinutes = None,
) -> None:
    """DARTS (arXiv 1806.09055)."""
    import jaxnas

    result = jaxnas.darts.search(
        _import_model(model),
        _load_data(data, data_dir, augment, image_size),
        epochs=epochs,
        batch_size=batch_size,
        order=order,
        hypergradient=hypergradient.value,
        warmup_epochs=warmup_epochs,
        train_portion=train_portion,
        seed=seed,
        workdir=out,
        max_minutes=max_minutes,
    )
    _say_found(result, out)


@search_app.command("enas")
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
    seed: Seed = 0,
    max_minutes: MaxMinutes = None,
) -> None:
    """ENAS (arXiv 1802.03268)."""
    import jaxnas

    result = jaxnas.enas.search(
        _import_model(model),
        _load_data(data, data_dir, augment, image_size),
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
        seed=seed,
        workdir=out,
        max_minutes=max_minutes,
    )
    _say_found(result, out)


def _say_found(result: Any, out: Path) -> None:
    if (out / "result.json").exists():  # otherwise it stopped in time, and has said so
        print(f"found {result.arch}")
        print(f"in {out / 'final_arch.json'}; next: jaxnas show {out}, jaxnas retrain {out}")


@app.command()
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
    max_minutes: MaxMinutes = None,
) -> None:
    """Train what a search found, and test it."""
    import jaxnas
    from jaxnas import runs

    config = runs.read_config(run)
    model_fn = _import_model(model or config.get("model"))
    dataset = _load_data(data, data_dir, augment) if data else _same_data(config, run, data_dir, augment)
    fixed = jaxnas.apply_fixed_architecture(model_fn, run / "final_arch.json")
    variables = jaxnas.inherit(fixed, runs.read_weights(run), dataset.example()) if inherit else None
    out = out or runs.fresh(run / "retrain")
    result = jaxnas.training.fit(
        fixed,
        dataset,
        epochs=epochs,
        batch_size=batch_size,
        seed=seed,
        variables=variables,
        workdir=out,
        max_minutes=max_minutes,
    )
    if len(result.history) < epochs:
        print(f"to go on: the same command with --out {out}")
    elif result.test_accuracy is None:
        print(f"trained; there are no test data. Results are in {out}.")
    else:
        print(f"test accuracy {100 * result.test_accuracy:.2f} %. Results are in {out}.")


@app.command()
def show(run: Annotated[Path, typer.Argument(help="Run directory of a search.")]) -> None:
    """Show what a search found, and how sure it is."""
    from jaxnas import runs
    from jaxnas.errors import RunError

    config, history, space = runs.read_config(run), runs.read_history(run), runs.read_space(run)
    console = Console()
    about = f"{config.get('algorithm')} on {config.get('data')}, seed {config.get('seed')}"
    console.print(f"{run}: {config.get('model')}, {about}", highlight=False, markup=False)
    if not history:
        console.print("no epoch has ended yet")
        return
    last = history[-1]
    console.print(f"epoch {last['epoch'] + 1} of {config.get('epochs')}", highlight=False)
    try:
        console.print(_choices_table(space, last["probabilities"], space.fixed(last["arch"])))
    except (KeyError, TypeError, ValueError) as e:
        raise RunError(f"{run}: the last record of its history does not fit its space: {e}") from None
    console.print(_history_table(history))
    if (run / "result.json").exists() and (candidates := runs.read_result(run).get("candidates")):
        console.print(_candidates_table(candidates))
    for folder in sorted(run.glob("retrain*/result.json")):
        ended = runs.read_result(folder.parent)
        score = ended.get("test_accuracy")
        shown = "no test data" if score is None else f"test accuracy {100 * score:.2f} %"
        start = "inherited weights" if runs.read_config(folder.parent).get("inherited") else "from scratch"
        console.print(
            f"{folder.parent.name}: {ended.get('status')}, {ended.get('epochs', 0)} epochs {start}, {shown}",
            highlight=False,
            markup=False,
        )


def _choices_table(space: Any, weights: Any, arch: Any) -> Table:
    from rich.text import Text

    table = Table("choice", "chosen", "weights")
    for key, spec in space.items():
        shares = (f"{label}: {float(w):.3f}" for label, w in zip(spec.labels, weights[key], strict=True))
        table.add_row(Text(key), Text(_decision(arch[key])), Text("  ".join(shares)))
    return table


def _history_table(history: list[dict[str, Any]]) -> Table:
    names = ["train_loss", "supernet_loss", "derived_loss", "train_accuracy", "supernet_accuracy"]
    names += ["reward", "entropy", "sampled_accuracy", "derived_accuracy"]
    names = [name for name in names if any(name in record for record in history)]
    table = Table("epoch", *(name.replace("_", "\n") for name in names))
    step = -(-len(history) // 20)
    for record in history[::-step][::-1]:
        table.add_row(str(record["epoch"] + 1), *(_number(record.get(name)) for name in names))
    return table


def _candidates_table(candidates: list[dict[str, Any]], most: int = 5) -> Table:
    from rich.text import Text

    names = list(candidates[0]["metrics"])
    table = Table("rank", "score", *(name for name in names if name != "reward"), "architecture")
    for rank, found in enumerate(candidates[:most], 1):
        numbers = (_number(found["metrics"].get(name)) for name in names if name != "reward")
        shown = ", ".join(f"{key} {_decision(value)}" for key, value in found["arch"].items())
        table.add_row(str(rank), _number(found["score"]), *numbers, Text(shown))
    return table


def _decision(value: Any) -> str:
    chosen = value if isinstance(value, (tuple, list)) else (value,)
    return ", ".join(map(str, chosen)) or "none"


def _number(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else ""


def _import_model(spec: Any) -> Callable[[], Any]:
    """The model that `module:name` stands for, as a function of that name."""
    from jaxnas.errors import RunError
    from jaxnas.functional import build

    module_name, _, name = str(spec).partition(":")
    if not name or not all(part.isidentifier() for part in [*module_name.split("."), *name.split(".")]):
        raise RunError(f"the model {spec!r} is not of the form module:name, e.g. experiments.quickstart:Net.")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found = importlib.import_module(module_name)
        for part in name.split("."):
            found = getattr(found, part)
        build(found)
    except ModuleNotFoundError as e:
        raise RunError(f"no module {e.name!r}, importing the model {spec!r} from {Path.cwd()}.") from None
    except AttributeError as e:
        raise RunError(f"the model {spec!r} is not there: {e}.") from None
    except Exception as e:  # whatever the user's module raises
        raise RunError(f"the model {spec!r} cannot be built: {type(e).__name__}: {e}") from e

    def model_fn() -> Any:
        return build(found)

    model_fn.__module__, model_fn.__qualname__ = module_name, name  # what config.json says
    return model_fn


def _load_data(data: str, data_dir: Path | None, augment: AugmentName, image_size: int | None = None) -> Any:
    from jaxnas.data import load

    size = None if image_size is None else (image_size, image_size)
    return _augmented(load(data, data_dir=data_dir, image_size=size), augment)


def _same_data(config: dict[str, Any], run: Path, data_dir: Path | None, augment: AugmentName) -> Any:
    import dataclasses

    from jaxnas.data import Augment, load
    from jaxnas.errors import RunError

    source, augmented = config.get("data_source"), config.get("augment")
    if source is None:
        raise RunError(f"{run}: the search was given arrays; say which data to train on with --data.")
    options = {k: v for k, v in source.items() if v is not None}
    dataset = load(**(options if data_dir is None else {**options, "data_dir": data_dir}))
    if isinstance(augmented, dict) or augmented is None:
        dataset = dataclasses.replace(dataset, augment=None if augmented is None else Augment(**augmented))
    return _augmented(dataset, augment)


def _augmented(dataset: Any, augment: AugmentName) -> Any:
    import dataclasses

    from jaxnas.data import STANDARD

    if augment is AugmentName.default:
        return dataset
    cutout = dataclasses.replace(STANDARD, cutout=min(dataset.x_train.shape[1:3]) // 2)
    chosen = {AugmentName.none: None, AugmentName.standard: STANDARD, AugmentName.cutout: cutout}[augment]
    return dataclasses.replace(dataset, augment=chosen)


def main() -> None:
    """Runs the command line; errors of jaxnas are printed without a traceback."""
    from jaxnas.errors import ArchitectureError, DataError, NonFiniteLossError, RunError

    try:
        app()
    except (ArchitectureError, DataError, NonFiniteLossError, RunError, FileNotFoundError) as e:
        print(f"error: {e}", file=sys.stderr)
        raise SystemExit(1) from None
