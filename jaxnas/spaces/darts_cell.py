"""The cell of the DARTS search network as pure functions, written so that little is computed or compiled twice.

The parameters of all edges of a cell are stacked, and one compiled edge is scanned over them, source by source: when
the first edge from a node is reached, all edges to it are done. What an edge has without parameters (the pools)
is computed once per source. Each edge keeps its input only for the gradient and is computed again there
(rematerialisation), which on CPU is faster than to write its inner results to memory and read them.

Edges that differ in their operations cannot be scanned: a cell of which a restriction has left only some is computed
edge by edge, as a fixed one is. It has the parameters and costs of what is left, and compiles for longer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnas.compilation import platform
from jaxnas.spaces.darts_decisions import ENTERING, ORDER, Decisions, rows_of, users
from jaxnas.spaces.darts_edge import DROP, POOLS, SKIP, Edge
from jaxnas.spaces.genotypes import NODES, OPERATIONS
from jaxnas.spaces.partial import divided, joined


def mixed_or_sampled(
    inputs: Sequence[jax.Array],
    decisions: Decisions,
    params: Any,
    stats: Any,
    *,
    reduces: bool,
    train: bool,
    remat: bool,
    partial: int = 1,
) -> tuple[jax.Array, Any]:
    """A cell with weights, indices or gated indices.

    Args:
      inputs: nodes 0 and 1, `[B, H, W, C]` each.
      decisions: not fixed.
      params: `{operation: {name: [rows, …]}}`, see `darts_edge.shapes`; rows are those of `rows_of`. `DROP`, where
        skip connections are followed by dropout, has a row for every edge.
      stats: `{operation: {"mean", "var"}}`, float32 `[rows, layers, C]`.
      reduces: whether edges from the inputs have stride 2.
      train: normalise by the batch, and move the statistics.
      remat: compute edges again in the backward pass instead of keeping their inner results.
      partial: of so many parts of the channels one enters each edge.

    Returns:
      The inner nodes' outputs, concatenated, and the statistics.
    """
    if decisions.kept is not None:
        return _edge_by_edge(
            inputs, decisions, params, stats, reduces=reduces, train=train, remat=remat, partial=partial
        )
    edges = np.arange(len(ORDER))
    scan = _Scan(decisions, params, stats, train, remat, partial)
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
    inputs: Sequence[jax.Array],
    decisions: Decisions,
    params: Any,
    stats: Any,
    *,
    reduces: bool,
    train: bool,
    partial: int = 1,
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
        edge = Edge(2 if reduces and source < 2 else 1, train)
        own = jax.tree.map(lambda leaf, row=row: leaf[row], (params.get(name, {}), stats.get(name, {})))
        if edge.named(name) == DROP:
            own = jax.tree.map(lambda leaf, e=e: leaf[e], params.get(DROP, {})), {}
        x, rest = divided(nodes[source], partial)
        y, new = edge.one(name, x, *own)
        if new:
            moved = {**moved, name: jax.tree.map(lambda old, n, row=row: old.at[row].set(n), moved[name], new)}
        nodes[node] = nodes[node] + joined(y, rest, partial, stride=edge.stride)
    return jnp.concatenate(nodes[2:], axis=-1), moved


def _edge_by_edge(
    inputs: Sequence[jax.Array],
    decisions: Decisions,
    params: Any,
    stats: Any,
    *,
    reduces: bool,
    train: bool,
    remat: bool,
    partial: int = 1,
) -> tuple[jax.Array, Any]:
    """As `mixed_or_sampled`, of a restricted cell."""
    kept: Any = decisions.kept
    empty = inputs[0][:, ::2, ::2] if reduces else inputs[0]
    nodes = [*inputs, *[jnp.zeros_like(empty)] * NODES]
    rows = {name: rows_of(name, decisions, reduces=reduces) for name in OPERATIONS}
    changes: dict[str, list[tuple[int, Any, Any]]] = {name: [] for name in stats}
    for e, (source, node) in enumerate(ORDER):
        if not kept[e]:
            continue
        owners = {name: source if name in POOLS else e for name in kept[e]}
        at = {name: rows[name].index(owner) for name, owner in owners.items() if owner in rows[name]} | {DROP: e}
        own = [
            {name: jax.tree.map(lambda leaf, at=at[name]: leaf[at], stacks[name]) for name in at if name in stacks}
            for stacks in (params, stats)
        ]
        edge = Edge(2 if reduces and source < 2 else 1, train, kept[e])
        compute = edge.ways[decisions.kind]
        compute = jax.checkpoint(compute) if remat else compute
        share, operation = decisions.inputs[e], decisions.operations[e]
        x, rest = divided(nodes[source], partial)
        y, moved = _if_taken(share != 0, compute, divided(empty, partial)[0], x, share, operation, *own)
        nodes[node] = nodes[node] + joined(y, rest, partial, stride=edge.stride, share=share)
        for name, new in moved.items():
            changes[name].append((at[name], new, (share != 0) & edge.computes(name, decisions.kind, operation)))
    for name, found in changes.items():
        new = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[new for _, new, _ in found])
        ran = jnp.stack([ran for _, _, ran in found])
        stats = {**stats, name: _mean_change(stats[name], new, np.asarray([row for row, _, _ in found]), ran)}
    return jnp.concatenate(nodes[2:], axis=-1), stats


def _per_source(decisions: Decisions, before: Any, after: Any) -> Any:
    """The pools' statistics, scanned edge by edge, of each source."""
    sources, merged = np.asarray(ORDER)[:, 0], dict(after)
    firsts = _first_of_source(np.arange(len(ORDER)))
    for name in POOLS:
        if decisions.kind == "weights":  # computed at a source's first edge
            merged[name] = jax.tree.map(lambda rows: rows[firsts], after[name])
            continue
        paths = decisions.operations.index.T if decisions.kind == "gated" else decisions.operations
        taken = jnp.any(jnp.atleast_2d(paths) == OPERATIONS.index(name), 0) & (decisions.inputs != 0)
        merged[name] = _mean_change(before[name], after[name], sources, taken)
    return merged


