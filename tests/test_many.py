"""Choices of very many candidates, candidates of other shapes, names that are numbers: what users do."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import jaxnas
from jaxnas import ChoiceSpec, Gated, InputChoice, LayerChoice, Space

pytestmark = pytest.mark.usefixtures("quickly_compiled")

X = jnp.asarray(np.random.RandomState(0).randn(8, 3), jnp.float32)


class Many(nn.Module):
    """Layers and inputs of n candidates each, which multiply by 1 to n."""

    n: int

    @nn.compact
    def __call__(self, x, arch):
        scaled = [lambda x, i=i: (i + 1) * x for i in range(self.n)]
        x = LayerChoice(scaled, key="layer")(x, arch)
        tensors = [(i + 1) * x for i in range(self.n)]
        parts = [InputChoice(n_candidates=self.n, n_chosen=k, key=f"in_{k}")(tensors, arch) for k in (1, 2, None)]
        return nn.Dense(2)(sum(parts))


@pytest.mark.parametrize("n", [99, 100, 101, 1000])
def test_any_number_of_candidates_under_jit(n):
    class Scales(Many):
        @nn.compact
        def __call__(self, x, arch):
            layer = LayerChoice([lambda x, i=i: (i + 1) * x for i in range(self.n)], key="layer")(x, arch)
            tensors = [(i + 1) * x for i in range(self.n)]
            return [layer] + [
                InputChoice(n_candidates=self.n, n_chosen=k, key=f"in_{k}")(tensors, arch) for k in (1, 2, None)
            ]

    one = jnp.ones((1, 1))
    weights = {key: jnp.full(n, 0.5) for key in ("layer", "in_1", "in_2", "in_None")}
    outputs = jax.jit(lambda arch: Scales(n).apply({}, one, arch))(weights)
    np.testing.assert_allclose(outputs, np.full((4, 1, 1), n * (n + 1) / 4), rtol=1e-5)
    if n == 1000:  # a switch of as many branches for each path takes seconds
        return
    every = jnp.arange(n) < 2
    sampled = {
        "layer": jnp.array(n - 1),
        "in_1": Gated(jnp.array(n - 1), jnp.array(0.5)),
        "in_2": jnp.array([0, n - 1]),
    }
    outputs = jax.jit(lambda arch: Scales(n).apply({}, one, arch))({**sampled, "in_None": every})
    np.testing.assert_allclose(np.ravel(outputs), [n, n / 2, n + 1, 3])


def test_a_search_among_101_candidates():
    data = (np.tile(np.asarray(X), (2, 1)), np.arange(16) % 2)
    result = jaxnas.darts.search(Many(101), data, epochs=1, batch_size=8, progress=False)
    assert len(result.alphas["layer"]) == 101
    assert result.space.fixed(result.arch) == result.arch


class Shapes(nn.Module):
    """Candidates of different widths, one of which holds a choice."""

    @nn.compact
    def __call__(self, x, arch, train: bool = False):
        layers = {"wide": nn.Dense(5), "slim": nn.Dense(4), "nest": Nest(), "image": nn.Conv(2, (3, 3))}
        x = LayerChoice(layers, key="op")(x, arch)
        return LayerChoice([nn.Dense(2), nn.Sequential([nn.Dense(3), nn.Dense(2)])], key="head")(x, arch)


class Nest(nn.Module):
    @nn.compact
    def __call__(self, x, arch):
        return LayerChoice([nn.Dense(6), nn.Dense(7)], key="inner")(x, arch)


@pytest.mark.parametrize(
    ("arch", "width"),
    [
        ({"op": "wide", "head": 0}, 5),
        ({"op": "slim", "head": 0, "inner": 1}, 4),
        ({"op": "nest", "head": 0, "inner": 1}, 7),
    ],
)
def test_fixed_models_may_have_candidates_of_any_shape(arch, width, tmp_path):
    jaxnas.export(arch, tmp_path / "a.json")
    fixed = jaxnas.apply_fixed_architecture(Shapes, tmp_path / "a.json")
    variables = fixed.init(jax.random.key(0), X)
    assert [w.shape[0] for w in jax.tree.leaves(variables["params"]) if w.shape == (width, 2)] == [width]
    assert fixed.apply(variables, X, train=True).shape == (8, 2)
    assert jaxnas.cost(Shapes, (1, 3), arch).params == sum(leaf.size for leaf in jax.tree.leaves(variables))
    with pytest.raises(jaxnas.ArchitectureError, match=r"'inner'.*\(8, 6\).*\(8, 7\)"):
        jaxnas.space(Shapes, X)


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        ({"op": "nest", "head": 0}, r"missing keys: \['inner'\]"),
        ({"op": "wide"}, r"missing keys: \['head'\]"),
        ({"op": "wide", "head": 0, "inner": 3}, "'inner'.*index 3"),
        ({"op": "wode", "head": 0}, "'wode'.*did you mean 'wide'"),
        ({"op": "image", "head": 0}, "(?s).*"),
    ],
)
def test_fixed_models_are_still_checked(arch, message):
    error = Exception if arch["op"] == "image" else jaxnas.ArchitectureError
    with pytest.raises(error, match=message):
        jaxnas.apply_fixed_architecture(Shapes, arch).init(jax.random.key(0), X)


def test_decisions_for_what_is_not_reached_are_checked_where_it_is_known(inputs):
    from helpers import ZOO_ARCH, Zoo

    arch = {**ZOO_ARCH, "layer": "block"}
    without = {key: value for key, value in arch.items() if key != "inner"}
    models = [jaxnas.apply_fixed_architecture(Zoo, a) for a in (arch, without)]
    np.testing.assert_array_equal(*(model.init_with_output(jax.random.key(0), inputs)[0] for model in models))
    for wrong, message in ((without | {"iner": 0}, r"unexpected keys: \['iner'\]"), (arch | {"inner": 2}, "index 2")):
        with pytest.raises(jaxnas.ArchitectureError, match=message):
            jaxnas.apply_fixed_architecture(Zoo, wrong).init(jax.random.key(0), inputs)


def test_a_candidate_that_is_a_class_is_named():
    with pytest.raises(TypeError, match=r"'op'.*candidate Dense is a class.*Dense\(…\)"):
        LayerChoice({"a": nn.Dense(3), "b": nn.Dense}, key="op")
    assert LayerChoice([jnp.float32, jnp.tanh], key="op").apply({}, X, {"op": 0}).dtype == jnp.float32


NUMBERED = Space({"k": ChoiceSpec("layer", 3, ("3", "0", "16")), "in": ChoiceSpec("input", 3, ("7", "1", "x"), None)})


def test_names_that_are_numbers_are_names(tmp_path):
    assert NUMBERED.fixed({"k": jnp.array(0), "in": jnp.array([True, True, False])}) == {"k": "3", "in": ("7", "1")}
    assert NUMBERED.fixed({"k": "0", "in": "1"}) == {"k": "0", "in": "1"}
    assert NUMBERED.fixed({"k": [True, False, False], "in": (0, 2)}) == {"k": "3", "in": ("7", "x")}
    (tmp_path / "a.json").write_text(json.dumps({"k": [False, False, True], "in": ["x", "1"]}))
    assert NUMBERED.fixed(jaxnas.load(tmp_path / "a.json")) == {"k": "16", "in": ("1", "x")}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"k": 0}, r"'k'.*number 0, which may mean the name '0' or the index of '3'.*\['3', '0', '16'\]"),
        ({"k": 1}, r"'k'.*number 1, which may mean a name \(there is none such\) or the index of '0'"),
        ({"k": 16}, r"'k'.*number 16, which may mean the name '16' or an index \(out of range\)"),
        ({"k": "1"}, "'k'.*unknown name '1'"),
        ({"k": "00"}, "'k'.*unknown name '00'"),
        ({"k": 10**30}, "'k'.*far out of range"),
        ({"in": "0"}, "'in'.*unknown name '0'.*not read as an index"),
    ],
)
def test_numbers_that_may_mean_two_things_are_refused(value, message):
    with pytest.raises(jaxnas.ArchitectureError, match=message):
        NUMBERED.validate({"k": "3", "in": "x"} | value)


def test_texts_are_indices_only_where_no_name_looks_like_one():
    space = Space({"plain": ChoiceSpec("layer", 12), "named": ChoiceSpec("layer", 2, ("a", "b"))})
    assert space.fixed({"plain": "11", "named": "1"}) == {"plain": 11, "named": "b"}
    for wrong in ("01", "00", "²", "9" * 5000):
        with pytest.raises(jaxnas.ArchitectureError, match="'plain'"):
            space.fixed({"plain": wrong, "named": 0})


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_files_of_names_that_are_numbers_read_back(tmp_path, data):
    digits = st.text("0123456789", min_size=1, max_size=3)
    name = st.one_of(digits, st.text("ab0", min_size=1, max_size=2))
    specs = {}
    for i in range(data.draw(st.integers(1, 3))):
        names = tuple(data.draw(st.lists(name, min_size=1, max_size=5, unique=True)))
        kind = data.draw(st.sampled_from(["layer", "input"]))
        n_chosen = 1 if kind == "layer" else data.draw(st.sampled_from([None, *range(1, len(names) + 1)]))
        spec = ChoiceSpec(kind, len(names), names, n_chosen)
        least = spec.n_chosen or 1
        kept = sorted(data.draw(st.sets(st.integers(0, len(names) - 1), min_size=least)))
        specs[f"k{i}"] = spec.restricted(tuple(kept)) if data.draw(st.booleans()) else spec
    space, whole = Space(specs), Space({key: spec.whole for key, spec in specs.items()})
    sampled = space.sample(jax.random.key(data.draw(st.integers(0, 1000))))
    arch = space.fixed(sampled)
    jaxnas.export(arch, tmp_path / "a.json")
    loaded = jaxnas.load(tmp_path / "a.json")
    assert loaded == arch == space.fixed(loaded) == whole.fixed(loaded)
    jax.tree.map(np.testing.assert_array_equal, space.sampled(loaded), space.sampled(sampled))


class Alike(nn.Module):
    """Many layers that are alike, and some that are not, in one choice; dense, convolved or blocks with statistics."""

    make: tuple
    n: int
    reduction: str = "sum"

    @nn.compact
    def __call__(self, x, arch, train: bool = False):
        layers = [self.make[i % len(self.make)]() for i in range(self.n)]
        return LayerChoice([*layers, jnp.tanh], key="k", reduction=self.reduction)(x, arch, train=train)


class Part(nn.Module):
    """Dense, batch norm."""

    @nn.compact
    def __call__(self, x, train: bool = False):
        return nn.BatchNorm(use_running_average=not train, momentum=0.9)(nn.Dense(3)(x))


def dense():
    return nn.Dense(3)


def other():
    return nn.Dense(3, use_bias=False)


@pytest.mark.parametrize(
    ("make", "reduction"), [((dense,), "sum"), ((dense, Part), "sum"), ((Part, other), "mean"), ((dense,), "concat")]
)
def test_many_candidates_that_are_alike_compute_what_they_do_one_by_one(make, reduction):
    n = 16 * len(make) + 3
    model, weights = Alike(make, n, reduction), jax.random.uniform(jax.random.key(1), (n + 1,)).at[5].set(0)
    fresh = model.init(jax.random.key(0), X, {"k": weights})
    sampled = model.init(jax.random.key(0), X, {"k": jnp.array(0)})
    assert jax.tree.map(jnp.shape, fresh) == jax.tree.map(jnp.shape, sampled)
    kernels = [leaf for leaf in jax.tree.leaves(fresh["params"]) if leaf.shape == (3, 3)]
    assert len({kernel.tobytes() for kernel in map(np.asarray, kernels)}) == len(kernels) == n
    assert 0.7 < np.std(np.stack(kernels)) * np.sqrt(3) < 1.3  # LeCun's, each with its own key
    fixed = [jaxnas.apply_fixed_architecture(model, {"k": i}) for i in range(n + 1)]
    parts = [jaxnas.inherit(f, fresh, X) for f in fixed]

    def one_by_one(variables, weights, train):
        outputs, stats = [], {}
        for f, part in zip(fixed, parts, strict=True):
            own = {c: {name: variables[c][name] for name in part.get(c, {})} for c in variables}
            output, moved = f.apply(own, X, train=train, mutable=["batch_stats"])
            outputs.append(output)
            stats |= moved.get("batch_stats", {})
        scaled = [w * output for w, output in zip(jnp.unstack(weights), outputs, strict=True)]
        total = jnp.concatenate(scaled, -1) if reduction == "concat" else sum(scaled)
        return total / (n if reduction == "mean" else 1), stats

    def together(variables, weights, train):
        output, moved = model.apply(variables, X, {"k": weights}, train=train, mutable=["batch_stats"])
        return output, moved.get("batch_stats", {})

    def derivatives(function):
        def loss(params, weights):
            output, stats = function({**fresh, "params": params}, weights, True)
            return jnp.sin(output).sum(), (output, stats)

        return jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(fresh["params"], weights)

    ours, theirs = derivatives(together), derivatives(one_by_one)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5, rtol=1e-4), ours, theirs)
    np.testing.assert_allclose(together(fresh, weights, False)[0], one_by_one(fresh, weights, False)[0], atol=1e-5)
    assert model.apply(fresh, X, {"k": weights}).shape == ours[0][1][0].shape  # nothing mutable


def test_the_program_of_many_grows_in_proportion():
    """The whole sum stood in each of the terms' gradients: 20 candidates made 1.4 MB of program, 40 made 5.2 MB."""

    def size(n):
        model = Alike((dense,), n)
        arch = {"k": jnp.ones(n + 1)}
        shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), X, arch))
        gradient = jax.jit(jax.grad(lambda v: jnp.sin(model.apply(v, X, arch)).sum()))
        return len(gradient.lower(shapes).compile().as_text())

    assert size(64) < 2.5 * size(32)


def test_dropout_of_candidates_that_are_alike_differs():
    class Dropped(nn.Module):
        @nn.compact
        def __call__(self, x, train: bool = False):
            return nn.Dropout(0.5, deterministic=not train)(x)

    model, ones = Alike((Dropped,), 20), jnp.ones((1, 1000))
    weights = jnp.zeros(21).at[:2].set(1.0)
    output = model.apply({}, ones, {"k": weights}, True, rngs={"dropout": jax.random.key(0)})
    shares = [float((output == value).mean()) for value in (0, 2, 4)]
    np.testing.assert_allclose(shares, [0.25, 0.5, 0.25], atol=0.06)
    np.testing.assert_allclose(model.apply({}, ones, {"k": weights}), 2 * ones)
