"""Regularised (aging) evolution. Real, Aggarwal, Huang, Le; AAAI 2019; arXiv 1802.01548, algorithm 1.

A queue of architectures, at first random. Each trial mutates the best of a random sample of the queue, and the child
takes the place of the oldest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxnas.blackbox import trials as trial_loop
from jaxnas.blackbox.base import SampledArch, Searcher, rank
from jaxnas.checks import check_at_least
from jaxnas.space import Space


@struct.dataclass
class EvolutionState:
    """State of an evolution, for a population of P.

    Attributes:
      rows: int32 `[P, width]`, the population, each as `Space.pack` writes it; slots not yet filled hold zeros.
      scores: float32 `[P]`, -inf for failed trials and empty slots.
      trials: int32 `[]`, scores told; the oldest of a full population is in slot `trials % P`.
    """

    rows: jax.Array
    scores: jax.Array
    trials: jax.Array


def algorithm(space: Space, *, population: int = 100, sample: int = 25) -> Searcher:
    """Regularised evolution as pure functions.

    Args:
      space: what to search. A mutation changes one decision (`Space.mutate`).
      population: length of the queue (100 in the paper and NNI; 10 in NAS-Bench-201's).
      sample: architectures drawn with replacement, as in the paper, whose best is the parent (25, NNI's; 3 in
        NAS-Bench-201's).

    Raises:
      ValueError: for sizes below 1.
      ArchitectureError: if no choice of the space has an alternative.
    """
    check_at_least(1, population=population, sample=sample)
    example = space.sample(jax.random.key(0))
    space.mutate(jax.random.key(0), example)  # if that is an error, then here rather than inside jit
    width = len(space.pack(example))
    n_mutation = space.n_mutation_uniforms
    n_uniforms = max(space.n_uniforms, sample + n_mutation)

    def init(rng: jax.Array) -> EvolutionState:
        rows = jnp.zeros((population, width), jnp.int32)
        return EvolutionState(rows, jnp.full(population, -jnp.inf), jnp.zeros((), jnp.int32))

    def ask(state: EvolutionState, rng: jax.Array) -> SampledArch:
        # One draw, used either for a random architecture or for a tournament and a mutation.
        uniform = _uniforms(rng, n_uniforms)
        drawn = jnp.floor(uniform[n_mutation : n_mutation + sample] * population).astype(jnp.int32)
        parent = drawn[jnp.argmax(state.scores[drawn])]
        child = space.pack(space.mutation(uniform[:n_mutation], space.unpack(state.rows[parent])))
        random = space.pack(space.decode(uniform[: space.n_uniforms]))
        return space.unpack(jnp.where(state.trials < population, random, child))

    def tell(state: EvolutionState, arch: SampledArch, score: jax.Array) -> EvolutionState:
        oldest = state.trials % population  # the same in all lanes of a vmap over seeds, so this is a cheap update
        rows = jax.lax.dynamic_update_index_in_dim(state.rows, space.pack(arch), oldest, 0)
        scores = jax.lax.dynamic_update_index_in_dim(state.scores, rank(score), oldest, 0)
        return EvolutionState(rows, scores, state.trials + 1)

    return Searcher(init, ask, tell, lambda state, arch: state, space)


def _uniforms(rng: jax.Array, n: int) -> jax.Array:
    """Uniform numbers in [0, 1), float32 `[n]`, in steps of 2^-16: two of each word that is drawn.

    Drawing is most of what a trial over a table costs. An index below k that is made of such a number is as likely as
    any other to within a share of k/65536.
    """
    words = jax.random.bits(rng, ((n + 1) // 2,), jnp.uint32)
    return jnp.concatenate([words >> 16, words & 0xFFFF])[:n].astype(jnp.float32) / 65536


def search(
    space: Space, evaluate: Callable[[dict], float], *, population: int = 100, sample: int = 25, **options: Any
) -> trial_loop.Trials:
    """Regularised evolution with a Python evaluator. For `options` see `jaxnas.blackbox.trials.run`."""
    settings = {"population": population, "sample": sample}
    searcher = algorithm(space, **settings)
    return trial_loop.run(searcher, evaluate, name="evolution", settings=settings, **options)
