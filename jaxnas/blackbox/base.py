"""What a black-box searcher is, and a whole search as one pure function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnas.checks import check_at_least
from jaxnas.model.space import Space
from jaxnas.model.text import short_repr

SampledArch = dict[str, jax.Array]
"""An architecture in the form `Space.sample` gives: `{key: int32 [], int32 [n_chosen] or bool [n]}`."""


class Searcher(NamedTuple):
    """A black-box searcher, as pure functions for jit, scan and vmap.

    Attributes:
      init: `(rng) -> state`, a pytree.
      ask: `(state, rng) -> arch`, the architecture to evaluate next.
      tell: `(state, arch, score) -> state`. `arch` is what `ask` returned, `score` float32 `[]`, larger is better; NaN
        for a failed trial, which ranks below all others.
      skip: `(state, arch) -> state`: `arch` will not be evaluated; the next call of `ask` gets another rng.
      space: the space searched.
      draw: `(rng, n) -> drawn`, the random numbers of n asks, each leaf with a leading axis `[n]`. None, or given
        together with `propose`: `rollout` then draws for all trials at once, which is faster than in a loop.
      propose: `(state, drawn) -> arch`, `ask` with one element of what `draw` returned.
      as_they_come: what several trials at once mean (`executor=`): True tells scores in the order in which they
        arrive, and `ask` may be called before earlier ones are told; False tells them in the order of the asks.
    """

    init: Callable[[jax.Array], Any]
    ask: Callable[[Any, jax.Array], SampledArch]
    tell: Callable[[Any, SampledArch, jax.Array], Any]
    skip: Callable[[Any, SampledArch], Any]
    space: Space
    draw: Callable[[jax.Array, int], Any] | None = None
    propose: Callable[[Any, Any], SampledArch] | None = None
    as_they_come: bool = False


@short_repr
class Rollout(NamedTuple):
    """The course of a search.

    Attributes:
      archs: the architectures in order, each leaf with a leading axis `[trials]`.
      scores: float32 `[trials]`.
      observed: what `observe` returned, with a leading axis `[trials]`; None without it.
      state: the searcher's state at the end.
    """

    archs: SampledArch
    scores: jax.Array
    observed: Any
    state: Any


def rollout(
    searcher: Searcher,
    evaluate: Callable[[SampledArch], jax.Array],
    rng: jax.Array,
    *,
    trials: int,
    observe: Callable[[Any], Any] | None = None,
) -> Rollout:
    """Runs a complete search if the score of an architecture can be computed inside jit (a table, a predictor).

    One search is `jax.jit(lambda key: rollout(…))(key)`; many are `jax.jit(jax.vmap(…))(keys)`. Architectures proposed
    twice are evaluated twice.

    Args:
      searcher: from `jaxnas.evolution.algorithm`, for instance.
      evaluate: `(arch) -> score`, traceable.
      rng: a key.
      trials: number of architectures.
      observe: `(state) -> anything`, called after each trial, traceable.
    """
    check_at_least(1, trials=trials)
    draw, ask = searcher.draw or jax.random.split, searcher.propose or searcher.ask

    def trial(state: Any, drawn: Any) -> tuple[Any, Any]:
        arch = ask(state, drawn)
        score = jnp.asarray(evaluate(arch), jnp.float32)
        state = searcher.tell(state, arch, score)
        return state, (searcher.space.to_bits(arch), score, observe(state) if observe else None)

    init_rng, rng = jax.random.split(rng)
    state, (bits, scores, observed) = jax.lax.scan(trial, searcher.init(init_rng), draw(rng, trials))
    return Rollout(jax.vmap(searcher.space.from_bits)(bits), scores, observed, state)


def check_space(space: Any) -> None:
    """Raises TypeError for anything that is not a space, such as a model."""
    if not isinstance(space, Space):
        what = getattr(space, "__name__", type(space).__name__)
        raise TypeError(
            f"space is {what}; expected a jaxnas.Space: that of a model is `jaxnas.space(model_fn, example_input)`."
        )


def rank(score: jax.Array) -> jax.Array:
    """A score to compare by: failed trials (NaN) below all others."""
    return jnp.where(jnp.isnan(score), -jnp.inf, score)


def where(condition: Any, a: Any, b: Any) -> Any:
    """Chooses between two pytrees of the same structure."""
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), a, b)
