"""How logits (alphas) become an architecture of weights, and a decision."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.model.architecture import fixed_value, strongest
from jaxnas.model.space import Space


def init_alphas(rng: jax.Array, space: Space, *, scale: float = 1e-3) -> dict[str, jax.Array]:
    """`scale`·normal logits, `{key: float [n_candidates]}` (the DARTS code's 1e-3); none for ranked inputs."""
    keys = jax.random.split(rng, max(len(space), 1))
    return {
        key: scale * jax.random.normal(keys[i], (spec.n_candidates,))
        for i, (key, spec) in enumerate(space.items())
        if not spec.ranked
    }


def relax(space: Space, alphas: Mapping[str, Any]) -> dict[str, jax.Array]:
    """The mixture that logits stand for, `{key: float [n_candidates]}`.

    One of n: softmax (DARTS, arXiv 1806.09055, equation 2). k of n: k·softmax, whose sum is that of the k
    inputs a decision takes; all of n: ones, since there is nothing to decide. Any subset: a sigmoid per
    input, each being a decision of its own. Ranked inputs: ones (the paper's cells sum over all edges).
    """

    def weights(n: int, n_chosen: int | None, logits: jax.Array) -> jax.Array:
        if n_chosen is None:
            return jax.nn.sigmoid(logits)
        return jnp.ones_like(logits) if n_chosen == n else n_chosen * jax.nn.softmax(logits)

    return {
        key: jnp.ones(spec.n_candidates) if spec.ranked else weights(spec.n_candidates, spec.n_chosen, alphas[key])
        for key, spec in space.items()
    }


def discretize(space: Space, alphas: Mapping[str, Any]) -> dict[str, Any]:
    """The decision that logits stand for: the largest, the k largest, or those whose sigmoid is above 1/2.

    Ranked inputs are decided as in section 2.4 of the paper: the strength of an edge is the largest weight among its
    candidates except `none`, the k strongest edges are kept, each with that candidate, and the others get `()`.
    """
    mixture = relax(space, alphas)
    arch = space.fixed(mixture)
    kept: set[str] = set()
    behind: set[str] = set()
    for key, spec in space.items():
        if spec.ranked and spec.names:
            strengths = [strongest(space[name], mixture[name])[1] for name in spec.names]
            chosen = tuple(sorted(np.argsort(-np.asarray(strengths), kind="stable")[: spec.n_chosen].tolist()))
            arch[key] = fixed_value(spec, chosen)
            kept |= {spec.names[i] for i in chosen}
            behind |= set(spec.names)
    for name in behind:
        arch[name] = fixed_value(space[name], (strongest(space[name], mixture[name])[0],) if name in kept else ())
    return arch
