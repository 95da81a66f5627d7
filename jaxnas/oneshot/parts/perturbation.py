"""Changes of the architecture under which the weights are trained, so that they are robust against it.

A perturbation is a function of the space that gives `(loss_of_mixture, mixture, rng, t) -> mixture`. `loss_of_mixture`
is the training loss of the batch at hand. The architecture's own step sees the mixture unchanged.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxnas.checks import check_at_least, check_options
from jaxnas.model.space import Space
from jaxnas.oneshot.parts.part import part

Mixture = dict[str, jax.Array]
Perturb = Callable[[Callable[[Mixture], jax.Array], Mixture, jax.Array, jax.Array], Mixture]


@part
def random_perturbation(radius: float = 0.3, *, start: float = 0.03) -> Callable[[Space], Perturb]:
    """SDARTS-RS (arXiv 2002.05283, equation 7): uniform noise in [-ε, ε] on every weight.

    The result is clipped to 0..1 and made to sum to what it summed to before, per choice, as in the authors' code.

    Args:
      radius: ε at the end of the search.
      start: ε at its beginning; it rises linearly, at every step (in the authors' code once per epoch).

    Raises:
      ValueError: for a radius that is negative or not finite.
    """
    check_options(radius=radius, start=start)

    def build(space: Space) -> Perturb:
        def perturb(loss_of_mixture: Any, mixture: Mixture, rng: jax.Array, t: jax.Array) -> Mixture:
            return _projected(space, mixture, _noise(space, mixture, rng, start + (radius - start) * t))

        return perturb

    return build


@part
def adversarial(radius: float = 0.3, *, start: float = 0.03, steps: int = 7) -> Callable[[Space], Perturb]:
    """SDARTS-ADV (arXiv 2002.05283, equation 8): what raises the training loss most within ±ε, by signed gradients.

    From a random start, `steps` steps of 2ε/steps along the sign of the loss's gradient by the weights. After each the
    change is clipped to ±ε, the weights to 0..1, and they are made to sum to what the mixture summed to before, as in
    the authors' code (the paper has no such projection). The result is kept if it raises the loss. The loss is that of
    training; in that code it is computed in evaluation mode.

    Args:
      radius: ε at the end of the search.
      start: ε at its beginning; it rises linearly, at every step.
      steps: of the inner maximisation, at least 1.

    Raises:
      ValueError: for a radius that is negative or not finite, or too few steps.
    """
    check_options(radius=radius, start=start)
    check_at_least(1, steps=steps)

    def build(space: Space) -> Perturb:
        def perturb(loss_of_mixture: Any, mixture: Mixture, rng: jax.Array, t: jax.Array) -> Mixture:
            epsilon = start + (radius - start) * t

            def one(_: int, changed: Mixture) -> Mixture:
                delta = jax.tree.map(
                    lambda now, then, g: jnp.clip(now + 2 * epsilon / steps * jnp.sign(g) - then, -epsilon, epsilon),
                    changed,
                    mixture,
                    jax.grad(loss_of_mixture)(changed),
                )
                return _projected(space, mixture, delta)

            first = _projected(space, mixture, _noise(space, mixture, rng, epsilon))
            found = jax.lax.stop_gradient(jax.lax.fori_loop(0, steps, one, first))
            rose = loss_of_mixture(found) > loss_of_mixture(mixture)
            return jax.tree.map(lambda new, old: jnp.where(rose, new, old), found, mixture)

        return perturb

    return build


def _noise(space: Space, mixture: Mixture, rng: jax.Array, epsilon: Any) -> Mixture:
    keys = jax.random.split(rng, max(len(mixture), 1))
    return {
        key: jax.random.uniform(keys[i], mixture[key].shape, minval=-1.0) * epsilon for i, key in enumerate(mixture)
    }


def _projected(space: Space, mixture: Mixture, delta: Mixture) -> Mixture:
    """The mixture changed by `delta`, clipped to 0..1, of the same sum per choice. Ranked inputs do not change."""

    def one(key: str) -> jax.Array:
        spec, weights = space[key], mixture[key]
        if spec.ranked:
            return weights
        moved = jnp.clip(weights + delta[key], 0.0, 1.0)
        if spec.n_chosen is None:
            return moved
        return moved * weights.sum() / jnp.maximum(moved.sum(), 1e-8)

    return {key: one(key) for key in mixture}
