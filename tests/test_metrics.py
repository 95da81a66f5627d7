"""Metrics over whole splits equal those of scikit-learn, however the split falls into batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics as reference

from jaxnas import losses, metrics
from jaxnas.data import Dataset
from jaxnas.programs.evaluation import make_evaluator, objective
from jaxnas.programs.examples import on_device

RS = np.random.RandomState(1)
N = 53
LOGITS = RS.randn(N, 4).astype(np.float32)
CLASSES = np.argmax(LOGITS + RS.randn(N, 4), -1).astype(np.int32)
BINARY = (LOGITS[:, 0] + RS.randn(N) > 0.3).astype(np.int32)
REAL = (3 + 2 * LOGITS[:, 1] + RS.randn(N)).astype(np.float32)


def over(which, outputs, labels, *, batch_size, loss=lambda output, labels: output.mean()):
    """Metrics of a model whose outputs are its inputs."""
    dataset = Dataset(outputs.reshape(N, -1), labels)
    evaluate = make_evaluator(lambda v, a, x: x.reshape(-1, *outputs.shape[1:]), dataset, loss, which, batch_size)
    scores = evaluate({}, None, on_device(dataset.x_train), on_device(labels))
    return {k: v for k, v in scores.items() if k != "loss"}


@pytest.mark.parametrize("batch_size", [53, 10, 1])
def test_ready_metrics_are_those_of_scikit_learn(batch_size):
    def get(which, outputs, labels):
        return over(which, outputs, labels, batch_size=batch_size)

    top = LOGITS.argmax(-1)
    assert get(["accuracy", "f1"], LOGITS, CLASSES) == {
        "accuracy": pytest.approx(reference.accuracy_score(CLASSES, top)),
        "f1": pytest.approx(reference.f1_score(CLASSES, top, average="macro")),
    }
    column = LOGITS[:, :1]
    positive = column[:, 0] > 0
    assert get(["binary_accuracy", "f1", "f1_binary", "auc"], column, BINARY) == {
        "binary_accuracy": pytest.approx(reference.accuracy_score(BINARY, positive)),
        "f1": pytest.approx(reference.f1_score(BINARY, positive)),
        "f1_binary": pytest.approx(reference.f1_score(BINARY, positive)),
        "auc": pytest.approx(reference.roc_auc_score(BINARY, column[:, 0])),
    }
    two = LOGITS[:, :2]
    assert get(["f1_binary", "auc"], two, BINARY) == {
        "f1_binary": pytest.approx(reference.f1_score(BINARY, two[:, 1] > two[:, 0])),
        "auc": pytest.approx(reference.roc_auc_score(BINARY, two[:, 1].astype(float) - two[:, 0])),
    }
    line = 3 + 2 * LOGITS[:, 1:2]
    assert get(["r2", "mse", "mae"], line, REAL) == {
        "r2": pytest.approx(reference.r2_score(REAL, line[:, 0]), rel=1e-5),
        "mse": pytest.approx(reference.mean_squared_error(REAL, line[:, 0]), rel=1e-5),
        "mae": pytest.approx(reference.mean_absolute_error(REAL, line[:, 0]), rel=1e-5),
    }


def test_several_columns_and_labels():
    wanted = (LOGITS + RS.randn(N, 4)).astype(np.float32)
    assert over("r2", LOGITS, wanted, batch_size=7)["r2"] == pytest.approx(reference.r2_score(wanted, LOGITS))
    many = (wanted > 0).astype(np.int32)
    share = (many == (LOGITS > 0)).mean()
    assert over("binary_accuracy", LOGITS, many, batch_size=7)["binary_accuracy"] == pytest.approx(share)


def test_ties_count_half_and_missing_classes_are_not_a_number():
    tied = np.round(LOGITS[:, :1])
    assert over("auc", tied, BINARY, batch_size=7)["auc"] == pytest.approx(reference.roc_auc_score(BINARY, tied[:, 0]))
    assert np.isnan(over("auc", tied, np.zeros(N, np.int32), batch_size=7)["auc"])
    assert np.isnan(over("r2", tied, np.ones(N, np.float32), batch_size=7)["r2"])
    few = np.minimum(CLASSES, 1)  # classes 2 and 3 are predicted only
    expected = reference.f1_score(few, LOGITS.argmax(-1), average="macro")
    assert over("f1", LOGITS, few, batch_size=7)["f1"] == pytest.approx(expected)


def test_top5():
    wide = RS.randn(N, 9).astype(np.float32)
    labels = RS.randint(0, 9, N).astype(np.int32)
    expected = reference.top_k_accuracy_score(labels, wide, k=5, labels=range(9))
    assert over("top5", wide, labels, batch_size=7)["top5"] == pytest.approx(expected)


def test_large_offsets_lose_nothing():
    far = (1e6 + REAL).astype(np.float32)
    expected = reference.r2_score(far.astype(float), 1e6 + LOGITS[:, 1].astype(float))
    outputs = (1e6 + LOGITS[:, 1:2]).astype(np.float32)
    assert over("r2", outputs, far, batch_size=7)["r2"] == pytest.approx(expected, abs=0.1)


def test_own_metrics_of_each_kind():
    ranks = metrics.collected(lambda outputs, labels: {"median": np.median(outputs[:, 0])})
    spread = metrics.summed(
        lambda output, labels: {"n": jnp.asarray(len(labels)), "s": output.sum(), "q": jnp.square(output).sum()},
        lambda total: {"std": np.sqrt(total["q"] / total["n"] - (total["s"] / total["n"]) ** 2)},
    )
    scores = over([ranks, spread, lambda o, y: {"mean": o.mean()}], LOGITS[:, :1], REAL, batch_size=10)
    assert scores == {
        "median": pytest.approx(np.median(LOGITS[:, 0])),
        "std": pytest.approx(LOGITS[:, 0].std(), rel=1e-5),
        "mean": pytest.approx(LOGITS[:, 0].mean(), rel=1e-5),
    }


def test_a_weighted_loss_is_exact_as_a_sum():
    weights = jnp.array([1.0, 5.0, 1.0, 0.1])

    def sums(output, labels):
        each = -jnp.take_along_axis(jax.nn.log_softmax(output), labels[:, None], -1)[:, 0]
        return {"loss": (weights[labels] * each).sum(), "weight": weights[labels].sum()}

    weighted = metrics.summed(sums, lambda total: {"weighted": total["loss"] / total["weight"]})
    each = -np.asarray(jax.nn.log_softmax(LOGITS))[np.arange(N), CLASSES]
    expected = (np.asarray(weights)[CLASSES] * each).sum() / np.asarray(weights)[CLASSES].sum()
    for batch_size in (3, 10, 53):
        assert over(weighted, LOGITS, CLASSES, batch_size=batch_size)["weighted"] == pytest.approx(expected, rel=1e-5)


def test_training_steps_report_means_only():
    mixed = metrics.as_metrics(["accuracy", "f1", metrics.auc])
    assert list(mixed(LOGITS, CLASSES)) == ["accuracy"]
    also = mixed.also("reward", lambda output, labels, arch: output.mean())
    assert list(also(LOGITS, CLASSES)) == ["accuracy", "reward"]
    assert metrics.as_metrics(None)(LOGITS, CLASSES) == {}
    assert metrics.as_metrics(mixed) is mixed


def objective_of(which):
    return objective(None, which, Dataset(LOGITS, CLASSES), jax.ShapeDtypeStruct((1, 4), jnp.float32))


@pytest.mark.parametrize(
    ("which", "error", "message"),
    [
        ("f2", ValueError, r"there is no metric 'f2'; ready ones are \['accuracy'"),
        (["accuracy", 3], TypeError, r"metrics must be .*; got 3"),
        (["accuracy", "accuracy"], ValueError, "two metrics are called 'accuracy'"),
        (lambda o, y: o.mean(), TypeError, "metrics must return a dict"),
        (lambda o, y: {"loss": o.mean()}, ValueError, 'cannot be called "loss"'),
        (lambda o, y: {"each": o[:, 0]}, ValueError, r"metric 'each' has shape \(11,\)"),
        (lambda o, y: {1: o.mean()}, TypeError, "names as strings; got 1"),
        ("binary_accuracy", ValueError, r"binary_accuracy: the output has shape \[11, 4\]"),
    ],
)
def test_metrics_of_the_wrong_kind_are_named_before_anything_runs(which, error, message):
    with pytest.raises(error, match=message):
        objective_of(which)


def test_names_may_not_clash_between_kinds():
    clash = [metrics.collected(lambda o, y: {"accuracy": 1.0}), "accuracy"]
    with pytest.raises(ValueError, match=r"two metrics are called \['accuracy'\]"):
        over(clash, LOGITS, CLASSES, batch_size=7)


def test_updates_that_are_no_sums_are_refused():
    each = metrics.summed(lambda o, y: o[:, 0], lambda total: {"x": total.sum()})
    with pytest.raises(ValueError, match=r"update gives shape \(7,\) of one batch and \(4,\) of a shorter one"):
        over(each, LOGITS, CLASSES, batch_size=7)


def test_metrics_see_float32_and_the_architecture():
    seen = []

    def own(outputs, labels, arch):
        seen.append(outputs.dtype)
        return {"arch": arch["a"], "mean": outputs.mean()}

    dataset = Dataset(LOGITS, CLASSES)
    forward = lambda v, a, x: x.astype(jnp.bfloat16)  # noqa: E731
    evaluate = make_evaluator(forward, dataset, losses.cross_entropy, [metrics.collected(own), "accuracy"], 10)
    scores = evaluate({}, {"a": jnp.array(2)}, on_device(LOGITS), on_device(CLASSES))
    assert seen == [np.float32]
    assert scores["arch"] == 2
    assert scores["mean"] == pytest.approx(np.asarray(jnp.asarray(LOGITS, jnp.bfloat16), np.float32).mean(), rel=1e-4)
