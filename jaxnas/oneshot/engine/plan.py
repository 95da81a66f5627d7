"""A search before it starts: model, data and schedule, checked."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np

from jaxnas.checks import check_at_least, check_batch_size, check_seed
from jaxnas.data import Dataset
from jaxnas.data.batches import split_indices
from jaxnas.errors import ArchitectureError
from jaxnas.model.space import Space, trace
from jaxnas.programs.evaluation import LossFn, MetricsFn, objective
from jaxnas.runs.progress import describe_model


@dataclasses.dataclass(frozen=True)
class Plan:
    """A search that has been checked and can start: model, data and schedule."""

    model_fn: Any
    space: Space
    dataset: Dataset
    epochs: int
    batch_size: int
    seed: int
    warmup_epochs: int
    validate_every: int
    train_portion: float
    loss_fn: LossFn
    metrics: MetricsFn
    weight_examples: np.ndarray
    arch_examples: np.ndarray

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in the weights' part of the data."""
        return len(self.weight_examples) // self.batch_size

    def with_seed(self, seed: int) -> Plan:
        """The same search from another seed: its own split of the data, and its own random numbers."""
        parts = split_indices(_key(seed, "split"), len(self.dataset.x_train), self.train_portion)
        return dataclasses.replace(self, seed=seed, weight_examples=parts[0], arch_examples=parts[1])

    def key(self, purpose: str) -> jax.Array:
        """An independent key per purpose: `"init"`, `"split"` or `"epochs"`."""
        return _key(self.seed, purpose)

    def settings(self) -> dict[str, Any]:
        """What `config.json` says of it."""
        names = ("epochs", "batch_size", "seed", "warmup_epochs", "validate_every", "train_portion")
        return {
            "model": describe_model(self.model_fn),
            **self.dataset.describe(),
            "space": {key: dataclasses.asdict(spec) for key, spec in self.space.items()},
            **{name: getattr(self, name) for name in names},
        }


def make_plan(
    model_fn: Any,
    dataset: Dataset,
    *,
    epochs: int,
    batch_size: int,
    train_portion: float,
    seed: int,
    warmup_epochs: int,
    validate_every: int,
    loss_fn: LossFn | None,
    metrics: MetricsFn | None,
    aux_weight: float,
) -> Plan:
    """Finds the space, checks everything that can be checked before a search, and splits the data.

    Raises:
      ArchitectureError, DataError, ValueError: for what does not fit.
    """
    space, output = trace(model_fn, dataset.example())
    if not space:
        raise ArchitectureError(f"{describe_model(model_fn)} has no LayerChoice or InputChoice: nothing to search.")
    check_seed(seed)
    check_at_least(1, epochs=epochs, validate_every=validate_every)
    check_at_least(0, warmup_epochs=warmup_epochs)
    loss_fn, metrics = objective(loss_fn, metrics, dataset, output, aux_weight=aux_weight)
    weight_examples, arch_examples = split_indices(_key(seed, "split"), len(dataset.x_train), train_portion)
    check_batch_size(batch_size, len(weight_examples), "weights'")
    check_batch_size(batch_size, len(arch_examples), "architecture's")
    return Plan(
        model_fn=model_fn,
        space=space,
        dataset=dataset,
        epochs=epochs,
        batch_size=batch_size,
        seed=seed,
        warmup_epochs=warmup_epochs,
        validate_every=validate_every,
        train_portion=train_portion,
        loss_fn=loss_fn,
        metrics=metrics,
        weight_examples=weight_examples,
        arch_examples=arch_examples,
    )


def _key(seed: int, purpose: str) -> jax.Array:
    return jax.random.fold_in(jax.random.key(seed), ("init", "split", "epochs").index(purpose))
