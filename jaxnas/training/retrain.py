"""Training a plain model, from scratch or from inherited weights."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax import struct

from jaxnas.checks import check_at_least, check_batch_size, check_seed
from jaxnas.data import as_dataset
from jaxnas.data.batches import epoch_batches
from jaxnas.errors import NonFiniteLossError
from jaxnas.model import functional
from jaxnas.programs.epoch import Epoch, first_bad, make_epoch, own_buffers
from jaxnas.programs.evaluation import LossFn, MetricsFn, make_evaluator, objective
from jaxnas.runs.callback import Callback, Run
from jaxnas.runs.checkpoints import Position
from jaxnas.runs.progress import non_finite_message
from jaxnas.runs.session import Running, Session

_WATCHED = ("train_loss", "grad_norm")


@struct.dataclass
class TrainState:
    """The whole state of a training: a pytree.

    Attributes:
      params: the model's weights.
      model_state: its other collections, `{}` if none.
      opt_state: the optimiser's state.
      rng: key `[]`, from which each step's key is made.
      step: int32 `[]`, steps done.
    """

    params: Any
    model_state: Any
    opt_state: optax.OptState
    rng: jax.Array
    step: jax.Array

    @property
    def variables(self) -> dict[str, Any]:
        """`{"params": …, **model_state}`, as `model.apply` takes them."""
        return {"params": self.params, **self.model_state}


@dataclasses.dataclass(frozen=True)
class FitResult:
    """What a training gave.

    Attributes:
      variables: the trained variables.
      history: one dict per epoch: `train_loss`, `train_<metric>`, and where it was tested `test_loss` and
        `test_<metric>`.
      test_accuracy: share of right answers on the test data at the end, in 0..1; None without test data or
        without an accuracy among the metrics.
    """

    variables: dict[str, Any]
    history: list[dict[str, Any]]
    test_accuracy: float | None


def paper_optimizer(*, epochs: int, steps_per_epoch: int) -> optax.GradientTransformation:
    """How DARTS trains what it found (arXiv 1806.09055, section 3.2): SGD 0.025 -> 0, momentum 0.9, decay 3e-4.

    The learning rate falls along a cosine, here at every step.
    """
    schedule = optax.cosine_decay_schedule(0.025, max(epochs * steps_per_epoch, 1))
    return optax.chain(optax.add_decayed_weights(3e-4), optax.sgd(schedule, momentum=0.9))


def fit(
    model: nn.Module,
    data: Any,
    *,
    epochs: int = 50,
    batch_size: int = 96,
    seed: int = 0,
    variables: Mapping[str, Any] | None = None,
    optimizer: optax.GradientTransformation | None = None,
    loss_fn: LossFn | None = None,
    metrics: MetricsFn | None = None,
    aux_weight: float = 0.4,
    grad_clip: float | None = 5.0,
    data_dir: str | os.PathLike | None = None,
    workdir: str | os.PathLike | None = None,
    progress: bool | Callable[[dict], None] = True,
    test_every: int = 1,
    steps_per_call: int | None = None,
    callbacks: Sequence[Callback] = (),
    resume: bool = True,
    checkpoint_minutes: float | None = 10.0,
    keep_checkpoints: int = 2,
    max_minutes: float | None = None,
) -> FitResult:
    """Trains a plain model, for instance what `jaxnas.apply_fixed_architecture` gives.

    Args:
      model: a Flax module called `model(x)`, with `train=` and `progress=` if it takes them: the latter, in training
        only, is the share of all steps done, float32 `[]` in [0, 1), for what is scheduled, such as drop-path.
      data: a name, an .npz file, arrays or a `jaxnas.data.Dataset`; all its training data are used.
      epochs: passes over the training data (the paper's final evaluation takes 600).
      batch_size: examples per batch.
      seed: of initialisation, shuffling, augmentation and dropout.
      variables: where to start from, such as `SearchResult.inherit()`. Default: fresh ones.
      optimizer: any optax optimiser. Default: `paper_optimizer`.
      loss_fn: (output, labels) -> scalar mean. Default: cross-entropy of logits.
      metrics: (output, labels) -> {name: scalar mean}. Default: accuracy.
      aux_weight: weight of auxiliary heads in the default loss, where the model returns a tuple in training.
      grad_clip: largest global norm of the gradient, or None.
      data_dir: where a data set named in `data` lies.
      workdir: run directory, as of a search: `config.json`, `history.jsonl`, `result.json`, `weights.msgpack`, and
        checkpoints, from which the same call goes on if it was interrupted.
      progress, steps_per_call, callbacks, resume, checkpoint_minutes, keep_checkpoints, max_minutes: see
        `jaxnas.darts.search`.
      test_every: epochs between tests (the last epoch is always tested).

    Raises:
      DataError: if the data are unsound or do not fit the model or the batch size.
      Interrupted: on SIGTERM or Ctrl-C, once the work is saved in `workdir`. It is a KeyboardInterrupt.
      NonFiniteLossError: if a loss or gradient becomes NaN or infinite; it carries the last good values.
      RunError: if `workdir` holds another run, is in use, or cannot be written or read.
    """
    dataset = as_dataset(data, data_dir=data_dir)
    check_seed(seed)
    check_at_least(1, epochs=epochs, test_every=test_every)
    functions = functional.model_fns(model)
    if functions.takes_arch:
        raise TypeError(f"{type(model).__name__} takes an architecture; fix it first: jaxnas.apply_fixed_architecture.")
    check_batch_size(batch_size, len(dataset.x_train), "training")
    output = jax.eval_shape(functions.trace, dataset.example())
    loss_fn, metrics = objective(loss_fn, metrics, dataset, output, aux_weight=aux_weight)

    steps = len(dataset.x_train) // batch_size
    optimizer = optimizer or paper_optimizer(epochs=epochs, steps_per_epoch=steps)
    optimizer = optax.chain(optax.clip_by_global_norm(grad_clip), optimizer) if grad_clip is not None else optimizer
    if variables is not None:
        _check_variables(functions, dataset.example(), variables)
    running = Running(
        workdir=workdir,
        resume=resume,
        progress=progress,
        callbacks=callbacks,
        steps_per_call=steps_per_call,
        checkpoint_minutes=checkpoint_minutes,
        keep_checkpoints=keep_checkpoints,
        max_minutes=max_minutes,
    )
    config = {
        "model": type(model).__name__,
        **dataset.describe(),
        "epochs": epochs,
        "batch_size": batch_size,
        "seed": seed,
        "inherited": variables is not None,
        "grad_clip": grad_clip,
    }
    with Session(running, config) as session:
        init_rng, step_rng, epochs_rng = jax.random.split(jax.random.key(seed), 3)
        start = dict(variables if variables is not None else functions.init(init_rng, dataset.example(batch_size)))
        params = start.pop("params", {})
        state = TrainState(params, start, optimizer.init(params), step_rng, jnp.zeros((), jnp.int32))
        state, at = session.resume(own_buffers(state))
        session.rewind(at)
        run = Run(
            workdir=session.directory.path,
            config=config,
            epochs=epochs,
            steps=steps,
            history=session.history,
            model_fn=model,
            dataset=dataset,
            loss_fn=loss_fn,
            batch_size=batch_size,
            seed=seed,
        )
        session.begin(run, at)
        step = _make_step(functions, optimizer, loss_fn, metrics, steps=epochs * steps)
        run_epoch = make_epoch(step, dataset, watched=_WATCHED, steps_per_call=steps_per_call)
        evaluate = make_evaluator(lambda variables, _, x: functions.apply(variables, x), dataset, loss_fn, metrics)
        return _fit(session, at, state, run, run_epoch, evaluate, epochs_rng, test_every)


def _fit(
    session: Session,
    at: Position,
    state: TrainState,
    run: Run,
    run_epoch: Callable[..., Epoch],
    evaluate: Callable[..., dict[str, float]],
    epochs_rng: jax.Array,
    test_every: int,
) -> FitResult:
    dataset = run.dataset
    images, labels = jnp.asarray(dataset.x_train), jnp.asarray(dataset.y_train)
    test = None if dataset.x_test is None else (jnp.asarray(dataset.x_test), jnp.asarray(dataset.y_test))

    def result() -> FitResult:
        last = session.history[-1] if session.history else {}
        return FitResult(state.variables, session.history, last.get("test_accuracy"))

    while True:
        entered, epoch = time.perf_counter(), at.epoch
        shuffle_rng, augment_rng = jax.random.split(jax.random.fold_in(epochs_rng, epoch))
        batches = epoch_batches(shuffle_rng, np.arange(len(images)), steps=run.steps, batch_size=run.batch_size)
        resumed = {"start": at.step, "before": at.metrics, "after_call": session.follow(at, 0, run.steps)}
        ran = run_epoch(state, augment_rng, images, labels, (batches,), **resumed)
        state, stepped = ran.state, ran.done > at.step
        if (bad := first_bad(ran.metrics, _WATCHED)) is not None:
            message = non_finite_message(ran.metrics, _WATCHED, epoch, bad, session.directory.path)
            failed = {"status": "failed", "error": message, "epoch": epoch, "step": bad}
            session.directory.finish(failed, state.variables, keep_checkpoints=True)
            last_good = FitResult(state.variables, session.history, None)
            raise NonFiniteLossError(message, epoch=epoch, step=bad, result=last_good)
        if session.stopped:
            return result()
        at = dataclasses.replace(
            at,
            step=ran.done,
            metrics=ran.metrics,
            seconds=at.seconds + time.perf_counter() - entered,
            compile_seconds=at.compile_seconds + ran.compile_seconds,
        )
        if stepped and not session.may_review(at, state):
            return result()

        last = epoch + 1 == run.epochs
        with session.reviewing(at, state):
            entered = time.perf_counter()
            record: dict[str, Any] = {
                "epoch": epoch,
                **{name: float(values.mean()) for name, values in ran.metrics.items()},
            }
            if test is not None and (last or (epoch + 1) % test_every == 0):
                scores = evaluate(state.variables, None, *test)
                record |= {f"test_{name}": value for name, value in scores.items()}
            record["seconds"] = at.seconds + time.perf_counter() - entered
            record["compile_seconds"] = at.compile_seconds
            stop = session.end_epoch(state, record)
        if last or stop is not None:
            scores = {k: v for k, v in record.items() if k.startswith(("train_", "test_"))}
            session.finish(scores, state.variables, stop)
            return result()
        at = Position(epoch=epoch + 1)
        session.next_epoch(at, state)
        if session.stopped:
            return result()


def _check_variables(functions: functional.ModelFns, example: Any, variables: Mapping[str, Any]) -> None:
    expected = jax.eval_shape(lambda: functions.init(jax.random.key(0), example))
    wanted, given = ({k: jnp.shape(v) for k, v in _flat(tree).items()} for tree in (expected, variables))
    for name in sorted(wanted.keys() | given.keys()):
        if wanted.get(name) != given.get(name):
            raise ValueError(
                f"variables do not fit the model: {name} has shape {given.get(name, 'none: it is missing')}, the model "
                f"has {wanted.get(name, 'no such variable')}."
            )


def _flat(tree: Any) -> dict[str, Any]:
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(dict(tree))}


def _make_step(
    functions: functional.ModelFns,
    optimizer: optax.GradientTransformation,
    loss_fn: LossFn,
    metrics: MetricsFn,
    *,
    steps: int,
) -> Callable:
    """Builds one of `steps` steps of training: (state, (x, y)) -> (state, metrics)."""

    def step(state: TrainState, batch: tuple[jax.Array, jax.Array]) -> tuple[TrainState, dict[str, jax.Array]]:
        x, y = batch
        rng = jax.random.fold_in(state.rng, state.step)
        options = {"train": True, "progress": state.step.astype(jnp.float32) / steps}

        def loss(params: Any) -> tuple[jax.Array, Any]:
            variables = {"params": params, **state.model_state}
            output, updates = functions.apply(variables, x, rngs=rng, mutable=list(state.model_state), **options)
            return loss_fn(output, y), (metrics(output, y), updates)

        (value, (scores, model_state)), gradients = jax.value_and_grad(loss, has_aux=True)(state.params)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        new = TrainState(
            params=optax.apply_updates(state.params, updates),
            model_state={**state.model_state, **model_state},
            opt_state=opt_state,
            rng=state.rng,
            step=state.step + 1,
        )
        report = {"train_loss": value, "grad_norm": optax.global_norm(gradients)}
        return new, report | {f"train_{name}": score for name, score in scores.items()}

    return step