def _mean_change(before: Any, after: Any, at: np.ndarray, ran: jax.Array) -> Any:
    """Statistics `[rows, …]`, moved by the mean of what edges made of them.

    Args:
      before: `[rows, …]`.
      after: `[edges, …]`, of each edge its row as it left it, or as it was.
      at: int `[edges]`, that row.
      ran: bool `[edges]`, whether the edge computed the operation.
    """
    count = jnp.zeros(len(before["mean"])).at[at].add(ran)

    def moved(old: jax.Array, rows: jax.Array) -> jax.Array:
        change = jnp.zeros_like(old).at[at].add(rows - old[at])
        return old + change / jnp.maximum(count, 1)[:, None, None]

    return jax.tree.map(moved, before, after)


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
    partial: int

    def __call__(
        self, edges: np.ndarray, nodes: jax.Array, stride: int, inputs: jax.Array | None = None
    ) -> tuple[jax.Array, Any]:
        """Adds edges to the nodes `[n, B, H, W, C]` (the last of which are the inner ones), reading from the inputs."""
        source, node = np.asarray(ORDER)[edges].T
        offset, partial = 2 + NODES - len(nodes), self.partial
        empty = jnp.zeros_like(divided(nodes[0], partial)[0])
        edge = Edge(stride, self.train)
        rows = {
            "operation": jax.tree.map(lambda leaf: leaf[edges], self.decisions.operations),
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
        compute = edge.mixture if self.decisions.kind == "weights" else edge.ways[self.decisions.kind]
        compute = jax.checkpoint(compute, prevent_cse=False) if self.remat else compute
        pool = jax.checkpoint(edge.pools, prevent_cse=False) if self.remat else edge.pools

        def step(carry: tuple, row: dict[str, Any]) -> tuple[tuple, Any]:
            nodes, pooled = carry
            x = lax.dynamic_index_in_dim(nodes if inputs is None else inputs, row["source"], keepdims=False)
            x, rest = divided(x, partial)
            stats = dict(row["stats"])
            if self.decisions.kind == "weights":
                kept = {name: stats.pop(name) for name in POOLS}
                pooled, kept = lax.cond(row["first"], pool, lambda x, pooled, kept: (pooled, kept), x, pooled, kept)
            mixed = (pooled,) if self.decisions.kind == "weights" else ()
            own = (x, *mixed, row["input"], row["operation"], row["params"], stats)
            y, stats = _if_taken(row["input"] != 0, compute, empty, *own)
            y = joined(y, rest, partial, stride=stride, share=row["input"])
            stats = {**stats, **kept} if self.decisions.kind == "weights" else stats
            return (nodes.at[row["node"]].add(y), pooled), stats

        pooled = dict.fromkeys(POOLS, empty) if self.decisions.kind == "weights" else {}
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
    if platform() != "cpu":
        y, stats = compute(*own)
        return y, jax.tree.map(lambda new, old: jnp.where(taken, new, old), stats, own[-1])
    return lax.cond(taken, compute, lambda *own: (jnp.zeros_like(like), own[-1]), *own)
