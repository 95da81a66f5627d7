"""The network that trains an architecture of the DARTS space. Liu et al. 2019, arXiv 1806.09055, section 3.2."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxnas.model.choices import InputChoice, LayerChoice
from jaxnas.model.graph import Cell as DrawnCell
from jaxnas.model.space import Space
from jaxnas.spaces.darts_edge import POOLS, SEPARABLE
from jaxnas.spaces.genotypes import (
    EDGES,
    NODES,
    OPERATIONS,
    choices_of,
    describe_cells,
    edge_key,
    edges_of,
    node_key,
    reductions,
)
from jaxnas.spaces.layers import AuxiliaryHead, FactorizedReduction, batch_norm, check_even_filters, check_positive


def _conv(filters: int, kernel: int, *, name: str, **options: Any) -> nn.Conv:
    """A convolution without bias, padded equally on all sides as in PyTorch, with PyTorch's initialisation."""
    half = kernel // 2 * options.get("kernel_dilation", 1)
    init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
    return nn.Conv(filters, (kernel, kernel), padding=half, use_bias=False, kernel_init=init, name=name, **options)


class ReluConvNorm(nn.Module):
    """ReLU, 1×1 convolution, batch normalisation: brings a cell's input to its number of channels."""

    filters: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        return batch_norm(train, name="norm")(_conv(self.filters, 1, name="conv")(nn.relu(x)))


class SeparableConv(nn.Module):
    """ReLU, depthwise and 1×1 convolution, batch normalisation; `times` in a row, of which the first has the stride.

    `sep_conv` does so twice, `dil_conv` once and dilated. `kept` is that of `drop_path`.
    """

    kernel: int
    stride: int = 1
    dilation: int = 1
    times: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, kept: jax.Array | None = None) -> jax.Array:
        channels = x.shape[-1]
        for i in range(self.times):
            stride = 1 if i else self.stride
            options = {"strides": stride, "kernel_dilation": self.dilation, "feature_group_count": channels}
            x = _conv(channels, self.kernel, name=f"depthwise_{i}", **options)(nn.relu(x))
            x = _conv(channels, 1, name=f"pointwise_{i}")(x)
            x = batch_norm(train, name=f"norm_{i}")(x)
        return drop_path(x, kept)


class Halve(nn.Module):
    """The `skip_connect` of stride 2: ReLU and a factorised reduction."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, kept: jax.Array | None = None) -> jax.Array:
        return drop_path(FactorizedReduction(x.shape[-1], name="reduce")(nn.relu(x), train), kept)


def drop_path(x: jax.Array, kept: jax.Array | None) -> jax.Array:
    """Multiplies each example of x `[B, H, W, C]` by its entry of `kept` `[B]`: 0, or 1 / P(not 0). None: x itself."""
    return x if kept is None else x * kept[:, None, None, None].astype(x.dtype)


def sample_paths(rng: jax.Array, rate: jax.Array | float, shape: tuple[int, ...]) -> jax.Array:
    """What `drop_path` multiplies by, float32: 0 with probability `rate`, else 1 / (1 - rate), so 1 on average."""
    keep = 1 - jnp.asarray(rate, jnp.float32)
    return jax.random.bernoulli(rng, keep, shape) / keep


def operations(stride: int) -> dict[str, Any]:
    """The candidates of an edge by name. They are called with `x`, `train` and `kept`."""

    def pool(function: Any) -> Any:
        return lambda x, kept=None: drop_path(function(x, stride), kept)

    made = {
        "none": lambda x: jnp.zeros_like(x[:, ::stride, ::stride]),
        "skip_connect": (lambda x: x) if stride == 1 else Halve(parent=None),
        **{name: pool(function) for name, function in POOLS.items()},
        **{
            name: SeparableConv(form.kernel, stride, form.dilation, form.layers, parent=None)
            for name, form in SEPARABLE.items()
        },
    }
    return {name: made[name] for name in OPERATIONS}


class Shape(NamedTuple):
    """Everything in which the cells of the network differ.

    Attributes:
      reduces: whether it halves its inputs.
      halves_first: whether its first input is twice as large as its second, so that it must be halved.
      filters: channels of its nodes; its output has four times as many.
      inputs: channels of its two inputs.
    """

    reduces: bool
    halves_first: bool
    filters: int
    inputs: tuple[int, int]


def shapes(channels: int, cells: int) -> list[Shape]:
    """The shapes of the network's cells in order."""
    found: list[Shape] = []
    inputs, filters, reduced = (3 * channels, 3 * channels), channels, False
    for i in range(cells):
        reduces = i in reductions(cells)
        filters *= 2 if reduces else 1
        found.append(Shape(reduces, reduced, filters, inputs))
        inputs, reduced = (inputs[1], NODES * filters), reduces
    return found


