"""Models as pure functions: how they are told whether they train, and which objects are models at all."""

import functools
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import jaxnas
from jaxnas.model import functional
from jaxnas.model.functional import model_fns

X = jnp.asarray(np.random.RandomState(0).randn(16, 3), jnp.float32)
DATA = (np.asarray(X), np.arange(16) % 2)


class Deterministic(nn.Module):
    """Flax's own convention."""

    @nn.compact
    def __call__(self, x, arch, deterministic: bool = True):
        x = jaxnas.LayerChoice([nn.Dense(64), nn.Dense(64, use_bias=False)], key="a")(x, arch)
        return nn.Dense(2)(nn.Dropout(0.5)(x, deterministic=deterministic))


class Averages(nn.Module):
    """Takes what nn.BatchNorm takes."""

    @nn.compact
    def __call__(self, x, arch, use_running_average: bool = True):
        x = jaxnas.LayerChoice([nn.Dense(4), nn.Dense(4, use_bias=False)], key="a")(x, arch)
        return nn.Dense(2)(nn.BatchNorm(use_running_average=use_running_average)(x))


class Required(nn.Module):
    """`train` without a default, by position."""

    @nn.compact
    def __call__(self, x, arch, train):
        x = jaxnas.LayerChoice({"wide": nn.Dense(8), "thin": nn.Sequential([nn.Dense(2), nn.Dense(8)])}, key="a")(
            x, arch
        )
        x = nn.BatchNorm(use_running_average=not train)(x)
        return nn.Dense(2)(nn.Dropout(0.1)(x, deterministic=not train))


class Before(Required):
    """`train` before the architecture."""

    @nn.compact
    def __call__(self, x, train, arch):
        return Required(name="inner")(x, arch, train)


class Keyword(Required):
    """`train` by keyword only."""

    @nn.compact
    def __call__(self, x, arch, *, train):
        return Required(name="inner")(x, arch, train)


class RequiredDeterministic(Required):
    """`deterministic` without a default."""

    @nn.compact
    def __call__(self, x, arch, *, deterministic):
        return Required(name="inner")(x, arch, not deterministic)


def outputs(model_fn, *, train, **options):
    model = model_fns(model_fn)
    variables = model.init(jax.random.key(0), X, {"a": jnp.array(0)})
    return model.apply(variables, X, {"a": jnp.array(0)}, train=train, rngs=jax.random.key(1), **options)


def test_deterministic_is_false_in_training_only():
    dropped, plain = outputs(Deterministic, train=True), outputs(Deterministic, train=False)
    assert not np.allclose(dropped, plain)
    model = model_fns(Deterministic)
    variables = model.init(jax.random.key(0), X, {"a": jnp.array(0)})
    direct = Deterministic().apply(variables, X, {"a": 0}, deterministic=False, rngs=jax.random.key(1))
    np.testing.assert_allclose(dropped, direct, rtol=1e-6)


def test_running_averages_are_updated_in_training_only():
    _, updates = outputs(Averages, train=True, mutable=["batch_stats"])
    assert np.any(np.asarray(updates["batch_stats"]["BatchNorm_0"]["mean"]))
    _, updates = outputs(Averages, train=False, mutable=["batch_stats"])
    assert not updates or not np.any(np.asarray(updates["batch_stats"]["BatchNorm_0"]["mean"]))


class Candidate(nn.Module):
    """Scales by 2 in training."""

    @nn.compact
    def __call__(self, x, deterministic: bool = True):
        return x if deterministic else 2 * x


class Told(nn.Module):
    """Tells its choices `train`; candidates know it by other names."""

    @nn.compact
    def __call__(self, x, arch, train: bool = False):
        x = jaxnas.LayerChoice([Candidate(), nn.Sequential([Candidate(), Candidate()])], key="a")(x, arch, train=train)
        return jaxnas.LayerChoice([nn.BatchNorm(), nn.BatchNorm(use_running_average=True)], key="b")(
            x, arch, train=train
        )


