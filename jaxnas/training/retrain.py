"""Training a plain model, from scratch or from inherited weights."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax import struct
from jax.sharding import Mesh

from jaxnas.checks import OPTIONS, check_batch_size, check_optimizer, check_options
from jaxnas.data import Dataset, as_dataset
from jaxnas.data.batches import epoch_batches
from jaxnas.model import functional
from jaxnas.model.fixed import FixedModel
from jaxnas.model.text import short_repr
from jaxnas.programs import devices
from jaxnas.programs.epoch import make_epoch
from jaxnas.programs.evaluation import make_evaluator, objective
from jaxnas.programs.examples import on_device
from jaxnas.programs.layout import single
from jaxnas.programs.losses import Loss
from jaxnas.programs.metrics import Metrics
from jaxnas.programs.predictor import Predictor, model_form
from jaxnas.programs.tracing import check_fit, check_trainable
from jaxnas.runs import loop
from jaxnas.runs.callback import Run
from jaxnas.runs.directory import RunDirectory
from jaxnas.runs.fingerprint import data_fingerprint, fingerprints, function_fingerprint
from jaxnas.runs.lane import Lane, make_lane
from jaxnas.runs.loop import Draw, Phase, Review, Where
from jaxnas.runs.options import RUN_DEFAULTS, RunOptions, running_of
from jaxnas.runs.progress import numbers, whole_batches
from jaxnas.runs.session import Session
from jaxnas.signatures import check_known, documented, options_of

_WATCHED = ("train_loss", "grad_norm")


@short_repr
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


@dataclasses.dataclass(frozen=True, repr=False)
class FitResult:
    """What a training gave.

    Attributes:
      variables: the trained variables.
      history: one dict per epoch: `train_loss`, `train_<metric>`, and where it was tested `test_loss` and
        `test_<metric>`.
      test_accuracy: share of right answers on the test data at the end, in 0..1; None without test data or
        without an accuracy among the metrics.
      predictor: the trained model with its preprocessing.
    """

    variables: dict[str, Any]
    history: list[dict[str, Any]]
    test_accuracy: float | None
    predictor: Predictor

    def predict(self, examples: Any, *, batch_size: int = 256) -> np.ndarray:
        """The trained model's output on raw examples; see `Predictor.predict`."""
        return self.predictor.predict(examples, batch_size=batch_size)

    def predict_classes(self, examples: Any, *, batch_size: int = 256) -> np.ndarray:
        """The most probable class of each raw example, int `[N]`; see `Predictor.predict_classes`."""
        return self.predictor.predict_classes(examples, batch_size=batch_size)

    def save(self, folder: str | os.PathLike) -> Path:
        """Writes the trained model to a new folder, for `jaxnas.load_model`; see `Predictor.save`."""
        return self.predictor.save(folder)

    def __repr__(self) -> str:
        last = self.history[-1] if self.history else {}
        scores = ", ".join(f"{name}={value:.4f}" for name, value in numbers(last).items())
        return f"FitResult({len(self.history)} epochs{', ' if scores else ''}{scores})"


def paper_optimizer(*, epochs: int, steps_per_epoch: int) -> optax.GradientTransformation:
    """How DARTS trains what it found (arXiv 1806.09055, section 3.2): SGD 0.025 -> 0, momentum 0.9, decay 3e-4.

    The learning rate falls along a cosine, here at every step.
    """
    schedule = optax.cosine_decay_schedule(0.025, max(epochs * steps_per_epoch, 1))
    return optax.chain(optax.add_decayed_weights(3e-4), optax.sgd(schedule, momentum=0.9))


FIT_DEFAULTS: Mapping[str, Any] = {**RUN_DEFAULTS, "epochs": 50, "batch_size": 96}


