"""The choices of the DARTS space, and its architectures as the `Genotype` texts of the authors' code.

Liu, Simonyan, Yang 2019, arXiv 1806.09055; github.com/quark0/darts, cnn/genotypes.py.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxnas.errors import ArchitectureError
from jaxnas.model.architecture import INPUT, LAYER, NONE, Arch, ChoiceSpec, is_mixture, strongest
from jaxnas.model.graph import Cell, CellEdge
from jaxnas.model.space import Space
from jaxnas.spaces.genotype_text import parts_of

OPERATIONS = (
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)
"""The candidates of every edge, in order."""

KINDS = ("normal", "reduce")
"""The kinds of cell. Cells of one kind share their decisions."""

NODES = 4
"""Inner nodes of a cell."""

EDGES = tuple((source, node) for node in range(2, 2 + NODES) for source in range(node))
"""The edges of a cell, `(source, node)`. Nodes 0 and 1 are the cell's inputs, 2 to 5 the inner ones."""


def edge_key(kind: str, source: int, node: int) -> str:
    """The key of an edge's LayerChoice."""
    return f"{kind}/{node}<-{source}"


def node_key(kind: str, node: int) -> str:
    """The key of an inner node's InputChoice, two of the edges that lead to it."""
    return f"{kind}/{node}"


def edges_of(kind: str, node: int) -> tuple[str, ...]:
    """The keys of the edges that lead to a node, in order of their sources."""
    return tuple(edge_key(kind, source, node) for source in range(node))


