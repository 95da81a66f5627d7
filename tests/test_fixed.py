"""Fixed models: what they hold, what they refuse, what they inherit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from helpers import ZOO_ARCH, Block, Zoo, assert_trees_close

import jaxnas
from jaxnas import LayerChoice


def test_a_fixed_model_is_a_plain_module(inputs):
    model = jaxnas.apply_fixed_architecture(Zoo, ZOO_ARCH)
    assert isinstance(model, nn.Module)
    variables = model.init(jax.random.key(0), inputs)
    output = jax.jit(model.apply)(variables, inputs)
    assert output.shape == (8, 2)
    _, updates = model.apply(variables, inputs, train=True, mutable=["batch_stats"])
    assert_trees_close(
        jax.tree.map(jnp.shape, updates["batch_stats"]), jax.tree.map(jnp.shape, variables["batch_stats"])
    )
    total = sum(leaf.size for leaf in jax.tree.leaves(variables))
    table = nn.tabulate(model, jax.random.key(0), console_kwargs={"force_terminal": False})(inputs)
    assert f"Total Parameters: {total} " in table


def test_a_fixed_model_equals_the_same_model_written_by_hand(inputs):
    class Open(nn.Module):
        @nn.compact
        def __call__(self, x, arch):
            x = LayerChoice([nn.Dense(5), nn.Dense(5)], key="a")(x, arch)
            return LayerChoice({"tiny": nn.Dense(3), "dense": nn.Dense(3)}, key="b")(x, arch)

    class ByHand(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3, name="Dense_3")(nn.Dense(5, name="Dense_1")(x))

    model = jaxnas.apply_fixed_architecture(Open, {"a": 1, "b": "dense"})
    ours, hand = model.init(jax.random.key(0), inputs), ByHand().init(jax.random.key(0), inputs)
    assert_trees_close(ours, hand)
    np.testing.assert_allclose(model.apply(ours, inputs), ByHand().apply(hand, inputs))


def test_fixed_models_can_be_part_of_other_models(inputs):
    class Outer(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(1)(jaxnas.apply_fixed_architecture(Zoo, ZOO_ARCH)(x))

    variables = Outer().init(jax.random.key(0), inputs)
    assert Outer().apply(variables, inputs).shape == (8, 1)


class Cell(nn.Module):
    """A choice with a default key."""

    @nn.compact
    def __call__(self, x, arch, train: bool = False):
        return LayerChoice([Block(3), nn.Dense(3)])(x, arch, train=train)


class Holder(nn.Module):
    """A model that is given its parts as fields."""

    body: nn.Module
    more: tuple

    @nn.compact
    def __call__(self, x, arch, train: bool = False):
        x = self.body(x, arch)
        for part in self.more:
            x = part(x, arch, train=train)
        return nn.Dense(2)(x)


@pytest.mark.parametrize(
    "model",
    [
        Holder(Cell(), (Cell(), LayerChoice([nn.Dense(3), nn.Dense(3)]))),
        nn.Sequential([LayerChoice([nn.Dense(4), nn.Dense(4)]), nn.relu, nn.Dense(2)]),
        LayerChoice([nn.Dense(4), nn.Dense(4)]),
    ],
)
def test_default_keys_hold_in_fixed_models_that_are_given_their_parts(inputs, model):
    space = jaxnas.space(model, inputs)
    assert len(space) == (3 if isinstance(model, Holder) else 1)
    variables = model.init(jax.random.key(0), inputs, arch=space.uniform()) if isinstance(model, Holder) else None
    variables = variables or model.init(jax.random.key(0), inputs, space.uniform())
    arch = dict.fromkeys(space, 1)
    fixed = jaxnas.apply_fixed_architecture(model, arch)
    inherited = jaxnas.inherit(fixed, variables, inputs)
    expected = model.apply(variables, inputs, space.one_hot(arch))
    np.testing.assert_allclose(fixed.apply(inherited, inputs), expected, atol=1e-6)


def test_what_is_no_architecture_is_refused():
    for wrong in (None, 3, [1], b"a.json", {1: 0}):
        with pytest.raises(jaxnas.ArchitectureError, match="architecture"):
            jaxnas.apply_fixed_architecture(Zoo, wrong)


def test_train_and_progress_are_accepted_by_models_that_do_not_take_them(inputs):
    class NoTrain(nn.Module):
        @nn.compact
        def __call__(self, x, arch):
            return LayerChoice([nn.Dense(4)], key="k")(x, arch)

    model = jaxnas.apply_fixed_architecture(NoTrain, {"k": 0})
    variables = model.init(jax.random.key(0), inputs)
    assert model.apply(variables, inputs, train=True, progress=0.5).shape == (8, 4)
    with pytest.raises(TypeError, match="another"):
        model.apply(variables, inputs, another=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"two": None}, "'two'"),
        ({"extra": 0}, r"unexpected keys: \['extra'\]"),
        ({"layer": "nst"}, "'layer'.*'nst'.*did you mean 'nest'"),
        ({"inner": 2}, "'inner'.*index 2.*0 to 1"),
        ({"inner": 0.3}, "'inner'.*0.3"),
        ({"inner": [0.3, 0.7]}, "'inner'.*0.3"),
        ({"inner": jnp.array([0.3, 0.7])}, "'inner'"),
        ({"inner": [True, False, False]}, "'inner'.*3.*2"),
        ({"inner": [True, True]}, "'inner'.*2 chosen"),
        ({"inner": [False, False]}, "'inner'.*none chosen"),
        ({"two": ["x"]}, "'two'.*1 chosen.*2"),
        ({"skip": 1}, "'skip'.*index 1"),
    ],
)
def test_architectures_that_do_not_fit_are_refused(inputs, change, message):
    with pytest.raises(jaxnas.ArchitectureError, match=message):
        jaxnas.apply_fixed_architecture(Zoo, {**ZOO_ARCH, **change}).init(jax.random.key(0), inputs)


def test_missing_keys_are_named(inputs):
    arch = {k: v for k, v in ZOO_ARCH.items() if k != "one"}
    with pytest.raises(jaxnas.ArchitectureError, match=r"missing keys: \['one'\]"):
        jaxnas.apply_fixed_architecture(Zoo, arch).init(jax.random.key(0), inputs)
    model = jaxnas.apply_fixed_architecture(Zoo, arch)
    with pytest.raises(jaxnas.ArchitectureError, match="'one'"):
        model.apply(Zoo().init(jax.random.key(0), inputs, jaxnas.space(Zoo, inputs).uniform()), inputs)


def test_inherit_refuses_weights_of_another_model(inputs):
    model = jaxnas.apply_fixed_architecture(Zoo, ZOO_ARCH)
    with pytest.raises(jaxnas.ArchitectureError, match="supernet's variables have no"):
        jaxnas.inherit(model, {"params": {}}, inputs)
    space = jaxnas.space(Zoo, inputs)
    variables = Zoo().init(jax.random.key(0), jnp.ones((8, 5)), space.uniform())
    with pytest.raises(jaxnas.ArchitectureError, match=r"\(5, 4\).*\(3, 4\)"):
        jaxnas.inherit(model, variables, inputs)


def test_inherit_takes_only_what_is_chosen(inputs):
    space = jaxnas.space(Zoo, inputs)
    variables = Zoo().init(jax.random.key(0), inputs, space.uniform())
    inherited = jaxnas.inherit(jaxnas.apply_fixed_architecture(Zoo, ZOO_ARCH), variables, inputs)
    own, whole = (len(jax.tree.leaves(v)) for v in (inherited, variables))
    assert own < whole
    flat = {jax.tree_util.keystr(p): leaf for p, leaf in jax.tree_util.tree_leaves_with_path(variables)}
    for path, leaf in jax.tree_util.tree_leaves_with_path(inherited):
        np.testing.assert_array_equal(leaf, flat[jax.tree_util.keystr(path)])


def test_a_ready_made_space_checks_an_architecture_at_once():
    arch = dict.fromkeys(("1<-0", "2<-0", "2<-1", "3<-0", "3<-1"), "none")
    for model in (jaxnas.spaces.nasbench201(), jaxnas.spaces.darts(), jaxnas.spaces.darts_evaluation()):
        with pytest.raises(jaxnas.ArchitectureError, match="missing keys"):
            jaxnas.apply_fixed_architecture(model, arch)
    small = jaxnas.spaces.nasbench201(channels=4, cells=1)
    assert small.known_space() == jaxnas.space(small, jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32))
    for cells in (1, 2, 8):
        darts = jaxnas.spaces.darts(cells=cells, channels=4)
        assert darts.known_space() == jaxnas.space(darts, jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32))
