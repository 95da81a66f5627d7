"""ENAS's spaces: what they let one choose, and that all forms of an architecture compute the same."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from helpers import assert_trees_close

import jaxnas
from jaxnas import spaces
from jaxnas.model.functional import model_fns
from jaxnas.programs.evaluation import cross_entropy, with_auxiliary
from jaxnas.spaces.enas_micro import Cell
from jaxnas.spaces.layers import FactorizedReduction

pytestmark = pytest.mark.usefixtures("quickly_compiled")

IMAGE = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
MACRO = spaces.enas_macro(layers=3, filters=4, num_classes=3, dropout=0.0)
MICRO = spaces.enas_micro(cells=2, nodes=2, filters=4, num_classes=3, dropout=0.0)
SMALL = {"macro": MACRO, "micro": MICRO}


def images(n=4, size=8, seed=0):
    return jnp.asarray(np.random.RandomState(seed).randn(n, size, size, 3), jnp.float32)


def test_macro_has_the_choices_of_the_paper():
    space = jaxnas.space(spaces.enas_macro(), IMAGE)
    assert len(space) == 23
    assert space.size == 6**12 * 2**66
    assert space["layer_0/op"].names == (
        *("conv_3x3", "sep_conv_3x3", "conv_5x5", "sep_conv_5x5", "avg_pool_3x3", "max_pool_3x3"),
    )
    assert "layer_0/skip" not in space
    assert space["layer_1/skip"].names == ("stem",)
    assert space["layer_11/skip"].names == ("stem", *(f"layer_{i}" for i in range(10)))
    assert space["layer_11/skip"].n_chosen is None


def test_micro_has_the_choices_of_the_paper():
    space = jaxnas.space(spaces.enas_micro(), IMAGE)
    assert len(space) == 40
    assert space.size == (5**5 * math.factorial(6)) ** 4
    assert space["normal/node_0/x_input"].names == ("normal/before_last", "normal/last")
    assert space["reduce/node_4/y_input"].n_candidates == 6
    assert space["normal/node_2/y_op"].names == (
        *("sep_conv_3x3", "sep_conv_5x5", "avg_pool_3x3", "max_pool_3x3", "identity"),
    )


@pytest.fixture(scope="module", params=["macro", "micro"])
def supernet(request):
    model = SMALL[request.param]
    x = images()
    space = jaxnas.space(model, x)
    variables = model_fns(model).init(jax.random.key(0), x, space.sample(jax.random.key(1)))
    stats = jax.tree.map(lambda leaf: leaf - 0.3, variables["batch_stats"])
    return model, space, {**variables, "batch_stats": stats}, x


def test_index_one_hot_and_fixed_compute_the_same(supernet):
    model, space, variables, x = supernet
    functions = model_fns(model)
    run = jax.jit(lambda arch: functions.apply(variables, x, arch))
    train = jax.jit(lambda arch: functions.apply(variables, x, arch, train=True, mutable=["batch_stats"]))
    for seed in range(4):
        arch = space.sample(jax.random.key(seed))
        fixed = jaxnas.apply_fixed_architecture(model, space.fixed(arch))
        own = jaxnas.inherit(fixed, variables, x)
        expected = fixed.apply(own, x)
        assert float(jnp.std(expected)) > 1e-3
        np.testing.assert_allclose(run(arch), expected, atol=1e-4, rtol=1e-4)
        np.testing.assert_allclose(run(space.one_hot(arch)), expected, atol=1e-4, rtol=1e-4)
        outputs, updates = train(arch)
        expected, own_updates = fixed.apply(own, x, train=True, mutable=["batch_stats"])
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4, rtol=1e-4), outputs, expected)
        have = dict(jax.tree_util.tree_leaves_with_path(updates))
        for path, leaf in jax.tree_util.tree_leaves_with_path(own_updates):
            np.testing.assert_allclose(have[path], leaf, atol=1e-4, rtol=1e-4)
    assert run._cache_size() == 2  # one program for indices, one for weights


def test_the_chosen_path_gets_gradients_and_no_other_candidate(supernet):
    model, space, variables, x = supernet
    functions = model_fns(model)
    arch = space.sample(jax.random.key(2))

    def loss(params):
        outputs, _ = functions.apply(
            {**variables, "params": params}, x, arch, train=True, mutable=["batch_stats"], rngs=jax.random.key(0)
        )
        return sum((jnp.sin(output + 0.1 * jnp.arange(3)) * output).sum() for output in jax.tree.leaves(outputs))

    gradients = dict(jax.tree_util.tree_leaves_with_path(jax.jit(jax.grad(loss))(variables["params"])))
    fixed = jaxnas.apply_fixed_architecture(model, space.fixed(arch))
    used = {path for path, _ in jax.tree_util.tree_leaves_with_path(jaxnas.inherit(fixed, variables, x)["params"])}
    moved = {path for path, gradient in gradients.items() if bool(jnp.any(gradient != 0))}
    assert moved <= used
    # A reduction of an output that nothing takes stands idle.
    assert not [path for path in used - moved if not str(path[0]).startswith("['reduction")]


@pytest.mark.parametrize(
    "model",
    [
        spaces.enas_macro(layers=2, filters=2, num_classes=3),
        spaces.enas_micro(cells=1, nodes=1, filters=2, num_classes=3),
    ],
)
def test_darts_steps_and_final_training_run_on_both(model):
    x, y = np.asarray(images(32)), np.arange(32) % 3
    space = jaxnas.space(model, x)
    algorithm = jaxnas.darts.algorithm(
        model,
        space,
        weight_optimizer=optax.sgd(0.05),
        arch_optimizer=optax.adam(1e-2),
        loss_fn=with_auxiliary(cross_entropy),
    )
    state = algorithm.init(jax.random.key(0), (x, y))
    new, metrics = jax.jit(algorithm.step)(state, (x, y), (x, y))
    assert np.isfinite(metrics["valid_loss"])
    for key in space:
        if space[key].size > 1:
            assert not np.allclose(new.alphas[key], state.alphas[key], atol=1e-3), key
    trained = jaxnas.training.fit(
        jaxnas.apply_fixed_architecture(model, algorithm.derive(new)), (x, y, x, y), epochs=6, batch_size=16,
        progress=False, optimizer=optax.sgd(0.05, momentum=0.9), test_every=6,
    )  # fmt: skip
    assert trained.history[-1]["train_loss"] < trained.history[0]["train_loss"]


def test_loose_ends_are_a_convolution_of_the_concatenation():
    x = images(2)
    arch = {
        "normal/node_0/x_input": 0, "normal/node_0/y_input": 0, "normal/node_0/x_op": 4, "normal/node_0/y_op": 2,
        "normal/node_1/x_input": 0, "normal/node_1/y_input": 2, "normal/node_1/x_op": 3, "normal/node_1/y_op": 4,
    }  # fmt: skip
    a, b = jnp.concatenate([x, x[..., :1]], -1), images(2, seed=1)[..., [0, 1, 2, 0]]
    cell = jaxnas.apply_fixed_architecture(Cell("normal", 2, 4), arch)
    variables = cell.init(jax.random.key(0), a, b)
    ends = {name: layer["kernel"] for name, layer in variables["params"].items() if name.startswith("loose")}
    assert sorted(ends) == ["loose_1", "loose_3"]  # the second input and the second node: nobody takes them
    average = nn.avg_pool(a, (3, 3), padding="SAME", count_include_pad=False)
    first = a + average
    second = nn.max_pool(a, (3, 3), padding="SAME") + first
    both = nn.relu(jnp.concatenate([b, second], -1))
    expected = both @ jnp.concatenate([ends["loose_1"][0, 0], ends["loose_3"][0, 0]])
    expected = expected / np.sqrt(1 + 1e-5)  # batch statistics of a new model
    np.testing.assert_allclose(cell.apply(variables, a, b), expected, atol=1e-5)


def test_depth_costs_no_compilation_in_the_micro_space():
    def program(cells):
        model = spaces.enas_micro(cells=cells, nodes=1, filters=4)
        space = jaxnas.space(model, IMAGE)
        arch = space.sample(jax.random.key(0))
        functions = model_fns(model)
        variables = jax.eval_shape(lambda: functions.init(jax.random.key(0), IMAGE, arch))
        return str(jax.make_jaxpr(lambda v, x: functions.apply(v, x, arch))(variables, IMAGE))

    assert program(12).count("\n") < 1.02 * program(6).count("\n")


@pytest.mark.parametrize("size", [(8, 8), (7, 5)])
def test_factorized_reduction_halves_and_sees_every_pixel(size):
    x = jnp.ones((1, *size, 2))
    layer = FactorizedReduction(4)
    variables = layer.init(jax.random.key(0), x)
    output, pull = jax.vjp(lambda x: layer.apply(variables, x), x)
    assert output.shape == (1, -(-size[0] // 2), -(-size[1] // 2), 4)
    seen = pull(jnp.ones_like(output))[0][0].any(-1)
    odd_rows_and_even_columns = np.add.outer(np.arange(size[0]), np.arange(size[1])) % 2 == 1
    assert (seen != odd_rows_and_even_columns).all()


def test_options_change_what_they_say():
    shapes = {}
    for name, model in {
        "plain": spaces.enas_macro(layers=3, filters=4),
        "doubled": spaces.enas_macro(layers=3, filters=4, double_filters=True, num_classes=7),
    }.items():
        arch = jaxnas.space(model, IMAGE).sample(jax.random.key(0))
        shapes[name] = jax.eval_shape(lambda m=model, a=arch: m.init(jax.random.key(0), jnp.zeros(IMAGE.shape), a))
    assert shapes["plain"]["params"]["head"]["kernel"].shape == (4, 10)
    assert shapes["doubled"]["params"]["head"]["kernel"].shape == (16, 7)
    model = spaces.enas_micro(cells=1, nodes=1, filters=4, auxiliary_head=False)
    arch = jaxnas.space(model, IMAGE).sample(jax.random.key(0))
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros(IMAGE.shape), arch))
    assert "auxiliary" not in variables["params"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: spaces.enas_macro(layers=0), "layers must be a positive integer; got 0"),
        (lambda: spaces.enas_macro(filters=5), "filters must be even.*got 5"),
        (lambda: spaces.enas_micro(nodes=2.5), "nodes must be a positive integer; got 2.5"),
        (lambda: spaces.enas_micro(filters=-2), "filters must be a positive integer; got -2"),
    ],
)
def test_bad_sizes_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_dropout_is_for_training_only():
    model = spaces.enas_macro(layers=1, filters=4, dropout=0.5)
    x, arch = images(), {"layer_0/op": jnp.array(0)}
    functions = model_fns(model)
    variables = functions.init(jax.random.key(0), x, arch)

    def run(key, train):
        return functions.apply(variables, x, arch, train=train, rngs=jax.random.key(key), mutable=["batch_stats"])[0]

    assert_trees_close(run(0, False), run(1, False))
    assert not np.allclose(run(0, True), run(1, True))
