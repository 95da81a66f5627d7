"""A search before it starts: model, data and schedule, checked."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax

from jaxnas.checks import OPTIONS, check_batch_size, check_optimizer, check_options, check_seed
from jaxnas.data import Dataset, as_dataset
from jaxnas.data.batches import split_indices
from jaxnas.errors import ArchitectureError
from jaxnas.model.naming import describe_model
from jaxnas.model.space import Space
from jaxnas.programs.evaluation import objective
from jaxnas.programs.layout import BATCHINGS
from jaxnas.programs.losses import Loss
from jaxnas.programs.metrics import Metrics
from jaxnas.programs.tracing import check_searchable
from jaxnas.runs.fingerprint import fingerprints


@dataclasses.dataclass(frozen=True)
class Plan:
    """A search that has been checked and can start: model, data and schedule.

    Attributes:
      model_fn, space, dataset: what is searched, on which data.
      weight_examples, arch_examples: int `[n]`, the training examples of the weights and of the architecture.
      weight_optimizer: what was given; None for the method's own.
      loss_fn, metrics: of (output, labels, arch), checked.
      fingerprints: of the data and of what is given as functions; `{}` where no files are written.
      child_steps: steps of the weights per epoch, where a method does not make one pass over their data.
      stage: which of several searches it is, from 0: each draws its own random numbers, from the same split.
      For the others see `SearchOptions`.
    """

    model_fn: Any
    space: Space
    dataset: Dataset
    epochs: int
    batch_size: int
    seed: int
    warmup_epochs: int
    validate_every: int
    train_portion: float
    aux_weight: float
    grad_clip: float | None
    loss_fn: Loss
    metrics: Metrics
    weight_optimizer: optax.GradientTransformation | None
    weight_lr: float | None
    arch_lr: float | None
    weight_examples: np.ndarray
    arch_examples: np.ndarray
    fingerprints: Mapping[str, Any]
    child_steps: int | None = None
    stage: int = 0

    @property
    def steps(self) -> int:
        """Steps of the weights in the whole search."""
        return self.epochs * self.steps_per_epoch

    @property
    def steps_per_epoch(self) -> int:
        """Steps of the weights: `child_steps`, or the whole batches in their part of the data."""
        return self.child_steps or len(self.weight_examples) // self.batch_size

    def with_seed(self, seed: int) -> Plan:
        """The same search from another seed: its own split of the data, and its own random numbers."""
        parts = _split(seed, self.dataset, self.train_portion)
        return dataclasses.replace(self, seed=seed, weight_examples=parts[0], arch_examples=parts[1])

    def key(self, purpose: str) -> jax.Array:
        """An independent key per purpose: `"init"`, `"split"` or `"epochs"`."""
        key = _key(self.seed, purpose)
        return jax.random.fold_in(key, self.stage) if self.stage else key

    def settings(self) -> dict[str, Any]:
        """What `config.json` says of it."""
        names = ("epochs", "batch_size", "seed", "warmup_epochs", "validate_every", "train_portion")
        return {
            "model": describe_model(self.model_fn),
            **self.dataset.describe(),
            "preprocessing": self.dataset.preprocessing.described(),
            "space": {key: dataclasses.asdict(spec) for key, spec in self.space.items()},
            **{name: getattr(self, name) for name in names},
            "grad_clip": self.grad_clip,
            "aux_weight": self.aux_weight,
            "weight_optimizer": "paper" if self.weight_optimizer is None else "custom",
            **{name: getattr(self, name) for name in ("weight_lr", "arch_lr") if getattr(self, name) is not None},
            **({"fingerprints": dict(self.fingerprints)} if self.fingerprints else {}),
        }


def make_plan(model_fn: Any, options: Mapping[str, Any]) -> Plan:
    """Finds the space, checks everything that can be checked before a search, and splits the data.

    Args:
      model_fn: the model.
      options: complete `SearchOptions`, and `data`.

    Raises:
      ArchitectureError, DataError, ValueError: for what does not fit.
    """
    dataset = as_dataset(options["data"], data_dir=options["data_dir"])
    seed = first_seed(options["seed"], options["seeds"], options["batching"])
    check_options(**{name: value for name, value in {**options, "seed": seed}.items() if name in OPTIONS})
    check_optimizer("weight_optimizer", options["weight_optimizer"])
    if options["weight_lr"] is not None and options["weight_optimizer"] is not None:
        raise ValueError("give weight_lr or weight_optimizer, not both: the optimiser has its learning rate already.")
    space, output = check_searchable(model_fn, dataset)
    if not space:
        raise ArchitectureError(f"{describe_model(model_fn)} has no LayerChoice or InputChoice: nothing to search.")
    aux_weight = options["aux_weight"]
    loss_fn, metrics = objective(options["loss_fn"], options["metrics"], dataset, output, aux_weight=aux_weight)
    parts = _split(seed, dataset, options["train_portion"])
    for part, whose in zip(parts, ("weights'", "architecture's"), strict=True):
        check_batch_size(options["batch_size"], len(part), whose)
    functions = {name: options[name] for name in ("loss_fn", "metrics", "weight_optimizer")}
    known = {} if options["workdir"] is None else fingerprints(dataset, model_fn=model_fn, **functions)
    same = ("epochs", "batch_size", "warmup_epochs", "validate_every", "train_portion", "aux_weight", "grad_clip")
    return Plan(
        model_fn=model_fn,
        space=space,
        dataset=dataset,
        seed=seed,
        loss_fn=loss_fn,
        metrics=metrics,
        weight_optimizer=options["weight_optimizer"],
        weight_lr=options["weight_lr"],
        arch_lr=options["arch_lr"],
        weight_examples=parts[0],
        arch_examples=parts[1],
        fingerprints=known,
        **{name: options[name] for name in same},
    )


def first_seed(seed: int | None, seeds: Sequence[int] | None, batching: str | None) -> int:
    """The seed of a search, or the first of its seeds.

    Raises:
      ValueError: if they are unsound or contradict each other.
    """
    if seeds is None:
        if batching is not None:
            raise ValueError(f"batching={batching!r} says how several searches are run; give their seeds as well.")
        return 0 if seed is None else seed
    if seed is not None:
        raise ValueError(f"give seed or seeds, not both; got seed={seed!r} and seeds={seeds!r}.")
    if isinstance(seeds, (str, bytes)) or not isinstance(seeds, (Sequence, np.ndarray)):
        raise ValueError(f"seeds must be a list of integers; got {seeds!r}.")
    if not len(seeds):
        raise ValueError("seeds is empty: there is nothing to search.")
    for each in seeds:
        check_seed(each)
    twice = sorted({int(each) for each in seeds if list(seeds).count(each) > 1})
    if twice:
        raise ValueError(f"seeds must differ, but {', '.join(map(str, twice))} is given more than once.")
    if batching not in (None, *BATCHINGS):
        raise ValueError(f"batching must be one of {list(BATCHINGS)} or None; got {batching!r}.")
    return int(seeds[0])


def _split(seed: int, dataset: Dataset, train_portion: float) -> tuple[np.ndarray, np.ndarray]:
    """The weights' and the architecture's examples. With a portion of 1 both are all."""
    if train_portion == 1:
        every = np.arange(dataset.n_train)
        return every, every
    return split_indices(_key(seed, "split"), dataset.n_train, train_portion)


def _key(seed: int, purpose: str) -> jax.Array:
    return jax.random.fold_in(jax.random.key(seed), ("init", "split", "epochs").index(purpose))
