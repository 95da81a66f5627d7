"""Metrics: means over examples, and those that are no means. `jaxnas.metrics` is this module.

==================================  ================================================================================
kind                                what it is
==================================  ================================================================================
a function                          `(output, labels) -> {name: scalar}`, each a mean over the batch. Over a split the
                                    batches' values are averaged, weighted by their examples. Accuracy, mean errors.
`summed(update, compute)`           sums over the batches are added up, and the metric is computed of the totals:
                                    F1, anything of a confusion matrix.
`collected(fn)`                     outputs and labels of the whole split are put together and the metric is computed
                                    once, on the host: R², AUC, ranks.
a name                              one of `METRICS`.
==================================  ================================================================================

Arguments called `metrics` take one of these or a list of them. Only means are reported of training steps: what is no
mean has no meaning as an average over batches, so it is computed of whole splits only (validation and test). Functions
may take the architecture as a third argument, as losses may.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.programs.losses import full_precision, main_output, same_shape, takes_arch, with_arch

MetricsFn = Callable[..., Mapping[str, Any]]
"""(model output for a batch, labels) or (output, labels, arch) -> {name: scalar mean over the batch}."""


@dataclasses.dataclass(frozen=True)
class Summed:
    """See `summed`."""

    update: Callable[..., Any]
    compute: Callable[[Any], Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Collected:
    """See `collected`."""

    fn: Callable[..., Mapping[str, Any]]


def summed(update: Callable[..., Any], compute: Callable[[Any], Mapping[str, Any]]) -> Summed:
    """A metric of sums over the examples.

    Args:
      update: (output, labels) of a batch, or (output, labels, arch) -> pytree of arrays, sums over the batch; their
        shapes must not depend on its size. Traceable.
      compute: (the pytree, summed over all batches; NumPy, float64 or int64) -> {name: scalar}.
    """
    return Summed(update, compute)


def collected(fn: Callable[..., Mapping[str, Any]]) -> Collected:
    """A metric of all outputs and labels of a split. All outputs are held at once.

    Args:
      fn: (outputs `[N, …]` as the model gives them, labels `[N, …]`; NumPy), or (outputs, labels, arch)
        -> {name: scalar}. Not traced: any Python.
    """
    return Collected(fn)


@dataclasses.dataclass(frozen=True)
class Metrics:
    """All metrics of a run. `metrics(output, labels, arch=None)` gives the means of a batch, `{name: scalar}`.

    Attributes:
      means: functions of (output, labels, arch) of full precision.
        sums, whole: the other kinds.
      take_arch: whether one of the first two kinds takes an architecture.
    """

    means: tuple[Callable[[Any, Any, Any], Any], ...] = ()
    sums: tuple[Summed, ...] = ()
    whole: tuple[Collected, ...] = ()
    take_arch: bool = False

    def __call__(self, output: Any, labels: Any, arch: Any = None) -> dict[str, jax.Array]:
        """The means over a batch. Raises TypeError or ValueError for what is no dict of scalars."""
        output, labels = full_precision((output, labels))
        found = _merged([fn(output, labels, arch) for fn in self.means], "a scalar, a mean over the batch")
        return {name: jnp.asarray(score) for name, score in found.items()}

    def update(self, output: Any, labels: Any, arch: Any = None) -> list[Any]:
        """The sums over a batch, of each of `sums`."""
        output, labels = full_precision((output, labels))
        return [with_arch(metric.update, "a metric's update")(output, labels, arch) for metric in self.sums]

    def finish(self, sums: Sequence[Any], outputs: Any, labels: np.ndarray, arch: Any = None) -> dict[str, float]:
        """What is no mean, of a whole split: of the totals of `update`, and of all outputs and labels (NumPy)."""
        of_sums = [metric.compute(total) for metric, total in zip(self.sums, sums, strict=True)]
        of_whole = [with_arch(metric.fn, "a metric")(outputs, labels, arch) for metric in self.whole]
        return {name: float(value) for name, value in _merged([*of_sums, *of_whole], "a scalar").items()}

    def bound(self, arch: Any) -> Metrics:
        """The metrics with this architecture, for a fixed model."""

        def of(fn: Callable) -> Callable:
            return lambda output, labels, _=None: with_arch(fn, "a metric")(output, labels, arch)

        return Metrics(
            tuple(of(fn) for fn in self.means),
            tuple(dataclasses.replace(metric, update=of(metric.update)) for metric in self.sums),
            tuple(dataclasses.replace(metric, fn=of(metric.fn)) for metric in self.whole),
        )

    def also(self, name: str, fn: Callable[..., jax.Array]) -> Metrics:
        """With one more mean: `fn` of (output, labels, arch) -> scalar."""
        return dataclasses.replace(self, means=(*self.means, lambda *data: {name: fn(*data)}))


def as_metrics(metrics: Any) -> Metrics:
    """What an argument `metrics` stands for.

    Args:
      metrics: a function, a name in `METRICS`, `summed`, `collected`, or a list of these; None for none; or a
        `Metrics`, which stays as it is.

    Raises:
      TypeError, ValueError: if it is none of these.
    """
    if isinstance(metrics, Metrics):
        return metrics
    given = [] if metrics is None else list(metrics) if isinstance(metrics, (list, tuple)) else [metrics]
    unknown = [one for one in given if isinstance(one, str) and one not in METRICS]
    if unknown:
        raise ValueError(f"metrics: there is no metric {unknown[0]!r}; ready ones are {list(METRICS)}.")
    given = [METRICS[one] if isinstance(one, str) else one for one in given]
    for one in given:
        if not isinstance(one, (Summed, Collected)) and not callable(one):
            raise TypeError(
                "metrics must be a function (output, labels) -> {name: scalar}, jaxnas.metrics.summed or collected, "
                f"one of the names {list(METRICS)}, or a list of these; got {one!r}."
            )
    sums = tuple(one for one in given if isinstance(one, Summed))
    whole = tuple(one for one in given if isinstance(one, Collected))
    means = [one for one in given if not isinstance(one, (Summed, Collected))]
    take_arch = any(takes_arch(fn) for fn in (*means, *(one.update for one in sums)))
    return Metrics(tuple(with_arch(fn, "a metric") for fn in means), sums, whole, take_arch)


def _merged(parts: Sequence[Any], expected: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for scores in parts:
        if not isinstance(scores, Mapping):
            raise TypeError(f"metrics must return a dict {{name: scalar}}; got {type(scores).__name__}.")
        for name, score in scores.items():
            if not isinstance(name, str):
                raise TypeError(f"metrics must return a dict {{name: scalar}} with names as strings; got {name!r}.")
            if name == "loss":
                raise ValueError('a metric cannot be called "loss": the loss is reported under that name.')
            if name in found:
                raise ValueError(f"two metrics are called {name!r}.")
            if jnp.shape(score) != ():
                raise ValueError(f"metric {name!r} has shape {jnp.shape(score)}; expected {expected}.")
            found[name] = score
    return found


# ---------------------------------------------------------------------- ready ones


def accuracy(output: Any, labels: jax.Array) -> dict[str, jax.Array]:
    """`{"accuracy": share of right answers in 0..1}` of logits `[…, classes]` and class numbers `[…]`.

    Of a tuple of heads the first counts.
    """
    return {"accuracy": (_logits("accuracy", output, labels).argmax(-1) == labels).mean()}


def binary_accuracy(output: Any, labels: jax.Array) -> dict[str, jax.Array]:
    """`{"binary_accuracy": share of right answers}` of logits in the shape of the labels, which are 0 and 1."""
    output, labels = same_shape("binary_accuracy", main_output(output), labels)
    return {"binary_accuracy": ((output > 0) == (labels > 0.5)).mean()}


def top5(output: Any, labels: jax.Array) -> dict[str, jax.Array]:
    """`{"top5": share of examples whose class is among the five of largest logits}`."""
    logits = _logits("top5", output, labels)
    _, best = jax.lax.top_k(logits, min(5, logits.shape[-1]))
    return {"top5": (best == labels[..., None]).any(-1).mean()}


def mse(output: Any, labels: jax.Array) -> dict[str, jax.Array]:
    """`{"mse": mean squared error}`."""
    output, labels = same_shape("mse", main_output(output), labels)
    return {"mse": jnp.square(output - labels).mean()}


def mae(output: Any, labels: jax.Array) -> dict[str, jax.Array]:
    """`{"mae": mean absolute error}`."""
    output, labels = same_shape("mae", main_output(output), labels)
    return {"mae": jnp.abs(output - labels).mean()}


def _r2(outputs: Any, labels: np.ndarray) -> dict[str, float]:
    given, wanted = (np.asarray(a, np.float64) for a in same_shape("r2", main_output(outputs), labels))
    given, wanted = given.reshape(len(given), -1), wanted.reshape(len(wanted), -1)
    total = np.square(wanted - wanted.mean(0)).sum(0)
    residual = np.square(wanted - given).sum(0)
    return {"r2": float(np.mean(1 - residual / total)) if total.all() else float("nan")}


def _auc(outputs: Any, labels: np.ndarray) -> dict[str, float]:
    logits, labels = _binary("auc", outputs, labels)
    _, place, count = np.unique(np.asarray(logits, np.float64).ravel(), return_inverse=True, return_counts=True)
    ranks = (np.cumsum(count) - (count - 1) / 2)[place.ravel()]
    ones = np.asarray(labels).ravel() > 0.5
    n_ones, n_zeros = int(ones.sum()), int((~ones).sum())
    if not n_ones or not n_zeros:
        return {"auc": float("nan")}
    return {"auc": float((ranks[ones].sum() - n_ones * (n_ones + 1) / 2) / (n_ones * n_zeros))}


def _f1_counts(output: Any, labels: jax.Array) -> dict[str, jax.Array]:
    """Per class: right, predicted and actual examples, int32 `[classes]`; of single logits of class 1 only."""
    output = main_output(output)
    if output.ndim == labels.ndim + 1 and output.shape[-1] > 1:
        logits = _logits("f1", output, labels)
        classes = jnp.arange(logits.shape[-1])
        predicted, actual = (a[..., None] == classes for a in (logits.argmax(-1), labels))
    else:
        output, labels = same_shape("f1", output, labels)
        predicted, actual = (output > 0)[..., None], (labels > 0.5)[..., None]
    axes = tuple(range(predicted.ndim - 1))
    both = {"right": predicted & actual, "predicted": predicted, "actual": actual}
    return {name: flags.sum(axes, dtype=jnp.int32) for name, flags in both.items()}


def _f1_of(counts: Mapping[str, np.ndarray]) -> np.ndarray:
    """F1 per class; NaN for classes that are neither predicted nor there."""
    seen = counts["predicted"] + counts["actual"]
    return np.where(seen > 0, 2 * counts["right"] / np.maximum(seen, 1), np.nan)


def _macro_f1(counts: Mapping[str, np.ndarray]) -> dict[str, float]:
    scores = _f1_of(counts)
    return {"f1": float(scores[~np.isnan(scores)].mean()) if not np.isnan(scores).all() else float("nan")}


def _binary_counts(output: Any, labels: jax.Array) -> dict[str, jax.Array]:
    return _f1_counts(*_binary("f1_binary", output, labels))


r2 = collected(_r2)
"""R²: 1 - residual / total sum of squares, averaged over columns. NaN if all labels of a column agree."""

auc = collected(_auc)
"""Area under the ROC curve, of two classes, from logits of class 1 or two logits each.

