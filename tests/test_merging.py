"""Convolutions of one choice that run as one, and pooling with a gradient of its own."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from helpers import assert_trees_close

from jaxnas import LayerChoice, apply_fixed_architecture, inherit
from jaxnas.model.functional import model_fns
from jaxnas.ops import conv_general_dilated, max_pool

pytestmark = pytest.mark.usefixtures("quickly_compiled")

CONV = partial(nn.Conv, 4)
DEPTHWISE = partial(nn.Conv, 6, feature_group_count=3)

# layers, and how many convolutions a call makes
CASES = {
    "3x3 and 5x5": ([partial(CONV, (3, 3)), partial(CONV, (5, 5))], 1),
    "one without bias": ([partial(CONV, (3, 3)), partial(CONV, (5, 5), use_bias=False)], 1),
    "stride 2, 1x1": ([partial(CONV, (s, s), strides=2) for s in (1, 3, 5)], 1),
    "groups, beside a function": (
        [partial(DEPTHWISE, (3, 3)), partial(DEPTHWISE, (5, 5)), lambda: partial(jnp.tile, reps=2)],
        1,
    ),
    "even kernels, uneven padding": (
        [partial(CONV, (4, 2), padding=((1, 1), (0, 0))), partial(CONV, (3, 2), padding=((0, 1), (1, -1)))],
        1,
    ),
    "one kernel would be larger": ([partial(CONV, (1, 7)), partial(CONV, (7, 1))], 2),
    "one is dilated": ([partial(CONV, (3, 3)), partial(CONV, (3, 3), kernel_dilation=2)], 2),
    "padding that is not zeros": ([partial(CONV, (3, 3), padding="CIRCULAR"), partial(CONV, (5, 5))], 2),
}


class OneChoice(nn.Module):
    layers: tuple
    reduction: str = "sum"

    @nn.compact
    def __call__(self, x, arch):
        return LayerChoice([layer() for layer in self.layers], key="k", reduction=self.reduction)(x, arch)


def setting(layers, reduction="sum"):
    model, x = OneChoice(tuple(layers), reduction), jax.random.normal(jax.random.key(0), (2, 9, 8, 3))
    weights = jax.random.uniform(jax.random.key(1), (len(layers),))
    variables = model_fns(model).init(jax.random.key(2), x, {"k": weights})
    noise = iter(jax.random.split(jax.random.key(3), 20))
    return model, jax.tree.map(lambda p: p + 0.1 * jax.random.normal(next(noise), p.shape), variables), x, weights


def convolutions(apply, *args):
    return str(jax.make_jaxpr(apply)(*args)).count("conv_general_dilated[")


@pytest.mark.parametrize("name", CASES)
def test_values_and_two_derivatives_are_those_of_the_candidates_one_by_one(name):
    layers, count = CASES[name]
    model, variables, x, weights = setting(layers)
    alone = [apply_fixed_architecture(model, {"k": i}) for i in range(len(layers))]
    parts = [inherit(m, variables, x) for m in alone]

    def merged(variables, x, weights):
        return model.apply(variables, x, {"k": weights})

    def one_by_one(variables, x, weights):
        return sum(
            w * m.apply({"params": {k: variables["params"][k] for k in p.get("params", {})}}, x)
            for w, m, p in zip(weights, alone, parts, strict=True)
        )

    def derivatives(apply):
        first = jax.grad(lambda *args: jnp.sin(apply(*args)).sum(), (0, 1, 2))
        second = jax.grad(lambda *args: sum((g**2).sum() for g in jax.tree.leaves(first(*args))), (0, 1, 2))
        return jax.jit(lambda *args: (apply(*args), first(*args), second(*args)))

    plain = {"params": {k: {**v} for k, v in variables["params"].items()}}
    ours, theirs = (derivatives(f)(plain, x, weights) for f in (merged, one_by_one))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5 * (1 + np.abs(b).max()))
    assert convolutions(merged, plain, x, weights) == count


def test_only_sums_are_merged_and_intermediates_are_seen():
    layers = CASES["3x3 and 5x5"][0]
    for reduction in ("mean", "none", "concat"):
        model, variables, x, weights = setting(layers, reduction)
        assert convolutions(lambda v, x, w, m=model: m.apply(v, x, {"k": w}), variables, x, weights) == 2
    model, variables, x, weights = setting(layers)
    _, seen = model.apply(variables, x, {"k": weights}, capture_intermediates=True, mutable=["intermediates"])
    assert len(jax.tree.leaves(seen)) == 4  # both candidates, the choice, the model


def test_inside_model_fns_the_merged_convolution_is_the_fast_one():
    model, variables, x, weights = setting(CASES["3x3 and 5x5"][0])

    def uses_fast(apply):
        return "custom_vjp_call" in str(
            jax.make_jaxpr(lambda *a: apply(a[0], a[1], {"k": a[2]}))(variables, x, weights)
        )

    assert uses_fast(model_fns(model).apply)
    assert not uses_fast(model.apply)


def test_smaller_types_are_kept():
    half = [partial(CONV, (3, 3), dtype=jnp.bfloat16), partial(CONV, (5, 5), dtype=jnp.bfloat16)]
    model, variables, x, weights = setting(half)
    y = model.apply(variables, x, {"k": weights})
    exact, _, _, _ = setting(CASES["3x3 and 5x5"][0])
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(y.astype(jnp.float32), exact.apply(variables, x, {"k": weights}), atol=0.05)


@pytest.mark.parametrize(
    ("channels", "features", "width"), [(3, 6, 16), (6, 16, 12), (3, 3, 7), (16, 6, 8), (2, 40, 8)]
)
@pytest.mark.parametrize("strides", [(1, 1), (2, 1), (2, 2)])
def test_few_channels_give_what_lax_gives(channels, features, width, strides):
    keys = jax.random.split(jax.random.key(0))
    x, w = jax.random.normal(keys[0], (2, 5, width, channels)), jax.random.normal(keys[1], (5, 3, channels, features))

    def derivatives(convolve):
        def value(x, w):
            return convolve(x, w, strides, "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

        first = jax.grad(lambda x, w: jnp.sin(value(x, w)).sum(), (0, 1))
        return jax.jit(lambda x, w: (value(x, w), first(x, w)))(x, w)

    assert_trees_close(derivatives(conv_general_dilated), derivatives(jax.lax.conv_general_dilated), atol=2e-4)


@pytest.mark.parametrize(("shape", "window"), [((2, 6, 4, 3), (2, 2)), ((2, 7, 9, 3), (2, 2)), ((1, 6, 9, 2), (3, 3))])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_pooling_and_two_derivatives_are_those_of_flax(shape, window, dtype):
    x = jax.random.normal(jax.random.key(0), shape).astype(dtype)

    def derivatives(pool):
        first = jax.grad(lambda x: jnp.sin(pool(x, window, strides=window).astype(jnp.float32)).sum())
        second = jax.grad(lambda x: (first(x).astype(jnp.float32) ** 2).sum())
        return jax.jit(lambda x: (pool(x, window, strides=window), first(x), second(x)))(x)

    for ours, theirs in zip(derivatives(max_pool), derivatives(nn.max_pool), strict=True):
        assert ours.dtype == dtype
        np.testing.assert_allclose(
            ours.astype(jnp.float32), theirs.astype(jnp.float32), atol=1e-2 if dtype == jnp.bfloat16 else 1e-6
        )


def test_the_first_of_equal_values_has_the_gradient():
    gradient = jax.grad(lambda x: max_pool(x, (2, 2), strides=(2, 2)).sum())(jnp.zeros((1, 2, 2, 1)))
    np.testing.assert_array_equal(gradient[0, :, :, 0], [[1, 0], [0, 0]])


def test_other_pooling_is_left_to_flax():
    x = jax.random.normal(jax.random.key(0), (2, 6, 6, 3))
    for options in ({"strides": (1, 1)}, {"strides": (2, 2), "padding": ((1, 0), (0, 1))}, {}):
        np.testing.assert_array_equal(max_pool(x, (2, 2), **options), nn.max_pool(x, (2, 2), **options))
