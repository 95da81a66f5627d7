"""The evaluation network of the DARTS space: the authors' numbers, parts by hand, drop-path, kinds of values."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_trees_close

import jaxnas
from jaxnas import spaces
from jaxnas.model.architecture import StaticArch
from jaxnas.model.graph import trace_graph
from jaxnas.spaces import DARTS_V1, DARTS_V2, Genotype, arch_of
from jaxnas.spaces.darts_evaluation import Cell, Row, Shape, operations, sample_paths, shapes
from jaxnas.spaces.genotypes import CHOICES

pytestmark = pytest.mark.usefixtures("quickly_compiled")

V2 = arch_of(DARTS_V2)
TINY = functools.partial(spaces.darts_evaluation, channels=4, cells=3)
IMAGES = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))


def same(operation, reduce=None):
    """An architecture whose edges all have one operation; each node takes its first two sources."""
    edges = [(operation, source) for _ in range(4) for source in (0, 1)]
    reduced = [(reduce or operation, source) for _, source in edges]
    return arch_of(Genotype(edges, range(2, 6), reduced, range(2, 6)))


def variables_of(model, *inputs, **options):
    """Random variables, of scale, offset and statistics too. Initialising would compile much more."""
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), *inputs, **options))
    draw = np.random.RandomState(1)

    def random(path, leaf):
        values = draw.uniform(0.5, 1.5, leaf.shape) if path[-1].key in ("scale", "var") else draw.randn(*leaf.shape) / 3
        return jnp.asarray(values, jnp.float32)

    return jax.tree_util.tree_map_with_path(random, shapes)


@pytest.mark.parametrize(("genotype", "parameters"), [(DARTS_V2, 3_349_342), (DARTS_V1, 3_169_414)])
def test_the_published_genotypes_have_the_published_number_of_parameters(genotype, parameters):
    model, arch = spaces.darts_evaluation(), StaticArch(arch_of(genotype))
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), arch))
    sizes = {name: sum(leaf.size for leaf in jax.tree.leaves(part)) for name, part in variables["params"].items()}
    auxiliary = sizes.pop("auxiliary")
    assert sum(sizes.values()) == parameters
    # 1×1 and 2×2 convolutions, two normalisations, logits
    assert auxiliary == 576 * 128 + 2 * 128 + 4 * 128 * 768 + 2 * 768 + 768 * 10 + 10


def test_cells_of_one_shape_are_scanned():
    """What differs in a network of 20 cells, by hand."""
    found = shapes(36, 20)
    assert found[0] == found[1]._replace(inputs=(108, 108)) == Shape(False, False, 36, (108, 108))
    assert set(found[2:6]) == {Shape(False, False, 36, (144, 144))}
    assert found[6] == Shape(True, False, 72, (144, 144))
    assert found[7] == Shape(False, True, 72, (144, 288))
    assert set(found[8:13]) == {Shape(False, False, 72, (288, 288))}
    assert found[13] == Shape(True, False, 144, (288, 288))
    assert found[14] == Shape(False, True, 144, (288, 576))
    assert set(found[15:]) == {Shape(False, False, 144, (576, 576))}
    assert [len(list(itertools.groupby(shapes(36, cells)))) for cells in (20, 50)] == [9, 9]  # as many to compile


def test_a_row_is_its_cells_one_after_the_other():
    model = spaces.darts_evaluation(channels=2, cells=12)
    parts = jax.eval_shape(lambda: model.init(jax.random.key(0), IMAGES, StaticArch(same("avg_pool_3x3"))))["params"]
    assert {"cell_0", "cell_1", "cells_2_to_3", "cell_4", "cell_5", "cells_6_to_7", "cell_8"} < set(parts)

    shape, arch = Shape(False, False, 2, (8, 8)), StaticArch(same("dil_conv_3x3"))
    before, last = jax.random.normal(jax.random.key(0), (2, 2, 4, 4, 8))
    kept = sample_paths(jax.random.key(1), 0.5, (2, 14, 2))
    row, cell = Row(shape, 2), Cell(shape)
    variables = variables_of(row, before, last, arch, kept, False)
    found = jax.jit(lambda variables: row.apply(variables, before, last, arch, kept, False))(variables)
    for i in range(2):
        own = {kind: jax.tree.map(lambda leaf, i=i: leaf[i], tree["cell"]) for kind, tree in variables.items()}
        before, last = last, jax.jit(cell.apply, static_argnums=(3, 5))(own, before, last, arch, kept[i], False)
    assert_trees_close(found, (before, last), atol=1e-5)


def test_one_hot_weights_and_sampled_values_compute_what_the_fixed_model_computes():
    model, fixed = TINY(), jaxnas.apply_fixed_architecture(TINY, V2)
    whole = variables_of(model, IMAGES, CHOICES.uniform())
    inherited = jaxnas.inherit(fixed, whole, IMAGES)
    expected = jax.jit(fixed.apply)(inherited, IMAGES)
    assert np.abs(expected).max() > 0.1
    filled = {key: value or "none" for key, value in V2.items()}  # an unused edge has some operation
    for arch in (CHOICES.one_hot(V2), CHOICES.sampled(filled)):
        np.testing.assert_allclose(jax.jit(model.apply)(whole, IMAGES, arch), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("operation", ["sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5"])
def test_convolutions_of_stride_2_are_centred_on_even_pixels(operation):
    """As in PyTorch, whose padding is alike on all sides: "SAME" would be centred on odd ones."""
    x = jax.random.normal(jax.random.key(0), (1, 6, 8, 2))
    layer = operations(2)[operation]
    variables = jax.tree.map(jnp.asarray, layer.init(jax.random.key(0), x))
    for name, part in variables["params"].items():
        if name.startswith("depthwise"):  # the pixel at the centre
            kernel = jnp.zeros_like(part["kernel"])
            part["kernel"] = kernel.at[kernel.shape[0] // 2, kernel.shape[1] // 2].set(1.0)
        elif name.startswith("pointwise"):
            part["kernel"] = jnp.eye(2)[None, None]
    normalised = 1 / np.sqrt(1 + 1e-5)
    expected = np.maximum(x[:, ::2, ::2], 0) * normalised ** len(variables["batch_stats"])
    np.testing.assert_allclose(layer.apply(variables, x), expected, atol=1e-6)


def test_operations_of_stride_2_halve_and_those_without_weights_have_no_variables():
    x = jax.random.normal(jax.random.key(0), (1, 7, 8, 4))
    made = operations(2)
    for name in ("none", "max_pool_3x3", "avg_pool_3x3"):
        assert made[name](x).shape == (1, 4, 4, 4)
    np.testing.assert_allclose(made["avg_pool_3x3"](x)[0, 0, 0], x[0, :2, :2].mean((0, 1)), rtol=1e-6)
    np.testing.assert_array_equal(made["max_pool_3x3"](x)[0, 1, 1], x[0, 1:4, 1:4].max((0, 1)))
    assert not made["none"](x).any()
    for name in ("skip_connect", "sep_conv_5x5", "dil_conv_5x5"):
        output, variables = made[name].init_with_output(jax.random.key(0), x)
        assert output.shape == (1, 4, 4, 4)
        assert set(variables) == {"params", "batch_stats"}


# ---------------------------------------------------------------------- drop-path


def test_dropped_paths_are_zero_and_the_others_make_up_for_them():
    kept = sample_paths(jax.random.key(0), 0.2, (20, 14, 96))
    np.testing.assert_allclose(np.unique(kept), [0, 1.25], rtol=1e-6)
    np.testing.assert_allclose(kept.mean(), 1, atol=0.02)
    np.testing.assert_array_equal(sample_paths(jax.random.key(0), 0.0, (3, 14, 4)), np.ones((3, 14, 4)))


def test_every_path_but_the_identity_is_dropped_for_each_example():
    shape = Shape(False, False, 4, (4, 4))
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 4))
    kept = jnp.tile(jnp.asarray([0.0, 2.0]), (14, 1))  # of the first example all paths are dropped; twice is exact
    for operation, factor in (("skip_connect", 1.0), ("sep_conv_3x3", 2.0), ("max_pool_3x3", 2.0)):
        cell, arch = Cell(shape), StaticArch(same(operation))
        variables = variables_of(cell, x, x, arch, None, False)
        plain, dropped = (cell.apply(variables, x, x, arch, paths, False) for paths in (None, kept))
        assert np.abs(plain[1]).max() > 1e-3
        np.testing.assert_allclose(dropped[1], factor * plain[1], rtol=1e-5)
        np.testing.assert_allclose(dropped[0], plain[0] if operation == "skip_connect" else np.zeros_like(plain[0]))
    halved = operations(2)["skip_connect"]  # is no identity
    output, _ = halved.init_with_output(jax.random.key(0), x, kept=kept[0])
    assert not output[0].any()
    assert output[1].any()


def test_paths_are_dropped_in_training_as_it_progresses():
    arch = same("avg_pool_3x3")
    model = jaxnas.apply_fixed_architecture(functools.partial(TINY, drop_path=0.5), arch)
    variables = variables_of(model, IMAGES)

    @functools.partial(jax.jit, static_argnames="train")
    def logits(progress, rng, train=True):
        output, _ = model.apply(
            variables, IMAGES, train=train, progress=progress, rngs={"dropout": rng}, mutable=["batch_stats"]
        )
        return output[0] if train else output

    first, second = jax.random.split(jax.random.key(1))
    plain = model.apply(variables, IMAGES, train=True, mutable=["batch_stats"])[0][0]  # without progress, no key needed
    np.testing.assert_allclose(logits(0.0, first), plain, atol=1e-5)
    np.testing.assert_array_equal(logits(0.9, first), logits(0.9, first))
    assert np.abs(logits(0.9, first) - plain).max() > 1e-3
    assert np.abs(logits(0.9, first) - logits(0.9, second)).max() > 1e-3
    np.testing.assert_array_equal(logits(0.9, first, train=False), logits(0.0, second, train=False))


# ---------------------------------------------------------------------- the rest


def test_reports_can_draw_its_cells():
    graph = trace_graph(TINY(), IMAGES)
    normal, reduce = graph["cells"]
    assert (normal["name"], reduce["name"]) == ("normal", "reduce")
    assert normal["nodes"] == ["c_{k-2}", "c_{k-1}", "0", "1", "2", "3", "c_k"]
    decided = [edge for edge in normal["edges"] if edge["choice"]]
    assert len(decided) == 14
    assert decided[-1]["choice"] == "normal/5<-4"
    assert decided[-1]["switch"] == ["normal/5", 4]
    assert [edge["source"] for edge in normal["edges"] if not edge["choice"]] == ["0", "1", "2", "3"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cells": 0}, "cells must be a positive integer"),
        ({"channels": 5}, "must be even"),
        ({"drop_path": 1.0}, r"drop_path must be in \[0, 1\); got 1.0"),
    ],
)
def test_bad_sizes_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        spaces.darts_evaluation(**options)
