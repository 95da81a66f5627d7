"""Gradients of the validation loss with respect to the architecture (DARTS, arXiv 1806.09055, section 2.3).

Each function takes

* `train_loss(params, alphas) -> scalar`,
* `valid_loss(params, alphas) -> (scalar, aux)`,
* `virtual_step(params, gradients) -> params`, one step of the weights' optimiser, not kept,

and gives `gradient(params, alphas) -> ((valid_loss, aux), d valid_loss / d alphas)`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

Hypergradient = Callable[[Callable, Callable, Callable], Callable]


@jax.custom_vjp
def _tame(gradients: Any) -> Any:
    """The identity. Backwards, what is not finite becomes zero where the gradient itself is exactly zero.

    There (a weight behind an input that is always zero, say) Adam's square root has an infinite slope, and
    autodiff multiplies it by zero.
    """
    return gradients


def _tame_forward(gradients: Any) -> tuple[Any, Any]:
    return gradients, jax.tree.map(lambda g: g == 0, gradients)


def _tame_backward(zero: Any, cotangents: Any) -> tuple[Any]:
    return (jax.tree.map(lambda z, c: jnp.where(z & ~jnp.isfinite(c), 0, c), zero, cotangents),)


_tame.defvjp(_tame_forward, _tame_backward)


def first_order(train_loss: Callable, valid_loss: Callable, virtual_step: Callable) -> Callable:
    """∇α L_val(w, α): the weights are taken as they are (the paper's ξ = 0)."""
    del train_loss, virtual_step
    return jax.value_and_grad(valid_loss, argnums=1, has_aux=True)


def exact(train_loss: Callable, valid_loss: Callable, virtual_step: Callable) -> Callable:
    """∇α L_val(w'(α), α) with w'(α) = w - ξ ∇w L_train(w, α), by differentiating through the step (equation 6).

    With momentum and weight decay the step is `virtual_step`'s; nothing is approximated.
    """

    def unrolled(alphas: Any, params: Any) -> tuple[jax.Array, Any]:
        stepped = virtual_step(params, _tame(jax.grad(train_loss)(params, alphas)))
        return valid_loss(stepped, alphas)

    def gradient(params: Any, alphas: Any) -> tuple[tuple[jax.Array, Any], Any]:
        return jax.value_and_grad(unrolled, has_aux=True)(alphas, params)

    return gradient


def finite_difference(
    train_loss: Callable, valid_loss: Callable, virtual_step: Callable, *, radius: float = 0.01
) -> Callable:
    """As `exact`, with the Hessian-vector product by central differences, as the paper and its code do.

    Equation 8: ∇²αw L_train · v ≈ (∇α L_train(w⁺, α) - ∇α L_train(w⁻, α)) / 2ε, where w± = w ± ε v,
    ε = radius / ‖v‖. Here v is ∇w' L_val carried back through the virtual step: -ξ ∇w' L_val for SGD, so
    that any optimiser will do and no factor is left to be forgotten.

    With ReLU networks the estimate is noisy, since w⁺ and w⁻ lie on other sides of its kinks. For comparison.
    """

    def gradient(params: Any, alphas: Any) -> tuple[tuple[jax.Array, Any], Any]:
        weight_gradients = jax.grad(train_loss)(params, alphas)
        stepped, back = jax.vjp(lambda g: virtual_step(params, _tame(g)), weight_gradients)
        value, (outer, direct) = jax.value_and_grad(valid_loss, argnums=(0, 1), has_aux=True)(stepped, alphas)
        (vector,) = back(outer)
        epsilon = radius / jnp.maximum(optax.global_norm(vector), 1e-12)

        def at(sign: int) -> Any:
            shifted = jax.tree.map(lambda w, v: w + sign * epsilon * v, params, vector)
            return jax.grad(train_loss, argnums=1)(shifted, alphas)

        implicit = jax.tree.map(lambda plus, minus: (plus - minus) / (2 * epsilon), at(1), at(-1))
        return value, jax.tree.map(lambda d, i: d + i, direct, implicit)

    return gradient
