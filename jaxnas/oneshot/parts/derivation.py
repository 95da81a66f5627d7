"""From a policy to an architecture: sample many, score each with the shared weights, keep the best.

ENAS (arXiv 1802.03268, section 2.2) derives so; NNI exported one random sample.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.model.space import Space
from jaxnas.oneshot.engine.results import Candidate
from jaxnas.policies.lstm import Controller


def candidates_of(
    sample: Callable[[Any, jax.Array], dict[str, jax.Array]],
    space: Space,
    params: Any,
    rng: jax.Array,
    score: Callable[[dict[str, jax.Array]], dict[str, float]],
    *,
    n: int,
) -> tuple[tuple[Candidate, ...], dict[str, float]]:
    """Samples n architectures from a policy and scores each different one once.

    Args:
      sample: (params, keys `[n]`) -> `{key: [n, …]}`, from the controller.
      space: what is sampled.
      params: the controller's.
      rng: a key.
      score: (sampled arch) -> metrics, with a `reward` among them, larger is better.
      n: how many to sample.

    Returns:
      The different ones, best first, and the mean of each metric over all n. A reward that is not finite comes last.
    """
    drawn = jax.device_get(sample(params, jax.random.split(rng, n)))
    found: dict[str, Candidate] = {}
    sums: dict[str, float] = {}
    for i in range(n):
        arch = {key: leaf[i] for key, leaf in drawn.items()}
        fixed = space.fixed(arch)
        if repr(fixed) not in found:
            metrics = score(space.sampled(arch))
            found[repr(fixed)] = Candidate(fixed, metrics["reward"], metrics)
        for name, value in found[repr(fixed)].metrics.items():
            sums[name] = sums.get(name, 0.0) + value / n
    ranked = sorted(found.values(), key=lambda c: c.score if np.isfinite(c.score) else -np.inf, reverse=True)
    return tuple(ranked), sums


def probabilities(policy: Controller, params: Any, rng: jax.Array, *, samples: int = 1000) -> dict[str, jax.Array]:
    """How often a policy chooses each candidate: `{key: float32 [n_candidates]}`, the share of samples. Traceable."""
    drawn = jax.vmap(policy.sample, (None, 0))(params, jax.random.split(rng, samples)).arch

    def share(key: str, n: int, values: jax.Array) -> jax.Array:
        chosen = values if policy.space[key].n_chosen is None else values[:, None] == jnp.arange(n)
        return chosen.astype(jnp.float32).mean(0)

    return {key: share(key, spec.n_candidates, drawn[key]) for key, spec in policy.space.items()}


def held_out_parts(examples: np.ndarray, count: int, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Two parts of `examples` of one length in whole batches, about `count`: to select on, and to report on.

    They are disjoint where there are examples enough.
    """
    available = len(examples) // batch_size
    rows = max(1, min(round(count / batch_size), available // 2 if available >= 2 else 1))
    size = rows * batch_size
    return examples[:size], examples[len(examples) - size :]
