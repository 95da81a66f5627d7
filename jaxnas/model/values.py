"""Reading the values of an architecture: which of the five kinds one is, and whether it fits its choice."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxnas.errors import ArchitectureError
from jaxnas.model.architecture import INPUT, LAYER, ChoiceSpec, Gated, is_array, is_concrete


def read_value(key: str, spec: ChoiceSpec, value: Any) -> tuple[str, Any]:
    """Checks one value of an architecture and says which kind it is.

    Returns:
      `("weights", float [n])`, `("index", int32 [n_chosen])`, `("gated", Gated(int32 [k], float [k]))`,
      `("mask", bool [n])` or `("fixed", tuple of ints)`. In a restricted choice n and all indices count what is left.

    Raises:
      ArchitectureError: naming the key, what was found and what was expected.
    """
    if isinstance(value, Gated):
        return "gated", _gated(key, spec, value)
    if isinstance(value, (tuple, list)) and value and all(is_array(v) for v in value):
        value = jnp.stack([jnp.asarray(v) for v in value])  # a fixed tuple that has been traced
    if not is_array(value):
        return "fixed", positions(key, spec, value)

    n, shape = spec.n_candidates, np.shape(value)
    dtype = value.dtype
    if jnp.issubdtype(dtype, jnp.floating):
        if shape != (n,):
            raise _error(key, spec, f"weights of shape {shape}", f"shape ({n},)")
        return "weights", jnp.asarray(value)
    if jnp.issubdtype(dtype, jnp.bool_):
        if spec.kind != INPUT:
            raise _error(key, spec, "a bool array", "weights (float) or an index (int)")
        if shape != (n,):
            raise _error(key, spec, f"a subset of shape {shape}", f"shape ({n},)")
        if spec.n_chosen is not None and is_concrete(value) and int(np.sum(value)) != spec.n_chosen:
            raise _error(key, spec, f"{int(np.sum(value))} chosen", f"{spec.n_chosen}")
        return "mask", jnp.asarray(value)
    if jnp.issubdtype(dtype, jnp.integer):
        if spec.n_chosen is None:
            raise _error(key, spec, "an index array", f"bool[{n}], since any subset may be chosen")
        if shape != (spec.n_chosen,) and not (spec.n_chosen == 1 and shape == ()):
            expected = "a scalar" if spec.n_chosen == 1 else f"shape ({spec.n_chosen},)"
            raise _error(key, spec, f"an index array of shape {shape}", expected)
        if is_concrete(value):
            check_chosen(key, spec, np.ravel(value).tolist())
        return "index", jnp.asarray(value, jnp.int32).reshape(spec.n_chosen)
    raise _error(key, spec, f"an array of {dtype}", "floats, ints or bools")


def _gated(key: str, spec: ChoiceSpec, value: Gated) -> Gated:
    """The checked value with both parts of shape `[k]`."""
    if spec.ranked:
        raise _error(key, spec, "gates", "weights or a decision: ranked inputs have no gates")
    index, gate = (part if is_array(part) else np.asarray(part) for part in value)
    if not jnp.issubdtype(index.dtype, jnp.integer) or not jnp.issubdtype(gate.dtype, jnp.floating):
        raise _error(key, spec, f"Gated of {index.dtype} and {gate.dtype}", "an index of ints and a gate of floats")
    shape = np.shape(index)
    if np.shape(gate) != shape or len(shape) > 1:
        raise _error(key, spec, f"Gated of shapes {shape} and {np.shape(gate)}", "one shape, [k], or [] for one path")
    count = shape[0] if shape else 1
    if not 1 <= count <= spec.n_candidates:
        raise _error(key, spec, f"{count} gated paths", f"1 to {spec.n_candidates}")
    if is_concrete(index):
        check_distinct(key, spec, np.ravel(index).tolist())
    return Gated(jnp.asarray(index, jnp.int32).reshape(count), jnp.asarray(gate).reshape(count))


def check_chosen(key: str, spec: ChoiceSpec, chosen: Sequence[int]) -> tuple[int, ...]:
    """The chosen indices of a choice, ascending. Raises ArchitectureError if they are not a decision."""
    check_distinct(key, spec, chosen)
    unused_layer = spec.kind == LAYER and not chosen
    if spec.n_chosen is not None and len(chosen) != spec.n_chosen and not unused_layer:
        raise _error(key, spec, f"{len(chosen)} chosen ({tuple(chosen)!r})", f"{spec.n_chosen}")
    return tuple(sorted(chosen))


def check_distinct(key: str, spec: ChoiceSpec, chosen: Sequence[int]) -> None:
    """Raises ArchitectureError if an index is out of range or given twice."""
    n = spec.n_candidates
    for index in chosen:
        if not 0 <= index < n:
            raise _error(key, spec, f"index {index}", f"0 to {n - 1}")
    if len(set(chosen)) != len(chosen):
        raise _error(key, spec, f"{tuple(chosen)!r}", "each candidate at most once")


def positions(key: str, spec: ChoiceSpec, value: Any) -> tuple[int, ...]:
    """The indices that a fixed value chooses, ascending. Accepts every spelling of NNI and ours.

    Indices in the value are those of the complete choice; the returned ones are those of what is left if it is
    restricted. An empty LayerChoice is let through here (NNI's DARTS exports one for every edge that no InputChoice
    keeps); `Space.validate` knows whether it is allowed.

    Raises:
      ArchitectureError: if the value is not a decision for this choice.
    """
    n = spec.whole.n_candidates
    length, written = getattr(value, "length", None), hasattr(value, "written")
    if length is not None and length != n:
        raise _error(key, spec, f"a multi-hot list of length {length}", f"length {n}")
    if isinstance(value, bool):
        raise _error(key, spec, repr(value), "an index, a name, or a list with one bool per candidate")
    items: Any = value if isinstance(value, (tuple, list)) else (value,)
    if items and all(isinstance(item, bool) for item in items):
        if len(items) != n:
            raise _error(key, spec, f"a list of {len(items)} bools", f"{n}")
        chosen = [i for i, flag in enumerate(items) if flag]
    elif length is not None or written:
        chosen = [int(item) for item in items]
        check_distinct(key, spec.whole, chosen)
        _check_written(key, spec.whole, value)
    else:
        chosen = [position(key, spec, item) for item in items]
    if len(set(chosen)) != len(chosen):
        raise _error(key, spec, f"{value!r}", "each candidate at most once")
    if spec.original is not None:
        outside = [spec.whole.labels[i] for i in chosen if i not in spec.original]
        if outside:
            raise _error(key, spec, f"{outside}, which the restriction has left out", f"some of {list(spec.labels)}")
        chosen = [spec.original.index(i) for i in chosen]
    return check_chosen(key, spec, chosen)


def _check_written(key: str, spec: ChoiceSpec, value: Any) -> None:
    """Refuses a `ClassicIndex` or `ClassicIndices` whose names are of other candidates than its indices."""
    indices, names = value if isinstance(value, tuple) else (value,), spec.names or ()
    for name, index in zip(getattr(value, "written", ()), indices, strict=False):
        if name in names:
            fits = names.index(str(name)) == index
        elif name == "" and spec.kind == INPUT:
            fits = True
        elif isinstance(name, int) or (_is_digits(name) and len(name) < 20 and not any(map(_is_digits, names))):
            fits = int(name) == index
        else:
            fits = not names
        if not fits:
            raise _error(key, spec, f"_value {name!r:.80} with _idx {index}", "both to name the same candidate")


def position(key: str, spec: ChoiceSpec, item: Any) -> int:
    """The index in the complete choice of one candidate, given by name or index.

    A text is a name if candidates have names. NNI 2 wrote indices as texts: they are accepted if none of the names
    looks like one. A number is an index, but if all names are digits it could be either, and is refused.

    Raises:
      ArchitectureError: if there is no such candidate, or it is ambiguous which one is meant.
    """
    names, n = spec.whole.names, spec.whole.n_candidates
    numeric = [name for name in names or () if _is_digits(name)]
    number: Any = item
    if isinstance(item, str):
        if names is not None and item in names:
            return names.index(item)
        if item == "" and spec.kind == INPUT and n == 1:
            return 0  # NNI >= 1.6 writes "" for the only input of a one-candidate InputChoice
        if names is None and not _is_digits(item):
            raise _error(key, spec, f"the name {item!r}", "an index: its candidates have no names")
        if names is not None and (numeric or not _is_digits(item)):
            close = difflib.get_close_matches(item, names, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            hint = hint or " (not read as an index, since names here are numbers)" * _is_digits(item)
            raise _error(key, spec, f"the unknown name {item!r}{hint}", f"one of {list(names)}")
        if (len(item) > 1 and item[0] == "0") or len(item) > 9:
            raise _error(key, spec, f"the text {item[:20]!r} as an index", f"0 to {n - 1}, without leading zeros")
        number = int(item)
    if isinstance(number, bool) or not isinstance(number, (int, np.integer)):
        if isinstance(number, (float, np.floating)):
            raise _error(key, spec, f"the number {number!r}", "a decision (an index or a name), not a weight")
        raise _error(key, spec, f"{number!r} of type {type(number).__name__}", "an index or a name")
    number = int(number)
    if abs(number) >= 2**63:
        raise _error(key, spec, "a number far out of range", f"0 to {n - 1}")
    if names is not None and len(numeric) == n:
        by_name = f"the name {str(number)!r}" if str(number) in names else "a name (there is none such)"
        by_index = f"the index of {names[number]!r}" if 0 <= number < n else "an index (out of range)"
        found = f"the number {number}, which may mean {by_name} or {by_index}"
        raise _error(key, spec, found, f"one of the names in quotes, {list(names)}")
    if not 0 <= number < n:
        raise _error(key, spec, f"index {number}", f"0 to {n - 1}")
    return number


def _is_digits(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _error(key: str, spec: ChoiceSpec, found: str, expected: str) -> ArchitectureError:
    return ArchitectureError(f"choice {key!r} ({spec}): got {found}; expected {expected}.")
