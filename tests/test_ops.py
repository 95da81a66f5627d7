"""Convolutions: values and derivatives are those of lax, and plain nn.Conv layers use them inside model_fns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from helpers import assert_trees_close
from jax import lax

from jaxnas import LayerChoice
from jaxnas.model.functional import model_fns
from jaxnas.ops import avg_pool_3x3, conv_general_dilated, max_pool_3x3

pytestmark = pytest.mark.usefixtures("quickly_compiled")

LAYOUT = ("NHWC", "HWIO", "NHWC")

# image, kernel, strides, dilation, padding, channels, features, groups
CASES = {
    "3x3": ((9, 7), (3, 3), (1, 1), (1, 1), "SAME", 3, 4, 1),
    "3x3 stride 2, odd": ((9, 7), (3, 3), (2, 2), (1, 1), "SAME", 4, 3, 1),
    "5x3 dilated, strides differ": ((10, 9), (5, 3), (2, 1), (1, 2), "VALID", 2, 4, 1),
    "even kernel, uneven padding": ((8, 9), (2, 4), (3, 2), (2, 1), ((2, 0), (5, 1)), 2, 3, 1),
    "cropped by its padding": ((8, 9), (2, 2), (3, 3), (1, 1), ((-1, 2), (4, -2)), 2, 3, 1),
    "1x1 stride 2": ((8, 9), (1, 1), (2, 2), (1, 1), "SAME", 3, 2, 1),
    "depthwise 5x5": ((9, 7), (5, 5), (1, 1), (1, 1), "SAME", 4, 4, 4),
    "depthwise dilated stride 2": ((8, 9), (3, 3), (2, 2), (2, 2), ((-1, 2), (4, -2)), 3, 3, 3),
}


def operands(image, kernel, channels, features, groups=1, batch=4, dtype=None):
    x = jax.random.normal(jax.random.key(0), (batch, *image, channels), dtype)
    w = jax.random.normal(jax.random.key(1), (*kernel, channels // groups, features), dtype)
    return x, w


def same(conv, x, w, strides=(1, 1), **options):
    return conv(x, w, strides, "SAME", dimension_numbers=LAYOUT, **options)


def loss(conv):
    return lambda x, w: jnp.sin(same(conv, x, w).astype(jnp.float32)).sum()


def uses_fast(function, *args):
    return "custom_vjp_call" in str(jax.make_jaxpr(function)(*args))


@pytest.mark.parametrize("name", CASES)
def test_values_and_two_derivatives_are_those_of_lax(name):
    image, kernel, strides, dilation, padding, channels, features, groups = CASES[name]

    def derivatives(conv):
        def value(operands):
            options = {"rhs_dilation": dilation, "dimension_numbers": LAYOUT, "feature_group_count": groups}
            return conv(*operands, strides, padding, **options)

        first = jax.grad(lambda operands: jnp.sin(value(operands)).sum())
        second = jax.grad(lambda operands: sum((g**2).sum() for g in first(operands)))
        return jax.jit(lambda operands: (value(operands), first(operands), second(operands)))

    with jax.enable_x64(True):
        args = operands(image, kernel, channels, features, groups, dtype=jnp.float64)
        ours, plain = derivatives(conv_general_dilated)(args), derivatives(lax.conv_general_dilated)(args)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9), ours, plain)
        assert all(leaf.dtype == jnp.float64 for leaf in jax.tree.leaves(ours))


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-5), (jnp.bfloat16, 2e-2)])
def test_smaller_types_are_kept_and_close(dtype, tolerance, groups):
    args = operands((9, 7), (3, 3), 4, 4, groups, dtype=dtype)

    def run(conv):
        y, pull = jax.vjp(lambda x, w: same(conv, x, w, feature_group_count=groups), *args)
        return y, *pull(jnp.cos(y))

    exact = [a.astype(jnp.float32) for a in args]
    y, pull = jax.vjp(lambda x, w: same(lax.conv_general_dilated, x, w, feature_group_count=groups), *exact)
    for ours, plain in zip(run(conv_general_dilated), (y, *pull(jnp.cos(y))), strict=True):
        assert ours.dtype == dtype
        scale = jnp.abs(plain).max()
        np.testing.assert_allclose(ours.astype(jnp.float32) / scale, plain / scale, atol=tolerance)


@pytest.mark.parametrize("groups", [1, 4])
def test_other_platforms_run_what_lax_would(groups, monkeypatch):
    x, w = operands((6, 11), (3, 2), 4, 4, groups)

    def gradients(conv):
        return jax.grad(lambda x, w: (same(conv, x, w, (2, 1), feature_group_count=groups) ** 2).sum(), (0, 1))

    lowered = jax.jit(gradients(conv_general_dilated)).trace(x, w).lower(lowering_platforms=("cuda",)).as_text()
    assert lowered.count("stablehlo.convolution") == 3
    assert "stablehlo.while" not in lowered
    x, w = operands((6, 11), (3, 2), 4, 4, groups, batch=3)  # a shape of its own: traces are kept by shape
    monkeypatch.setattr(lax, "platform_dependent", lambda *args, cpu, default: default(*args))
    ours, plain = (gradients(conv)(x, w) for conv in (conv_general_dilated, lax.conv_general_dilated))
    assert_trees_close(ours, plain, atol=1e-4)


@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0)])
def test_vmap_over_inputs_and_kernels(axes):
    x, w = operands((5, 4), (3, 3), 2, 3)
    x = x if axes[0] is None else jnp.stack([x, 2 * x])
    w = w if axes[1] is None else jnp.stack([w, w**2])
    ours, plain = (
        jax.jit(jax.vmap(jax.value_and_grad(loss(conv), (0, 1)), axes))(x, w)
        for conv in (conv_general_dilated, lax.conv_general_dilated)
    )
    assert_trees_close(ours, plain, atol=1e-4)


def test_inside_scan_switch_and_checkpoint():
    x, w = operands((6, 5), (3, 3), 3, 3)

    def run(conv):
        def step(x, index):
            branches = [lambda x: x, lambda x: jnp.tanh(same(conv, x, w)), lambda x: jnp.tanh(same(conv, x, w[:1, :1]))]
            return lax.switch(index, [jax.checkpoint(b) for b in branches], x), None

        return lambda x, w: jnp.sin(lax.scan(step, x, jnp.array([1, 0, 2]))[0]).sum()

    ours, plain = (
        jax.jit(jax.value_and_grad(run(conv), (0, 1)))(x, w)
        for conv in (conv_general_dilated, lax.conv_general_dilated)
    )
    assert_trees_close(ours, plain, atol=1e-5)


@pytest.mark.parametrize(
    ("x", "w", "options"),
    [
        ((2, 5, 5, 4), (3, 3, 2, 6), {"feature_group_count": 2}),
        ((2, 5, 5, 4), (3, 3, 1, 8), {"feature_group_count": 4}),
        ((2, 5, 5, 4), (3, 3, 4, 2), {"lhs_dilation": (2, 2)}),
        ((2, 5, 5, 4), (3, 3, 4, 2), {"batch_group_count": 2}),
        ((2, 5, 5, 4), (3, 3, 4, 2), {"preferred_element_type": jnp.float32}),
        ((2, 4, 5, 5), (2, 4, 3, 3), {"dimension_numbers": None}),
        ((2, 5, 4), (3, 4, 2), {"dimension_numbers": ("NWC", "WIO", "NWC")}),
        ((0, 5, 5, 4), (3, 3, 4, 2), {}),
        ((2, 2, 2, 4), (3, 3, 4, 2), {}),
    ],
)
def test_everything_else_is_left_to_lax(x, w, options):
    x, w = jnp.ones(x), jnp.ones(w)
    spatial = x.ndim - 2
    args = (x, w, (1,) * spatial, ((0, 0),) * spatial)
    options = {"dimension_numbers": LAYOUT, **options}
    np.testing.assert_allclose(conv_general_dilated(*args, **options), lax.conv_general_dilated(*args, **options))
    assert not uses_fast(lambda x, w: conv_general_dilated(x, w, *args[2:], **options), x, w)


def test_gradients_in_shard_map_are_those_of_lax():
    x, w = operands((5, 4), (3, 3), 2, 3)
    mesh, spec = jax.make_mesh((1,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,)), jax.sharding.PartitionSpec

    def gradient(x, w):
        return jax.grad(lambda w: lax.psum(loss(conv_general_dilated)(x, w), "batch"))(w)

    sharded = jax.shard_map(gradient, mesh=mesh, in_specs=(spec("batch"), spec()), out_specs=spec())
    np.testing.assert_allclose(jax.jit(sharded)(x, w), jax.grad(loss(lax.conv_general_dilated), 1)(x, w), atol=1e-5)


class Residual(nn.Module):
    """Layers made in `setup`."""

    def setup(self):
        self.first = nn.Conv(4, (3, 3))
        self.second = nn.Conv(4, (3, 3), feature_group_count=4, strides=1, use_bias=False)

    def __call__(self, x):
        return x + self.second(nn.relu(self.first(x)))


class Layered(nn.Module):
    """Convolutions under a choice, remat, scan and switch."""

    @nn.compact
    def __call__(self, x, arch):
        x = nn.Conv(4, 3, strides=2)(x[..., None, :] if x.ndim == 3 else x)
        x = LayerChoice([nn.Conv(4, (3, 3)), nn.remat(Residual)()], key="k")(x, arch)
        x = nn.scan(
            lambda layer, x, _: (layer(x), None), variable_axes={"params": 0}, split_rngs={"params": True}, length=2
        )(Residual(name="repeated"), x, None)[0]
        layers = [nn.Conv(4, (1, 1), name="a"), nn.Conv(4, (5, 5), name="b")]
        if self.is_initializing():
            x = sum(layer(x) for layer in layers)
        branches = [lambda mdl, x: layers[0](x), lambda mdl, x: layers[1](x)]
        return nn.switch(1, branches, self, x)


class OneConv(nn.Module):
    """A layer of some kind, with some function."""

    layer: type = nn.Conv
    function: object = None

    @nn.compact
    def __call__(self, x):
        return self.layer(2, (3, 3), conv_general_dilated=self.function)(x)


class MyConv(nn.Conv):
    """A user's own kind of convolution."""


