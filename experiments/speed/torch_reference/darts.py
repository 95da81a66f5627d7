"""The DARTS search network in PyTorch. Liu, Simonyan, Yang 2019, arXiv 1806.09055, section 3 and appendix A.1.

Written for speed, as far as eager PyTorch allows: `none` is left out, since it adds zero, and each kind's softmax
is taken once per step. With 16 channels and 8 cells it has the original's 1,930,618 parameters.
"""

import itertools

import torch
import torch.nn.functional as F
from torch import nn

from experiments.speed.torch_reference.layers import FactorizedReduction, conv, norm

NODES, EDGES = 4, 14
_PLACES = [(source, node) for node in range(2, 2 + NODES) for source in range(node)]
KEYS = {kind: [f"{kind}/{node}<-{source}" for source, node in _PLACES] for kind in ("normal", "reduce")}


class ReluConvNorm(nn.Sequential):
    """ReLU, 1x1 convolution, normalisation."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__(nn.ReLU(), conv(inputs, outputs), norm(outputs, affine=False))


def separable(channels: int, kernel: int, stride: int, dilation: int = 1) -> list[nn.Module]:
    """ReLU, depthwise convolution, 1x1 convolution, normalisation."""
    depthwise = conv(channels, channels, kernel, stride=stride, dilation=dilation, groups=channels)
    return [nn.ReLU(), depthwise, conv(channels, channels), norm(channels, affine=False)]


def reduction_of(inputs: int, outputs: int) -> FactorizedReduction:
    return FactorizedReduction(inputs, outputs, affine=False, relu=True)


class MixedOperation(nn.Module):
    """The weighted sum of an edge's candidates, in the order of the original; `none`, the first, adds nothing."""

    def __init__(self, channels: int, stride: int):
        super().__init__()
        c, s = channels, stride
        self.operations = nn.ModuleList(
            [
                nn.Sequential(nn.MaxPool2d(3, s, 1), norm(c, affine=False)),
                nn.Sequential(nn.AvgPool2d(3, s, 1, count_include_pad=False), norm(c, affine=False)),
                nn.Identity() if s == 1 else reduction_of(c, c),
                nn.Sequential(*separable(c, 3, s), *separable(c, 3, 1)),
                nn.Sequential(*separable(c, 5, s), *separable(c, 5, 1)),
                nn.Sequential(*separable(c, 3, s, dilation=2)),
                nn.Sequential(*separable(c, 5, s, dilation=2)),
            ]
        )

    def forward(self, x, weights):
        return sum(w * operation(x) for w, operation in zip(weights[1:], self.operations, strict=True))


class Cell(nn.Module):
    """Two inputs, four nodes, each the sum of an edge from every earlier one; their concatenation is the output."""

    def __init__(self, before_last: int, last: int, channels: int, reduction: bool, reduction_before: bool):
        super().__init__()
        before = reduction_of if reduction_before else ReluConvNorm
        self.preprocess0 = before(before_last, channels)
        self.preprocess1 = ReluConvNorm(last, channels)
        self.kind = "reduce" if reduction else "normal"
        self.edges = nn.ModuleList(
            MixedOperation(channels, 2 if reduction and source < 2 else 1)
            for node in range(NODES)
            for source in range(2 + node)
        )

    def forward(self, s0, s1, weights):
        states = [self.preprocess0(s0), self.preprocess1(s1)]
        edges = iter(zip(self.edges, weights, strict=True))
        for _ in range(NODES):
            incoming = [edge(state, w) for state, (edge, w) in zip(states, edges, strict=False)]
            states.append(sum(incoming))
        return torch.cat(states[2:], 1)


class Darts(nn.Module):
    """`model(images [B, 3, H, W], alphas) -> logits`, with alphas `{"normal": [14, 8], "reduce": [14, 8]}`."""

    def __init__(self, channels: int = 16, cells: int = 8, classes: int = 10):
        super().__init__()
        self.stem = nn.Sequential(conv(3, 3 * channels, 3), norm(3 * channels))
        before_last = last = 3 * channels
        reduction_before = False
        self.cells = nn.ModuleList()
        for i in range(cells):
            reduction = i in (cells // 3, 2 * cells // 3)
            channels = 2 * channels if reduction else channels
            self.cells.append(Cell(before_last, last, channels, reduction, reduction_before))
            reduction_before = reduction
            before_last, last = last, NODES * channels
        self.head = nn.Linear(last, classes)

    def forward(self, x, alphas):
        # unbind: one view per edge and candidate, made once rather than in every cell
        weights = {k: [w.unbind() for w in F.softmax(a, -1).unbind()] for k, a in alphas.items()}
        s0 = s1 = self.stem(x)
        for cell in self.cells:
            s0, s1 = s1, cell(s0, s1, weights[cell.kind])
        return self.head(s1.mean((2, 3)))


# Edges by source in jaxnas, by node here; the places of an operation's convolutions in its sequence.
_ROWS = sorted(range(EDGES), key=lambda e: _PLACES[e])
_PARTS = {1: ("depthwise", 0), 2: ("pointwise", 0), 5: ("depthwise", 1), 6: ("pointwise", 1)}
_NAMES = (
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)


def source(name: str, model: Darts) -> tuple[str, tuple[int, ...]]:
    """Where jaxnas keeps the parameter of that name: path, and index along the first axes.

    It stacks the normal cells between two reductions, a row, and in a cell the edges and the layers of an operation.
    """
    first, *rest = name.split(".")
    if first == "stem":
        return ("stem/kernel", ()) if rest[0] == "0" else (f"stem_norm/{rest[1]}", ())
    if first == "head":
        return f"head/{rest[0]}", ()
    cell, part, *rest = rest
    row, place = _row_of(model.cells, int(cell))
    normal = model.cells[int(cell)].kind == "normal"
    if part == "edges":
        edge, _, operation, *rest = rest
        edge, operation = _ROWS.index(int(edge)), _NAMES[int(operation)]
        index = (place, edge) if normal else (edge,)
        if operation == "skip_connect":
            return f"row_{row}_reduction/skip_connect_{rest[0]}", index
        kind, layer = _PARTS[int(rest[0])]
        return f"row_{row}_{'normal' if normal else 'reduction'}/{operation}_{kind}", (*index, layer)
    which = rest[0] if rest[0] in ("even", "odd") else "kernel"
    if part == "preprocess0":
        if place >= 2:
            return f"row_{row}_normal/first_input", (place - 2,)
        return f"row_{row}_{'first_of_second' if place else 'first'}/{which}", ()
    return (f"row_{row}_normal/second_input", (place - 1,)) if place else (f"row_{row}_second/{which}", ())


def _row_of(cells, index: int) -> tuple[int, int]:
    """The row of a cell, and its place in it."""
    row, place = 0, 0
    for before, cell in itertools.pairwise(cells[: index + 1]):
        together = before.kind == cell.kind == "normal"
        row, place = (row, place + 1) if together else (row + 1, 0)
    return row, place
