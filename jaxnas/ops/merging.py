"""Convolutions of one input whose outputs are only weighted and added, run as one.

`Σ wᵢ (x * Kᵢ + bᵢ) = x * (Σ wᵢ Kᵢ) + Σ wᵢ bᵢ`, the smaller kernels padded with zeros to where their taps belong.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax


class Noted:
    """What a `nn.Conv` would compute: it is called as a convolution function and stands for the output."""

    def __init__(self) -> None:
        self.bias: jax.Array | None = None

    def __call__(self, lhs: Any, rhs: Any, strides: Any, padding: Any, **options: Any) -> Noted:
        self.lhs, self.rhs, self.strides, self.padding, self.options = lhs, rhs, tuple(strides), padding, options
        spatial = lhs.shape[1:-1]
        dilated = [d * (k - 1) + 1 for k, d in zip(rhs.shape, options["rhs_dilation"], strict=False)]
        pads = lax.padtype_to_pads(spatial, dilated, strides, padding) if isinstance(padding, str) else padding
        self.low = tuple(low for low, _ in pads)
        self.out = tuple(
            (n + low + high - k) // s + 1 for n, (low, high), k, s in zip(spatial, pads, dilated, strides, strict=True)
        )
        self.ndim = lhs.ndim
        return self

    def __add__(self, bias: jax.Array) -> Noted:
        self.bias = bias
        return self

    def run(self, convolve: Callable) -> jax.Array:
        """The output itself."""
        y = convolve(self.lhs, self.rhs, self.strides, self.padding, **self.options)
        return y if self.bias is None else y + self.bias

    def kind(self) -> Any:
        """What two convolutions of one input must share to be merged; None if this one cannot be."""
        plain = {"lhs_dilation", "rhs_dilation"}
        if any(set(self.options[name] or (1,)) != {1} for name in plain) or min(self.out, default=0) < 1:
            return None
        rest = tuple((name, str(value)) for name, value in sorted(self.options.items()) if name not in plain)
        return self.lhs.shape, self.lhs.dtype, self.rhs.shape[-2:], self.rhs.dtype, self.strides, self.out, rest


def _note(layer: Any, x: jax.Array) -> Noted | None:
    """What `layer(x)` would compute if it is a plain `nn.Conv` and convolves x as it is; else None."""
    if type(layer) is not nn.Conv or layer.conv_general_dilated is not None or layer.mask is not None:
        return None
    if layer.conv_general_dilated_cls is not None or not isinstance(x, jax.Array) or x.ndim != len(_tuple(layer)) + 2:
        return None
    if isinstance(layer.padding, str) and layer.padding not in ("SAME", "SAME_LOWER", "VALID"):
        return None
    noted = Noted()
    object.__setattr__(layer, "conv_general_dilated", noted)  # as `fast_convolutions` does
    try:
        layer(x)
    finally:
        object.__setattr__(layer, "conv_general_dilated", None)
    return noted


def _tuple(layer: nn.Conv) -> Sequence[int]:
    return (layer.kernel_size,) if isinstance(layer.kernel_size, int) else layer.kernel_size


def merge(
    layers: Sequence[Any], x: jax.Array, weights: jax.Array, convolve: Callable
) -> dict[tuple[int, ...], jax.Array]:
    """Runs those of `layers` that can be merged.

    Plain `nn.Conv` layers are merged if strides, groups, types and output agree, nothing is dilated, and the kernel
    that holds them all has no more taps than they have together.

    Args:
      layers: bound modules or functions, all to be called on x.
      weights: float `[n]`.
      convolve: the convolution function to use.

    Returns:
      The weighted sum of the outputs, for each tuple of positions in `layers` that were run as one.
    """
    noted = {i: found for i, layer in enumerate(layers) if (found := _note(layer, x)) is not None}
    kinds: dict[Any, list[int]] = {}
    for i, part in noted.items():
        kinds.setdefault(part.kind(), []).append(i)
    outputs = {}
    for kind, members in kinds.items():
        parts = [noted[i] for i in members]
        low, size = _extent(parts)
        if kind is not None and len(parts) > 1 and math.prod(size) <= sum(math.prod(p.rhs.shape[:-2]) for p in parts):
            outputs[tuple(members)] = _merged(parts, [weights[i] for i in members], low, size).run(convolve)
    return outputs


def _extent(parts: Sequence[Noted]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Padding before the image, and size, of the kernel that holds all of these."""
    axes = range(len(parts[0].low))
    low = tuple(max(p.low[a] for p in parts) for a in axes)
    size = tuple(max(low[a] - p.low[a] + p.rhs.shape[a] for p in parts) for a in axes)
    return low, size


def _merged(parts: Sequence[Noted], weights: Sequence[jax.Array], low: tuple[int, ...], size: tuple[int, ...]) -> Noted:
    first, kernel, bias = parts[0], jnp.zeros((), weights[0].dtype), None
    for part, weight in zip(parts, weights, strict=True):
        before = [a - b for a, b in zip(low, part.low, strict=True)]
        widths = [(b, k - b - n) for b, k, n in zip(before, size, part.rhs.shape, strict=False)]
        # Summed in the weights' precision, so that a sum of many bfloat16 kernels is rounded once.
        kernel = kernel + weight * jnp.pad(part.rhs, [*widths, (0, 0), (0, 0)])
        if part.bias is not None:
            bias = (0 if bias is None else bias) + weight * part.bias
    high = [
        (n - 1) * s + k - size_in - before
        for n, s, k, size_in, before in zip(first.out, first.strides, size, first.lhs.shape[1:-1], low, strict=True)
    ]
    merged = Noted()
    dtype = first.rhs.dtype
    merged(first.lhs, kernel.astype(dtype), first.strides, tuple(zip(low, high, strict=True)), **first.options)
    merged.bias = None if bias is None else bias.astype(dtype)
    return merged
