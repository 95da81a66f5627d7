"""Partial channels. Xu et al. 2020, PC-DARTS, arXiv 1907.05737, section 3.2: only some channels enter an edge."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn


def check_partial(partial: int, channels: int) -> None:
    """Raises ValueError unless a number of channels can be divided into so many equal parts."""
    if not isinstance(partial, int) or isinstance(partial, bool) or partial < 1:
        raise ValueError(f"partial must be an integer of at least 1; got {partial!r}.")
    if channels % partial:
        raise ValueError(f"channels must be divisible by partial; got channels={channels} with partial={partial}.")


def divided(x: jax.Array, partial: int) -> tuple[jax.Array, jax.Array | None]:
    """The first of so many parts of the channels (the last axis), and the rest; None where it is all.

    The paper draws the channels at random. As in the authors' code they are the first, and `joined` shuffles them, so
    that the next edge gets others.
    """
    if partial == 1:
        return x, None
    size = x.shape[-1] // partial
    return x[..., :size], x[..., size:]


def joined(y: jax.Array, rest: jax.Array | None, partial: int, *, stride: int = 1, share: Any = 1) -> jax.Array:
    """What an edge gives, of an output for the first part of the channels and of the rest, which pass by.

    Args:
      y: `[B, H, W, C / partial]`, the share of the edge included.
      rest: `[B, stride·H, stride·W, C - C / partial]`, or None where there is none. With a stride of 2 it is pooled by
        its maxima, as in the authors' code.
      partial: number of parts.
      stride: of the edge.
      share: of the edge, a factor.

    Returns:
      `[B, H, W, C]`, of which the channels of the parts take turns.
    """
    if rest is None:
        return y
    if stride == 2:
        rest = nn.max_pool(rest, (2, 2), strides=(2, 2), padding="SAME")
    whole = jnp.concatenate([y, (rest * share).astype(y.dtype)], axis=-1)
    parts = whole.reshape(*whole.shape[:-1], partial, -1)
    return jnp.swapaxes(parts, -1, -2).reshape(whole.shape)
