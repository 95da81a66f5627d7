"""The cell of the DARTS search network as pure functions, written so that little is computed or compiled twice.

The parameters of all edges of a cell are stacked, and one compiled edge is scanned over them, source by source: when
the first edge from a node is reached, all edges to it are done. What an edge has without parameters (the pools)
is computed once per source. Each edge keeps its input only for the gradient and is computed again there
(rematerialisation), which on CPU is faster than to write its inner results to memory and read them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnas.ops import avg_pool_3x3, batch_norm, batch_norm_sum, conv_general_dilated, max_pool_3x3
from jaxnas.ops.normalization import EPSILON, Statistics
from jaxnas.spaces.genotypes import EDGES, NODES, OPERATIONS
from jaxnas.spaces.layers import MOMENTUM

POOLS = {"max_pool_3x3": max_pool_3x3, "avg_pool_3x3": avg_pool_3x3}
SKIP = "skip_connect"

ORDER = tuple(sorted(EDGES))
"""The edges `(source, node)` in the order in which they are computed: by source."""

ENTERING = sum(source < 2 for source, _ in ORDER)
"""How many of them, the first, start from the cell's inputs: those a reduction cell has of stride 2."""


class Separable(NamedTuple):
    """ReLU, depthwise convolution, 1×1 convolution, normalisation; `layers` times."""

    kernel: int
    dilation: int
    layers: int


SEPARABLE = {
    "sep_conv_3x3": Separable(3, 1, 2),
    "sep_conv_5x5": Separable(5, 1, 2),
    "dil_conv_3x3": Separable(3, 2, 1),
    "dil_conv_5x5": Separable(5, 2, 1),
}


class Decisions(NamedTuple):
    """What an architecture says of a cell, in the order of `ORDER`.

    Attributes:
      kind: `"weights"`, `"index"` or `"fixed"`.
      operations: weights float `[14, 8]`, indices int `[14]`, or 14 names (None where an edge is not taken).
      inputs: what a node takes of each edge, float `[14]`; None if fixed.
    """

    kind: str
    operations: Any
    inputs: Any


def users(name: str, decisions: Decisions, *, reduces: bool) -> list[int]:
    """The edges that have parameters or statistics of an operation: all, or those fixed to it.

    Skip connections have some where they halve the image.
    """
    edges = range(len(ORDER)) if name != SKIP else range(ENTERING if reduces else 0)
    return [e for e in edges if decisions.kind != "fixed" or decisions.operations[e] == name]


def mixed_or_sampled(
    inputs: Sequence[jax.Array],
    decisions: Decisions,
    params: Any,
    stats: Any,
    *,
    reduces: bool,
    train: bool,
    remat: bool,
) -> tuple[jax.Array, Any]:
    """A cell with weights or indices.

    Args:
      inputs: nodes 0 and 1, `[B, H, W, C]` each.
      decisions: not fixed.
      params: `{operation: {name: [edges, …]}}`, see `shapes`.
      stats: `{operation: {"mean", "var"}}`, float32 `[edges, layers, C]`; of the pools `[5 sources, 1, C]`.
      reduces: whether edges from the inputs have stride 2.
      train: normalise by the batch, and move the statistics.
      remat: compute edges again in the backward pass instead of keeping their inner results.

    Returns:
      The inner nodes' outputs, concatenated, and the statistics.
    """
    edges = np.arange(len(ORDER))
    scan = _Scan(decisions, params, stats, train, remat)
    empty = [jnp.zeros_like(inputs[0][:, ::2, ::2] if reduces else inputs[0])] * NODES
    if reduces:
        nodes, first = scan(edges[:ENTERING], jnp.stack(empty), 2, jnp.stack(inputs))
        nodes, second = scan(edges[ENTERING:], nodes, 1)
        both = {name: jax.tree.map(lambda a, b: jnp.concatenate([a, b]), first[name], s) for name, s in second.items()}
        stats = first | both
    else:
        nodes, stats = scan(edges, jnp.stack([*inputs, *empty]), 1)
        nodes = nodes[2:]
    return jnp.concatenate(list(nodes), axis=-1), _per_source(decisions, scan.stats, stats)


