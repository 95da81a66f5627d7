"""Sharpening DARTS: a softmax whose temperature falls, and a loss that grows where choices are undecided.

An example: docs/add-a-method.md walks through it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack, overload

import jax
import jax.numpy as jnp

import jaxnas
from jaxnas import parts
from jaxnas.oneshot.engine.options import SingleOptions
from jaxnas.oneshot.engine.run import by_method, search_by


@parts.part
def sharpening(last: float):
    """Weights softmax(logits / τ), with τ falling from 1 to `last`."""

    def build(space: jaxnas.Space) -> parts.Relaxation:
        plain = parts.softmax(space)

        def arch(logits, rng, t):
            temperature = 1 + (last - 1) * t
            return plain.arch({key: each / temperature for key, each in logits.items()}, rng, t)

        return parts.Relaxation(plain.init, arch, plain.probabilities)

    return build


@parts.part
def indecision(weight: float):
    """Adds `weight` · t times the mean entropy of the choices of one of n."""

    def build(space: jaxnas.Space):
        keys = [key for key, spec in space.items() if spec.n_chosen == 1 and not spec.ranked]

        def penalty(loss, logits, mixture, t):
            entropies = [jax.scipy.special.entr(jax.nn.softmax(logits[key])).sum() for key in keys]
            return loss + weight * t * jnp.mean(jnp.stack(entropies)) if keys else loss

        return penalty

    return build


def method(*, temperature: float = 0.2, weight: float = 0.1) -> jaxnas.Method:
    """Sharpening DARTS, for `jaxnas.search`.

    Args:
      temperature: that of the softmax at the end.
      weight: that of the entropy at the end.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be positive; got {temperature!r}.")
    return jaxnas.differentiable("sharpening", relax=sharpening(temperature), penalties=[indecision(weight)], epochs=50)


@overload
def search(
    model_fn: Any, data: Any, *, seeds: Sequence[int], temperature: float = ..., weight: float = ...,
    **options: Unpack[SingleOptions],
) -> list[jaxnas.SearchResult]: ...  # fmt: skip
@overload
def search(
    model_fn: Any, data: Any, *, temperature: float = ..., weight: float = ..., **options: Unpack[SingleOptions]
) -> jaxnas.SearchResult: ...
@by_method(method)
def search(model_fn: Any, data: Any, **options: Any):
    """Searches a model's choices with sharpening DARTS."""
    return search_by(method, model_fn, data, options)
