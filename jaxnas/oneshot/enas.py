"""ENAS: Efficient Neural Architecture Search via Parameter Sharing.

Pham, Guan, Zoph, Le, Dean; ICML 2018; arXiv 1802.03268.

An LSTM controller samples architectures, which share the weights of one supernet. Each epoch first trains the
weights, with a fresh architecture for every batch, then the controller by REINFORCE on held-out data. At the end many
architectures are sampled and scored with the shared weights, and the best is kept.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from jaxnas.checks import check_at_least
from jaxnas.data import as_dataset
from jaxnas.model import functional
from jaxnas.model.space import Space
from jaxnas.oneshot.engine.base import Algorithm, SearchState
from jaxnas.oneshot.engine.loop import Candidate, Method, Phase, Review, Score
from jaxnas.oneshot.engine.plan import Plan, make_plan
from jaxnas.oneshot.engine.seeds import first_seed, run
from jaxnas.oneshot.parts.derivation import candidates_of, held_out_parts, probabilities
from jaxnas.oneshot.parts.supernet import supernet
from jaxnas.policies.lstm import Controller, Sample, controller, reduction_bias
from jaxnas.policies.reinforce import PolicyState, Reinforce, reinforce, surrogate
from jaxnas.programs.evaluation import LossFn, MetricsFn, accuracy, cross_entropy
from jaxnas.runs.callback import Callback
from jaxnas.runs.session import Running

__all__ = [
    "Controller",
    "EnasState",
    "PolicyState",
    "Reinforce",
    "Sample",
    "algorithm",
    "controller",
    "paper_controller_optimizer",
    "paper_weight_optimizer",
    "reduction_bias",
    "reinforce",
    "search",
    "surrogate",
]

RewardFn = Callable[[Any, jax.Array], jax.Array]
"""(model output for a batch, labels) -> scalar, larger is better."""


@struct.dataclass
class EnasState(SearchState):
    """State of an ENAS search.

    Attributes:
      policy: the controller's parameters, its optimiser's state, and the baseline.
    """

    policy: PolicyState


def accuracy_reward(output: Any, labels: jax.Array) -> jax.Array:
    """Share of right answers in 0..1, float32 `[]`: the reward of the paper for images."""
    return accuracy(output, labels)["accuracy"]


def paper_weight_optimizer(
    *, steps_per_epoch: int, weight_decay: float = 1e-4, lr_max: float = 0.05, lr_min: float = 0.001
) -> optax.GradientTransformation:
    """The paper's optimiser of the weights (section 3.2): SGD, Nesterov momentum 0.9, weight decay 1e-4.

    The learning rate falls from `lr_max` to `lr_min` along cosines of 10, 20, 40, … epochs (SGDR, arXiv 1608.03983),
    once per epoch as in the authors' code.
    """

    def schedule(step: jax.Array) -> jax.Array:
        epoch = jnp.asarray(step // steps_per_epoch, jnp.float32)
        # Period k begins at epoch 10 (2^k - 1); the half keeps the logarithm off its jumps.
        start = 10 * (2 ** jnp.floor(jnp.log2((epoch + 0.5) / 10 + 1)) - 1)
        share = (epoch - start) / (start + 10)
        return lr_min + (lr_max - lr_min) * (1 + jnp.cos(jnp.pi * share)) / 2

    return optax.chain(optax.add_decayed_weights(weight_decay), optax.sgd(schedule, momentum=0.9, nesterov=True))


def paper_controller_optimizer() -> optax.GradientTransformation:
    """The paper's optimiser of the controller: Adam, 3.5e-4."""
    return optax.adam(3.5e-4)


