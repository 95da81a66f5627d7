"""Makes plain `nn.Conv` layers use `conv_general_dilated` of this package."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flax import linen as nn

from jaxnas.ops.convolution import conv_general_dilated


def fast_convolutions() -> Any:
    """A context in which every `nn.Conv` whose convolution function is not set uses the fast one.

    Parameters, names and results stay as they are. Subclasses of `nn.Conv` are left alone.
    """
    return nn.intercept_methods(_use_fast)


def _use_fast(call: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
    layer = context.module
    if context.method_name == "_convolution":  # of a `LayerChoice` that merges its candidates
        return conv_general_dilated
    if type(layer) is not nn.Conv or context.method_name != "__call__":
        return call(*args, **kwargs)
    if layer.conv_general_dilated is not None or layer.conv_general_dilated_cls is not None:
        return call(*args, **kwargs)
    # Bound modules are frozen, and a clone would be a second layer of the same name.
    object.__setattr__(layer, "conv_general_dilated", conv_general_dilated)
    try:
        return call(*args, **kwargs)
    finally:
        object.__setattr__(layer, "conv_general_dilated", None)