@documented(RunOptions, defaults=FIT_DEFAULTS)
def fit(
    model: nn.Module,
    data: Any,
    *,
    variables: Mapping[str, Any] | None = None,
    optimizer: optax.GradientTransformation | None = None,
    test_every: int = 1,
    **options: Unpack[RunOptions],
) -> FitResult:
    """Trains a plain model, for instance what `jaxnas.apply_fixed_architecture` gives.

    Args:
      model: a Flax module called `model(x)`, with `train=` and `progress=` if it takes them: the latter, in training
        only, is the share of all steps done, float32 `[]` in [0, 1), for what is scheduled, such as drop-path.
      data: a name, an .npz file, arrays or a `jaxnas.data.Dataset`; all its training data are used.
      variables: where to start from, such as `SearchResult.inherit()`. Default: fresh ones.
      optimizer: any optax optimiser. Default: `paper_optimizer`, of the DARTS paper, which trains for 600 epochs.
      test_every: epochs between tests (the last epoch is always tested).

    Raises:
      DataError: if the data are unsound or do not fit the model or the batch size.
      Interrupted: on SIGTERM or Ctrl-C, once the work is saved in `workdir`. It is a KeyboardInterrupt.
      NonFiniteLossError: if a loss or gradient becomes NaN or infinite; it carries the last good values.
      RunError: if `workdir` holds another run, is in use, or cannot be written or read.
    """
    check_known(options, options_of(RunOptions), "jaxnas.training.fit")
    chosen: dict[str, Any] = {**FIT_DEFAULTS, **options}
    epochs, batch_size, grad_clip = chosen["epochs"], chosen["batch_size"], chosen["grad_clip"]
    dataset = as_dataset(data, data_dir=chosen["data_dir"])
    seed = 0 if chosen["seed"] is None else chosen["seed"]
    numeric = {**chosen, "seed": seed, "test_every": test_every}
    check_options(**{name: value for name, value in numeric.items() if name in OPTIONS})
    check_optimizer("optimizer", optimizer)
    output, functions = check_trainable(model, dataset), functional.model_fns(model)
    check_batch_size(batch_size, dataset.n_train, "training")
    given = {"aux_weight": chosen["aux_weight"], "fixed": dict(model.arch) if isinstance(model, FixedModel) else None}
    loss_fn, metrics = objective(chosen["loss_fn"], chosen["metrics"], dataset, output, **given)
    steps = dataset.n_train // batch_size
    clipped = _clipped(optimizer or paper_optimizer(epochs=epochs, steps_per_epoch=steps), grad_clip)
    if variables is not None:
        check_fit(functions, variables, dataset.example())

    running = running_of(chosen)
    mesh = devices.find_mesh(running.devices, running.mesh, batch_size=batch_size)
    directory = RunDirectory(running.workdir)
    config = {**_config(model, dataset, {**chosen, "seed": seed}, variables), **devices.described(mesh)}
    if directory.path is not None:
        known = {"loss_fn": chosen["loss_fn"], "metrics": chosen["metrics"], "optimizer": optimizer}
        config["fingerprints"] = {**_model_fingerprints(model, variables), **fingerprints(dataset, **known)}
    run = Run(
        workdir=directory.path,
        config=config,
        epochs=epochs,
        steps=steps,
        history=[],
        model_fn=model,
        dataset=dataset,
        loss_fn=loss_fn,
        batch_size=batch_size,
        seed=seed,
        validate_every=test_every,
    )
    step = _make_step(functions, clipped, loss_fn, metrics, steps=epochs * steps)
    images, labels = on_device(dataset.x_train), on_device(dataset.y_train)
    call: Any = {"steps_per_call": running.steps_per_call, "layout": single(mesh)}
    program = make_epoch(step, dataset, images=images, labels=labels, watched=_WATCHED, **call)
    forward = lambda variables, _, x: functions.apply(variables, x)  # noqa: E731
    evaluate = make_evaluator(forward, dataset, loss_fn, metrics, mesh=mesh)
    with Session(running, directory, config) as session:
        lane = make_lane(run, running, directory)
        session.add(lane)
        [result] = loop.run(FitTask(run, functions, clipped, variables, evaluate, mesh), program, session)
        if lane.error is not None:
            raise lane.error
        return result