def algorithm(
    model_fn: Any,
    policy: Controller,
    *,
    weight_optimizer: optax.GradientTransformation,
    controller_optimizer: optax.GradientTransformation,
    controller_samples: int = 20,
    entropy_weight: float = 1e-4,
    skip_weight: float = 0.8,
    baseline_decay: float = 0.999,
    reward_fn: RewardFn = accuracy_reward,
    reward_statistics: str = "batch",
    grad_clip: float | None = 5.0,
    loss_fn: LossFn = cross_entropy,
    metrics: MetricsFn = accuracy,
) -> Algorithm:
    """ENAS as pure functions; `search` runs them. For arguments see `search` and `reinforce`.

    Returns:
      `Algorithm(init, step, derive)` over an `EnasState`. A step with a training batch trains the weights of one
      freshly sampled architecture; with a validation batch, whose length is a multiple of `controller_samples`, it
      updates the controller, each sample being rewarded on its own part of the batch; it may do either or both.
      Metrics: those of `jaxnas.oneshot.parts.supernet` and of `Reinforce.update`. `derive` draws one architecture from
      the policy.

    Raises:
      ValueError: for options out of range; in `step`, if a reward is not a scalar.
    """
    if reward_statistics not in ("batch", "running"):
        raise ValueError(f'reward_statistics must be "batch" or "running"; got {reward_statistics!r}.')
    model = functional.model_fns(model_fn)
    weights = supernet(model, optimizer=weight_optimizer, grad_clip=grad_clip, loss_fn=loss_fn, metrics=metrics)
    learning = reinforce(
        policy,
        controller_optimizer,
        samples=controller_samples,
        entropy_weight=entropy_weight,
        skip_weight=skip_weight,
        baseline_decay=baseline_decay,
        grad_clip=grad_clip,
    )

    def init(rng: jax.Array, sample_batch: Any) -> EnasState:
        model_rng, policy_rng, arch_rng, rng = jax.random.split(rng, 4)
        arch = policy.space.sample(arch_rng)
        variables = dict(model.init(model_rng, functional.shape_of(sample_batch[0]), arch))
        params = variables.pop("params", {})
        return EnasState(
            params=params,
            model_state=variables,
            weight_opt_state=weight_optimizer.init(params),
            rng=rng,
            step=jnp.zeros((), jnp.int32),
            policy=learning.init(policy_rng),
        )

    def step(state: EnasState, train_batch: Any, valid_batch: Any) -> tuple[EnasState, dict[str, jax.Array]]:
        rngs = jax.random.split(jax.random.fold_in(state.rng, state.step), 4)
        report: dict[str, jax.Array] = {}
        if train_batch is not None:
            arch = policy.sample(state.policy.params, rngs[0]).arch
            state, report = weights.train(state, arch, train_batch, rngs[1])
        if valid_batch is not None:
            learned, scores = learning.update(state.policy, rngs[2], rewards(state, valid_batch, rngs[3]))
            state, report = state.replace(policy=learned), report | scores  # type: ignore[attr-defined]
        return state.replace(step=state.step + 1), report  # type: ignore[attr-defined]

    def rewards(state: EnasState, batch: Any, rng: jax.Array) -> Callable[[Any], jax.Array]:
        parts = jax.tree.map(lambda leaf: leaf.reshape(controller_samples, -1, *leaf.shape[1:]), batch)
        collections = list(state.model_state)
        train = reward_statistics == "batch" and "batch_stats" in collections

        def one(inputs: Any) -> jax.Array:
            arch, (x, y), key = inputs
            if train:
                output, _ = model.apply(state.variables, x, arch, train=True, rngs=key, mutable=collections)
            else:
                output = model.apply(state.variables, x, arch)
            reward = reward_fn(output, y)
            if jnp.shape(reward) != ():
                raise ValueError(
                    f"reward_fn must give one number per architecture, a scalar; got shape {jnp.shape(reward)}."
                )
            return jnp.asarray(reward, jnp.float32)

        # One after the other: a vmap over architectures would compute every candidate for every sample.
        return lambda archs: jax.lax.map(one, (archs, parts, jax.random.split(rng, controller_samples)))

    def derive(state: EnasState) -> dict[str, Any]:
        rng = jax.random.fold_in(jax.random.fold_in(state.rng, state.step), 1)
        return policy.space.fixed(jax.device_get(policy.sample(state.policy.params, rng).arch))

    return Algorithm(init, step, derive)


