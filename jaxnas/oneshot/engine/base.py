"""What an algorithm is: a small tuple of pure functions, as an optimiser is in optax."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax
from flax import struct


class Algorithm(NamedTuple):
    """A search algorithm.

    Attributes:
      init: `(rng, sample_batch) -> state`, with `sample_batch = (x, y)`; only their shapes matter.
      step: `(state, train_batch, valid_batch) -> (state, metrics)`; pure, for jit, scan and vmap. With
        `valid_batch=None` the architecture stays as it is (warm-up).
      derive: `(state) -> fixed arch {key: int | str | tuple}`; not traceable.
    """

    init: Callable[[jax.Array, Any], Any]
    step: Callable[[Any, Any, Any], tuple[Any, dict[str, jax.Array]]]
    derive: Callable[[Any], dict[str, Any]]


@struct.dataclass
class SearchState:
    """What the state of every one-shot search has: a pytree, to which algorithms add their own fields.

    Attributes:
      params: the supernet's weights, as the model has them.
      model_state: its other collections (such as `batch_stats`), `{}` if none.
      weight_opt_state: optax state of the weights.
      rng: key `[]`, from which each step's key is made.
      step: int32 `[]`, steps done.
    """

    params: Any
    model_state: Any
    weight_opt_state: optax.OptState
    rng: jax.Array
    step: jax.Array

    @property
    def variables(self) -> dict[str, Any]:
        """`{"params": …, **model_state}`, as `model.apply` takes them."""
        return {"params": self.params, **self.model_state}
