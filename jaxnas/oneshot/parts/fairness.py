"""Paths that train every candidate equally often in every step."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxnas.errors import ArchitectureError
from jaxnas.model.architecture import ChoiceSpec
from jaxnas.model.space import Space

MOST_PATHS = 60
"""Paths of one step, each as dear as a step of one path."""


def fair_paths(space: Space) -> Callable[[jax.Array], dict[str, jax.Array]]:
    """FairNAS (arXiv 1907.01845, section 3.3): strict fairness. For `train_on` of `jaxnas.sampled`.

    Of a choice of one of n, n paths take each candidate exactly once, in an order drawn for every choice and step. The
    paper's choices all have n candidates; where they differ there are as many paths as the least common multiple, and
    each choice takes each of its candidates equally often. k of n inputs: a window of k that moves around a
    permutation, so that each input is taken k times in n paths. Any subset: each input is taken in half of the paths.

    Returns:
      `(rng) -> archs`, as `Space.sample` gives them, each leaf with a leading axis.

    Raises:
      ArchitectureError: if more than 60 paths would be needed.
    """
    n = math.lcm(*(2 if spec.n_chosen is None else spec.n_candidates for spec in space.values()))
    if n > MOST_PATHS:
        counts = {key: spec.n_candidates for key, spec in space.items()}
        raise ArchitectureError(
            f"strict fairness needs {n} paths in every step, the least common multiple of the numbers of candidates "
            f"{counts}; at most {MOST_PATHS} are trained. Choices with as many candidates each need that many."
        )

    def draw(rng: jax.Array) -> dict[str, jax.Array]:
        keys = jax.random.split(rng, max(len(space), 1))
        return {key: _rows(spec, n, keys[i]) for i, (key, spec) in enumerate(space.items())}

    return draw


def _rows(spec: ChoiceSpec, n: int, rng: jax.Array) -> jax.Array:
    """The decisions of n paths: int32 `[n]`, int32 `[n, n_chosen]`, or bool `[n, n_candidates]`."""
    size = spec.n_candidates
    if spec.n_chosen is None:
        half = jnp.arange(n) % 2 == 0
        return jax.vmap(lambda key: jax.random.permutation(key, half))(jax.random.split(rng, size)).T
    # Every round of `size` paths has a permutation of its own.
    orders = jax.vmap(lambda key: jax.random.permutation(key, size))(jax.random.split(rng, n // size))
    if spec.n_chosen == 1 and not spec.ranked:
        return orders.reshape(n).astype(jnp.int32)
    windows = (jnp.arange(size)[:, None] + jnp.arange(spec.n_chosen)) % size
    taken = jnp.sort(orders[:, windows], axis=-1).reshape(n, spec.n_chosen)
    return (taken[:, 0] if spec.n_chosen == 1 else taken).astype(jnp.int32)
