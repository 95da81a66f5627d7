"""Where the nodes and edges of a graph are drawn: in layers, with few crossings (Sugiyama's method)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, cast

from jaxnas.errors import RunError
from jaxnas.extras import how_to_install

Point = tuple[float, float]

_GAP = 1.5  # between components, in units


class Layout(NamedTuple):
    """A drawing. x grows to the right and y downwards, from (0, 0) to (width, height).

    A unit is the distance between two layers, and the least between two nodes of one.

    Attributes:
      positions: of the nodes.
      paths: per edge the points of a line from its source to its target, one in every layer that it crosses.
      width, height: of all positions and paths.
    """

    positions: dict[str, Point]
    paths: list[list[Point]]
    width: float
    height: float


def layout(nodes: Sequence[str], edges: Sequence[tuple[str, str]], *, sources_on_top: bool = False) -> Layout:
    """Places a graph. The same arguments always give the same drawing.

    Args:
      nodes: names, each once. Parts that are not connected stand side by side, in the order of their first nodes.
      edges: `(source, target)`, acyclic; every target is placed below its source. Equal ones have equal paths.
      sources_on_top: every node stands as high as its edges let it, those that no edge leads to in the top layer; else
        nodes stand where edges are shortest.

    Raises:
      ValueError: for an edge of an unknown node, or to its own source.
      RunError: if fast-sugiyama is not installed.
    """
    try:
        from fast_sugiyama import from_edges
    except ModuleNotFoundError:
        raise RunError(f"drawing graphs needs fast-sugiyama: {how_to_install('report')}.") from None
    for edge in edges:
        if not set(edge) <= set(nodes) or edge[0] == edge[1]:
            raise ValueError(f"{edge} is no edge between two of the nodes {list(nodes)}.")
    ends = {node for edge in edges for node in edge}
    linked = [node for node in nodes if node in ends]
    number = {node: i for i, node in enumerate(linked)}  # the library counts the layers that edges cross from here on
    links = sorted({(number[source], number[target]) for source, target in edges})
    ranking: Any = "up" if sources_on_top else "minimize"
    placed = from_edges(links, vertex_spacing=1, dummy_size=0.4, ranking_type=ranking) if links else []
    # A part: its points, by the name of a node or a number, and the routes of its edges.
    parts: list[tuple[dict[str | int, Point], list[list[int]]]] = [
        (
            {linked[i] if i < len(linked) else i: point for i, point in cast(Any, positions)},
            _routes(cast(Any, steps), len(linked)),
        )
        for positions, _, _, steps in placed
    ]
    parts += [({node: (0.0, 0.0)}, []) for node in nodes if node not in number]
    order = {node: i for i, node in enumerate(nodes)}
    parts.sort(key=lambda part: min(order[node] for node in part[0] if isinstance(node, str)))

    positions: dict[str, Point] = {}
    routes: dict[tuple[int, int], list[Point]] = {}
    left = 0.0
    for points, routed in parts:
        start, top = min(x for x, _ in points.values()), max(y for _, y in points.values())
        moved = {i: (round(left + x - start, 4), round(top - y, 4)) for i, (x, y) in points.items()}  # y grew upwards
        left = max(x for x, _ in moved.values()) + _GAP
        positions |= {node: point for node, point in moved.items() if isinstance(node, str)}
        for route in routed:
            routes[route[0], route[-1]] = [moved[linked[i] if i < len(linked) else i] for i in route]
    paths = [routes[number[source], number[target]] for source, target in edges]
    everything = [*positions.values(), *(point for path in paths for point in path)]
    return Layout(
        positions={node: positions[node] for node in nodes},
        paths=paths,
        width=max((x for x, _ in everything), default=0.0),
        height=max((y for _, y in everything), default=0.0),
    )


def _routes(links: Iterable[tuple[int, int]], n_nodes: int) -> list[list[int]]:
    """The edges of a part, through the numbers from `n_nodes` on, which stand for layers that are only crossed."""
    links = list(links)
    following = {source: target for source, target in links if source >= n_nodes}
    routes = []
    for source, target in links:
        if source < n_nodes:
            route = [source, target]
            while route[-1] >= n_nodes:
                route.append(following[route[-1]])
            routes.append(route)
    return routes
