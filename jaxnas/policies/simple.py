"""Policies over architectures that are simpler than ENAS's controller and can replace it.

`uniform` draws as `Space.sample` does and learns nothing: it is the policy of random search with shared weights
(`jaxnas.rsps`, Li and Talwalkar 2019, arXiv 1902.07638). `independent` has
separate logits for each choice, as the REINFORCE baseline of NAS-Bench-201 (arXiv 2001.00326).
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxnas.errors import ArchitectureError
from jaxnas.model.architecture import Arch, ChoiceSpec
from jaxnas.model.space import Space
from jaxnas.policies.lstm import Controller, Sample


def uniform(space: Space) -> Controller:
    """The policy that draws uniformly. It has no parameters, so there is nothing to train."""
    nats = jnp.float32(sum(math.log(spec.size) for spec in space.values()))

    def score(params: Any, arch: Arch) -> Sample:
        return Sample(space.sampled(arch), -nats, nats, jnp.zeros(()))

    def sample(params: Any, rng: jax.Array) -> Sample:
        return Sample(space.sample(rng), -nats, nats, jnp.zeros(()))

    return Controller(lambda rng: {}, sample, score, space)


def independent(space: Space, *, init_scale: float = 1e-3) -> Controller:
    """The policy that decides each choice by a softmax (or, for any subset, sigmoids) of its own logits.

    Args:
      space: what to decide.
      init_scale: initial standard deviation of the logits.

    Raises:
      ArchitectureError: if the space is empty, or a choice takes several inputs, but not any number of them.
    """
    if not space:
        raise ArchitectureError("the space is empty: there is nothing to decide.")
    for key, spec in space.items():
        if spec.n_chosen not in (1, None):
            raise ArchitectureError(f"choice {key!r} ({spec}): this policy decides one of n, or any subset.")

    def init(rng: jax.Array) -> dict[str, jax.Array]:
        keys = jax.random.split(rng, len(space))
        return {
            key: init_scale * jax.random.normal(keys[i], (spec.n_candidates,))
            for i, (key, spec) in enumerate(space.items())
        }

    def sample(params: dict[str, jax.Array], rng: jax.Array) -> Sample:
        keys = jax.random.split(rng, len(space))
        arch = {key: _draw(keys[i], spec, params[key]) for i, (key, spec) in enumerate(space.items())}
        return _scored(params, arch)

    def score(params: dict[str, jax.Array], arch: Arch) -> Sample:
        return _scored(params, space.sampled(arch))

    def _scored(params: dict[str, jax.Array], arch: dict[str, jax.Array]) -> Sample:
        parts = [_log_prob_and_entropy(spec, params[key], arch[key]) for key, spec in space.items()]
        return Sample(arch, sum(p for p, _ in parts), sum(e for _, e in parts), jnp.zeros(()))  # type: ignore[arg-type]

    return Controller(init, sample, score, space, lambda params: _probabilities(space, params))


def _probabilities(space: Space, params: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return {
        key: jax.nn.sigmoid(params[key]) if spec.n_chosen is None else jax.nn.softmax(params[key])
        for key, spec in space.items()
    }


def _draw(rng: jax.Array, spec: ChoiceSpec, logits: jax.Array) -> jax.Array:
    if spec.n_chosen is None:
        return jax.random.bernoulli(rng, jax.nn.sigmoid(logits))
    return jax.random.categorical(rng, logits).astype(jnp.int32)


def _log_prob_and_entropy(spec: ChoiceSpec, logits: jax.Array, value: jax.Array) -> tuple[jax.Array, jax.Array]:
    if spec.n_chosen is None:
        yes, no = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
        return jnp.where(value, yes, no).sum(), -(jnp.exp(yes) * yes + jnp.exp(no) * no).sum()
    logs = jax.nn.log_softmax(logits)
    return logs[value], -(jnp.exp(logs) * logs).sum()