def test_candidates_are_told_in_their_own_words():
    arch = {"a": jnp.array(0), "b": jnp.array(1)}
    variables = Told().init(jax.random.key(0), X, arch)
    for a, b, factor in ((0, 1, 2), (1, 1, 4)):
        y = Told().apply(variables, X, {"a": a, "b": b}, train=True)
        np.testing.assert_allclose(y, factor * X / np.sqrt(1 + 1e-5), rtol=1e-5)
    y, updates = Told().apply(variables, X, {"a": 0, "b": 0}, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(y.mean(0), 0, atol=1e-5)
    assert np.any(np.asarray(jax.tree.leaves(updates)[0]))
    y = Told().apply(variables, X, {"a": 1, "b": 0}, train=False)
    np.testing.assert_allclose(y, X / np.sqrt(1 + 1e-5), rtol=1e-5)


class Reversed(nn.Module):
    """Says `deterministic` to candidates that take `train`."""

    @nn.compact
    def __call__(self, x, arch, deterministic: bool = True):
        scaled = {"double": lambda x, train=False: 2 * x if train else x, "plain": jnp.tanh}
        return jaxnas.LayerChoice(scaled, key="a")(x, arch, deterministic=deterministic)


def test_deterministic_reaches_candidates_that_take_train():
    np.testing.assert_allclose(Reversed().apply({}, X, {"a": "double"}, deterministic=False), 2 * X)
    np.testing.assert_allclose(Reversed().apply({}, X, {"a": "double"}), X)
    np.testing.assert_allclose(Reversed().apply({}, X, {"a": "plain"}, deterministic=False), jnp.tanh(X))


@pytest.mark.parametrize("model_fn", [Required, Before, Keyword, RequiredDeterministic])
def test_train_may_be_a_required_argument_everywhere(model_fn):
    space = jaxnas.space(model_fn, X)
    assert list(space) == ["a"]
    arch = {"a": "wide"}
    assert jaxnas.cost(model_fn, (1, 3), arch).flops == 3 * 8 + 8 + 8 * 2 + 2
    assert jaxnas.cost(model_fn, (1, 3), space.uniform()).flops > 0
    assert [node["key"] for node in jaxnas.graph.trace_graph(model_fn, X)["nodes"]] == ["input", "a", "output"]
    fixed = jaxnas.apply_fixed_architecture(model_fn, arch)
    variables = fixed.init(jax.random.key(0), X)
    assert fixed.apply(variables, X).shape == (16, 2)  # for evaluation, or dropout would ask for a key
    trained = fixed.apply(variables, X, train=True, rngs={"dropout": jax.random.key(1)}, mutable=["batch_stats"])[0]
    assert not np.allclose(trained, fixed.apply(variables, X))
    if model_fn in (Before, RequiredDeterministic):
        return  # what follows takes seconds
    options = {"epochs": 1, "batch_size": 8, "progress": False}
    result = jaxnas.darts.search(model_fn, DATA, **options)
    assert set(result.arch) == {"a"}
    scores = jaxnas.evaluate(model_fn, result.variables, [arch], DATA, recalibrate=True)
    assert np.isfinite(scores["loss"]).all()
    assert np.isfinite(jaxnas.training.fit(fixed, DATA, **options).history[0]["train_loss"])


class Plain(nn.Module):
    """No choices, and a `train` that must be given."""

    @nn.compact
    def __call__(self, x, train):
        return nn.Dense(2)(x)


def test_train_is_not_taken_for_the_architecture():
    with pytest.raises(jaxnas.ArchitectureError, match="Plain takes no `arch`"):
        jaxnas.space(Plain, X)
    assert np.isfinite(
        jaxnas.training.fit(Plain(), DATA, epochs=1, batch_size=8, progress=False).history[0]["train_loss"]
    )


# ---------------------------------------------------------------------- objects of other module systems


def other_system(package, name, method="__call__"):
    """An object of a class that derives from `package`'s `name`, which need not be installed."""
    base = type(name, (), {"__module__": f"{package}.inner", method: lambda self, x: x})
    return type("Theirs", (base,), {"__module__": "user"})()


THEIRS = {
    "nnx": lambda: nnx.Linear(3, 4, rngs=nnx.Rngs(0)),
    "nnx class": lambda: nnx.Linear,
    "nnx method": lambda: nnx.Linear(3, 4, rngs=nnx.Rngs(0)).__call__,
    "nnx partial": lambda: functools.partial(lambda layer, x: layer(x), nnx.Linear(3, 4, rngs=nnx.Rngs(0))),
    "nnx list": lambda: [nn.Dense(4), nnx.Linear(3, 4, rngs=nnx.Rngs(0))],
    "torch": lambda: other_system("torch.nn.modules", "Module"),
    "equinox": lambda: other_system("equinox._module", "Module"),
    "haiku": lambda: other_system("haiku._src.module", "Module"),
    "haiku transformed": lambda: other_system("haiku._src.transform", "Transformed", "init"),
    "keras": lambda: other_system("keras.src.layers", "Layer"),
}


@pytest.mark.parametrize("kind", THEIRS)
def test_objects_of_other_module_systems_are_refused(kind):
    theirs = THEIRS[kind]()
    with pytest.raises(TypeError, match=r"LayerChoice 'a': a candidate is or holds .* of .*flax\.linen"):
        jaxnas.LayerChoice([theirs, nn.Dense(4)], key="a")
    with pytest.raises(TypeError, match=r"model_fn.* is or holds .* of .*flax\.linen"):
        jaxnas.space(theirs, X)
    if kind.startswith("nnx"):
        with pytest.raises(TypeError, match="Flax NNX"):
            jaxnas.darts.search(theirs, DATA)


def test_a_function_around_a_layer_of_another_system_is_refused():
    layer = nnx.Linear(3, 4, rngs=nnx.Rngs(0))
    with pytest.raises(TypeError, match="Linear of Flax NNX"):
        jaxnas.LayerChoice({"a": lambda x: layer(x)})


class Holder(nn.Module):
    """A Linen module with a field that is none of its own."""

    inner: object

    @nn.compact
    def __call__(self, x, arch):
        return self.inner(x)


def test_a_field_of_another_system_is_refused():
    with pytest.raises(TypeError, match=r"Holder\.inner is or holds Linear of Flax NNX"):
        jaxnas.space(lambda: Holder(nnx.Linear(3, 4, rngs=nnx.Rngs(0))), X)


def test_functions_and_bridged_modules_are_ours():
    for ours in (nnx.relu, jax.jit(jnp.tanh), functools.partial(nn.avg_pool, window_shape=(2,)), jnp.abs, nn.Dense(4)):
        functional.check_candidate(ours, "here")
    functional.check_candidate(nnx.bridge.to_linen(nnx.Linear, 3, 4), "here")
    assert "torch" not in sys.modules


def test_what_is_no_model_is_named():
    with pytest.raises(TypeError, match=r"model_fn must be a flax\.linen module.*is a tuple"):
        jaxnas.space((1, 2), X)
    with pytest.raises(TypeError, match=r"gives int"):
        jaxnas.space(lambda: 3, X)
    with pytest.raises(TypeError, match="neither a module nor a function"):
        jaxnas.LayerChoice([types.SimpleNamespace(a=1)])
