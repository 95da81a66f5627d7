"""The search loop that all algorithms share: epochs, validation, history, files."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas import functional
from jaxnas.algorithms.base import Algorithm
from jaxnas.checks import check_at_least, check_batch_size, check_seed
from jaxnas.data import Dataset
from jaxnas.data.batches import epoch_batches, split_indices
from jaxnas.errors import ArchitectureError, NonFiniteLossError
from jaxnas.evaluation import LossFn, MetricsFn, make_evaluator, make_recalibration, objective
from jaxnas.fixed import FixedModel, apply_fixed_architecture, inherit
from jaxnas.loop import make_epoch, own_buffers
from jaxnas.progress import describe_model, non_finite_message, reporter
from jaxnas.runs import RunDirectory
from jaxnas.serialization import export
from jaxnas.space import Space, trace

_WATCHED = ("train_loss", "valid_loss", "weight_grad_norm", "arch_grad_norm")
_RECALIBRATION_BATCHES = 10


@dataclasses.dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Attributes:
      arch: the derived architecture, fixed: `{key: int | str | tuple}`; for `jaxnas.export`.
      alphas: `{key: float [n_candidates]}`, the logits at the end.
      variables: the supernet's variables at the end, `{"params": …, …}`.
      history: one dict per epoch; see the algorithm's `search`.
      space: the space searched.
      model_fn: the model searched.
      example: shape and dtype of the model's input, batch of one.
    """

    arch: dict[str, int | str | tuple]
    alphas: dict[str, np.ndarray]
    variables: dict[str, Any]
    history: list[dict[str, Any]]
    space: Space
    model_fn: Any
    example: jax.ShapeDtypeStruct

    def fixed_model(self) -> FixedModel:
        """The found architecture as a plain Flax module."""
        return apply_fixed_architecture(self.model_fn, self.arch)

    def inherit(self) -> dict[str, Any]:
        """The supernet's variables for `fixed_model()`, to start its training from; see `jaxnas.inherit`."""
        return inherit(self.fixed_model(), self.variables, self.example)


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


