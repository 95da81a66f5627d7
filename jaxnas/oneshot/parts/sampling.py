"""Relaxations that sample: random weights, or random paths, whose gradient reaches the logits.

Each is a function that gives a part, `(space) -> Relaxation`. Choices that take k of n inputs, or any subset, cannot be
sampled by a distribution over one of n: those keep the weights of `softmax`, unless the docstring says otherwise.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxnas.model.architecture import ChoiceSpec, Gated
from jaxnas.model.space import Space
from jaxnas.oneshot.parts.part import part
from jaxnas.oneshot.parts.relaxation import Logits, Relaxation, Train, init_alphas, relax

Fall = Literal["linear", "exponential"]

Sampler = Callable[[jax.Array, jax.Array, jax.Array], Any]
"""(logits [n], rng, t) -> weights [n] or `Gated`, of a choice of one of n."""


def concentration(logits: jax.Array) -> jax.Array:
    """What DrNAS makes of logits: elu(logits) + 1, positive."""
    return jax.nn.elu(logits) + 1 + 1e-6  # elu may round to -1


def dirichlet(space: Space) -> Relaxation:
    """DrNAS (arXiv 2006.10355, equation 3): weights θ ~ Dirichlet(elu(logits) + 1), reparametrised.

    The probabilities are the mean of the distribution.
    """

    def sample(logits: jax.Array, rng: jax.Array, t: jax.Array) -> jax.Array:
        return jax.random.dirichlet(rng, concentration(logits))

    def mean(logits: jax.Array) -> jax.Array:
        return concentration(logits) / concentration(logits).sum()

    return _relaxation(space, sample, mean)


@part
def gumbel(temperature: tuple[float, float] = (10.0, 0.1), *, fall: Fall = "linear") -> Callable[[Space], Relaxation]:
    """SNAS (arXiv 1812.09926, equation 4): weights softmax((log p + g) / τ) with Gumbel noise g; every candidate runs.

    Args:
      temperature: τ at the beginning and at the end of the search.
      fall: how it falls, `"linear"` or `"exponential"`, at every step.

    Raises:
      ValueError: for a temperature that is not positive, or an unknown fall.
    """
    _check_temperature(temperature, fall)

    def build(space: Space) -> Relaxation:
        def sample(logits: jax.Array, rng: jax.Array, t: jax.Array) -> jax.Array:
            return _concrete(logits, rng, _temperature(temperature, fall, t))

        return _relaxation(space, sample, jax.nn.softmax)

    return build


@part
def gumbel_path(
    temperature: tuple[float, float] = (10.0, 0.1), *, fall: Fall = "linear"
) -> Callable[[Space], Relaxation]:
    """GDAS (arXiv 1910.04465, equations 3 to 5): the candidate of largest p̃ = softmax((log p + g) / τ) runs alone.

    Its output is multiplied by 1 + p̃ - stop_gradient(p̃), which is 1 and carries the gradient to the logits. (The
    authors' code also adds the scalars of the candidates that do not run, which are zero, and thereby the gradient
    of the sum over all pixels; the paper does not.)

    Args:
      temperature: τ at the beginning and at the end of the search.
      fall: how it falls, `"linear"` or `"exponential"`, at every step.

    Raises:
      ValueError: for a temperature that is not positive, or an unknown fall.
    """
    _check_temperature(temperature, fall)

    def build(space: Space) -> Relaxation:
        def sample(logits: jax.Array, rng: jax.Array, t: jax.Array) -> Gated:
            soft = _concrete(logits, rng, _temperature(temperature, fall, t))
            index = jnp.argmax(soft)[None]
            chosen = soft[index]
            return Gated(index.astype(jnp.int32), 1 + chosen - jax.lax.stop_gradient(chosen))

        return _relaxation(space, sample, jax.nn.softmax, one_path=True)

    return build


@part
def reinmax(temperature: float = 1.0, *, one_path: bool = True) -> Callable[[Space], Relaxation]:
    """ReinMax (arXiv 2304.08612): a straight-through estimator of second order, for a sampled candidate.

    With D the one-hot sample of p₀ = softmax(logits), p₁ = (D + softmax(logits / τ)) / 2, J(p) = diag(p) - ppᵀ and
    g = ∂L/∂D the gradient of the logits is 2·J(p₁)g - ½·J(p₀)g.

    Args:
      temperature: τ, at least 1.
      one_path: the sampled candidate runs alone, so that g is known at its entry only and taken as zero elsewhere, as
        in GDAS: cheap. False runs all candidates, each times its entry of D: the paper's estimator.

    Raises:
      ValueError: for a temperature below 1, as in the authors' code.
    """
    if not isinstance(temperature, (int, float)) or not 1 <= temperature < float("inf"):
        raise ValueError(f"ReinMax needs a temperature of at least 1; got {temperature!r}.")

    def build(space: Space) -> Relaxation:
        def sample(logits: jax.Array, rng: jax.Array, t: jax.Array) -> Any:
            index = jax.random.categorical(rng, logits).astype(jnp.int32)[None]
            chosen = _reinmax(temperature, logits, index)
            return Gated(index, chosen[index]) if one_path else chosen

        return _relaxation(space, sample, jax.nn.softmax, one_path=one_path)

    return build


def two_paths(space: Space) -> Relaxation:
    """ProxylessNAS (arXiv 1812.00332, section 3.2): two candidates are drawn by p, without replacement, and run.

    The others do not exist for the step: the two have p' = softmax of their own logits, and one of them, drawn by p',
    has the binary gate 1, the other 0. The gates' gradient is that of p' (equation 4):
    ∂L/∂α_i = Σ_j ∂L/∂g_j·p'_j(δ_ij - p'_i).

    After the update both logits are shifted alike, so that what they have of the probability together is as before, and
    that of every other candidate too; the other logits are put back, whatever the optimiser did to them.
    """

    def sample(logits: jax.Array, rng: jax.Array, t: jax.Array) -> Gated:
        pair_rng, gate_rng = jax.random.split(rng)
        noisy = logits + jax.random.gumbel(pair_rng, logits.shape, logits.dtype)
        index = jax.lax.top_k(noisy, min(2, len(logits)))[1].astype(jnp.int32)
        pair = jax.nn.softmax(logits[index])
        active = jax.nn.one_hot(jax.random.categorical(gate_rng, logits[index]), len(index))
        return Gated(index, active + (pair - jax.lax.stop_gradient(pair)))

    def settle(before: Logits, after: Logits, arch: dict[str, Any]) -> Logits:
        def one(key: str, updated: jax.Array) -> jax.Array:
            if not isinstance(arch[key], Gated):
                return updated
            index = arch[key].index
            old, new = before[key], updated[index]
            return old.at[index].set(new - jax.nn.logsumexp(new) + jax.nn.logsumexp(old[index]))

        return {key: one(key, updated) for key, updated in after.items()}

    return _relaxation(space, sample, jax.nn.softmax, one_path=True)._replace(settle=settle)


def sampled_path(space: Space) -> Train:
    """Draws one candidate of every choice by the probabilities, without a gradient: ProxylessNAS' `train_on`."""

    def sample(logits: jax.Array, rng: jax.Array, t: jax.Array) -> Gated:
        return Gated(jax.random.categorical(rng, logits).astype(jnp.int32)[None], jnp.ones(1))

    return _relaxation(space, sample, jax.nn.softmax, one_path=True).arch


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _reinmax(temperature: float, logits: jax.Array, index: jax.Array) -> jax.Array:
    """The one-hot vector of the index, float `[n]`, with ReinMax's gradient."""
    return jnp.zeros_like(logits).at[index].set(1)


