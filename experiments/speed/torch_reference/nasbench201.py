"""The supernet of NAS-Bench-201 in PyTorch. Dong, Yang 2020, arXiv 2001.00326, section 2.1."""

import torch.nn.functional as F
from torch import nn

from experiments.speed.torch_reference.layers import conv, norm

EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
KEYS = {"cell": [f"{target}<-{source}" for source, target in EDGES]}
CANDIDATES = 5


class ReluConvNorm(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1):
        super().__init__()
        self.conv = conv(inputs, outputs, kernel, stride=stride)
        self.norm = norm(outputs)

    def forward(self, x):
        return self.norm(self.conv(F.relu(x)))


class Edge(nn.Module):
    """The weighted sum of the candidates; `none`, the first, adds nothing and is left out."""

    def __init__(self, channels: int):
        super().__init__()
        self.candidates_nor_conv_1x1 = ReluConvNorm(channels, channels, 1)
        self.candidates_nor_conv_3x3 = ReluConvNorm(channels, channels, 3)

    def forward(self, x, weights):
        _, skip, conv1, conv3, pool = weights
        pooled = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        mixed = conv1 * self.candidates_nor_conv_1x1(x) + conv3 * self.candidates_nor_conv_3x3(x)
        return mixed + skip * x + pool * pooled


class Cell(nn.ModuleDict):
    def __init__(self, channels: int):
        super().__init__({f"edge_{source}_{target}": Edge(channels) for source, target in EDGES})

    def forward(self, x, weights):
        nodes = {0: x}
        for (source, target), w in zip(EDGES, weights, strict=True):
            incoming = self[f"edge_{source}_{target}"](nodes[source], w)
            nodes[target] = nodes[target] + incoming if target in nodes else incoming
        return nodes[3]


class ResidualReduction(nn.Module):
    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.first = ReluConvNorm(inputs, outputs, 3, 2)
        self.second = ReluConvNorm(outputs, outputs, 3)
        self.shortcut = conv(inputs, outputs)

    def forward(self, x):
        return self.second(self.first(x)) + self.shortcut(F.avg_pool2d(x, 2))


class NasBench201(nn.Module):
    """`model(images [B, 3, H, W], {"cell": alphas [6, 5]}) -> logits`."""

    def __init__(self, channels: int = 16, cells: int = 5, classes: int = 10):
        super().__init__()
        self.stem, self.stem_norm = conv(3, channels, 3), norm(channels)
        self.reduction_1 = ResidualReduction(channels, 2 * channels)
        self.reduction_2 = ResidualReduction(2 * channels, 4 * channels)
        self.stages = nn.ModuleList(
            nn.ModuleList(Cell(channels * 2**stage) for _ in range(cells)) for stage in range(3)
        )
        self.head_norm = norm(4 * channels)
        self.head = nn.Linear(4 * channels, classes)

    def forward(self, x, alphas):
        weights = [w.unbind() for w in F.softmax(alphas["cell"], -1).unbind()]
        x = self.stem_norm(self.stem(x))
        for stage, reduction in zip(self.stages, (None, self.reduction_1, self.reduction_2), strict=True):
            x = x if reduction is None else reduction(x)
            for cell in stage:
                x = cell(x, weights)
        return self.head(F.relu(self.head_norm(x)).mean((2, 3)))


def source(name: str, model: nn.Module) -> tuple[str, tuple[int, ...]]:
    """Where jaxnas keeps the parameter of that name: path, and index along the first axis."""
    parts = name.split(".")
    if parts[0] != "stages":
        return "/".join(parts), ()
    return "/".join([f"stage_{parts[1]}", "cells", *parts[3:]]), (int(parts[2]),)
