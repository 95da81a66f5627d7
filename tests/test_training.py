"""Evaluation, batch statistics and retraining."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from helpers import Block, assert_trees_close

import jaxnas
from jaxnas import LayerChoice
from jaxnas.data import Dataset
from jaxnas.programs.evaluation import accuracy, cross_entropy, make_evaluator, make_recalibration
from jaxnas.programs.examples import on_device
from jaxnas.runs.directory import read_weights
from jaxnas.training import fit, paper_optimizer


def problem(n=203, seed=0):
    x = np.random.RandomState(seed).randn(n, 5).astype(np.float32)
    return x, (x.sum(1) > 0).astype(np.int32)


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool = False):
        return nn.Dense(2)(nn.relu(Block(16, 0.1)(x, train=train)))


@pytest.mark.parametrize("batch_size", [1, 7, 64, 203, 500])
def test_evaluation_counts_every_example_once(batch_size):
    x, y = problem()
    logits = x @ np.random.RandomState(1).randn(5, 2).astype(np.float32)
    evaluate = make_evaluator(lambda v, arch, x: x @ v, Dataset(x, y), cross_entropy, accuracy, batch_size)
    weights = jnp.asarray(np.random.RandomState(1).randn(5, 2), jnp.float32)
    scores = evaluate(weights, None, on_device(x), on_device(y))
    assert scores["accuracy"] == pytest.approx((logits.argmax(1) == y).mean(), abs=1e-6)
    assert scores["loss"] == pytest.approx(float(cross_entropy(logits, y)), rel=1e-5)
    some = np.array([3, 5, 8])
    assert evaluate(weights, None, on_device(x), on_device(y), some)["accuracy"] == pytest.approx(
        (logits[some].argmax(1) == y[some]).mean(), abs=1e-6
    )


@pytest.mark.parametrize("momentum", [0.0, 0.9, 0.99])
def test_recalibrated_statistics_are_averages_of_the_batches(momentum):
    class Norms(nn.Module):
        @nn.compact
        def __call__(self, x, arch, train=False):
            layers = [nn.BatchNorm(momentum=momentum, name=f"norm{i}") for i in range(2)]
            return LayerChoice(layers, key="k")(x, arch, use_running_average=not train)

    x, y = problem(40)
    arch = {"k": jnp.array(1)}
    variables = Norms().init(jax.random.key(0), x, arch)
    variables["batch_stats"]["norm0"]["mean"] += 7.0

    def forward(v, arch, x):
        return Norms().apply(v, x, arch, train=True, mutable=["batch_stats"])[1]

    batches = np.arange(40).reshape(4, 10)
    stats = make_recalibration(forward, Dataset(x, y))(variables, arch, on_device(x), batches)["batch_stats"]
    weights = momentum ** np.arange(3, -1, -1.0)
    weights /= weights.sum()
    np.testing.assert_allclose(stats["norm1"]["mean"], weights @ x.reshape(4, 10, 5).mean(1), rtol=2e-4, atol=1e-5)
    np.testing.assert_allclose(stats["norm1"]["var"], weights @ x.reshape(4, 10, 5).var(1), rtol=2e-4)
    np.testing.assert_allclose(stats["norm0"]["mean"], np.full(5, 7.0))  # not used, so kept


def test_fit_learns_and_reports(tmp_path):
    x, y = problem(600)
    data = (x[:400], y[:400], x[400:], y[400:])
    result = fit(Net(), data, epochs=15, batch_size=20, workdir=tmp_path / "fit", progress=False)
    assert result.test_accuracy > 0.9
    assert [record["epoch"] for record in result.history] == list(range(15))
    last = result.history[-1]
    assert last["train_loss"] < result.history[0]["train_loss"]
    predicted = Net().apply(result.variables, x[400:]).argmax(-1)
    assert result.test_accuracy == pytest.approx(float((predicted == y[400:]).mean()), abs=1e-6)
    ended = json.loads((tmp_path / "fit" / "result.json").read_text())
    assert (ended["status"], ended["test_accuracy"]) == ("finished", result.test_accuracy)
    assert_trees_close(read_weights(tmp_path / "fit"), jax.device_get(result.variables), atol=0)


def test_fit_starts_from_given_variables_and_leaves_them_be():
    x, y = problem(100)
    start = Net().init(jax.random.key(7), x)
    copy = jax.tree.map(np.array, start)
    options = {"epochs": 1, "batch_size": 50, "progress": False}
    frozen = fit(Net(), (x, y), variables=start, optimizer=optax.sgd(0.0), **options)
    assert_trees_close(frozen.variables["params"], copy["params"], atol=0)
    assert frozen.test_accuracy is None
    fit(Net(), (x, y), variables=start, **options)
    assert_trees_close(start, copy, atol=0)  # not donated away


def test_fit_trains_a_sequential():
    x, y = problem(100)
    result = fit(nn.Sequential([nn.Dense(8), Block(8), nn.Dense(2)]), (x, y), epochs=3, batch_size=20, progress=False)
    assert result.history[-1]["train_loss"] < result.history[0]["train_loss"]


class Scheduled(nn.Module):
    """Notes the progress of each of its steps."""

    @nn.compact
    def __call__(self, x, arch, train: bool = False, progress=None):
        seen = self.variable("noted", "progress", jnp.zeros, 12)
        steps = self.variable("noted", "steps", jnp.zeros, (), jnp.int32)
        assert self.is_initializing() or train or progress is None
        if progress is not None and self.is_mutable_collection("noted"):
            seen.value = seen.value.at[steps.value].set(progress)
            steps.value = steps.value + 1
        return LayerChoice([nn.Dense(2), lambda x: x[:, :2]], key="k")(x, arch)


@pytest.mark.parametrize("steps_per_call", [None, 3])
def test_models_that_take_it_are_told_the_progress_also_when_a_run_goes_on(steps_per_call, tmp_path):
    def cut(record):
        if record["epoch"] == 1:
            raise InterruptedError

    options = {"epochs": 3, "batch_size": 50, "steps_per_call": steps_per_call}
    model = jaxnas.apply_fixed_architecture(Scheduled, {"k": 0})
    data = problem(200)
    whole = fit(model, data, progress=False, **options)
    noted = whole.variables["noted"]
    assert noted["progress"].dtype == jnp.float32
    np.testing.assert_allclose(noted["progress"], np.arange(12) / 12, rtol=1e-6)
    with pytest.raises(InterruptedError):
        fit(model, data, progress=cut, workdir=tmp_path, **options)
    resumed = fit(model, data, progress=False, workdir=tmp_path, **options)
    jax.tree.map(np.testing.assert_array_equal, resumed.variables, whole.variables)


def test_fit_is_deterministic():
    x, y = problem(100)
    runs = [fit(Net(), (x, y), epochs=2, batch_size=30, seed=s, progress=False) for s in (1, 1, 2)]
    leaves = [np.concatenate([np.ravel(v) for v in jax.tree.leaves(r.variables)]) for r in runs]
    assert leaves[0].tobytes() == leaves[1].tobytes()
    assert leaves[0].tobytes() != leaves[2].tobytes()


def test_paper_optimizer_falls_to_zero():
    optimizer = paper_optimizer(epochs=2, steps_per_epoch=5)
    state = optimizer.init(jnp.array(1.0))
    update, state = optimizer.update(jnp.array(1.0), state, jnp.array(1.0))
    np.testing.assert_allclose(update, -0.025 * (1 + 3e-4), rtol=1e-6)
    for _ in range(10):
        update, state = optimizer.update(jnp.array(0.0), state, jnp.array(0.0))
    np.testing.assert_allclose(update, 0, atol=1e-9)


def test_fit_stops_at_a_loss_that_is_not_finite(tmp_path):
    x, y = problem(100)
    optimizer = optax.sgd(optax.piecewise_constant_schedule(0.1, {5: 1e38}))
    with pytest.raises(jaxnas.NonFiniteLossError) as caught:
        fit(Net(), (x, y), epochs=5, batch_size=25, optimizer=optimizer, progress=False, workdir=tmp_path / "run")
    assert caught.value.epoch == 1
    assert len(caught.value.result.history) == 1
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(caught.value.result.variables))
    assert json.loads((tmp_path / "run" / "result.json").read_text())["status"] == "failed"


def test_bad_arguments_are_named():
    x, y = problem(30)

    class Open(nn.Module):
        @nn.compact
        def __call__(self, x, arch):
            return LayerChoice([nn.Dense(2)], key="k")(x, arch)

    with pytest.raises(TypeError, match="Open takes an architecture"):
        fit(Open(), (x, y))
    with pytest.raises(jaxnas.DataError, match="31.*30"):
        fit(Net(), (x, y), batch_size=31)
    with pytest.raises(jaxnas.DataError, match="5 classes.*2 logits"):
        fit(Net(), (x, y * 4), batch_size=10)
    with pytest.raises(ValueError, match="epochs"):
        fit(Net(), (x, y), epochs=-1)
    with pytest.raises(ValueError, match="test_every"):
        fit(Net(), (x, y), test_every=0)
    other = Net().init(jax.random.key(0), x[:, :4])
    for variables, message in ((other, r"kernel.*\(4, 16\).*\(5, 16\)"), ({}, "missing")):
        with pytest.raises(ValueError, match=message):
            fit(Net(), (x, y), batch_size=10, variables=variables)
