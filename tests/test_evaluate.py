"""jaxnas.evaluate: scores of many architectures are those of their fixed models."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from helpers import Zoo

import jaxnas
from jaxnas.model.functional import model_fns
from jaxnas.programs.evaluation import accuracy, cross_entropy


@pytest.fixture(scope="module")
def zoo():
    """A supernet, data of 70 training and 30 test examples, and some architectures."""
    random = np.random.RandomState(0)
    x, y = random.randn(100, 3).astype(np.float32), random.randint(0, 2, 100).astype(np.int32)
    data = (x[:70], y[:70], x[70:], y[70:])
    space = jaxnas.space(Zoo, x[:1])
    variables = dict(model_fns(Zoo).init(jax.random.key(0), x[:4], space.sample(jax.random.key(1))))
    variables["batch_stats"] = jax.tree.map(lambda leaf: leaf + 0.5, variables["batch_stats"])
    return space, variables, data, jax.vmap(space.sample)(jax.random.split(jax.random.key(2), 5))


def rows(space, archs):
    host = jax.device_get(archs)
    return [space.fixed({key: leaf[i] for key, leaf in host.items()}) for i in range(5)]


@pytest.mark.parametrize("batch_size", [30, 7, 256])
def test_scores_are_those_of_the_fixed_models(zoo, batch_size):
    space, variables, data, archs = zoo
    scores = jaxnas.evaluate(Zoo, variables, archs, data, batch_size=batch_size)
    assert set(scores) == {"loss", "accuracy"}
    assert scores["loss"].shape == (5,)
    for i, arch in enumerate(rows(space, archs)):
        fixed = jaxnas.apply_fixed_architecture(Zoo, arch)
        logits = fixed.apply(jaxnas.inherit(fixed, variables, data[2]), data[2])
        assert scores["loss"][i] == pytest.approx(float(cross_entropy(logits, data[3])), abs=1e-5)
        assert scores["accuracy"][i] == pytest.approx(float(accuracy(logits, data[3])["accuracy"]), abs=1e-6)
    assert len(np.unique(scores["loss"])) > 1


def test_all_ways_to_give_architectures_agree(zoo):
    space, variables, data, archs = zoo
    expected = jaxnas.evaluate(Zoo, variables, archs, data)["loss"]
    fixed = rows(space, archs)
    np.testing.assert_allclose(jaxnas.evaluate(Zoo, variables, fixed, data)["loss"], expected, rtol=1e-6)
    weights = [space.one_hot(arch) for arch in fixed]
    np.testing.assert_allclose(jaxnas.evaluate(Zoo, variables, weights, data)["loss"], expected, atol=1e-5)
    uniform = jaxnas.evaluate(Zoo, variables, [space.uniform()], data)["loss"]
    logits = Zoo().apply(variables, data[2], space.uniform())
    assert uniform[0] == pytest.approx(float(cross_entropy(logits, data[3])), abs=1e-5)


def test_the_split_and_own_metrics(zoo):
    space, variables, data, archs = zoo
    options = {
        "loss_fn": lambda output, y: jnp.square(output).mean(),
        "metrics": lambda output, y: {"largest": output.max(-1).mean()},
    }
    arch = rows(space, archs)[0]
    scores = jaxnas.evaluate(Zoo, variables, [arch], data, split="train", batch_size=32, **options)
    logits = Zoo().apply(variables, data[0], space.one_hot(arch))
    assert scores["loss"][0] == pytest.approx(float(jnp.square(logits).mean()), abs=1e-5)
    assert scores["largest"][0] == pytest.approx(float(logits.max(-1).mean()), abs=1e-5)
    without_test = jaxnas.evaluate(Zoo, variables, [arch], data[:2], **options)
    np.testing.assert_allclose(without_test["loss"], scores["loss"], rtol=1e-6)


class Normalised(nn.Module):
    """Batch norm of momentum 0.8 on data whose mean is 3."""

    @nn.compact
    def __call__(self, x, arch, train: bool = False):
        double = {"once": lambda x: x, "twice": lambda x: 2 * x}
        x = jaxnas.LayerChoice(double, key="scale")(x, arch)
        return nn.BatchNorm(use_running_average=not train, momentum=0.8, use_bias=False, use_scale=False)(x)


def test_recalibration_gives_each_architecture_its_own_statistics():
    x = 3 + np.random.RandomState(0).randn(640, 2).astype(np.float32)
    y = np.zeros(640, np.int32)
    variables = model_fns(Normalised).init(jax.random.key(0), x, {"scale": jnp.array(0)})
    options = {"metrics": lambda output, y: {"mean": output.mean(), "square": jnp.square(output).mean()}}
    archs = [{"scale": "once"}, {"scale": "twice"}]
    plain = jaxnas.evaluate(Normalised, variables, archs, (x, y), **options)
    np.testing.assert_allclose(plain["mean"], [x.mean(), 2 * x.mean()], rtol=1e-4)
    own = jaxnas.evaluate(Normalised, variables, archs, (x, y), recalibrate=True, **options)
    np.testing.assert_allclose(own["mean"], 0, atol=0.02)
    np.testing.assert_allclose(own["square"], 1, atol=0.05)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"archs": []}, jaxnas.ArchitectureError, "archs is empty"),
        ({"archs": [{"layer": 0}]}, jaxnas.ArchitectureError, "missing keys"),
        ({"archs": {"layer": jnp.zeros((2,), int), "one": jnp.zeros((3,), int)}}, jaxnas.ArchitectureError, "shapes"),
        ({"archs": {"layer": "nest"}}, jaxnas.ArchitectureError, r"For one architecture give \[arch\]"),
        ({"split": "valid"}, jaxnas.DataError, "split.*'valid'"),
        ({"batch_size": 0}, ValueError, "batch_size"),
        ({"data": "nowhere.npz"}, jaxnas.DataError, r"nowhere\.npz"),
    ],
)
def test_bad_arguments_are_named(zoo, change, error, message):
    _, variables, data, archs = zoo
    arguments = {"archs": archs, "data": data, **change}
    with pytest.raises(error, match=message):
        jaxnas.evaluate(Zoo, variables, **arguments)


def test_no_test_data_is_said(zoo):
    _, variables, data, archs = zoo
    with pytest.raises(jaxnas.DataError, match="no test data"):
        jaxnas.evaluate(Zoo, variables, archs, data[:2], split="test")


def test_an_evaluator_compiles_once_for_any_number_of_calls(zoo):
    space, variables, data, archs = zoo
    traced = []

    def loss(output, labels):
        traced.append(output.shape)
        return cross_entropy(output, labels)

    score = jaxnas.evaluator(Zoo, variables, data, loss_fn=loss, metrics="accuracy")
    expected = jaxnas.evaluate(Zoo, variables, archs, data)
    fixed = rows(space, archs)
    first = score(fixed[0])
    seen = len(traced)
    assert first == {name: values[0] for name, values in expected.items()}
    for i, arch in enumerate(fixed):
        assert score(arch)["loss"] == pytest.approx(expected["loss"][i], rel=1e-6)
    np.testing.assert_allclose(score(fixed)["accuracy"], expected["accuracy"])
    assert len(traced) == seen
    found = jaxnas.evolution.search(score.space, lambda arch: score(arch)["accuracy"], trials=4, population=2, sample=1)
    assert found.best.score == max(trial.score for trial in found.trials)
    assert repr(score) == f"Evaluator(space={space!r})"


def test_an_evaluator_recalibrates_each_architecture():
    x = 3 + np.random.RandomState(0).randn(640, 2).astype(np.float32)
    y = np.zeros(640, np.int32)
    variables = model_fns(Normalised).init(jax.random.key(0), x, {"scale": jnp.array(0)})
    score = jaxnas.evaluator(
        Normalised, variables, (x, y), recalibrate=True, metrics=lambda output, labels: {"mean": output.mean()}
    )
    for arch in ({"scale": "once"}, {"scale": "twice"}):
        assert score(arch)["mean"] == pytest.approx(0, abs=0.02)
