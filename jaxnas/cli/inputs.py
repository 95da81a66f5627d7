"""Models and data from what a person typed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

from jaxnas.cli.options import AugmentName
from jaxnas.model import naming


def import_model(spec: Any) -> Callable[[], Any]:
    """The model that `module:name` stands for, as a function of that name."""
    from jaxnas.errors import RunError
    from jaxnas.model.functional import build

    found = naming.import_named(str(spec), "the model")
    try:
        build(found)
    except Exception as e:  # whatever the user's module raises
        raise RunError(f"the model {spec!r} cannot be built: {type(e).__name__}: {e}") from e
    module_name, _, name = str(spec).partition(":")

    def model_fn() -> Any:
        return build(found)

    model_fn.__module__, model_fn.__qualname__ = module_name, name  # what config.json says
    return model_fn


def device_count(text: str | None) -> int | str | None:
    """What `--devices` says: a number or `"all"`."""
    if text is None or text == "all":
        return text
    if not text.isdecimal():
        raise typer.BadParameter(f'{text!r} is neither a number nor "all"', param_hint="--devices")
    return int(text)


def import_named(spec: str | None, option: str) -> Any:
    """What `module:name` stands for; any other text is returned as it is: the name of something built in."""
    if spec is None or ":" not in spec:
        return spec
    return naming.import_named(spec, f"the value of {option}")


SELECTIONS = ("by_weight", "by_threshold", "best_of_probable", "by_evolution", "by_perturbation")
"""What `--select` takes: derivations of `jaxnas.parts`. All but the first may have a number, their first argument."""


def selection(text: str | None) -> Any:
    """The derivation that `by_evolution:200`, say, stands for."""
    from jaxnas import parts

    if text is None:
        return None
    name, colon, number = text.replace("-", "_").partition(":")
    if name not in SELECTIONS or (colon and name == "by_weight"):
        raise typer.BadParameter(
            f"{text!r} is none of {', '.join(SELECTIONS)}, with a number or without: by_evolution:200",
            param_hint="--select",
        )
    if name == "by_weight":
        return parts.by_weight
    try:
        given = [float(number) if "." in number else int(number)] if colon else []
        return getattr(parts, name)(*given)
    except ValueError as e:
        raise typer.BadParameter(f"{text!r}: {e}", param_hint="--select") from None


def load_data(data: str, data_dir: Path | None, augment: AugmentName, image_size: int | None = None) -> Any:
    from jaxnas.data import load

    size = None if image_size is None else (image_size, image_size)
    return _augmented(load(data, data_dir=data_dir, image_size=size), augment)


def same_data(config: dict[str, Any], run: Path, data_dir: Path | None, augment: AugmentName) -> Any:
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
    pictures = list(dataset.images.values())
    side = min(pictures[0].shape[1:3]) if pictures else 0  # without pictures the data set refuses the augmentation
    cutout = dataclasses.replace(STANDARD, cutout=side // 2)
    chosen = {AugmentName.none: None, AugmentName.standard: STANDARD, AugmentName.cutout: cutout}[augment]
    return dataclasses.replace(dataset, augment=chosen)
