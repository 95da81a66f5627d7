"""Batch statistics: normalisation without scale and offset, alone and as the sum of a mixture.

Autodiff of `nn.BatchNorm` keeps several arrays of the image's size per layer, and on CPU fuses reductions into what
follows them. Here the gradients are written out: they keep one array per layer and are computed in two passes.
They differentiate in reverse mode any number of times; there is no forward mode (`jax.jvp`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from jaxnas.ops.meshes import on_any_mesh

EPSILON = 1e-5
_WIDE = 128


class Statistics(NamedTuple):
    """Mean and (biased) variance over all axes but the last, float32 `[C]` each."""

    mean: jax.Array
    var: jax.Array


def batch_norm(x: jax.Array) -> tuple[jax.Array, Statistics]:
    """Normalises x `[..., C]` by its own statistics, which are constants to autodiff where they are returned."""
    y, mean, var = on_any_mesh(_normalise, lambda x: (x, *[PartitionSpec(x[-1])] * 2), x)
    return y, Statistics(lax.stop_gradient(mean), lax.stop_gradient(var))


def batch_norm_sum(xs: Sequence[jax.Array], weights: jax.Array) -> tuple[jax.Array, list[Statistics]]:
    """`Σ weights[i] · batch_norm(xs[i])` of arrays `[..., C]` in one pass, and the statistics of each.

    What a mixed operation of DARTS computes (arXiv 1806.09055, equation 2). The gradients of the weights fall out of
    those of the normalisation: both need `Σ g · batch_norm(x)`.

    Args:
      xs: n arrays of one shape.
      weights: float `[n]`.
    """
    xs = tuple(xs)
    total, statistics = on_any_mesh(_weighted, lambda *specs: (specs[0], [*map(_of_channels, specs[:-1])]), xs, weights)
    return total, [Statistics(*map(lax.stop_gradient, s)) for s in statistics]


def statistics_of(x: jax.Array) -> Statistics:
    """The statistics in one pass over x, in float32."""
    return on_any_mesh(_statistics, _of_channels, x)


def _of_channels(x: PartitionSpec) -> Any:
    """How the statistics of an array so sharded are."""
    return Statistics(*[PartitionSpec(x[-1])] * 2)  # type: ignore[arg-type]


def _statistics(x: jax.Array) -> Statistics:
    flat = _flat(x)
    mean = _mean(flat)
    return Statistics(mean, jnp.maximum(_mean(jnp.square(flat)) - jnp.square(mean), 0))


def _mean(flat: jax.Array) -> jax.Array:
    """The mean of rows `[M, C]`. Few channels are added up in wider rows, which fill a vector register."""
    rows, channels = flat.shape
    together = math.gcd(rows, max(_WIDE // channels, 1))
    return flat.reshape(rows // together, together * channels).sum(0).reshape(together, channels).sum(0) / rows


def _flat(x: jax.Array) -> jax.Array:
    return lax.optimization_barrier(x).reshape(-1, x.shape[-1]).astype(jnp.promote_types(x.dtype, jnp.float32))


@jax.custom_vjp
def _normalise(x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    return _normalise_forward(x)[0]


def _normalise_forward(x: jax.Array) -> tuple[Any, Any]:
    mean, var = _statistics(x)
    scale = lax.rsqrt(var + EPSILON)
    y = lax.optimization_barrier(((x - mean) * scale).astype(x.dtype))
    return (y, mean, var), (y, scale)


def _normalise_backward(kept: Any, cotangents: Any) -> tuple[jax.Array]:
    y, scale = kept
    g, flat = _flat(cotangents[0]), _flat(y)
    along = _mean(g * flat)
    x = (g - _mean(g) - flat * along) * scale
    return (lax.optimization_barrier(x.astype(y.dtype).reshape(y.shape)),)


_normalise.defvjp(_normalise_forward, _normalise_backward)


@jax.custom_vjp
def _weighted(xs: tuple[jax.Array, ...], weights: jax.Array) -> tuple[jax.Array, list[Statistics]]:
    return _weighted_forward(xs, weights)[0]


def _weighted_forward(xs: tuple[jax.Array, ...], weights: jax.Array) -> tuple[Any, Any]:
    statistics = [_statistics(x) for x in xs]
    scales = [lax.rsqrt(s.var + EPSILON) for s in statistics]
    total: Any = 0
    for x, (mean, _), scale, weight in zip(xs, statistics, scales, weights, strict=True):
        total = total + (x - mean) * (scale * weight)
    total = lax.optimization_barrier(total.astype(xs[0].dtype))
    return (total, statistics), (xs, [s.mean for s in statistics], scales, weights)


def _weighted_backward(kept: Any, cotangents: Any) -> tuple[tuple[jax.Array, ...], jax.Array]:
    xs, means, scales, weights = kept
    g = _flat(cotangents[0])
    level = _mean(g)
    gradients, slopes = [], []
    for x, mean, scale, weight in zip(xs, means, scales, weights, strict=True):
        y = (_flat(x) - mean) * scale
        along = _mean(g * y)
        slopes.append(along.sum() * len(g))
        gradient = (g - level - y * along) * (scale * weight)
        gradients.append(lax.optimization_barrier(gradient.astype(x.dtype).reshape(x.shape)))
    return tuple(gradients), jnp.stack(slopes).astype(weights.dtype)


_weighted.defvjp(_weighted_forward, _weighted_backward)
