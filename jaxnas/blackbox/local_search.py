"""Local search: climb to the best neighbour until there is no better one, then restart at random.

White, Nolen, Savani: Exploring the Loss Landscape in Neural Architecture Search; UAI 2021; arXiv 2005.02960.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Unpack

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxnas.blackbox import trials as trial_loop
from jaxnas.blackbox.base import SampledArch, Searcher, check_space, rank, where
from jaxnas.blackbox.options import TRIAL_DEFAULTS, TrialOptions
from jaxnas.errors import ArchitectureError
from jaxnas.model.architecture import ChoiceSpec
from jaxnas.model.space import Space
from jaxnas.model.text import short_repr
from jaxnas.signatures import documented


@short_repr
@struct.dataclass
class LocalState:
    """State of a local search; an architecture has N neighbours.

    Attributes:
      current: the architecture whose neighbours are tried.
      score: float32 `[]`, its score; -inf if it failed.
      best: the best neighbour tried.
      best_score: float32 `[]`, its score.
      position: int32 `[]`: 0 while a random start is being evaluated, then 1 to N for the next neighbour.
      order: int32 `[N]`, the order in which neighbours are tried.
      rng: key `[]`, for the next orders.
    """

    current: SampledArch
    score: jax.Array
    best: SampledArch
    best_score: jax.Array
    position: jax.Array
    order: jax.Array
    rng: jax.Array


def algorithm(space: Space, *, first_improvement: bool = False) -> Searcher:
    """Local search as pure functions.

    Neighbours differ in one decision: another candidate, one input exchanged or flipped.

    Args:
      space: what to search.
      first_improvement: move to the first neighbour that is better, rather than to the best of all.

    Raises:
      ArchitectureError: if no choice of the space has an alternative.
    """
    check_space(space)
    counts = {key: _count(spec) for key, spec in space.items()}
    total = sum(counts.values())
    if not total:
        raise ArchitectureError("no neighbours: no choice of this space has an alternative.")
    ends = np.cumsum(list(counts.values()))

    def restart(rng: jax.Array) -> LocalState:
        order_rng, rng = jax.random.split(rng)
        blank = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(space.sample, rng))
        low = jnp.full((), -jnp.inf)
        order = jax.random.permutation(order_rng, total).astype(jnp.int32)
        return LocalState(blank, low, blank, low, jnp.zeros((), jnp.int32), order, rng)

    def ask(state: LocalState, rng: jax.Array) -> SampledArch:
        number = state.order[state.position - 1]
        neighbour = {}
        for (key, spec), end in zip(space.items(), ends, strict=True):
            within = number - (end - counts[key])
            changed = _neighbour(spec, state.current[key], jnp.clip(within, 0, max(counts[key] - 1, 0)))
            neighbour[key] = jnp.where((within >= 0) & (number < end), changed, state.current[key])
        return where(state.position == 0, space.sample(rng), neighbour)

    def tell(state: LocalState, arch: SampledArch, score: jax.Array) -> LocalState:
        score, starting = rank(score), state.position == 0
        better = score > state.best_score
        current = where(starting, arch, state.current)
        best, best_score = where(starting | better, (arch, score), (state.best, state.best_score))
        at = jnp.where(starting, score, state.score)
        done = (state.position == total) | (first_improvement & (best_score > at))
        climbing = ~starting & done & (best_score > at)
        again = restart(state.rng)
        going_on = LocalState(current, at, best, best_score, state.position + 1, state.order, state.rng)
        at_next = again.replace(  # type: ignore[attr-defined]
            current=best, score=best_score, best=best, best_score=best_score, position=jnp.ones((), jnp.int32)
        )
        return where(climbing, at_next, where(~starting & done, again, going_on))

    def skip(state: LocalState, arch: SampledArch) -> LocalState:
        return where(state.position == 0, state, tell(state, arch, jnp.full((), -jnp.inf)))

    return Searcher(restart, ask, tell, skip, space)


def _count(spec: ChoiceSpec) -> int:
    """Number of neighbouring decisions."""
    n, k = spec.n_candidates, spec.n_chosen
    return n if k is None else k * (n - k)


def _neighbour(spec: ChoiceSpec, value: jax.Array, number: jax.Array) -> jax.Array:
    """The neighbouring decision with this number, in the form `Space.sample` gives."""
    n, k = spec.n_candidates, spec.n_chosen
    if k is None:
        return value ^ (jnp.arange(n) == number)
    if k == 1:
        return (value + 1 + number) % n
    if k == n:
        return value
    held = jnp.zeros(n, bool).at[value].set(True)
    free = jnp.nonzero(~held, size=n - k)[0].astype(value.dtype)
    return jnp.sort(value.at[number // (n - k)].set(free[number % (n - k)]))


@documented(TrialOptions, defaults=TRIAL_DEFAULTS)
def search(
    space: Space,
    evaluate: Callable[..., float],
    *,
    first_improvement: bool = False,
    **options: Unpack[TrialOptions],
) -> trial_loop.Trials:
    """Local search with a Python evaluator. Returns and raises what `trials.run` does.

    Args:
      space: what to search.
      evaluate: `(arch) -> float`, larger is better; `arch` is `{key: int | str | tuple}`.
      first_improvement: see `algorithm`.
    """
    settings = {"first_improvement": first_improvement}
    searcher = algorithm(space, first_improvement=first_improvement)
    return trial_loop.run(searcher, evaluate, name="local_search", settings=settings, **options)