def test_models_use_it_and_are_otherwise_unchanged():
    model, x = Layered(), jnp.asarray(np.random.RandomState(0).randn(2, 8, 8, 3), jnp.float32)
    fns = model_fns(model)
    arch = {"k": jnp.array(1)}
    variables = jax.jit(fns.init)(jax.random.key(0), x, arch)
    shapes = jax.eval_shape(model.init, jax.random.key(0), x, arch)
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, shapes)

    def ours(v, x, arch):
        return fns.apply(v, x, arch)

    assert uses_fast(ours, variables, x, arch)
    assert uses_fast(fns.trace, x, arch)
    assert not uses_fast(model.apply, variables, x, arch)
    ours, direct = (
        jax.jit(jax.value_and_grad(lambda *a, f=f: (f(*a) ** 2).sum(), (0, 1)))(variables, x, arch)
        for f in (ours, model.apply)
    )
    assert_trees_close(ours, direct, atol=1e-3)


def test_only_layers_without_a_function_of_their_own_are_changed():
    x = jnp.ones((1, 5, 5, 3))

    def ten(*args, **kwargs):
        return 10 * lax.conv_general_dilated(*args, **kwargs)

    for model, fast in ((OneConv(), True), (OneConv(function=ten), False), (OneConv(MyConv), False)):
        fns = model_fns(model)
        variables = fns.init(jax.random.key(0), x)
        assert uses_fast(fns.apply, variables, x) == fast
        np.testing.assert_allclose(fns.apply(variables, x), model.apply(variables, x), rtol=1e-5)


