"""LayerChoice and InputChoice: the kinds of value, reductions, and Flax and JAX transformations."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from helpers import ZOO_ARCH, Block, Zoo

import jaxnas
from jaxnas import InputChoice, LayerChoice

pytestmark = pytest.mark.usefixtures("quickly_compiled")


def ten_times(x):
    return 10 * x


def identity(x):
    return x


class One(nn.Module):
    """A single LayerChoice of x, 10x and 100x."""

    reduction: str = "sum"
    return_mask: bool = False

    @nn.compact
    def __call__(self, x, arch):
        candidates = {"a": identity, "b": ten_times, "c": lambda x: 100 * x}
        return LayerChoice(candidates, key="k", reduction=self.reduction, return_mask=self.return_mask)(x, arch)


def call(module, value, x=1.0):
    return module.apply({}, jnp.full((1, 2), x), {"k": value})


def test_weights_sum_mean_concat_none_are_as_computed_by_hand():
    weights = jnp.array([0.5, 0.25, 0.0])
    np.testing.assert_allclose(call(One(), weights), [[3.0, 3.0]])
    np.testing.assert_allclose(call(One("mean"), weights), [[1.5, 1.5]])  # over the two that are not zero
    np.testing.assert_allclose(call(One("concat"), weights), [[0.5, 0.5, 2.5, 2.5, 0.0, 0.0]])
    np.testing.assert_allclose(call(One("none"), weights), [[[0.5, 0.5]], [[2.5, 2.5]], [[0.0, 0.0]]])


@pytest.mark.parametrize("value", [1, "b", (1,), [False, True, False], np.int64(1), jnp.array([1])])
def test_every_spelling_of_an_index_chooses_that_candidate(value):
    np.testing.assert_allclose(call(One(), value), [[10.0, 10.0]])


@pytest.mark.parametrize("reduction", ["sum", "mean", "concat"])
def test_one_choice_reduces_to_itself(reduction):
    for value in (2, jnp.array(2)):
        np.testing.assert_allclose(call(One(reduction), value), [[100.0, 100.0]])


def test_reduction_none_gives_a_list():
    for value in (2, jnp.array(2)):
        (only,) = call(One("none"), value)
        np.testing.assert_allclose(only, [[100.0, 100.0]])


def test_mask_says_what_was_chosen():
    for value in (1, jnp.array(1)):
        _, mask = call(One(return_mask=True), value)
        assert mask.dtype == bool
        assert mask.tolist() == [False, True, False]
    _, weights = call(One(return_mask=True), jnp.array([0.5, 0.5, 0.0]))
    np.testing.assert_allclose(weights, [0.5, 0.5, 0.0])


def inputs_of(n):
    return [jnp.full((1, 2), 10.0**i) for i in range(n)]


@pytest.mark.parametrize(
    ("reduction", "weighted", "chosen"),
    [("sum", 505.0, 110.0), ("mean", 252.5, 55.0), ("concat", None, None), ("none", None, None)],
)
def test_input_choice_reduces_as_computed_by_hand(reduction, weighted, chosen):
    choice = InputChoice(n_candidates=3, n_chosen=2, key="k", reduction=reduction)

    def run(value):
        return choice.apply({}, inputs_of(3), {"k": value})

    if weighted is not None:
        np.testing.assert_allclose(run(jnp.array([0.0, 0.5, 5.0])), np.full((1, 2), weighted))
        for value in ((1, 2), jnp.array([1, 2]), jnp.array([False, True, True])):
            np.testing.assert_allclose(run(value), np.full((1, 2), chosen))
    elif reduction == "concat":
        for value in ((1, 2), jnp.array([1, 2])):
            np.testing.assert_allclose(run(value), [[10, 10, 100, 100]])
        np.testing.assert_allclose(run(jnp.array([False, True, True])), [[0, 0, 10, 10, 100, 100]])
    else:
        assert [float(t[0, 0]) for t in run((1, 2))] == [10, 100]
        assert [float(t[0, 0]) for t in run(jnp.array([1, 2]))] == [10, 100]


def test_empty_subset_is_none_when_fixed_and_zeros_when_sampled():
    choice = InputChoice(n_candidates=2, key="k", return_mask=True)
    output, mask = choice.apply({}, inputs_of(2), {"k": ()})
    assert output is None
    assert mask.tolist() == [False, False]
    output, mask = choice.apply({}, inputs_of(2), {"k": jnp.zeros(2, bool)})
    np.testing.assert_allclose(output, np.zeros((1, 2)))
    assert mask.tolist() == [False, False]


def test_sampled_mask_ignores_what_is_not_chosen_even_if_it_is_nan():
    tensors = [jnp.ones((1, 2)), jnp.full((1, 2), jnp.nan)]
    output = InputChoice(n_candidates=2, key="k").apply({}, tensors, {"k": jnp.array([True, False])})
    np.testing.assert_allclose(output, [[1.0, 1.0]])


def test_choose_from_takes_a_dict_and_no_key():
    choice = InputChoice(choose_from=["left", jaxnas.NO_KEY], n_chosen=1, key="k")
    tensors = {"": jnp.ones(2), "left": jnp.zeros(2)}
    np.testing.assert_allclose(choice.apply({}, tensors, {"k": "left"}), [0, 0])
    np.testing.assert_allclose(choice.apply({}, tensors, {"k": ""}), [1, 1])
    with pytest.raises(jaxnas.ArchitectureError, match="left"):
        choice.apply({}, {"": jnp.ones(2)}, {"k": 0})


@pytest.mark.parametrize("train", [False, True])
def test_one_hot_index_and_fixed_agree(inputs, train):
    space = jaxnas.space(Zoo, inputs)
    variables = Zoo().init(jax.random.key(0), inputs, space.uniform())
    variables = {**variables, "batch_stats": jax.tree.map(lambda a: a + 0.3, variables["batch_stats"])}
    model = jaxnas.apply_fixed_architecture(Zoo, ZOO_ARCH)
    inherited = jaxnas.inherit(model, variables, inputs)

    def run(arch):
        return Zoo().apply(variables, inputs, arch, train=train, mutable=["batch_stats"])

    one_hot, _ = run(space.one_hot(ZOO_ARCH))
    index, _ = run(space.sampled(ZOO_ARCH))
    plain, _ = run(ZOO_ARCH)
    fixed, updates = model.apply(inherited, inputs, train=train, mutable=["batch_stats"])
    for output in (index, plain, fixed):
        np.testing.assert_allclose(output, one_hot, atol=1e-6)
    changed = jax.tree.map(lambda a, b: not np.allclose(a, b), updates["batch_stats"], inherited["batch_stats"])
    assert all(flag == train for flag in jax.tree.leaves(changed))


def test_each_candidate_has_its_own_batch_statistics(inputs):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, arch, train=False):
            return LayerChoice({"a": Block(), "b": Block()}, key="k", name="choice")(x, arch, train=train)

    variables = Net().init(jax.random.key(0), inputs, {"k": jnp.array(0)})
    _, updates = Net().apply(variables, inputs, {"k": jnp.array(1)}, train=True, mutable=["batch_stats"])
    means = {k: v["BatchNorm_0"]["mean"] for k, v in updates["batch_stats"].items()}
    assert len(means) == 2
    unused, used = means["Block_0"], means["Block_1"]
    np.testing.assert_array_equal(unused, np.zeros(4))
    assert np.all(used != 0)


def test_dropout_acts_in_training_only(inputs):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, arch, train=False):
            return LayerChoice([Block(rate=0.5), Block(rate=0.5)], key="k")(x, arch, train=train)

    variables = Net().init(jax.random.key(0), inputs, {"k": jnp.array(0)})

    def run(value, seed, train):
        rngs = {"dropout": jax.random.key(seed)}
        return Net().apply(variables, inputs, {"k": value}, train=train, rngs=rngs, mutable=["batch_stats"])[0]

    for value in (jnp.array([0.5, 0.5]), jnp.array(1), 1):
        assert not np.allclose(run(value, 0, True), run(value, 1, True))
        np.testing.assert_array_equal(run(value, 0, False), run(value, 1, False))


def test_fixed_builds_only_the_chosen(inputs):
    sizes = {}
    for value in (0, 1):
        params = LayerChoice([nn.Dense(2), nn.Dense(50)], key="k").init(jax.random.key(0), inputs, {"k": value})
        sizes[value] = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert sizes == {0: 3 * 2 + 2, 1: 3 * 50 + 50}


def test_setup_models_and_default_keys(inputs):
    class Cell(nn.Module):
        def setup(self):
            self.op = LayerChoice({"z": nn.Dense(3), "a": nn.Dense(3)})

        def __call__(self, x, arch):
            return self.op(x, arch)

    class Net(nn.Module):
        def setup(self):
            self.cells = [Cell(), Cell()]

        def __call__(self, x, arch):
            for cell in self.cells:
                x = cell(x, arch)
            return x

    space = jaxnas.space(Net, inputs)
    assert list(space) == ["cells_0/op", "cells_1/op"]
    assert space["cells_0/op"].names == ("z", "a")
    jaxnas.space(Net, inputs)
    assert list(jaxnas.space(Net, inputs)) == list(space)  # however many models were built before
    variables = Net().init(jax.random.key(0), inputs, space.uniform())
    arch = {"cells_0/op": "a", "cells_1/op": "z"}
    outputs = [Net().apply(variables, inputs, a) for a in (space.one_hot(arch), space.sampled(arch), arch)]
    np.testing.assert_allclose(outputs[0], outputs[1], atol=1e-6)
    np.testing.assert_allclose(outputs[0], outputs[2], atol=1e-6)
    manual = variables["params"]["cells_0"]["op"]["candidates_a"]
    manual2 = variables["params"]["cells_1"]["op"]["candidates_z"]
    expected = (inputs @ manual["kernel"] + manual["bias"]) @ manual2["kernel"] + manual2["bias"]
    np.testing.assert_allclose(outputs[0], expected, atol=1e-5)


class Body(nn.Module):
    """What scan, remat and vmap are put around: [B, 3] -> [B, 3]."""

    @nn.compact
    def __call__(self, x, arch):
        layers = {"z": nn.Dense(3), "a": nn.Sequential([nn.Dense(3), jnp.tanh]), "t": jnp.tanh}
        y = LayerChoice(layers, key="op")(x, arch)
        z = InputChoice(n_candidates=2, n_chosen=1, key="in")([x, y], arch)
        return y + z


class Step(Body):
    """Body as nn.scan wants it."""

    @nn.compact
    def __call__(self, x, arch):
        return super().__call__(x, arch), None


class Scanned(nn.Module):
    @nn.compact
    def __call__(self, x, arch):
        scan = nn.scan(
            Step, variable_axes={"params": 0}, split_rngs={"params": True}, length=3, in_axes=(nn.broadcast,)
        )
        return scan(name="body")(x, arch)[0]


class Rematted(nn.Module):
    @nn.compact
    def __call__(self, x, arch):
        return nn.remat(Body)(name="body")(x, arch)


class Vmapped(nn.Module):
    @nn.compact
    def __call__(self, x, arch):
        vmap = nn.vmap(Body, in_axes=(0, None), variable_axes={"params": None}, split_rngs={"params": False})
        return vmap(name="body")(x, arch)


@pytest.mark.parametrize("net", [Scanned, Rematted, Vmapped])
def test_lifted_transformations(net, inputs):
    space = jaxnas.space(net, inputs)
    assert list(space) == ["op", "in"]
    assert space["op"].names == ("z", "a", "t")
    variables = net().init(jax.random.key(0), inputs, space.uniform())
    for op in ("z", "a", "t"):
        arch = {"op": op, "in": 1}
        model = jaxnas.apply_fixed_architecture(net, arch)
        inherited = jaxnas.inherit(model, variables, inputs)
        assert len(jax.tree.leaves(inherited)) == (0 if op == "t" else 2)
        fixed = model.apply(inherited, inputs)
        for form in (space.one_hot(arch), space.sampled(arch)):
            np.testing.assert_allclose(net().apply(variables, inputs, form), fixed, atol=1e-6)

            def loss(params, form=form):
                return (net().apply({"params": params}, inputs, form) ** 2).sum()

            gradients = jax.grad(loss)(variables["params"])
            expected = jax.grad(lambda p, model=model: (model.apply({"params": p}, inputs) ** 2).sum())(
                inherited.get("params", {})
            )
            norms = [sum(float((leaf**2).sum()) for leaf in jax.tree.leaves(g)) for g in (gradients, expected)]
            assert norms[0] == pytest.approx(norms[1], rel=1e-5)


def test_a_hundred_random_architectures_compile_once(inputs):
    space = jaxnas.space(Zoo, inputs)
    variables = Zoo().init(jax.random.key(0), inputs, space.uniform())
    traces = []

    @jax.jit
    def run(arch):
        traces.append(1)
        return Zoo().apply(variables, inputs, arch)

    outputs = {np.asarray(run(space.sample(jax.random.key(i)))).tobytes() for i in range(100)}
    assert len(traces) == 1
    assert run._cache_size() == 1
    assert len(outputs) > 20  # they are different architectures


def test_vmap_over_architectures_equals_a_loop(inputs):
    space = jaxnas.space(Zoo, inputs)
    variables = Zoo().init(jax.random.key(0), inputs, space.uniform())
    archs = jax.vmap(space.sample)(jax.random.split(jax.random.key(1), 6))

    def run(arch):
        return Zoo().apply(variables, inputs, arch)

    together = jax.vmap(run)(archs)
    for i in range(6):
        alone = run(jax.tree.map(lambda leaf, i=i: leaf[i], archs))
        np.testing.assert_allclose(together[i], alone, atol=1e-5)


def test_second_derivatives_are_those_of_finite_differences(inputs):
    with jax.enable_x64(True):
        x = jnp.asarray(inputs, jnp.float64)
        space = jaxnas.space(Body, x)
        variables = Body().init(jax.random.key(0), x, space.uniform())

        def loss(weights):
            return (Body().apply(variables, x, {"op": weights, "in": jnp.array([0.4, 0.6])}) ** 3).sum()

        at = jnp.array([0.2, 0.3, 0.5])
        hessian = jax.hessian(loss)(at)
        for i in range(3):
            step = 1e-5 * jnp.eye(3)[i]
            numerical = (jax.grad(loss)(at + step) - jax.grad(loss)(at - step)) / 2e-5
            np.testing.assert_allclose(hessian[i], numerical, rtol=1e-6)
        assert np.abs(hessian).min() > 1e-3


def test_keyword_arguments_reach_those_that_take_them(inputs):
    class Scale(nn.Module):
        def __call__(self, x, factor=1.0):
            return factor * x

    choice = LayerChoice([Scale(), identity], key="k")
    np.testing.assert_allclose(choice.apply({}, inputs, {"k": 0}, factor=3.0), 3 * inputs)
    np.testing.assert_allclose(choice.apply({}, inputs, {"k": 1}, factor=3.0, train=True), inputs)
    with pytest.raises(TypeError, match="facter"):
        choice.apply({}, inputs, {"k": 0}, facter=3.0)


@pytest.mark.parametrize("where", ["compact", "setup"])
def test_every_layer_of_a_sequential_gets_what_it_takes(where, inputs):
    def layers():
        inner = LayerChoice([nn.Dense(4), nn.Dense(4)], key="inner")
        return [nn.Sequential([nn.Dense(4), Block(), jnp.tanh, inner]), nn.Sequential([nn.Dense(4), nn.relu])]

    class Net(nn.Module):
        def setup(self):
            self.op = LayerChoice(layers(), key="op")

        def __call__(self, x, arch, train=False):
            return self.op(x, arch, train=train)

    class Compact(nn.Module):
        @nn.compact
        def __call__(self, x, arch, train=False):
            return LayerChoice(layers(), key="op")(x, arch, train=train)

    net = Net if where == "setup" else Compact
    space = jaxnas.space(net, inputs)
    assert set(space) == {"op", "inner"}
    variables = net().init(jax.random.key(0), inputs, space.uniform())
    arch = {"op": 0, "inner": 1}
    outputs = []
    for form in (space.one_hot(arch), space.sampled(arch)):
        output, updates = net().apply(variables, inputs, form, train=True, mutable=["batch_stats"])
        assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(updates))  # trained, not evaluated
        outputs.append(output)
    model = jaxnas.apply_fixed_architecture(net, arch)
    inherited = jaxnas.inherit(model, variables, inputs)
    outputs.append(model.apply(inherited, inputs, train=True, mutable=["batch_stats"])[0])
    np.testing.assert_allclose(outputs[1], outputs[0], atol=1e-6)
    np.testing.assert_allclose(outputs[2], outputs[0], atol=1e-6)


def test_candidates_of_different_dtypes_are_promoted(inputs):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, arch):
            return LayerChoice([nn.Dense(3, dtype=jnp.bfloat16), identity], key="op")(x, arch)

    space = jaxnas.space(Net, inputs)
    variables = Net().init(jax.random.key(0), inputs, space.uniform())
    for i in range(2):
        outputs = [Net().apply(variables, inputs, form({"op": i})) for form in (space.one_hot, space.sampled)]
        assert [o.dtype for o in outputs] == [jnp.float32] * 2
        np.testing.assert_allclose(outputs[0], outputs[1], atol=1e-6)


def test_integer_outputs_are_weighted_and_not_cut_off():
    choice = LayerChoice([lambda x: x, lambda x: 3 * x], key="k")
    np.testing.assert_allclose(choice.apply({}, jnp.array([1]), {"k": jnp.array([0.5, 0.5])}), [2.0])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (3, "index 3.*0 to 2"),
        (-1, "index -1"),
        ("d", "'d'.*'a'"),
        (0.5, "0.5"),
        (None, "NoneType"),
        (True, "True"),
        ((0, 1), "2 chosen"),
        ([0.1, 0.9, 0.0], "0.1"),
        ([True, False], "2 bools.*3"),
        (jnp.ones(2), r"\(2,\).*\(3,\)"),
        (jnp.array([0, 1]), r"\(2,\)"),
        (jnp.array(3), "index 3"),
        (jnp.array([True, False, False]), "bool"),
    ],
)
def test_values_that_do_not_fit_are_named(value, message):
    with pytest.raises(jaxnas.ArchitectureError, match=f"(?s)'k'.*{message}"):
        call(One(), value)


def test_missing_key_and_wrong_arch_are_named(inputs):
    with pytest.raises(jaxnas.ArchitectureError, match=r"'k'.*\['other'\]"):
        One().apply({}, inputs, {"other": 1})
    with pytest.raises(jaxnas.ArchitectureError, match="'k'.*dict.*list"):
        One().apply({}, inputs, [1])


@pytest.mark.parametrize("mode", [jnp.array([0.5, 0.5]), jnp.array(0)])
def test_candidates_of_different_shapes_are_named_with_both_shapes(mode, inputs):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, arch):
            return LayerChoice({"wide": nn.Dense(5), "slim": nn.Dense(4)}, key="op")(x, arch)

    message = r"'op'.*'wide'.*\(8, 5\).*'slim'.*\(8, 4\)"
    with pytest.raises(jaxnas.ArchitectureError, match=message):
        Net().init(jax.random.key(0), inputs, {"op": mode})
    with pytest.raises(jaxnas.ArchitectureError, match=r"'op'.*\(8, 5\).*\(8, 4\)"):
        jaxnas.space(Net, inputs)
    shapes = [(3, 5), (5,)], [(3, 4), (4,)]
    params = {f"Dense_{i}": dict(zip(("kernel", "bias"), map(jnp.ones, s), strict=True)) for i, s in enumerate(shapes)}
    with pytest.raises(jaxnas.ArchitectureError, match=message):
        jax.jit(lambda arch: Net().apply({"params": params}, inputs, arch))({"op": mode})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(LayerChoice, []), "at least one"),
        (partial(LayerChoice, [1]), "neither"),
        (partial(LayerChoice, {1: identity}), "strings"),
        (partial(LayerChoice, [identity], reduction="max"), "max"),
        (partial(LayerChoice, [identity], key=3), "key"),
        (partial(InputChoice), "n_candidates"),
        (partial(InputChoice, 2, ["a", "b", "c"]), "2.*3"),
        (partial(InputChoice, 2, None, 3), "n_chosen"),
        (partial(InputChoice, choose_from="ab"), "list"),
    ],
)
def test_unsound_choices_are_refused(make, message):
    with pytest.raises((TypeError, ValueError), match=message):
        make()


def test_input_choice_refuses_wrong_tensors():
    choice = InputChoice(n_candidates=2, key="k")
    with pytest.raises(jaxnas.ArchitectureError, match=r"2 tensors.*got 3"):
        choice.apply({}, inputs_of(3), {"k": ()})
    with pytest.raises(jaxnas.ArchitectureError, match="None"):
        choice.apply({}, [None, jnp.ones(2)], {"k": 0})
    with pytest.raises(jaxnas.ArchitectureError, match=r"'k'.*\(2,\).*\(3,\)"):
        choice.apply({}, [jnp.ones(2), jnp.ones(3)], {"k": jnp.array([0.5, 0.5])})
