"""What tells whether a run is continued with the data and the functions it was begun with."""

from __future__ import annotations

import functools
import hashlib
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxnas.data import Dataset
from jaxnas.model.trees import named_leaves

_BLOCKS, _BLOCK = 64, 2**16
"""Of an array of more than 4 MiB so many blocks of so many bytes are read."""

_DEEPEST = 12
"""How far functions are followed into those that they close over; a circle ends there too."""


def fingerprints(dataset: Dataset, **functions: Any) -> dict[str, Any]:
    """What `config.json` holds, as `fingerprints`, of what it cannot hold itself.

    Args:
      dataset: the data.
      **functions: what else the run depends on, by its name; see `function_fingerprint`.
    """
    statistics = (
        values if isinstance(values, Mapping) or values is None else np.asarray(values)
        for values in (dataset.mean, dataset.std)
    )
    parts = (dataset.x_train, dataset.y_train, dataset.x_test, dataset.y_test, *statistics)
    functions = {"augment": dataset.augment, **functions}
    return {"data": data_fingerprint(*parts), **{name: function_fingerprint(fn) for name, fn in functions.items()}}


def data_fingerprint(*arrays: Any) -> str:
    """A short text that tells data apart: shapes, dtypes, and a hash of the values.

    Of a large array only blocks are read, at its ends and evenly between: cheap for gigabytes, and blind to a change
    that lies between two blocks. None stands for an array that is not there.

    Args:
      *arrays: arrays of any shape and dtype, dicts and tuples of them, or None.

    Returns:
      Such as `"uint8[50000, 32, 32, 3] int64[50000] 0f3c…"`: the same for the same data, on any machine.
    """
    digest, forms = hashlib.sha256(), []
    for name, array in [leaf for tree in arrays for leaf in _leaves(tree)]:
        if name:
            digest.update(f"{name}=".encode())
        if array is None:
            forms.append("none")
            digest.update(b"none")
            continue
        values = np.asarray(array)
        form = f"{values.dtype}{list(values.shape)}"
        forms.append(f"{name}={form}" if name else form)
        digest.update(form.encode())
        for block in _blocks(values):
            digest.update(np.ascontiguousarray(block).astype(_little(block.dtype), copy=False).tobytes())
    return f"{' '.join(forms)} {digest.hexdigest()[:16]}"


def _leaves(tree: Any) -> list[tuple[str, Any]]:
    """The arrays of a dict or tuple with their names; an array or None itself, without one. Statistics are arrays."""
    if isinstance(tree, Mapping):
        return [(name, leaf) for name, leaf in named_leaves({k: _array(v) for k, v in tree.items()})]
    return list(named_leaves(tree))


def _array(value: Any) -> Any:
    """A tuple of numbers, such as a mean per channel, as an array."""
    numbers = isinstance(value, tuple) and all(isinstance(v, (int, float)) for v in value)
    return np.asarray(value) if numbers else value


def function_fingerprint(fn: Any) -> str:
    """A short text that tells functions apart, as far as they can be named.

    Args:
      fn: a function, class, partial, optax transformation, Flax module, any other object, or None.

    Returns:
      `"module:qualname#hash"`; the hash is of its source where there is one, and of the values it closes over or that
      are its defaults. Of a partial the function and what is bound. Objects that are no function are
      `"custom module:Class"`, with a hash of their repr if it holds no addresses.
    """
    return _named(fn, depth=_DEEPEST)


