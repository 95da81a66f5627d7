"""REINFORCE over independent choices: logits for each, updated after every trial. Williams, Machine Learning 8, 1992.

The baseline of NAS-Bench-201 (Dong, Yang 2020, arXiv 2001.00326): a softmax per edge, Adam, and a moving average of the
scores to compare with. ENAS's controller learns by `jaxnas.enas.reinforce`, whose surrogate loss is used here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Unpack

import jax
import jax.numpy as jnp
import optax
from flax import struct

from jaxnas.blackbox import trials as trial_loop
from jaxnas.blackbox.base import SampledArch, Searcher, check_space, where
from jaxnas.blackbox.options import TRIAL_DEFAULTS, TrialOptions
from jaxnas.model.space import Space
from jaxnas.model.text import short_repr
from jaxnas.policies.lstm import Controller
from jaxnas.policies.reinforce import surrogate
from jaxnas.policies.simple import independent
from jaxnas.signatures import documented


@short_repr
@struct.dataclass
class ReinforceState:
    """State of a REINFORCE search.

    Attributes:
      params: the policy's parameters: of the default policy `{key: float32 [n_candidates]}`, logits.
      opt_state: optax state.
      total: float32 `[]`, sum of the scores, each with its weight in the moving average.
      weight: float32 `[]`, sum of those weights; the average is `total / weight`.
    """

    params: Any
    opt_state: optax.OptState
    total: jax.Array
    weight: jax.Array


def algorithm(
    space: Space,
    *,
    learning_rate: float = 1e-3,
    baseline_decay: float = 0.9,
    entropy_weight: float = 0.0,
    policy: Callable[[Space], Controller] = independent,
) -> Searcher:
    """REINFORCE as pure functions.

    A trial moves the parameters by Adam along `(score - average) · ∇ log probability`, where the average, over the
    scores up to and including this one, is corrected for its start (as in the benchmark's code; so the first trial
    changes nothing). Failed trials change nothing. Adam's steps do not depend on the scale of the scores.

    Args:
      space: what to search.
      learning_rate: Adam's (0.001 in NAS-Bench-201's, 0.01 in NATS-Bench's).
      baseline_decay: weight of the past in the average, in 0..1.
      entropy_weight: weight of the policy's entropy (nats) in the return, in units of the score.
      policy: (space) -> `Controller`, for instance `jaxnas.enas.controller`.

    Raises:
      ArchitectureError: if the policy cannot decide the space.
      ValueError: for numbers out of range.
    """
    check_space(space)
    if not 0 <= baseline_decay < 1:
        raise ValueError(f"baseline_decay must lie in 0..1, 1 excluded; got {baseline_decay!r}.")
    if not learning_rate > 0:
        raise ValueError(f"learning_rate must be positive; got {learning_rate!r}.")
    actor, optimizer = policy(space), optax.adam(learning_rate)

    def init(rng: jax.Array) -> ReinforceState:
        params = actor.init(rng)
        return ReinforceState(params, optimizer.init(params), jnp.zeros(()), jnp.zeros(()))

    def ask(state: ReinforceState, rng: jax.Array) -> SampledArch:
        return actor.sample(state.params, rng).arch

    def tell(state: ReinforceState, arch: SampledArch, score: jax.Array) -> ReinforceState:
        failed = ~jnp.isfinite(score)
        score = jnp.where(failed, 0.0, score)
        total = baseline_decay * state.total + (1 - baseline_decay) * score
        weight = baseline_decay * state.weight + (1 - baseline_decay)
        one = jax.tree.map(lambda leaf: leaf[None], (arch, score - total / weight))
        gradients = jax.grad(surrogate)(state.params, actor, *one, entropy_weight=entropy_weight, skip_weight=0.0)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        learned = ReinforceState(optax.apply_updates(state.params, updates), opt_state, total, weight)
        return where(failed, state, learned)

    return Searcher(init, ask, tell, lambda state, arch: state, space, as_they_come=True)


@documented(TrialOptions, defaults=TRIAL_DEFAULTS)
def search(
    space: Space,
    evaluate: Callable[..., float],
    *,
    learning_rate: float = 1e-3,
    baseline_decay: float = 0.9,
    entropy_weight: float = 0.0,
    **options: Unpack[TrialOptions],
) -> trial_loop.Trials:
    """REINFORCE with a Python evaluator. Returns and raises what `trials.run` does.

    Args:
      space: what to search.
      evaluate: `(arch) -> float`, larger is better; `arch` is `{key: int | str | tuple}`.
      learning_rate, baseline_decay, entropy_weight: see `algorithm`.
    """
    settings = {"learning_rate": learning_rate, "baseline_decay": baseline_decay, "entropy_weight": entropy_weight}
    searcher = algorithm(
        space, learning_rate=learning_rate, baseline_decay=baseline_decay, entropy_weight=entropy_weight
    )
    return trial_loop.run(searcher, evaluate, name="reinforce", settings=settings, **options)
