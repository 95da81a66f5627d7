"""Grid search: every architecture once, in order; the last choice moves fastest."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxnas.blackbox import trials as trial_loop
from jaxnas.blackbox.base import SampledArch, Searcher
from jaxnas.model.architecture import ChoiceSpec
from jaxnas.model.space import Space

_LARGEST = 2**20


@struct.dataclass
class GridState:
    """State of a grid search.

    Attributes:
      digits: int32 `[choices]`, the number of each choice's decision; together they count upwards.
    """

    digits: jax.Array


def algorithm(space: Space) -> Searcher:
    """Grid search as pure functions. After the last architecture it begins again.

    Raises:
      ValueError: if a single choice has more than 2^20 decisions.
    """
    for key, spec in space.items():
        if spec.size > _LARGEST:
            raise ValueError(f"choice {key!r} ({spec}) has {spec.size:,} decisions: too many for a grid.")
    decisions = [_decisions(spec) for spec in space.values()]
    sizes = np.array([len(d) for d in decisions], np.int32)

    def init(rng: jax.Array) -> GridState:
        return GridState(jnp.zeros(len(sizes), jnp.int32))

    def ask(state: GridState, rng: jax.Array) -> SampledArch:
        return {key: jnp.asarray(decisions[i])[state.digits[i]] for i, key in enumerate(space)}

    def forward(state: GridState) -> GridState:
        full = state.digits == sizes - 1
        carry = jnp.flip(jnp.cumprod(jnp.flip(jnp.concatenate([full[1:], jnp.ones(1, bool)]).astype(jnp.int32))))
        return GridState((state.digits + carry) % sizes)

    return Searcher(init, ask, lambda state, arch, score: forward(state), lambda state, arch: forward(state), space)


def _decisions(spec: ChoiceSpec) -> np.ndarray:
    """All decisions of a choice, in the form `Space.sample` gives, along a first axis."""
    n = spec.n_candidates
    if spec.n_chosen is None:
        return (np.arange(2**n)[:, None] >> np.arange(n) & 1).astype(bool)
    if spec.n_chosen == 1:
        return np.arange(n, dtype=np.int32)
    return np.array(list(itertools.combinations(range(n), spec.n_chosen)), np.int32)


def search(space: Space, evaluate: Callable[[dict], float], **options: Any) -> trial_loop.Trials:
    """Grid search with a Python evaluator. For `options` see `jaxnas.blackbox.trials.run`; by default all are tried."""
    options.setdefault("trials", space.size)
    return trial_loop.run(algorithm(space), evaluate, name="grid_search", settings={}, **options)
