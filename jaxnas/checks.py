"""Checks of arguments that searches, trainings and evaluations share."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxnas.errors import DataError


class _Rule(NamedTuple):
    """What a numeric option may be: from `low` to `high`, both included unless `open_low`, `open_high`."""

    whole: bool = False
    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False
    none: bool = False

    def allows(self, value: Any) -> bool:
        if value is None:
            return self.none
        kind = numbers.Integral if self.whole else numbers.Real
        if not isinstance(value, kind) or isinstance(value, (bool, np.bool_)):
            return False
        number: Any = value
        if not isinstance(value, numbers.Integral) and not math.isfinite(number):
            return False
        low = self.low < number if self.open_low else self.low <= number
        return low and (number < self.high if self.open_high else number <= self.high)

    def __str__(self) -> str:
        if math.isinf(self.high):
            limits = f" above {self.low:g}" if self.open_low else f" of at least {self.low:g}"
            limits = "" if math.isinf(self.low) else limits
        else:
            edges = "(["[not self.open_low] + f"{self.low:g}, {self.high:g}" + ")]"[not self.open_high]
            limits = f" in {edges}"
        return ("an integer" if self.whole else "a finite number") + limits + (" or None" if self.none else "")


_COUNT, _INDEX = _Rule(whole=True, low=1), _Rule(whole=True, low=0)
_POSITIVE, _WEIGHT = _Rule(low=0, open_low=True), _Rule(low=0)
_SHARE = _Rule(low=0, high=1, open_high=True)

OPTIONS: dict[str, _Rule] = {
    "epochs": _COUNT,
    "batch_size": _COUNT,
    "seed": _Rule(whole=True, low=0, high=2**32 - 1),
    "warmup_epochs": _INDEX,
    "validate_every": _COUNT,
    "test_every": _COUNT,
    "train_portion": _Rule(low=0, high=1, open_low=True),
    "weight_lr": _POSITIVE._replace(none=True),
    "arch_lr": _POSITIVE._replace(none=True),
    "grad_clip": _POSITIVE._replace(none=True),
    "aux_weight": _WEIGHT,
    "steps_per_call": _COUNT._replace(none=True),
    "checkpoint_minutes": _WEIGHT._replace(none=True),
    "max_minutes": _WEIGHT._replace(none=True),
    "keep_checkpoints": _COUNT,
    "child_steps": _COUNT._replace(none=True),
    "controller_steps": _COUNT,
    "controller_samples": _COUNT,
    "derive_samples": _COUNT,
    "derive_examples": _COUNT,
    "validate_samples": _COUNT,
    "entropy_weight": _Rule(),
    "skip_weight": _Rule(),
    "baseline_decay": _SHARE,
    "label_smoothing": _SHARE,
    "weight": _WEIGHT,
    "beta": _WEIGHT,
    "radius": _WEIGHT,
    "start": _WEIGHT,
    "threshold": _SHARE,
    "lr": _POSITIVE,
    "target": _POSITIVE,
    "scale": _POSITIVE,
    "trial_seconds": _POSITIVE._replace(none=True),
}
"""Every numeric option by name. The one place that says what each may be."""


def check_options(**values: Any) -> None:
    """Checks numeric options by their names, and those that depend on each other if both are given.

    Raises:
      ValueError: naming the first that is not what `OPTIONS` says (a DataError for how the data are
        divided), or `warmup_epochs` that leave no epoch.
    """
    for name, value in values.items():
        if not OPTIONS[name].allows(value):
            hint = " (a string)" if isinstance(value, str) else ""
            error = DataError if name in ("batch_size", "train_portion") else ValueError
            raise error(f"{name} must be {OPTIONS[name]}; got {value!r}{hint}.")
    if {"epochs", "warmup_epochs"} <= values.keys() and values["warmup_epochs"] >= values["epochs"]:
        raise ValueError(
            f"warmup_epochs must be less than epochs, or no architecture is ever trained; got warmup_epochs="
            f"{values['warmup_epochs']} with epochs={values['epochs']}."
        )


def check_at_least(least: int, **values: Any) -> None:
    """Raises ValueError unless each of the named values is an integer of at least `least`."""
    rule = _Rule(whole=True, low=least)
    for name, value in values.items():
        if not rule.allows(value):
            raise ValueError(f"{name} must be {rule}; got {value!r}.")


def check_seed(seed: int) -> None:
    """Raises ValueError unless a seed is one that JAX does not cut off."""
    if not OPTIONS["seed"].allows(seed):
        raise ValueError(f"seed must be an integer from 0 to 2^32 - 1; got {seed!r}.")


def check_batch_size(batch_size: int, n: int, split: str) -> None:
    """Raises DataError unless one batch fits into a split of n examples."""
    if not OPTIONS["batch_size"].allows(batch_size):
        raise DataError(f"batch_size must be a positive integer; got {batch_size!r}.")
    if batch_size > n:
        raise DataError(
            f"a batch of {batch_size} is larger than the {split} split, which has {n} examples; the largest that fits "
            f"is batch_size={n}."
        )


# ---------------------------------------------------------------------- objects


def check_optimizer(name: str, value: Any) -> None:
    """Raises TypeError unless an argument is an optax optimiser, or None for the default."""
    if value is None or (callable(getattr(value, "init", None)) and callable(getattr(value, "update", None))):
        return
    if isinstance(value, str):
        got = f"the string {value!r}: write optax.{value}(1e-3), for instance"
    elif callable(value):
        called = getattr(value, "__name__", type(value).__name__)
        got = f"the function {called}: call it, as in {called}(1e-3)"
    else:
        got = f"{value!r}"
    raise TypeError(f"{name} must be an optax optimiser, such as optax.adam(1e-3); got {got}.")


def check_callbacks(callbacks: Any, kind: type) -> None:
    """Raises TypeError unless an argument `callbacks` is a list of objects of that kind."""
    if not isinstance(callbacks, (list, tuple)):
        raise TypeError(f"callbacks must be a list of {kind.__name__} objects; got {_called(callbacks)}.")
    for callback in callbacks:
        if isinstance(callback, type):
            raise TypeError(f"callbacks: {callback.__name__} is a class; call it, as in {callback.__name__}().")
        if not isinstance(callback, kind):
            raise TypeError(f"callbacks must be {kind.__name__} objects; got {_called(callback)}.")


def check_answer(callback: Any, answer: Any, kind: type) -> None:
    """Raises TypeError unless what a callback's `on_epoch_end` returned is None or of the kind that ends a run."""
    if answer is not None and not isinstance(answer, kind):
        raise TypeError(
            f"{type(callback).__name__}.on_epoch_end returned {answer!r}; expected None, or {kind.__name__}(reason) to "
            "end the run."
        )


