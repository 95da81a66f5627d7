"""From what a person typed to models and data."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxnas.cli.options import AugmentName


def import_model(spec: Any) -> Callable[[], Any]:
    """The model that `module:name` stands for, as a function of that name."""
    from jaxnas.errors import RunError
    from jaxnas.model.functional import build

    found = _imported(str(spec), "the model")
    try:
        build(found)
    except Exception as e:  # whatever the user's module raises
        raise RunError(f"the model {spec!r} cannot be built: {type(e).__name__}: {e}") from e
    module_name, _, name = str(spec).partition(":")

    def model_fn() -> Any:
        return build(found)

    model_fn.__module__, model_fn.__qualname__ = module_name, name  # what config.json says
    return model_fn


def _imported(spec: str, what: str) -> Any:
    from jaxnas.errors import RunError

    module_name, _, name = spec.partition(":")
    if module_name == "__main__":
        raise RunError(
            f"{what}, {spec!r}, was defined in the script or notebook that was run, and cannot be imported from there. "
            "Put it in a module and name that, as module:name (for a model with --model)."
        )
    if not name or not all(part.isidentifier() for part in [*module_name.split("."), *name.split(".")]):
        raise RunError(f"{what}, {spec!r}, is not of the form module:name, e.g. experiments.quickstart:Net.")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found = importlib.import_module(module_name)
        for part in name.split("."):
            found = getattr(found, part)
    except ModuleNotFoundError as e:
        raise RunError(f"no module {e.name!r}, importing {what} {spec!r} from {Path.cwd()}.") from None
    except AttributeError as e:
        raise RunError(f"{what} {spec!r} is not there: {e}.") from None
    except Exception as e:  # whatever the user's module raises
        raise RunError(f"{what} {spec!r} cannot be imported: {type(e).__name__}: {e}") from e
    return found


def import_named(spec: str | None, option: str) -> Any:
    """What `module:name` stands for; any other text as it is, being the name of something built in."""
    if spec is None or ":" not in spec:
        return spec
    return _imported(spec, f"the value of {option}")


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
    cutout = dataclasses.replace(STANDARD, cutout=min(dataset.x_train.shape[1:3]) // 2)
    chosen = {AugmentName.none: None, AugmentName.standard: STANDARD, AugmentName.cutout: cutout}[augment]
    return dataclasses.replace(dataset, augment=chosen)
