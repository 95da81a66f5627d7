"""The search network of the DARTS space. Liu, Simonyan, Yang 2019, arXiv 1806.09055, sections 2.1 and 3.1."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from jaxnas.model.graph import Cell as DrawnCell
from jaxnas.model.space import Space
from jaxnas.spaces import darts_cell as cell
from jaxnas.spaces.darts_decisions import Decisions, read, rows_of
from jaxnas.spaces.darts_edge import DROP, SKIP, halved, normalised, pointwise, shapes
from jaxnas.spaces.darts_inherit import inherited
from jaxnas.spaces.genotypes import EDGES, NODES, OPERATIONS, choices_of, describe_cells, reductions
from jaxnas.spaces.layers import batch_norm, check_even_filters, check_positive
from jaxnas.spaces.partial import check_partial

_GIVEN = {"first": 2, "second": 1}
"""In a row of normal cells, how many cells get their first and second input from outside the row."""


class Preparation(nn.Module):
    """ReLU, 1×1 convolution (or a factorised reduction), normalisation: a cell's input brought to its form.

    Attributes:
      filters: channels of the cell.
      halves: whether the input is twice as large.
    """

    filters: int
    halves: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        if self.halves:
            shape = (x.shape[-1], self.filters // 2)
            kernels = {part: _kernel(self, part, shape, shape[0], x.dtype) for part in ("even", "odd")}
            y = halved(nn.relu(x), kernels)
        else:
            y = pointwise(nn.relu(x), _kernel(self, "kernel", (x.shape[-1], self.filters), x.shape[-1], x.dtype))
        stats = _statistics(self, "norm", (1, self.filters))
        y, moved = normalised(y, stats.value, train)
        _move(self, {"norm": stats}, {"norm": moved})
        return y


class ReductionCell(nn.Module):
    """A cell that halves the image.

    Attributes:
      filters: channels of its nodes.
      remat, partial: see `darts`.
    """

    filters: int
    remat: bool
    partial: int = 1

    @nn.compact
    def __call__(self, first: jax.Array, second: jax.Array, arch: Any, train: bool, drop: Any) -> jax.Array:
        decisions = read("reduce", arch)
        params, stats = _edges(self, decisions, self.filters // self.partial, first.dtype, drop=drop)
        if self.is_initializing():  # only the variables are wanted
            return jnp.concatenate([first[:, ::2, ::2]] * NODES, axis=-1)
        values = {name: s.value for name, s in stats.items()}
        form: dict[str, Any] = {"reduces": True, "train": train, "remat": self.remat, "partial": self.partial}
        y, moved = _compute((first, second), decisions, params, values, **form)
        _move(self, stats, moved)
        return y


class NormalCells(nn.Module):
    """Normal cells in a row, as one scanned cell: however many there are, one is compiled.

    What the first cells get is prepared outside, since it comes from elsewhere and in another form.

    Attributes:
      count: number of cells, at least 1.
      filters: channels of their nodes.
      remat, partial: see `darts`.
    """

    count: int
    filters: int
    remat: bool
    partial: int = 1

    @nn.compact
    def __call__(
        self, first: jax.Array, second: jax.Array, first_of_second: jax.Array | None, arch: Any, train: bool, drop: Any
    ) -> tuple[jax.Array | None, jax.Array]:
        """The last two outputs `[B, H, W, 4 * filters]`, the first of them None if there is one cell.

        Args:
          first, second: the inputs of the first cell.
          first_of_second: the first input of the second cell, if there is one.
        """
        decisions, n, width = read("normal", arch), self.count, NODES * self.filters
        params, stats = _edges(self, decisions, self.filters // self.partial, first.dtype, n, drop=drop)
        values = {name: s.value for name, s in stats.items()}

        def compute(inputs: tuple, params: Any, stats: Any) -> tuple[jax.Array, Any]:
            form: dict[str, Any] = {"reduces": False, "train": train, "remat": self.remat, "partial": self.partial}
            return _compute(inputs, decisions, params, stats, **form)

        if n == 1 and not self.is_initializing():
            one = jax.tree.map(lambda leaf: leaf[0], (params, values))
            y, moved = compute((first, second), *one)
            _move(self, stats, jax.tree.map(lambda leaf: leaf[None], moved))
            return None, y

        prepared = {}  # the inputs that come from cells of this row: their kernels and statistics
        for place, missing in _GIVEN.items():
            if n > missing:
                kernel = _kernel(self, f"{place}_input", (n - missing, width, self.filters), width, first.dtype)
                stats[f"{place}_input"] = _statistics(self, f"{place}_input", (n - missing, 1, self.filters))
                stacks = (kernel, stats[f"{place}_input"].value)
                prepared[place] = jax.tree.map(lambda leaf, m=missing: _in_front(leaf, m), stacks)

        if self.is_initializing():  # only the variables are wanted
            output = jnp.concatenate([first] * NODES, axis=-1)
            return None if n == 1 else output, output

        def prepare(place: str, row: Any, given: jax.Array, output: jax.Array) -> tuple[jax.Array, Any]:
            if place not in prepared:
                return given, {}
            kernel, old = row["prepared"][place]
            here = lambda output: normalised(pointwise(nn.relu(output), kernel), old, train)  # noqa: E731
            x, new = lax.cond(row["number"] >= _GIVEN[place], here, lambda output: (given, old), output)
            return x, {f"{place}_input": new}

        def step(carry: tuple, row: Any) -> tuple[tuple, Any]:
            before_last, last = carry
            given = first if first_of_second is None else jnp.where(row["number"] == 0, first, first_of_second)
            x, first_stats = prepare("first", row, given, before_last)
            y, second_stats = prepare("second", row, second, last)
            output, moved = compute((x, y), row["params"], row["stats"])
            return (last, output), moved | first_stats | second_stats

        each = {"number": jnp.arange(n), "params": params, "stats": values, "prepared": prepared}
        empty = jnp.zeros((*first.shape[:-1], width), first.dtype)
        outputs, moved = lax.scan(step, (empty, empty), each)
        for place in prepared:
            moved[f"{place}_input"] = jax.tree.map(lambda leaf, m=_GIVEN[place]: leaf[m:], moved[f"{place}_input"])
        _move(self, stats, moved)
        return outputs


class Darts(nn.Module):
    """The model of `darts`; its attributes are described there."""

    channels: int = 16
    cells: int = 8
    num_classes: int = 10
    remat: bool = True
    dtype: Any = jnp.float32
    partial: int = 1

    def __post_init__(self) -> None:
        check_positive(channels=self.channels, cells=self.cells, num_classes=self.num_classes)
        check_partial(self.partial, self.channels)
        check_even_filters(self.channels // self.partial)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, arch: Any, train: bool = False, skip_dropout: Any = None) -> jax.Array:
        drop = skip_dropout if train and not self.is_initializing() else None
        init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
        stem = nn.Conv(3 * self.channels, (3, 3), use_bias=False, kernel_init=init, dtype=self.dtype, name="stem")
        norm = batch_norm(train, name="stem_norm", dtype=self.dtype)
        before_last = last = norm(stem(x.astype(self.dtype)))
        filters, halves = self.channels, False
        for i, (kind, count) in enumerate(rows(self.cells)):
            filters *= 2 if kind == "reduce" else 1

            def prepare(name: str, x: jax.Array, halves: bool = False, i: int = i, filters: int = filters) -> jax.Array:
                return Preparation(filters, halves, name=f"row_{i}_{name}")(x, train)

            first, second = prepare("first", before_last, halves), prepare("second", last)
            if kind == "reduce":
                reduction = ReductionCell(filters, self.remat, self.partial, name=f"row_{i}_reduction")
                before_last, last = last, reduction(first, second, arch, train, drop)
            else:
                after = prepare("first_of_second", last) if count > 1 else None
                normal = NormalCells(count, filters, self.remat, self.partial, name=f"row_{i}_normal")
                previous, output = normal(first, second, after, arch, train, drop)
                before_last, last = last if previous is None else previous, output
            halves = kind == "reduce"
        return nn.Dense(self.num_classes, name="head")(last.astype(jnp.float32).mean((1, 2)))

    def known_space(self) -> Space:
        """The choices, which do not depend on the input."""
        return choices_of(self.cells)

    def operation_of(self, path: tuple[str, ...]) -> tuple[str, int] | None:
        """The operation whose parameter this is; edges are stacked, and normal cells. See `parts.gradient_matching`."""
        name = next((op for op in OPERATIONS if path[-1].startswith(f"{op}_")), None)
        return None if name is None else (f"{path[0]}/{name}", 1 + path[0].endswith("_normal"))

    def describe_cells(self) -> list[DrawnCell]:
        """The two cells as pictures show them; see `jaxnas.graph.Cell`."""
        return describe_cells(self.cells)

    def inherited(self, variables: Mapping[str, Any], arch: Mapping[str, Any]) -> dict[str, Any]:
        """Of a supernet's variables those that a fixed or restricted model has; see `jaxnas.inherit`."""
        names = {"reduce": "reduction", "normal": "normal"}
        kinds = {f"row_{i}_{names[kind]}": kind for i, (kind, _) in enumerate(rows(self.cells))}

        def kept(name: str, values: Any) -> Any:
            kind = kinds.get(name)
            return values if kind is None else inherited(values, kind, arch)

        return {
            collection: {name: kept(name, values) for name, values in modules.items()}
            for collection, modules in variables.items()
        }


