"""The architecture that a search found, drawn as papers do: its cells, or the graph of its choices."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path
from matplotlib.textpath import TextPath

from jaxnas.report import figures
from jaxnas.report.figures import BLUE, ONE_COLUMN, PAGE_HEIGHT, TWO_COLUMNS, plain
from jaxnas.report.layout import Layout, Point, layout

Choice = Mapping[str, Any]

_TEXT = 7.0  # points
_ACROSS, _DOWN = 10.0, 18.0  # points between boxes
_MOST_SHRUNK = 0.6  # of the text; what is larger then makes the picture larger


class _Box(NamedTuple):
    """A node. `strength` in 0..1 colours it; None is a plain one."""

    text: str
    strength: float | None = None


class _Arrow(NamedTuple):
    source: str
    target: str
    strength: float = 1.0


class _Drawing(NamedTuple):
    """What is to be drawn, sizes in points."""

    title: str
    boxes: dict[str, _Box]
    arrows: list[_Arrow]
    placed: Layout
    unit: Point  # of the layout
    sizes: dict[str, Point]

    @property
    def width(self) -> float:
        return self.placed.width * self.unit[0] + max(w for w, _ in self.sizes.values()) + 4

    @property
    def height(self) -> float:
        return self.placed.height * self.unit[1] + max(h for _, h in self.sizes.values()) + 4


def architecture(graph: Mapping[str, Any] | None, choices: Sequence[Choice]) -> Figure:
    """The architecture of the last epoch; numbers are the probabilities of what was chosen.

    Cells if the model describes them; the graph of the choices if it does not, or has choices outside of cells; a list
    of the choices if there is no graph. Only what the architecture takes is drawn.

    Args:
      graph: of `config.json`, or None.
      choices: of `jaxnas.report.payload`.
    """
    with figures.style():
        return _figure(list(_drawings(graph, {choice["key"]: choice for choice in choices})))


# ---------------------------------------------------------------------- what is drawn


def _drawings(graph: Mapping[str, Any] | None, known: Mapping[str, Choice]) -> Iterator[_Drawing]:
    if not graph:
        yield _drawing("", {key: _choice_box(choice) for key, choice in known.items()}, [], per_row=4)
        return
    cells = list(graph.get("cells") or ())
    for cell in cells:
        yield _cell(cell, known)
    if {key for cell in cells for edge in cell["edges"] for key in _decides(edge)} < set(known):
        yield _graph(graph, known)


def _decides(edge: Mapping[str, Any]) -> list[str]:
    return [key for key in (edge["choice"], edge["switch"] and edge["switch"][0]) if key]


def _chosen(choice: Choice) -> list[tuple[str, float, int]]:
    """The decisions of a choice: label, probability, index."""
    weights = choice["probabilities"][-1]
    return [(choice["labels"][i], _share(weights[i]), i) for i in choice["chosen"][-1]]


def _share(weight: float | None) -> float:
    return min(max(weight, 0.0), 1.0) if weight is not None else float("nan")


def _cell(cell: Mapping[str, Any], known: Mapping[str, Choice]) -> _Drawing:
    """A cell: its nodes, and a box on every edge whose operation is decided."""
    boxes = {f"node {name}": _Box(plain(name, 30)) for name in cell["nodes"]}
    arrows = []
    taken = {
        edge["source"]
        for edge in cell["edges"]
        if edge["switch"] and _is_taken(known[edge["switch"][0]], edge["switch"][1])
    }
    for number, edge in enumerate(cell["edges"]):
        source, target, strength = f"node {edge['source']}", f"node {edge['target']}", 1.0
        if edge["switch"]:
            key, candidate = edge["switch"]
            if not _is_taken(known[key], candidate):
                continue
            strength = _share(known[key]["probabilities"][-1][candidate])
        if edge.get("loose") and edge["source"] in taken:
            continue
        if edge["choice"] is None:
            arrows.append(_Arrow(source, target, strength))
            continue
        operation = f"operation {number}"
        boxes[operation] = _choice_box(known[edge["choice"]], title=False)
        arrows += [_Arrow(source, operation, strength), _Arrow(operation, target)]
    ends = {end for arrow in arrows for end in (arrow.source, arrow.target)}
    boxes = {name: box for name, box in boxes.items() if name in ends}  # an input that no node takes is left out
    return _drawing(cell["name"], boxes, arrows, sources_on_top=True)


def _is_taken(choice: Choice, candidate: int) -> bool:
    return candidate in choice["chosen"][-1]


def _graph(graph: Mapping[str, Any], known: Mapping[str, Choice]) -> _Drawing:
    """The choices and the paths between them that are taken; a choice of inputs that takes none is left out."""
    left_out = {key for key, choice in known.items() if not choice["chosen"][-1]}
    boxes = {
        node["key"]: _choice_box(known[node["key"]]) if node["key"] in known else _Box(plain(node["key"]))
        for node in graph["nodes"]
        if node["key"] not in left_out
    }
    arrows = []
    for edge in graph["edges"]:
        if edge["source"] in left_out or edge["target"] in left_out:
            continue
        strength = 1.0
        if edge["candidates"] is not None:
            choice = known[edge["target"]]
            taken = [i for i in edge["candidates"] if _is_taken(choice, i)]
            if not taken:
                continue
            strength = max(_share(choice["probabilities"][-1][i]) for i in taken)
        arrows.append(_Arrow(edge["source"], edge["target"], strength))
    return _drawing("", boxes, arrows)


def _choice_box(choice: Choice, *, title: bool = True, most: int = 3) -> _Box:
    chosen = _chosen(choice)
    lines = [f"{plain(label, 30)}  {share:.2f}" for label, share, _ in chosen[:most]] or ["none"]
    if len(chosen) > most:
        lines[-1:] = [f"and {len(chosen) - most + 1} more"]
    shares = [share for _, share, _ in chosen if share == share]
    return _Box("\n".join([plain(choice["key"], 36)] * title + lines), sum(shares) / len(shares) if shares else None)


def _drawing(
    title: str,
    boxes: dict[str, _Box],
    arrows: list[_Arrow],
    *,
    sources_on_top: bool = False,
    per_row: int | None = None,
) -> _Drawing:
    sizes = {name: _size(box) for name, box in boxes.items()}
    widest, highest = (max(size[i] for size in sizes.values()) for i in (0, 1))
    if per_row:
        spots = {name: (float(i % per_row), float(i // per_row)) for i, name in enumerate(boxes)}
        placed = Layout(spots, [], max(x for x, _ in spots.values()), max(y for _, y in spots.values()))
    else:
        ways = [(arrow.source, arrow.target) for arrow in arrows]
        placed = layout(list(boxes), ways, sources_on_top=sources_on_top)
    return _Drawing(title, boxes, arrows, placed, (widest + _ACROSS, highest + _DOWN), sizes)


def _size(box: _Box) -> Point:
    lines = box.text.split("\n")
    width = max(_width(line) for line in lines)
    return max(width + 9, 17.0), len(lines) * _TEXT * 1.25 + 6


def _width(line: str) -> float:
    try:
        return TextPath((0, 0), line or " ", size=_TEXT).get_extents().width
    except AttributeError:  # matplotlib's, of letters without ink
        return 0.0


# ---------------------------------------------------------------------- drawing


def _figure(drawings: Sequence[_Drawing]) -> Figure:
    """Drawings side by side if the page is wide enough, else one below the other."""
    gap, head = 14.0, 14.0
    page = TWO_COLUMNS * 72
    beside = sum(drawing.width + gap for drawing in drawings) - gap <= page
    places, x, y = [], 0.0, 0.0
    for drawing in drawings:
        top = y + (head if drawing.title else 0.0)
        places.append((x, top))
        if beside:
            x += drawing.width + gap
        else:
            y = top + drawing.height + gap
    width = max(left + drawing.width for (left, _), drawing in zip(places, drawings, strict=True))
    height = max(top + drawing.height for (_, top), drawing in zip(places, drawings, strict=True))
    scale = max(min(1.0, page / width, PAGE_HEIGHT * 72 / height), _MOST_SHRUNK)
    width = max(width, ONE_COLUMN * 72 / scale)
    figure = Figure(figsize=(width * scale / 72, height * scale / 72))
    axis = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    axis.set_axis_off()
    for drawing, (left, top) in zip(drawings, places, strict=True):
        if not beside or len(drawings) == 1:
            left = (width - drawing.width) / 2
        _draw(axis, drawing, left, top, scale)
    return figure


def _draw(axis: Any, drawing: _Drawing, left: float, top: float, scale: float) -> None:
    across, down = drawing.unit
    start = left + (drawing.width - drawing.placed.width * across) / 2
    first = top + (drawing.height - drawing.placed.height * down) / 2

    def point(at: Point) -> Point:
        return start + at[0] * across, first + at[1] * down

    if drawing.title:
        middle = left + drawing.width / 2
        axis.text(middle, top, plain(drawing.title), ha="center", va="bottom", size=figures.SIZE * scale, weight="bold")
    for arrow, way in zip(drawing.arrows, drawing.placed.paths, strict=True):
        ends = (drawing.sizes[arrow.source][1] / 2, drawing.sizes[arrow.target][1] / 2)
        band = (down - _DOWN) / 2
        strength = arrow.strength if arrow.strength == arrow.strength else 0.0
        axis.add_patch(
            FancyArrowPatch(
                path=_way([point(at) for at in way], ends, band),
                arrowstyle="-|>",
                mutation_scale=7 * scale,
                linewidth=(0.5 + 0.6 * strength) * scale,
                color="0.25",
                shrinkA=0,
                shrinkB=0,
            )
        )
    for name, box in drawing.boxes.items():
        (x, y), (width, height) = point(drawing.placed.positions[name]), drawing.sizes[name]
        plain_node = box.strength is None
        rounding = min(height / 2, 8.0) if plain_node else 2.5
        axis.add_patch(
            FancyBboxPatch(
                (x - width / 2, y - height / 2),
                width,
                height,
                boxstyle=f"round,pad=0,rounding_size={rounding}",
                facecolor="0.93" if box.strength is None else _tint(box.strength),
                edgecolor="0.35" if plain_node else BLUE,
                linewidth=0.6 * scale,
            )
        )
        axis.text(x, y, box.text, ha="center", va="center", size=_TEXT * scale, linespacing=1.2)


def _way(points: Sequence[Point], ends: Point, band: float) -> Path:
    """From the lower side of a box to the upper side of another; straight down through layers, curved between them.

    Args:
      points: the centres of the boxes and the points between.
      ends: half the heights of the two boxes.
      band: half the height of a layer.
    """
    (x, y), last = points[0], points[-1][1] - ends[1]
    vertices, codes = [(x, y + ends[0]), (x, y + band)], [Path.MOVETO, Path.LINETO]
    for (x, y), (u, v) in itertools.pairwise(points):
        middle = (y + v) / 2
        vertices += [(x, middle), (u, middle), (u, v - band), (u, min(v + band, last))]
        codes += [Path.CURVE4, Path.CURVE4, Path.CURVE4, Path.LINETO]
    if abs(vertices[-1][1] - vertices[-2][1]) < 1e-6:  # a line of no length has no direction for the arrow's head
        vertices, codes = vertices[:-1], codes[:-1]
    return Path(vertices, codes)


def _tint(strength: float) -> str:
    """From white to a light blue on which black text is easy to read."""
    rgb = (int(BLUE[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(255 + (part - 255) * 0.45 * strength):02x}" for part in rgb)