def search(
    model_fn: Any,
    data: Any,
    *,
    epochs: int = 310,
    batch_size: int = 64,
    seed: int | None = None,
    seeds: Sequence[int] | None = None,
    batching: str | None = None,
    child_steps: int | None = None,
    controller_steps: int = 50,
    controller_samples: int = 20,
    controller: Callable[[Space], Controller] = controller,
    weight_optimizer: optax.GradientTransformation | None = None,
    controller_optimizer: optax.GradientTransformation | None = None,
    reward_fn: RewardFn = accuracy_reward,
    reward_statistics: str = "batch",
    entropy_weight: float = 1e-4,
    skip_weight: float = 0.8,
    baseline_decay: float = 0.999,
    derive: str = "best",
    derive_samples: int = 100,
    derive_examples: int = 1000,
    validate_samples: int = 10,
    loss_fn: LossFn | None = None,
    metrics: MetricsFn | None = None,
    aux_weight: float = 0.4,
    warmup_epochs: int = 0,
    grad_clip: float | None = 5.0,
    train_portion: float = 0.9,
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
    """Searches a model's choices with ENAS.

    Defaults are those of the paper's macro search and of NNI's `EnasTrainer`, where they differ NNI's, but: an epoch
    trains the weights on a pass over their data (the paper; NNI: 500 steps), and the result is the best of
    `derive_samples` architectures rather than one random one.

    Args:
      model_fn: anything that gives a Flax module when called without arguments, or a module; called
        `model(x, arch)`, with `train=` if it takes that. It may return `(logits, auxiliary logits)` in training.
      data: a name, an .npz file, arrays or a `jaxnas.data.Dataset`; see `jaxnas.data.as_dataset`.
      epochs: alternations of weights and controller.
      batch_size: examples per step of the weights, and per sampled architecture of the controller's steps.
      seed, seeds: see `jaxnas.darts.search`.
      batching: see `jaxnas.darts.search`; but the default on one accelerator is one after the other too, since under
        vmap a step computes every candidate rather than the sampled one.
      child_steps: steps of the weights per epoch. Default: one pass over their part of the data.
      controller_steps: updates of the controller per epoch.
      controller_samples: architectures per update, each rewarded on a batch of its own.
      controller: (space) -> `Controller`, for instance `functools.partial(enas.controller, tanh_constant=1.1)`.
      weight_optimizer: any optax optimiser. Default: `enas.paper_weight_optimizer`.
      controller_optimizer: any optax optimiser. Default: `enas.paper_controller_optimizer`, Adam 3.5e-4.
      reward_fn: (output, labels) of a held-out batch -> scalar, larger is better. Default: accuracy.
      reward_statistics: with batch normalisation, `"batch"` rewards by the statistics of the batch, in training mode
        (the authors' code), `"running"` by the supernet's averages, in evaluation mode (NNI).
      entropy_weight, skip_weight, baseline_decay: see `enas.reinforce`.
      derive: `"best"` samples `derive_samples` architectures at the end and keeps the one of highest mean reward;
        `"sample"` keeps one random sample, as NNI does.
      derive_samples: how many.
      derive_examples: held-out examples on which they are scored, the same for all (rounded to whole batches).
      validate_samples: architectures sampled and so scored after each validated epoch but the last.
      loss_fn: (output, labels) -> scalar mean. Default: cross-entropy of logits, and of auxiliary ones.
      metrics: (output, labels) -> {name: scalar mean}. Default: accuracy.
      aux_weight: weight of auxiliary heads in the default loss.
      warmup_epochs: epochs at the start in which only the weights are trained.
      grad_clip: largest global norm of the weights' gradient and of the controller's, or None.
      train_portion: share of the training data that trains the weights; the rest rewards the controller and
        validates. (Test data, if there are any, are not looked at.)
      data_dir, workdir, progress, validate_every, steps_per_call, callbacks, resume, checkpoint_minutes,
        keep_checkpoints, max_minutes: see `jaxnas.darts.search`.

    Returns:
      A `SearchResult` (with `seeds` a list of them), whose `top(k)` are the best architectures with their scores.
      Each record of its history has the means of the step metrics (see `algorithm`), `probabilities` (share of 1000
      samples that choose each candidate), `arch`, and, where it was validated, `sampled_<metric>` (mean of the
      sampled architectures on the derivation's examples) and `derived_<metric>` (the best of them on as many other
      held-out examples, which did not select it), all with batch statistics recomputed for each architecture.

    Raises:
      ArchitectureError: if the model has no choices, or ones that a controller cannot decide.
      DataError: if the data are unsound or do not fit the model or the batch size.
      Interrupted: on SIGTERM or Ctrl-C, once the work is saved in `workdir`. It is a KeyboardInterrupt.
      NonFiniteLossError: if a loss, reward or gradient becomes NaN or infinite; it carries the last good values.
      RunError: if `workdir` holds another run, is in use, or cannot be written or read.
      ValueError: for options out of range, or a reward that is not a scalar.
    """
    counts = {
        "controller_steps": controller_steps,
        "derive_samples": derive_samples,
        "derive_examples": derive_examples,
        "controller_samples": controller_samples,
        "validate_samples": validate_samples,
    }
    check_at_least(1, **counts)
    if child_steps is not None:
        check_at_least(1, child_steps=child_steps)
    if derive not in ("best", "sample"):
        raise ValueError(f'derive must be "best" or "sample"; got {derive!r}.')
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
    weight_steps = child_steps or plan.steps_per_epoch
    policy = controller(plan.space)
    pure = algorithm(
        model_fn,
        policy,
        weight_optimizer=weight_optimizer or paper_weight_optimizer(steps_per_epoch=weight_steps),
        controller_optimizer=controller_optimizer or paper_controller_optimizer(),
        controller_samples=controller_samples,
        entropy_weight=entropy_weight,
        skip_weight=skip_weight,
        baseline_decay=baseline_decay,
        reward_fn=reward_fn,
        reward_statistics=reward_statistics,
        grad_clip=grad_clip,
        loss_fn=plan.loss_fn,
        metrics=plan.metrics,
    )
    settings = {
        "algorithm": "enas",
        **counts,
        "child_steps": weight_steps,
        "entropy_weight": entropy_weight,
        "skip_weight": skip_weight,
        "baseline_decay": baseline_decay,
        "reward_statistics": reward_statistics,
        "derive": derive,
        "grad_clip": grad_clip,
        "aux_weight": aux_weight,
        "weight_optimizer": "paper" if weight_optimizer is None else "custom",
        "controller_optimizer": "paper" if controller_optimizer is None else "custom",
    }

    def phases(epoch: int) -> list[Phase]:
        weights = Phase(weight_steps, batch_size, None)
        policy_steps = Phase(controller_steps, None, controller_samples * batch_size)
        return [weights] if epoch < warmup_epochs else [weights, policy_steps]

    choice_probabilities = jax.jit(lambda params, rng: probabilities(policy, params, rng))
    sample = jax.jit(jax.vmap(lambda params, rng: policy.sample(params, rng).arch, (None, 0)))

    def review(plan: Plan, state: EnasState, validate: Score | None, rng: jax.Array, *, last: bool) -> Review:
        params = state.policy.params
        select_on, report_on = held_out_parts(plan.arch_examples, derive_examples, batch_size)
        shares = jax.device_get(choice_probabilities(params, jax.random.fold_in(rng, 0)))
        record: dict[str, Any] = {"probabilities": {key: share.tolist() for key, share in shares.items()}}
        if validate is None:
            return Review(pure.derive(state), record)

        def score(arch: dict[str, jax.Array]) -> dict[str, float]:
            return validate(state.variables, arch, examples=select_on, recalibrate=True)

        n = derive_samples if last else validate_samples
        candidates: tuple[Candidate, ...] = ()
        if last and derive == "sample":
            arch = pure.derive(state)
        else:
            candidates, means = candidates_of(sample, plan.space, params, jax.random.fold_in(rng, 1), score, n=n)
            arch = candidates[0].arch
            record |= {f"sampled_{name}": value for name, value in means.items()}
        derived = validate(state.variables, plan.space.sampled(arch), examples=report_on, recalibrate=True)
        record |= {f"derived_{name}": value for name, value in derived.items()}
        return Review(arch, record, candidates)

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
    plan = dataclasses.replace(plan, metrics=_with_reward(plan.metrics, reward_fn))
    method = Method(pure, phases, review, settings, one_path=True)
    return run(plan, method, running, seeds=seeds, batching=batching)


def _with_reward(metrics: MetricsFn, reward_fn: RewardFn) -> MetricsFn:
    return lambda output, labels: {**metrics(output, labels), "reward": reward_fn(output, labels)}
