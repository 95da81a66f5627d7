"""Maximum pooling whose gradient is fast on CPU."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxnas.ops.meshes import like_images, on_any_mesh


def max_pool(
    inputs: jax.Array, window_shape: Sequence[int], strides: Sequence[int] | None = None, padding: Any = "VALID"
) -> jax.Array:
    """`flax.linen.max_pool`, with a gradient that is fast on CPU where windows do not overlap.

    That is for floating `[N, H, W, C]`, two spatial dimensions, strides equal to the window, and no padding; everything
    else is passed to Flax. The first of equal values gets the gradient, as in Flax and PyTorch. It has reverse-mode
    derivatives of any order, but no forward-mode ones, since it is a `jax.custom_vjp`.
    """
    window = tuple(window_shape)
    unpadded = padding == "VALID" if isinstance(padding, str) else not np.any(padding)
    floating = jnp.issubdtype(inputs.dtype, jnp.floating)
    if inputs.ndim == 4 and len(window) == 2 and strides is not None and tuple(strides) == window and unpadded:
        height, width = inputs.shape[1] // window[0], inputs.shape[2] // window[1]
        if floating and height and width and np.prod(window) < 256:
            pooled = partial(_cut_and_pool, window, (height * window[0], width * window[1]))
            return on_any_mesh(pooled, like_images, inputs)
    return nn.max_pool(inputs, window, strides=strides, padding=padding)


def _cut_and_pool(window: tuple[int, ...], size: tuple[int, int], x: jax.Array) -> jax.Array:
    return _pool(window, x[:, : size[0], : size[1]])


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _pool(window: tuple[int, ...], x: jax.Array) -> jax.Array:
    return _largest(window, x)[0]


def _forward(window: tuple[int, ...], x: jax.Array) -> tuple[jax.Array, jax.Array]:
    # `_pool` again, so that second derivatives have its gradient too; XLA computes the maxima once.
    return _pool(window, x), _largest(window, jax.lax.stop_gradient(x))[1]


def _largest(window: tuple[int, ...], x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The maxima and which value of its window each is, uint8."""
    rows, columns = window
    taps = [x[:, i::rows, j::columns] for i in range(rows) for j in range(columns)]
    largest, index = taps[0], jnp.zeros(taps[0].shape, jnp.uint8)
    for number, tap in enumerate(taps[1:], 1):
        larger = (tap > largest) | (jnp.isnan(tap) & ~jnp.isnan(largest))
        largest, index = jnp.where(larger, tap, largest), jnp.where(larger, np.uint8(number), index)
    return largest, index


def _backward(window: tuple[int, ...], index: jax.Array, g: jax.Array) -> tuple[jax.Array]:
    # One array per value of the window, then interleaved: as one broadcast it took three times as long on CPU.
    rows, columns = window
    n, height, width, channels = g.shape
    taps = [jnp.where(index == np.uint8(number), g, jnp.zeros((), g.dtype)) for number in range(rows * columns)]
    lines = [jnp.stack(taps[i * columns : (i + 1) * columns], 3) for i in range(rows)]
    return (jnp.stack(lines, 2).reshape(n, height * rows, width * columns, channels),)


_pool.defvjp(_forward, _backward)