def test_a_layer_that_is_itself_the_model_is_left_as_it_was():
    layer, x = nn.Conv(2, (3, 3)), jnp.ones((5, 5, 3))  # without a batch dimension
    fns = model_fns(layer)
    variables = fns.init(jax.random.key(0), x)
    assert uses_fast(fns.apply, variables, x)
    assert layer.conv_general_dilated is None
    assert not uses_fast(layer.apply, variables, x)


PADDED = ((1, 1), (1, 1))
POOLS = {
    "max": (max_pool_3x3, lambda x, stride: nn.max_pool(x, (3, 3), (stride, stride), PADDED)),
    "avg": (
        avg_pool_3x3,
        lambda x, stride: nn.avg_pool(x, (3, 3), (stride, stride), PADDED, count_include_pad=False),
    ),
}


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kind", POOLS)
@pytest.mark.parametrize("size", [(6, 8), (5, 9), (1, 4), (2, 2)])
def test_pooling_and_two_derivatives_are_those_of_flax(size, kind, stride):
    # No two pixels are equal, so that the largest is one, and in bfloat16 too.
    x = jax.random.permutation(jax.random.key(0), jnp.arange(2.0 * size[0] * size[1] * 3) / 64).reshape(2, *size, 3)

    def derivatives(pool):
        first = jax.grad(lambda x: jnp.sin(pool(x, stride)).sum())
        second = jax.grad(lambda x: (first(x) ** 2 * jnp.cos(x)).sum())
        third = jax.grad(lambda x: (second(x) * jnp.sin(x)).sum())
        return jax.jit(lambda x: (pool(x, stride), first(x), second(x), third(x)))

    ours, plain = (derivatives(pool) for pool in POOLS[kind])
    assert_trees_close(ours(x), plain(x), atol=1e-5)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kind", POOLS)
