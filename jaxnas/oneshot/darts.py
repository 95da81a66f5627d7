"""DARTS: Differentiable Architecture Search. Liu, Simonyan, Yang; ICLR 2019; arXiv 1806.09055.

The weights of every choice are a softmax of logits (alphas). Each step first moves the alphas down the
validation loss, to first order or through one virtual step of the weights, then the weights down the
training loss. At the end every choice keeps its strongest candidate.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from jaxnas.data import as_dataset
from jaxnas.model import functional
from jaxnas.model.space import Space
from jaxnas.oneshot.engine.base import Algorithm, SearchState
from jaxnas.oneshot.engine.loop import Method, Phase, Review, Score
from jaxnas.oneshot.engine.plan import Plan, make_plan
from jaxnas.oneshot.engine.seeds import first_seed, run
from jaxnas.oneshot.parts import hypergradient as hypergradients
from jaxnas.oneshot.parts.relaxation import discretize, init_alphas, relax
from jaxnas.oneshot.parts.supernet import supernet
from jaxnas.programs.evaluation import LossFn, MetricsFn, accuracy, cross_entropy
from jaxnas.runs.callback import Callback
from jaxnas.runs.session import Running

_HYPERGRADIENTS = {"exact": hypergradients.exact, "finite_difference": hypergradients.finite_difference}


@struct.dataclass
class DartsState(SearchState):
    """State of a DARTS search.

    Attributes:
      alphas: `{key: float32 [n_candidates]}`, the logits of each choice.
      arch_opt_state: optax state of the alphas.
    """

    alphas: dict[str, jax.Array]
    arch_opt_state: optax.OptState


def paper_weight_optimizer(*, epochs: int, steps_per_epoch: int) -> optax.GradientTransformation:
    """The paper's optimiser of the weights: SGD with momentum 0.9 and weight decay 3e-4.

    The learning rate falls from 0.025 to 0.001 along a cosine, once per epoch as in the paper's code.
    """
    cosine = optax.cosine_decay_schedule(0.025, max(epochs, 1), alpha=0.001 / 0.025)
    return optax.chain(
        optax.add_decayed_weights(3e-4),
        optax.sgd(lambda step: cosine(step // steps_per_epoch), momentum=0.9),
    )


def paper_arch_optimizer() -> optax.GradientTransformation:
    """The paper's optimiser of the alphas: Adam, 3e-4, betas (0.5, 0.999), weight decay 1e-3 (in the gradient)."""
    return optax.chain(optax.add_decayed_weights(1e-3), optax.adam(3e-4, b1=0.5, b2=0.999))


def algorithm(
    model_fn: Any,
    space: Space,
    *,
    weight_optimizer: optax.GradientTransformation,
    arch_optimizer: optax.GradientTransformation,
    order: int = 1,
    hypergradient: str = "exact",
    grad_clip: float | None = 5.0,
    loss_fn: LossFn = cross_entropy,
    metrics: MetricsFn = accuracy,
) -> Algorithm:
    """DARTS as pure functions; `search` runs them. For arguments see `search`.

    The virtual step of the second order is one step of `weight_optimizer` from its present state, with
    momentum, weight decay and learning rate, and without `grad_clip`, as in the paper's code.

    Returns:
      `Algorithm(init, step, derive)` over a `DartsState`. Metrics of a step: `train_loss`,
      `train_<metric>`, `weight_grad_norm` (before clipping), and `valid_loss`, `valid_<metric>`,
      `arch_grad_norm` if the architecture was updated.

    Raises:
      ValueError: for an unknown order or hypergradient.
    """
    if order not in (1, 2):
        raise ValueError(f"order must be 1 or 2; got {order!r}.")
    if hypergradient not in _HYPERGRADIENTS:
        raise ValueError(f"hypergradient must be one of {sorted(_HYPERGRADIENTS)}; got {hypergradient!r}.")
    make_gradient = hypergradients.first_order if order == 1 else _HYPERGRADIENTS[hypergradient]
    model = functional.model_fns(model_fn)
    weights = supernet(model, optimizer=weight_optimizer, grad_clip=grad_clip, loss_fn=loss_fn, metrics=metrics)

    def init(rng: jax.Array, sample_batch: Any) -> DartsState:
        model_rng, alpha_rng, rng = jax.random.split(rng, 3)
        alphas = init_alphas(alpha_rng, space)
        variables = dict(model.init(model_rng, functional.shape_of(sample_batch[0]), relax(space, alphas)))
        params = variables.pop("params", {})
        return DartsState(
            params=params,
            model_state=variables,
            alphas=alphas,
            weight_opt_state=weight_optimizer.init(params),
            arch_opt_state=arch_optimizer.init(alphas),
            rng=rng,
            step=jnp.zeros((), jnp.int32),
        )

    def step(state: DartsState, train_batch: Any, valid_batch: Any) -> tuple[DartsState, dict[str, jax.Array]]:
        weight_rng, arch_rng = jax.random.split(jax.random.fold_in(state.rng, state.step))
        report: dict[str, jax.Array] = {}
        if valid_batch is not None:

            def loss(params: Any, alphas: Any, batch: Any, rng: jax.Array) -> tuple[jax.Array, Any]:
                return weights.loss(params, state.model_state, relax(space, alphas), batch, rng)

            def virtual_step(params: Any, gradients: Any) -> Any:
                updates, _ = weight_optimizer.update(gradients, state.weight_opt_state, params)
                return optax.apply_updates(params, updates)

            gradient = make_gradient(
                lambda params, alphas: loss(params, alphas, train_batch, weight_rng)[0],
                lambda params, alphas: loss(params, alphas, valid_batch, arch_rng),
                virtual_step,
            )
            (valid_loss, (scores, _)), gradients = gradient(state.params, state.alphas)
            updates, arch_opt_state = arch_optimizer.update(gradients, state.arch_opt_state, state.alphas)
            state = state.replace(alphas=optax.apply_updates(state.alphas, updates), arch_opt_state=arch_opt_state)  # type: ignore[attr-defined]
            report |= {"valid_loss": valid_loss, "arch_grad_norm": optax.global_norm(gradients)}
            report |= {f"valid_{name}": score for name, score in scores.items()}

        state, trained = weights.train(state, relax(space, state.alphas), train_batch, weight_rng)
        return state.replace(step=state.step + 1), report | trained  # type: ignore[attr-defined]

    def derive(state: DartsState) -> dict[str, Any]:
        return discretize(space, jax.device_get(state.alphas))

    return Algorithm(init, step, derive)


