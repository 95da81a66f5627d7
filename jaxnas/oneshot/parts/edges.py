"""Relaxations around another one: what they add is an edge's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxnas.errors import ArchitectureError
from jaxnas.model.architecture import LAYER
from jaxnas.model.space import Space
from jaxnas.oneshot.parts.part import part
from jaxnas.oneshot.parts.relaxation import Logits, Relaxation, softmax

SKIPS = ("skip_connect", "skip", "identity", "id")
"""Names of candidates that pass their input on."""


@part
def auxiliary_skip(
    relax: Callable[[Space], Relaxation] = softmax, *, first: float = 1.0, last: float = 0.0
) -> Callable[[Space], Relaxation]:
    """DARTS- (arXiv 2009.01027): adds β(t)·x to the output of every layer, whose weights are those of `relax`.

    β is added to the weight of the candidate that is named one of `SKIPS`. Where that is the identity it is the paper's
    rule; where it reduces the image, the authors' code has a factorised reduction of its own in its place, here the two
    share one. What a search validates and decides by is without β.

    Args:
      relax: how logits become weights.
      first, last: β at the beginning and at the end of the search; it falls linearly.

    Raises:
      ArchitectureError: when built, for a layer without such a candidate, or a relaxation of single paths.
    """

    def build(space: Space) -> Relaxation:
        inner = relax(space)
        if inner.one_path:
            raise ArchitectureError("an auxiliary skip needs a relaxation that computes all candidates, with weights.")
        at: dict[str, int] = {}
        for key, spec in space.items():
            named = [i for i, name in enumerate(spec.names or ()) if name in SKIPS]
            if spec.kind == LAYER and len(named) != 1:
                raise ArchitectureError(
                    f"choice {key!r} ({spec}): an auxiliary skip needs one candidate named one of {list(SKIPS)}; "
                    f"there are {len(named)}."
                )
            if spec.kind == LAYER:
                at[key] = named[0]

        def arch(logits: Logits, rng: jax.Array, t: jax.Array) -> dict[str, Any]:
            beta = first + (last - first) * t
            weights = inner.arch(logits, rng, t)
            return {key: w.at[at[key]].add(beta) if key in at else w for key, w in weights.items()}

        return inner._replace(arch=arch)

    return build


@part
def edge_normalised(
    relax: Callable[[Space], Relaxation] = softmax, *, scale: float = 1e-3
) -> Callable[[Space], Relaxation]:
    """PC-DARTS (arXiv 1907.05737): ranked inputs have logits too, and enter a node with the weights of their softmax.

    An edge is then as strong as that weight times the weight of its strongest operation.

    Args:
      relax: how the other logits become an architecture.
      scale: standard deviation of the inputs' logits at first.
    """

    def build(space: Space) -> Relaxation:
        inner = relax(space)
        ranked = {key: spec.n_candidates for key, spec in space.items() if spec.ranked}

        def init(rng: jax.Array) -> Logits:
            own, rng = jax.random.split(rng)
            keys = jax.random.split(own, max(len(ranked), 1))
            edges = {key: scale * jax.random.normal(keys[i], (n,)) for i, (key, n) in enumerate(ranked.items())}
            return {**inner.init(rng), **edges}

        def shares(logits: Mapping[str, Any]) -> dict[str, jax.Array]:
            return {key: jax.nn.softmax(jnp.asarray(logits[key])) for key in ranked}

        def arch(logits: Logits, rng: jax.Array, t: jax.Array) -> dict[str, Any]:
            return {**inner.arch(logits, rng, t), **shares(logits)}

        def probabilities(logits: Mapping[str, Any]) -> dict[str, jax.Array]:
            return {**inner.probabilities(logits), **shares(logits)}

        return inner._replace(init=init, arch=arch, probabilities=probabilities)

    return build