def check_function(name: str, value: Any, form: str) -> None:
    """Raises TypeError unless an argument can be called; `form` says how."""
    if value is not None and not callable(value):
        raise TypeError(f"{name} must be a function {form}; got {_called(value)}.")


def check_variables(variables: Any) -> None:
    """Raises TypeError or ValueError unless an argument `variables` is a dict of collections, as Flax has them."""
    if not isinstance(variables, Mapping):
        raise TypeError(f"variables must be a dict of collections, {{'params': …}}; got {_called(variables)}.")
    arrays = [name for name, value in variables.items() if not isinstance(value, Mapping)]
    if arrays:
        raise ValueError(
            f"variables must be a dict of collections, {{'params': …}}; got {list(variables)}, of which {arrays[0]!r} "
            f"is {_called(variables[arrays[0]])}."
        )


def check_listed(name: str, value: Any, of: str) -> None:
    """Raises TypeError unless an argument has a length: what gives its items one by one is used up by a look."""
    if not hasattr(value, "__len__"):
        can = f": give list({name})" if hasattr(value, "__iter__") else ""
        raise TypeError(f"{name} must be a list of {of}; got {_called(value)}{can}.")


def _called(value: Any) -> str:
    if isinstance(value, (str, int, float, bool)) or value is None:
        return repr(value)
    if isinstance(value, type):
        return f"the class {value.__name__}"
    is_function = isinstance(value, Callable) and hasattr(value, "__name__")  # type: ignore[arg-type]
    return f"the function {value.__name__}" if is_function else f"a {type(value).__name__}"
