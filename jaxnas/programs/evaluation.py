"""Losses, metrics, and evaluating a model on a whole split."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxnas.data import Dataset
from jaxnas.errors import DataError

LossFn = Callable[[Any, jax.Array], jax.Array]
"""(model output for a batch, labels) -> scalar mean over the batch."""
MetricsFn = Callable[[Any, jax.Array], Mapping[str, jax.Array]]
"""(model output for a batch, labels) -> {name: scalar mean over the batch}."""


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean cross-entropy of `logits` `[B, classes]` and int `labels` `[B]`."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def main_output(output: Any) -> Any:
    """The logits of a model that returns `(logits, auxiliary logits, …)`, or its output itself."""
    return output[0] if isinstance(output, tuple) else output


def with_auxiliary(loss_fn: LossFn, weight: float = 0.4) -> LossFn:
    """A loss that adds `weight` times that of each auxiliary head, where the model's output is a tuple of heads.

    A model gives `(logits, auxiliary logits)` in training and plain logits otherwise (GoogLeNet, arXiv 1409.4842).
    """

    def loss(output: Any, labels: jax.Array) -> jax.Array:
        main, *heads = output if isinstance(output, tuple) else (output,)
        return loss_fn(main, labels) + weight * sum(loss_fn(head, labels) for head in heads)

    return loss


def accuracy(output: Any, labels: jax.Array) -> dict[str, jax.Array]:
    """`{"accuracy": share of right answers in 0..1}` of logits, or of the first of a tuple of heads."""
    return {"accuracy": (main_output(output).argmax(-1) == labels).mean()}


def checked(metrics: MetricsFn) -> MetricsFn:
    """Metrics whose result is checked: a dict of scalars, none of them called "loss"."""

    def call(output: Any, labels: jax.Array) -> dict[str, jax.Array]:
        scores = metrics(output, labels)
        if not isinstance(scores, Mapping):
            raise TypeError(f"metrics must return a dict {{name: scalar}}; got {type(scores).__name__}.")
        for name, score in scores.items():
            if name == "loss":
                raise ValueError('a metric cannot be called "loss": the loss is reported under that name.')
            if jnp.shape(score) != ():
                raise ValueError(
                    f"metric {name!r} has shape {jnp.shape(score)}; expected a scalar, a mean over the batch."
                )
        return {name: jnp.asarray(score) for name, score in scores.items()}

    return call


def objective(
    loss_fn: LossFn | None, metrics: MetricsFn | None, dataset: Dataset, output: Any, *, aux_weight: float = 0.4
) -> tuple[LossFn, MetricsFn]:
    """The loss and the (checked) metrics that arguments `loss_fn` and `metrics` stand for.

    Args:
      loss_fn: None for cross-entropy, which the data and the model must then suit.
      metrics: None for accuracy, or for nothing beside a `loss_fn` of one's own.
      dataset, output: see `check_labels_fit`.
      aux_weight: weight of auxiliary heads in the default loss; see `with_auxiliary`.
    """
    if loss_fn is None:
        check_labels_fit(output, dataset)
        return with_auxiliary(cross_entropy, aux_weight), checked(metrics or accuracy)
    return loss_fn, checked(metrics or (lambda output, labels: {}))


def make_evaluator(
    forward: Callable, dataset: Dataset, loss_fn: LossFn, metrics: MetricsFn, batch_size: int = 256
) -> Callable:
    """Builds a function that evaluates on any examples, every one of which counts once.

    Args:
      forward: `(variables, arch, x) -> output`; a new architecture of the same kind does not recompile.
      dataset: for its normalisation.
      loss_fn, metrics: applied batch by batch, the last batch being as long as what remains; means over a batch
        so become means over the examples.
      batch_size: examples at once.

    Returns:
      `evaluate(variables, arch, images, labels, examples=None) -> {"loss": float, **metrics}`, where
      `images` and `labels` hold a split (raw) and `examples` the indices of those to use (all by default).
    """

    def scores(output: Any, labels: jax.Array) -> dict[str, jax.Array]:
        return {**metrics(output, labels), "loss": loss_fn(output, labels)}

    @functools.partial(jax.jit, static_argnames="remaining")
    def totals(variables, arch, images, labels, batches, remaining):
        """Sums over the examples; of the last batch only the first `remaining` count."""

        def one(_, batch):
            indices, is_last = batch
            output, y = forward(variables, arch, dataset.prepare(images[indices])), labels[indices]
            part = jax.tree.map(lambda leaf: leaf[:remaining], (output, y))
            whole, rest = scores(output, y), scores(*part)
            sums = {name: jnp.where(is_last, remaining * rest[name], len(y) * whole[name]) for name in whole}
            return None, sums

        return jax.lax.scan(one, None, (batches, jnp.arange(len(batches)) == len(batches) - 1))[1]

    def evaluate(variables, arch, images, labels, examples=None) -> dict[str, float]:
        examples = np.arange(len(images)) if examples is None else np.asarray(examples)
        size = min(batch_size, len(examples))
        rows = -(-len(examples) // size)
        padded = np.zeros(rows * size, np.int32)
        padded[: len(examples)] = examples
        remaining = len(examples) - (rows - 1) * size
        sums = jax.device_get(totals(variables, arch, images, labels, padded.reshape(rows, size), remaining))
        return {k: float(np.sum(v, dtype=np.float64) / len(examples)) for k, v in sums.items()}

    return evaluate


def make_recalibration(forward_train: Callable, dataset: Dataset) -> Callable:
    """Builds a function that recomputes batch statistics for one architecture.

    A supernet's running statistics belong to the mixture, so a derived architecture looks worse under
    them than it is (SPOS, arXiv 1904.00420, section 3.4).

    Args:
      forward_train: `(variables, arch, x) -> updates` of the collection `batch_stats`, in training mode.
      dataset: for its normalisation.

    Returns:
      `recalibrate(variables, arch, images, batches) -> variables`, with `batches` int `[K, B]`. Running
      averages start from zero and are corrected for that start, whatever their momentum; statistics that
      the architecture does not use are kept.
    """

    @jax.jit
    def recalibrate(variables, arch, images, batches):
        old = variables["batch_stats"]
        zeros, ones = jax.tree.map(jnp.zeros_like, old), jax.tree.map(jnp.ones_like, old)

        def update(stats, row):
            indices, from_ones = row
            stats = jax.tree.map(lambda s, one: jnp.where(from_ones, one, s), stats, ones)
            updates = forward_train({**variables, "batch_stats": stats}, arch, dataset.prepare(images[indices]))
            return updates["batch_stats"], updates["batch_stats"]

        # An average moves r to m r + (1 - m) b; after one batch from r = 1 and from r = 0 the difference is its
        # momentum m. The batch from ones is a last row of the same scan, so that the model is compiled once.
        count = len(batches)
        rows = (jnp.concatenate([batches, batches[:1]]), jnp.arange(count + 1) == count)
        _, steps = jax.lax.scan(update, zeros, rows)

        def corrected(step, before):
            share = 1 - (step[count] - step[0]) ** count
            return jnp.where(share > 1e-6, step[count - 1] / jnp.maximum(share, 1e-6), before)

        return {**variables, "batch_stats": jax.tree.map(corrected, steps, old)}

    return recalibrate


def check_labels_fit(output: Any, dataset: Dataset) -> None:
    """Raises DataError unless the default loss can compare the model's output with the labels.

    Args:
      output: shapes of the model's output for one example.
      dataset: the data.
    """
    if not dataset.has_classes:
        raise DataError(
            f"{dataset.name}: y_train is {dataset.y_train.dtype}{list(dataset.y_train.shape)}; the default loss needs "
            "int class labels [N]. Give a loss_fn (and metrics) for other labels."
        )
    output = main_output(output)
    if not hasattr(output, "shape") or len(output.shape) != 2:
        raise DataError(
            f"the model's output for a batch of one is {jax.tree.map(jnp.shape, output)}; the default loss needs "
            "logits [batch, classes]. Give a loss_fn (and metrics) for other outputs."
        )
    if output.shape[-1] < dataset.num_classes:
        raise DataError(
            f"{dataset.name} has {dataset.num_classes} classes, but the model gives {output.shape[-1]} logits: labels "
            "would lie beyond them."
        )
