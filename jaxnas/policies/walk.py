"""The walk of the ENAS controller over the choices of a space, as a table with a row per step of the LSTM."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.model.architecture import LAYER, ChoiceSpec
from jaxnas.model.space import Space

NOTHING, LAYER_STEP, POINTER, SUBSET = range(4)
"""What a step decides."""

Bias = Callable[[str, ChoiceSpec], Sequence[float] | None]
"""(key, spec of a LayerChoice) -> what to add to its logits, float [n_candidates], or None for nothing."""


class Walk(NamedTuple):
    """The walk as a table: T steps, N the largest number of candidates.

    Attributes:
      kind: int `[T]`.
      rows: int `[T, N]`: for a layer the candidates' rows in the vocabulary, otherwise the steps of their anchors.
      valid: bool `[T, N]`: which entries are candidates.
      bias: float `[T, N]`.
      restart: bool `[T]`: whether the next input is the start embedding.
      position: the step at which each key is decided.
      vocabulary: number of different layer candidates.
      learnt_bias: float `[vocabulary]`, initial values of their learnt bias.
    """

    kind: np.ndarray
    rows: np.ndarray
    valid: np.ndarray
    bias: np.ndarray
    restart: np.ndarray
    position: dict[str, int]
    vocabulary: int
    learnt_bias: np.ndarray


def plan(space: Space, cell_exit_extra_step: bool, branch_bias: Bias | None, op_bias: Bias | None) -> Walk:
    """Makes the table."""
    kinds: list[int] = []
    rows: list[list[int]] = []
    bias: list[Sequence[float]] = []
    restart: list[bool] = []
    position: dict[str, int] = {}
    anchors: dict[str, int] = {}
    vocabulary: dict[Any, int] = {}
    learnt: list[float] = []

    def add(kind: int, candidates: Sequence[int] = (), offsets: Sequence[float] | None = None, *, end=False) -> int:
        kinds.append(kind)
        rows.append(list(candidates))
        bias.append([0.0] * len(candidates) if offsets is None else offsets)
        restart.append(end)
        return len(kinds) - 1

    def anchor(name: str | None) -> int:
        if name in position:
            return position[name]
        if name and name in anchors:
            return anchors[name]
        step = add(NOTHING)
        if name:  # NO_KEY and unnamed candidates are each a separate source
            anchors[name] = step
        return step

    keys = list(space)
    named = {name for spec in space.values() if spec.kind != LAYER for name in spec.names or () if name}
    groups = {group for key in keys for group in _groups_of(key)}
    above = {_parent(name) for name in named & groups}
    for i, key in enumerate(keys):
        spec = space[key]
        if spec.kind == LAYER:
            first = vocabulary.setdefault(spec.labels, sum(map(len, vocabulary)))
            if first == len(learnt):
                learnt += _offsets("op_bias", key, spec, op_bias) or [0.0] * spec.n_candidates
            offsets = _offsets("branch_bias", key, spec, branch_bias)
            position[key] = add(LAYER_STEP, range(first, first + spec.n_candidates), offsets)
        else:
            sources = [anchor(name) for name in spec.names or [None] * spec.n_candidates]
            position[key] = add(SUBSET if spec.n_chosen is None else POINTER, sources)
        for name in reversed(_groups_of(key)):  # the innermost first
            if name in named:
                anchors[name] = position[key]
            ends = not any(name in _groups_of(later) for later in keys[i + 1 :])
            if cell_exit_extra_step and ends and _parent(name) in above:
                anchors[name] = add(NOTHING, end=True)

    width = max(map(len, rows))

    def padded(values: Sequence[Sequence], dtype: Any) -> np.ndarray:
        return np.array([[*row, *[0] * (width - len(row))] for row in values], dtype)

    return Walk(
        kind=np.array(kinds),
        rows=padded(rows, int),
        valid=padded([[True] * len(row) for row in rows], bool),
        bias=padded(bias, float),
        restart=np.array(restart),
        position=position,
        vocabulary=max(1, sum(map(len, vocabulary))),
        learnt_bias=np.array(learnt or [0.0]),
    )


def _groups_of(key: str) -> list[str]:
    """`"a/b/c"` belongs to the groups `"a"` and `"a/b"`."""
    parts = key.split("/")
    return ["/".join(parts[:i]) for i in range(1, len(parts))]


def _parent(group: str) -> str:
    """The group that a group lies in; `""` at the top."""
    return group.rpartition("/")[0]


def _offsets(name: str, key: str, spec: ChoiceSpec, bias: Bias | None) -> list[float] | None:
    offsets = None if bias is None else bias(key, spec)
    if offsets is None:
        return None
    if np.shape(offsets) != (spec.n_candidates,):
        raise ValueError(
            f"{name} gives shape {np.shape(offsets)} for choice {key!r} ({spec}); expected ({spec.n_candidates},)."
        )
    return list(offsets)


def decode(space: Space, walk: Walk, chosen: jax.Array) -> dict[str, jax.Array]:
    """bool `[T, N]` as an architecture."""
    arch = {}
    for key, spec in space.items():
        row = chosen[walk.position[key], : spec.n_candidates]
        arch[key] = row if spec.n_chosen is None else jnp.argmax(row).astype(jnp.int32)
    return arch


def encode(space: Space, walk: Walk, arch: Mapping[str, jax.Array]) -> jax.Array:
    """A sampled architecture as bool `[T, N]`."""
    chosen = jnp.zeros(walk.valid.shape, bool)
    for key, spec in space.items():
        value = arch[key]
        row = value if spec.n_chosen is None else jnp.arange(spec.n_candidates) == value
        chosen = chosen.at[walk.position[key], : spec.n_candidates].set(row)
    return chosen
