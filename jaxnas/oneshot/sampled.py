"""Methods that sample one architecture after another from a policy: assembled from parts.

The architectures share the weights of one supernet. Each epoch first trains the weights, with a fresh architecture for
every batch, then the policy, if it learns, by REINFORCE on held-out data.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Unpack

import jax
import jax.numpy as jnp
import optax
from flax import struct

from jaxnas.model import functional
from jaxnas.model.space import Space
from jaxnas.model.text import short_repr
from jaxnas.model.trees import shapes_of
from jaxnas.oneshot.engine.base import Algorithm, Derivation, Method, Procedure, SearchState
from jaxnas.oneshot.engine.options import SearchOptions
from jaxnas.oneshot.engine.plan import Plan
from jaxnas.oneshot.parts.costs import RewardCost
from jaxnas.oneshot.parts.optimizers import given
from jaxnas.oneshot.parts.part import ModelPart, Seen, text_of
from jaxnas.oneshot.parts.supernet import Supernet, supernet
from jaxnas.ops.meshes import spread
from jaxnas.policies.lstm import Controller
from jaxnas.policies.reinforce import PolicyState, reinforce
from jaxnas.programs.evaluation import RewardFn, accuracy, cross_entropy, reward_for
from jaxnas.programs.losses import LossFn, Reward, as_reward
from jaxnas.programs.metrics import MetricsFn
from jaxnas.runs.loop import Phase


@short_repr
@struct.dataclass
class SampledState(SearchState):
    """State of a search that samples from a policy.

    Attributes:
      policy: the policy's parameters, its optimiser's state, and the baseline.
    """

    policy: PolicyState


def accuracy_reward(output: Any, labels: jax.Array) -> jax.Array:
    """Share of right answers in 0..1, float32 `[]`: the reward of the ENAS paper for images."""
    return accuracy(output, labels)["accuracy"]


class Learning(NamedTuple):
    """How the policy of a search learns; for the fields see `jaxnas.enas.method` and `algorithm`."""

    controller_steps: int = 50
    controller_samples: int = 20
    entropy_weight: float = 1e-4
    skip_weight: float = 0.8
    baseline_decay: float = 0.999
    reward_statistics: str = "batch"


def sampled(
    name: str,
    *,
    policy: Callable[[Space], Controller],
    derive: Callable[[Controller], Derivation],
    own_weight_optimizer: Callable[[Plan], optax.GradientTransformation],
    learning: Learning | None = None,
    policy_optimizer: optax.GradientTransformation | None = None,
    own_policy_optimizer: Callable[[Plan], optax.GradientTransformation] | None = None,
    reward_fn: RewardFn | None = None,
    reward_cost: ModelPart[RewardCost] | None = None,
    train_on: Callable[[Space], Callable[[jax.Array], Any]] | None = None,
    child_steps: int | None = None,
    settings: Mapping[str, Any] | None = None,
    **defaults: Unpack[SearchOptions],
) -> Method:
    """A method from parts.

    Args:
      name: of the method.
      policy: what architectures are sampled from, `(space) -> Controller`, such as `enas.controller`,
        `policies.simple.independent` or `policies.simple.uniform`.
      derive: how it decides, `(policy) -> Derivation`.
      own_weight_optimizer: `(plan) -> optimiser` of the weights, where the search gives none. The plan's
        `steps_per_epoch` are `child_steps`, if there are.
      learning: how the policy learns; None for one that does not.
      policy_optimizer: any optax optimiser, of a policy that learns. Default: the method's own.
      own_policy_optimizer: `(plan) -> optimiser`, the method's own, where none is given.
      reward_fn: (output, labels) or (output, labels, arch) of a held-out batch -> scalar, larger is better. Default:
        accuracy where the loss is cross-entropy of classes, else minus the loss.
      reward_cost: what the cost of an architecture makes of its reward, such as `parts.cost_in_reward("flops", …)`.
      train_on: the architectures of a step of the weights, `(space) -> (rng) -> archs`, each leaf with a leading axis,
        whose gradients are added up, such as `parts.fair_paths`. Default: one that the policy draws.
      child_steps: steps of the weights per epoch. Default: one pass over their part of the data.
      settings: what `config.json` says of the method. Default: its parts.
      **defaults: the method's defaults of search options.

    Returns:
      A `Method`, for `jaxnas.search`.

    Raises:
      ValueError: for a policy that learns without an optimiser.
    """
    if learning is not None and policy_optimizer is None and own_policy_optimizer is None:
        raise ValueError("a policy that learns needs a policy_optimizer.")
    rule = {} if learning is None else learning._asdict()
    rule.pop("controller_steps", None)

    def build(plan: Plan) -> Procedure:
        child, deciding = dataclasses.replace(plan, child_steps=child_steps), policy(plan.space)
        reward, about = reward_for(reward_fn, plan.loss_fn, plan.dataset)
        if reward_cost is not None:
            seen = Seen(plan.model_fn, plan.space, plan.dataset.example(), None)
            reward = _costed(reward, reward_cost.for_model(seen))
        pure = algorithm(
            plan.model_fn,
            deciding,
            weight_optimizer=plan.weight_optimizer or own_weight_optimizer(child),
            controller_optimizer=given(plan, policy_optimizer) or (own_policy_optimizer and own_policy_optimizer(plan)),
            reward_fn=reward,
            grad_clip=plan.grad_clip,
            loss_fn=plan.loss_fn,
            metrics=plan.metrics,
            train_on=train_on,
            **rule,
        )

        def phases(epoch: int) -> list[Phase]:
            weights = Phase(child.steps_per_epoch, plan.batch_size, None)
            if learning is None or epoch < plan.warmup_epochs:
                return [weights]
            return [weights, Phase(learning.controller_steps, None, learning.controller_samples * plan.batch_size)]

        metrics = plan.metrics.also("reward", reward)
        return Procedure(pure, phases, derive(deciding), {"child_steps": child.steps_per_epoch}, metrics, about)

    described = {"policy": text_of(policy), "derive": text_of(derive)}
    described |= {} if train_on is None else {"train_on": text_of(train_on)}
    described |= {} if reward_cost is None else {"reward_cost": text_of(reward_cost)}
    return Method(name, build, described if settings is None else settings, dict(defaults))


def algorithm(
    model_fn: Any,
    policy: Controller,
    *,
    weight_optimizer: optax.GradientTransformation,
    controller_optimizer: optax.GradientTransformation | None = None,
    controller_samples: int = 20,
    entropy_weight: float = 1e-4,
    skip_weight: float = 0.8,
    baseline_decay: float = 0.999,
    reward_fn: RewardFn = accuracy_reward,
    reward_statistics: str = "batch",
    grad_clip: float | None = 5.0,
    loss_fn: LossFn = cross_entropy,
    metrics: MetricsFn = accuracy,
    train_on: Callable[[Space], Callable[[jax.Array], Any]] | None = None,
) -> Algorithm:
    """The same as pure functions, for a loop of one's own.

    Args:
      model_fn: the model with open choices.
      policy: what architectures are sampled from.
      weight_optimizer: any optax optimiser, of the weights.
      controller_optimizer: any optax optimiser, of the policy; None for a policy that does not learn.
      controller_samples: architectures per update of the policy.
      entropy_weight, skip_weight, baseline_decay: see `jaxnas.enas.reinforce`.
      reward_fn, reward_statistics: see `jaxnas.enas.method`; train_on: see `sampled`.
      grad_clip: largest global norm of the weights' gradient and of the policy's, or None.
      loss_fn, metrics: of (output, labels).

    Returns:
      `Algorithm(init, step, derive)` over a `SampledState`. A step with a training batch trains the weights of one
      freshly sampled architecture; with a validation batch, whose length is a multiple of `controller_samples`, it
      updates the policy, each sample being rewarded on its own part of the batch; it may do either or both.
      Metrics: those of `parts.supernet` and of `Reinforce.update`. `derive` draws one architecture from the policy.
    """
    model = functional.model_fns(model_fn)
    weights = supernet(model, optimizer=weight_optimizer, grad_clip=grad_clip, loss_fn=loss_fn, metrics=metrics)
    train, learns = _training(policy, weights, train_on), controller_optimizer is not None
    rule = reinforce(
        policy,
        controller_optimizer or optax.identity(),
        samples=controller_samples,
        entropy_weight=entropy_weight,
        skip_weight=skip_weight,
        baseline_decay=baseline_decay,
        grad_clip=grad_clip,
    )
    rewards = _rewards(model, controller_samples, as_reward(reward_fn), reward_statistics)

    def init(rng: jax.Array, sample_batch: Any) -> SampledState:
        model_rng, policy_rng, arch_rng, rng = jax.random.split(rng, 4)
        arch = policy.space.sample(arch_rng)
        variables = dict(model.init(model_rng, shapes_of(sample_batch[0]), arch))
        params = variables.pop("params", {})
        return SampledState(
            params=params,
            model_state=variables,
            weight_opt_state=weight_optimizer.init(params),
            rng=rng,
            step=jnp.zeros((), jnp.int32),
            policy=rule.init(policy_rng),
        )

    def step(state: SampledState, train_batch: Any, valid_batch: Any) -> tuple[SampledState, dict[str, jax.Array]]:
        rngs = jax.random.split(jax.random.fold_in(state.rng, state.step), 4)
        report: dict[str, jax.Array] = {}
        if train_batch is not None:
            state, report = train(state, train_batch, rngs)
        if valid_batch is not None and learns:
            learned, scores = rule.update(state.policy, rngs[2], rewards(state, valid_batch, rngs[3]))
            state, report = state.replace(policy=learned), report | scores  # type: ignore[attr-defined]
        return state.replace(step=state.step + 1), report  # type: ignore[attr-defined]

    def derive(state: SampledState) -> dict[str, Any]:
        rng = jax.random.fold_in(jax.random.fold_in(state.rng, state.step), 1)
        return policy.space.fixed(jax.device_get(policy.sample(state.policy.params, rng).arch))

    watched = ("train_loss", "weight_grad_norm", "reward", "controller_grad_norm")
    return Algorithm(init, step, derive, watched=watched, one_path=True, divides=True)


def _training(policy: Controller, weights: Supernet, train_on: Callable | None) -> Callable[..., tuple]:
    """A step of the weights, `(state, batch, rngs) -> (state, report)`."""
    if train_on is None:
        return lambda state, batch, rngs: weights.train(
            state, policy.sample(state.policy.params, rngs[0]).arch, batch, rngs[1]
        )
    paths = train_on(policy.space)
    return lambda state, batch, rngs: weights.train_together(state, paths(rngs[0]), batch, rngs[1])


def _costed(reward: Reward, changed: RewardCost) -> Reward:
    """A reward in which the architecture's cost counts."""
    return as_reward(lambda output, labels, arch: changed(reward(output, labels, arch), arch))


def _rewards(
    model: functional.ModelFns, samples: int, reward: Reward, reward_statistics: str
) -> Callable[..., Callable]:
    """Builds `(state, batch, rng) -> (archs) -> float32 [samples]`."""
    if reward_statistics not in ("batch", "running"):
        raise ValueError(f'reward_statistics must be "batch" or "running"; got {reward_statistics!r}.')

    def rewards(state: SampledState, batch: Any, rng: jax.Array) -> Callable[[Any], jax.Array]:
        parts = spread(jax.tree.map(lambda leaf: leaf.reshape(samples, -1, *leaf.shape[1:]), batch), axis=1)
        collections = list(state.model_state)
        train = reward_statistics == "batch" and "batch_stats" in collections

        def one(inputs: Any) -> jax.Array:
            arch, (x, y), key = inputs
            if train:
                output, _ = model.apply(state.variables, x, arch, train=True, rngs=key, mutable=collections)
            else:
                output = model.apply(state.variables, x, arch)
            return reward(output, y, arch).astype(jnp.float32)

        # One after the other: a vmap over architectures would compute every candidate for every sample.
        return lambda archs: jax.lax.map(one, (archs, parts, jax.random.split(rng, samples)))

    return rewards