def search(
    model_fn: Any,
    data: Any,
    *,
    epochs: int = 50,
    batch_size: int = 64,
    order: int = 1,
    hypergradient: str = "exact",
    seed: int | None = None,
    seeds: Sequence[int] | None = None,
    batching: str | None = None,
    weight_optimizer: optax.GradientTransformation | None = None,
    arch_optimizer: optax.GradientTransformation | None = None,
    loss_fn: LossFn | None = None,
    metrics: MetricsFn | None = None,
    aux_weight: float = 0.4,
    warmup_epochs: int = 0,
    grad_clip: float | None = 5.0,
    train_portion: float = 0.5,
    data_dir: str | os.PathLike | None = None,
    workdir: str | os.PathLike | None = None,
    progress: bool | Callable[[dict], None] = True,
    validate_every: int = 1,
    steps_per_call: int | None = None,
    callbacks: Sequence[Callback] = (),
    resume: bool = True,
    checkpoint_minutes: float | None = 10.0,
    keep_checkpoints: int = 2,
    max_minutes: float | None = None,
) -> Any:
    """Searches a model's choices with DARTS. Defaults are those of the paper and its code.

    How choices are relaxed: a LayerChoice is a softmax over its candidates. An InputChoice is searched like
    it, with logits of its own (NNI's DARTS ranks the layers behind it instead, and never searches
    `n_chosen=None`): with `n_chosen=k` the inputs are weighted by k·softmax and the k largest are kept; with
    `n_chosen=None` each input has a sigmoid gate and is kept if its gate is above 1/2. A `ranked` one has no logits:
    all its inputs enter, and those are kept behind which the strongest layers are, candidates called `none` left out.

    Args:
      model_fn: anything that gives a Flax module when called without arguments, or a module; called
        `model(x, arch)`, with `train=` if it takes that.
      data: a name, an .npz file, arrays or a `jaxnas.data.Dataset`; see `jaxnas.data.as_dataset`.
      epochs: passes over the weights' part of the training data.
      batch_size: examples per batch, the same for both levels.
      order: 1, or 2 to differentiate through one virtual step of the weights.
      hypergradient: for order 2: `"exact"` (autodiff) or `"finite_difference"` (the paper's estimate).
      seed: of everything random; the same seed gives the same bits on the same machine. Default: 0.
      seeds: runs the same search from each of these seeds instead, and gives a list of results, in order. `workdir`
        then holds a run directory for each, `seed_0`, `seed_1`, …; each callback is copied for each seed. A loss that
        is not finite ends its own seed only, and is raised when the others have ended.
      batching: how many seeds are run, one of `jaxnas.programs.layout.BATCHINGS`: `"sequence"`, one after the
        other with one compiled program; `"map"`, `"vmap"` or `"shard"`, stepped as one (see there), whose results agree
        with those of single searches to rounding. Default: as measured, one after the other on CPU, vmap on one
        accelerator, shards over several devices; an interrupted run goes on as it was begun.
      weight_optimizer: any optax optimiser. Default: `darts.paper_weight_optimizer`, SGD 0.025 -> 0.001.
      arch_optimizer: any optax optimiser. Default: `darts.paper_arch_optimizer`, Adam 3e-4.
      loss_fn: (output, labels) -> scalar mean. Default: cross-entropy of logits.
      metrics: (output, labels) -> {name: scalar mean}. Default: accuracy.
      aux_weight: weight of auxiliary heads in the default loss, where the model returns a tuple in training.
      warmup_epochs: epochs at the start in which only the weights are trained.
      grad_clip: largest global norm of the weights' gradient, or None.
      train_portion: share of the training data that trains the weights; the rest trains the architecture
        and validates. (Test data, if there are any, are not looked at.)
      data_dir: where a data set named in `data` lies.
      workdir: run directory for `config.json`, `history.jsonl`, `final_arch.json`, `result.json`,
        `weights.msgpack`, and checkpoints while it runs. A search that was interrupted goes on from its last
        checkpoint when it is called again with the same arguments, to the same bits. SIGTERM and Ctrl-C end the step,
        save and raise `Interrupted`. One process at a time may work in it.
      progress: True prints a line per epoch, and on a terminal shows a bar; a function is called with each epoch's
        record.
      validate_every: epochs between validations (the last epoch is always validated).
      steps_per_call: steps in one compiled call; see `jaxnas.programs.epoch.make_epoch`.
      callbacks: what follows the search, such as `jaxnas.callbacks.TensorBoard()`, early stopping, or your own.
      resume: False refuses a `workdir` that holds a run that was interrupted, instead of going on with it.
      checkpoint_minutes: time between checkpoints within an epoch (there is one after each epoch in any case), or None.
      keep_checkpoints: how many are kept, for one that turns out to be damaged.
      max_minutes: stop after so long, also within an epoch unless that is about to end; `workdir` then holds what was
        done, and the same call goes on from there.

    Returns:
      A `SearchResult`, or with `seeds` a list of them. Each record of its history has the means of the step metrics
      (see `algorithm`), `alphas`, the `probabilities` they stand for, the derived `arch`, and, where it was validated,
      `supernet_loss` and `supernet_<metric>` of the mixture and `derived_loss` and `derived_<metric>` of the
      derived architecture with the same weights (its batch statistics recomputed).

    Raises:
      ArchitectureError: if the model has no choices, or they are unsound.
      DataError: if the data are unsound or do not fit the model or the batch size.
      Interrupted: on SIGTERM or Ctrl-C, once the work is saved in `workdir`. It is a KeyboardInterrupt.
      NonFiniteLossError: if a loss or gradient becomes NaN or infinite; it carries the last good values.
      RunError: if `workdir` holds another run, is in use, or cannot be written or read.
    """
    dataset = as_dataset(data, data_dir=data_dir)
    plan = make_plan(
        model_fn,
        dataset,
        epochs=epochs,
        batch_size=batch_size,
        train_portion=train_portion,
        seed=first_seed(seed, seeds, batching),
        warmup_epochs=warmup_epochs,
        validate_every=validate_every,
        loss_fn=loss_fn,
        metrics=metrics,
        aux_weight=aux_weight,
    )
    pure = algorithm(
        model_fn,
        plan.space,
        weight_optimizer=weight_optimizer
        or paper_weight_optimizer(epochs=epochs, steps_per_epoch=plan.steps_per_epoch),
        arch_optimizer=arch_optimizer or paper_arch_optimizer(),
        order=order,
        hypergradient=hypergradient,
        grad_clip=grad_clip,
        loss_fn=plan.loss_fn,
        metrics=plan.metrics,
    )
    settings = {
        "algorithm": "darts",
        "order": order,
        "hypergradient": hypergradient if order == 2 else None,
        "grad_clip": grad_clip,
        "aux_weight": aux_weight,
        "weight_optimizer": "paper" if weight_optimizer is None else "custom",
        "arch_optimizer": "paper" if arch_optimizer is None else "custom",
    }

    def phases(epoch: int) -> list[Phase]:
        return [Phase(plan.steps_per_epoch, batch_size, None if epoch < warmup_epochs else batch_size)]

    def review(plan: Plan, state: DartsState, validate: Score | None, rng: jax.Array, *, last: bool) -> Review:
        arch, mixture = pure.derive(state), relax(plan.space, state.alphas)
        record: dict[str, Any] = {"alphas": _lists(state.alphas), "probabilities": _lists(mixture)}
        if validate is not None:
            mixed = validate(state.variables, mixture)
            # One-hot weights, not an index: the same compiled program evaluates both.
            derived = validate(state.variables, plan.space.one_hot(arch), recalibrate=True)
            record |= {f"supernet_{name}": value for name, value in mixed.items()}
            record |= {f"derived_{name}": value for name, value in derived.items()}
        return Review(arch, record)

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
    method = Method(pure, phases, review, settings, one_path=False)
    return run(plan, method, running, seeds=seeds, batching=batching)


def _lists(arrays: dict[str, jax.Array]) -> dict[str, list[float]]:
    return {key: value.tolist() for key, value in jax.device_get(arrays).items()}
