"""Gated values: sampled paths times differentiable gates, wherever a kind of value is known."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from helpers import ZOO_ARCH, Block, Zoo

import jaxnas
from jaxnas import ChoiceSpec, Gated, InputChoice, LayerChoice, Space
from jaxnas.model.architecture import is_mixture
from jaxnas.model.functional import model_fns
from jaxnas.spaces import darts, nasbench201
from jaxnas.spaces.genotypes import CHOICES

pytestmark = pytest.mark.usefixtures("quickly_compiled")


def gated(index, gate):
    return Gated(jnp.asarray(index), jnp.asarray(gate, jnp.float32))


def dense(value, n):
    """The weights that compute what gated paths compute."""
    index, gate = jnp.atleast_1d(value.index), jnp.atleast_1d(value.gate)
    return jnp.zeros(n).at[index].set(gate)


class One(nn.Module):
    """A single LayerChoice of x, 10x and 100x."""

    reduction: str = "sum"
    return_mask: bool = False

    @nn.compact
    def __call__(self, x, arch):
        candidates = {"a": lambda x: x, "b": lambda x: 10 * x, "c": lambda x: 100 * x}
        return LayerChoice(candidates, key="k", reduction=self.reduction, return_mask=self.return_mask)(x, arch)


def call(module, value):
    return module.apply({}, jnp.ones((1, 2)), {"k": value})


def test_reductions_are_as_computed_by_hand():
    one, two = gated(1, 0.5), gated([0, 2], [0.5, 0.25])
    np.testing.assert_allclose(call(One(), one), [[5.0, 5.0]])
    np.testing.assert_allclose(call(One(), two), [[25.5, 25.5]])
    np.testing.assert_allclose(call(One("mean"), two), [[12.75, 12.75]])
    np.testing.assert_allclose(call(One("mean"), gated([0, 2], [0.5, 0.0])), [[0.5, 0.5]])  # over gates that are not 0
    np.testing.assert_allclose(call(One("concat"), two), [[0.5, 0.5, 25.0, 25.0]])
    np.testing.assert_allclose(call(One("none"), two), [[[0.5, 0.5]], [[25.0, 25.0]]])
    output, mask = call(One(return_mask=True), two)
    np.testing.assert_allclose(mask, [0.5, 0.0, 0.25])
    np.testing.assert_allclose(output, [[25.5, 25.5]])


@pytest.mark.parametrize("n_chosen", [1, 2, None])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_inputs_are_the_dense_weighted_sum(n_chosen, reduction):
    choice = InputChoice(n_candidates=4, n_chosen=n_chosen, key="k", reduction=reduction, return_mask=True)
    tensors = [jnp.full((1, 2), 10.0**i) for i in range(4)]
    for value in (gated(3, 0.5), gated([3, 1], [0.5, 0.25]), gated([2, 0, 1, 3], [1.0, 0.0, 2.0, 3.0])):
        output, mask = choice.apply({}, tensors, {"k": value})
        expected, weights = choice.apply({}, tensors, {"k": dense(value, 4)})
        np.testing.assert_allclose(output, expected)
        np.testing.assert_allclose(mask, weights)


def test_gates_of_one_give_the_bits_of_the_index(inputs):
    space = jaxnas.space(Zoo, inputs)
    variables = Zoo().init(jax.random.key(0), inputs, space.uniform())
    sampled = space.sampled(ZOO_ARCH)
    ones = {k: v if v.dtype == bool else Gated(v, jnp.ones(v.shape)) for k, v in sampled.items() if k != "two"}
    ones["two"] = sampled["two"]
    run = jax.jit(lambda arch: Zoo().apply(variables, inputs, arch, train=True, mutable=["batch_stats"]))
    jax.tree.map(np.testing.assert_array_equal, run(ones), run(sampled))


class Mixed(nn.Module):
    """Nested and shared choices with parameters and batch statistics."""

    @nn.compact
    def __call__(self, x, arch, train=False):
        x = LayerChoice({"a": Block(3), "b": Inner(), "c": nn.Dense(3)}, key="outer")(x, arch, train=train)
        x = LayerChoice([jnp.tanh, nn.Dense(3), Block(3)], key="shared")(x, arch, train=train)
        y = LayerChoice([jnp.sin, nn.Dense(3), nn.Dense(3)], key="shared")(x, arch, train=train)
        return InputChoice(n_candidates=3, key="any")([x, y, x * y], arch)


class Inner(nn.Module):
    @nn.compact
    def __call__(self, x, arch, train=False):
        return LayerChoice([nn.Dense(3), Block(3)], key="inner")(x, arch, train=train)


GATED = {
    "outer": gated([1, 2], [0.7, 0.3]),
    "inner": gated(1, 0.9),
    "shared": gated([2, 1], [0.6, 0.5]),
    "any": gated([0, 2], [0.8, 1.2]),
}


@pytest.fixture
def mixed(inputs):
    space = jaxnas.space(Mixed, inputs)
    variables = Mixed().init(jax.random.key(0), inputs, GATED)
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(
        jnp.shape, Mixed().init(jax.random.key(0), inputs, space.uniform())
    )
    return space, {**variables, "batch_stats": jax.tree.map(lambda a: a + 0.3, variables["batch_stats"])}


def test_values_and_gradients_are_those_of_dense_weights(inputs, mixed):
    space, variables = mixed
    gates = {key: value.gate for key, value in GATED.items()}

    def by_path(params, gates):
        arch = {key: GATED[key]._replace(gate=gate) for key, gate in gates.items()}
        return jnp.sin(Mixed().apply({**variables, "params": params}, inputs, arch)).sum()

    def by_weights(params, gates):
        arch = {key: dense(GATED[key]._replace(gate=g), space[key].n_candidates) for key, g in gates.items()}
        return jnp.sin(Mixed().apply({**variables, "params": params}, inputs, arch)).sum()

    ours, theirs = (jax.value_and_grad(f, (0, 1))(variables["params"], gates) for f in (by_path, by_weights))
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-5), ours, theirs)
    assert all(np.abs(g).min() > 1e-4 for g in ours[1][1].values())


def test_only_the_sampled_paths_run(inputs, mixed):
    _, variables = mixed
    _, updates = Mixed().apply(variables, inputs, GATED, train=True, mutable=["batch_stats"])
    moved = jax.tree.map(lambda a, b: not np.array_equal(a, b), updates["batch_stats"], variables["batch_stats"])
    assert not any(jax.tree.leaves(moved["Block_0"]))  # outer's "a"
    assert all(jax.tree.leaves([v for k, v in moved.items() if k != "Block_0"]))


def test_each_path_is_one_switch(inputs):
    def switches(value):
        jaxpr = str(jax.make_jaxpr(lambda v: call(One(), v))(value))
        return jaxpr.count("cond[")

    assert [switches(gated(*v)) for v in ((1, 1.0), ([1], [1.0]), ([0, 2], [0.5, 0.5]))] == [1, 1, 2]
    assert switches(jnp.ones(3)) == 0


def test_another_index_does_not_retrace_and_vmap_equals_a_loop(inputs, mixed):
    _, variables = mixed
    traces = []

    def run(arch):
        traces.append(1)
        return Mixed().apply(variables, inputs, arch)

    archs = [{**GATED, "outer": gated([i, (i + 1) % 3], [0.5, i])} for i in range(3)]
    compiled = jax.jit(run)
    alone = [compiled(arch) for arch in archs]
    assert len(traces) == 1
    together = jax.vmap(run)(jax.tree.map(lambda *leaves: jnp.stack(leaves), *archs))
    np.testing.assert_allclose(together, jnp.stack(alone), atol=1e-5)


def test_each_choice_goes_by_its_own_kind(inputs, mixed):
    space, variables = mixed
    arch = {**GATED, "outer": "b", "shared": jnp.array([0.2, 0.3, 0.5]), "any": jnp.array([True, False, True])}
    weights = {
        "outer": jnp.array([0.0, 1.0, 0.0]),
        "inner": jnp.array([0.0, 0.9]),
        "shared": arch["shared"],
        "any": jnp.array([1.0, 0.0, 1.0]),
    }
    space.validate(arch)
    outputs = [Mixed().apply(variables, inputs, a) for a in (arch, weights)]
    np.testing.assert_allclose(outputs[0], outputs[1], atol=1e-6)


def test_gates_pass_through_scan_remat_and_vmap(inputs):
    from test_choices import Rematted, Scanned, Vmapped

    arch = {"op": gated([0, 1], [0.4, 0.7]), "in": gated(1, 0.5)}
    weights = {key: dense(value, n) for (key, value), n in zip(arch.items(), (3, 2), strict=True)}
    for net in (Scanned, Rematted, Vmapped):
        variables = net().init(jax.random.key(0), inputs, arch)
        outputs = [jax.jit(net().apply)(variables, inputs, form) for form in (arch, weights)]
        np.testing.assert_allclose(outputs[0], outputs[1], atol=1e-6)


SPACE = Space(
    {
        "op": ChoiceSpec("layer", 3, ("a", "b", "c")),
        "two": ChoiceSpec("input", 4, None, 2),
        "any": ChoiceSpec("input", 3, None, None),
    }
)


def test_what_gates_decide():
    arch = {"op": gated([2, 0], [0.2, 0.8]), "two": gated([3, 1], [0.1, 0.9]), "any": gated([2, 1], [0.5, 0.0])}
    expected = {"op": "a", "two": (1, 3), "any": 2}
    assert SPACE.fixed(arch) == expected
    assert SPACE.fixed({**arch, "op": gated(2, 0.1), "two": gated([0, 3, 2], [0.5, 0.1, 0.6])}) == {
        "op": "c",
        "two": (0, 2),
        "any": 2,
    }
    jax.tree.map(np.testing.assert_array_equal, SPACE.sampled(arch), SPACE.sampled(expected))
    jax.tree.map(np.testing.assert_array_equal, jax.jit(SPACE.sampled)(arch), SPACE.sampled(expected))
    jax.jit(lambda a: SPACE.validate(a))(arch)
    assert not is_mixture(arch)
    with pytest.raises(jaxnas.ArchitectureError, match=r"'two'.*1 gated paths decide no 2"):
        SPACE.fixed({**arch, "two": gated([0], [1.0])})
    with pytest.raises(jaxnas.ArchitectureError, match="'op'.*gates are not finite"):
        SPACE.fixed({**arch, "op": gated([0, 1], [1.0, np.nan])})


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (gated([0, 1], [1.0]), r"shapes \(2,\) and \(1,\)"),
        (gated([[0]], [[1.0]]), r"shapes \(1, 1\)"),
        (gated([0, 1, 2, 0], [1.0] * 4), "4 gated paths.*1 to 3"),
        (gated([], []), "ints and a gate of floats"),
        (gated([0, 3], [1.0, 1.0]), "index 3.*0 to 2"),
        (gated([1, 1], [1.0, 1.0]), "at most once"),
        (Gated(jnp.array(1.0), jnp.array(1.0)), "ints and a gate of floats"),
        (Gated(jnp.array(1), jnp.array(1)), "ints and a gate of floats"),
        (Gated("a", 1.0), "ints and a gate of floats"),
    ],
)
def test_gates_that_do_not_fit_are_named(value, message):
    with pytest.raises(jaxnas.ArchitectureError, match=f"'k'.*{message}"):
        call(One(), value)


def test_ranked_inputs_and_files_have_no_gates(tmp_path):
    specs = {"a": ChoiceSpec("layer", 2), "b": ChoiceSpec("layer", 2)}
    space = Space({**specs, "r": ChoiceSpec("input", 2, ("a", "b"), 1, ranked=True)})
    with pytest.raises(jaxnas.ArchitectureError, match="'r'.*ranked inputs have no gates"):
        space.validate({"a": 0, "b": 0, "r": gated(0, 1.0)})
    with pytest.raises(jaxnas.ArchitectureError, match=r"'k'.*gated.*Space\.fixed"):
        jaxnas.export({"k": gated(0, 1.0)}, tmp_path / "a.json")


def test_the_cost_is_that_of_the_paths():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, arch):
            layers = [nn.Dense(4, use_bias=False), nn.Sequential([nn.Dense(50, use_bias=False), nn.Dense(4)]), jnp.tanh]
            return LayerChoice(layers, key="k")(x, arch)

    costs = [jaxnas.cost(Net, (1, 4), {"k": i}).params for i in range(3)]
    assert costs == [16, 404, 0]
    for i in range(3):
        assert jaxnas.cost(Net, (1, 4), {"k": gated(i, 0.3)}) == jaxnas.cost(Net, (1, 4), {"k": i})
    assert jaxnas.cost(Net, (1, 4), {"k": gated([0, 1], [0.3, 0.1])}) == (16 + 404, 16 + 404)
    by_index = jax.jit(lambda i: jaxnas.cost(Net, (1, 4), {"k": Gated(i, jnp.ones(1))}).flops)
    assert [float(by_index(jnp.array([i]))) for i in range(3)] == [16, 404, 0]


def drawn(space, seed, count=1):
    """An architecture all of whose layers are gated, and the same as weights; inputs take everything."""
    keys = iter(jax.random.split(jax.random.key(seed), 2 * len(space)))
    arch, weights = {}, {}
    for key, spec in space.items():
        index = jax.random.permutation(next(keys), spec.n_candidates)[:count]
        gate = 0.5 + jax.random.uniform(next(keys), (count,))
        arch[key] = jnp.ones(spec.n_candidates) if spec.ranked else Gated(index, gate)
        weights[key] = arch[key] if spec.ranked else dense(arch[key], spec.n_candidates)
    return arch, weights


IMAGES = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))


def loss_and_slopes(network, variables, arch):
    def loss(gates):
        full = {k: v._replace(gate=gates[k]) if k in gates else v for k, v in arch.items()}
        return jnp.sin(network.apply(variables, IMAGES, full)).sum()

    return jax.value_and_grad(loss)({k: v.gate for k, v in arch.items() if isinstance(v, Gated)})


@pytest.mark.parametrize("count", [1, 2])
def test_the_darts_cell_runs_gated_paths(count):
    network = darts(channels=4, cells=1, num_classes=3)
    space = jaxnas.space(network, IMAGES)
    arch, weights = drawn(space, 3, count)
    variables = model_fns(network).init(jax.random.key(0), IMAGES, space.uniform())
    value, slopes = jax.jit(lambda arch: loss_and_slopes(network, variables, arch))(arch)
    expected = jax.jit(lambda w: jnp.sin(network.apply(variables, IMAGES, w)).sum())(weights)
    np.testing.assert_allclose(value, expected, atol=1e-4)
    assert max(float(jnp.abs(slope).max()) for slope in slopes.values()) > 1e-4


def test_the_darts_cell_with_gates_of_one_is_that_with_indices():
    network = darts(channels=4, cells=1, num_classes=3)
    drawn_index = {k: v for k, v in CHOICES.sample(jax.random.key(2)).items() if k.startswith("reduce")}
    ones = {k: v if CHOICES[k].ranked else Gated(v, jnp.ones(())) for k, v in drawn_index.items()}
    variables = model_fns(network).init(jax.random.key(0), IMAGES, drawn_index)
    run = jax.jit(lambda arch: network.apply(variables, IMAGES, arch, train=True, mutable=["batch_stats"]))
    jax.tree.map(np.testing.assert_array_equal, run(ones), run(drawn_index))


def test_nasbench201_runs_gated_paths_in_its_scan():
    network = nasbench201(channels=4, cells=2, num_classes=3)
    space = jaxnas.space(network, IMAGES)
    arch, weights = drawn(space, 5)
    variables = model_fns(network).init(jax.random.key(0), IMAGES, space.uniform())
    value, slopes = jax.jit(lambda arch: loss_and_slopes(network, variables, arch))(arch)
    expected = jax.jit(lambda w: jnp.sin(network.apply(variables, IMAGES, w)).sum())(weights)
    np.testing.assert_allclose(value, expected, atol=1e-4)
    assert max(float(jnp.abs(slope).max()) for slope in slopes.values()) > 1e-4
