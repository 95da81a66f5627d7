"""Models with a smaller space: values, weights, names, spaces and errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from helpers import ZOO_ARCH, Zoo, assert_trees_close
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import jaxnas
from jaxnas import Gated, InputChoice, LayerChoice
from jaxnas.model.functional import model_fns

pytestmark = pytest.mark.usefixtures("quickly_compiled")

X = jnp.asarray(np.random.RandomState(0).randn(8, 3), jnp.float32)


class Net(nn.Module):
    """A named choice of four and one of numbered inputs."""

    @nn.compact
    def __call__(self, x, arch, train: bool = False):
        layers = {"a": nn.Dense(3), "b": jnp.tanh, "c": nn.Dense(3), "d": nn.Dense(3)}
        y, mask = LayerChoice(layers, key="op", return_mask=True)(x, arch, train=train)
        y = y * mask.astype(float).sum()  # of the length of the whole choice
        z = InputChoice(n_candidates=4, n_chosen=2, key="in")([x, y, x * y, x + y], arch)
        return nn.Dense(2)(z)


SPACE = jaxnas.space(Net, X)
VARIABLES = Net().init(jax.random.key(0), X, SPACE.uniform())


def widened(space, arch, whole):
    """Weights of a restricted space as those of the whole one."""
    return {
        key: jnp.zeros(spec.n_candidates).at[jnp.array(space[key].original or range(spec.n_candidates))].set(arch[key])
        if key in space
        else jnp.ones(spec.n_candidates)
        for key, spec in whole.items()
    }


def test_a_restricted_model_is_the_whole_one_with_weights_of_zero():
    model = jaxnas.restrict(Net, {"op": (0, "d"), "in": (3, 1, 0)})
    space = jaxnas.space(model, X)
    assert (space["op"].names, space["op"].original) == (("a", "d"), (0, 3))
    assert (space["in"].names, space["in"].original, space["in"].n_candidates) == (None, (0, 1, 3), 3)
    assert space.size == 2 * 3
    variables = jaxnas.inherit(model, VARIABLES, X)
    assert set(variables["params"]) == {"Dense_0", "Dense_2", "Dense_3"} != set(VARIABLES["params"])
    own = model.init(jax.random.key(1), X, space.uniform())
    assert jax.tree.map(jnp.shape, own) == jax.tree.map(jnp.shape, variables)
    weights = {"op": jnp.array([0.3, 0.9]), "in": jnp.array([0.2, 0.5, 0.7])}
    expected = Net().apply(VARIABLES, X, widened(space, weights, SPACE))
    for train in (False, True):
        np.testing.assert_allclose(model.apply(variables, X, weights, train), expected, atol=1e-6)
        np.testing.assert_allclose(model.apply(variables, X, arch=weights, train=train), expected, atol=1e-6)


def test_every_kind_of_value_counts_what_is_left_and_is_written_as_of_the_whole(tmp_path):
    model = jaxnas.restrict(Net, {"op": ["d", "b"], "in": (3, 1, 0)})
    space, variables = jaxnas.space(model, X), jaxnas.inherit(jaxnas.restrict(Net, {"op": ["d", "b"]}), VARIABLES, X)
    decided = {"op": "d", "in": (0, 3)}
    forms = [
        {"op": jnp.array(1), "in": jnp.array([0, 2])},
        {"op": Gated(jnp.array(1), jnp.array(1.0)), "in": jnp.array([True, False, True])},
        {"op": jnp.array([0.1, 0.9]), "in": jnp.array([0.9, 0.1, 0.8])},
        {"op": 3, "in": [3, 0]},
        {"op": [False, False, False, True], "in": [True, False, False, True]},
        decided,
    ]
    for form in forms:
        assert space.fixed(form) == decided
    jax.tree.map(np.testing.assert_array_equal, space.sampled(decided), forms[0])
    expected = Net().apply(VARIABLES, X, decided)
    for form in (*forms[:2], decided, space.one_hot(decided)):
        np.testing.assert_allclose(model.apply(variables, X, form), expected, atol=1e-6)
    jaxnas.export(space.fixed(space.sample(jax.random.key(0))), tmp_path / "a.json")
    loaded = jaxnas.load(tmp_path / "a.json")
    space.validate(loaded)
    SPACE.validate(loaded)
    for sampled in jax.vmap(space.sample)(jax.random.split(jax.random.key(0), 30))["op"]:
        assert space.fixed({"op": sampled, "in": (0, 1)})["op"] in ("b", "d")


def test_the_whole_and_the_restricted_model_give_one_fixed_model():
    model = jaxnas.restrict(Net, {"op": ("a", "d")})
    arch = {"op": "d", "in": (1, 2)}
    variables = jaxnas.inherit(model, VARIABLES, X)
    outputs = []
    for base in (Net, model):
        fixed = jaxnas.apply_fixed_architecture(base, arch)
        for have in (VARIABLES, variables):
            own = jaxnas.inherit(fixed, have, X)
            assert set(own["params"]) == {"Dense_2", "Dense_3"}
            outputs.append(fixed.apply(own, X, train=True))
        assert_trees_close(
            fixed.init(jax.random.key(1), X), jaxnas.apply_fixed_architecture(Net, arch).init(jax.random.key(1), X)
        )
        assert jaxnas.cost(fixed, (1, 3)) == jaxnas.cost(base, (1, 3), arch)
    for output in outputs[1:]:
        np.testing.assert_array_equal(output, outputs[0])
    with pytest.raises(
        jaxnas.ArchitectureError, match=r"'op'.*\['c'\], which the restriction has left out.*\['a', 'd'\]"
    ):
        jaxnas.apply_fixed_architecture(model, {**arch, "op": "c"}).init(jax.random.key(0), X)
    with pytest.raises(jaxnas.ArchitectureError, match=r"\['op'\] count what is left.*Space\.fixed"):
        jaxnas.apply_fixed_architecture(model, {**arch, "op": jnp.array(1)})


def test_restricting_again_composes():
    once = jaxnas.restrict(Net, {"op": ("a", "c", "d"), "in": (0, 1, 3)})
    twice = jaxnas.restrict(once, {"op": (3, "a")})
    space = jaxnas.space(twice, X)
    assert (space["op"].original, space["in"].original) == ((0, 3), (0, 1, 3))
    variables = jaxnas.inherit(twice, jaxnas.inherit(once, VARIABLES, X), X)
    assert_trees_close(variables, jaxnas.inherit(twice, VARIABLES, X))
    with pytest.raises(jaxnas.ArchitectureError, match=r"'op'.*\['b'\], left out by an earlier restriction"):
        jaxnas.space(jaxnas.restrict(once, {"op": ("a", "b")}), X)


def test_one_candidate_left_is_a_choice_of_one():
    for left in ("c", ["c"], 2, np.array([2])):
        model = jaxnas.restrict(Net, {"op": left})
        space = jaxnas.space(model, X)
        assert (space["op"].n_candidates, space["op"].labels) == (1, ("c",))
        arch = {"op": jnp.array(0), "in": jnp.array([0, 1])}
        expected = Net().apply(VARIABLES, X, {"op": "c", "in": (0, 1)})
        np.testing.assert_allclose(model.apply(jaxnas.inherit(model, VARIABLES, X), X, arch), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("left", "message"),
    [
        ({"opp": (0,)}, r"names 'opp'.*no choice.*did you mean 'op'.*\['op', 'in'\]"),
        ({"op": ("a", "e")}, "restriction|'op'.*unknown name 'e'"),
        ({"op": (0, 4)}, "'op'.*index 4.*0 to 3"),
        ({"op": (-1,)}, "'op'.*index -1"),
        ({"op": ()}, "'op'.*no candidate is left"),
        ({"op": ("a", 0)}, "'op'.*same candidate twice"),
        ({"op": (0, 0)}, "'op'.*same candidate twice"),
        ({"op": (True,)}, "'op'.*True"),
        ({"op": 0.5}, "'op'.*0.5"),
        ({"op": None}, "'op'.*None"),
        ({"in": ("x", 0)}, "'in'.*'x'.*no names"),
        ({"in": (1,)}, "'in'.*1 candidates.*at least the 2"),
        ({3: (1,)}, "strings.*3"),
        ([0], "dict.*list"),
    ],
)
def test_bad_restrictions_are_refused(left, message):
    with pytest.raises(jaxnas.ArchitectureError, match=message):
        jaxnas.space(jaxnas.restrict(Net, left), X)
    with pytest.raises(jaxnas.ArchitectureError, match=message):
        jaxnas.restrict(Net, left).init(jax.random.key(0), X, SPACE.uniform())


def test_models_without_choices_and_calls_without_an_architecture_are_named():
    with pytest.raises(jaxnas.ArchitectureError, match=r"takes no `arch`"):
        jaxnas.space(jaxnas.restrict(nn.Dense(2), {"op": 0}), X)
    with pytest.raises(jaxnas.ArchitectureError, match="open choices.*got no architecture"):
        jaxnas.restrict(Net, {"op": 0}).apply(VARIABLES, X)


def test_choices_inside_candidates_left_out_are_no_choices_but_may_have_values():
    model = jaxnas.restrict(Zoo, {"layer": ("block", "seq"), "inner": (1,)})
    space = jaxnas.space(model, X)
    assert "inner" not in space
    arch = {**ZOO_ARCH, "layer": "seq"}
    space.validate(arch)
    assert space.fixed(arch) == {key: value for key, value in arch.items() if key != "inner"}
    with pytest.raises(jaxnas.ArchitectureError, match="'inner'.*'x'"):
        space.validate({**arch, "inner": "x"})
    expected = jaxnas.apply_fixed_architecture(Zoo, arch).init(jax.random.key(0), X)
    for base in (Zoo, model):
        for values in (arch, space.fixed(arch)):
            assert_trees_close(jaxnas.apply_fixed_architecture(base, values).init(jax.random.key(0), X), expected)


ZOO = jaxnas.space(Zoo, X)
ZOO_VARIABLES = jax.tree.map(lambda a: a + 0.1, Zoo().init(jax.random.key(0), X, ZOO.uniform()))


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_random_restrictions_of_every_kind_of_choice(data):
    def subset(spec):
        least = spec.n_chosen or 1
        return sorted(data.draw(st.sets(st.integers(0, spec.n_candidates - 1), min_size=least)))

    left = {key: subset(spec) for key, spec in ZOO.items() if data.draw(st.booleans())}
    model = jaxnas.restrict(Zoo, left)
    space = jaxnas.space(model, X)
    assert all(space[key].original == tuple(left[key]) for key in left if key in space)
    variables = jaxnas.inherit(model, ZOO_VARIABLES, X)
    keys = jax.random.split(jax.random.key(data.draw(st.integers(0, 99))), len(space))
    weights = {k: jax.random.uniform(r, (s.n_candidates,)) for (k, s), r in zip(space.items(), keys, strict=True)}
    expected = Zoo().apply(ZOO_VARIABLES, X, widened(space, weights, ZOO))
    np.testing.assert_allclose(model.apply(variables, X, weights), expected, atol=1e-5)
    decided = space.fixed(weights)
    fixed = jaxnas.apply_fixed_architecture(model, decided)
    plain = fixed.apply(jaxnas.inherit(fixed, variables, X), X)
    np.testing.assert_allclose(plain, model.apply(variables, X, space.one_hot(decided)), atol=1e-5)
    np.testing.assert_allclose(plain, model.apply(variables, X, space.sampled(decided)), atol=1e-5)
    whole = jaxnas.apply_fixed_architecture(Zoo, decided)
    np.testing.assert_array_equal(plain, whole.apply(jaxnas.inherit(whole, ZOO_VARIABLES, X), X))


def test_default_keys_hold_in_a_model_that_has_a_restricted_one_inside():
    class Cell(nn.Module):
        @nn.compact
        def __call__(self, x, arch):
            return LayerChoice([nn.Dense(3), jnp.tanh, nn.Dense(3)])(x, arch)

    class Outer(nn.Module):
        @nn.compact
        def __call__(self, x, arch):
            return jaxnas.restrict(Cell(parent=None), {"LayerChoice_0": (0, 2)})(x, arch)

    space = jaxnas.space(Outer, X)
    (key,) = space
    assert (space[key].original, key) == ((0, 2), "RestrictedModel_0/LayerChoice_0")
    variables = Outer().init(jax.random.key(0), X, space.uniform())
    fixed = jaxnas.apply_fixed_architecture(Outer, {key: 2})
    np.testing.assert_allclose(
        fixed.apply(jaxnas.inherit(fixed, variables, X), X),
        Outer().apply(variables, X, space.one_hot({key: 2})),
        atol=1e-6,
    )
    sequence = jaxnas.restrict(nn.Sequential([LayerChoice([nn.Dense(3), jnp.tanh]), nn.Dense(2)]), {"layers_0": 1})
    assert jaxnas.space(sequence, X)["layers_0"].original == (1,)


def test_a_search_over_a_restricted_model_finds_names_of_the_whole(tmp_path):
    model = jaxnas.restrict(Net, {"op": ("c", "d"), "in": (1, 2, 3)})
    data = (np.asarray(np.tile(X, (4, 1))), np.arange(32) % 2)
    result = jaxnas.darts.search(model, data, epochs=1, batch_size=8, progress=False, workdir=tmp_path / "run")
    assert {key: len(alphas) for key, alphas in result.alphas.items()} == {"op": 2, "in": 3}
    assert result.arch["op"] in ("c", "d")
    assert set(result.arch["in"]) < {1, 2, 3}
    jaxnas.export(result.arch, tmp_path / "a.json")
    fixed = jaxnas.apply_fixed_architecture(Net, tmp_path / "a.json")
    variables = jaxnas.inherit(fixed, result.variables, X)
    np.testing.assert_array_equal(fixed.apply(variables, X), result.fixed_model().apply(result.inherit(), X))
    shown = {choice["key"]: choice for choice in jaxnas.report.payload(tmp_path / "run")["choices"]}
    assert shown["op"]["labels"] == ["c", "d"]
    assert shown["in"]["labels"] == ["1", "2", "3"]
    assert [shown["in"]["labels"][i] for i in shown["in"]["chosen"][-1]] == [str(i) for i in result.arch["in"]]


def test_pictures_have_the_candidates_that_are_left():
    class Described(Net):
        def describe_cells(self):
            edges = [
                jaxnas.graph.CellEdge("x", "y", choice="op", switch=("in", 0)),
                jaxnas.graph.CellEdge("x", "z", choice="op", switch=("in", 3)),
            ]
            return [jaxnas.graph.Cell("cell", ["x", "y", "z"], edges)]

    graph = jaxnas.graph.trace_graph(jaxnas.restrict(Described, {"in": (1, 3)}), X)
    assert [edge["switch"] for edge in graph["cells"][0]["edges"]] == [["in", 1]]
    edges = {(edge["source"], edge["target"]): edge["candidates"] for edge in graph["edges"]}
    assert edges["input", "in"] == [1]  # x + y, the second that is left
    assert edges["op", "in"] == [0, 1]
    zoo = jaxnas.graph.trace_graph(jaxnas.restrict(Zoo, {"layer": ("block", "seq")}), X)
    assert "inner" not in {node["key"] for node in zoo["nodes"]}


def test_restricted_models_are_model_fns():
    model = jaxnas.restrict(Net, {"op": ("a", "d")})
    space = jaxnas.space(model, X)
    pure = model_fns(lambda: model)
    variables = pure.init(jax.random.key(0), X, space.uniform())
    arch = space.sample(jax.random.key(1))
    np.testing.assert_allclose(
        jax.jit(pure.apply)(variables, X, arch), jaxnas.restrict(model, {}).apply(variables, X, arch), atol=1e-6
    )
    scores = jaxnas.evaluate(model, variables, [space.fixed(arch), arch], (np.asarray(X), np.arange(8) % 2))
    assert scores["accuracy"][0] == scores["accuracy"][1]


IMAGES = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
DARTS = jaxnas.spaces.darts(channels=4, cells=1, num_classes=3)  # a reduction
LEFT = {
    "reduce/2<-0": ("max_pool_3x3", "sep_conv_3x3"),
    "reduce/2<-1": ("skip_connect",),
    "reduce/3<-0": ("none", "max_pool_3x3", "skip_connect", "dil_conv_3x3"),
    "reduce/3<-1": ("none", "sep_conv_3x3"),
    "reduce/3<-2": ("skip_connect", "none"),
    "reduce/4<-0": ("skip_connect", "avg_pool_3x3"),
    "reduce/4<-1": ("max_pool_3x3",),
    "reduce/4<-2": ("avg_pool_3x3", "dil_conv_5x5"),
    "reduce/4<-3": ("none",),
    "reduce/5": ("reduce/5<-1", "reduce/5<-3", "reduce/5<-4"),
    "reduce/5<-1": ("avg_pool_3x3",),
    "reduce/5<-3": ("skip_connect", "max_pool_3x3"),
}


@pytest.fixture(scope="module")
def darts():
    """The whole and the restricted DARTS network: their spaces and variables, statistics differing by row."""
    whole, model = jaxnas.space(DARTS, IMAGES), jaxnas.restrict(DARTS, LEFT)
    variables = model_fns(DARTS).init(jax.random.key(0), IMAGES, whole.uniform())
    keys = iter(jax.random.split(jax.random.key(2), 99))
    moved = jax.tree.map(lambda a: a + 0.3 * jax.random.uniform(next(keys), a.shape), variables["batch_stats"])
    variables = {**variables, "batch_stats": moved}
    return whole, variables, model, jaxnas.space(model, IMAGES), jaxnas.inherit(model, variables, IMAGES)


def test_a_restricted_darts_cell_is_the_whole_one_with_weights_of_zero(darts):
    whole, variables, model, space, own = darts
    keys = iter(jax.random.split(jax.random.key(3), 99))
    mixture = {
        k: jnp.ones(s.n_candidates) if s.ranked else jax.random.uniform(next(keys), (s.n_candidates,))
        for k, s in space.items()
    }
    wide = widened(space, mixture, whole)

    def run(network, variables, arch, train):
        return jax.jit(lambda v, a: network.apply(v, IMAGES, a, train=train, mutable=["batch_stats"]))(variables, arch)

    for train in (False, True):
        ours, theirs = run(model, own, mixture, train), run(DARTS, variables, wide, train)
        np.testing.assert_allclose(ours[0], theirs[0], atol=2e-4)
    moved = jaxnas.inherit(model, {**variables, **theirs[1]}, IMAGES)["batch_stats"]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), ours[1]["batch_stats"], moved)


def test_a_restricted_darts_cell_has_the_size_and_cost_of_what_is_left(darts):
    _, _, model, space, own = darts
    kernels = own["params"]["row_0_reduction"]
    fresh = jax.eval_shape(lambda: model_fns(model).init(jax.random.key(0), IMAGES, space.uniform()))
    assert jax.tree.map(jnp.shape, fresh) == jax.tree.map(jnp.shape, own)
    # All of 5<-4 is left; 5<-0 and 5<-2 are never taken.
    rows = {"sep_conv_3x3": 3, "sep_conv_5x5": 1, "dil_conv_3x3": 2, "dil_conv_5x5": 2}
    assert {name: len(kernels[f"{name}_depthwise"]) for name in rows} == rows
    assert len(kernels["skip_connect_even"]) == 3  # where they halve the image: 2<-1, 3<-0, 4<-0
    statistics = own["batch_stats"]["row_0_reduction"]
    assert len(statistics["max_pool_3x3"]["mean"]) == 4  # sources 0, 1, 3, 4
    assert jaxnas.cost(model, IMAGES, space.uniform()).params == sum(
        leaf.size for leaf in jax.tree.leaves(own["params"])
    )
    hot, cold = (space.uniform() | {"reduce/2<-0": jnp.array(w)} for w in ([0.0, 1.0], [1.0, 0.0]))
    difference = jaxnas.cost(model, IMAGES, hot).flops - jaxnas.cost(model, IMAGES, cold).flops
    assert difference == 2 * 2 * 16 * 8 * (9 + 8)  # images, layers, pixels, channels, taps of a depthwise and a 1×1


@pytest.mark.parametrize("train", [False, True])
def test_restricted_darts_cells_in_every_form(darts, train):
    whole, variables, model, space, own = darts
    drawn = space.sample(jax.random.key(4))
    decided = space.fixed(drawn)
    assert whole.fixed(decided) == decided
    gates = {k: v if space[k].ranked else Gated(v, jnp.ones(())) for k, v in drawn.items()}
    outputs, statistics = [], []
    for base, have in ((DARTS, variables), (model, variables), (model, own)):
        fixed = jaxnas.apply_fixed_architecture(base, decided)
        inherited = jaxnas.inherit(fixed, have, IMAGES)
        output, moved = fixed.apply(inherited, IMAGES, train=train, mutable=["batch_stats"])
        outputs.append(output)
        statistics.append(moved)
    run = jax.jit(lambda arch: model.apply(own, IMAGES, arch, train=train, mutable=["batch_stats"]))
    for form in (drawn, gates):
        output, moved = run(form)
        outputs.append(output)
        statistics.append({"batch_stats": jaxnas.inherit(fixed, {**own, **moved}, IMAGES)["batch_stats"]})
    for output, moved in zip(outputs, statistics, strict=True):
        np.testing.assert_allclose(output, outputs[0], atol=2e-4)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), dict(moved), dict(statistics[0]))


def test_weights_of_another_restriction_are_refused_by_a_stack(darts):
    _, _, model, space, own = darts
    further = jaxnas.restrict(model, {"reduce/5<-4": ("sep_conv_3x3", "max_pool_3x3"), "reduce/3<-0": (1,)})
    assert_trees_close(jaxnas.inherit(further, own, IMAGES), jaxnas.inherit(further, darts[1], IMAGES))
    arch = space.fixed(space.sample(jax.random.key(4)))
    with pytest.raises(jaxnas.ArchitectureError, match="has shape"):
        jaxnas.inherit(jaxnas.apply_fixed_architecture(DARTS, arch | {"reduce/2<-0": "sep_conv_3x3"}), own, IMAGES)


def test_nasbench201_restricts_each_edge():
    network = jaxnas.spaces.nasbench201(channels=4, cells=2, num_classes=3)
    model = jaxnas.restrict(network, {"1<-0": ("none", "nor_conv_3x3"), "3<-2": "avg_pool_3x3"})
    space, whole = jaxnas.space(model, IMAGES), jaxnas.space(network, IMAGES)
    assert space.size == 2 * 5**4
    variables = model_fns(network).init(jax.random.key(0), IMAGES, whole.uniform())
    own = jaxnas.inherit(model, variables, IMAGES)
    cells = own["params"]["stage_0"]["cells"]
    assert set(cells["edge_0_1"]) == {"candidates_nor_conv_3x3"}
    assert "edge_2_3" not in cells
    weights = {k: jax.random.uniform(jax.random.key(i), (s.n_candidates,)) for i, (k, s) in enumerate(space.items())}
    expected = jax.jit(network.apply)(variables, IMAGES, widened(space, weights, whole))
    np.testing.assert_allclose(jax.jit(model.apply)(own, IMAGES, weights), expected, rtol=1e-5)
    arch = space.fixed(weights)
    assert jaxnas.cost(model, IMAGES, space.one_hot(arch)) == jaxnas.cost(network, IMAGES, arch)


@pytest.mark.parametrize(
    ("network", "left"),
    [
        (
            jaxnas.spaces.enas_macro(layers=3, filters=4),
            {"layer_0/op": 5, "layer_1/op": ("conv_3x3", "max_pool_3x3"), "layer_2/op": 0, "layer_2/skip": ("stem",)},
        ),
        (
            jaxnas.spaces.enas_micro(cells=1, nodes=2, filters=4, auxiliary_head=False),
            {f"{kind}/node_{i}/{side}_op": (2, 4) for kind in ("normal", "reduce") for i in (0, 1) for side in "xy"}
            | {"normal/node_1/x_input": ("normal/node_0",)},
        ),
    ],
)
def test_enas_spaces_restrict(network, left):
    model = jaxnas.restrict(network, left)
    space = jaxnas.space(model, IMAGES)
    arch = space.fixed(space.sample(jax.random.key(0)))
    variables = model_fns(model).init(jax.random.key(0), IMAGES, space.uniform())
    fixed = jaxnas.apply_fixed_architecture(network, arch)
    plain = fixed.apply(jaxnas.inherit(fixed, variables, IMAGES), IMAGES)
    for form in (space.sampled(arch), space.one_hot(arch)):
        np.testing.assert_allclose(jax.jit(model.apply)(variables, IMAGES, form), plain, atol=2e-5)


def test_rows_of_restricted_normal_cells_are_those_of_the_whole():
    """Two normal cells in a row, scanned, in a network of seven cells most of which is left with nothing to compute."""
    network = jaxnas.spaces.darts(channels=4, cells=7, num_classes=3)
    whole = jaxnas.space(network, IMAGES)
    left = {key: ("skip_connect",) for key, spec in whole.items() if not spec.ranked}
    left |= {key: spec.names[:2] for key, spec in whole.items() if spec.ranked}  # 8 edges of a cell are there
    left |= {"normal/2<-0": ("sep_conv_3x3", "max_pool_3x3"), "normal/4<-1": ("dil_conv_5x5",)}
    model = jaxnas.restrict(network, left)
    space = jaxnas.space(model, IMAGES)
    shapes = jax.eval_shape(lambda: model_fns(network).init(jax.random.key(0), IMAGES, whole.uniform()))
    keys = iter(jax.random.split(jax.random.key(5), 999))
    variables = jax.tree.map(lambda s: 0.2 + 0.2 * jax.random.uniform(next(keys), s.shape), shapes)
    own = jaxnas.inherit(model, variables, IMAGES)
    assert own["params"]["row_0_normal"]["sep_conv_3x3_depthwise"].shape[:2] == (2, 1)
    arch = space.fixed({**space.sample(jax.random.key(0)), "normal/2<-0": jnp.array(0)})
    fixed = jaxnas.apply_fixed_architecture(network, arch)
    expected = jax.jit(fixed.apply)(jaxnas.inherit(fixed, variables, IMAGES), IMAGES)
    output = jax.jit(model.apply)(own, IMAGES, space.sampled(arch))
    np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-4)


def test_a_restricted_model_that_must_be_told_whether_it_trains():
    class Told(nn.Module):
        @nn.compact
        def __call__(self, x, arch, train):
            x = LayerChoice({"a": nn.Dense(3), "b": nn.Dense(3), "c": jnp.tanh}, key="op")(x, arch)
            return nn.BatchNorm(use_running_average=not train)(x)

    small, x = jaxnas.restrict(Told, {"op": ("a", "c")}), jnp.ones((2, 3))
    assert jaxnas.space(small, x)["op"].labels == ("a", "c")
    variables = small.init(jax.random.key(0), x, {"op": jnp.ones(2)})
    assert small.apply(variables, x, {"op": jnp.ones(2)}, train=False).shape == (2, 3)
    fixed = jaxnas.apply_fixed_architecture(small, {"op": "c"})
    assert fixed.apply(fixed.init(jax.random.key(0), x), x).shape == (2, 3)