def reductions(cells: int) -> set[int]:
    """Which of that many cells are reductions: those at one and two thirds of the depth."""
    return {cells // 3, 2 * cells // 3}


_INNER = range(2, 2 + NODES)


def _choices() -> Iterator[tuple[str, ChoiceSpec]]:
    for kind in KINDS:
        for node in _INNER:
            edges = edges_of(kind, node)
            yield from ((edge, ChoiceSpec(LAYER, len(OPERATIONS), OPERATIONS)) for edge in edges)
            yield node_key(kind, node), ChoiceSpec(INPUT, node, edges, 2, ranked=True)


CHOICES = Space(dict(_choices()))
"""All choices of the space: 14 edges and 4 nodes of each kind of cell."""


def choices_of(cells: int) -> Space:
    """The choices of a network of so many cells; a small one may lack a kind of cell."""
    kinds = {"reduce" if i in reductions(cells) else "normal" for i in range(cells)}
    return Space({key: spec for key, spec in CHOICES.items() if key.split("/")[0] in kinds})


def describe_cells(cells: int, nodes: int = NODES) -> list[Cell]:
    """The kinds of cell in a network of that many cells, as pictures show them, with the authors' names of their nodes.

    See `jaxnas.graph.Cell`. A network of one or two cells has reductions only.
    """
    names = ["c_{k-2}", "c_{k-1}", *map(str, range(nodes))]
    drawn = []
    for kind in KINDS if cells > len(reductions(cells)) else KINDS[1:]:
        edges = [
            CellEdge(names[j], names[i], choice=edge_key(kind, j, i), switch=(node_key(kind, i), j))
            for i in range(2, 2 + nodes)
            for j in range(i)
        ]
        edges += [CellEdge(name, "c_k") for name in names[2:]]
        drawn.append(Cell(kind, [*names, "c_k"], edges))
    return drawn


class Genotype(NamedTuple):
    """An architecture of the DARTS space as the authors write it. `str` gives their text, `parse` reads it.

    Attributes:
      normal, reduce: `(operation, source)` of the eight edges of a cell: two for each inner node, in order of the
        nodes.
      normal_concat, reduce_concat: the nodes whose outputs are the cell's output: all inner ones.
    """

    normal: Sequence[tuple[str, int]]
    normal_concat: Sequence[int]
    reduce: Sequence[tuple[str, int]]
    reduce_concat: Sequence[int]

    @classmethod
    def parse(cls, text: str) -> Genotype:
        """Reads `Genotype(normal=[('sep_conv_3x3', 0), …], normal_concat=range(2, 6), …)`. Nothing is executed.

        A name can precede it (`DARTS_V2 = Genotype(…)`), or an annotation or a module, and a line of a log can surround
        it; lines can break anywhere. The nodes can be a list, edges can be nested per node, and numbers and strings can
        be as NumPy prints them.

        Raises:
          ArchitectureError: if it is not such a text, or not an architecture of this space; says what and where.
        """
        return _checked(cls(**parts_of(text, cls._fields)))

    @classmethod
    def from_nasbench301(cls, config: Mapping[str, Any]) -> Genotype:
        """The architecture that a configuration of NAS-Bench-301 (arXiv 2008.09777) encodes.

        Args:
          config: the content of its JSON file, of which the entries `…darts:edge_normal_0` to `…edge_reduce_13`,
            operations of the edges in order of their nodes, and `…darts:inputs_node_normal_3` to `…_5` (`"0_2"`) are
            read. Node 2 has both inputs of its cell.

        Raises:
          ArchitectureError: if a needed entry is missing, or they are not an architecture of this space.
        """
        if not isinstance(config, Mapping):
            raise ArchitectureError(f"a configuration is a dict {{name: value}}; got {type(config).__name__}.")

        def entry(name: str) -> Any:
            key = f"NetworkSelectorDatasetInfo:darts:{name}"
            if key not in config:
                raise ArchitectureError(f"the configuration has no {key!r}: it is none of NAS-Bench-301, or cut off.")
            return config[key]

        cells: list[list[tuple[str, int]]] = []
        for kind in KINDS:
            cells.append([])
            for node in _INNER:
                inputs = "0_1" if node == 2 else entry(f"inputs_node_{kind}_{node}")
                for source in str(inputs).split("_"):
                    if not source.isdecimal() or int(source) >= node:
                        raise ArchitectureError(
                            f"inputs_node_{kind}_{node}: got {_short(inputs)}; expected as in '0_1'."
                        )
                    cells[-1].append((entry(f"edge_{kind}_{EDGES.index((int(source), node))}"), int(source)))
        return _checked(cls(cells[0], _INNER, cells[1], _INNER))

    def __str__(self) -> str:
        return f"Genotype({', '.join(f'{name}={_plain(value)!r}' for name, value in self._asdict().items())})"


def genotype_of(arch: Arch) -> Genotype:
    """The genotype of an architecture of this space.

    Args:
      arch: decisions (fixed, or as `Space.sample` gives them), each node's edges then come in order of their sources;
        or weights. From weights each node keeps the two edges whose strongest operation (without `none`) is strongest,
        the stronger edge first, as in the authors' code (section 2.4 of the paper); the weights of the InputChoices,
        which rank nothing, are ignored.

    Raises:
      ArchitectureError: if it is not an architecture of this space, or an edge that is taken has the operation `none`.
    """
    if _has_weights(arch):
        return _strongest(arch)
    fixed: dict[str, Any] = CHOICES.fixed(arch)
    cells: list[list[tuple[str, int]]] = []
    for kind in KINDS:
        cells.append([])
        for node in _INNER:
            for edge in fixed[node_key(kind, node)]:
                if not fixed[edge] or fixed[edge] == NONE:
                    raise ArchitectureError(
                        f"choice {edge!r}: it is taken and has the operation {fixed[edge] or None!r}; in a genotype it "
                        f"has one of {list(OPERATIONS[1:])}."
                    )
                cells[-1].append((fixed[edge], edges_of(kind, node).index(edge)))
    return _checked(Genotype(cells[0], _INNER, cells[1], _INNER))


def arch_of(genotype: Genotype) -> dict[str, str | tuple]:
    """The fixed architecture of a genotype; edges that no node takes are fixed to nothing.

    Raises:
      ArchitectureError: if it is not a genotype of this space.
    """
    genotype = _checked(genotype)
    arch: dict[str, Any] = dict.fromkeys(CHOICES, ())
    for kind, edges in zip(KINDS, (genotype.normal, genotype.reduce), strict=True):
        for place, (operation, source) in enumerate(edges):
            node = 2 + place // 2
            arch[edge_key(kind, source, node)] = operation
            arch[node_key(kind, node)] += (edge_key(kind, source, node),)
    return CHOICES.fixed(arch)  # type: ignore[return-value]


def _has_weights(arch: Any) -> bool:
    layers = [key for key, spec in CHOICES.items() if spec.kind == LAYER and isinstance(arch, Mapping) and key in arch]
    return bool(layers) and is_mixture({key: arch[key] for key in layers})


def _strongest(arch: Arch) -> Genotype:
    unranked = {key: np.ones(spec.n_candidates, np.float32) for key, spec in CHOICES.items() if spec.kind == INPUT}
    CHOICES.validate({**unranked, **arch})
    cells: list[list[tuple[str, int]]] = []
    for kind in KINDS:
        cells.append([])
        for node in _INNER:
            edges = {edge: np.asarray(arch[edge]) for edge in edges_of(kind, node)}
            if not all(np.all(np.isfinite(weights[1:])) for weights in edges.values()):
                raise ArchitectureError(f"node {node_key(kind, node)!r}: the weights of its edges are not finite.")
            strongest_of = [strongest(CHOICES[edge], weights) for edge, weights in edges.items()]
            best = np.argsort([-strength for _, strength in strongest_of], kind="stable")[:2]
            cells[-1] += [(OPERATIONS[strongest_of[source][0]], int(source)) for source in best]
    return Genotype(cells[0], _INNER, cells[1], _INNER)


def _checked(genotype: Genotype) -> Genotype:
    """The genotype, in its one canonical form. Raises ArchitectureError unless it is of this space."""
    if not isinstance(genotype, Genotype):
        raise ArchitectureError(f"expected a Genotype; got {type(genotype).__name__}.")
    for name, nodes in (("normal_concat", genotype.normal_concat), ("reduce_concat", genotype.reduce_concat)):
        nodes = _plain(nodes)
        if nodes != _INNER and nodes not in (list(_INNER), tuple(_INNER)):
            raise ArchitectureError(
                f"{name}: got {_short(nodes)}; expected {_INNER}: the output of a cell of this space is that of all "
                "its inner nodes."
            )
    return Genotype(_edges("normal", genotype.normal), _INNER, _edges("reduce", genotype.reduce), _INNER)


def _plain(value: Any) -> Any:
    """A value with Python's numbers and strings in place of NumPy's."""
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    return type(value)(map(_plain, value)) if type(value) in (list, tuple) else value


def _flat(kind: str, edges: Any) -> Any:
    """Edges nested per node as one list; others unchanged."""
    nested = isinstance(edges, (list, tuple)) and edges and all(isinstance(node, (list, tuple)) for node in edges)
    if not nested or not all(node and all(isinstance(edge, (list, tuple)) for edge in node) for node in edges):
        return edges
    if len(edges) != NODES:
        raise ArchitectureError(f"{kind}: got edges nested for {len(edges)} nodes; expected {NODES} nodes.")
    for node, pair in enumerate(edges, 2):
        if len(pair) != 2:
            raise ArchitectureError(f"{kind}: node {node} has {len(pair)} edges; expected 2.")
    return [edge for pair in edges for edge in pair]


def _edges(kind: str, edges: Any) -> list[tuple[str, int]]:
    edges = _flat(kind, _plain(edges))
    if not isinstance(edges, (list, tuple)):
        raise ArchitectureError(f"{kind}: got {_short(edges)}; expected a list of (operation, source).")
    if len(edges) != 2 * NODES:
        raise ArchitectureError(
            f"{kind}: got {len(edges)} edges; expected {2 * NODES}, two for each of the nodes 2 to {1 + NODES}."
        )
    checked = [_edge(f"{kind}, edge {place} (into node {2 + place // 2})", edge) for place, edge in enumerate(edges)]
    for place, (_, source) in enumerate(checked):
        node = 2 + place // 2
        if not 0 <= source < node:
            raise ArchitectureError(
                f"{kind}, edge {place}: node {node} cannot take node {_short(source)}; it takes 0 to {node - 1}."
            )
        if place % 2 and source == checked[place - 1][1]:
            raise ArchitectureError(
                f"{kind}: both edges into node {node} come from node {source}; expected two sources."
            )
    return checked


def _edge(where: str, edge: Any) -> tuple[str, int]:
    if not isinstance(edge, (list, tuple)) or len(edge) != 2:
        raise ArchitectureError(f"{where}: got {_short(edge)}; expected (operation, source).")
    operation, source = edge
    if isinstance(source, bool) or not isinstance(source, (int, np.integer)):
        raise ArchitectureError(f"{where}: the source is {_short(source)}; expected the number of a node.")
    if operation not in OPERATIONS[1:]:
        close = difflib.get_close_matches(_short(operation).strip("'"), OPERATIONS[1:], n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise ArchitectureError(
            f"{where}: the operation is {_short(operation)}{hint}; expected one of {list(OPERATIONS[1:])}."
        )
    return operation, int(source)


def _short(value: Any) -> str:
    try:
        return repr(value)[:80]
    except ValueError:  # a number with thousands of digits
        return "a number too long to print"


DARTS_V1 = Genotype.parse(
    """
    Genotype(normal=[('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('skip_connect', 0), ('sep_conv_3x3', 1),
                     ('skip_connect', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('skip_connect', 2)],
             normal_concat=[2, 3, 4, 5],
             reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 0),
                     ('max_pool_3x3', 0), ('skip_connect', 2), ('skip_connect', 2), ('avg_pool_3x3', 0)],
             reduce_concat=[2, 3, 4, 5])
    """
)
"""The authors' result of the first-order method: 3.00 ± 0.14 % test error on CIFAR-10."""

DARTS_V2 = Genotype.parse(
    """
    Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('sep_conv_3x3', 1),
                     ('sep_conv_3x3', 1), ('skip_connect', 0), ('skip_connect', 0), ('dil_conv_3x3', 2)],
             normal_concat=[2, 3, 4, 5],
             reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 1),
                     ('max_pool_3x3', 0), ('skip_connect', 2), ('skip_connect', 2), ('max_pool_3x3', 1)],
             reduce_concat=[2, 3, 4, 5])
    """
)
"""The authors' result of the second-order method: 2.76 ± 0.09 % test error on CIFAR-10."""
