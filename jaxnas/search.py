"""The search loop that all algorithms share: epochs, validation, history, files."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.algorithms.base import Algorithm
from jaxnas.callbacks.base import Run, Stop
from jaxnas.checkpoints import Position
from jaxnas.checks import check_at_least, check_batch_size, check_seed
from jaxnas.data import Dataset
from jaxnas.data.batches import epoch_batches, split_indices
from jaxnas.errors import ArchitectureError, NonFiniteLossError
from jaxnas.evaluation import LossFn, MetricsFn, objective
from jaxnas.fixed import FixedModel, apply_fixed_architecture, inherit
from jaxnas.graph import graph_or_none
from jaxnas.loop import Epoch, make_epoch, own_buffers
from jaxnas.progress import describe_model, non_finite_message
from jaxnas.serialization import export
from jaxnas.session import Running, Session
from jaxnas.space import Space, trace
from jaxnas.validation import RECALIBRATION_BATCHES, Validate, make_validation

_WATCHED = ("train_loss", "valid_loss", "reward", "weight_grad_norm", "arch_grad_norm", "controller_grad_norm")


class Candidate(NamedTuple):
    """An architecture that a search has scored.

    Attributes:
      arch: fixed: `{key: int | str | tuple}`.
      score: what it was ranked by, larger is better: the mean reward on the examples it was scored on.
      metrics: loss and metrics there.
    """

    arch: dict[str, int | str | tuple]
    score: float
    metrics: dict[str, float]


@dataclasses.dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Attributes:
      arch: the derived architecture, fixed: `{key: int | str | tuple}`; for `jaxnas.export`.
      alphas: `{key: float [n_candidates]}`, the logits at the end; `{}` where an algorithm has none (ENAS).
      variables: the supernet's variables at the end, `{"params": …, …}`.
      history: one dict per epoch; see the algorithm's `search`.
      space: the space searched.
      model_fn: the model searched.
      example: shape and dtype of the model's input, batch of one.
      state: the algorithm's state at the end, `variables` and all else.
      candidates: the architectures scored to derive `arch`, best first; `()` where there were none (DARTS).
    """

    arch: dict[str, int | str | tuple]
    alphas: dict[str, np.ndarray]
    variables: dict[str, Any]
    history: list[dict[str, Any]]
    space: Space
    model_fn: Any
    example: jax.ShapeDtypeStruct
    state: Any = None
    candidates: tuple[Candidate, ...] = ()

    def top(self, k: int) -> list[Candidate]:
        """The k best architectures that were scored (fewer if fewer were), best first: `[(arch, score, metrics)]`.

        Raises:
          ValueError: if the search scored none.
        """
        check_at_least(1, k=k)
        if not self.candidates:
            raise ValueError(
                "this search scored no architectures beside the one it derived; jaxnas.evaluate scores any."
            )
        return list(self.candidates[:k])

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


class Phase(NamedTuple):
    """A stretch of an epoch, all of whose steps get the same kinds of batch.

    Attributes:
      steps: number of steps.
      weight_batch: examples of the weights' part of the data per step; None for none.
      arch_batch: examples of the architecture's part per step; None for none.
    """

    steps: int
    weight_batch: int | None
    arch_batch: int | None


class Review(NamedTuple):
    """What an algorithm says of its state after an epoch.

    Attributes:
      arch: the architecture that would be derived now.
      record: what goes into the history: scores, and `probabilities` `{key: [n_candidates]}`.
      candidates: the architectures scored for it, best first.
    """

    arch: dict[str, Any]
    record: dict[str, Any]
    candidates: tuple[Candidate, ...] = ()


def run(
    plan: Plan,
    algorithm: Algorithm,
    *,
    phases: Callable[[int], Sequence[Phase]],
    review: Callable[..., Review],
    settings: Mapping[str, Any],
    running: Running,
) -> SearchResult:
    """Runs an algorithm.

    Args:
      plan: from `plan`.
      algorithm: its state has `variables`.
      phases: `(epoch) -> ` what the epoch consists of.
      review: `(state, validate, rng, *, last) -> Review`, called after every epoch; `validate` scores on the
        architecture's part of the data (see `jaxnas.validation`), or is None where the epoch is not validated.
      settings: what to write to `config.json` besides the plan.
      running: where to, what follows it, when to save and to stop.

    Raises:
      Interrupted, NonFiniteLossError, RunError: see `jaxnas.darts.search`.
    """
    config = {**_settings(plan), **settings}
    if running.workdir is not None:
        config["graph"] = graph_or_none(plan.model_fn, plan.dataset.example())
    with Session(running, config) as session:
        return _run(plan, algorithm, phases, review, config, running, session)


