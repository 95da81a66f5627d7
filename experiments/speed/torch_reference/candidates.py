"""A net of one LayerChoice with any number of convolutions, to see what candidates cost; see `ours.Candidates`."""

import torch.nn.functional as F
from torch import nn

KEYS = {"conv": ["conv"]}
KERNELS = (3, 5)


class Candidates(nn.Module):
    """`model(images [B, 3, H, W], {"conv": alphas [1, n]}) -> logits`."""

    def __init__(self, n: int = 2, channels: int = 16, classes: int = 10):
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, padding=1)
        kernels = [KERNELS[i % len(KERNELS)] for i in range(n)]
        self.candidates = nn.ModuleList(nn.Conv2d(channels, channels, k, padding=k // 2) for k in kernels)
        self.head = nn.Linear(channels, classes)

    def forward(self, x, alphas):
        x = F.relu(self.stem(x))
        weights = F.softmax(alphas["conv"][0], -1).unbind()
        x = sum(w * candidate(x) for w, candidate in zip(weights, self.candidates, strict=True))
        return self.head(F.relu(x).mean((2, 3)))


def source(name: str, model: nn.Module) -> tuple[str, tuple[int, ...]]:
    """Where jaxnas keeps the parameter of that name."""
    first, *rest = name.split(".")
    if first == "candidates":
        return f"candidate_{rest[0]}/{rest[1]}", ()
    return f"{first}/{rest[0]}", ()
