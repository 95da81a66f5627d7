"""The decision of one choice: drawn, changed (both from uniform numbers, traceable), or made from any value."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.errors import ArchitectureError
from jaxnas.model.architecture import ChoiceSpec, is_concrete
from jaxnas.model.values import check_chosen, read_value


def width(spec: ChoiceSpec) -> int:
    """How many uniform numbers a decision is made from."""
    return 1 if spec.n_chosen == 1 else spec.n_candidates


def below(uniform: jax.Array, n: Any) -> jax.Array:
    """An index below n, int32. (The largest float32 below 1, times n, rounds to less than n.)"""
    return jnp.floor(uniform * n).astype(jnp.int32)


def sample(uniform: jax.Array, spec: ChoiceSpec) -> jax.Array:
    """A decision drawn uniformly, in the form that `Space.sample` gives."""
    if spec.n_chosen is None:
        return uniform < 0.5
    if spec.n_chosen == 1:
        return below(uniform[0], spec.n_candidates)
    return jnp.sort(jnp.argsort(uniform)[: spec.n_chosen]).astype(jnp.int32)


def mutate(uniform: jax.Array, spec: ChoiceSpec, value: jax.Array) -> jax.Array:
    """A decision that differs from `value` by one move; see `Space.mutate`."""
    n = spec.n_candidates
    if spec.n_chosen is None:
        return value ^ (jnp.arange(n) == below(uniform[0], n))
    if spec.n_chosen == 1:
        moved = value + 1 + below(uniform[0], n - 1)
        return jnp.where(moved >= n, moved - n, moved)
    # Exchange the chosen one with the lowest random score for the free one with the highest.
    score = 1 + uniform[:n]
    held = jnp.zeros(n, bool).at[value].set(True)
    leave, enter = jnp.argmax(jnp.where(held, 3 - score, 0)), jnp.argmax(jnp.where(held, 0, score))
    return jnp.sort(jnp.where(value == leave, enter.astype(value.dtype), value))


def as_sampled(key: str, spec: ChoiceSpec, value: Any) -> jax.Array:
    """A decision of any kind in the form that `Space.sample` gives. Raises ArchitectureError if it is not one."""
    kind, value = _without_gates(key, spec, *read_value(key, spec, value))
    if kind == "weights":
        raise ArchitectureError(f"choice {key!r}: got weights; expected a decision. `Space.fixed` makes one of them.")
    if spec.n_chosen is None:
        return value if kind == "mask" else jnp.asarray(np.isin(np.arange(spec.n_candidates), value))
    if kind == "mask":
        value = jnp.nonzero(value, size=spec.n_chosen)[0]
    if kind == "fixed" and not value:
        raise ArchitectureError(f"choice {key!r} ({spec}): none chosen, which only a fixed model can compute.")
    value = jnp.sort(jnp.asarray(value, jnp.int32))
    return value[0] if spec.n_chosen == 1 else value


def decide(key: str, spec: ChoiceSpec, value: Any) -> tuple[int, ...]:
    """The indices that any value decides for, as in `Space.fixed`. Raises ArchitectureError if it decides for none."""
    kind, value = _without_gates(key, spec, *read_value(key, spec, value))
    if kind == "weights":
        value = np.asarray(value)
        if not np.all(np.isfinite(value)):
            raise ArchitectureError(f"choice {key!r} ({spec}): its weights are not finite: {value.tolist()}.")
        if spec.n_chosen is None:
            value = np.flatnonzero(value > 0.5)
        else:
            value = np.argsort(-value, kind="stable")[: spec.n_chosen]
    elif kind == "mask":
        value = np.flatnonzero(value)
    return check_chosen(key, spec, [int(i) for i in value])


def _without_gates(key: str, spec: ChoiceSpec, kind: str, value: Any) -> tuple[str, Any]:
    """A value that has been read, gated paths replaced by the decision they stand for; see `Space.fixed`."""
    if kind != "gated":
        return kind, value
    index, gate = value
    if spec.n_chosen is None:
        return "mask", jnp.zeros(spec.n_candidates, bool).at[index].max(gate != 0)
    if len(index) < spec.n_chosen:
        raise ArchitectureError(f"choice {key!r} ({spec}): {len(index)} gated paths decide no {spec.n_chosen}.")
    if len(index) == spec.n_chosen:
        return "index", index
    if is_concrete(gate) and not np.all(np.isfinite(gate)):
        raise ArchitectureError(f"choice {key!r} ({spec}): its gates are not finite: {np.asarray(gate).tolist()}.")
    return "index", index[jnp.argsort(-gate)[: spec.n_chosen]]