def _config(
    model: nn.Module, dataset: Dataset, options: Mapping[str, Any], variables: Mapping[str, Any] | None
) -> dict[str, Any]:
    """What `config.json` holds; for predictions also how to build the model, and how to prepare examples for it."""
    form = model_form(model, dataset.preprocessing)
    return {
        "model": type(model).__name__,
        **dataset.describe(),
        **{name: options[name] for name in ("epochs", "batch_size", "seed", "grad_clip")},
        "inherited": variables is not None,
        "preprocessing": form["preprocessing"],
        "predicts": form,
    }


def _model_fingerprints(model: nn.Module, variables: Mapping[str, Any] | None) -> dict[str, Any]:
    """Of the model, its architecture if it is fixed, and the variables it starts from."""
    fixed = isinstance(model, FixedModel)
    found: dict[str, Any] = {"model": function_fingerprint(model.open.model if fixed else model)}
    if fixed:
        found["arch"] = dict(model.arch)
    if variables is not None:
        leaves = jax.device_get(jax.tree.leaves(dict(variables)))
        found["variables"] = f"{len(leaves)} arrays {data_fingerprint(*leaves).split()[-1]}"
    return found


def _clipped(optimizer: optax.GradientTransformation, grad_clip: float | None) -> optax.GradientTransformation:
    return optimizer if grad_clip is None else optax.chain(optax.clip_by_global_norm(grad_clip), optimizer)


@dataclasses.dataclass(frozen=True)
class FitTask:
    """A training as the loop of runs sees it; see `jaxnas.runs.loop.Task`."""

    run: Run
    functions: functional.ModelFns
    optimizer: optax.GradientTransformation
    variables: Mapping[str, Any] | None
    evaluate: Callable[..., dict[str, float]]
    mesh: Mesh | None

    @property
    def notes(self) -> list[str]:
        left = self.run.dataset.n_train % self.run.batch_size
        said = devices.said(self.mesh)
        return [*said, whole_batches(left, self.run.batch_size)] if left else said

    def begin(self, seed: int) -> TrainState:
        init_rng, step_rng, _ = _keys(seed)
        example = self.run.dataset.example(self.run.batch_size)
        given = self.variables if self.variables is not None else self.functions.init(init_rng, example)
        variables = dict(given)
        params = variables.pop("params", {})
        return TrainState(params, variables, self.optimizer.init(params), step_rng, jnp.zeros((), jnp.int32))

    def phases(self, epoch: int) -> Sequence[Phase]:
        return [Phase(self.run.steps, self.run.batch_size)]

    def draw(self, seed: int, epoch: int, phase: int) -> Draw:
        shuffle, augment = jax.random.split(jax.random.fold_in(_keys(seed)[2], epoch))
        examples = np.arange(self.run.dataset.n_train)
        batches = epoch_batches(shuffle, examples, steps=self.run.steps, batch_size=self.run.batch_size)
        return Draw((batches,), augment, augment)

    def review(self, seed: int, state: TrainState, at: Where, rng: jax.Array) -> Review:
        dataset = self.run.dataset
        if dataset.x_test is None or not at.validated:
            return Review({})
        given = devices.copied((state.variables, on_device(dataset.x_test), on_device(dataset.y_test)), self.mesh)
        scores = self.evaluate(given[0], None, *given[1:])
        return Review({f"test_{name}": value for name, value in scores.items()})

    def outcome(self, lane: Lane, state: TrainState, review: Review | None) -> FitResult:
        history = lane.run.history
        predictor = Predictor(self.run.model_fn, state.variables, self.run.dataset.preprocessing)
        return FitResult(state.variables, history, history[-1].get("test_accuracy") if history else None, predictor)

    def summary(self, outcome: FitResult) -> dict[str, Any]:
        return {}


def _keys(seed: int) -> jax.Array:
    """Keys of initialisation, of the steps, and of the epochs."""
    return jax.random.split(jax.random.key(seed), 3)


def _make_step(
    functions: functional.ModelFns,
    optimizer: optax.GradientTransformation,
    loss_fn: Loss,
    metrics: Metrics,
    *,
    steps: int,
) -> Callable:
    """Builds one of `steps` steps of training: (state, (x, y)) -> (state, metrics)."""

    def step(state: TrainState, batch: tuple[Any, Any]) -> tuple[TrainState, dict[str, jax.Array]]:
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
