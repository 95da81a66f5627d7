"""What is added to the loss of the architecture, beside the loss of the task.

A penalty is a function of the space that gives `(loss, logits, mixture, t) -> loss`: the loss of the task so far, the
logits, the architecture computed with them, and the share of the search done.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jax.scipy.special import digamma, gammaln

from jaxnas.checks import check_options
from jaxnas.model.space import Space
from jaxnas.oneshot.parts.part import part
from jaxnas.oneshot.parts.relaxation import Logits
from jaxnas.oneshot.parts.sampling import concentration

Penalty = Callable[[jax.Array, Logits, dict, jax.Array], jax.Array]


@part
def beta_decay(weight: float = 50.0) -> Callable[[Space], Penalty]:
    """β-DARTS (arXiv 2203.01665, equation 10): adds λ(t) times the mean of logsumexp(logits) over the choices.

    Args:
      weight: λ at the end; it rises from 0 with the share of the search done.

    Raises:
      ValueError: for a weight that is negative or not finite.
    """
    check_options(weight=weight)

    def build(space: Space) -> Penalty:
        def penalty(loss: jax.Array, logits: Logits, mixture: dict, t: jax.Array) -> jax.Array:
            every = [jax.nn.logsumexp(each) for each in logits.values()]
            return loss + weight * t * jnp.mean(jnp.stack(every))

        return penalty

    return build


@part
def zero_one(weight: float = 10.0, *, form: Literal["l2", "l1"] = "l2") -> Callable[[Space], Penalty]:
    """FairDARTS (arXiv 1911.12126): subtracts what is largest where every gate is 0 or 1.

    With N gates σ(logits) of all choices, `"l2"` is -(w/N) Σ (σ - ½)², `"l1"` is -(w/N) Σ |σ - ½|.

    Args:
      weight: w, the paper's w₀₋₁.
      form: which of the two.

    Raises:
      ValueError: for a weight that is negative or not finite, or an unknown form.
    """
    check_options(weight=weight)
    if form not in ("l2", "l1"):
        raise ValueError(f'form must be "l2" or "l1"; got {form!r}.')

    def build(space: Space) -> Penalty:
        def penalty(loss: jax.Array, logits: Logits, mixture: dict, t: jax.Array) -> jax.Array:
            away = jnp.concatenate([jax.nn.sigmoid(each) - 0.5 for each in logits.values()])
            return loss - weight * jnp.mean(away**2 if form == "l2" else jnp.abs(away))

        return penalty

    return build


@part
def anchor(weight: float = 1e-3, *, distance: Literal["l2", "kl"] = "l2") -> Callable[[Space], Penalty]:
    """DrNAS (arXiv 2006.10355): keeps each Dirichlet distribution near the uniform one, Dir(1).

    Of the concentration c = elu(logits) + 1 of every choice, summed: `"l2"` is w/2 · ‖c - 1‖², whose gradient is that
    of a weight decay w where the logits are positive; `"kl"` is w · KL(Dir(c) ‖ Dir(1)). (The authors' code decays the
    logits by Adam's weight decay instead.)

    Args:
      weight: w, the paper's λ.
      distance: which of the two.

    Raises:
      ValueError: for a weight that is negative or not finite, or an unknown distance.
    """
    check_options(weight=weight)
    if distance not in ("l2", "kl"):
        raise ValueError(f'distance must be "l2" or "kl"; got {distance!r}.')

    def of(logits: jax.Array) -> jax.Array:
        c = concentration(logits)
        if distance == "l2":
            return ((c - 1) ** 2).sum() / 2
        total, uniform = c.sum(), gammaln(jnp.float32(len(c)))
        return gammaln(total) - gammaln(c).sum() - uniform + ((c - 1) * (digamma(c) - digamma(total))).sum()

    def build(space: Space) -> Penalty:
        keys = [key for key, spec in space.items() if spec.n_chosen == 1 and not spec.ranked]

        def penalty(loss: jax.Array, logits: Logits, mixture: dict, t: jax.Array) -> jax.Array:
            return loss + weight * sum((of(logits[key]) for key in keys), start=jnp.float32(0))

        return penalty

    return build
