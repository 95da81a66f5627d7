"""Normalisation by batch statistics, against what autodiff makes of its formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas.ops import batch_norm, batch_norm_sum

KEYS = jax.random.split(jax.random.key(0), 6)
XS = [3 * jax.random.normal(key, (2, 3, 5, 4)) + i for i, key in enumerate(KEYS[:3])]
G = jax.random.normal(KEYS[4], XS[0].shape)
WEIGHTS = jnp.asarray([0.2, 0.5, -0.3])


def plain(x):
    wide = x.astype(jnp.float32)
    mean, var = wide.mean((0, 1, 2)), wide.var((0, 1, 2))
    return ((wide - mean) / jnp.sqrt(var + 1e-5)).astype(x.dtype)


def plain_sum(xs, weights):
    return sum(w * plain(x) for x, w in zip(xs, weights, strict=True))


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-5), (jnp.bfloat16, 0.03)])
def test_values_and_statistics(dtype, tolerance):
    x = XS[1].astype(dtype)
    y, statistics = batch_norm(x)
    assert y.dtype == dtype
    np.testing.assert_allclose(y.astype(np.float32), plain(x).astype(np.float32), atol=tolerance)
    np.testing.assert_allclose(statistics.mean, x.astype(np.float32).mean((0, 1, 2)), rtol=1e-4)
    np.testing.assert_allclose(statistics.var, x.astype(np.float32).var((0, 1, 2)), rtol=1e-3)
    total, all_statistics = batch_norm_sum([x.astype(dtype) for x in XS], WEIGHTS)
    expected = plain_sum([x.astype(dtype) for x in XS], WEIGHTS)
    np.testing.assert_allclose(total.astype(np.float32), expected.astype(np.float32), atol=tolerance)
    assert len(all_statistics) == 3


def first(function):
    """The gradient, of a function of the layer's output that is not linear in it."""
    return jax.grad(lambda xs, w: jnp.sum(jnp.sin(function(xs, w)) * G), argnums=(0, 1))


def second(function):
    """The gradient of a function of the gradient."""

    def norm(xs, w):
        by_x, by_w = first(function)(xs, w)
        return sum(jnp.sum(jnp.cos(g * (i + 1))) for i, g in enumerate(by_x)) + jnp.sum(by_w**2)

    return jax.grad(norm, argnums=(0, 1))


@pytest.mark.parametrize("derivative", [first, second])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (lambda xs, w: batch_norm(xs[0])[0] * w[0], lambda xs, w: plain(xs[0]) * w[0]),
        (lambda xs, w: batch_norm_sum(xs, w)[0], plain_sum),
    ],
)
def test_derivatives(derivative, ours, theirs):
    found, expected = (jax.jit(derivative(f))(XS, WEIGHTS) for f in (ours, theirs))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4), found, expected)


def test_the_gradient_in_half_precision():
    xs = [x.astype(jnp.bfloat16) for x in XS]
    found, expected = first(lambda xs, w: batch_norm_sum(xs, w)[0])(xs, WEIGHTS), first(plain_sum)(XS, WEIGHTS)
    for a, b in zip(found[0], expected[0], strict=True):
        assert a.dtype == jnp.bfloat16
        np.testing.assert_allclose(a.astype(np.float32), b, atol=0.05)