def darts(
    *,
    channels: int = 16,
    cells: int = 8,
    num_classes: int = 10,
    remat: bool = True,
    dtype: Any = jnp.float32,
    partial: int = 1,
) -> Darts:
    """The network in which DARTS searches: a stack of cells; all normal cells share their decisions, so do reductions.

    A cell has two inputs, the nodes 0 and 1, which are the outputs of the two cells before it, and four inner nodes.
    For both kinds of cell (`normal`, `reduce`) each edge from node j to node i is the choice `kind/i<-j`, one of none,
    max_pool_3x3, avg_pool_3x3, skip_connect, sep_conv_3x3, sep_conv_5x5, dil_conv_3x3, dil_conv_5x5, and `kind/i` says
    which two edges node i keeps: the strongest ones, an edge being as strong as its strongest operation other than
    none. The output is the concatenation of the inner nodes. Cells `cells // 3` and `2 * cells // 3` halve the image
    and double the channels. All normalisation but that of the stem is without scale and offset.

    With the defaults it has 1,930,618 parameters, as the authors'. `jaxnas.spaces.genotype_of(result.arch)` is what was
    found as a `Genotype`, and `darts_evaluation` the network to train it in.

    The edges of a cell are one scanned edge, and normal cells of one size one scanned cell, so that compilation takes
    the same time for any number of cells. See docs/performance.md.

    Args:
      channels: of a node in the first cells, even.
      cells: number of cells, reductions included.
      num_classes: number of logits.
      remat: compute each edge again in the backward pass, from its input, instead of keeping its inner results: less
        memory, and on CPU also less time.
      dtype: of the computation. Parameters and statistics are float32.
      partial: of so many equal parts of the channels only the first enters each edge; the others pass by, and then all
        are shuffled (PC-DARTS, arXiv 1907.05737; 4 in its searches).

    Returns:
      A module called `model(x, arch, train=False)` with x float `[B, H, W, C]`; gives logits `[B, num_classes]`. In
      training it takes `skip_dropout=`, the rate of dropout after each identity (P-DARTS), from the stream `dropout`.

    Raises:
      ValueError: for sizes that are not positive, channels not divisible by `partial`, or an odd number of those that
        enter an edge.
    """
    return Darts(channels, cells, num_classes, remat, dtype, partial)


