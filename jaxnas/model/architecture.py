"""Architecture values: the description of a choice and the forms its decision may take.

An architecture ("arch") is a dict `{key: value}`. The type of a value says how the choice is computed:

=================================  =======================================================
value                              what runs
=================================  =======================================================
float array `[n]`                  every candidate, reduced with these weights
int array, scalar or `[n_chosen]`  only these candidates; may be traced
bool array `[n]`                   this subset of an InputChoice's inputs; may be traced
`int`, `str`, tuple of those       fixed: only these candidates are built
=================================  =======================================================

This module knows nothing of Flax; `choices`, `space` and `serialization` are built on it.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.errors import ArchitectureError

LAYER = "layer"
INPUT = "input"

Arch = Mapping[str, Any]
"""An architecture: choice key -> value of one of the four kinds."""


@dataclasses.dataclass(frozen=True)
class ChoiceSpec:
    """What there is to decide at one choice.

    Attributes:
      kind: `"layer"` (a LayerChoice) or `"input"` (an InputChoice).
      n_candidates: number of candidates, n >= 1.
      names: the n candidate names if they have any, else None.
      n_chosen: how many are chosen; None for any subset, the empty one included.
      ranked: of an input whose `names` are keys of layers: whether it has no weights of its own, but takes the
        `n_chosen` inputs whose layers are strongest (see `InputChoice`).
    """

    kind: str
    n_candidates: int
    names: tuple[str, ...] | None = None
    n_chosen: int | None = 1
    ranked: bool = False

    def __post_init__(self) -> None:
        n, names = self.n_candidates, self.names
        if self.kind not in (LAYER, INPUT) or not isinstance(n, int) or n < 1:
            raise ValueError(f"a choice is a layer or an input and has candidates; got {self.kind!r} of {n!r}.")
        if names is not None and (len(names) != n or len(set(names)) != n):
            raise ValueError(f"a choice of {n} needs {n} different names; got {list(names)}.")
        if self.ranked and (self.kind != INPUT or names is None or self.n_chosen is None):
            raise ValueError("a ranked choice is an input with n_chosen, whose names are the keys of layers.")
        if self.n_chosen is not None and not 1 <= self.n_chosen <= n:
            raise ValueError(f"n_chosen must be None or from 1 to {n}; got {self.n_chosen!r}.")

    @property
    def size(self) -> int:
        """Number of decisions possible here (exact)."""
        if self.n_chosen is None:
            return 2**self.n_candidates
        return math.comb(self.n_candidates, self.n_chosen)

    @property
    def labels(self) -> tuple[int | str, ...]:
        """How each candidate is written in a fixed architecture: its name, or its index.

        Names that are all digits are written as indices, as in NNI, so that "1" cannot mean two things.
        """
        if self.names is None or all(name.isdigit() for name in self.names):
            return tuple(range(self.n_candidates))
        return self.names

    def __str__(self) -> str:
        title = "LayerChoice" if self.kind == LAYER else "InputChoice"
        number = "any" if self.n_chosen is None else str(self.n_chosen)
        names = "" if self.names is None else f" ({', '.join(map(repr, self.names))})"
        return f"{title}, {number} of {self.n_candidates}{names}"


class MultiHotIndex(int):
    """The index read from a multi-hot list, e.g. 1 from `[false, true]`.

    It is that int, and remembers the list's length, so that a list made for another number of
    candidates is refused (NNI re-reads such a list as something else).
    """

    length: int


class MultiHotIndices(tuple):
    """The indices read from a multi-hot list; see `MultiHotIndex`."""

    length: int


def from_multi_hot(flags: list[bool]) -> MultiHotIndex | MultiHotIndices:
    """The decision a list of bools stands for: one index, or a tuple of them (none or several)."""
    chosen = [i for i, flag in enumerate(flags) if flag]
    value = MultiHotIndex(chosen[0]) if len(chosen) == 1 else MultiHotIndices(chosen)
    value.length = len(flags)
    return value


class ClassicIndex(int):
    """The index read from NNI's `{"_value": "conv5x5", "_idx": 1}`, which says the candidate twice.

    It is that int, and remembers the names, so that a file made for other candidates is refused.
    """

    written: tuple[int | str, ...]


class ClassicIndices(tuple):
    """The indices read from such an object with lists; see `ClassicIndex`."""

    written: tuple[int | str, ...]


def from_classic(indices: list[int], names: list[int | str]) -> ClassicIndex | ClassicIndices:
    """The decision that indices and the names written beside them stand for."""
    value = ClassicIndex(indices[0]) if len(indices) == 1 else ClassicIndices(indices)
    value.written = tuple(names)
    return value


@jax.tree_util.register_static
class StaticArch(Mapping):
    """A fixed architecture that no transformation can trace: a pytree without leaves.

    A plain dict of ints turns into traced arrays when it passes through `jax.jit` or `nn.remat`,
    and all candidates would be built; this stays fixed.
    """

    def __init__(self, values: Arch, root: tuple[str, ...] = ()):
        self.root = root  # path of the fixed model in a larger one; keys are relative to it
        self._items = tuple(sorted((k, tuple(v) if isinstance(v, list) else v) for k, v in values.items()))
        self._dict = dict(self._items)

    def __getitem__(self, key):
        return self._dict[key]

    def __iter__(self):
        return iter(self._dict)

    def __len__(self):
        return len(self._dict)

    def __hash__(self):
        return hash((self._items, self.root))

    def __eq__(self, other):
        return isinstance(other, StaticArch) and (self._items, self.root) == (other._items, other.root)

    def __repr__(self):
        return f"StaticArch({self._dict!r})"


def is_array(value: Any) -> bool:
    """Whether a value is an array (traced or not) rather than a Python decision."""
    return isinstance(value, (jax.Array, np.ndarray, np.generic))


def is_weighted(arch: Any) -> bool:
    """Whether some choice of what a model is called with has weights. False for what is no architecture."""
    values = arch.values() if isinstance(arch, Mapping) else ()
    return any(is_array(value) and jnp.issubdtype(value.dtype, jnp.floating) for value in values)


def is_mixture(arch: Arch) -> bool:
    """Whether an architecture gives weights rather than decisions.

    Raises:
      ArchitectureError: if it gives weights for some choices and decisions for others.
    """
    weights = [is_array(value) and jnp.issubdtype(value.dtype, jnp.floating) for value in arch.values()]
    if any(weights) and not all(weights):
        raise ArchitectureError("an architecture to cost or to evaluate has weights for every choice, or for none.")
    return any(weights)


def is_concrete(value: Any) -> bool:
    return not isinstance(value, jax.core.Tracer)


def read_value(key: str, spec: ChoiceSpec, value: Any) -> tuple[str, Any]:
    """Checks one value of an architecture and says which kind it is.

    Returns:
      `("weights", float [n])`, `("index", int32 [n_chosen])`, `("mask", bool [n])` or
      `("fixed", tuple of ints)`.

    Raises:
      ArchitectureError: naming the key, what was found and what was expected.
    """
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
            positions(key, spec, tuple(int(i) for i in np.ravel(value)))
        return "index", jnp.asarray(value, jnp.int32).reshape(spec.n_chosen)
    raise _error(key, spec, f"an array of {dtype}", "floats, ints or bools")


def positions(key: str, spec: ChoiceSpec, value: Any) -> tuple[int, ...]:
    """The indices a fixed value chooses, ascending. Accepts every spelling of NNI and ours.

    An empty LayerChoice is let through here (NNI's DARTS exports one for every edge that no
    InputChoice keeps); `Space.validate` knows whether it is allowed.

    Raises:
      ArchitectureError: if the value is no decision for this choice.
    """
    _check_written(key, spec, value)
    length = getattr(value, "length", None)
    if length is not None and length != spec.n_candidates:
        raise _error(key, spec, f"a multi-hot list of length {length}", f"length {spec.n_candidates}")
    if isinstance(value, bool):
        raise _error(key, spec, repr(value), "an index, a name, or a list with one bool per candidate")
    items = value if isinstance(value, (tuple, list)) else (value,)
    if items and all(isinstance(item, bool) for item in items):
        if len(items) != spec.n_candidates:
            raise _error(key, spec, f"a list of {len(items)} bools", f"{spec.n_candidates}")
        items = [i for i, flag in enumerate(items) if flag]
    chosen = sorted(_position(key, spec, item) for item in items)
    if len(set(chosen)) != len(chosen):
        raise _error(key, spec, f"{value!r}", "each candidate at most once")
    unused_layer = spec.kind == LAYER and not chosen
    if spec.n_chosen is not None and len(chosen) != spec.n_chosen and not unused_layer:
        raise _error(key, spec, f"{len(chosen)} chosen ({value!r})", f"{spec.n_chosen}")
    return tuple(chosen)


def _check_written(key: str, spec: ChoiceSpec, value: Any) -> None:
    """Refuses a `ClassicIndex` or `ClassicIndices` whose names are of other candidates than its indices."""
    indices = value if isinstance(value, tuple) else (value,)
    for name, index in zip(getattr(value, "written", ()), indices, strict=False):
        if spec.names is not None and name in spec.names:
            fits = spec.names.index(str(name)) == index
        elif name == "" and spec.kind == INPUT:
            fits = True
        elif isinstance(name, int) or (name.isascii() and name.isdigit() and len(name) < 20):
            fits = int(name) == index
        else:
            fits = spec.names is None
        if not fits:
            raise _error(key, spec, f"_value {name!r:.80} with _idx {index}", "both to name the same candidate")


def fixed_value(spec: ChoiceSpec, chosen: tuple[int, ...]) -> int | str | tuple:
    """The one way a decision is written: a scalar if one is chosen, else a tuple; names where there are."""
    labels = tuple(spec.labels[i] for i in chosen)
    return labels[0] if len(labels) == 1 else labels


def _position(key: str, spec: ChoiceSpec, item: Any) -> int:
    n = spec.n_candidates
    if isinstance(item, str):
        if spec.names is not None and item in spec.names:
            return spec.names.index(item)
        if item == "" and spec.kind == INPUT and n == 1:
            return 0  # NNI >= 1.6 writes "" for the only input of a one-candidate InputChoice
        if not item.isascii() or not item.isdigit():
            if spec.names is None:
                raise _error(key, spec, f"the name {item!r}", "an index: its candidates have no names")
            close = difflib.get_close_matches(item, spec.names, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise _error(key, spec, f"the unknown name {item!r}{hint}", f"one of {list(spec.names)}")
        item = int(item)  # NNI 2 writes indices as strings
    if isinstance(item, bool) or not isinstance(item, (int, np.integer)):
        if isinstance(item, (float, np.floating)):
            raise _error(key, spec, f"the number {item!r}", "a decision (an index or a name), not a weight")
        raise _error(key, spec, f"{item!r} of type {type(item).__name__}", "an index or a name")
    if not 0 <= item < n:
        raise _error(key, spec, f"index {int(item)}", f"0 to {n - 1}")
    return int(item)


def _error(key: str, spec: ChoiceSpec, found: str, expected: str) -> ArchitectureError:
    return ArchitectureError(f"choice {key!r} ({spec}): got {found}; expected {expected}.")


def missing_key(key: str, spec: ChoiceSpec, arch: Arch) -> ArchitectureError:
    """The error for a choice without a value."""
    return ArchitectureError(f"the architecture has no value for choice {key!r} ({spec}); it has {sorted(arch)}.")


NONE = "none"
"""Name of a candidate that is no layer: where inputs are ranked by their layers, it does not count."""


def strongest(spec: ChoiceSpec, weights: Any) -> tuple[int, float]:
    """The candidate of a layer with the largest weight, `NONE` left out, and that weight: how strong the layer is."""
    names = spec.names or (None,) * spec.n_candidates
    counted = [-np.inf if name == NONE else float(w) for name, w in zip(names, weights, strict=True)]
    return int(np.argmax(counted)), max(counted)


def decision_text(value: Any) -> str:
    """A decision in words: the label, several with commas, or "none"."""
    chosen = value if isinstance(value, (tuple, list)) else (value,)
    return ", ".join(map(str, chosen)) or "none"
