"""The micro search space of ENAS: a normal and a reduction cell. Pham et al. 2018, arXiv 1802.03268, section 2.4."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from flax import linen as nn

from jaxnas.model.choices import InputChoice, LayerChoice
from jaxnas.model.graph import Cell as DrawnCell
from jaxnas.model.graph import CellEdge
from jaxnas.spaces.layers import (
    AuxiliaryHead,
    Conv,
    FactorizedReduction,
    batch_norm,
    check_even_filters,
    check_positive,
    pool,
)


class SepConvTwice(nn.Module):
    """ReLU, separable convolution, batch normalisation; twice."""

    filters: int
    kernel: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        for name in ("first", "second"):
            x = Conv(self.filters, self.kernel, separable=True, name=name)(nn.relu(x), train)
        return x


class Cell(nn.Module):
    """A cell: nodes that each add two operations on two earlier outputs. Outputs that no node uses are the cell's.

    Attributes:
      kind: `"normal"` or `"reduce"`: cells of one kind share their decisions.
      nodes: number of nodes.
      filters: channels of every node and of the output.
    """

    kind: str
    nodes: int
    filters: int

    @nn.compact
    def __call__(self, before_last: jax.Array, last: jax.Array, arch: Any, train: bool = False) -> jax.Array:
        sources = [f"{self.kind}/before_last", f"{self.kind}/last"]
        outputs = [before_last, last]
        unused: list[Any] = [1.0, 1.0]  # share of each output that no node takes
        for i in range(self.nodes):
            node = f"{self.kind}/node_{i}"
            inputs = []
            for side in "xy":
                choose = InputChoice(
                    choose_from=tuple(sources), n_chosen=1, key=f"{node}/{side}_input", return_mask=True
                )
                tensor, mask = choose(outputs, arch)
                inputs.append(tensor)
                unused = [share * (1 - taken) for share, taken in zip(unused, _shares(mask), strict=True)]
            x, y = (
                LayerChoice(_operations(self.filters), key=f"{node}/{side}_op", name=f"node_{i}_{side}")(
                    tensor, arch, train=train
                )
                for side, tensor in zip("xy", inputs, strict=True)
            )
            sources.append(node)
            outputs.append(x + y)
            unused.append(1.0)
        return self._loose_ends(outputs, unused, train)

    def _loose_ends(self, outputs: list[jax.Array], unused: list[Any], train: bool) -> jax.Array:
        """Concatenation of the unused outputs and a 1×1 convolution, as the sum of a convolution for each."""
        total: Any = 0
        for i, (output, share) in enumerate(zip(outputs, unused, strict=True)):
            if isinstance(share, float) and share == 0:
                continue  # fixed, and used: it has no weights here
            init = nn.initializers.variance_scaling(2.0 / self.nodes, "fan_in", "normal")
            conv = nn.Conv(self.filters, (1, 1), use_bias=False, kernel_init=init, name=f"loose_{i}")
            mixed = conv(nn.relu(output))
            total = total + (mixed if isinstance(share, float) else mixed * share.astype(mixed.dtype))
        return batch_norm(train, name="norm")(total)


def _shares(mask: Any) -> list[Any]:
    """What an InputChoice takes of each candidate: floats if it is fixed, else traced numbers."""
    return [float(m) for m in mask] if isinstance(mask, np.ndarray) else [m.astype(float) for m in mask]


def _operations(filters: int) -> dict[str, Any]:
    return {
        "sep_conv_3x3": SepConvTwice(filters, 3),
        "sep_conv_5x5": SepConvTwice(filters, 5),
        "avg_pool_3x3": lambda x: pool(x, "avg"),
        "max_pool_3x3": lambda x: pool(x, "max"),
        "identity": lambda x: x,
    }


class Stack(nn.Module):
    """Normal cells one after the other, each taking the outputs of the two before it.

    They are one scanned cell, so only one is compiled, however many there are.

    Attributes:
      cells: number of cells, at least 0.
      nodes, filters: of each cell.
    """

    cells: int
    nodes: int
    filters: int

    @nn.compact
    def __call__(
        self, before_last: jax.Array, last: jax.Array, arch: Any, train: bool
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns the last two outputs, and that of the first cell."""
        if not self.cells:
            return before_last, last, last

        def step(cell: Cell, carry: tuple, _: None) -> tuple[tuple, jax.Array]:
            output = cell(carry[0], carry[1], arch, train)
            return (carry[1], output), output

        scan = nn.scan(
            step,
            variable_axes={"params": 0, "batch_stats": 0},
            split_rngs={"params": True, "dropout": True},
            length=self.cells,
        )
        cell = Cell("normal", self.nodes, self.filters, name="cells")
        (before_last, last), outputs = scan(cell, (before_last, last), None)
        return before_last, last, outputs[0]


