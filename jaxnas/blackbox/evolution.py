"""Regularised (aging) evolution. Real, Aggarwal, Huang, Le; AAAI 2019; arXiv 1802.01548, algorithm 1.

A queue of architectures, initially random. Each trial mutates the best of a random sample of the queue, and the child
takes the place of the oldest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Unpack

import jax
import jax.numpy as jnp
from flax import struct

from jaxnas.blackbox import trials as trial_loop
from jaxnas.blackbox.base import SampledArch, Searcher, check_space, rank
from jaxnas.blackbox.options import TRIAL_DEFAULTS, TrialOptions
from jaxnas.checks import check_at_least
from jaxnas.model.space import Space
from jaxnas.model.text import short_repr
from jaxnas.signatures import documented


@short_repr
@struct.dataclass
class EvolutionState:
    """State of an evolution, for a population of P.

    Attributes:
      bits: int32 `[P, words]`, the population, each as `Space.to_bits` writes it; slots not yet filled hold zeros.
      scores: float32 `[P]`, -inf for failed trials and empty slots.
      trials: int32 `[]`, number of scores received; the oldest of a full population is in slot `trials % P`.
    """

    bits: jax.Array
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
    check_space(space)
    check_at_least(1, population=population, sample=sample)
    example = space.sample(jax.random.key(0))
    space.mutate(jax.random.key(0), example)  # if that is an error, then here rather than inside jit
    words = len(space.to_bits(example))
    n_mutation = space.n_mutation_uniforms
    n_uniforms = max(space.n_uniforms, sample + n_mutation)

    def init(rng: jax.Array) -> EvolutionState:
        bits = jnp.zeros((population, words), jnp.int32)
        return EvolutionState(bits, jnp.full(population, -jnp.inf), jnp.zeros((), jnp.int32))

    def draw(rng: jax.Array, n: int) -> tuple[jax.Array, ...]:
        return _random_words(rng, n, (n_uniforms + 1) // 2)

    def propose(state: EvolutionState, drawn: tuple[jax.Array, ...]) -> SampledArch:
        # The same numbers are used for both purposes. All seeds of a vmap take the same branch, so it stays a branch.
        def random() -> jax.Array:
            return space.to_bits(space.decode(_uniforms(drawn)[: space.n_uniforms]))

        def child() -> jax.Array:
            uniform = _uniforms(drawn)
            slots = jnp.floor(uniform[n_mutation : n_mutation + sample] * population).astype(jnp.int32)
            parent = space.from_bits(state.bits[slots[jnp.argmax(state.scores[slots])]])
            return space.to_bits(space.mutation(uniform[:n_mutation], parent))

        return space.from_bits(jax.lax.cond(state.trials < population, random, child))

    def ask(state: EvolutionState, rng: jax.Array) -> SampledArch:
        return propose(state, tuple(word[0] for word in draw(rng, 1)))

    def tell(state: EvolutionState, arch: SampledArch, score: jax.Array) -> EvolutionState:
        oldest = state.trials % population  # the same in all lanes of a vmap over seeds, so this is a cheap update
        bits = jax.lax.dynamic_update_index_in_dim(state.bits, space.to_bits(arch), oldest, 0)
        scores = jax.lax.dynamic_update_index_in_dim(state.scores, rank(score), oldest, 0)
        return EvolutionState(bits, scores, state.trials + 1)

    return Searcher(init, ask, tell, lambda state, arch: state, space, draw, propose, as_they_come=True)


def _random_words(rng: jax.Array, n: int, words: int) -> tuple[jax.Array, ...]:
    """Random bits of n trials, a uint32 `[n]` for each word that a trial needs.

    They are the data of split keys: twice as many bits for the same work as from `jax.random.bits`, which returns half
    of what the hash makes. Drawing is a third of what a trial over a table costs.
    """
    keys = -(-n * words // jax.random.key_data(rng).size)
    flat = jax.random.key_data(jax.random.split(rng, keys)).reshape(-1)
    return tuple(flat[i * n : (i + 1) * n] for i in range(words))


def _uniforms(words: tuple[jax.Array, ...]) -> jax.Array:
    """Uniform numbers in [0, 1), float32 `[2 * words]`, in steps of 2^-16: two of each word.

    All indices below k made from such a number are equally likely, to within a share of k/65536.
    """
    halves = [half for word in words for half in (word >> 16, word & 0xFFFF)]
    return jnp.stack([half.astype(jnp.float32) / 65536 for half in halves])


@documented(TrialOptions, defaults=TRIAL_DEFAULTS)
def search(
    space: Space,
    evaluate: Callable[..., float],
    *,
    population: int = 100,
    sample: int = 25,
    **options: Unpack[TrialOptions],
) -> trial_loop.Trials:
    """Regularised evolution with a Python evaluator. Returns and raises what `trials.run` does.

    Args:
      space: what to search.
      evaluate: `(arch) -> float`, larger is better; `arch` is `{key: int | str | tuple}`.
      population, sample: see `algorithm`.
    """
    settings = {"population": population, "sample": sample}
    searcher = algorithm(space, population=population, sample=sample)
    return trial_loop.run(searcher, evaluate, name="evolution", settings=settings, **options)
