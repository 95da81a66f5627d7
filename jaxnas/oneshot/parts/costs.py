"""Cost in the loss: architectures under a budget, by gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

from jaxnas.checks import check_options
from jaxnas.errors import ArchitectureError
from jaxnas.model.cost import Cost, cost
from jaxnas.oneshot.parts.part import Seen, model_part
from jaxnas.oneshot.parts.penalty import Penalty
from jaxnas.oneshot.parts.relaxation import Logits


@model_part
def expected_cost(
    kind: Literal["flops", "params"],
    *,
    target: float,
    form: Literal["add", "multiply"] = "add",
    weight: float = 0.1,
) -> Callable[[Seen], Penalty]:
    """The cost of an architecture drawn by the probabilities, E, in the loss of the logits.

    `"add"` is loss + w·(E - target) / target, as in ProxylessNAS (arXiv 1812.00332, section 3.3). `"multiply"` is
    loss · (E / target)^w, as MnasNet's reward (arXiv 1807.11626) is shaped. The target is a scale: the loss falls with
    the cost below it too, and w says how much accuracy a lower cost is worth.

    E is `jaxnas.cost` of one example, of the probabilities that the logits stand for, whatever a step samples: exact
    where LayerChoices decide what is computed.

    Args:
      kind: `"flops"` (multiply-accumulates) or `"params"`.
      target: in the same unit.
      form: `"add"` or `"multiply"`.
      weight: w.

    Raises:
      ValueError: for an unknown kind or form, a target that is not positive, or a negative weight; when built, without
        an example of the model's input.
      ArchitectureError: when built, for a model whose cost is the same for every architecture.
    """
    if kind not in Cost._fields:
        raise ValueError(f"expected_cost knows {list(Cost._fields)}; got {kind!r}.")
    if form not in ("add", "multiply"):
        raise ValueError(f'form must be "add" or "multiply"; got {form!r}.')
    check_options(target=target, weight=weight)

    def build(seen: Seen) -> Penalty:
        if seen.example is None:
            raise ValueError(f"the expected {kind} need the shape of the model's input: give `example`.")

        def expected(probabilities: dict[str, jax.Array]) -> jax.Array:
            return jnp.asarray(getattr(cost(seen.model_fn, seen.example, probabilities), kind), jnp.float32)

        slopes = jax.jit(jax.grad(expected))(seen.space.uniform())
        if not any(bool(jnp.any(slope != slope[0])) for slope in jax.tree.leaves(slopes)):
            raise ArchitectureError(
                f"the {kind} of this model are the same for every architecture, so no penalty helps."
            )

        def penalty(loss: jax.Array, logits: Logits, mixture: dict, t: jax.Array) -> jax.Array:
            ratio = expected(seen.relaxation.probabilities(logits)) / target
            return loss + weight * (ratio - 1) if form == "add" else loss * ratio**weight

        return penalty

    return build