def plan(
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
    loss_fn, metrics = objective(loss_fn, metrics, dataset, output)
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


def run(
    plan: Plan,
    algorithm: Algorithm,
    *,
    mixture: Callable[[Any], Mapping[str, jax.Array]],
    settings: Mapping[str, Any],
    workdir: str | os.PathLike | None,
    progress: bool | Callable[[dict], None],
    steps_per_call: int | None,
) -> SearchResult:
    """Runs an algorithm.

    Args:
      plan: from `plan`.
      algorithm: its state has `variables` and `alphas`.
      mixture: `(state) -> arch` of weights, by which the supernet is validated.
      settings: what to write to `config.json` besides the plan.
      workdir, progress, steps_per_call: see `jaxnas.darts.search`.

    Raises:
      NonFiniteLossError, RunError: see `jaxnas.darts.search`.
    """
    directory = RunDirectory(workdir)
    directory.start({**_settings(plan), **settings})
    if progress is True:
        print(f"{plan.space!r}; {plan.steps_per_epoch} steps per epoch, of which the first compiles", flush=True)
    say = reporter(progress)
    started = time.perf_counter()

    dataset = plan.dataset
    images, labels = jnp.asarray(dataset.x_train), jnp.asarray(dataset.y_train)
    state = algorithm.init(_key(plan.seed, "init"), (dataset.example(plan.batch_size), labels[: plan.batch_size]))
    state = own_buffers(state)
    run_epoch = make_epoch(algorithm.step, dataset, watched=_WATCHED, steps_per_call=steps_per_call)
    validate = _make_validation(plan, images, labels)
    history: list[dict[str, Any]] = []

    def result() -> SearchResult:
        return SearchResult(
            arch=algorithm.derive(state),
            alphas=jax.device_get(state.alphas),
            variables=state.variables,
            history=history,
            space=plan.space,
            model_fn=plan.model_fn,
            example=dataset.example(),
        )

    for epoch in range(plan.epochs):
        epoch_started = time.perf_counter()
        shuffle_rng, augment_rng = jax.random.split(jax.random.fold_in(_key(plan.seed, "epochs"), epoch))
        streams = _streams(plan, shuffle_rng, warm=epoch < plan.warmup_epochs)
        state, metrics, bad_step, compile_seconds = run_epoch(state, augment_rng, images, labels, streams)
        if bad_step is not None:
            _stop_non_finite(directory, result(), epoch, bad_step, metrics)
        arch = algorithm.derive(state)
        record: dict[str, Any] = {"epoch": epoch, **{name: float(values.mean()) for name, values in metrics.items()}}
        if (epoch + 1) % plan.validate_every == 0 or epoch + 1 == plan.epochs:
            record |= validate(state.variables, mixture(state), arch)
        record |= {
            "arch": arch,
            "alphas": {key: np.asarray(value).tolist() for key, value in state.alphas.items()},
            "seconds": time.perf_counter() - epoch_started,
            "compile_seconds": compile_seconds,
        }
        history.append(record)
        directory.log(record)
        say({**record, "epochs": plan.epochs})

    found = result()
    if directory.path is not None:
        export(found.arch, directory.path / "final_arch.json")
    scores = {k: v for k, v in history[-1].items() if isinstance(v, float) and not k.endswith("seconds")}
    summary = {"status": "finished", "arch": found.arch, "epochs": plan.epochs, **scores}
    directory.finish({**summary, "seconds": time.perf_counter() - started}, found.variables)
    return found


def _make_validation(plan: Plan, images: jax.Array, labels: jax.Array) -> Callable:
    """Builds (variables, mixture, derived arch) -> scores of both on the architecture's part of the data."""
    model = functional.model_fns(plan.model_fn)

    def forward(variables: Any, arch: Any, x: jax.Array) -> Any:
        return model.apply(variables, x, arch)

    def forward_train(variables: Any, arch: Any, x: jax.Array) -> Any:
        rng = jax.random.key(0)  # dropout, if any, need not vary here
        return model.apply(variables, x, arch, train=True, rngs=rng, mutable=["batch_stats"])[1]

    evaluate = make_evaluator(forward, plan.dataset, plan.loss_fn, plan.metrics)
    recalibrate = make_recalibration(forward_train, plan.dataset)
    rows = min(_RECALIBRATION_BATCHES, plan.steps_per_epoch)
    batches = plan.weight_examples[: rows * plan.batch_size].reshape(rows, plan.batch_size)

    def validate(variables: Any, mixed: Any, derived: Any) -> dict[str, float]:
        # One-hot weights, not an index: the same compiled program evaluates both.
        one_hot = plan.space.one_hot(derived)
        scores = evaluate(variables, mixed, images, labels, plan.arch_examples)
        alone = recalibrate(variables, one_hot, images, batches) if "batch_stats" in variables else variables
        derived_scores = evaluate(alone, one_hot, images, labels, plan.arch_examples)
        return {
            **{f"supernet_{name}": value for name, value in scores.items()},
            **{f"derived_{name}": value for name, value in derived_scores.items()},
        }

    return validate


def _streams(plan: Plan, rng: jax.Array, *, warm: bool) -> tuple[np.ndarray, np.ndarray | None]:
    weight_rng, arch_rng = jax.random.split(rng)
    shape = {"steps": plan.steps_per_epoch, "batch_size": plan.batch_size}
    weights = epoch_batches(weight_rng, plan.weight_examples, **shape)
    return weights, None if warm else epoch_batches(arch_rng, plan.arch_examples, **shape)


def _stop_non_finite(directory: RunDirectory, last_good: SearchResult, epoch: int, step: int, metrics: Mapping) -> None:
    message = non_finite_message(metrics, _WATCHED, epoch, step, directory.path)
    failed = {"status": "failed", "error": message, "epoch": epoch, "step": step}
    directory.finish({**failed, "arch": last_good.arch, "alphas": last_good.alphas}, last_good.variables)
    raise NonFiniteLossError(message, epoch=epoch, step=step, result=last_good)


def _settings(plan: Plan) -> dict[str, Any]:
    names = ("epochs", "batch_size", "seed", "warmup_epochs", "validate_every", "train_portion")
    return {
        "model": describe_model(plan.model_fn),
        **plan.dataset.describe(),
        "space": {key: dataclasses.asdict(spec) for key, spec in plan.space.items()},
        **{name: getattr(plan, name) for name in names},
    }


def _key(seed: int, purpose: str) -> jax.Array:
    """An independent key per purpose."""
    return jax.random.fold_in(jax.random.key(seed), ("init", "split", "epochs").index(purpose))