class EnasMicro(nn.Module):
    """The model of `enas_micro`; its attributes are described there."""

    cells: int = 6
    nodes: int = 5
    filters: int = 20
    num_classes: int = 10
    dropout: float = 0.1
    auxiliary_head: bool = True

    def __post_init__(self) -> None:
        check_positive(cells=self.cells, nodes=self.nodes, filters=self.filters, num_classes=self.num_classes)
        check_even_filters(self.filters)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, arch: Any, train: bool = False) -> Any:
        third, filters = self.cells // 3, self.filters
        stem = Conv(filters * 3, 3, name="stem")(x, train)
        before_last, last = (
            Conv(filters, name=f"calibrate_{name}")(nn.relu(stem), train)  # to the cells' number of channels
            for name in ("before_last", "last")
        )
        before_last, last, first = Stack(third, self.nodes, filters, name="normal_0")(before_last, last, arch, train)
        for i, cells in ((1, third), (2, self.cells - 2 * third)):
            filters *= 2
            before_last, last = (
                FactorizedReduction(filters, name=f"reduction_{i}_of_{name}")(nn.relu(tensor), train)
                for name, tensor in (("before_last", before_last), ("last", last))
            )
            reduced = Cell("reduce", self.nodes, filters, name=f"reduce_{i}")(before_last, last, arch, train)
            before_last, last, first = Stack(cells, self.nodes, filters, name=f"normal_{i}")(last, reduced, arch, train)
        x = nn.relu(last).mean((1, 2))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        logits = nn.Dense(self.num_classes, name="head")(x)
        if not self.auxiliary_head or not (train or self.is_initializing()):
            return logits
        auxiliary = AuxiliaryHead(self.num_classes, name="auxiliary")(first, train)
        return (logits, auxiliary) if train else logits

    def describe_cells(self) -> list[DrawnCell]:
        """The two cells as pictures show them, with the authors' names of their inputs; see `jaxnas.graph.Cell`."""
        return [self._describe(kind) for kind in ("normal", "reduce")]

    def _describe(self, kind: str) -> DrawnCell:
        sources, edges = ["c_{k-2}", "c_{k-1}"], []
        for i in range(self.nodes):
            for side in "xy":
                key = f"{kind}/node_{i}/{side}"
                for candidate, source in enumerate(sources):
                    switch = (f"{key}_input", candidate)
                    edges.append(CellEdge(source, str(i), choice=f"{key}_op", switch=switch))
            sources.append(str(i))
        edges += [CellEdge(source, "c_k", loose=True) for source in sources]
        return DrawnCell(kind, [*sources, "c_k"], edges)


def enas_micro(
    *,
    cells: int = 6,
    nodes: int = 5,
    filters: int = 20,
    num_classes: int = 10,
    dropout: float = 0.1,
    auxiliary_head: bool = True,
) -> EnasMicro:
    """A stack of cells; all normal cells share their decisions, and so do the two reduction cells.

    Node i of a cell adds two operations, x and y, each on one of the cell's two inputs or of its earlier nodes. For
    both kinds of cell (`normal`, `reduce`) the keys are `kind/node_i/x_input`, `…/y_input` (one of
    `kind/before_last`, `kind/last`, `kind/node_0`, …) and `…/x_op`, `…/y_op` (one of sep_conv_3x3, sep_conv_5x5,
    avg_pool_3x3, max_pool_3x3, identity). The outputs that no node takes are concatenated and mixed by a 1×1
    convolution. With 5 nodes: 40 choices, (5^5 · 6!)^4 architectures, about 2.6 · 10^25. Build the controller with
    `cell_exit_extra_step=True`, so that a node's anchor follows its operations.

    The weights of an operation belong to the node's side, whatever its input, as in NNI (the authors' have one set for
    each possible input). Under DARTS an output counts as unused with the product of 1 - weight over the nodes that can
    take it, which agrees for one-hot weights.

    Args:
      cells: normal cells; two reduction cells are inserted among them (the authors use 6 in the search, 15 in the end).
      nodes: nodes per cell.
      filters: channels of the first cells, even; doubled by each reduction (20 in the search, 36 in the end).
      num_classes: number of logits.
      dropout: rate before the last layer.
      auxiliary_head: also classify from the cell after the second reduction, in training.

    Returns:
      A module called `model(x, arch, train=False)` with x float `[B, H, W, C]`; gives logits `[B, num_classes]`, and in
      training `(logits, auxiliary logits)` if it has an auxiliary head.

    Raises:
      ValueError: for sizes that are not positive, or an odd number of filters.
    """
    return EnasMicro(cells, nodes, filters, num_classes, dropout, auxiliary_head)
