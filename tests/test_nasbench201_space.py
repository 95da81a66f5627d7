"""The NAS-Bench-201 space: its choices, sizes and layers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_trees_close

import jaxnas
from jaxnas.benchmarks import nasbench201 as nb
from jaxnas.model.architecture import StaticArch
from jaxnas.model.functional import model_fns
from jaxnas.spaces import nasbench201
from jaxnas.spaces.nasbench201 import Cell, ReluConvNorm

pytestmark = pytest.mark.usefixtures("quickly_compiled")

IMAGE = (1, 32, 32, 3)
SMALL = nasbench201(channels=4, cells=2, num_classes=3)


def images(batch=2, side=8):
    return jax.random.normal(jax.random.key(0), (batch, side, side, 3))


def same(**operations):
    return {**dict.fromkeys(nb.EDGES, "none"), **operations}


def test_the_choices_are_those_of_the_table():
    space = jaxnas.space(nasbench201(), jax.ShapeDtypeStruct(IMAGE, jnp.float32))
    assert space == nb.SPACE
    assert list(space) == list(nb.EDGES)
    assert space.size == nb.SIZE


@pytest.mark.parametrize("index", [1835, 6111, 1462, 0, 7777])
def test_parameters_and_flops_are_those_of_the_published_formula(index):
    arch = nb.to_arch(index)
    n1, n3 = (list(arch.values()).count(op) for op in ("nor_conv_1x1", "nor_conv_3x3"))
    assert jaxnas.cost(nasbench201(), IMAGE, arch) == (
        7_783_050 + 3_932_160 * n1 + 35_389_440 * n3,
        73_306 + 28_000 * n1 + 243_040 * n3,
    )
    assert nb.query(index, metric="flops") == pytest.approx((7_783_050 + 3_932_160 * n1 + 35_389_440 * n3) / 1e6)
    assert nb.query(index, metric="params") == pytest.approx((73_306 + 28_000 * n1 + 243_040 * n3) / 1e6)


def test_the_table_has_the_costs_of_the_space_but_for_isomorphic_cells():
    operations = np.array([[nb.OPERATIONS.index(op) for op in nb.to_arch(i).values()] for i in range(nb.SIZE)])
    n1, n3 = (operations == 2).sum(1), (operations == 3).sum(1)
    flops, params = 7.78305 + 3.93216 * n1 + 35.38944 * n3, 0.073306 + 0.028 * n1 + 0.24304 * n3
    assert np.sum(~np.isclose(nb.table(metric="flops"), flops, atol=1e-5)) == 204
    assert np.sum(~np.isclose(nb.table(metric="params"), params, atol=1e-6)) == 150


def test_the_expected_cost_is_the_mean_over_the_draws():
    weights = {
        edge: jax.nn.softmax(jax.random.normal(k, (5,)))
        for edge, k in zip(nb.EDGES, jax.random.split(jax.random.key(1), 6), strict=True)
    }
    n1, n3 = (sum(float(w[i]) for w in weights.values()) for i in (2, 3))
    expected = jaxnas.cost(nasbench201(), IMAGE, weights)
    assert expected.flops == pytest.approx(7_783_050 + 3_932_160 * n1 + 35_389_440 * n3)
    assert expected.params == pytest.approx(73_306 + 28_000 * n1 + 243_040 * n3)
    slope = jax.jit(jax.grad(lambda w: jaxnas.cost(nasbench201(), IMAGE, w).flops))(weights)
    np.testing.assert_allclose(slope["2<-1"], [0, 0, 3_932_160, 35_389_440, 0])


@pytest.fixture(scope="module")
def variables():
    return jax.jit(model_fns(SMALL).init)(jax.random.key(1), images(), nb.SPACE.uniform())


def test_index_weights_and_fixed_model_agree(variables):
    fixed = nb.to_arch(4321)
    apply, x = jax.jit(model_fns(SMALL).apply), images()
    by_index = apply(variables, x, nb.SPACE.sampled(fixed))
    by_weights = apply(variables, x, nb.SPACE.one_hot(fixed))
    plain = jaxnas.apply_fixed_architecture(SMALL, fixed)
    by_name = jax.jit(plain.apply)(jaxnas.inherit(plain, variables, x), x)
    assert by_index.shape == (2, 3)
    np.testing.assert_allclose(by_index, by_weights, atol=1e-5)
    np.testing.assert_allclose(by_index, by_name, atol=1e-5)


def test_cells_share_decisions_but_not_weights(variables):
    kernel = variables["params"]["stage_1"]["cells"]["edge_0_1"]["candidates_nor_conv_3x3"]["conv"]["kernel"]
    assert kernel.shape == (2, 3, 3, 8, 8)
    assert not np.allclose(kernel[0], kernel[1])


def test_a_cell_computes_the_sum_of_its_paths():
    x = images()
    cell = Cell(3, False)
    arch = StaticArch(same(**{"1<-0": "skip_connect", "3<-1": "skip_connect", "3<-0": "skip_connect"}))
    np.testing.assert_allclose(cell.apply({}, x, arch), 2 * x, atol=1e-6)
    arch = StaticArch(same(**{"2<-0": "avg_pool_3x3", "3<-2": "skip_connect"}))
    pooled = cell.apply({}, x, arch)
    # The corner has four neighbours inside the image, itself among them.
    np.testing.assert_allclose(pooled[:, 0, 0], x[:, :2, :2].mean((1, 2)), atol=1e-6)
    np.testing.assert_allclose(pooled[:, 4, 4], x[:, 3:6, 3:6].mean((1, 2)), atol=1e-6)
    np.testing.assert_array_equal(cell.apply({}, x, StaticArch(same())), 0 * x)


def test_the_reduction_pads_alike_on_all_sides_and_pools_its_shortcut():
    ones = jnp.ones((1, 4, 4, 1))
    layer = ReluConvNorm(1, 3, 2)
    variables = layer.init(jax.random.key(0), ones)
    variables["params"]["conv"]["kernel"] = jnp.ones((3, 3, 1, 1))
    # 3×3 windows of stride 2 around the pixels 0 and 2: of 4, 6, 6 and 9 pixels (SAME would have 9, 6, 6, 4).
    np.testing.assert_allclose(layer.apply(variables, ones)[0, :, :, 0], [[4, 6], [6, 9]], rtol=1e-4)


def test_with_search_norm_every_batch_is_normalised_by_itself():
    layer = ReluConvNorm(4, 3, search_norm=True)
    x = images(batch=8)
    variables = layer.init(jax.random.key(1), x)
    assert jax.tree.map(jnp.shape, variables) == {"params": {"conv": {"kernel": (3, 3, 3, 4)}}}
    y = layer.apply(variables, x, train=False)
    np.testing.assert_allclose(y.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(y.std((0, 1, 2)), 1, atol=1e-4)
    assert_trees_close(layer.apply(variables, 3 * x, train=True), y, atol=1e-3)
    whole = nasbench201(channels=4, cells=1, search_norm=True)
    shapes = jax.eval_shape(model_fns(whole).init, jax.random.key(1), x, nb.SPACE.uniform())
    assert set(shapes) == {"params"}
    assert not any("norm" in str(path) for path, _ in jax.tree_util.tree_leaves_with_path(shapes))


@pytest.mark.parametrize("options", [{"channels": 0}, {"cells": -1}, {"num_classes": 1.5}])
def test_sizes_are_positive_integers(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} must be a positive integer"):
        nasbench201(**options)


def test_images_that_cannot_be_halved_twice_are_refused():
    with pytest.raises(ValueError, match=r"divisible by 4 are expected; got shape \(1, 30, 32, 3\)"):
        jaxnas.space(nasbench201(), jax.ShapeDtypeStruct((1, 30, 32, 3), jnp.float32))
