"""The cell of the DARTS search network as pure functions, written so that little is computed or compiled twice.

The parameters of all edges of a cell are stacked, and one compiled edge is scanned over them, source by source: when
the first edge from a node is reached, all edges to it are done. The operations without parameters (the pools)
are computed once per source. Each edge keeps its input only for the gradient and is computed again there
(rematerialisation), which on CPU is faster than writing its inner results to memory and reading them.

Edges that differ in their operations cannot be scanned: a restricted cell is computed edge by edge, as a fixed one is.
It has the parameters and costs of the operations left, and takes longer to compile.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnas.model.architecture import ChoiceSpec, Gated
from jaxnas.model.lookup import look_up
from jaxnas.spaces.darts_edge import POOLS, SKIP, Edge
from jaxnas.spaces.genotypes import CHOICES, EDGES, NODES, OPERATIONS, edge_key, node_key

ORDER = tuple(sorted(EDGES))
"""The edges `(source, node)` in the order in which they are computed: by source."""

ENTERING = sum(source < 2 for source, _ in ORDER)
"""How many of them (the first ones) start from the cell's inputs: in a reduction cell these have stride 2."""


class Decisions(NamedTuple):
    """What an architecture says of a cell, in the order of `ORDER`.

    Attributes:
      kind: `"weights"`, `"index"`, `"gated"` or `"fixed"`.
      operations: weights float `[14, 8]`, indices int `[14]`, `Gated` int and float `[14, k]`, or 14 names (None where
        an edge is not taken). In a restricted cell a list of such rows, each of its edge's own operations.
      inputs: the share of each edge that its node takes, float `[14]`; None if fixed.
      kept: in a restricted cell the operations left for each edge, none if no node can take it; else None.
    """

    kind: str
    operations: Any
    inputs: Any
    kept: tuple[tuple[str, ...], ...] | None = None


def read(kind: str, arch: Any) -> Decisions:
    """What an architecture says about a kind of cell.

    If all of it is fixed, only that is built; if all operations are indices, gated or not, only those are computed;
    else everything is, with weights.

    Raises:
      ArchitectureError: if a value is missing or does not fit.
    """
    found = {key: look_up(arch, key, spec) for key, spec in CHOICES.items() if key.startswith(f"{kind}/")}
    edges = [found[edge_key(kind, source, node)] for source, node in ORDER]
    if {way for way, _, _ in found.values()} == {"fixed"}:
        taken = [source in _whole(*found[node_key(kind, node)][1:]) for source, node in ORDER]
        names = [
            spec.labels[value[0]] if take and value else None
            for take, (_, value, spec) in zip(taken, edges, strict=True)
        ]
        return Decisions("fixed", names, None)
    nodes = {node: _inputs(*found[node_key(kind, node)]) for _, node in EDGES}
    inputs = jnp.stack([nodes[node][source] for source, node in ORDER])
    ways = {way for way, _, _ in edges}
    if ways == {"index"}:
        way, operations = "index", [value[0] for _, value, _ in edges]
    elif ways <= {"index", "gated"}:
        count = max(len(value.index) for way, value, _ in edges if way == "gated")
        way, operations = "gated", [_paths(way, value, count) for way, value, _ in edges]
    else:
        way, operations = "weights", [_shares(way, value, spec.n_candidates) for way, value, spec in edges]
    if all(spec.original is None for _, _, spec in found.values()):
        return Decisions(way, jax.tree.map(lambda *rows: jnp.stack(rows), *operations), inputs)
    kept = tuple(
        tuple(map(str, spec.labels)) if source in _whole(range(n.n_candidates), n) else ()
        for (source, node), (_, _, spec) in zip(ORDER, edges, strict=True)
        for n in [found[node_key(kind, node)][2]]
    )
    return Decisions(way, operations, inputs, kept)


def _whole(chosen: Sequence[int], spec: ChoiceSpec) -> list[int]:
    """Indices among the candidates left of a choice, as indices of the complete one."""
    return [(spec.original or range(spec.n_candidates))[i] for i in chosen]


def _shares(way: str, value: Any, n: int) -> jax.Array:
    """A decision of any kind as weights, float32 `[n]`."""
    if way == "fixed":
        return jnp.asarray(np.isin(np.arange(n), value), jnp.float32)
    if way == "index":
        return jnp.zeros(n).at[jnp.asarray(value)].set(1.0)
    if way == "gated":
        return jnp.zeros(n).at[value.index].add(value.gate.astype(jnp.float32))
    return jnp.asarray(value).astype(jnp.float32)


def _inputs(way: str, value: Any, spec: ChoiceSpec) -> jax.Array:
    """The share of each edge that its node takes, float32, including edges left out."""
    shares = _shares(way, value, spec.n_candidates)
    if spec.original is None:
        return shares
    return jnp.zeros(spec.whole.n_candidates).at[np.asarray(spec.original)].set(shares)


def _paths(way: str, value: Any, count: int) -> Gated:
    """An index, or gated paths, as the given number of gated paths: added ones have gate 0 and the first operation."""
    index, gate = value if way == "gated" else (value, jnp.ones(1))
    missing = count - len(index)
    return Gated(jnp.pad(index, (0, missing)), jnp.pad(gate.astype(jnp.float32), (0, missing)))


def users(name: str, decisions: Decisions, *, reduces: bool) -> list[int]:
    """The edges that have parameters or statistics of an operation: all, those that still have it, or fixed to it.

    Skip connections have some if they halve the image.
    """
    edges = range(len(ORDER)) if name != SKIP else range(ENTERING if reduces else 0)
    if decisions.kind == "fixed":
        return [e for e in edges if decisions.operations[e] == name]
    return [e for e in edges if decisions.kept is None or name in decisions.kept[e]]


