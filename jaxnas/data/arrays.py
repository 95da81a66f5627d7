"""What is given as the inputs or labels of a split, as checked arrays: one, or a dict or tuple of several."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxnas.errors import DataError
from jaxnas.model.trees import is_container, map_named, named_leaves, same_names


def read_arrays(name: str, field: str, value: Any) -> Any:
    """A field as an array, or as a dict or tuple of them (plain ones, dicts in the order of their keys).

    Args:
      name: of the data, for messages.
      field: such as `x_train`.
      value: what was given. A tuple of numbers is one array.

    Raises:
      DataError: if a leaf is no array of numbers, or a key cannot be the name of an input.
    """
    if isinstance(value, tuple) and value and not any(is_container(part) or np.ndim(part) for part in value):
        value = list(value)
    if is_container(value):
        _check_keys(name, field, value)
        if not any(True for _ in named_leaves(value)):
            raise DataError(f"{name}: {field} is an empty {type(value).__name__}; expected at least one array.")
    return map_named(lambda leaf, part: _array(name, leaf, part), value, field)


def _check_keys(name: str, field: str, tree: Any) -> None:
    for key in tree if isinstance(tree, Mapping) else ():
        if not isinstance(key, str) or not key or "/" in key or key.isdigit():
            raise DataError(
                f"{name}: {field} has an input called {key!r}; names are texts without '/', and not of digits alone "
                "(which stand for positions in a tuple)."
            )
    for key in tree if isinstance(tree, Mapping) else range(len(tree)):
        if is_container(tree[key]):
            if not len(tree[key]):
                raise DataError(f"{name}: {field}/{key} is an empty {type(tree[key]).__name__}; expected arrays.")
            _check_keys(name, f"{field}/{key}", tree[key])


def check_split(name: str, part: str, x: Any, y: Any) -> None:
    """Raises DataError unless inputs and labels have one length, which is not 0, and are finite."""
    one = not is_container(x)
    if one and not is_container(y) and x.ndim < 2 <= y.ndim:
        raise DataError(
            f"{name}: x_{part} has shape {x.shape} and y_{part} has {y.shape}: the images come first, the "
            "labels second; these look swapped."
        )
    if one and x.ndim < 2:
        raise DataError(f"{name}: x_{part} has shape {x.shape}; expected [N, …] with at least two axes.")
    leaves = [*named_leaves(x, f"x_{part}"), *named_leaves(y, f"y_{part}")]
    for leaf, values in leaves:
        if not values.ndim:
            raise DataError(f"{name}: {leaf} is a single number; expected [N, …], a row for each example.")
    if len({len(values) for _, values in leaves}) > 1:
        _refuse_lengths(name, part, x, y)
    if not len(leaves[0][1]):
        raise DataError(f"{name}: x_{part} is empty.")
    for leaf, values in leaves:
        if np.issubdtype(values.dtype, np.floating) and not np.isfinite(values).all():
            where = np.argwhere(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))[0, 0]
            raise DataError(f"{name}: {leaf} is NaN or infinite, first in example {where}.")


def _refuse_lengths(name: str, part: str, x: Any, y: Any) -> None:
    if not is_container(x) and not is_container(y):
        raise DataError(f"{name}: {len(x)} images in x_{part} but {len(y)} labels in y_{part}.")
    lengths = {leaf: len(values) for leaf, values in [*named_leaves(x, f"x_{part}"), *named_leaves(y, f"y_{part}")]}
    listed = ", ".join(f"{leaf} has {count}" for leaf, count in list(lengths.items())[:8])
    more = f" (and {len(lengths) - 8} more)" if len(lengths) > 8 else ""
    hint = ""
    if any(isinstance(tree, tuple) for tree in (x, y)):
        hint = " A tuple holds the inputs of all examples, not the examples: stack these with np.stack."
    raise DataError(f"{name}: the arrays have different numbers of examples: {listed}{more}.{hint}")


def check_alike(name: str, field: str, train: Any, test: Any) -> None:
    """Raises DataError unless training and test data have the same names, shapes and dtypes; `field` is x or y."""
    if not same_names(train, test):
        raise DataError(
            f"{name}: {field}_train and {field}_test have different inputs: {_listed(train)} and {_listed(test)}."
        )
    if field == "y" and not is_container(train):
        return
    found = zip(named_leaves(train, f"{field}_train"), named_leaves(test, f"{field}_test"), strict=True)
    for (of_train, a), (of_test, b) in found:
        if a.shape[1:] != b.shape[1:]:
            what = "images" if field == "x" and not is_container(train) else "examples"
            raise DataError(f"{name}: {what} of {of_train} have shape {a.shape[1:]}, those of {of_test} {b.shape[1:]}.")
        if a.dtype != b.dtype:
            raise DataError(f"{name}: {of_train} is {a.dtype}, {of_test} is {b.dtype}.")


def _listed(tree: Any) -> str:
    return str([name for name, _ in named_leaves(tree)]) if is_container(tree) else "one array"


def _array(name: str, field: str, value: Any) -> np.ndarray:
    arrays = isinstance(value, list) and len(value) > 0 and all(np.ndim(part) for part in value)
    if arrays and len({np.shape(part)[0] for part in value if hasattr(part, "shape") and hasattr(part, "dtype")}) > 1:
        shapes = ", ".join(map(str, sorted({np.shape(part) for part in value})[:3]))
        raise DataError(
            f"{name}: {field} is a list of {len(value)} arrays of shapes {shapes}; expected one array, with a row for "
            "each example. Several inputs per example are a dict or tuple of arrays."
        )
    try:
        array = np.asarray(value)
    except ValueError as e:
        raise DataError(f"{name}: {field} is not an array: {e}.") from None
    kind = array.dtype
    if kind.kind == "c":
        raise DataError(
            f"{name}: {field} is {kind}; expected real numbers. Real and imaginary parts may be two channels: "
            "np.stack([x.real, x.imag], -1)."
        )
    if kind.kind not in "OUS" and jnp.issubdtype(kind, jnp.floating) and not np.issubdtype(kind, np.floating):
        raise DataError(
            f"{name}: {field} is {kind}; expected uint8, float16, float32 or float64. x.astype(np.float32) has the "
            "same values; a model computes in bfloat16 if its layers say dtype=jnp.bfloat16."
        )
    if kind.kind not in "biuf":
        raise DataError(f"{name}: {field} has dtype {kind}; expected numbers, all examples of one shape.")
    return array
