"""How logits (alphas) become an architecture, and a decision.

A relaxation is a function of the space that gives a `Relaxation`. `softmax` is that of DARTS.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.model.architecture import fixed_value, strongest
from jaxnas.model.space import Space

Logits = dict[str, jax.Array]
"""The parameters of an architecture: `{key: float [n_candidates]}`."""


Train = Callable[[Logits, jax.Array, jax.Array], dict[str, Any]]
"""(logits, rng, t) -> the architecture under which the weights are trained."""


class Relaxation(NamedTuple):
    """How the logits of a space become what a model computes.

    Attributes:
      init: `(rng) -> logits`.
      arch: `(logits, rng, t) -> arch`, weights or `Gated` values, differentiable by the logits. `t` is the share of
        the search done, float32 `[]` in 0..1, traced.
      probabilities: `(logits) -> {key: float [n_candidates]}`, what the logits stand for; decides in the end.
      one_path: whether `arch` computes sampled paths only.
      settle: `(logits, updated, arch) -> logits`: what becomes of an update that was made with that architecture;
        None to leave it as it is.
    """

    init: Callable[[jax.Array], Logits]
    arch: Callable[[Logits, jax.Array, jax.Array], dict[str, Any]]
    probabilities: Callable[[Mapping[str, Any]], dict[str, jax.Array]]
    one_path: bool = False
    settle: Callable[[Logits, Logits, dict[str, Any]], Logits] | None = None


def softmax(space: Space) -> Relaxation:
    """DARTS (arXiv 1806.09055, equation 2): every candidate, weighted; see `relax`."""
    return Relaxation(
        init=lambda rng: init_alphas(rng, space),
        arch=lambda logits, rng, t: relax(space, logits),
        probabilities=lambda logits: relax(space, logits),
    )


def sigmoid(space: Space) -> Relaxation:
    """FairDARTS (arXiv 1911.12126): every candidate times a gate σ(logit) of its own; logits begin at 0.

    So candidates do not compete. Inputs of which all are taken have the weight 1.
    """

    def weights(logits: Mapping[str, Any]) -> dict[str, jax.Array]:
        decided = {key for key, spec in space.items() if spec.ranked or spec.n_chosen == spec.n_candidates}
        return {
            key: jnp.ones(spec.n_candidates) if key in decided else jax.nn.sigmoid(logits[key])
            for key, spec in space.items()
        }

    def init(rng: jax.Array) -> Logits:
        return init_alphas(rng, space, scale=0.0)

    return Relaxation(init, lambda logits, rng, t: weights(logits), weights)


def simplex(space: Space) -> Relaxation:
    """GAEA (arXiv 2004.07802): the parameters are the weights themselves, equal at first; no softmax.

    One of n: θ on the simplex. k of n: k·θ. Any subset: a gate in 0..1 per input, 1/2 at first. For the optimiser
    `exponentiated_gradient`, which keeps them there.
    """

    def init(rng: jax.Array) -> Logits:
        return {
            key: jnp.full(spec.n_candidates, 0.5 if spec.n_chosen is None else 1 / spec.n_candidates)
            for key, spec in space.items()
            if not spec.ranked
        }

    def weights(theta: Mapping[str, Any]) -> dict[str, jax.Array]:
        return {
            key: jnp.ones(spec.n_candidates)
            if spec.ranked or spec.n_chosen == spec.n_candidates
            else (spec.n_chosen or 1) * theta[key]
            for key, spec in space.items()
        }

    return Relaxation(init, lambda theta, rng, t: weights(theta), weights)


def uniform_path(space: Space) -> Train:
    """Draws one architecture uniformly, whatever the logits are: for `train_on`, as in SETN (arXiv 1910.05733)."""
    return lambda logits, rng, t: space.sample(rng)


def init_alphas(rng: jax.Array, space: Space, *, scale: float = 1e-3) -> Logits:
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


def decide(space: Space, mixture: Mapping[str, Any]) -> dict[str, Any]:
    """The decision that probabilities stand for: the largest, the k largest, or those above 1/2.

    Ranked inputs are decided as in section 2.4 of the DARTS paper: the strength of an edge is the largest weight among
    its candidates except `none` (times the weight of the input, where the mixture has one), the k strongest edges are
    kept, each with that candidate, and the others get `()`.

    Args:
      space: the space.
      mixture: `{key: float [n_candidates]}`, on the host.
    """
    arch = space.fixed(mixture)
    kept: set[str] = set()
    behind: set[str] = set()
    for key, spec in space.items():
        if spec.ranked and spec.names:
            shares = np.asarray(mixture[key], float)
            strengths = [strongest(space[name], mixture[name])[1] for name in spec.names]
            ranking = np.argsort(-np.asarray(strengths) * shares, kind="stable")
            chosen = tuple(sorted(ranking[: spec.n_chosen].tolist()))
            arch[key] = fixed_value(spec, chosen)
            kept |= {spec.names[i] for i in chosen}
            behind |= set(spec.names)
    for name in behind:
        arch[name] = fixed_value(space[name], (strongest(space[name], mixture[name])[0],) if name in kept else ())
    return arch
