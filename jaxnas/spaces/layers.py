"""Layers that search spaces are made of. Images are `[B, H, W, C]`."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxnas.ops import avg_pool_3x3, max_pool_3x3
from jaxnas.ops.normalization import EPSILON

MOMENTUM = 0.9
"""Momentum of running statistics, as in the usual networks for small images."""


def batch_norm(train: bool, *, name: str | None = None, dtype: Any = None) -> nn.BatchNorm:
    """Batch normalisation as in the usual networks for small images: momentum 0.9, epsilon 1e-5."""
    return nn.BatchNorm(use_running_average=not train, momentum=MOMENTUM, epsilon=EPSILON, name=name, dtype=dtype)


class Conv(nn.Module):
    """Convolution without bias, He initialisation, then batch normalisation.

    Attributes:
      filters: output channels.
      kernel: side of the kernel.
      stride: of the convolution, padded to keep the size.
      separable: depthwise, then 1×1.
    """

    filters: int
    kernel: int = 1
    stride: int = 1
    separable: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        def conv(filters: int, kernel: int, **options: Any) -> nn.Conv:
            init = nn.initializers.he_normal()
            return nn.Conv(filters, (kernel, kernel), use_bias=False, kernel_init=init, **options)

        if self.separable:
            channels = x.shape[-1]
            x = conv(channels, self.kernel, strides=self.stride, feature_group_count=channels, name="depthwise")(x)
            x = conv(self.filters, 1, name="pointwise")(x)
        else:
            x = conv(self.filters, self.kernel, strides=self.stride, name="conv")(x)
        return batch_norm(train, name="norm")(x)


class FactorizedReduction(nn.Module):
    """Halves height and width without dropping pixels: two 1×1 convolutions of stride 2, one shifted by a pixel.

    Attributes:
      filters: output channels, even.
    """

    filters: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        shifted = jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))[:, 1:, 1:]
        halves = []
        for name, part in (("even", x), ("odd", shifted)):
            init = nn.initializers.he_normal()
            conv = nn.Conv(self.filters // 2, (1, 1), use_bias=False, kernel_init=init, name=name)
            halves.append(conv(part[:, ::2, ::2]))
        return batch_norm(train, name="norm")(jnp.concatenate(halves, axis=-1))


class AuxiliaryHead(nn.Module):
    """A classifier on an inner cell: 5×5 pooling, 1×1 convolution to 128, one over the full image to 768, logits."""

    num_classes: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        side = min(5, *x.shape[1:3])
        x = nn.avg_pool(nn.relu(x), (side, side), strides=(3, 3))
        x = nn.relu(Conv(128, name="project")(x, train))
        init = nn.initializers.he_normal()
        x = nn.Conv(768, x.shape[1:3], use_bias=False, padding="VALID", kernel_init=init, name="whole")(x)
        x = nn.relu(batch_norm(train, name="norm")(x))
        return nn.Dense(self.num_classes, name="head")(x.mean((1, 2)))


def pool(x: jax.Array, kind: str) -> jax.Array:
    """3×3 pooling of stride 1, `"avg"` or `"max"`; the border counts only pixels that exist."""
    return avg_pool_3x3(x) if kind == "avg" else max_pool_3x3(x)


def check_even_filters(filters: int) -> None:
    """Raises ValueError unless `FactorizedReduction` can halve the number of filters."""
    if filters % 2:
        raise ValueError(f"filters must be even, for the factorised reductions; got {filters}.")


def check_positive(**values: Any) -> None:
    """Raises ValueError unless each of the named values is a positive integer."""
    for name, value in values.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} must be a positive integer; got {value!r}.")
