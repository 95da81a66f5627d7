"""`jaxnas search NAME`: a command for each method of the registry, with its own arguments and all options."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from jaxnas import METHODS, Method, SearchOptions, plan, search
from jaxnas.cli.inputs import SELECTIONS, device_count, import_model, import_named, load_data, selection
from jaxnas.cli.options import (
    AugmentName,
    AugmentOption,
    Data,
    DataDir,
    Devices,
    DryRun,
    Force,
    ImageSize,
    Model,
    Out,
    StopOn,
    StopOnOption,
    Topology,
    UseTensorBoard,
)
from jaxnas.cli.options import Loss as LossOption
from jaxnas.cli.options import Metrics as MetricsOption
from jaxnas.cli.recipe import Config, Recipe, recipe_of
from jaxnas.cli.running import ending_well, followers, say_found
from jaxnas.cli.signing import keyword, own_options, shared_options, sign
from jaxnas.oneshot.engine.options import SEARCH_DEFAULTS
from jaxnas.oneshot.engine.plan import first_seed

app = typer.Typer(no_args_is_help=True, help="Search a model's choices.")

_ELSEWHERE = ("data_dir", "workdir", "loss_fn", "metrics", "callbacks", "seeds", "devices")
"""Options that the command has in another form."""


def command_of(name: str, method: Callable[..., Method]) -> Callable[..., None]:
    """The command of a method: `--model` and `--out`, the data, the method's own arguments, and all options.

    Arguments that cannot be typed, such as optimisers and functions, are left out.
    """
    own = own_options(method)
    shared = shared_options(SearchOptions, {**SEARCH_DEFAULTS, **method().defaults}, leave_out=_ELSEWHERE)

    def run(
        context: typer.Context,
        model: str,
        out: Path | None,
        data: str,
        data_dir: Path | None,
        augment: AugmentName,
        image_size: int | None,
        loss: str | None,
        metrics: str | None,
        devices: str | None,
        seeds: str | None,
        select: str | None,
        tensorboard: bool,
        stop_on: list[StopOn] | None,
        force: bool,
        dry_run: bool,
        topology: str | None,
        config: Path | None,
        **given: Any,
    ) -> None:
        many = _seeds(seeds, given["seed"], given["batching"])
        chosen: dict[str, Any] = {option: value for option, value in given.items() if option in shared}
        found = method(**{argument: value for argument, value in given.items() if argument in own})
        chosen |= {
            "seeds": many,
            "devices": device_count(devices),
            "select": selection(select),
            "workdir": out,
            "callbacks": followers(tensorboard, stop_on),
        }
        chosen["callbacks"] += [Recipe(recipe_of(context))]
        chosen |= {"resume": "force"} if force else {}
        chosen |= {"loss_fn": import_named(loss, "--loss"), "metrics": import_named(metrics, "--metrics")}
        if topology is not None and not dry_run:
            raise typer.BadParameter("it is for --dry-run", param_hint="--topology")
        if out is None and not dry_run:
            raise typer.BadParameter("needed to keep what is found", param_hint="--out")
        model_fn, dataset = import_model(model), load_data(data, data_dir, augment, image_size)
        if out is None or dry_run:
            print(plan(model_fn, dataset, found, topology=topology, **chosen))
            return
        with ending_well(out):
            result = search(model_fn, dataset, found, **chosen)
            say_found(result, out, many)

    sign(run, {**_fixed(), **own, **shared, **_last()})
    run.__name__, run.__doc__ = name, _title(method)
    return run


def _fixed() -> dict[str, inspect.Parameter]:
    """The parameters that come first in every command."""
    return {
        "context": keyword("context", typer.Context),
        "model": keyword("model", Model),
        "out": keyword("out", Out, None),
        "data": keyword("data", Data, "digits"),
        "data_dir": keyword("data_dir", DataDir, None),
        "augment": keyword("augment", AugmentOption, AugmentName.default),
        "image_size": keyword("image_size", ImageSize, None),
        "loss": keyword("loss", LossOption, None),
        "metrics": keyword("metrics", MetricsOption, None),
    }


def _last() -> dict[str, inspect.Parameter]:
    """The parameters that come last in every command."""
    how = f"How it decides, if not by the method's own rule: {', '.join(SELECTIONS)}, with a number: by_evolution:200."
    text = "The same search from each of these seeds, such as 0,1,2; each has a directory seed_N in OUT."
    return {
        "devices": keyword("devices", Devices, None),
        "seeds": keyword("seeds", Annotated[str | None, typer.Option(help=text)], None),
        "select": keyword("select", Annotated[str | None, typer.Option(help=how)], None),
        "tensorboard": keyword("tensorboard", UseTensorBoard, False),
        "stop_on": keyword("stop_on", StopOnOption, None),
        "force": keyword("force", Force, False),
        "dry_run": keyword("dry_run", DryRun, False),
        "topology": keyword("topology", Topology, None),
        "config": keyword("config", Config, None),
    }


def _title(method: Callable) -> str:
    """The beginning of a method's file: its name, its paper, and what it does."""
    return inspect.getdoc(inspect.getmodule(method)) or ""


def _seeds(seeds: str | None, seed: int | None, batching: str | None) -> list[int] | None:
    """The seeds that were typed. They must not contradict the other options."""
    try:
        many = None if seeds is None else [int(each) for each in seeds.split(",") if each.strip()]
    except ValueError:
        raise typer.BadParameter(f"{seeds!r} is not of the form 0,1,2", param_hint="--seeds") from None
    try:
        first_seed(seed, many, batching)
    except ValueError as e:
        raise typer.BadParameter(str(e), param_hint="--seeds") from None
    return many


for _name, _method in METHODS.items():
    app.command(_name)(command_of(_name, _method))
