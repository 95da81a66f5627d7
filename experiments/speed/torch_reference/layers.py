"""Layers that the networks share."""

import torch
import torch.nn.functional as F
from torch import nn


def norm(channels: int, affine: bool = True) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, affine=affine)


def conv(inputs: int, outputs: int, kernel: int = 1, **options) -> nn.Conv2d:
    """Without bias, padded to keep the size at stride 1."""
    padding = options.get("dilation", 1) * (kernel // 2)
    return nn.Conv2d(inputs, outputs, kernel, padding=padding, bias=False, **options)


class FactorizedReduction(nn.Module):
    """Two 1x1 convolutions of stride 2, the second of the image shifted by a pixel, then normalisation."""

    def __init__(self, inputs: int, outputs: int, affine: bool = True, relu: bool = False):
        super().__init__()
        self.relu = relu
        self.even = conv(inputs, outputs // 2, stride=2)
        self.odd = conv(inputs, outputs // 2, stride=2)
        self.norm = norm(outputs, affine)

    def forward(self, x):
        x = F.relu(x) if self.relu else x
        return self.norm(torch.cat([self.even(x), self.odd(x[:, :, 1:, 1:])], 1))
