"""Freezing of operations by gradient matching (OLES), against numbers worked out in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax.traverse_util import flatten_dict

import jaxnas
from jaxnas import LayerChoice, parts, spaces
from jaxnas.model.operations import operations
from jaxnas.oneshot.differentiable import Parts, algorithm
from jaxnas.oneshot.parts.part import Seen

NAMES = ("first", "shared", "everywhere", "p", "within", "after")


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, arch):
        x = LayerChoice(
            {"dense": nn.Dense(4), "wide": nn.Sequential([nn.Dense(8), nn.tanh, nn.Dense(4)]), "id": jnp.tanh}
        )(x, arch)
        return nn.Dense(2, name="head")(x)


class Scale(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x * self.param("scale", nn.initializers.ones, (3,))


class Named(nn.Module):
    """Candidates that the choice owns, so that their parameters lie below it."""

    def setup(self):
        self.c = LayerChoice({"a": nn.Dense(3), "b": Scale()})
        self.head = nn.Dense(2)

    def __call__(self, x, arch):
        return self.head(self.c(x, arch))


class Nested(nn.Module):
    """Layers in sequence, a nested choice, a layer that two candidates share, and one that is used outside too."""

    @nn.compact
    def __call__(self, x, arch):
        shared, everywhere = nn.Dense(4, name="shared"), nn.Dense(4, name="everywhere")
        inner = LayerChoice({"p": nn.Dense(4, name="p"), "q": Scale2(name="q")}, key="inner")
        first = nn.Sequential([nn.Dense(4, name="first"), nn.tanh, shared])
        x = LayerChoice({"deep": first, "nest": Holder(inner), "again": shared, "out": everywhere}, key="outer")(
            x, arch
        )
        return everywhere(x)


class Scale2(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(4, name="within")(x)


class Holder(nn.Module):
    choice: nn.Module

    @nn.compact
    def __call__(self, x, arch):
        return nn.Dense(4, name="after")(self.choice(x, arch))


def freezing(model, x, threshold=0.4, every=2):
    return parts.gradient_matching(threshold, every=every).for_model(Seen(model, jaxnas.space(model, x), x, None))


def cosine(a, b):
    a, b = np.ravel(a), np.ravel(b)
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


def test_an_operation_is_frozen_by_its_mean_cosine_over_all_of_its_weights():
    rule = freezing(Named, jnp.ones((2, 3)))
    rng = np.random.RandomState(0)
    params = {
        "c": {
            "candidates_a": {"kernel": rng.randn(3, 3), "bias": rng.randn(3)},
            "candidates_b": {"scale": rng.randn(3)},
        },
        "head": {"kernel": rng.randn(2)},
    }
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)
    state = rule.init(params)
    assert set(state.frozen) == {"c/a", "c/b"}
    a = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(params["c"]["candidates_a"])])
    turned = jax.tree.map(lambda leaf: leaf, params)
    turned["c"]["candidates_b"]["scale"] = jnp.asarray([1.0, 0, 0])
    theirs = {**turned, "c": {**turned["c"], "candidates_b": {"scale": jnp.asarray([0.6, 0.8, 0])}}}
    state = rule.observe(state, turned, theirs)
    np.testing.assert_allclose(state.total["c/a"], 1, atol=1e-6)
    np.testing.assert_allclose(state.total["c/b"], 0.6, atol=1e-6)
    other = jax.tree.map(lambda leaf: jnp.flip(leaf), theirs)
    flipped = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(other["c"]["candidates_a"])])
    zero = {**other, "c": {**other["c"], "candidates_b": {"scale": jnp.zeros(3)}}}  # undefined: no evidence
    expected = (1 + cosine(a, flipped)) / 2
    for threshold in (expected - 0.01, expected + 0.01):
        rule = freezing(Named, jnp.ones((2, 3)), float(threshold))
        after = rule.observe(state, turned, zero)
        assert bool(after.frozen["c/a"]) is bool(threshold > expected)
        assert bool(after.frozen["c/b"]) is bool(threshold > 0.6)
        assert int(after.step) == 0
        assert not np.any(after.total["c/a"])
    again = rule.observe(rule.observe(after, turned, turned), turned, turned)
    assert bool(again.frozen["c/a"])  # for good, though it matches now
    moves = rule.trained(again, params)
    assert not moves["c"]["candidates_a"]["kernel"].any()
    assert moves["head"]["kernel"].all()


def test_a_step_compares_its_two_gradients_and_leaves_frozen_weights_alone():
    x = np.random.RandomState(1).randn(2, 8, 4).astype(np.float32)
    y = (x[..., 0] > 0).astype(np.int32)
    space = jaxnas.space(Net, x[0])

    def made(threshold, every):
        sgd = optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.1, momentum=0.9))
        return algorithm(
            Net,
            space,
            Parts(freeze=parts.gradient_matching(threshold, every=every)),
            weight_optimizer=sgd,
            arch_optimizer=optax.adam(0.1),
            steps=10,
            grad_clip=None,
            example=x[0],
        )

    train, valid = (x[0], y[0]), (x[1], y[1])
    search = made(0.4, 20)
    state = search.init(jax.random.key(0), train)
    after, report = jax.jit(search.step)(state, train, valid)
    assert float(report["frozen_operations"]) == 0

    def loss(params, logits, batch):
        output = Net().apply({"params": params}, batch[0], jax.tree.map(jax.nn.softmax, logits))
        return optax.softmax_cross_entropy_with_integer_labels(output, batch[1]).mean()

    ours = flatten_dict(jax.grad(loss)(state.params, after.alphas, train))
    theirs = flatten_dict(jax.grad(loss)(state.params, state.alphas, valid))
    modules = {"dense": {"Dense_0"}, "wide": {"Dense_1", "Dense_2"}}
    assert {name.split("/")[-1] for name in after.matching.total} == set(modules)
    for name, total in after.matching.total.items():
        of = [path for path in ours if path[0] in modules[name.split("/")[-1]]]
        expected = cosine(*(np.concatenate([np.ravel(each[path]) for path in of]) for each in (ours, theirs)))
        np.testing.assert_allclose(total, expected, rtol=1e-4, atol=1e-5)

    search = made(1.0, 1)  # no mean cosine is above 1: all are frozen at once
    frozen, report = jax.jit(search.step)(state, train, valid)
    assert float(report["frozen_operations"]) == 2
    for path, leaf in flatten_dict(frozen.params).items():
        assert np.array_equal(leaf, flatten_dict(state.params)[path]) == (path[0] != "head"), path


def test_parameters_belong_to_the_candidate_that_alone_uses_them():
    x = jnp.ones((2, 4))
    space = jaxnas.space(Nested, x)
    place = operations(Nested, space, x)
    made = flatten_dict(Nested().init(jax.random.key(0), x, space.uniform())["params"])
    found = {path: place(path) for path in made}
    assert {found[path][0] for path in made if found[path] and path[0] == "first"} == {"LayerChoice_1/deep"}
    owners = {
        next(name for name in path if name in NAMES): found[path] and found[path][0].split("/")[-1] for path in made
    }
    assert owners == {"first": "deep", "shared": None, "everywhere": None, "p": "p", "within": "q", "after": "nest"}


@pytest.mark.parametrize(
    ("model", "shape", "stacks"),
    [
        (spaces.nasbench201(cells=2, channels=4), (2, 8, 8, 3), {(2,)}),
        (spaces.darts(cells=4, channels=4), (2, 8, 8, 3), {(14,), (1, 14), (8,)}),
    ],
    ids=["nasbench201", "darts"],
)
def test_each_operation_of_each_cell_has_its_own_number(model, shape, stacks):
    x, space = jax.ShapeDtypeStruct(shape, jnp.float32), model.known_space()
    made = jax.eval_shape(model.init, jax.random.key(0), x, space.uniform())
    state = jax.eval_shape(freezing(model, x).init, made["params"])
    assert {leaf.shape for leaf in state.frozen.values()} == stacks
    moves = jax.eval_shape(freezing(model, x).trained, state, made["params"])
    jax.tree.map(lambda move, leaf: np.broadcast_shapes(move.shape, leaf.shape), moves, made["params"])


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"threshold must be a number in \[-1, 1\], a mean cosine; got 2"):
        jaxnas.oles.method(threshold=2)
    with pytest.raises(ValueError, match="every must be"):
        jaxnas.oles.method(every=0)
    with pytest.raises(ValueError, match="freeze compares the gradients of two batches in a step"):
        jaxnas.differentiable("mine", freeze=parts.gradient_matching(), single_level=True)