def _named(fn: Any, depth: int) -> str:
    if fn is None or isinstance(fn, (bool, int, float, str)):
        return repr(fn)
    if depth == 0:
        return "…"
    if isinstance(fn, functools.partial):
        bound = [_named(value, depth - 1) for value in fn.args]
        bound += [f"{key}={_named(value, depth - 1)}" for key, value in sorted(fn.keywords.items())]
        return f"partial({', '.join([_named(fn.func, depth - 1), *bound])})"
    if inspect.ismethod(fn):
        return f"{_named(fn.__func__, depth)} of {_named(fn.__self__, depth - 1)}"
    if isinstance(fn, tuple) and hasattr(fn, "_fields"):  # an optax transformation is a tuple of functions
        parts = [f"{name}={_named(value, depth - 1)}" for name, value in zip(fn._fields, fn, strict=True)]
        return f"custom {_place(type(fn))}#{_hash(*parts)}"
    wrapped = inspect.unwrap(fn) if callable(fn) else fn
    if inspect.isfunction(wrapped) or inspect.isclass(wrapped):
        return f"{_place(wrapped)}#{_hash(_source(wrapped), *_bound(wrapped, depth))}"
    if inspect.isbuiltin(fn) or isinstance(fn, np.ufunc):
        return _place(fn)
    return f"custom {_place(type(fn))}#{_hash(_value(fn, depth))}"


def _place(fn: Any) -> str:
    module = getattr(fn, "__module__", None) or type(fn).__module__
    return f"{module}:{getattr(fn, '__qualname__', None) or getattr(fn, '__name__', type(fn).__qualname__)}"


def _source(fn: Callable) -> str:
    """The source, or the compiled code where there is none; a lambda's line may hold others, so both.

    Nothing of our own functions: another version of ours may continue a run.
    """
    if (getattr(fn, "__module__", None) or "").split(".")[0] == "jaxnas":
        return ""
    try:
        source = inspect.getsource(fn)
    except (OSError, TypeError):
        source = ""
    code = getattr(fn, "__code__", None)
    if code is not None and (not source or fn.__name__ == "<lambda>"):
        source += _code(code)
    return source


def _code(code: Any) -> str:
    constants = [_code(each) if inspect.iscode(each) else _ordered(each) for each in code.co_consts]
    return f"{code.co_code.hex()} {code.co_names} {constants}"


def _ordered(value: Any) -> str:
    """The repr of a value; of a set in an order that is the same in every process."""
    return repr(sorted(map(repr, value))) if isinstance(value, (set, frozenset)) else repr(value)


def _bound(fn: Any, depth: int) -> list[str]:
    """What a function takes along: its defaults, and the values it closes over."""
    found = []
    for value in [*(getattr(fn, "__defaults__", None) or ()), *(getattr(fn, "__kwdefaults__", None) or {}).values()]:
        found.append(_value(value, depth))
    for cell in getattr(fn, "__closure__", None) or ():
        try:
            found.append(_value(cell.cell_contents, depth))
        except ValueError:  # not yet bound
            found.append("unbound")
    return found


def _value(value: Any, depth: int) -> str:
    """A value that a function depends on."""
    if depth == 0:
        return "…"
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        try:
            return data_fingerprint(value)
        except Exception:  # a traced array, or a typed key
            return f"{type(value).__name__}{value.shape}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key!r}: {_value(item, depth - 1)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        return "[" + ", ".join(_value(item, depth - 1) for item in value) + "]"
    if inspect.isroutine(value) or inspect.isclass(value) or isinstance(value, (functools.partial, tuple)):
        return _named(value, depth - 1)
    try:
        text = _ordered(value)
    except Exception:
        text = type(value).__qualname__
    return f"{type(value).__qualname__} {re.sub(r' at 0x[0-9a-f]+', '', text)}"


def _hash(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:12]


def _little(dtype: np.dtype) -> np.dtype:
    return dtype.newbyteorder("<") if dtype.byteorder == ">" else dtype


def _blocks(values: np.ndarray) -> list[np.ndarray]:
    """All of a small array; of a large one flat blocks from the first to the last value."""
    per_block = max(_BLOCK // max(values.dtype.itemsize, 1), 1)
    if values.size <= _BLOCKS * per_block:
        return [values]
    flat = values.reshape(-1) if values.flags.c_contiguous else values.flat
    starts = np.linspace(0, values.size - per_block, _BLOCKS).astype(np.int64)
    return [np.asarray(flat[start : start + per_block]) for start in starts.tolist()]