def _reinmax_forward(temperature: float, logits: jax.Array, index: jax.Array) -> tuple[jax.Array, Any]:
    chosen = _reinmax(temperature, logits, index)
    return chosen, (logits, chosen)


def _reinmax_backward(temperature: float, kept: Any, g: jax.Array) -> tuple[jax.Array, None]:
    logits, chosen = kept

    def through(p: jax.Array) -> jax.Array:  # J(p) g
        return p * (g - p @ g)

    halfway = (chosen + jax.nn.softmax(logits / temperature)) / 2
    return 2 * through(halfway) - through(jax.nn.softmax(logits)) / 2, None


_reinmax.defvjp(_reinmax_forward, _reinmax_backward)


def _concrete(logits: jax.Array, rng: jax.Array, temperature: jax.Array) -> jax.Array:
    """A sample of the concrete distribution, float `[n]`."""
    noise = jax.random.gumbel(rng, logits.shape, logits.dtype)
    return jax.nn.softmax((jax.nn.log_softmax(logits) + noise) / temperature)


def _temperature(ends: tuple[float, float], fall: Fall, t: jax.Array) -> jax.Array:
    """τ when the share t of the search is done."""
    first, last = ends
    return first + (last - first) * t if fall == "linear" else first * (last / first) ** t


def _relaxation(
    space: Space, sample: Sampler, mean: Callable[[jax.Array], jax.Array], *, one_path: bool = False
) -> Relaxation:
    """Samples the choices of one of n, and relaxes the others as DARTS does."""

    def samples(spec: ChoiceSpec) -> bool:
        return not spec.ranked and spec.n_chosen == 1

    def arch(logits: Logits, rng: jax.Array, t: jax.Array) -> dict[str, Any]:
        keys = jax.random.split(rng, max(len(space), 1))
        relaxed = relax(space, logits)
        return {
            key: sample(logits[key], keys[i], t) if samples(spec) else relaxed[key]
            for i, (key, spec) in enumerate(space.items())
        }

    def probabilities(logits: Mapping[str, Any]) -> dict[str, jax.Array]:
        relaxed = relax(space, logits)
        return {key: mean(logits[key]) if samples(spec) else relaxed[key] for key, spec in space.items()}

    return Relaxation(lambda rng: init_alphas(rng, space), arch, probabilities, one_path)


def _check_temperature(temperature: tuple[float, float], fall: Fall) -> None:
    if fall not in ("linear", "exponential"):
        raise ValueError(f'fall must be "linear" or "exponential"; got {fall!r}.')
    if len(temperature) != 2 or not all(isinstance(t, (int, float)) and t > 0 for t in temperature):
        raise ValueError(f"temperature must be two positive numbers, first and last; got {temperature!r}.")
