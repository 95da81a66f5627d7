"""The cells of a model as the model describes them, for pictures as in papers."""

from __future__ import annotations

import graphlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from flax import linen as nn

from jaxnas.errors import ArchitectureError
from jaxnas.model.architecture import INPUT, LAYER, ChoiceSpec
from jaxnas.model.space import Space


class CellEdge(NamedTuple):
    """A connection in a `Cell`. With neither `choice` nor `switch` it always exists.

    Attributes:
      source, target: names of nodes.
      choice: key of the LayerChoice that decides its operation, if one does.
      switch: `(key of an InputChoice, index of a candidate)`, if it exists only as far as that candidate is taken.
      loose: it exists as far as no `switch` takes its source: the loose ends that form a cell's output.
    """

    source: str
    target: str
    choice: str | None = None
    switch: tuple[str, int] | None = None
    loose: bool = False


class Cell(NamedTuple):
    """A description of a repeated part of a model, for pictures as in papers.

    A model gives it in an optional method, `describe_cells(self) -> Sequence[Cell]`, which uses its fields only.

    Attributes:
      name: `"normal"`, for instance.
      nodes: names, each once, inputs first.
      edges: acyclic.
    """

    name: str
    nodes: Sequence[str]
    edges: Sequence[CellEdge]


def cells_of(model: nn.Module, space: Space) -> list[dict[str, Any]]:
    """The cells that a model describes, as plain JSON; none if it describes none.

    Args:
      model: the complete model.
      space: its choices, or what a restriction has left of them.

    Raises:
      ArchitectureError: if the description does not fit the choices.
    """
    if not hasattr(model, "describe_cells"):
        return []
    cells = list(model.describe_cells())
    for cell in cells:
        _check_cell(cell, space, f"describe_cells of {type(model).__name__}")
    return [
        {
            "name": cell.name,
            "nodes": list(cell.nodes),
            "edges": [{**e._asdict(), "switch": e.switch and list(e.switch)} for e in _edges_left(cell, space)],
        }
        for cell in cells
    ]


def _edges_left(cell: Cell, space: Space) -> list[CellEdge]:
    """The edges of a cell of the complete model that the restricted one has; switches count the candidates left."""
    left = []
    for edge in cell.edges:
        at = None if edge.switch is None else position_left(space[edge.switch[0]], edge.switch[1])
        if edge.switch is None:
            left.append(edge)
        elif at is not None:
            left.append(edge._replace(switch=(edge.switch[0], at)))
    return left


def _check_cell(cell: Cell, space: Space, where: str) -> None:
    if not isinstance(cell, Cell) or not all(isinstance(edge, CellEdge) for edge in cell.edges):
        raise ArchitectureError(f"{where}: gives {cell!r}; expected a jaxnas.graph.Cell with edges of type CellEdge.")
    where = f"{where}, cell {cell.name!r}"
    if len(set(cell.nodes)) != len(cell.nodes):
        raise ArchitectureError(f"{where}: two nodes have one name: {list(cell.nodes)}.")
    before: dict[str, set[str]] = {node: set() for node in cell.nodes}
    for edge in cell.edges:
        at = f"{where}, edge {edge.source!r} -> {edge.target!r}"
        unknown = [node for node in (edge.source, edge.target) if node not in before]
        if unknown:
            raise ArchitectureError(f"{at}: there is no node {unknown[0]!r}; nodes are {list(cell.nodes)}.")
        before[edge.target].add(edge.source)
        if edge.choice is not None and (edge.choice not in space or space[edge.choice].kind != LAYER):
            raise ArchitectureError(f"{at}: {edge.choice!r} is no LayerChoice of the model.")
        if edge.switch is not None:
            key, candidate = edge.switch
            if key not in space or space[key].kind != INPUT or not 0 <= candidate < space[key].whole.n_candidates:
                raise ArchitectureError(f"{at}: {edge.switch!r} is no candidate of an InputChoice of the model.")
    try:
        graphlib.TopologicalSorter(before).prepare()
    except graphlib.CycleError as e:
        raise ArchitectureError(f"{where}: the nodes {e.args[1]} form a cycle.") from None


def position_left(spec: ChoiceSpec, candidate: int) -> int | None:
    """The index of a complete choice's candidate among those left; None if it is left out."""
    if spec.original is None:
        return candidate
    return spec.original.index(candidate) if candidate in spec.original else None