The share of pairs of a 1 and a 0 in which the 1 has the larger logit, ties counting half. NaN if a class is missing."""

f1 = summed(_f1_counts, _macro_f1)
"""Mean over the classes of the harmonic mean of precision and recall; classes neither predicted nor there are left out.

Of single logits (`[B]` or `[B, 1]`) that of class 1."""

f1_binary = summed(_binary_counts, lambda counts: {"f1_binary": float(_f1_of(counts)[0])})
"""F1 of class 1, of two logits or one."""

METRICS: dict[str, Callable | Summed | Collected] = {
    "accuracy": accuracy,
    "binary_accuracy": binary_accuracy,
    "top5": top5,
    "mse": mse,
    "mae": mae,
    "r2": r2,
    "f1": f1,
    "f1_binary": f1_binary,
    "auc": auc,
}
"""By the names that `metrics` takes."""


def _logits(name: str, output: Any, labels: Any) -> Any:
    logits = main_output(output)
    if logits.shape[:-1] != labels.shape:
        raise ValueError(
            f"{name}: the output has shape {list(logits.shape)} and the labels {list(labels.shape)}; expected logits "
            "[…, classes] and class numbers […]. (For labels of 0 and 1 see binary_accuracy.)"
        )
    return logits


def _binary(name: str, output: Any, labels: Any) -> tuple[Any, Any]:
    """The logit of class 1 (of two: their difference), and labels of the same shape."""
    output = main_output(output)
    if output.shape == (*labels.shape, 2):
        output = output[..., 1] - output[..., 0]
    return same_shape(name, output, labels)
