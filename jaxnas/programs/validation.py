"""How good architectures are in a supernet: with its weights, and batch statistics of their own."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, overload

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxnas.checks import check_at_least, check_listed
from jaxnas.data import Dataset, as_dataset
from jaxnas.errors import ArchitectureError, DataError
from jaxnas.model import functional
from jaxnas.model.architecture import Arch, is_array, is_mixture
from jaxnas.model.space import Space
from jaxnas.programs.devices import Devices, copied, find_mesh
from jaxnas.programs.evaluation import make_evaluator, make_recalibration, objective
from jaxnas.programs.examples import Examples, on_device
from jaxnas.programs.tracing import check_fit, check_searchable

RECALIBRATION_BATCHES = 10

Validate = Callable[..., dict[str, float]]
"""(variables, arch, examples, calibration=None) -> {"loss": float, metric: float}; see `make_validation`."""


def make_validation(
    model_fn: Any,
    dataset: Dataset,
    loss_fn: Any,
    metrics: Any,
    *,
    images: Examples,
    labels: Examples,
    calibration_images: Examples,
    batch_size: int = 256,
    mesh: Mesh | None = None,
) -> Validate:
    """Builds a function that scores one architecture of a supernet; architectures of one kind share a compilation.

    Args:
      model_fn: the model with open choices.
      dataset: for its normalisation.
      loss_fn, metrics, batch_size: see `jaxnas.programs.evaluation.make_evaluator`.
      images, labels: a split (raw), on the device.
      calibration_images: raw images from which batch statistics are recomputed.
      mesh: over which batches are spread; see `jaxnas.programs.devices`.

    Returns:
      `validate(variables, arch, examples, calibration=None)`, where `examples`, int `[n]`, says which of the images to
      use, and `calibration`, int `[K, B]`, from which batches to recompute the batch statistics first, if at all.
    """
    model = functional.model_fns(model_fn)

    def forward(variables: Any, arch: Any, x: Any) -> Any:
        return model.apply(variables, x, arch)

    def forward_train(variables: Any, arch: Any, x: Any) -> Any:
        rng = jax.random.key(0)  # dropout, if any, need not vary here
        return model.apply(variables, x, arch, train=True, rngs=rng, mutable=["batch_stats"])[1]

    evaluate = make_evaluator(forward, dataset, loss_fn, metrics, batch_size, mesh)
    statistics = make_recalibration(forward_train, dataset, mesh)
    images, labels, calibration_images = copied((images, labels, calibration_images), mesh)

    def validate(
        variables: Any, arch: Any, examples: np.ndarray, calibration: np.ndarray | None = None
    ) -> dict[str, float]:
        variables = copied(variables, mesh)
        if calibration is not None and "batch_stats" in variables:
            variables = statistics(variables, arch, calibration_images, calibration)
        return evaluate(variables, arch, images, labels, examples)

    return validate


def evaluate(
    model_fn: Any,
    variables: Mapping[str, Any],
    archs: Sequence[Arch] | Mapping[str, Any],
    data: Any,
    *,
    split: str | None = None,
    recalibrate: bool = False,
    batch_size: int = 256,
    loss_fn: Any = None,
    metrics: Any = None,
    data_dir: str | os.PathLike | None = None,
    devices: Devices = None,
    mesh: Mesh | None = None,
) -> dict[str, np.ndarray]:
    """Scores many architectures of a trained supernet, with its weights.

    For one architecture after the other `evaluator` compiles only once.

    Architectures given as decisions are computed as sampled indices, one after the other: each costs what its own
    path costs, and one compilation serves them all. Those given as weights are computed as mixtures.

    Args:
      model_fn: the model with open choices.
      variables: the supernet's, for instance `SearchResult.variables`.
      archs: a list of architectures, each of decisions or of weights; or one dict whose leaves have a leading axis
        N, as `jax.vmap(space.sample)(keys)` gives it.
      data: a name, an .npz file, arrays or a `jaxnas.data.Dataset`.
      split: `"test"` or `"train"`. Default: the test data if there are any, else the training data.
      recalibrate: recompute the batch statistics of each architecture from 10 batches of 64, evenly spread over the
        training data. A supernet's running statistics are those of all its architectures mixed, and tell little
        about one (SPOS, arXiv 1904.00420, section 3.4).
      batch_size: examples at once.
      loss_fn: `"cross_entropy"`, `"mse"`, `"mae"`, `"bce"`, one of `jaxnas.losses`, or a function (output, labels) or
        (output, labels, arch) -> scalar mean over the batch. Default: cross-entropy of logits. It is averaged over
        batches by their number of examples: what is weighted within a batch in another way depends on `batch_size`
        (`jaxnas.metrics.summed` is exact).
      metrics: a name such as `"accuracy"`, `"r2"`, `"f1"`, `"auc"`, a function (output, labels) or (output, labels,
        arch) -> {name: scalar mean over the batch}, or a list of these; see `jaxnas.metrics`, also for what is no
        mean. Default: accuracy with cross-entropy of classes, else nothing beside the loss.
      data_dir: where a data set named in `data` lies.
      devices, mesh: over which each batch is spread, as in a search (`jaxnas.SearchOptions`).

    Returns:
      `{"loss": float64 [N], "accuracy" or your metrics: float64 [N]}`, in the order of `archs`.

    Raises:
      ArchitectureError: if an architecture does not fit the model.
      DataError: if the data do not fit the model, or have no such split.
      TypeError, ValueError: if an argument is of the wrong kind, or the variables are not the model's.
    """
    check_listed("archs", archs, "architectures")
    options: dict[str, Any] = {"split": split, "recalibrate": recalibrate, "batch_size": batch_size}
    options |= {"data_dir": data_dir, "devices": devices, "mesh": mesh}
    score = evaluator(model_fn, variables, data, loss_fn=loss_fn, metrics=metrics, **options)
    return score(_unstacked(archs) if isinstance(archs, Mapping) else archs)


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """Scores architectures of a trained supernet; see `evaluator`.

    Attributes:
      space: the supernet's.
    """

    space: Space
    _score: Callable[[dict[str, jax.Array]], dict[str, float]] = dataclasses.field(repr=False)

    @overload
    def __call__(self, archs: Mapping[str, Any]) -> dict[str, float]: ...

    @overload
    def __call__(self, archs: Sequence[Arch]) -> dict[str, np.ndarray]: ...

    def __call__(self, archs: Any) -> Any:
        """Scores one architecture, or a list of them.

        Args:
          archs: a dict of decisions or of weights, or a list of such dicts.

        Returns:
          `{"loss": float, "accuracy" or your metrics: float}`; of a list float64 `[N]` each, in its order.

        Raises:
          ArchitectureError: if one does not fit the model.
        """
        if isinstance(archs, Mapping):
            return self._score(_computable(self.space, archs))
        check_listed("archs", archs, "architectures")
        if not len(archs):
            raise ArchitectureError("archs is empty: there is nothing to evaluate.")
        scores = [self._score(arch) for arch in [_computable(self.space, arch) for arch in archs]]
        return {name: np.array([score[name] for score in scores]) for name in scores[0]}


def evaluator(
    model_fn: Any,
    variables: Mapping[str, Any],
    data: Any,
    *,
    split: str | None = None,
    recalibrate: bool = False,
    batch_size: int = 256,
    loss_fn: Any = None,
    metrics: Any = None,
    data_dir: str | os.PathLike | None = None,
    devices: Devices = None,
    mesh: Mesh | None = None,
) -> Evaluator:
    """A function that scores architectures of a trained supernet: traced and compiled once, for any number of calls.

    For searches that ask for one architecture after the other:

        score = jaxnas.evaluator(Net, result.variables, data)
        jaxnas.evolution.search(score.space, lambda arch: score(arch)["accuracy"])

    Args:
      model_fn, variables, data, split, recalibrate, batch_size, loss_fn, metrics, data_dir, devices, mesh: see
        `evaluate`.

    Raises:
      As `evaluate`, of which this is the part that does not depend on the architectures.
    """
    dataset = as_dataset(data, data_dir=data_dir)
    space, output = check_searchable(model_fn, dataset, trains=False)
    sampled = jax.eval_shape(space.sample, jax.random.key(0))
    check_fit(functional.model_fns(model_fn), variables, dataset.example(), sampled)
    loss, measured = objective(loss_fn, metrics, dataset, output, arch=sampled)
    check_at_least(1, batch_size=batch_size)
    mesh = find_mesh(devices, mesh, batch_size=batch_size)
    variables = copied(variables, mesh)
    images, labels = map(on_device, _split(dataset, split))
    count, size = dataset.n_train, min(64, dataset.n_train)
    rows = min(RECALIBRATION_BATCHES, count // size)
    spread = np.arange(rows * size) * count // (rows * size)  # each batch spans the data, which may be sorted
    validate = make_validation(
        model_fn,
        dataset,
        loss,
        measured,
        images=images,
        labels=labels,
        calibration_images=on_device(dataset.x_train) if recalibrate else images,
        batch_size=batch_size,
        mesh=mesh,
    )
    examples, calibration = np.arange(len(images)), spread.reshape(size, rows).T if recalibrate else None
    return Evaluator(space, lambda arch: validate(variables, arch, examples, calibration))


def _split(dataset: Dataset, split: str | None) -> tuple[Any, Any]:
    if split not in ("train", "test", None):
        raise DataError(f'split must be "train" or "test"; got {split!r}.')
    if split == "test" and dataset.x_test is None:
        raise DataError(f"{dataset.name}: has no test data; give x_test and y_test, or split='train'.")
    if split == "train" or dataset.x_test is None:
        return dataset.x_train, dataset.y_train
    return dataset.x_test, dataset.y_test


def _unstacked(archs: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The architectures of a dict whose leaves have a leading axis."""
    lengths = {len(leaf) for leaf in archs.values() if np.ndim(leaf)}
    if len(lengths) != 1 or not all(is_array(leaf) and np.ndim(leaf) for leaf in archs.values()):
        raise ArchitectureError(
            "archs must be a list of architectures, or a dict of arrays that share a leading axis; got a dict with "
            f"shapes { ({key: np.shape(leaf) for key, leaf in archs.items()}) }. For one architecture give [arch]."
        )
    host = jax.device_get(dict(archs))
    return [{key: leaf[i] for key, leaf in host.items()} for i in range(lengths.pop())]


def _computable(space: Space, arch: Arch) -> dict[str, jax.Array]:
    """An architecture as arrays: weights as they are, decisions as indices and masks."""
    space.validate(arch)
    return {key: jnp.asarray(arch[key]) for key in space} if is_mixture(arch) else space.sampled(arch)
