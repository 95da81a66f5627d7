"""The optimisers of the papers, for searches that give none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxnas.checks import check_optimizer, check_options
from jaxnas.errors import ArchitectureError
from jaxnas.oneshot.engine.plan import Plan


def cosine_sgd(
    *,
    lr: float = 0.025,
    lr_min: float = 0.001,
    momentum: float = 0.9,
    weight_decay: float = 3e-4,
    nesterov: bool = False,
) -> Callable[[Plan], optax.GradientTransformation]:
    """SGD whose learning rate falls along a cosine over the search, once per epoch. Defaults: DARTS (arXiv 1806.09055).

    Args:
      lr, lr_min: learning rate at the beginning and at the end.
      momentum, nesterov: of SGD.
      weight_decay: added to the gradient.

    Returns:
      `(plan) -> optimiser`; the plan's `weight_lr` goes before `lr`.
    """

    def of_plan(plan: Plan) -> optax.GradientTransformation:
        first = lr if plan.weight_lr is None else plan.weight_lr
        return _cosine_sgd(plan.epochs, plan.steps_per_epoch, first, lr_min, momentum, weight_decay, nesterov)

    return of_plan


def adam(
    *, lr: float = 3e-4, b1: float = 0.5, b2: float = 0.999, weight_decay: float = 1e-3
) -> Callable[[Plan], optax.GradientTransformation]:
    """Adam for the logits. Defaults: DARTS (arXiv 1806.09055). The weight decay is added to the gradient.

    Returns:
      `(plan) -> optimiser`; the plan's `arch_lr` goes before `lr`.
    """

    def of_plan(plan: Plan) -> optax.GradientTransformation:
        rate = lr if plan.arch_lr is None else plan.arch_lr
        return optax.chain(optax.add_decayed_weights(weight_decay), optax.adam(rate, b1=b1, b2=b2))

    return of_plan


def exponentiated_gradient(lr: float = 0.1, *, floor: float = 1e-5) -> Callable[[Plan], optax.GradientTransformation]:
    """GAEA's optimiser (arXiv 2004.07802), of the weights θ that the relaxation `simplex` has.

    One of n, and k of n: θ ← θ·exp(-η g) / Z, where Z makes the sum 1. Any subset: the same for each gate and its
    complement, θ ← θ·exp(-η g) / (θ·exp(-η g) + 1 - θ).

    Args:
      lr: η; the plan's `arch_lr` goes before it.
      floor: what θ is raised to before it is divided by its sum, so that nothing is lost for ever: that of the authors'
        code. 0 is the paper's rule.

    Returns:
      `(plan) -> optimiser`.

    Raises:
      ValueError: for a learning rate that is not positive.
    """
    check_options(lr=lr)

    def of_plan(plan: Plan) -> optax.GradientTransformation:
        rate, space = lr if plan.arch_lr is None else plan.arch_lr, plan.space

        def moved(key: str, theta: jax.Array, gradient: jax.Array) -> jax.Array:
            if space[key].n_chosen is None:
                odds = jnp.log(theta) - jnp.log1p(-theta) - rate * gradient
                return jnp.clip(jax.nn.sigmoid(odds), floor, 1 - floor)
            # Less its smallest entry, which changes nothing but cannot overflow.
            scaled = jnp.maximum(theta * jnp.exp(-rate * (gradient - gradient.min())), floor)
            return scaled / scaled.sum()

        def init(thetas: Mapping[str, jax.Array]) -> optax.EmptyState:
            for key in thetas:
                if space[key].ranked:
                    raise ArchitectureError(f"choice {key!r} ({space[key]}): exponentiated gradients move no logits.")
            return optax.EmptyState()

        def update(gradients: Any, state: Any, thetas: Any = None) -> tuple[Any, Any]:
            return {key: moved(key, theta, gradients[key]) - theta for key, theta in thetas.items()}, state

        return optax.GradientTransformation(init, update)

    return of_plan


def given(plan: Plan, optimizer: optax.GradientTransformation | None) -> optax.GradientTransformation | None:
    """The optimiser of the architecture that a method was given, if any. ValueError if `arch_lr` is given too."""
    check_optimizer("the optimiser of the architecture", optimizer)
    if optimizer is not None and plan.arch_lr is not None:
        raise ValueError("give arch_lr or an optimiser of the architecture, not both: it has its own learning rate.")
    return optimizer


def paper_weight_optimizer(*, epochs: int, steps_per_epoch: int) -> optax.GradientTransformation:
    """The DARTS paper's optimiser of the weights: SGD with momentum 0.9 and weight decay 3e-4.

    The learning rate falls from 0.025 to 0.001 along a cosine, once per epoch as in the paper's code.
    """
    return _cosine_sgd(epochs, steps_per_epoch, 0.025, 0.001, 0.9, 3e-4, False)


def paper_arch_optimizer() -> optax.GradientTransformation:
    """The DARTS paper's optimiser of the alphas: Adam, 3e-4, betas (0.5, 0.999), weight decay 1e-3 in the gradient."""
    return optax.chain(optax.add_decayed_weights(1e-3), optax.adam(3e-4, b1=0.5, b2=0.999))


def enas_weight_optimizer(
    *, steps_per_epoch: int, weight_decay: float = 1e-4, lr_max: float = 0.05, lr_min: float = 0.001
) -> optax.GradientTransformation:
    """ENAS's optimiser of the weights (arXiv 1802.03268, section 3.2): SGD, Nesterov momentum 0.9, weight decay 1e-4.

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


def enas_controller_optimizer(lr: float = 3.5e-4) -> optax.GradientTransformation:
    """ENAS's optimiser of the controller: Adam, 3.5e-4."""
    return optax.adam(lr)


def _cosine_sgd(
    epochs: int,
    steps_per_epoch: int,
    lr: float,
    lr_min: float,
    momentum: float,
    weight_decay: float,
    nesterov: bool,
) -> optax.GradientTransformation:
    cosine = optax.cosine_decay_schedule(lr, max(epochs, 1), alpha=lr_min / lr)
    sgd = optax.sgd(lambda step: cosine(step // steps_per_epoch), momentum=momentum, nesterov=nesterov)
    return optax.chain(optax.add_decayed_weights(weight_decay), sgd)
