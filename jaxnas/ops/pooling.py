"""3×3 pooling of stride 1 or 2, padded by one pixel on every side, as maxima and sums of shifted windows.

XLA's `reduce_window` has slow gradients on CPU (select-and-scatter), and slower ones inside the branches of a
sampled supernet; windows are elementwise in both directions on every platform. Reverse mode differentiates both
poolings any number of times.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnas.ops.meshes import like_images, on_any_mesh

_OUTSIDE = 9  # the number of no tap


def max_pool_3x3(x: jax.Array, stride: int = 1) -> jax.Array:
    """The largest of each 3×3 neighbourhood, inside the image. `[B, H, W, C]` to `[B, ⌈H/stride⌉, ⌈W/stride⌉, C]`.

    Where several are largest, the first of them (row by row) has the gradient, as in PyTorch. There are no forward-mode
    derivatives (`jax.jvp`), since it is a `jax.custom_vjp`.

    Raises:
      ValueError: if the stride is not 1 or 2.
    """
    _check_stride(stride)
    return on_any_mesh(partial(_max_pool, stride), like_images, x)


def avg_pool_3x3(x: jax.Array, stride: int = 1) -> jax.Array:
    """The mean of each 3×3 neighbourhood, over the pixels inside the image; shapes as for `max_pool_3x3`.

    Raises:
      ValueError: if the stride is not 1 or 2.
    """
    _check_stride(stride)
    return on_any_mesh(partial(_avg_pool, stride), like_images, x)


def _avg_pool(stride: int, x: jax.Array) -> jax.Array:
    dtype = x.dtype
    x = x.astype(jnp.promote_types(dtype, jnp.float32))
    for axis in (1, 2):
        size = x.shape[axis]
        widths = [(int(a == axis), int(a == axis)) for a in range(4)]
        padded = jnp.pad(lax.optimization_barrier(x), widths)
        before, middle, after = (lax.slice_in_dim(padded, i, i + size, stride, axis) for i in range(3))
        centres = np.arange(0, size, stride)
        count = np.asarray(3 - (centres == 0) - (centres == size - 1), x.dtype)
        x = (before + middle + after) / count.reshape([-1 if a == axis else 1 for a in range(4)])
    return lax.optimization_barrier(x.astype(dtype))


def _check_stride(stride: int) -> None:
    if stride not in (1, 2):
        raise ValueError(f"stride must be 1 or 2; got {stride!r}.")


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _max_pool(stride: int, x: jax.Array) -> jax.Array:
    return _max_and_tap(stride, x)[0]


def _max_and_tap(stride: int, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The largest values, and which of the nine taps has each, uint8."""
    first, *others = _windows(stride, x, -jnp.inf)
    best, tap = first, jnp.zeros(first.shape, jnp.uint8)
    for number, window in enumerate(others, 1):
        tap = jnp.where(window > best, jnp.uint8(number), tap)
        best = jnp.maximum(best, window)  # keeps what is not a number, where a comparison would lose it
    return lax.optimization_barrier((best, tap))


# With the taps fixed, what the maximum picks is linear in the image; `_pick` and `_spread` are each other's gradients.


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _pick(stride: int, x: jax.Array, tap: jax.Array) -> jax.Array:
    """The pixel at the tap of each window."""
    picked = sum(jnp.where(tap == number, window, 0) for number, window in enumerate(_windows(stride, x, 0)))
    return lax.optimization_barrier(picked)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _spread(stride: int, size: tuple[int, int], g: jax.Array, tap: jax.Array) -> jax.Array:
    """Adds each window's value to the pixel, of an image of that size, which its tap is at."""
    height, width = g.shape[1:3]
    padded, taps = _pad(g, 0), _pad(tap, _OUTSIDE)

    def pixels(row: int, column: int) -> jax.Array:
        """The pixels of that place in each stride × stride block."""
        total = jnp.zeros_like(g)
        for i, down in _reaching(stride, row):
            for j, right in _reaching(stride, column):
                part = (slice(None), slice(down, down + height), slice(right, right + width))
                total += jnp.where(taps[part] == 3 * i + j, padded[part], 0)
        return total

    rows = [jnp.stack([pixels(row, column) for column in range(stride)], axis=3) for row in range(stride)]
    blocks = jnp.stack(rows, axis=2)
    x = blocks.reshape(g.shape[0], stride * height, stride * width, g.shape[3])
    return lax.optimization_barrier(x[:, : size[0], : size[1]])


def _reaching(stride: int, place: int) -> list[tuple[int, int]]:
    """The (tap, start of the padded windows) of the windows that reach a pixel of that place in its block."""
    return [(tap, 1 + (place + 1 - tap) // stride) for tap in range(3) if (place + 1 - tap) % stride == 0]


def _forward(stride: int, x: jax.Array) -> Any:
    best, tap = _max_and_tap(stride, x)
    return best, (tap, x.shape[1:3])


_max_pool.defvjp(_forward, lambda stride, kept, g: (_spread(stride, kept[1], g, kept[0]),))
_pick.defvjp(
    lambda stride, x, tap: (_pick(stride, x, tap), (tap, x.shape[1:3])),
    lambda stride, kept, g: (_spread(stride, kept[1], g, kept[0]), _no_gradient(kept[0])),
)
_spread.defvjp(
    lambda stride, size, g, tap: (_spread(stride, size, g, tap), tap),
    lambda stride, size, tap, x: (_pick(stride, x, tap), _no_gradient(tap)),
)


def _no_gradient(tap: jax.Array) -> np.ndarray:
    return np.zeros(tap.shape, jax.dtypes.float0)


def _windows(stride: int, x: jax.Array, fill: float) -> list[jax.Array]:
    """What each of the nine taps meets, row by row."""
    padded, (height, width) = _pad(x, fill), x.shape[1:3]
    return [padded[:, i : i + height : stride, j : j + width : stride] for i in range(3) for j in range(3)]


def _pad(x: jax.Array, fill: float) -> jax.Array:
    # Without a barrier, every window would recompute what produces x.
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=fill)
    return lax.optimization_barrier(padded)
