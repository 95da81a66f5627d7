"""3×3 pooling of stride 1 as maxima and sums of shifted slices.

XLA's `reduce_window` has slow gradients on CPU (select-and-scatter), and slower ones inside the branches of a
sampled supernet; slices are elementwise in both directions on every platform.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def max_pool_3x3(x: jax.Array) -> jax.Array:
    """The largest of each pixel's 3×3 neighbourhood, inside the image. `[B, H, W, C]` to the same.

    Where several are largest they share the gradient.
    """
    low = jnp.asarray(-jnp.inf, x.dtype)
    for axis in (1, 2):
        before, after = _neighbours(x, axis, low)
        x = jnp.maximum(jnp.maximum(before, x), after)
    return x


def avg_pool_3x3(x: jax.Array) -> jax.Array:
    """The mean of each pixel's 3×3 neighbourhood, over the pixels inside the image. `[B, H, W, C]` to the same."""
    for axis in (1, 2):
        size = x.shape[axis]
        before, after = _neighbours(x, axis, jnp.zeros((), x.dtype))
        count = 3 - (jnp.arange(size) == 0) - (jnp.arange(size) == size - 1)
        shape = [1, 1, 1, 1]
        shape[axis] = size
        x = (before + x + after) / count.reshape(shape).astype(x.dtype)
    return x


def _neighbours(x: jax.Array, axis: int, fill: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Each pixel's neighbour before and after it along an axis."""
    widths = [(0, 0)] * x.ndim
    widths[axis] = (1, 1)
    padded = jnp.pad(x, widths, constant_values=fill)
    size = x.shape[axis]
    return tuple(jax.lax.slice_in_dim(padded, start, start + size, axis=axis) for start in (0, 2))  # type: ignore[return-value]
