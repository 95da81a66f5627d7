"""Architecture values: the description of a choice and the forms its decision may take.

An architecture ("arch") is a dict `{key: value}`. The type of a value says how the choice is computed:

=================================  =======================================================
value                              what runs
=================================  =======================================================
float array `[n]`                  every candidate, reduced with these weights
int array, scalar or `[n_chosen]`  only these candidates; may be traced
`Gated(index, gate)`               only these candidates, each times its gate; may be traced
bool array `[n]`                   this subset of an InputChoice's inputs; may be traced
`int`, `str`, tuple of those       fixed: only these candidates are built
=================================  =======================================================

Arrays count the candidates that a choice has; Python values name those of the complete model, even if a choice is
restricted to some of them (`jaxnas.restrict`).

This module knows nothing of Flax; `values`, `choices`, `space` and `serialization` are built on it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.errors import ArchitectureError

LAYER = "layer"
INPUT = "input"

Arch = Mapping[str, Any]
"""An architecture: choice key -> value of one of the five kinds."""


@dataclasses.dataclass(frozen=True)
class ChoiceSpec:
    """What there is to decide at one choice.

    Attributes:
      kind: `"layer"` (a LayerChoice) or `"input"` (an InputChoice).
      n_candidates: number of candidates, n >= 1.
      names: the n candidate names if they have any, else None.
      n_chosen: how many are chosen; None for any subset, including the empty one.
      ranked: for an input whose `names` are keys of layers: whether it has no weights of its own, but takes the
        `n_chosen` inputs whose layers are strongest (see `InputChoice`).
      original: for a restricted choice the indices of its candidates in the complete choice, ascending; else None.
      whole: the choice before it was restricted (`jaxnas.restrict`); itself if it is not restricted.
    """

    kind: str
    n_candidates: int
    names: tuple[str, ...] | None = None
    n_chosen: int | None = 1
    ranked: bool = False

    original: ClassVar[tuple[int, ...] | None] = None

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
    def whole(self) -> ChoiceSpec:
        return self

    @property
    def labels(self) -> tuple[int | str, ...]:
        """How each candidate is written in a fixed architecture: its name, or its index in the complete choice."""
        return self.names or self.original or tuple(range(self.n_candidates))

    def restricted(self, kept: tuple[int, ...]) -> ChoiceSpec:
        """This choice with only these candidates, given as ascending indices in the complete choice."""
        whole = self.whole
        if list(kept) != sorted(set(kept) & set(range(whole.n_candidates))):
            raise ValueError(f"{list(kept)} are no ascending indices of {whole.n_candidates} candidates.")
        names = whole.names and tuple(whole.names[i] for i in kept)
        return RestrictedSpec(whole.kind, len(kept), names, whole.n_chosen, whole.ranked, kept, whole)

    def __str__(self) -> str:
        title = "LayerChoice" if self.kind == LAYER else "InputChoice"
        number = "any" if self.n_chosen is None else str(self.n_chosen)
        names = "" if self.names is None else f" ({', '.join(map(repr, self.names))})"
        of = "" if self.original is None else f", restricted to {list(self.original)} of {self.whole.n_candidates}"
        return f"{title}, {number} of {self.n_candidates}{names}{of}"


@dataclasses.dataclass(frozen=True)
class RestrictedSpec(ChoiceSpec):
    """A choice with only some of its candidates left. For attributes see `ChoiceSpec`."""

    original: tuple[int, ...] = ()  # type: ignore[misc]
    whole: ChoiceSpec = None  # type: ignore[assignment]


def read_spec(fields: Mapping[str, Any]) -> ChoiceSpec:
    """The choice that `dataclasses.asdict` and JSON wrote as these fields."""
    plain: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
    if "whole" not in plain:
        return ChoiceSpec(**plain)
    return read_spec(plain["whole"]).restricted(plain["original"])


class Gated(NamedTuple):
    """Sampled paths whose outputs are multiplied by gates. The gates carry the gradient to the logits.

    Only these candidates run. GDAS (arXiv 1910.04465, equation 8), ProxylessNAS (1812.00332, section 3.2: two paths),
    straight-through and ReinMax estimators use such values. The number of paths k may differ from
    `n_chosen`, from 1 to n; the sampler must make indices distinct. `reduction="mean"` is over the paths whose
    gate is not zero. Ranked inputs have no weights, and so no gates.

    Attributes:
      index: int `[k]`, or `[]` for one path; may be traced.
      gate: float of the same shape.
    """

    index: Any
    gate: Any


class MultiHotIndex(int):
    """The index read from a multi-hot list, e.g. 1 from `[false, true]`.

    It is an int that also remembers the list's length, so that a list made for another number of
    candidates is refused (NNI reads such a list as something else).
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
    """The index read from NNI's `{"_value": "conv5x5", "_idx": 1}`, which names the candidate twice.

    It is an int that also remembers the names, so that a file made for other candidates is refused.
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
    and all candidates would be built; this one stays fixed.
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
    """Whether some choice of a value has weights or gates. False if the value is not an architecture."""
    values = arch.values() if isinstance(arch, Mapping) else ()
    return any(isinstance(v, Gated) or (is_array(v) and jnp.issubdtype(v.dtype, jnp.floating)) for v in values)


def is_mixture(arch: Arch) -> bool:
    """Whether an architecture gives weights rather than decisions, gated paths among them.

    Raises:
      ArchitectureError: if it gives weights for some choices and decisions for others.
    """
    weights = [is_array(value) and jnp.issubdtype(value.dtype, jnp.floating) for value in arch.values()]
    if any(weights) and not all(weights):
        raise ArchitectureError("an architecture to cost or to evaluate has weights for every choice, or for none.")
    return any(weights)


def is_concrete(value: Any) -> bool:
    return not isinstance(value, jax.core.Tracer)


def fixed_value(spec: ChoiceSpec, chosen: tuple[int, ...]) -> int | str | tuple:
    """The canonical form of a decision: a scalar if one is chosen, else a tuple; names if there are any."""
    labels = tuple(spec.labels[i] for i in chosen)
    return labels[0] if len(labels) == 1 else labels


def missing_key(key: str, spec: ChoiceSpec, arch: Arch) -> ArchitectureError:
    """The error for a choice without a value."""
    return ArchitectureError(f"the architecture has no value for choice {key!r} ({spec}); it has {sorted(arch)}.")


NONE = "none"
"""Name of the candidate that is no layer: it does not count when inputs are ranked by their layers."""


def strongest(spec: ChoiceSpec, weights: Any) -> tuple[int, float]:
    """The candidate of a layer with the largest weight, except `NONE`, and that weight: the strength of the layer."""
    names = spec.names or (None,) * spec.n_candidates
    counted = [-np.inf if name == NONE else float(w) for name, w in zip(names, weights, strict=True)]
    return int(np.argmax(counted)), max(counted)


def decision_text(value: Any) -> str:
    """A decision in words: the label, several with commas, or "none"."""
    chosen = value if isinstance(value, (tuple, list)) else (value,)
    return ", ".join(map(str, chosen)) or "none"