def rows_of(name: str, decisions: Decisions, *, reduces: bool) -> list[int]:
    """What the rows of an operation's stacks belong to: edges; for the pools of an open cell, sources (edges share)."""
    using = users(name, decisions, reduces=reduces)
    if name not in POOLS or decisions.kind == "fixed":
        return using
    return sorted({ORDER[e][0] for e in using})


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
    """A cell with weights, indices or gated indices.

    Args:
      inputs: nodes 0 and 1, `[B, H, W, C]` each.
      decisions: not fixed.
      params: `{operation: {name: [rows, …]}}`, see `darts_edge.shapes`; rows are those of `rows_of`.
      stats: `{operation: {"mean", "var"}}`, float32 `[rows, layers, C]`.
      reduces: whether edges from the inputs have stride 2.
      train: normalise by the batch, and move the statistics.
      remat: compute edges again in the backward pass instead of keeping their inner results.

    Returns:
      The inner nodes' outputs, concatenated, and the statistics.
    """
    if decisions.kept is not None:
        return _edge_by_edge(inputs, decisions, params, stats, reduces=reduces, train=train, remat=remat)
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
    """As `mixed_or_sampled`, for a fixed cell: only the chosen operations exist. Rows are those of `users`."""
    empty, moved = inputs[0][:, ::2, ::2] if reduces else inputs[0], stats
    nodes = [*inputs, *[jnp.zeros_like(empty)] * NODES]
    for e, (source, node) in enumerate(ORDER):
        name = decisions.operations[e]
        if name is None:
            continue
        using = users(name, decisions, reduces=reduces)
        row = using.index(e) if e in using else 0
        own = jax.tree.map(lambda leaf, row=row: leaf[row], (params.get(name, {}), stats.get(name, {})))
        y, new = Edge(2 if reduces and source < 2 else 1, train).one(name, nodes[source], *own)
        if new:
            moved = {**moved, name: jax.tree.map(lambda old, n, row=row: old.at[row].set(n), moved[name], new)}
        nodes[node] = nodes[node] + y
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
) -> tuple[jax.Array, Any]:
    """As `mixed_or_sampled`, for a restricted cell."""
    kept: Any = decisions.kept
    empty = inputs[0][:, ::2, ::2] if reduces else inputs[0]
    nodes = [*inputs, *[jnp.zeros_like(empty)] * NODES]
    rows = {name: rows_of(name, decisions, reduces=reduces) for name in OPERATIONS}
    changes: dict[str, list[tuple[int, Any, Any]]] = {name: [] for name in stats}
    for e, (source, node) in enumerate(ORDER):
        if not kept[e]:
            continue
        owners = {name: source if name in POOLS else e for name in kept[e]}
        at = {name: rows[name].index(owner) for name, owner in owners.items() if owner in rows[name]}
        own = [
            {name: jax.tree.map(lambda leaf, at=at[name]: leaf[at], stacks[name]) for name in at if name in stacks}
            for stacks in (params, stats)
        ]
        edge = Edge(2 if reduces and source < 2 else 1, train, kept[e])
        compute = edge.ways[decisions.kind]
        compute = jax.checkpoint(compute) if remat else compute
        share, operation = decisions.inputs[e], decisions.operations[e]
        y, moved = _if_taken(share != 0, compute, empty, nodes[source], share, operation, *own)
        nodes[node] = nodes[node] + y
        for name, new in moved.items():
            changes[name].append((at[name], new, (share != 0) & edge.computes(name, decisions.kind, operation)))
    for name, found in changes.items():
        new = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[new for _, new, _ in found])
        ran = jnp.stack([ran for _, _, ran in found])
        stats = {**stats, name: _mean_change(stats[name], new, np.asarray([row for row, _, _ in found]), ran)}
    return jnp.concatenate(nodes[2:], axis=-1), stats


def _per_source(decisions: Decisions, before: Any, after: Any) -> Any:
    """The pools' statistics of each source, scanned edge by edge."""
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
    """Statistics `[rows, …]`, moved by the mean over the edges that updated them.

    Args:
      before: `[rows, …]`.
      after: `[edges, …]`, for each edge its row as the edge left it, updated or not.
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

    def __call__(
        self, edges: np.ndarray, nodes: jax.Array, stride: int, inputs: jax.Array | None = None
    ) -> tuple[jax.Array, Any]:
        """Adds edges to the nodes `[n, B, H, W, C]` (the last of which are the inner ones), reading from the inputs."""
        source, node = np.asarray(ORDER)[edges].T
        offset = 2 + NODES - len(nodes)
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
            stats = dict(row["stats"])
            if self.decisions.kind == "weights":
                kept = {name: stats.pop(name) for name in POOLS}
                pooled, kept = lax.cond(row["first"], pool, lambda x, pooled, kept: (pooled, kept), x, pooled, kept)
            mixed = (pooled,) if self.decisions.kind == "weights" else ()
            own = (x, *mixed, row["input"], row["operation"], row["params"], stats)
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
    in one thread. On accelerators it would make the host wait; so there an edge that is not taken has a share of zero.
    """
    if jax.default_backend() != "cpu":
        y, stats = compute(*own)
        return y, jax.tree.map(lambda new, old: jnp.where(taken, new, old), stats, own[-1])
    return lax.cond(taken, compute, lambda *own: (jnp.zeros_like(like), own[-1]), *own)
