"""The examples of a split on the device, for programs that pick some of them at every step."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxnas.model.trees import count_of


@struct.dataclass
class Examples:
    """Examples that lie on the device: a pytree, of which compiled programs take rows.

    Each example's numbers lie in a row. A TPU keeps the last two axes of an array in tiles, and XLA would bring all
    images `[N, H, W, 3]` into another form before it picks some: for CIFAR-10 786 MB of traffic and 614 MB of
    memory in every call (TPU v5e, JAX 0.10; "What a TPU would do" in docs/performance.md).

    Attributes:
      flat: arrays `[N, n]`, or `[N]` of single numbers; or a dict or tuple of these.
      shapes: of one example, for each array.
    """

    flat: Any
    shapes: tuple[tuple[int, ...], ...] = struct.field(pytree_node=False)

    def rows(self, chosen: Any) -> Any:
        """The examples with these indices, int `[B]`, or of a slice: arrays `[B, …]`. For use inside jit."""
        leaves, form = jax.tree.flatten(self.flat)
        picked = [leaf[chosen] for leaf in leaves]
        shaped = [leaf.reshape(len(leaf), *shape) for leaf, shape in zip(picked, self.shapes, strict=True)]
        return jax.tree.unflatten(form, shaped)

    def __len__(self) -> int:
        return count_of(self.flat)


def on_device(tree: Any) -> Examples:
    """Puts examples there: an array `[N, …]`, or a dict or tuple of such arrays."""
    shapes = tuple(leaf.shape[1:] for leaf in jax.tree.leaves(tree))
    return Examples(jax.tree.map(lambda leaf: jnp.asarray(leaf.reshape(_flat(leaf.shape))), tree), shapes)


def shapes_on_device(tree: Any) -> Examples:
    """What `on_device` would give, as `jax.ShapeDtypeStruct`s."""
    return jax.eval_shape(on_device, tree)


def _flat(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape if len(shape) < 3 else (shape[0], -1)
