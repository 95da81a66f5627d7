"""Primitives on batches that are sharded over a mesh: both kinds of axes give what one device gives, gradients too.

This file is also the program that does it: XLA makes four devices of a CPU only where nothing has been computed yet.
"""

import contextlib
import os
import subprocess
import sys
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxnas import InputChoice, LayerChoice, ops
from jaxnas.model.functional import model_fns
from jaxnas.ops.normalization import statistics_of

LAYOUT = ("NHWC", "HWIO", "NHWC")


def convolve(x, w, strides=(1, 1), dilation=(1, 1), groups=1):
    options = {"rhs_dilation": dilation, "dimension_numbers": LAYOUT, "feature_group_count": groups}
    return ops.conv_general_dilated(x, w, strides, "SAME", **options)


def doubled(x, w):
    return 2 * convolve(x, w)


class Net(nn.Module):
    """Merged convolutions, branches, pooling."""

    @nn.compact
    def __call__(self, x, arch):
        x = LayerChoice([nn.Conv(8, (3, 3)), nn.Conv(8, (5, 5))], key="conv")(x, arch)
        pools = [partial(ops.max_pool, window_shape=(2, 2), strides=(2, 2)), partial(ops.avg_pool_3x3, stride=2)]
        x = LayerChoice(pools, key="pool")(x, arch)
        y = nn.Conv(8, (1, 1))(x)
        x = InputChoice(n_candidates=2, key="input")([x, y], arch)
        return ops.batch_norm(x)[0].mean((1, 2))


MODEL = model_fns(Net)
WEIGHTS = {"conv": jnp.array([0.3, 0.7]), "pool": jnp.array([0.6, 0.4]), "input": jnp.array([0.2, 0.8])}
INDICES = {"conv": jnp.int32(1), "pool": jnp.int32(0), "input": jnp.array([True, False])}
VARIABLES = MODEL.init(jax.random.key(0), jnp.zeros((1, 8, 8, 4)), WEIGHTS)


def normal(*shape):
    return jnp.asarray(np.random.RandomState(0).randn(*shape), jnp.float32)


IMAGES = normal(8, 8, 8, 4)

# function of images [8, 8, 8, 4] and of a second operand, that operand
CASES = {
    "dense": (convolve, normal(3, 3, 4, 8)),
    "dense, wide": (convolve, normal(3, 3, 4, 16)),
    "1x1, stride 2": (partial(convolve, strides=(2, 2)), normal(1, 1, 4, 8)),
    "dilated": (partial(convolve, dilation=(2, 2)), normal(3, 3, 4, 8)),
    "depthwise, stride 2": (partial(convolve, groups=4, strides=(2, 2)), normal(3, 3, 1, 4)),
    "max_pool": (lambda x, w: ops.max_pool(x * w, (3, 2), (3, 2)), normal(4)),
    "max_pool_3x3": (lambda x, w: ops.max_pool_3x3(x * w, 2), normal(4)),
    "avg_pool_3x3": (lambda x, w: ops.avg_pool_3x3(x * w, 2), normal(4)),
    "batch_norm": (lambda x, w: ops.batch_norm(x)[0] * w + statistics_of(x).var, normal(4)),
    "batch_norm_sum": (lambda x, w: ops.batch_norm_sum([x, jnp.sin(x)], w)[0], normal(2)),
    "in a branch": (lambda x, w: jax.lax.cond((w**2).sum() > 0, convolve, doubled, x, w), normal(3, 3, 4, 8)),
    "weights": (lambda x, v: MODEL.apply(v, x, WEIGHTS), VARIABLES),
    "indices": (lambda x, v: MODEL.apply(v, x, INDICES), VARIABLES),
}
SECOND = ("dense", "max_pool_3x3")


def results(name, function, x, w):
    """Value, gradients and, of some, the gradient of their square."""
    slopes = jax.grad(lambda x, w: jnp.sin(function(x, w)).sum(), (0, 1))
    found = [function(x, w), slopes(x, w)]
    if name in SECOND:
        square = lambda x, w: sum((g**2).sum() for g in slopes(x, w))  # noqa: E731
        found.append(jax.grad(square, (0, 1))(x, w))
    return found


@cache
def on_one_device(name):
    function, w = CASES[name]
    return jax.jit(partial(results, name, function))(IMAGES, w)


def check(kind, name):
    function, w = CASES[name]
    mesh = jax.make_mesh((2, 2), ("data", "model"), axis_types=(getattr(AxisType, kind),) * 2)
    features = ("model",) if getattr(w, "shape", ())[3:] == (8,) else ()
    layouts = [  # of the images, of the second operand, and whether the mesh is known by the operands alone
        (PartitionSpec("data"), PartitionSpec(*[None] * 3 * len(features), *features), False),
        (PartitionSpec(("data", "model")), PartitionSpec(), True),
    ]
    expected = on_one_device(name)
    for of_x, of_w, alone in layouts[kind == "Auto" :]:
        operands = jax.device_put(IMAGES, NamedSharding(mesh, of_x)), jax.device_put(w, NamedSharding(mesh, of_w))
        with contextlib.nullcontext() if alone else jax.set_mesh(mesh):
            found = jax.jit(partial(results, name, function))(*operands)
            typed = jax.eval_shape(function, *operands).sharding
        jax.tree.map(assert_close, found, expected)
        assert kind == "Auto" or typed.spec[0] == of_x[0], f"the images' sharding is lost: {typed}"


def assert_close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * (1 + float(jnp.abs(b).max())))


@pytest.fixture(scope="module")
def outcomes():
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, __file__], env={**os.environ, **flags}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(line.split("\t") for line in done.stdout.splitlines())


@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
@pytest.mark.parametrize("name", CASES)
def test_a_sharded_batch_gives_what_one_device_gives(outcomes, kind, name):
    assert outcomes[f"{kind}, {name}"] == "as on one device"


if __name__ == "__main__":
    for kind in ("Auto", "Explicit"):
        for name in CASES:
            try:
                check(kind, name)
                outcome = "as on one device"
            except Exception as e:
                outcome = " ".join(f"{type(e).__name__}: {e}".split())
            print(f"{kind}, {name}\t{outcome}")