def fixed(
    inputs: Sequence[jax.Array], decisions: Decisions, params: Any, stats: Any, *, reduces: bool, train: bool
) -> tuple[jax.Array, Any]:
    """As `mixed_or_sampled`, of a fixed cell: only what was chosen is there. Rows are those of `users`."""
    empty, moved = inputs[0][:, ::2, ::2] if reduces else inputs[0], stats
    nodes = [*inputs, *[jnp.zeros_like(empty)] * NODES]
    for e, (source, node) in enumerate(ORDER):
        name = decisions.operations[e]
        if name is None:
            continue
        using = users(name, decisions, reduces=reduces)
        row = using.index(e) if e in using else 0
        own = jax.tree.map(lambda leaf, row=row: leaf[row], (params.get(name, {}), stats.get(name, {})))
        y, new = _Edge(2 if reduces and source < 2 else 1, train).one(name, nodes[source], *own)
        if new:
            moved = {**moved, name: jax.tree.map(lambda old, n, row=row: old.at[row].set(n), moved[name], new)}
        nodes[node] = nodes[node] + y
    return jnp.concatenate(nodes[2:], axis=-1), moved


def _per_source(decisions: Decisions, before: Any, after: Any) -> Any:
    """The pools' statistics, scanned edge by edge, of each source."""
    sources, merged = np.asarray(ORDER)[:, 0], dict(after)
    firsts = _first_of_source(np.arange(len(ORDER)))
    for name in POOLS:
        if decisions.kind == "weights":  # computed at a source's first edge
            merged[name] = jax.tree.map(lambda rows: rows[firsts], after[name])
            continue
        taken = (decisions.operations == OPERATIONS.index(name)) & (decisions.inputs != 0)
        count = jnp.zeros(len(before[name]["mean"])).at[sources].add(taken)

        def mean_change(old: jax.Array, rows: jax.Array, count: jax.Array = count) -> jax.Array:
            change = jnp.zeros_like(old).at[sources].add(rows - old[sources])
            return old + change / jnp.maximum(count, 1)[:, None, None]

        merged[name] = jax.tree.map(mean_change, before[name], after[name])
    return merged


def _first_of_source(edges: np.ndarray) -> np.ndarray:
    sources = np.asarray([ORDER[e][0] for e in edges])
    return np.concatenate([[True], sources[1:] != sources[:-1]])


class _Scan(NamedTuple):
    """Scans edges; see `mixed_or_sampled`."""

    decisions: Decisions
    params: Any
    stats: Any
    train: bool
    remat: bool

    def __call__(
        self, edges: np.ndarray, nodes: jax.Array, stride: int, inputs: jax.Array | None = None
    ) -> tuple[jax.Array, Any]:
        """Adds edges to the nodes `[n, B, H, W, C]` (the last of which are the inner ones), reading from the inputs."""
        source, node = np.asarray(ORDER)[edges].T
        offset = 2 + NODES - len(nodes)
        edge = _Edge(stride, self.train)
        rows = {
            "operation": self.decisions.operations[edges],
            "input": self.decisions.inputs[edges],
            "params": _rows(self.params, edges, stride),
            "stats": {
                name: jax.tree.map(lambda leaf, at=source if name in POOLS else edges: leaf[at], s)
                for name, s in self.stats.items()
                if name != SKIP or stride == 2
            },
            "source": source if inputs is not None else source - offset,
            "node": node - offset,
            "first": _first_of_source(edges),
        }
        compute = edge.mixture if self.decisions.kind == "weights" else edge.sampled
        compute = jax.checkpoint(compute, prevent_cse=False) if self.remat else compute
        pool = jax.checkpoint(edge.pools, prevent_cse=False) if self.remat else edge.pools

        def step(carry: tuple, row: dict[str, Any]) -> tuple[tuple, Any]:
            nodes, pooled = carry
            x = lax.dynamic_index_in_dim(nodes if inputs is None else inputs, row["source"], keepdims=False)
            stats = dict(row["stats"])
            if self.decisions.kind == "weights":
                kept = {name: stats.pop(name) for name in POOLS}
                pooled, kept = lax.cond(row["first"], pool, lambda x, pooled, kept: (pooled, kept), x, pooled, kept)
            own = (x, pooled, row["input"], row["operation"], row["params"], stats)
            y, stats = _if_taken(row["input"] != 0, compute, nodes[0], *own)
            stats = {**stats, **kept} if self.decisions.kind == "weights" else stats
            return (nodes.at[row["node"]].add(y), pooled), stats

        pooled = {name: jnp.zeros_like(nodes[0]) for name in POOLS} if self.decisions.kind == "weights" else {}
        (nodes, _), stats = lax.scan(step, (nodes, pooled), jax.tree.map(jnp.asarray, rows))
        return nodes, stats


