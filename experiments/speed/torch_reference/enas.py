"""A child of the ENAS macro space in PyTorch. Pham et al. 2018, arXiv 1802.03268, section 2.3.

The parameters of every branch exist; only the sampled path runs.
"""

import torch.nn.functional as F
from torch import nn

from experiments.speed.torch_reference.layers import FactorizedReduction, conv, norm

BRANCHES = ((3, False), (3, True), (5, False), (5, True))


class ConvNorm(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int = 1, separable: bool = False):
        super().__init__()
        if separable:
            self.depthwise, self.pointwise = conv(inputs, inputs, kernel, groups=inputs), conv(inputs, outputs)
        else:
            self.conv = conv(inputs, outputs, kernel)
        self.separable, self.norm = separable, norm(outputs)

    def forward(self, x):
        x = self.pointwise(self.depthwise(x)) if self.separable else self.conv(x)
        return self.norm(x)


class ConvBranch(nn.Module):
    def __init__(self, filters: int, kernel: int, separable: bool):
        super().__init__()
        self.add_module("in", ConvNorm(filters, filters))
        self.out = ConvNorm(filters, filters, kernel, separable)

    def forward(self, x):
        return F.relu(self.out(F.relu(getattr(self, "in")(x))))


class PoolBranch(nn.Module):
    def __init__(self, filters: int, average: bool):
        super().__init__()
        self.add_module("in", ConvNorm(filters, filters))
        self.average = average

    def forward(self, x):
        x = F.relu(getattr(self, "in")(x))
        return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False) if self.average else F.max_pool2d(x, 3, 1, 1)


class Enas(nn.Module):
    """`model(images [B, 3, H, W], (operations [L], skips [L, L])) -> logits`; skips[i, 0] is the stem's."""

    def __init__(self, layers: int = 12, filters: int = 36, classes: int = 10, dropout: float = 0.0):
        super().__init__()
        self.layers, self.dropout = layers, dropout
        self.stem = ConvNorm(3, filters, 3)
        self.branches, self.norms, self.reductions = nn.ModuleList(), nn.ModuleDict(), nn.ModuleDict()
        self.reduced_after = (layers // 3 - 1, 2 * (layers // 3) - 1)
        for i in range(layers):
            convs = [ConvBranch(filters, kernel, separable) for kernel, separable in BRANCHES]
            self.branches.append(nn.ModuleList([*convs, PoolBranch(filters, True), PoolBranch(filters, False)]))
            if i:
                self.norms[str(i)] = norm(filters)
            if i in self.reduced_after:
                names = ["stem", *(f"layer_{j}" for j in range(i + 1))]
                self.reductions[str(i)] = nn.ModuleDict({n: FactorizedReduction(filters, filters) for n in names})
        self.head = nn.Linear(filters, classes)

    def forward(self, x, arch):
        operations, skips = arch
        outputs = [self.stem(x)]
        for i in range(self.layers):
            x = self.branches[i][operations[i]](outputs[-1])
            if i:
                for skipped, taken in zip(outputs[:-1], skips[i], strict=False):
                    x = x + skipped if taken else x
                x = self.norms[str(i)](x)
            outputs.append(x)
            if i in self.reduced_after:
                outputs = self._reduced(i, outputs, skips)
        return self.head(F.dropout(outputs[-1].mean((2, 3)), self.dropout, self.training))

    def _reduced(self, i, outputs, skips):
        """Halves all outputs that a later layer reads."""
        reductions = self.reductions[str(i)].values()
        last = len(outputs) - 1
        return [
            reduction(output) if j == last or any(row[j] for row in skips[i + 1 :]) else None
            for j, (output, reduction) in enumerate(zip(outputs, reductions, strict=True))
        ]


def source(name: str, model: nn.Module) -> tuple[str, tuple[int, ...]]:
    """Where jaxnas keeps the parameter of that name."""
    first, *rest = name.split(".")
    if first == "branches":
        layer, branch, *rest = rest
        layer, branch = int(layer), int(branch)
        kind = f"ConvBranch_{4 * layer + branch}" if branch < 4 else f"PoolBranch_{2 * layer + branch - 4}"
        return "/".join([kind, *rest]), ()
    if first == "norms":
        return f"layer_{rest[0]}_norm/{rest[1]}", ()
    if first == "reductions":
        return "/".join([f"reduction_{rest[0]}_of_{rest[1]}", *rest[2:]]), ()
    return "/".join([first, *rest]), ()


def archs(arrays) -> list[tuple[list[int], list[list[bool]]]]:
    """The architectures that jaxnas sampled, one per step."""
    return [(ops.tolist(), skips.tolist()) for ops, skips in zip(arrays["ops"], arrays["skips"], strict=True)]
