"""What is optimised and measured in a run, and measuring it on a whole split."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxnas.data import Dataset
from jaxnas.errors import DataError
from jaxnas.model.trees import form, is_container
from jaxnas.ops.meshes import spread
from jaxnas.programs.agreement import check_agreement
from jaxnas.programs.devices import on_mesh
from jaxnas.programs.losses import (
    BuiltinLoss,
    Loss,
    LossFn,
    Reward,
    as_loss,
    as_reward,
    cross_entropy,
    full_precision,
    main_output,
    reward_of,
    with_auxiliary,
)
from jaxnas.programs.metrics import Metrics, MetricsFn, accuracy, as_metrics

__all__ = ["LossFn", "MetricsFn", "RewardFn", "accuracy", "cross_entropy", "main_output", "with_auxiliary"]

RewardFn = Callable[..., jax.Array]
"""(model output for a batch, labels) or (output, labels, arch) -> scalar, larger is better."""


def objective(
    loss_fn: Any,
    metrics: Any,
    dataset: Dataset,
    output: Any,
    *,
    aux_weight: float = 0.4,
    arch: Any = None,
    fixed: Any = None,
) -> tuple[Loss, Metrics]:
    """The loss and the metrics that arguments `loss_fn` and `metrics` stand for, checked against data and model.

    Args:
      loss_fn: None for cross-entropy, which the data and the model must then suit; see `losses.as_loss`.
      metrics: see `metrics.as_metrics`. None for accuracy with the default loss or cross-entropy of classes, binary
        accuracy with `"bce"`, and for nothing beside the loss otherwise.
      dataset: the data.
      output: shapes of the model's output for a batch of one.
      aux_weight: weight of auxiliary heads in ready losses; see `losses.with_auxiliary`.
      arch: see `check_agreement`; for losses and metrics that take it.
      fixed: the decisions of a fixed model, which losses and metrics that take an architecture then get.

    Raises:
      DataError: if the labels do not suit a ready loss.
      TypeError, ValueError: if one is of the wrong kind, or does not give what it should.
    """
    loss = as_loss("cross_entropy" if loss_fn is None else loss_fn, aux_weight=aux_weight)
    loss = loss if fixed is None else loss.bound(fixed)
    name = ready_name(loss)
    if loss_fn is None or (name == "cross_entropy" and dataset.has_classes):
        check_labels_fit(output, dataset)
        metrics = "accuracy" if metrics is None else metrics
    if name == "bce":
        _check_shares(dataset)
        metrics = "binary_accuracy" if metrics is None else metrics
    found = as_metrics(metrics)
    found = found if fixed is None else found.bound(fixed)
    check_agreement(loss, found, output, dataset, arch)
    return loss, found


def reward_for(reward_fn: RewardFn | None, loss: Loss, dataset: Dataset) -> tuple[Reward, str | None]:
    """The reward that an argument `reward_fn` stands for.

    Args:
      reward_fn: None for the one that fits the task: accuracy where the loss is cross-entropy of class numbers, else
        minus the loss.
      loss: from `objective`.
      dataset: the data.

    Returns:
      The reward, and what to say of it in the log, if anything.
    """
    if reward_fn is not None:
        return as_reward(reward_fn), None
    if dataset.has_classes and ready_name(loss) == "cross_entropy":
        return as_reward(lambda output, labels: accuracy(output, labels)["accuracy"]), None
    return reward_of(loss), "reward: minus the loss (there is no reward_fn, and accuracy does not fit this loss)"


def make_evaluator(
    forward: Callable, dataset: Dataset, loss_fn: Any, metrics: Any, batch_size: int = 256, mesh: Mesh | None = None
) -> Callable[..., dict[str, float]]:
    """Builds a function that evaluates on any examples, every one of which counts once.

    Args:
      forward: `(variables, arch, x) -> output`; a new architecture of the same kind does not recompile.
      dataset: for its normalisation.
      loss_fn, metrics: see `losses.as_loss` and `metrics.as_metrics`. The loss and means are computed batch by batch,
        the last batch being as long as what remains, and averaged by the number of examples: so they are exact means
        over the examples where they are means over a batch. What a batch's value is otherwise (weighted by class and
        divided by the weights' sum, say) depends on `batch_size`; `metrics.summed` makes such a value exact.
      batch_size: examples at once.
      mesh: over which batches are spread, after they have been filled up to a multiple of its devices. What
        `evaluate` is given must lie there (`jaxnas.programs.devices.copied`).

    Returns:
      `evaluate(variables, arch, images, labels, examples=None) -> {"loss": float, **metrics}`, where
      `images` and `labels` are `Examples` of a split (raw) and `examples` the indices of those to use (all by
      default).
    """
    loss, measured, devices = as_loss(loss_fn), as_metrics(metrics), 1 if mesh is None else mesh.size

    def scores(output: Any, labels: Any, arch: Any) -> tuple[dict[str, jax.Array], list[Any]]:
        means = {**measured(output, labels, arch), "loss": loss(output, labels, arch)}
        return means, measured.update(output, labels, arch)

    def totals(variables, arch, images, labels, batches, remaining):
        """Sums over the examples; of the last batch only the first `remaining` count."""

        def one(_, batch):
            indices, is_last = spread(batch[0]), batch[1]
            x, y = spread((dataset.prepare(images.rows(indices)), labels.rows(indices)))
            output = forward(variables, arch, x)
            part = jax.tree.map(lambda leaf: leaf[:remaining], (output, y))
            (whole, whole_sums), (rest, rest_sums) = scores(output, y, arch), scores(part[0], part[1], arch)
            sums = {name: jnp.where(is_last, remaining * rest[name], len(indices) * whole[name]) for name in whole}
            others = jax.tree.map(lambda a, b: _last(is_last, a, b), whole_sums, rest_sums)
            return None, (sums, others, full_precision(output) if measured.whole else None)

        return jax.lax.scan(one, None, (batches, jnp.arange(len(batches)) == len(batches) - 1))[1]

    compiled = jax.jit(on_mesh(totals, mesh), static_argnames="remaining")

    def evaluate(variables, arch, images, labels, examples=None) -> dict[str, float]:
        examples = np.arange(len(images)) if examples is None else np.asarray(examples)
        size = -(-min(batch_size, len(examples)) // devices) * devices
        rows = -(-len(examples) // size)
        padded = np.zeros(rows * size, np.int32)
        padded[: len(examples)] = examples
        remaining = len(examples) - (rows - 1) * size
        parts = jax.device_get(
            compiled(variables, arch, images, labels, padded.reshape(rows, size), remaining=remaining)
        )
        sums, others, outputs = parts
        means = {k: float(np.sum(v, dtype=np.float64) / len(examples)) for k, v in sums.items()}
        if not measured.sums and not measured.whole:
            return means
        outputs = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[: len(examples)], outputs)
        own_labels = jax.device_get(labels).rows(examples) if measured.whole else np.zeros(0)
        rest = measured.finish(jax.tree.map(_total, others), outputs, own_labels, arch)
        if rest.keys() & means.keys():
            raise ValueError(f"two metrics are called {sorted(rest.keys() & means.keys())}.")
        return rest | means

    return evaluate


def _last(is_last: jax.Array, whole: Any, rest: Any) -> jax.Array:
    """The sum over the examples of a batch that count."""
    if jnp.shape(whole) != jnp.shape(rest):
        raise ValueError(
            f"a metric's update gives shape {jnp.shape(whole)} of one batch and {jnp.shape(rest)} of a shorter one; "
            "expected sums over the batch, of one shape."
        )
    return jnp.where(is_last, rest, whole)


def _total(leaf: np.ndarray) -> np.ndarray:
    """The sum over batches, exact as far as the numbers allow."""
    return leaf.sum(0, dtype=np.float64 if np.issubdtype(leaf.dtype, np.floating) else np.int64)


def make_recalibration(forward_train: Callable, dataset: Dataset, mesh: Mesh | None = None) -> Callable:
    """Builds a function that recomputes batch statistics for one architecture.

    A supernet's running statistics belong to the mixture, so a derived architecture looks worse under
    them than it is (SPOS, arXiv 1904.00420, section 3.4).

    Args:
      forward_train: `(variables, arch, x) -> updates` of the collection `batch_stats`, in training mode.
      dataset: for its normalisation.
      mesh: over which batches are spread, as far as they can be evenly; see `make_evaluator`.

    Returns:
      `recalibrate(variables, arch, images, batches) -> variables`, with `Examples` and `batches` int `[K, B]`. Running
      averages start from zero and are corrected for that start, whatever their momentum; statistics that
      the architecture does not use are kept.
    """

    def recalibrate(variables, arch, images, batches):
        old = variables["batch_stats"]
        zeros, ones = jax.tree.map(jnp.zeros_like, old), jax.tree.map(jnp.ones_like, old)

        def update(stats, row):
            indices, from_ones = row
            stats = jax.tree.map(lambda s, one: jnp.where(from_ones, one, s), stats, ones)
            x = spread(dataset.prepare(images.rows(spread(indices))))
            updates = forward_train({**variables, "batch_stats": stats}, arch, x)
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

    return jax.jit(on_mesh(recalibrate, mesh))


def ready_name(loss: Loss) -> str | None:
    """The name of a ready loss; None for one of one's own."""
    return loss.source.name if isinstance(loss.source, BuiltinLoss) else None


def check_labels_fit(output: Any, dataset: Dataset) -> None:
    """Raises DataError unless the default loss can compare the model's output with the labels.

    Args:
      output: shapes of the model's output for one example.
      dataset: the data.
    """
    if not dataset.has_classes:
        raise DataError(
            f"{dataset.name}: y_train is {form(dataset.y_train)}; the default loss needs "
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


def _check_shares(dataset: Dataset) -> None:
    for part in ("train", "test"):
        labels = getattr(dataset, f"y_{part}")
        if labels is None or is_container(labels):  # of several labels the loss itself says that it takes one array
            continue
        if not ((labels >= 0) & (labels <= 1)).all():
            raise DataError(
                f"{dataset.name}: y_{part} has values from {labels.min()} to {labels.max()}; the loss bce needs labels "
                "in 0..1."
            )
