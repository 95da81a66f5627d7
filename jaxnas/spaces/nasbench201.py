"""The cell search space of NAS-Bench-201. Dong, Yang 2020, arXiv 2001.00326, section 2.1."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxnas.model.architecture import LAYER, ChoiceSpec, is_weighted
from jaxnas.model.choices import LayerChoice
from jaxnas.model.graph import Cell as DrawnCell
from jaxnas.model.graph import CellEdge
from jaxnas.model.space import Space
from jaxnas.spaces.layers import batch_norm, check_positive, pool
from jaxnas.spaces.partial import check_partial, divided, joined

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
EDGES = ("1<-0", "2<-0", "2<-1", "3<-0", "3<-1", "3<-2")


class ReluConvNorm(nn.Module):
    """ReLU, convolution without bias (padded alike on all sides, as in PyTorch), normalisation.

    Attributes:
      filters, kernel, stride: of the convolution.
      search_norm: see `nasbench201`.
    """

    filters: int
    kernel: int
    stride: int = 1
    search_norm: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        half, init = self.kernel // 2, nn.initializers.he_normal()
        shape = (self.kernel, self.kernel)
        conv = nn.Conv(
            self.filters, shape, strides=self.stride, padding=half, use_bias=False, kernel_init=init, name="conv"
        )
        return _normalise(conv(nn.relu(x)), train, self.search_norm, "norm")


class Cell(nn.Module):
    """Four nodes, the input first and the output last; each is the sum of an operation on every earlier one.

    Attributes:
      filters: channels of every node.
      search_norm, partial: see `nasbench201`.
    """

    filters: int
    search_norm: bool
    partial: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, arch: Any, train: bool = False) -> jax.Array:
        nodes = [x]
        for node in range(1, 4):
            incoming = []
            for source in range(node):
                edge = LayerChoice(self._operations(), key=f"{node}<-{source}", name=f"edge_{source}_{node}")
                entering, rest = divided(nodes[source], self.partial)
                incoming.append(joined(edge(entering, arch, train=train), rest, self.partial))
            nodes.append(sum(incoming[1:], start=incoming[0]))
        return nodes[-1]

    def _operations(self) -> dict[str, Any]:
        options: Any = {"search_norm": self.search_norm, "parent": None}  # their parent is to be the choice
        filters = self.filters // self.partial
        return {
            "none": jnp.zeros_like,
            "skip_connect": lambda x: x,
            "nor_conv_1x1": ReluConvNorm(filters, 1, **options),
            "nor_conv_3x3": ReluConvNorm(filters, 3, **options),
            "avg_pool_3x3": lambda x: pool(x, "avg"),
        }


class Stack(nn.Module):
    """Equal cells one after the other: one scanned cell, so however many there are, one is compiled.

    Attributes:
      cells, filters: number of cells, and their channels.
      search_norm, partial: see `nasbench201`.
    """

    cells: int
    filters: int
    search_norm: bool
    partial: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, arch: Any, train: bool = False) -> jax.Array:
        def run(cell: Cell, x: jax.Array) -> jax.Array:
            return cell(x, arch, train)

        if is_weighted(arch):
            # A mixture keeps only the cells' inputs for the backward pass. On CPU it is faster to compute the rest
            # again than to write and read it; compilation is shorter too. So it is for gated paths: a switch reserves
            # memory for each of its branches, so without this they took five times the memory, and longer.
            run = nn.remat(run, prevent_cse=False)

        def step(cell: Cell, x: jax.Array, _: None) -> tuple[jax.Array, None]:
            return run(cell, x), None

        scan = nn.scan(
            step,
            variable_axes={"params": 0, "batch_stats": 0},
            split_rngs={"params": True, "dropout": True},
            length=self.cells,
        )
        return scan(Cell(self.filters, self.search_norm, self.partial, name="cells"), x, None)[0]


class ResidualReduction(nn.Module):
    """Halves height and width: two 3×3 convolutions beside 2×2 average pooling and a 1×1 convolution.

    Attributes:
      filters: output channels.
      search_norm: see `nasbench201`.
    """

    filters: int
    search_norm: bool

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        y = ReluConvNorm(self.filters, 3, 2, self.search_norm, name="first")(x, train)
        y = ReluConvNorm(self.filters, 3, 1, self.search_norm, name="second")(y, train)
        init = nn.initializers.he_normal()
        shortcut = nn.Conv(self.filters, (1, 1), use_bias=False, kernel_init=init, name="shortcut")
        return y + shortcut(nn.avg_pool(x, (2, 2), strides=(2, 2)))


class NasBench201(nn.Module):
    """The model of `nasbench201`; its attributes are described there."""

    channels: int = 16
    cells: int = 5
    num_classes: int = 10
    search_norm: bool = False
    partial: int = 1

    def __post_init__(self) -> None:
        check_positive(channels=self.channels, cells=self.cells, num_classes=self.num_classes)
        check_partial(self.partial, self.channels)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, arch: Any, train: bool = False) -> jax.Array:
        if x.ndim != 4 or x.shape[1] % 4 or x.shape[2] % 4:
            raise ValueError(f"images [B, H, W, C] with H and W divisible by 4 are expected; got shape {x.shape}.")
        init, filters = nn.initializers.he_normal(), self.channels
        x = nn.Conv(filters, (3, 3), use_bias=False, kernel_init=init, name="stem")(x)
        x = _normalise(x, train, self.search_norm, "stem_norm")
        for stage in range(3):
            if stage:
                filters *= 2
                x = ResidualReduction(filters, self.search_norm, name=f"reduction_{stage}")(x, train)
            x = Stack(self.cells, filters, self.search_norm, self.partial, name=f"stage_{stage}")(x, arch, train)
        x = nn.relu(_normalise(x, train, self.search_norm, "head_norm"))
        return nn.Dense(self.num_classes, name="head")(x.mean((1, 2)))

    def known_space(self) -> Space:
        """The six choices, which do not depend on the input."""
        return Space({edge: ChoiceSpec(LAYER, len(OPERATIONS), OPERATIONS) for edge in EDGES})

    def operation_of(self, path: tuple[str, ...]) -> tuple[str, int] | None:
        """The operation whose parameter this is; cells are stacked. See `parts.gradient_matching`."""
        inside = [name for name in path if name.startswith("candidates_")]
        return ("/".join(path[: path.index(inside[-1]) + 1]), 1) if inside else None

    def describe_cells(self) -> list[DrawnCell]:
        """The cell as pictures show it; see `jaxnas.graph.Cell`."""
        return [DrawnCell("cell", list("0123"), [CellEdge(edge[-1], edge[0], choice=edge) for edge in EDGES])]


def _normalise(x: jax.Array, train: bool, search_norm: bool, name: str) -> jax.Array:
    if not search_norm:
        return batch_norm(train, name=name)(x)
    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    return (x - mean) * jax.lax.rsqrt(variance + 1e-5)


def nasbench201(
    *, channels: int = 16, cells: int = 5, num_classes: int = 10, search_norm: bool = False, partial: int = 1
) -> NasBench201:
    """Three stages of equal cells, whose six edges are the choices; all cells share their decisions.

    A cell has the nodes 0 (its input) to 3 (its output). The edge from node i to node j is the choice `j<-i`: one of
    none, skip_connect, nor_conv_1x1, nor_conv_3x3, avg_pool_3x3. Six choices, 15,625 architectures, in the order and
    by the names of `jaxnas.benchmarks.nasbench201`, which has the accuracy of each. Between the stages a residual block
    halves the image and doubles the channels.

    With the defaults and images of 32×32×3 a fixed model has 73,306 + 28,000·n1 + 243,040·n3 parameters and
    7,783,050 + 3,932,160·n1 + 35,389,440·n3 FLOPs, of n1 and n3 edges with a 1×1 and a 3×3 convolution, as the
    benchmark says (`jaxnas.cost`).

    Args:
      channels: of the first stage.
      cells: per stage.
      num_classes: number of logits.
      search_norm: normalise by each batch's own statistics, in evaluation too, without scale and offset: what the
        authors do in the one-shot searches (not in the training of fixed models).
      partial: of so many equal parts of the channels only the first enters each edge; the others pass by, and then all
        are shuffled (PC-DARTS, arXiv 1907.05737; 4 in its searches). For searches: what was found is trained with 1.

    Returns:
      A module called `model(x, arch, train=False)` with x float `[B, H, W, C]`, H and W divisible by 4; gives logits
      `[B, num_classes]`.

    Raises:
      ValueError: for sizes that are not positive, or channels not divisible by `partial`; in the call, for images of
        another form.
    """
    return NasBench201(channels, cells, num_classes, search_norm, partial)
