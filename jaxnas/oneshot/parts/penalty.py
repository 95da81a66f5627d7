"""What is added to the loss of the architecture, beside the loss of the task.

A penalty is a function of the space that gives `(loss, logits, mixture, t) -> loss`: the loss of the task so far, the
logits, the architecture computed with them, and the share of the search done.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxnas.model.space import Space
from jaxnas.oneshot.parts.part import part
from jaxnas.oneshot.parts.relaxation import Logits

Penalty = Callable[[jax.Array, Logits, dict, jax.Array], jax.Array]


@part
def beta_decay(weight: float = 50.0) -> Callable[[Space], Penalty]:
    """β-DARTS (arXiv 2203.01665, equation 10): adds λ(t) times the mean of logsumexp(logits) over the choices.

    Args:
      weight: λ at the end; it rises from 0 with the share of the search done.
    """

    def build(space: Space) -> Penalty:
        def penalty(loss: jax.Array, logits: Logits, mixture: dict, t: jax.Array) -> jax.Array:
            every = [jax.nn.logsumexp(each) for each in logits.values()]
            return loss + weight * t * jnp.mean(jnp.stack(every))

        return penalty

    return build