class Cell(nn.Module):
    """A cell: each inner node adds two operations, each on one of the cell's inputs or of the earlier nodes.

    Attributes:
      shape: of the cell.
    """

    shape: Shape

    @nn.compact
    def __call__(
        self, before_last: jax.Array, last: jax.Array, arch: Any, kept: jax.Array | None, train: bool
    ) -> jax.Array:
        """The output `[B, H, W, 4 * filters]`; `kept` `[14, B]` is that of `drop_path` for each edge."""
        kind, filters = "reduce" if self.shape.reduces else "normal", self.shape.filters
        if self.shape.halves_first:
            before_last = FactorizedReduction(filters, name="first_input")(nn.relu(before_last), train)
        else:
            before_last = ReluConvNorm(filters, name="first_input")(before_last, train)
        nodes = [before_last, ReluConvNorm(filters, name="second_input")(last, train)]
        for node in range(2, 2 + NODES):
            incoming = []
            for source in range(node):
                stride = 2 if self.shape.reduces and source < 2 else 1
                choice = LayerChoice(operations(stride), key=edge_key(kind, source, node), name=f"edge_{source}_{node}")
                path = None if kept is None else kept[EDGES.index((source, node))]
                incoming.append(choice(nodes[source], arch, train=train, kept=path))
            edges = edges_of(kind, node)
            choose = InputChoice(choose_from=edges, n_chosen=2, key=node_key(kind, node), ranked=True)
            nodes.append(choose(incoming, arch))
        return jnp.concatenate(nodes[2:], axis=-1)


class Row(nn.Module):
    """Cells of one shape, one after the other: one scanned cell, so only one is compiled, however many there are.

    Attributes:
      shape: of each cell.
      length: number of cells.
    """

    shape: Shape
    length: int

    @nn.compact
    def __call__(
        self, before_last: jax.Array, last: jax.Array, arch: Any, kept: jax.Array | None, train: bool
    ) -> tuple[jax.Array, jax.Array]:
        """The last two outputs; `kept` `[length, 14, B]` is that of each cell."""

        def step(cell: Cell, carry: tuple, kept: jax.Array | None) -> tuple[tuple, None]:
            before_last, last = carry
            return (last, cell(before_last, last, arch, kept, train)), None

        scan = nn.scan(
            step,
            variable_axes={"params": 0, "batch_stats": 0},
            split_rngs={"params": True},
            length=self.length,
        )
        return scan(Cell(self.shape, name="cell"), (before_last, last), kept)[0]


