"""The net of NNI's naive example (examples/nas/naive/train.py), with its three choices."""

import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from jaxnas import InputChoice, LayerChoice
from jaxnas.ops import max_pool


class Net(nn.Module):
    """For images `[B, H, W, C]` of any size; gives logits `[B, 10]`."""

    @nn.compact
    def __call__(self, x, arch, train: bool = False):
        x = LayerChoice([nn.Conv(6, (3, 3)), nn.Conv(6, (5, 5))], key="conv1")(x, arch)
        x = max_pool(nn.relu(x), (2, 2), strides=(2, 2))
        x = LayerChoice([nn.Conv(16, (3, 3)), nn.Conv(16, (5, 5))], key="conv2")(x, arch)
        x0 = nn.relu(x)
        x1 = nn.relu(nn.Conv(16, (1, 1))(x0))

        x0 = InputChoice(n_candidates=1, key="skipconnect")([x0], arch)
        if x0 is not None:  # None once it is fixed to "no skip"
            x1 = x1 + x0

        x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x1)
        x = adaptive_avg_pool(max_pool(x, (2, 2), strides=(2, 2)), 4)
        x = x.reshape(len(x), -1)
        x = nn.relu(nn.Dense(120)(x))
        x = nn.relu(nn.Dense(84)(x))
        return nn.Dense(10)(x)


def adaptive_avg_pool(x, size):
    """Averages `[B, H, W, C]` over a size x size grid of (possibly overlapping) windows, as PyTorch does."""
    for axis in (1, 2):
        n = x.shape[axis]
        windows = [(i * n // size, -(-(i + 1) * n // size)) for i in range(size)]
        parts = [lax.slice_in_dim(x, a, b, axis=axis).mean(axis) for a, b in windows]
        x = jnp.stack(parts, axis)
    return x
