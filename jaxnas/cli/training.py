"""`jaxnas retrain`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from jaxnas import RunOptions, apply_fixed_architecture, inherit
from jaxnas.cli.inputs import device_count, import_model, import_named, load_data, same_data
from jaxnas.cli.options import AugmentName, AugmentOption, DataDir, Devices, Force, UseTensorBoard
from jaxnas.cli.options import Loss as LossOption
from jaxnas.cli.options import Metrics as MetricsOption
from jaxnas.cli.recipe import Config, Recipe, recipe_of
from jaxnas.cli.running import ending_well, followers
from jaxnas.cli.signing import keyword, shared_options, sign
from jaxnas.errors import RunError
from jaxnas.runs import reading as runs
from jaxnas.runs.progress import numbers
from jaxnas.training import fit
from jaxnas.training.retrain import FIT_DEFAULTS

_ELSEWHERE = ("data_dir", "workdir", "loss_fn", "metrics", "callbacks", "devices")
"""Options that the command has in another form."""

_RUN = Annotated[Path, typer.Argument(help="Run directory of a search.")]
_INHERIT = Annotated[bool, typer.Option("--inherit/--no-inherit", help="Start from the supernet's weights.")]
_MODEL = Annotated[str | None, typer.Option(help="The model, as module:name; default: the search's.")]
_DATA = Annotated[str | None, typer.Option(help="Data, if other than the search's.")]
_OUT = Annotated[Path | None, typer.Option(help="Where to; default: RUN/retrain, or retrain-2, …")]


def retrain(
    context: typer.Context,
    run: Path,
    inherit_weights: bool,
    model: str | None,
    data: str | None,
    data_dir: Path | None,
    augment: AugmentName,
    out: Path | None,
    loss: str | None,
    metrics: str | None,
    devices: str | None,
    tensorboard: bool,
    force: bool,
    config: Path | None,
    **options: Any,
) -> None:
    """Train the architecture that a search found, and test it."""
    searched = runs.read_config(run)
    if runs.status(run) is None and not (run / "final_arch.json").exists():
        raise RunError(f"{run}: the search has not ended; the command that began it resumes it.")
    model_fn = import_model(model or searched.get("model"))
    dataset = load_data(data, data_dir, augment) if data else same_data(searched, run, data_dir, augment)
    fixed = apply_fixed_architecture(model_fn, run / "final_arch.json")
    variables = inherit(fixed, runs.read_weights(run), dataset.example()) if inherit_weights else None
    out = out or runs.free(run / "retrain")
    options |= {"resume": "force"} if force else {}
    options |= {"devices": device_count(devices)}
    options |= {"loss_fn": import_named(loss, "--loss"), "metrics": import_named(metrics, "--metrics")}
    with ending_well(out):
        following = [*followers(tensorboard), Recipe(recipe_of(context))]
        result = fit(fixed, dataset, variables=variables, workdir=out, callbacks=following, **options)
        if len(result.history) < options["epochs"]:
            print(f"to resume: the same command; what is done so far is in {out}")
            return
        scores = {name: value for name, value in numbers(result.history[-1]).items() if name.startswith("test_")}
        if result.test_accuracy is not None:
            print(f"test accuracy {100 * result.test_accuracy:.2f} %. Results are in {out}.")
        elif scores:
            told = ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in scores.items())
            print(f"{told}. Results are in {out}.")
        else:
            print(f"trained; there are no test data. Results are in {out}.")


_parameters = {
    "context": keyword("context", typer.Context),
    "run": keyword("run", _RUN),
    "inherit_weights": keyword("inherit_weights", _INHERIT, False),
    "model": keyword("model", _MODEL, None),
    "data": keyword("data", _DATA, None),
    "data_dir": keyword("data_dir", DataDir, None),
    "augment": keyword("augment", AugmentOption, AugmentName.default),
    "out": keyword("out", _OUT, None),
    "loss": keyword("loss", LossOption, None),
    "metrics": keyword("metrics", MetricsOption, None),
    **shared_options(RunOptions, FIT_DEFAULTS, leave_out=_ELSEWHERE),
    "devices": keyword("devices", Devices, None),
    "tensorboard": keyword("tensorboard", UseTensorBoard, False),
    "force": keyword("force", Force, False),
    "config": keyword("config", Config, None),
}
sign(retrain, _parameters)