class DartsEvaluation(nn.Module):
    """The model of `darts_evaluation`; its attributes are described there."""

    channels: int = 36
    cells: int = 20
    num_classes: int = 10
    drop_path: float = 0.2
    auxiliary_head: bool = True

    def __post_init__(self) -> None:
        check_positive(channels=self.channels, cells=self.cells, num_classes=self.num_classes)
        check_even_filters(self.channels)
        if not 0 <= self.drop_path < 1:
            raise ValueError(f"drop_path must be in [0, 1); got {self.drop_path!r}.")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, arch: Any, train: bool = False, progress: Any = 0.0) -> Any:
        kept = None
        if train and self.drop_path and not (isinstance(progress, (int, float)) and progress == 0):
            kept = sample_paths(self.make_rng("dropout"), self.drop_path * progress, (self.cells, len(EDGES), len(x)))
        stem = batch_norm(train, name="stem_norm")(_conv(3 * self.channels, 3, name="stem")(x))
        before_last = last = stem
        start = 0
        for shape, group in itertools.groupby(shapes(self.channels, self.cells)):
            stop = start + len(list(group))
            paths = None if kept is None else kept[start:stop]
            if stop - start == 1:
                cell = Cell(shape, name=f"cell_{start}")
                paths = None if paths is None else paths[0]
                before_last, last = last, cell(before_last, last, arch, paths, train)
            else:
                row = Row(shape, stop - start, name=f"cells_{start}_to_{stop - 1}")
                before_last, last = row(before_last, last, arch, paths, train)
            if start <= 2 * self.cells // 3 < stop:
                after_second_reduction = last
            start = stop
        logits = nn.Dense(self.num_classes, name="head")(last.mean((1, 2)))
        if not self.auxiliary_head or not (train or self.is_initializing()):
            return logits
        auxiliary = AuxiliaryHead(self.num_classes, name="auxiliary")(after_second_reduction, train)
        return (logits, auxiliary) if train else logits

    def known_space(self) -> Space:
        """The choices, which do not depend on the input."""
        return choices_of(self.cells)

    def describe_cells(self) -> list[DrawnCell]:
        """The two cells as pictures show them; see `jaxnas.graph.Cell`."""
        return describe_cells(self.cells)


def darts_evaluation(
    *,
    channels: int = 36,
    cells: int = 20,
    num_classes: int = 10,
    drop_path: float = 0.2,
    auxiliary_head: bool = True,
) -> DartsEvaluation:
    """A stack of cells; all normal cells share their decisions, and so do the two reduction cells.

    It has the choices of the DARTS space (`jaxnas.spaces.genotypes.CHOICES`) and is meant to be fixed:

        model = jaxnas.apply_fixed_architecture(darts_evaluation, arch)
        model = jaxnas.apply_fixed_architecture(darts_evaluation, arch_of(DARTS_V2))

    A cell has two inputs, the nodes 0 and 1, which are the outputs of the two cells before it, and four inner nodes;
    node i adds two of the edges `kind/i<-j`, each an operation on an earlier node j (kind is normal or reduce). The
    cells numbered `cells // 3` and `2 * cells // 3` halve the image and double the channels. With the defaults and
    images of 32×32×3, `DARTS_V2` has 3,349,342 parameters without the auxiliary head, as the authors' network.

    Args:
      channels: of a node in the first cells, even.
      cells: number of cells, reductions included.
      num_classes: number of logits.
      drop_path: in training, the share of paths dropped at the end, in [0, 1). An operation other than the identity
        gives zero for each example with probability `drop_path * progress`, else it is divided by the probability of
        not being zero (Larsson et al. 2017, arXiv 1605.07648, in the form of the authors' code). `progress` grows with
        every step of `jaxnas.training.fit`; in the authors' code it grows once per epoch.
      auxiliary_head: also classify from the cell after the second reduction, in training.

    Returns:
      A module called `model(x, arch, train=False, progress=0.0)` with x float `[B, H, W, C]` and progress the fraction
      of the training that is done, which `jaxnas.training.fit` passes; gives logits `[B, num_classes]`, and in training
      `(logits, auxiliary logits)` if it has an auxiliary head. Paths are dropped by the stream `dropout`.

    Raises:
      ValueError: for sizes that are not positive, an odd number of channels, or a drop_path outside [0, 1).
    """
    return DartsEvaluation(channels, cells, num_classes, drop_path, auxiliary_head)