def rows(cells: int) -> list[tuple[str, int]]:
    """The network as `(kind, number of cells)`: reductions, and the normal cells between them."""
    found: list[tuple[str, int]] = []
    for i in range(cells):
        kind = "reduce" if i in reductions(cells) else "normal"
        if kind == "normal" and found and found[-1][0] == kind:
            found[-1] = (kind, found[-1][1] + 1)
        else:
            found.append((kind, 1))
    return found


def _compute(
    inputs: tuple, decisions: Decisions, params: Any, stats: Any, *, remat: bool, **form: Any
) -> tuple[jax.Array, Any]:
    if decisions.kind == "fixed":
        return cell.fixed(inputs, decisions, params, stats, **form)
    return cell.mixed_or_sampled(inputs, decisions, params, stats, remat=remat, **form)


def _edges(
    module: nn.Module, decisions: Decisions, filters: int, dtype: Any, count: int | None = None, drop: Any = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Declares the parameters and statistics of a cell's edges, `[count, edges, …]`; without a count `[edges, …]`.

    Beside the parameters are the keys of the edges' dropout and its rate, if it is given.
    """
    params: dict[str, Any] = {}
    stats: dict[str, Any] = {}
    leading = () if count is None else (count,)
    for name in OPERATIONS:
        if name == SKIP and count is not None:
            continue  # the identity
        n = len(rows_of(name, decisions, reduces=count is None))
        kernels, layers = shapes(name, filters)
        if n and kernels:
            params[name] = {
                part: _kernel(module, f"{name}_{part}", (*leading, n, *shape), _fan_in(part, shape), dtype)
                for part, shape in kernels.items()
            }
        if n and layers:
            stats[name] = _statistics(module, name, (*leading, n, layers, filters))
    if drop is not None:
        each = (*leading, len(EDGES))
        params[DROP] = {"key": jax.random.split(module.make_rng("dropout"), each), "rate": jnp.full(each, drop)}
    return params, stats


def _in_front(leaf: jax.Array, count: int) -> jax.Array:
    """A stack with so many zeros before it."""
    return jnp.pad(leaf, [(count, 0)] + [(0, 0)] * (leaf.ndim - 1))


def _fan_in(part: str, shape: tuple[int, ...]) -> int:
    return math.prod(shape[1:3]) if part == "depthwise" else shape[-2]


def _kernel(module: nn.Module, name: str, shape: tuple[int, ...], fan_in: int, dtype: Any) -> jax.Array:
    """A stack of kernels with the initialisation of the authors' framework: uniform up to 1 / √fan_in."""
    bound = 1 / math.sqrt(fan_in)

    def init(rng: jax.Array) -> jax.Array:
        return jax.random.uniform(rng, shape, jnp.float32, -bound, bound)

    return module.param(name, init).astype(dtype)


def _statistics(module: nn.Module, name: str, shape: tuple[int, ...]) -> nn.Variable:
    return module.variable("batch_stats", name, lambda: {"mean": jnp.zeros(shape), "var": jnp.ones(shape)})


def _move(module: nn.Module, stats: Mapping[str, nn.Variable], moved: Mapping[str, Any]) -> None:
    if module.is_mutable_collection("batch_stats") and not module.is_initializing():
        for name, variable in stats.items():
            variable.value = moved[name]