def _run(
    plan: Plan,
    algorithm: Algorithm,
    phases: Callable[[int], Sequence[Phase]],
    review: Callable[..., Review],
    config: dict[str, Any],
    running: Running,
    session: Session,
) -> SearchResult:
    dataset = plan.dataset
    images, labels = jnp.asarray(dataset.x_train), jnp.asarray(dataset.y_train)
    state = algorithm.init(_key(plan.seed, "init"), (dataset.example(plan.batch_size), labels[: plan.batch_size]))
    state, at = session.resume(own_buffers(state))
    run_epoch = make_epoch(algorithm.step, dataset, watched=_WATCHED, steps_per_call=running.steps_per_call)
    validate = _validation(plan, images, labels)
    session.begin(_described(plan, config, session, sum(phase.steps for phase in phases(plan.epochs - 1))), at)

    def result(arch: dict[str, Any], candidates: tuple[Candidate, ...] = ()) -> SearchResult:
        return SearchResult(
            arch=arch,
            alphas=jax.device_get(getattr(state, "alphas", {})),
            variables=state.variables,
            history=session.history,
            space=plan.space,
            model_fn=plan.model_fn,
            example=dataset.example(),
            state=state,
            candidates=candidates,
        )

    def validate_unless_interrupted(*args: Any, **options: Any) -> dict[str, float]:
        session.check(at, state)
        return validate(*args, **options)

    while True:
        epoch, epoch_phases, steps_before = at.epoch, phases(at.epoch), 0
        steps = sum(phase.steps for phase in epoch_phases)
        epoch_rng = jax.random.fold_in(_key(plan.seed, "epochs"), epoch)
        stepped = False
        for i, phase in enumerate(epoch_phases):
            shuffle_rng, augment_rng, review_rng = jax.random.split(jax.random.fold_in(epoch_rng, i), 3)
            if i >= at.phase:
                entered, follow = time.perf_counter(), session.follow(at, steps_before, steps)
                streams = _streams(plan, shuffle_rng, phase)
                resumed = {"start": at.step, "before": at.metrics, "after_call": follow}
                ran = run_epoch(state, augment_rng, images, labels, streams, **resumed)
                state, stepped = ran.state, stepped or ran.done > at.step
                if ran.bad_step is not None:
                    _stop_non_finite(session, result(algorithm.derive(state)), epoch, steps_before, ran)
                if session.stopped:
                    return result(algorithm.derive(state))
                at = Position(
                    epoch=epoch,
                    phase=i + 1,
                    record=at.record | {name: float(values.mean()) for name, values in ran.metrics.items()},
                    seconds=at.seconds + time.perf_counter() - entered,
                    compile_seconds=at.compile_seconds + ran.compile_seconds,
                )
            steps_before += phase.steps
        if stepped and not session.may_review(at, state):
            return result(algorithm.derive(state))

        last = epoch + 1 == plan.epochs
        with session.reviewing(at, state):
            entered = time.perf_counter()
            validated = last or (epoch + 1) % plan.validate_every == 0
            found = review(state, validate_unless_interrupted if validated else None, review_rng, last=last)
            record = {
                "epoch": epoch,
                **at.record,
                **found.record,
                "arch": found.arch,
                "seconds": at.seconds + time.perf_counter() - entered,
                "compile_seconds": at.compile_seconds,
            }
            stop = session.end_epoch(state, record)
            if stop is not None and not last:
                if stop.epoch is None:
                    found = review(state, validate_unless_interrupted, review_rng, last=True)
                else:
                    found = Review(session.history[stop.epoch]["arch"], {})
        if last or stop is not None:
            _finish(session, found, state.variables, stop)
            return result(found.arch, found.candidates)
        session.next_epoch(state)
        if session.stopped:
            return result(found.arch, found.candidates)
        at = Position(epoch=epoch + 1)


def _finish(session: Session, found: Review, variables: Any, stop: Stop | None) -> None:
    if session.directory.path is not None:
        export(found.arch, session.directory.path / "final_arch.json")
    scored = session.history[-1 if stop is None or stop.epoch is None else stop.epoch]
    scores = {k: v for k, v in scored.items() if isinstance(v, float) and not k.endswith("seconds")}
    candidates = [candidate._asdict() for candidate in found.candidates]
    session.finish({"arch": found.arch, **scores, "candidates": candidates}, variables, stop)


def _described(plan: Plan, config: dict[str, Any], session: Session, steps: int) -> Run:
    return Run(
        workdir=session.directory.path,
        config=config,
        epochs=plan.epochs,
        steps=steps,
        history=session.history,
        model_fn=plan.model_fn,
        dataset=plan.dataset,
        loss_fn=plan.loss_fn,
        batch_size=plan.batch_size,
        seed=plan.seed,
        space=plan.space,
        arch_examples=plan.arch_examples,
    )


def _validation(plan: Plan, images: jax.Array, labels: jax.Array) -> Validate:
    rows = min(RECALIBRATION_BATCHES, plan.steps_per_epoch)
    return make_validation(
        plan.model_fn,
        plan.dataset,
        plan.loss_fn,
        plan.metrics,
        images=images,
        labels=labels,
        examples=plan.arch_examples,
        calibration_images=images,
        calibration_batches=plan.weight_examples[: rows * plan.batch_size].reshape(rows, plan.batch_size),
        batch_size=plan.batch_size,
    )


def _streams(plan: Plan, rng: jax.Array, phase: Phase) -> tuple[np.ndarray | None, np.ndarray | None]:
    def stream(rng: jax.Array, examples: np.ndarray, size: int | None) -> np.ndarray | None:
        return None if size is None else epoch_batches(rng, examples, steps=phase.steps, batch_size=size)

    weight_rng, arch_rng = jax.random.split(rng)
    return (
        stream(weight_rng, plan.weight_examples, phase.weight_batch),
        stream(arch_rng, plan.arch_examples, phase.arch_batch),
    )


def _stop_non_finite(session: Session, last_good: SearchResult, epoch: int, before: int, ran: Epoch) -> None:
    assert ran.bad_step is not None
    step, path = before + ran.bad_step, session.directory.path
    message = non_finite_message(ran.metrics, _WATCHED, epoch, ran.bad_step, path, steps_before=before)
    failed = {"status": "failed", "error": message, "epoch": epoch, "step": step}
    ended = {**failed, "arch": last_good.arch, "alphas": last_good.alphas}
    session.directory.finish(ended, last_good.variables, keep_checkpoints=True)
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
