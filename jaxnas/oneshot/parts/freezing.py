"""Stopping the training of single operations: gradient matching of OLES."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxnas.checks import check_at_least
from jaxnas.model.operations import operations
from jaxnas.oneshot.parts.part import Seen, model_part

Operations = dict[str, jax.Array]
"""A number per operation: `{name: [*stack]}`. Operations that a model stacks share a name, and have an axis each."""


@struct.dataclass
class Matching:
    """How well the gradients of the operations have matched.

    Attributes:
      frozen: `{name: bool [*stack]}`, the operations that are trained no more.
      total: `{name: float32 [*stack]}`, the cosines since the last decision, summed.
      count: `{name: int32 [*stack]}`, of how many steps: those in which both gradients were not zero.
      step: int32 `[]`, steps since the last decision.
    """

    frozen: Operations
    total: Operations
    count: Operations
    step: jax.Array


class Freezing(NamedTuple):
    """Which operations' weights are trained, as pure functions.

    Attributes:
      init: `(params) -> Matching`.
      observe: `(matching, train gradients, validation gradients) -> Matching`, gradients with the tree of params.
      trained: `(matching, params) -> tree of bool`, each broadcastable to its parameter.
    """

    init: Callable[[Any], Matching]
    observe: Callable[[Matching, Any, Any], Matching]
    trained: Callable[[Matching, Any], Any]


@model_part
def gradient_matching(threshold: float = 0.4, *, every: int = 20) -> Callable[[Seen], Freezing]:
    """OLES (Operation-Level Early Stopping, Jiang et al. 2023): an operation that overfits is trained no more.

    In every step the cosine of an operation's gradients of the training and of the validation loss is taken, over all
    of its weights at once. After every `every` steps the operations whose mean cosine is below the threshold are frozen
    for good: no gradient, no momentum and no weight decay moves them any more. (Their batch statistics still move.)

    An operation is a candidate with weights at one place of the network: of cells that share their decisions each has
    its own. Where no candidate has weights there is nothing to freeze. A model that stacks its candidates' parameters
    says so in a method `operation_of`, as `spaces.darts` and `spaces.nasbench201` do; see `jaxnas.model.operations`.
    In others, cells under `nn.scan` count as one.

    Args:
      threshold: in -1..1.
      every: steps between decisions.

    Raises:
      ValueError: for a threshold outside [-1, 1] or no steps; when built, if no example of the input is given.
    """
    check_at_least(1, every=every)
    if isinstance(threshold, bool) or not isinstance(threshold, (int, float)) or not -1 <= threshold <= 1:
        raise ValueError(f"threshold must be a number in [-1, 1], a mean cosine; got {threshold!r}.")

    def of_model(seen: Seen) -> Freezing:
        if seen.example is None:
            raise ValueError("gradient_matching looks at the model: give an example of its input.")
        place = operations(seen.model_fn, seen.space, seen.example)

        def init(params: Any) -> Matching:
            shapes: dict[str, tuple[int, ...]] = {}
            for path, leaf in flatten_dict(params).items():
                if (found := place(path)) is not None:
                    shapes[found[0]] = leaf.shape[: found[1]]

            def filled(value: Any) -> Operations:
                return {name: jnp.full(shape, value) for name, shape in shapes.items()}

            return Matching(filled(False), filled(0.0), filled(0), jnp.zeros((), jnp.int32))

        def observe(matching: Matching, train: Any, valid: Any) -> Matching:
            cosine, defined = _cosines(place, train, valid)
            total = jax.tree.map(
                lambda sum_, each, ok: sum_ + jnp.where(ok, each, 0.0), matching.total, cosine, defined
            )
            count = jax.tree.map(lambda n, ok: n + ok, matching.count, defined)
            step = matching.step + 1
            due = step == every

            def decided(frozen: jax.Array, sum_: jax.Array, n: jax.Array) -> jax.Array:
                return frozen | (due & (n > 0) & (sum_ < threshold * n))

            def begun(leaf: jax.Array) -> jax.Array:
                return jnp.where(due, jnp.zeros_like(leaf), leaf)

            frozen = jax.tree.map(decided, matching.frozen, total, count)
            return Matching(frozen, jax.tree.map(begun, total), jax.tree.map(begun, count), begun(step))

        def trained(matching: Matching, params: Any) -> Any:
            def of_leaf(path: tuple[str, ...], leaf: jax.Array) -> jax.Array:
                if (found := place(path)) is None:
                    return jnp.ones((), bool)
                name, stacked = found
                return ~matching.frozen[name].reshape(leaf.shape[:stacked] + (1,) * (leaf.ndim - stacked))

            return unflatten_dict({path: of_leaf(path, leaf) for path, leaf in flatten_dict(params).items()})

        return Freezing(init, observe, trained)

    return of_model


def _cosines(place: Callable, train: Any, valid: Any) -> tuple[Operations, dict[str, jax.Array]]:
    """The cosine of two gradients for each operation, over all of its weights, and where it is defined."""
    sums: dict[str, jax.Array] = {}
    theirs = flatten_dict(valid)
    for path, ours in flatten_dict(train).items():
        if (found := place(path)) is None:
            continue
        name, stacked = found
        shape = (*ours.shape[:stacked], math.prod(ours.shape[stacked:]))
        a, b = (each.astype(jnp.float32).reshape(shape) for each in (ours, theirs[path]))
        products = jnp.stack([(a * b).sum(-1), (a * a).sum(-1), (b * b).sum(-1)])
        sums[name] = sums[name] + products if name in sums else products
    defined = {name: (each[1] > 0) & (each[2] > 0) for name, each in sums.items()}
    cosine = {
        name: each[0] / jnp.where(defined[name], jnp.sqrt(each[1]) * jnp.sqrt(each[2]), 1.0)
        for name, each in sums.items()
    }
    return cosine, defined