def _rows(params: Any, edges: np.ndarray, stride: int) -> Any:
    """The parameters of some edges. Those of the skip connection exist for stride 2 only."""
    picked = {name: p for name, p in params.items() if name != SKIP or stride == 2}
    return jax.tree.map(lambda leaf: leaf[edges[0] : edges[-1] + 1], picked)


def _if_taken(taken: jax.Array, compute: Callable, like: jax.Array, *own: Any) -> tuple[jax.Array, Any]:
    """`compute(*own)`, an output and statistics; zeros and the statistics as they are (the last of `own`) if not taken.

    On CPU a branch also keeps the edge apart from what follows: fused into the update of the scan's state it would run
    in one thread. On accelerators it would make the host wait; there an edge that is not taken has a share of zero.
    """
    if jax.default_backend() != "cpu":
        y, stats = compute(*own)
        return y, jax.tree.map(lambda new, old: jnp.where(taken, new, old), stats, own[-1])
    return lax.cond(taken, compute, lambda *own: (jnp.zeros_like(like), own[-1]), *own)


class _Edge(NamedTuple):
    """What an edge computes. `params` and `stats` are the edge's own: `{operation: {…}}` without the edges' axis."""

    stride: int
    train: bool

    def mixture(
        self, x: jax.Array, pooled: Any, share: jax.Array, weights: jax.Array, params: Any, stats: Any
    ) -> tuple[jax.Array, Any]:
        """All operations, weighted; all normalised sums in one."""
        weight = dict(zip(OPERATIONS, jnp.unstack(weights * share), strict=True))
        active = lax.optimization_barrier(jax.nn.relu(x))
        outputs, moved = {}, dict(stats)
        for name in SEPARABLE:
            outputs[name], moved[name] = self._separable(name, active, params[name], stats[name])
        if self.stride == 2:
            outputs[SKIP] = halved(active, params[SKIP])
        shares = jnp.stack([weight[name] for name in outputs])
        if self.train:
            total, batch = batch_norm_sum(list(outputs.values()), shares)
            for name, of_batch in zip(outputs, batch, strict=True):
                moved[name] = _moved_last(moved[name], of_batch)
        else:
            parts = [_scaled(y, _last(stats[name])) * weight[name] for name, y in outputs.items()]
            total = sum(parts[1:], start=parts[0]).astype(x.dtype)
        for name, pool in pooled.items():
            total = total + (pool * weight[name]).astype(x.dtype)
        return (total if self.stride == 2 else total + (x * weight[SKIP]).astype(x.dtype)), moved

    def sampled(
        self, x: jax.Array, pooled: Any, share: jax.Array, index: jax.Array, params: Any, stats: Any
    ) -> tuple[jax.Array, Any]:
        """The operation of that index."""
        del pooled

        def branch(name: str) -> Callable:
            def run(x: jax.Array, params: Any, stats: Any) -> tuple[jax.Array, Any]:
                y, new = self.one(name, x, params.get(name, {}), stats.get(name, {}))
                return y, {**stats, name: new} if new else stats

            return run

        y, stats = lax.switch(index, [branch(name) for name in OPERATIONS], x, params, stats)
        return (y * share).astype(x.dtype), stats

    def one(self, name: str, x: jax.Array, params: Any, stats: Any) -> tuple[jax.Array, Any]:
        """One operation, with its own parameters and statistics."""
        if name == "none" or (name == SKIP and self.stride == 1):
            return (jnp.zeros_like(x[:, :: self.stride, :: self.stride]) if name == "none" else x), {}
        if name in POOLS:
            y = POOLS[name](x, self.stride)
        elif name == SKIP:
            y = halved(jax.nn.relu(x), params)
        else:
            y, stats = self._separable(name, jax.nn.relu(x), params, stats)
        return self._normalised(y, stats)

    def pools(self, x: jax.Array, pooled: Any, stats: Any) -> tuple[Any, Any]:
        """The normalised pools of a source, in place of those of the source before."""
        del pooled
        found = {name: self._normalised(pool(x, self.stride), stats[name]) for name, pool in POOLS.items()}
        return {name: y for name, (y, _) in found.items()}, {name: s for name, (_, s) in found.items()}

    def _separable(self, name: str, active: jax.Array, params: Any, stats: Any) -> tuple[jax.Array, Any]:
        """A separable convolution of an input that ReLU has passed, up to its last normalisation."""
        _, dilation, layers = SEPARABLE[name]
        stride, y = self.stride, active
        for i in range(layers):
            if i:
                before = jax.tree.map(lambda leaf, i=i: leaf[i - 1 : i], stats)
                y, after = self._normalised(y, before)
                stats = jax.tree.map(lambda old, new, i=i: old.at[i - 1 : i].set(new), stats, after)
                active, stride = jax.nn.relu(y), 1
            y = pointwise(_depthwise(active, params["depthwise"][i], stride, dilation), params["pointwise"][i])
        return y, stats

    def _normalised(self, y: jax.Array, stats: Any) -> tuple[jax.Array, Any]:
        """Normalises by the batch or by the last of the running statistics `[layers, C]`."""
        if not self.train:
            return _scaled(y, _last(stats)), stats
        y, batch = batch_norm(y)
        return y, _moved_last(stats, batch)


