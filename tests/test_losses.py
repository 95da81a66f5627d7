"""Losses by name and of one's own: shapes, precision, the architecture, and the reward that fits."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import jaxnas
from jaxnas import losses
from jaxnas.data import Dataset
from jaxnas.programs.evaluation import make_evaluator, objective, reward_for
from jaxnas.programs.examples import on_device

RS = np.random.RandomState(0)
X = RS.randn(22, 3).astype(np.float32)
REAL = RS.randn(22).astype(np.float32)
CLASSES = np.arange(22, dtype=np.int32) % 3


def spec(*shape, dtype=jnp.float32):
    """The shape of an output for a batch of one."""
    return jax.ShapeDtypeStruct((1, *shape), dtype)


def objective_of(loss_fn, labels, *shape, metrics=None, **options):
    return objective(loss_fn, metrics, Dataset(X, labels), spec(*shape), **options)


def test_ready_losses_have_hand_computed_values():
    output, labels = jnp.array([0.0, 2.0, -1.0]), jnp.array([1.0, 0.0, 0.0])
    assert losses.mse(output, labels) == pytest.approx((1 + 4 + 1) / 3)
    assert losses.mae(output, labels) == pytest.approx((1 + 2 + 1) / 3)
    softplus = [np.log(2), np.log1p(np.exp(2)), np.log1p(np.exp(-1))]
    assert losses.bce(output, labels) == pytest.approx(np.mean(softplus), rel=1e-6)
    logits, classes = jnp.array([[1.0, 1.0], [0.0, np.log(3)]]), jnp.array([0, 1])
    assert losses.cross_entropy(logits, classes) == pytest.approx((np.log(2) + np.log(4 / 3)) / 2, rel=1e-6)


def test_label_smoothing_mixes_with_the_even_distribution():
    logits, classes = jnp.asarray(RS.randn(5, 4), jnp.float32), jnp.array([0, 1, 2, 3, 3])
    smooth = losses.cross_entropy(label_smoothing=0.2)
    even = -jax.nn.log_softmax(logits).mean()
    expected = 0.8 * losses.cross_entropy(logits, classes) + 0.2 * even
    assert smooth(logits, classes) == pytest.approx(float(expected), rel=1e-5)
    assert smooth(logits, jax.nn.one_hot(classes, 4)) == pytest.approx(float(expected), rel=1e-5)
    assert repr(smooth) == "jaxnas.losses.cross_entropy(label_smoothing=0.2)"
    with pytest.raises(ValueError, match=r"label_smoothing must lie in \[0, 1\); got 1"):
        losses.cross_entropy(label_smoothing=1)(logits, classes)
    with pytest.raises(TypeError, match="smoothing"):
        losses.cross_entropy(smoothing=0.1)


@pytest.mark.parametrize("name", ["mse", "mae", "bce"])
def test_a_last_axis_of_one_is_dropped_and_nothing_broadcasts(name):
    loss = losses.LOSSES[name]
    labels = jnp.array([0.0, 1.0, 1.0, 0.0])
    output = jnp.array([0.5, 2.0, -1.0, 3.0])
    expected = loss(output, labels)
    assert loss(output[:, None], labels) == expected
    assert loss(output, labels[:, None]) == expected
    for wrong in (jnp.zeros((4, 2)), jnp.zeros(3), jnp.zeros((1, 4)), jnp.zeros((4, 1, 1))):
        with pytest.raises(ValueError, match=rf"{name}: the output has shape .* and the labels \[4\]"):
            loss(wrong, labels)


def test_cross_entropy_checks_shapes():
    with pytest.raises(ValueError, match=r"cross_entropy: the output has shape \[4\] and the labels are int32\[4\]"):
        losses.cross_entropy(jnp.zeros(4), jnp.zeros(4, int))
    with pytest.raises(ValueError, match=r"float32\[4\]; expected logits"):
        losses.cross_entropy(jnp.zeros(4), jnp.zeros(4))
    with pytest.raises(ValueError, match=r"float32\[4\]; expected logits"):
        losses.cross_entropy(jnp.zeros((4, 2)), jnp.zeros(4))


def test_names_become_losses_and_fitting_metrics():
    loss, metrics = objective_of("mse", REAL, 1)
    assert loss(jnp.zeros((22, 1)), REAL) == pytest.approx(np.square(REAL).mean(), rel=1e-5)
    assert metrics(jnp.zeros((22, 1)), REAL) == {}
    _, metrics = objective_of("cross_entropy", CLASSES, 3)
    assert list(metrics(jnp.zeros((22, 3)), CLASSES)) == ["accuracy"]
    loss, metrics = objective_of("bce", CLASSES % 2, 1)
    assert metrics(jnp.ones((22, 1)), CLASSES % 2)["binary_accuracy"] == pytest.approx((CLASSES % 2).mean())
    with pytest.raises(ValueError, match=r"loss_fn must be .*'mse'.*; got 'huber'"):
        objective_of("huber", REAL, 1)
    with pytest.raises(TypeError, match="loss_fn must be a function"):
        objective_of(3, REAL, 1)
    with pytest.raises(jaxnas.DataError, match=r"y_train has values from 0 to 2; the loss bce needs labels in 0\.\.1"):
        objective_of("bce", CLASSES, 1)
    with pytest.raises(jaxnas.DataError, match="3 classes, but the model gives 2 logits"):
        objective_of(losses.cross_entropy(label_smoothing=0.1), CLASSES, 2)
    with pytest.raises(ValueError, match=r"mse: the output has shape \[11, 2\] and the labels \[11\]"):
        objective_of("mse", REAL, 2)


def test_auxiliary_heads_enter_ready_losses():
    loss, _ = objective_of("mse", REAL, 1, aux_weight=0.5)
    heads = (jnp.zeros((22, 1)), jnp.ones((22, 1)))
    expected = np.square(REAL).mean() + 0.5 * np.square(REAL - 1).mean()
    assert loss(heads, REAL) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("loss", "error", "message"),
    [
        (lambda o, y: jnp.square(o[:, 0] - y), ValueError, r"returned float32\[11\] for labels of shape \[11\].*mean"),
        (lambda o, y: 0.5, TypeError, r"returned the number 0\.5, a constant"),
        (lambda o, y: np.float32(1), TypeError, "returned a float32, a constant"),
        (lambda o, y: {"loss": o.mean()}, TypeError, "returned a dict; expected a float array"),
        (lambda o, y: None, TypeError, "returned a NoneType"),
        (lambda o, y: (o[:, 0] > y).sum(), ValueError, r"returned int32\[\]"),
    ],
)
def test_a_loss_of_the_wrong_kind_is_named_before_anything_runs(loss, error, message):
    with pytest.raises(error, match=f"loss_fn {message}"):
        objective_of(loss, REAL, 1)


def test_what_a_loss_raises_says_on_which_shapes():
    def broken(output, labels):
        return (output @ labels).mean()

    with pytest.raises(TypeError) as caught:
        objective_of(broken, REAL, 3)
    assert "loss_fn was tried on an output float32[11, 3] and labels float32[11]." in caught.value.__notes__


@pytest.mark.parametrize(
    ("loss", "labels", "width"),
    [
        (lambda o, y: jnp.square(o - y).mean(), REAL, 1),
        (lambda o, y: optax.huber_loss(o, y).mean(), REAL, 1),
        (jax.jit(lambda o, y: jnp.abs(y - o).mean()), REAL, 1),
        (lambda o, y: optax.sigmoid_binary_cross_entropy(o, y).mean(), REAL, 1),
        (lambda o, y: jnp.square(o - y).mean(), REAL[:, None], 4),
        (jax.jit(lambda o, y: jnp.abs(y - jnp.tanh(o)).mean()), REAL[:, None], 4),
    ],
)
def test_a_loss_that_broadcasts_is_warned_of(loss, labels, width):
    with pytest.warns(UserWarning, match=r"loss_fn: the model's output has shape \[batch, .*broadcast"):
        objective_of(loss, labels, width)


@pytest.mark.parametrize(
    ("loss", "labels", "width"),
    [
        (lambda o, y: jnp.square(o[:, 0] - y).mean(), REAL, 1),
        (lambda o, y: jnp.square(o - y[:, None]).mean(), REAL, 1),
        (lambda o, y: (jnp.square(o[:, :1] - y) / jnp.exp(o[:, 1:])).mean(), REAL[:, None], 2),
        (lambda o, y: optax.softmax_cross_entropy_with_integer_labels(o, y[:, 0]).mean(), CLASSES[:, None], 3),
        (lambda o, y: optax.softmax_cross_entropy_with_integer_labels(o, y).mean(), CLASSES, 3),
        (lambda o, y: (jax.nn.log_softmax(o) * y).mean(), REAL[:, None], 3),
        (lambda o, y: ((o @ o.T) * (y[:, None] == y)).mean(), CLASSES, 3),
    ],
)
def test_a_loss_that_brings_both_together_itself_is_not(loss, labels, width):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        objective_of(loss, labels, width)


def test_low_precision_outputs_are_computed_in_float32():
    output = jnp.asarray(RS.randn(22, 1), jnp.bfloat16)
    exact = np.square(np.asarray(output, np.float32)[:, 0] - REAL).mean()
    for given in ("mse", lambda o, y: jnp.square(o[:, 0] - y.astype(o.dtype)).mean()):
        loss, _ = objective_of(given, REAL, 1)
        assert loss(output, REAL).dtype == jnp.float32
        assert loss(output, REAL) == pytest.approx(exact, rel=1e-6)
        gradient = jax.grad(lambda o, loss=loss: loss(o, REAL))(output)
        assert gradient.dtype == jnp.bfloat16
    own, metrics = objective_of(
        lambda o, y: jnp.mean(o, dtype=jnp.bfloat16), REAL, 1, metrics=lambda o, y: {"mean": o.mean()}
    )
    assert own(output, REAL).dtype == jnp.float32
    assert metrics(output, REAL)["mean"] == pytest.approx(np.asarray(output, np.float32).mean(), rel=1e-6)


class Half(nn.Module):
    """A regression in bfloat16."""

    @nn.compact
    def __call__(self, x, arch):
        x = jaxnas.LayerChoice([nn.Dense(8, dtype=jnp.bfloat16), nn.Dense(8, use_bias=False)], key="a")(x, arch)
        return nn.Dense(1, dtype=jnp.bfloat16)(x)


def test_evaluation_of_a_bfloat16_model_is_averaged_in_float32():
    space = jaxnas.space(Half, X)
    variables = jaxnas.model.functional.model_fns(Half).init(jax.random.key(0), X, space.uniform())
    scores = jaxnas.evaluate(Half, variables, [{"a": 0}], (X, REAL), loss_fn="mse", metrics=["mae", "r2"], batch_size=5)
    output = np.asarray(Half().apply(variables, X, {"a": 0}), np.float64)[:, 0]
    assert scores["loss"][0] == pytest.approx(np.square(output - REAL).mean(), rel=1e-5)
    assert scores["mae"][0] == pytest.approx(np.abs(output - REAL).mean(), rel=1e-5)
    assert scores["r2"][0] == pytest.approx(1 - np.square(output - REAL).sum() / (22 * REAL.var()), rel=1e-5)


# ---------------------------------------------------------------------- the architecture


class Scale(nn.Module):
    """Two candidates without parameters."""

    @nn.compact
    def __call__(self, x, arch):
        return jaxnas.LayerChoice([lambda x: x[:, :1], lambda x: 2 * x[:, :1]], key="a")(x, arch)


def named(output, labels, arch):
    return jnp.square(output[:, 0] - labels).mean() + 10.0 * arch["a"]


def third(output, labels, a):
    return named(output, labels, a)


def optional(output, labels, *, arch=None):
    return named(output, labels, arch)


@pytest.mark.parametrize("loss", [named, third, optional, functools.partial(named), jax.jit(named)])
def test_a_loss_may_take_the_architecture(loss):
    def size(output, labels, arch):
        return {"chosen": arch["a"].astype(jnp.float32)}

    archs = [{"a": 0}, {"a": 1}]
    scores = jaxnas.evaluate(Scale, {}, archs, (X, REAL), loss_fn=loss, metrics=size, batch_size=8)
    expected = [np.square(k * X[:, 0] - REAL).mean() + 10.0 * (k - 1) for k in (1, 2)]
    np.testing.assert_allclose(scores["loss"], expected, rtol=1e-5)
    np.testing.assert_array_equal(scores["chosen"], [0, 1])
    with pytest.raises(TypeError, match="loss_fn takes an architecture, but the model has none here"):
        losses.as_loss(loss)(jnp.zeros((4, 1)), jnp.zeros(4))


@pytest.mark.parametrize("arch", [{"a": "wide", "b": 1}, {"a": jnp.array(0), "b": jnp.array(1)}])
def test_a_loss_with_an_architecture_is_tried_on_decisions_and_on_arrays(arch):
    def loss(output, labels, arch):
        return jnp.square(output[:, 0] - labels).mean() + len(arch)

    def broadcasting(output, labels, arch):
        return jnp.square(output - labels).mean()

    objective_of(loss, REAL, 1, arch=arch)
    with pytest.warns(UserWarning, match="broadcast"):
        objective_of(broadcasting, REAL, 1, arch=arch)
    with pytest.raises(ValueError, match=r"loss_fn returned float32\[11\]"):
        objective_of(lambda output, labels, arch: output[:, 0], REAL, 1, arch=arch)


def test_a_third_argument_with_a_default_is_no_architecture():
    def loss(output, labels, power=2.0):
        return (jnp.abs(output[:, 0] - labels) ** power).mean()

    assert losses.as_loss(loss)(jnp.ones((4, 1)), jnp.zeros(4), {"a": 1}) == 1
    assert not losses.takes_arch(losses.mse)


def test_the_cost_may_be_a_term_of_the_loss():
    class Two(nn.Module):
        @nn.compact
        def __call__(self, x, arch):
            return jaxnas.LayerChoice([nn.Dense(1), nn.Sequential([nn.Dense(5), nn.Dense(1)])], key="a")(x, arch)

    def loss(output, labels, arch):
        return 0 * output.mean() + jaxnas.cost(Two, (1, 3), arch).flops

    space = jaxnas.space(Two, X)
    variables = jaxnas.model.functional.model_fns(Two).init(jax.random.key(0), X, space.uniform())
    archs = [{"a": 0}, {"a": 1}]
    scores = jaxnas.evaluate(Two, variables, archs, (X, REAL), loss_fn=loss)
    np.testing.assert_allclose(scores["loss"], [jaxnas.cost(Two, (1, 3), arch).flops for arch in archs])
    weights = jaxnas.evaluate(Two, variables, [space.uniform()], (X, REAL), loss_fn=loss)
    assert weights["loss"][0] == pytest.approx(scores["loss"].mean())


# ---------------------------------------------------------------------- reward


def test_the_reward_fits_the_task():
    dataset, output = Dataset(X, CLASSES), jnp.asarray(RS.randn(22, 3), jnp.float32)
    for loss_fn in (None, "cross_entropy", losses.cross_entropy(label_smoothing=0.1)):
        loss, _ = objective(loss_fn, None, dataset, spec(3))
        reward, said = reward_for(None, loss, dataset)
        assert reward(output, CLASSES) == pytest.approx((np.argmax(output, -1) == CLASSES).mean())
        assert said is None
    for loss_fn in ("mse", lambda o, y: jnp.square(o[:, 0] - y).mean()):
        dataset = Dataset(X, REAL)
        loss, _ = objective(loss_fn, None, dataset, spec(1))
        reward, said = reward_for(None, loss, dataset)
        assert reward(output[:, :1], REAL) == pytest.approx(-np.square(output[:, 0] - REAL).mean(), rel=1e-5)
        assert "minus the loss" in said
        own, said = reward_for(lambda o, y, arch: arch["a"] * o.mean(), loss, dataset)
        assert own(output, REAL, {"a": 2}) == pytest.approx(2 * float(output.mean()), rel=1e-5)
        assert said is None
    with pytest.raises(TypeError, match="reward_fn must be a function"):
        reward_for("accuracy", loss, dataset)
    with pytest.raises(ValueError, match=r"reward_fn returned float32\[22\]"):
        reward_for(lambda o, y: o[:, 0], loss, dataset)[0](output, REAL)


def test_an_evaluator_takes_names_and_plain_functions():
    evaluate = make_evaluator(lambda v, a, x: x[:, :1], Dataset(X, REAL), "mse", ["mae"], batch_size=8)
    scores = evaluate({}, None, on_device(X), on_device(REAL))
    assert scores == {
        "loss": pytest.approx(np.square(X[:, 0] - REAL).mean(), rel=1e-6),
        "mae": pytest.approx(np.abs(X[:, 0] - REAL).mean(), rel=1e-6),
    }
