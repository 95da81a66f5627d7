"""Random search: architectures drawn uniformly and independently. A strong baseline: arXiv 1902.07638."""

from __future__ import annotations

from collections.abc import Callable
from typing import Unpack

import jax
import jax.numpy as jnp
from flax import struct

from jaxnas.blackbox import trials as trial_loop
from jaxnas.blackbox.base import SampledArch, Searcher, check_space
from jaxnas.blackbox.options import TRIAL_DEFAULTS, TrialOptions
from jaxnas.model.space import Space
from jaxnas.model.text import short_repr
from jaxnas.signatures import documented


@short_repr
@struct.dataclass
class RandomState:
    """State of a random search.

    Attributes:
      trials: int32 `[]`, number of scores received.
    """

    trials: jax.Array


def algorithm(space: Space) -> Searcher:
    """Random search as pure functions."""
    check_space(space)

    def init(rng: jax.Array) -> RandomState:
        return RandomState(jnp.zeros((), jnp.int32))

    def tell(state: RandomState, arch: SampledArch, score: jax.Array) -> RandomState:
        return RandomState(state.trials + 1)

    return Searcher(init, lambda state, rng: space.sample(rng), tell, lambda state, arch: state, space)


@documented(TrialOptions, defaults=TRIAL_DEFAULTS)
def search(space: Space, evaluate: Callable[..., float], **options: Unpack[TrialOptions]) -> trial_loop.Trials:
    """Random search with a Python evaluator. Returns and raises what `trials.run` does.

    Args:
      space: what to search.
      evaluate: `(arch) -> float`, larger is better; `arch` is `{key: int | str | tuple}`.
    """
    return trial_loop.run(algorithm(space), evaluate, name="random_search", settings={}, **options)
