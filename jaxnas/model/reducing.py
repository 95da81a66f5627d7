"""How the outputs of the candidates of a choice become one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxnas.errors import ArchitectureError
from jaxnas.model.alike import can_be_stacked, weighted_sum

REDUCTIONS = ("sum", "mean", "concat", "none")


def reduce_chosen(reduction: str, outputs: list[Any]) -> Any:
    """Reduces selected outputs: none to None, one to itself."""
    if reduction == "none":
        return outputs
    if len(outputs) <= 1:
        return outputs[0] if outputs else None
    return jax.tree.map(lambda *leaves: _combine(reduction, leaves, len(leaves)), *outputs)


def reduce_weighted(key: str, reduction: str, outputs: Sequence[Any], weights: jax.Array, labels: Sequence) -> Any:
    """Reduces outputs, each times its weight (or gate). The mean is over those whose weight is not zero."""

    def scale(leaf: jax.Array, weight: jax.Array) -> jax.Array:
        return leaf * (weight.astype(leaf.dtype) if jnp.issubdtype(leaf.dtype, jnp.inexact) else weight)

    if reduction in ("sum", "mean") and can_be_stacked(outputs):
        total = weighted_sum(weights, jax.tree.map(lambda *leaves: jnp.stack(leaves), *outputs))
        count = jnp.maximum((weights != 0).sum(), 1)
        return jax.tree.map(lambda leaf: leaf / count.astype(leaf.dtype), total) if reduction == "mean" else total
    # Not `zip`: JAX cannot iterate over a traced array of 100 or more.
    scaled = [jax.tree.map(lambda leaf, w=weights[i]: scale(leaf, w), out) for i, out in enumerate(outputs)]
    return reduce_masked(key, reduction, scaled, weights != 0, labels)


def reduce_masked(key: str, reduction: str, outputs: list[Any], mask: jax.Array, labels: Sequence) -> Any:
    """Reduces outputs of which those outside the mask are zero."""
    if reduction == "none":
        return outputs
    check_shapes(key, outputs, labels, but_last=reduction == "concat")
    return jax.tree.map(lambda *leaves: _combine(reduction, leaves, jnp.maximum(mask.sum(), 1)), *outputs)


def _combine(reduction: str, leaves: Sequence[jax.Array], count: Any) -> jax.Array:
    if reduction == "concat":
        return jnp.concatenate(leaves, axis=-1)
    total = sum(leaves[1:], start=leaves[0])
    return total / jnp.asarray(count, total.dtype) if reduction == "mean" else total


def check_shapes(key: str, outputs: Sequence[Any], labels: Sequence, *, but_last: bool = False) -> None:
    """Raises ArchitectureError unless the outputs agree in shape, or in all axes but the last."""

    def form(output: Any) -> Any:
        return jax.tree.map(lambda leaf: jnp.shape(leaf)[:-1] if but_last else jnp.shape(leaf), output)

    for label, output in zip(labels, outputs, strict=True):
        if form(output) != form(outputs[0]):
            shapes = [jax.tree.map(jnp.shape, o) for o in (outputs[0], output)]
            aim = "agree in all but the last axis to be concatenated" if but_last else "have one shape"
            raise ArchitectureError(
                f"choice {key!r}: candidate {labels[0]!r} gives shape {shapes[0]}, candidate {label!r} gives "
                f"{shapes[1]}; they must {aim}."
            )
