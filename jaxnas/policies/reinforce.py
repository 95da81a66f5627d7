"""REINFORCE for policies over architectures. Williams, Machine Learning 8, 1992; as used in ENAS, arXiv 1802.03268.

The objective to maximise is the regularised return

    J(params) = E[reward(arch)] + entropy_weight · H(policy) - skip_weight · E[skip_penalty]

and its complete gradient is estimated: the score function of each sample's whole return, against a baseline,
plus the derivative of its entropy and penalty. (ENAS's code adds the entropy to the reward without
differentiating it, and differentiates the penalty without scoring it; each is half of this gradient.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from jaxnas.model.text import short_repr
from jaxnas.policies.lstm import Controller


@short_repr
@struct.dataclass
class PolicyState:
    """State of a policy that learns.

    Attributes:
      params: the policy's parameters.
      opt_state: optax state.
      baseline: float32 `[]`, moving average of the return.
      updates: int32 `[]`, number of updates done.
    """

    params: Any
    opt_state: optax.OptState
    baseline: jax.Array
    updates: jax.Array


class Reinforce(NamedTuple):
    """How a policy learns, as pure functions for jit, scan and vmap.

    Attributes:
      init: `(rng) -> PolicyState`.
      update: `(state, rng, reward) -> (state, metrics)`. `reward` maps `samples` architectures (each leaf with a
        leading axis) to float `[samples]`. Metrics, float32 `[]`: `reward` (mean), `reward_max`, `entropy`,
        `skip_penalty`, `log_prob`, `baseline`, `controller_grad_norm` (before clipping).
    """

    init: Callable[[jax.Array], PolicyState]
    update: Callable[[PolicyState, jax.Array, Callable], tuple[PolicyState, dict[str, jax.Array]]]


def reinforce(
    policy: Controller,
    optimizer: optax.GradientTransformation,
    *,
    samples: int = 20,
    entropy_weight: float = 1e-4,
    skip_weight: float = 0.8,
    baseline_decay: float = 0.999,
    grad_clip: float | None = 5.0,
) -> Reinforce:
    """Builds the learning rule of a policy.

    The baseline is an exponential moving average of the return, with `baseline_decay` per sample. It starts at the
    mean return of the first update: starting at zero, as NNI's and the authors' do, makes all early advantages
    positive, so that whatever is sampled first becomes likelier. An update uses the baseline of the previous update,
    which does not depend on its own samples, so the gradient is unbiased (from the second update on).

    Args:
      policy: the controller.
      optimizer: any optax optimiser.
      samples: architectures per update.
      entropy_weight: weight of the entropy (nats) in the return.
      skip_weight: weight of the skip penalty (nats) in the return.
      baseline_decay: in 0..1, per sample.
      grad_clip: largest global norm of the gradient, or None.

    Raises:
      ValueError: for numbers out of range; in `update`, if `reward` does not return one number per architecture.
    """
    if not isinstance(samples, int) or samples < 1:
        raise ValueError(f"samples must be a positive integer; got {samples!r}.")
    for name, weight in {"entropy_weight": entropy_weight, "skip_weight": skip_weight}.items():
        if not np.isfinite(weight):
            raise ValueError(f"{name} must be a finite number; got {weight!r}.")
    if not 0 <= baseline_decay <= 1:
        raise ValueError(f"baseline_decay must lie in 0..1; got {baseline_decay!r}.")
    clip = optax.identity() if grad_clip is None else optax.clip_by_global_norm(grad_clip)

    def init(rng: jax.Array) -> PolicyState:
        params = policy.init(rng)
        return PolicyState(params, optimizer.init(params), jnp.zeros(()), jnp.zeros((), jnp.int32))

    def update(state: PolicyState, rng: jax.Array, reward: Callable) -> tuple[PolicyState, dict[str, jax.Array]]:
        drawn = jax.vmap(policy.sample, (None, 0))(state.params, jax.random.split(rng, samples))
        rewards = _checked(reward(drawn.arch), samples)
        returns = rewards + entropy_weight * drawn.entropy - skip_weight * drawn.skip_penalty
        baseline = jnp.where(state.updates == 0, returns.mean(), state.baseline)

        gradients = jax.grad(surrogate)(
            state.params, policy, drawn.arch, returns - baseline, entropy_weight=entropy_weight, skip_weight=skip_weight
        )
        clipped, _ = clip.update(gradients, clip.init(state.params))
        updates, opt_state = optimizer.update(clipped, state.opt_state, state.params)
        keep = baseline_decay**samples
        new = PolicyState(
            params=optax.apply_updates(state.params, updates),
            opt_state=opt_state,
            baseline=keep * baseline + (1 - keep) * returns.mean(),
            updates=state.updates + 1,
        )
        return new, {
            "reward": rewards.mean(),
            "reward_max": rewards.max(),
            "entropy": drawn.entropy.mean(),
            "skip_penalty": drawn.skip_penalty.mean(),
            "log_prob": drawn.log_prob.mean(),
            "baseline": baseline,
            "controller_grad_norm": optax.global_norm(gradients),
        }

    return Reinforce(init, update)


def surrogate(
    params: Any, policy: Controller, archs: Any, advantages: jax.Array, *, entropy_weight: float, skip_weight: float
) -> jax.Array:
    """The scalar whose gradient is REINFORCE's estimate of that of -J.

    Args:
      params: the policy's parameters, from which `archs` were drawn.
      policy: the controller.
      archs: N architectures, each leaf with a leading axis.
      advantages: float `[N]`, each return minus the baseline; held constant.
      entropy_weight, skip_weight: as in `reinforce`.
    """
    scored = jax.vmap(policy.score, (None, 0))(params, archs)
    direct = entropy_weight * scored.entropy - skip_weight * scored.skip_penalty
    return -jnp.mean(jax.lax.stop_gradient(advantages) * scored.log_prob + direct)


def _checked(rewards: Any, samples: int) -> jax.Array:
    shape = jnp.shape(rewards)
    if shape != (samples,):
        raise ValueError(f"a reward is one number per architecture: expected shape ({samples},); got {shape}.")
    return jnp.asarray(rewards, jnp.float32)
