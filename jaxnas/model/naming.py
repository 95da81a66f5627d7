"""Models by name: how a run records which model it belongs to, and how to import it again."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from typing import Any

from flax import linen as nn

from jaxnas.errors import RunError


def describe_model(model_fn: Any) -> str:
    """`module:name` if the model can be imported under that name, else its repr."""
    name = getattr(model_fn, "__qualname__", "<")
    return re.sub(r" at 0x[0-9a-f]+", "", repr(model_fn)) if "<" in name else f"{model_fn.__module__}:{name}"


def importable_name(model_fn: Any) -> str:
    """As `describe_model`, but the name of the class for a module that has only the defaults of its class."""
    if isinstance(model_fn, nn.Module):
        try:
            default = type(model_fn)() == model_fn
        except TypeError:  # its class needs arguments
            default = False
        return describe_model(type(model_fn) if default else model_fn)
    return describe_model(model_fn)


def import_named(spec: str, what: str) -> Any:
    """The object that `module:name` stands for; the current folder is looked in first.

    Args:
      spec: the name.
      what: what it is, for messages, such as "the model".

    Raises:
      RunError: if it is not such a name, or names nothing.
    """
    module_name, _, name = spec.partition(":")
    if module_name == "__main__":
        raise RunError(
            f"{what}, {spec!r}, was defined in the script or notebook that was run, and cannot be imported from there. "
            "Put it in a module and name that, as module:name; in Python pass the model itself, model_fn=…."
        )
    if not name or not all(part.isidentifier() for part in [*module_name.split("."), *name.split(".")]):
        raise RunError(
            f"{what}, {spec!r}, is not of the form module:name, e.g. experiments.quickstart:Net, so it cannot be "
            "imported; in Python pass the model itself, model_fn=…."
        )
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