def normalised(y: jax.Array, stats: Any, train: bool) -> tuple[jax.Array, Any]:
    """Normalisation without scale and offset; `stats` is `{"mean", "var"}`, float32 `[1, C]`."""
    return _Edge(1, train)._normalised(y, stats)


def _last(stats: Any) -> Statistics:
    return Statistics(stats["mean"][-1], stats["var"][-1])


def _moved_last(stats: Any, batch: Statistics) -> Any:
    new = {name: MOMENTUM * stats[name][-1] + (1 - MOMENTUM) * getattr(batch, name) for name in ("mean", "var")}
    return {name: stats[name].at[-1].set(new[name]) for name in new}


def _scaled(y: jax.Array, stats: Statistics) -> jax.Array:
    return ((y - stats.mean) * lax.rsqrt(stats.var + EPSILON)).astype(y.dtype)


def halved(active: jax.Array, params: Any) -> jax.Array:
    """The factorised reduction: two 1×1 convolutions of stride 2, one of them shifted by a pixel."""
    shifted = jnp.pad(active, ((0, 0), (0, 1), (0, 1), (0, 0)))[:, 1:, 1:]
    parts = [pointwise(a[:, ::2, ::2], params[name]) for name, a in (("even", active), ("odd", shifted))]
    return jnp.concatenate(parts, axis=-1)


def _depthwise(x: jax.Array, kernel: jax.Array, stride: int, dilation: int) -> jax.Array:
    half = kernel.shape[0] // 2 * dilation
    return conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        [(half, half)] * 2,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


def pointwise(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """A 1×1 convolution as one dot."""
    return (x.reshape(-1, x.shape[-1]) @ kernel).reshape(*x.shape[:-1], kernel.shape[-1])


def shapes(name: str, channels: int) -> tuple[Mapping[str, tuple[int, ...]], int]:
    """The parameters of an operation on one edge, and how many normalisations it has. (Skips: of stride 2.)"""
    if name in SEPARABLE:
        kernel, _, layers = SEPARABLE[name]
        depthwise, pointwise = (layers, kernel, kernel, 1, channels), (layers, channels, channels)
        return {"depthwise": depthwise, "pointwise": pointwise}, layers
    if name == SKIP:
        return dict.fromkeys(("even", "odd"), (channels, channels // 2)), 1
    return {}, int(name in POOLS)
