"""Where the parts of a graph and of a cell are drawn: coordinates in pixels, no HTML here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from jaxnas.model.space import Space

WIDTH = 156.0  # of a choice in the graph
ROW = 17.0  # of a candidate, where each has a row
HEAD, FOOT = 25.0, 7.0
MOST_ROWS = 6  # choices of more candidates are drawn as columns
COLUMNS = 54.0  # height of these
GAP_X, GAP_Y = 26.0, 38.0
MARGIN = 16.0

PITCH, RADIUS = 130.0, 22.0  # of a cell: between its nodes, of a node
LOWEST, STEP = 30.0, 34.0  # height of the shortest arc, and what each node that is passed adds
PLAIN_STEP = 18.0  # the same for arcs without a label


def draw_graph(graph: Mapping[str, Any], space: Space) -> dict[str, Any]:
    """Places the choices of `config["graph"]`, inputs above, outputs below.

    Returns:
      `width`, `height`; `nodes` with `choice` (its position in the space, or None for input and output), the centre
      `x`, `y`, `width`, `height`; `edges` with `target` (a position in the space, or None), `candidates` and `path`
      (points from the source's lower side to the target's upper side).
    """
    from jaxnas.report.layout import layout

    nodes, edges = graph["nodes"], graph["edges"]
    index = {key: i for i, key in enumerate(space)}
    sizes = {node["key"]: _size(node["key"], space) for node in nodes}
    placed = layout([node["key"] for node in nodes], [(edge["source"], edge["target"]) for edge in edges])
    levels = _levels(placed.positions, sizes)

    def point(x: float, y: float) -> list[float]:
        return [MARGIN + WIDTH / 2 + x * (WIDTH + GAP_X), _interpolate(levels, y)]

    found = []
    for node in nodes:
        x, y = point(*placed.positions[node["key"]])
        width, height = sizes[node["key"]]
        found.append({**node, "choice": index.get(node["key"]), "x": x, "y": y, "width": width, "height": height})
    routed = []
    for edge, path in zip(edges, placed.paths, strict=True):
        points = [point(*p) for p in path]
        points[0][1] += sizes[edge["source"]][1] / 2
        points[-1][1] -= sizes[edge["target"]][1] / 2
        routed.append({"target": index.get(edge["target"]), "candidates": edge["candidates"], "path": points})
    xs = [p[0] for edge in routed for p in edge["path"]] + [node["x"] for node in found]
    left, right = min(xs) - WIDTH / 2 - MARGIN, max(xs) + WIDTH / 2 + MARGIN
    bottom = max((node["y"] + node["height"] / 2 for node in found), default=0.0) + MARGIN
    return {"left": left, "width": right - left, "height": bottom, "nodes": found, "edges": routed}


def draw_cell(cell: Mapping[str, Any], space: Space) -> dict[str, Any]:
    """Places a cell of `config["graph"]["cells"]`: its nodes in a row, its edges as arcs above and below.

    The longer an arc the higher it is, so that labels (in the middle of an arc) do not cover each other. Edges that
    carry no choice run below, without a label; so does every second edge of the same two nodes.
    """
    names = list(cell["nodes"])
    index = {key: i for i, key in enumerate(space)}
    at = {name: i for i, name in enumerate(names)}
    spans = [(at[edge["source"]], at[edge["target"]]) for edge in cell["edges"]]
    decided = [bool(edge.get("choice") or edge.get("switch")) for edge in cell["edges"]]
    seen: dict[tuple[int, int, bool], int] = {}
    arcs = []
    for (start, end), free in zip(spans, decided, strict=True):
        count = seen.get((start, end, free), 0)
        seen[start, end, free] = count + 1
        passed = abs(end - start) - 1 + count // 2
        height = LOWEST + passed * (STEP if free else PLAIN_STEP)
        arcs.append(((start, end), -1 if free and count % 2 == 0 else 1, height))
    above = max((height for _, side, height in arcs if side < 0), default=0.0) + 24
    below = max((height for _, side, height in arcs if side > 0), default=RADIUS) + 24
    middle = above

    def x(i: int) -> float:
        return RADIUS + MARGIN + i * PITCH

    switches = [[index[edge["switch"][0]], edge["switch"][1]] if edge.get("switch") else None for edge in cell["edges"]]
    edges = []
    for edge, switch, ((start, end), side, height) in zip(cell["edges"], switches, arcs, strict=True):
        takers = [s for e, s in zip(cell["edges"], switches, strict=True) if s and e["source"] == edge["source"]]
        edges.append(
            {
                "choice": index[edge["choice"]] if edge.get("choice") else None,
                "switch": switch,
                "loose": takers if edge.get("loose") else None,
                "path": _arc(x(start), x(end), middle, side * height),
                "label": [(x(start) + x(end)) / 2, middle + side * height + (17 if side > 0 else -8)],
            }
        )
    return {
        "name": cell["name"],
        "width": 2 * x(0) + (len(names) - 1) * PITCH,
        "height": above + below,
        "nodes": [{"name": name, "x": x(i), "y": middle, "radius": RADIUS} for i, name in enumerate(names)],
        "edges": edges,
    }


def _arc(start: float, end: float, y: float, height: float) -> list[list[float]]:
    """Four points of a cubic curve whose middle is `height` from the line, between the rims of two nodes."""
    lean = min(abs(height) / 60, 1.0)  # a flat one leaves at the side, a high one towards the top
    sign = (height > 0) - (height < 0)
    inset, rise = RADIUS * (1 - 0.6 * lean), sign * RADIUS * 0.92 * lean
    pull = (height - rise / 4) / 0.75
    a, b = start + inset, end - inset
    reach = (b - a) * 0.16
    return [[a, y + rise], [a + reach, y + pull], [b - reach, y + pull], [b, y + rise]]


def _size(key: str, space: Space) -> tuple[float, float]:
    if key not in space:
        return 84.0, 28.0
    n = space[key].n_candidates
    return WIDTH, HEAD + FOOT + (n * ROW if n <= MOST_ROWS else COLUMNS)


def _levels(positions: Mapping[str, tuple[float, float]], sizes: Mapping[str, tuple[float, float]]) -> list[tuple]:
    """Pairs (y of the layout, y in pixels) of the rows, each as high as its highest node."""
    heights: dict[float, float] = {}
    for key, (_, y) in positions.items():
        heights[y] = max(heights.get(y, 0.0), sizes[key][1])
    levels, top = [], MARGIN
    for y in sorted(heights):
        levels.append((y, top + heights[y] / 2))
        top += heights[y] + GAP_Y
    return levels


def _interpolate(levels: Sequence[tuple[float, float]], y: float) -> float:
    for (before, above), (after, below) in pairwise(levels):
        if before <= y <= after:
            return above + (below - above) * (y - before) / (after - before)
    return levels[0][1] if y <= levels[0][0] else levels[-1][1]
