"""The macro search space of ENAS: a whole network, layer by layer. Pham et al. 2018, arXiv 1802.03268, section 2.3."""

from __future__ import annotations

from typing import Any

import jax
from flax import linen as nn

from jaxnas.model.choices import InputChoice, LayerChoice
from jaxnas.spaces.layers import Conv, FactorizedReduction, batch_norm, check_even_filters, check_positive, pool


class ConvBranch(nn.Module):
    """1×1 convolution, then a k×k one, each followed by batch normalisation and ReLU."""

    filters: int
    kernel: int
    separable: bool

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        x = nn.relu(Conv(self.filters, name="in")(x, train))
        return nn.relu(Conv(self.filters, self.kernel, separable=self.separable, name="out")(x, train))


class PoolBranch(nn.Module):
    """1×1 convolution, batch normalisation, ReLU, then 3×3 pooling."""

    filters: int
    kind: str

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        return pool(nn.relu(Conv(self.filters, name="in")(x, train)), self.kind)


class EnasMacro(nn.Module):
    """The model of `enas_macro`; its attributes are described there."""

    layers: int = 12
    filters: int = 36
    num_classes: int = 10
    dropout: float = 0.1
    double_filters: bool = False

    def __post_init__(self) -> None:
        check_positive(layers=self.layers, filters=self.filters, num_classes=self.num_classes)
        check_even_filters(self.filters)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, arch: Any, train: bool = False) -> jax.Array:
        filters = self.filters
        names, outputs = ["stem"], [Conv(filters, 3, name="stem")(x, train)]
        third = self.layers // 3
        for i in range(self.layers):
            name = f"layer_{i}"
            branches = LayerChoice(_branches(filters), key=f"{name}/op", name=f"{name}_op")
            x = branches(outputs[-1], arch, train=train)
            if i > 0:
                skips = InputChoice(choose_from=names[:-1], key=f"{name}/skip", name=f"{name}_skip")
                skipped = skips(outputs[:-1], arch)
                x = x if skipped is None else x + skipped
                x = batch_norm(train, name=f"{name}_norm")(x)
            names.append(name)
            outputs.append(x)
            if i in (third - 1, 2 * third - 1):
                filters = filters * 2 if self.double_filters else filters
                outputs = [
                    FactorizedReduction(filters, name=f"reduction_{i}_of_{source}")(output, train)
                    for source, output in zip(names, outputs, strict=True)
                ]
        x = outputs[-1].mean((1, 2))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.num_classes, name="head")(x)


def _branches(filters: int) -> dict[str, nn.Module]:
    return {
        "conv_3x3": ConvBranch(filters, 3, separable=False),
        "sep_conv_3x3": ConvBranch(filters, 3, separable=True),
        "conv_5x5": ConvBranch(filters, 5, separable=False),
        "sep_conv_5x5": ConvBranch(filters, 5, separable=True),
        "avg_pool_3x3": PoolBranch(filters, "avg"),
        "max_pool_3x3": PoolBranch(filters, "max"),
    }


def enas_macro(
    *,
    layers: int = 12,
    filters: int = 36,
    num_classes: int = 10,
    dropout: float = 0.1,
    double_filters: bool = False,
) -> EnasMacro:
    """A network each of whose layers chooses one of six branches and any earlier layers to skip from.

    Layer i has the keys `layer_i/op` (one of conv_3x3, sep_conv_3x3, conv_5x5, sep_conv_5x5, avg_pool_3x3,
    max_pool_3x3, applied to the layer before) and, from the second layer on, `layer_i/skip` (any of the stem and the
    layers before the one it follows; their sum is added). After each third of the layers all outputs are halved in
    size by factorised reductions. With 12 layers: 23 choices, 6^12 · 2^66 architectures, about 1.6 · 10^29.

    Under DARTS the branches are mixed and each skip has its own gate.

    Args:
      layers: number of layers.
      filters: channels of every layer, even (24 in NNI; the authors train the result with 96).
      num_classes: number of logits.
      dropout: rate before the last layer (the authors': 0.1 in the search, 0.5 in the final training).
      double_filters: double the channels at each reduction, as the authors do in the final training. (Their final
        network also concatenates the skips and mixes them by a 1×1 convolution; here they are summed as in the search.)

    Returns:
      A module called `model(x, arch, train=False)` with x float `[B, H, W, C]`; gives logits `[B, num_classes]`.

    Raises:
      ValueError: for sizes that are not positive, or an odd number of filters.
    """
    return EnasMacro(layers, filters, num_classes, dropout, double_filters)