def test_pooling_in_bfloat16(kind, stride):
    def value_and_grad(pool, dtype):
        x = (jax.random.permutation(jax.random.key(0), jnp.arange(7.0 * 8 * 2)) / 64).reshape(1, 7, 8, 2).astype(dtype)
        return jax.value_and_grad(lambda x: (pool(x, stride) ** 2).sum(dtype=jnp.float32))(x)

    ours, plain = POOLS[kind]
    (value, gradient), expected = value_and_grad(ours, jnp.bfloat16), value_and_grad(plain, jnp.float32)
    assert gradient.dtype == ours(gradient, stride).dtype == jnp.bfloat16
    np.testing.assert_allclose(value, expected[0], rtol=0.01)
    np.testing.assert_allclose(gradient.astype(jnp.float32), expected[1], rtol=0.02, atol=0.02)


def test_max_pooling_gives_the_gradient_to_the_first_of_equals_and_keeps_what_is_not_a_number():
    x = jnp.zeros((1, 3, 3, 1))
    gradient = jax.grad(lambda x: max_pool_3x3(x, 2).sum())(x)[0, :, :, 0]
    np.testing.assert_array_equal(gradient, [[1, 1, 0], [1, 1, 0], [0, 0, 0]])
    pooled = max_pool_3x3(x.at[0, 0, 0].set(jnp.nan))[0, :, :, 0]
    np.testing.assert_array_equal(jnp.isnan(pooled), [[True, True, False], [True, True, False], [False] * 3])


@pytest.mark.parametrize("pool", [max_pool_3x3, avg_pool_3x3])
def test_pooling_of_another_stride_is_refused(pool):
    with pytest.raises(ValueError, match="stride must be 1 or 2; got 3"):
        pool(jnp.ones((1, 4, 4, 1)), stride=3)


def test_second_derivatives_of_a_scan_of_convolutions():
    """As in an exact hypergradient through a scanned stack of cells, of which each has mixed convolutions."""
    rng = np.random.RandomState(0)
    kernels = jnp.asarray(0.1 * rng.randn(2, 3, 3, 4, 4), jnp.float32)
    images, shares = jnp.asarray(rng.randn(2, 5, 5, 4), jnp.float32), jnp.array([0.3, 0.7])

    def hypergradient(convolution):
        def loss(kernels, shares):
            def cell(x, kernel):
                y = convolution(jnp.tanh(x), kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
                return shares[0] * y + shares[1] * x, None

            return jnp.square(jax.lax.scan(cell, images, kernels)[0]).mean()

        def after_a_step(shares):
            return loss(kernels - 0.1 * jax.grad(loss)(kernels, shares), shares)

        return jax.jit(jax.grad(after_a_step))(shares)

    found = hypergradient(conv_general_dilated)
    np.testing.assert_allclose(found, hypergradient(jax.lax.conv_general_dilated), rtol=1e-5)
