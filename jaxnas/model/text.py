"""Short texts for values that hold arrays, so that a notebook cell can end with anything."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from typing import Any, TypeVar

import jax
import numpy as np

C = TypeVar("C", bound=type)
_LONGEST = 80


def summary(tree: Any) -> str:
    """A pytree in a few words: `float32 [3, 4]`, `int32 7`, `{params: 12 arrays, 62,006 float32}`.

    Args:
      tree: arrays, `jax.ShapeDtypeStruct`s, numbers, and containers of them. Values are shown only for single numbers.
    """
    if _is_array(tree):
        return _array(tree)
    if tree is None or isinstance(tree, (bool, int, float, str)):
        return _cut(repr(tree))
    if isinstance(tree, Mapping) and 0 < len(tree) <= 4 and all(isinstance(value, Mapping) for value in tree.values()):
        return _cut("{" + ", ".join(f"{key}: {_counted(value)}" for key, value in tree.items()) + "}")
    return _counted(tree)


def short_repr(cls: C) -> C:
    """A decorator for dataclasses and named tuples: they are shown as `Name(field=summary, …)`."""

    def shown(self: Any) -> str:
        names = getattr(self, "_fields", None) or [field.name for field in dataclasses.fields(self)]
        return f"{type(self).__name__}({', '.join(f'{name}={summary(getattr(self, name))}' for name in names)})"

    cls.__repr__ = shown  # type: ignore[assignment]
    return cls


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype")


def _array(value: Any) -> str:
    dtype = "key" if jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key) else str(value.dtype)
    known = isinstance(value, (np.ndarray, np.generic)) or (
        isinstance(value, jax.Array) and not isinstance(value, jax.core.Tracer) and value.is_fully_addressable
    )
    if value.shape == () and known and dtype != "key":
        return f"{dtype} {np.asarray(value):.5g}" if dtype.startswith(("float", "bfloat")) else f"{dtype} {value}"
    return f"{dtype} {list(value.shape)}"


def _counted(tree: Any) -> str:
    leaves = jax.tree.leaves(tree)
    arrays = [leaf for leaf in leaves if _is_array(leaf)]
    if not arrays:
        return _cut(repr(tree)) if len(leaves) <= 8 else f"{type(tree).__name__} of {len(leaves)} values"
    if len(arrays) == len(leaves) == 1 and arrays[0] is tree:
        return _array(tree)
    sizes: Counter[str] = Counter()
    for leaf in arrays:
        dtype = "keys" if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) else str(leaf.dtype)
        sizes[dtype] += int(np.prod(leaf.shape, dtype=np.int64))
    numbers = " + ".join(f"{size:,} {dtype}" for dtype, size in sizes.most_common())
    others = f" and {len(leaves) - len(arrays)} other values" if len(arrays) < len(leaves) else ""
    return f"{len(arrays)} {'array' if len(arrays) == 1 else 'arrays'}{others}, {numbers}"


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
