"""What an architecture says of a cell of the DARTS search network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.model.architecture import ChoiceSpec, Gated
from jaxnas.model.lookup import look_up
from jaxnas.spaces.darts_edge import POOLS, SKIP
from jaxnas.spaces.genotypes import CHOICES, EDGES, edge_key, node_key

ORDER = tuple(sorted(EDGES))
"""The edges `(source, node)` in the order in which they are computed: by source."""

ENTERING = sum(source < 2 for source, _ in ORDER)
"""How many of them, the first, start from the cell's inputs: those a reduction cell has of stride 2."""


class Decisions(NamedTuple):
    """What an architecture says of a cell, in the order of `ORDER`.

    Attributes:
      kind: `"weights"`, `"index"`, `"gated"` or `"fixed"`.
      operations: weights float `[14, 8]`, indices int `[14]`, `Gated` int and float `[14, k]`, or 14 names (None where
        an edge is not taken). In a restricted cell a list of such rows, each of its edge's own operations.
      inputs: what a node takes of each edge, float `[14]`; None if fixed.
      kept: of a restricted cell the operations left of each edge, none where no node may take it; else None.
    """

    kind: str
    operations: Any
    inputs: Any
    kept: tuple[tuple[str, ...], ...] | None = None


def read(kind: str, arch: Any) -> Decisions:
    """What an architecture says of a kind of cell.

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
    """Indices of what is left of a choice as those of the whole one."""
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
    """What a node takes of each of its edges, float32, those left out included."""
    shares = _shares(way, value, spec.n_candidates)
    if spec.original is None:
        return shares
    return jnp.zeros(spec.whole.n_candidates).at[np.asarray(spec.original)].set(shares)


def _paths(way: str, value: Any, count: int) -> Gated:
    """An index, or gated paths, as so many gated paths: those added have the gate 0 and the first operation."""
    index, gate = value if way == "gated" else (value, jnp.ones(1))
    missing = count - len(index)
    return Gated(jnp.pad(index, (0, missing)), jnp.pad(gate.astype(jnp.float32), (0, missing)))


def users(name: str, decisions: Decisions, *, reduces: bool) -> list[int]:
    """The edges that have parameters or statistics of an operation: all, those it is left of, or those fixed to it.

    Skip connections have some where they halve the image.
    """
    edges = range(len(ORDER)) if name != SKIP else range(ENTERING if reduces else 0)
    if decisions.kind == "fixed":
        return [e for e in edges if decisions.operations[e] == name]
    return [e for e in edges if decisions.kept is None or name in decisions.kept[e]]


def rows_of(name: str, decisions: Decisions, *, reduces: bool) -> list[int]:
    """What the rows of an operation's stacks belong to: edges; of pools in an open cell, whose edges share, sources."""
    using = users(name, decisions, reduces=reduces)
    if name not in POOLS or decisions.kind == "fixed":
        return using
    return sorted({ORDER[e][0] for e in using})
