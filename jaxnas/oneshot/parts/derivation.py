"""How a search decides: from a state to an architecture, after every epoch.

A derivation is a function of a `View` that gives a `Review`. It may return a state, with which the search continues.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.blackbox.trials import Trial
from jaxnas.checks import check_options
from jaxnas.errors import ArchitectureError
from jaxnas.model.architecture import LAYER
from jaxnas.model.space import Space
from jaxnas.oneshot.engine.base import View
from jaxnas.oneshot.parts.part import part
from jaxnas.oneshot.parts.relaxation import decide
from jaxnas.policies.lstm import Controller
from jaxnas.runs.loop import Review


def by_weight(view: View) -> Review:
    """Keeps what has the largest weight, as `Algorithm.derive` does: the rule of DARTS.

    The record has `alphas`, the `probabilities` they stand for, and, where the epoch is validated, `derived_loss` and
    `derived_<metric>` of the derived architecture with the supernet's weights, its batch statistics recomputed; and
    `supernet_loss` and `supernet_<metric>` of the mixture, where a step computes mixtures.
    """
    return reviewed(view, view.state, view.algorithm.derive(view.state))


def reviewed(view: View, state: Any, arch: dict[str, Any], also: Mapping[str, Any] = MappingProxyType({})) -> Review:
    """What `by_weight` says of a state and its architecture, and what else there is to say."""
    algorithm, space = view.algorithm, view.space
    logits, mixture = mixture_of(view, state)
    record: dict[str, Any] = {"alphas": as_lists(logits), "probabilities": as_lists(mixture), **also}
    if view.score is not None:
        if not algorithm.one_path:
            record |= {f"supernet_{name}": value for name, value in view.score(mixture).items()}
        derived = view.score(_computable(space, arch, algorithm.one_path), recalibrate=True)
        record |= {f"derived_{name}": value for name, value in derived.items()}
    return Review(record, arch)


def mixture_of(view: View, state: Any = None) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """The logits, of the view's state or of another, and the weights that they stand for.

    Raises:
      ArchitectureError: for a method that has none.
    """
    if view.algorithm.logits is None or view.algorithm.mixture is None:
        raise ArchitectureError(
            "this rule decides by the weights of logits, and the method has none: select by scores, for instance "
            "parts.by_evolution(200)."
        )
    logits = view.algorithm.logits(view.state if state is None else state)
    return logits, view.algorithm.mixture(logits)


@part
def by_threshold(threshold: float = 0.85) -> Callable[[View], Review]:
    """FairDARTS (arXiv 1911.12126): what has a weight above a threshold is kept.

    Of any subset of inputs those above it are kept. A choice of one of n, and each edge of ranked inputs, takes its
    strongest candidate, and a node its strongest edges, as many as it has inputs in the space. The paper gives a node
    fewer where fewer are above the threshold; these spaces have no such architectures, so the next strongest fill up,
    and `below_threshold` in the record counts the choices that were decided so. Otherwise as `by_weight`.

    Args:
      threshold: in 0..1.

    Raises:
      ValueError: for a threshold outside [0, 1).
    """
    check_options(threshold=threshold)

    def derive(view: View) -> Review:
        mixture = {key: np.asarray(each) for key, each in jax.device_get(mixture_of(view)[1]).items()}
        above = {
            key: np.where(each > threshold, 1.0, 0.0) if view.space[key].n_chosen is None else each
            for key, each in mixture.items()
        }
        arch, below = decide(view.space, above), 0
        for key, spec in view.space.items():
            if spec.n_chosen == 1 and not spec.ranked and arch[key] != ():
                below += not float(mixture[key][spec.labels.index(arch[key])]) > threshold
        return reviewed(view, view.state, arch, {"below_threshold": below})

    return derive


def _computable(space: Space, arch: dict[str, Any], one_path: bool) -> dict[str, jax.Array]:
    """A decision as arrays: indices after steps of one path, unless a layer is left out, else weights.

    A mixture and one-hot weights are evaluated by the same compiled program.
    """
    left_out = any(spec.kind == LAYER and arch[key] == () for key, spec in space.items())
    return space.sampled(arch) if one_path and not left_out else space.one_hot(arch)


def as_lists(arrays: dict[str, jax.Array]) -> dict[str, list[float]]:
    """Arrays as a record has them."""
    return {key: value.tolist() for key, value in jax.device_get(arrays).items()}


def trials_of(
    sample: Callable[[Any, jax.Array], dict[str, jax.Array]],
    space: Space,
    params: Any,
    rng: jax.Array,
    score: Callable[[dict[str, jax.Array]], dict[str, float]],
    *,
    n: int,
) -> tuple[tuple[Trial, ...], dict[str, float]]:
    """Samples n architectures from a policy and scores each different one once.

    ENAS (arXiv 1802.03268, section 2.2) derives so; NNI exported one random sample.

    Args:
      sample: (params, keys `[n]`) -> `{key: [n, …]}`, from the policy.
      space: what is sampled.
      params: the policy's.
      rng: a key.
      score: (sampled arch) -> metrics, with a `reward` among them, larger is better.
      n: how many to sample.

    Returns:
      The different ones, best first, and the mean of each metric over all n. A reward that is not finite comes last.
    """
    drawn = jax.device_get(sample(params, jax.random.split(rng, n)))
    found: dict[str, Trial] = {}
    sums: dict[str, float] = {}
    for i in range(n):
        arch = {key: leaf[i] for key, leaf in drawn.items()}
        fixed = space.fixed(arch)
        if repr(fixed) not in found:
            metrics = score(space.sampled(arch))
            found[repr(fixed)] = Trial(fixed, metrics["reward"], metrics=metrics)
        for name, value in found[repr(fixed)].metrics.items():
            sums[name] = sums.get(name, 0.0) + value / n
    ranked = sorted(
        found.values(), key=lambda trial: trial.score if np.isfinite(trial.score) else -np.inf, reverse=True
    )
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


def best_of_samples(
    n: int, *, examples: int = 1000, while_searching: int = 10, keep_best: bool = True
) -> Callable[[Controller], Callable[[View], Review]]:
    """Samples n architectures from a policy at the end, and keeps the one of highest reward (ENAS, section 2.2).

    The record has `probabilities` (shares of 1000 samples) and, where the epoch is validated, `sampled_<metric>`, the
    mean over the samples, and `derived_<metric>`, the best of them on as many other held-out examples.

    Args:
      n: how many are sampled at the end.
      examples: held-out examples on which they are scored, the same for all (rounded to whole batches).
      while_searching: how many are sampled after each validated epoch but the last.
      keep_best: False keeps one random sample at the end instead, as NNI does.

    Returns:
      `(policy) -> Derivation`.
    """

    def of_policy(policy: Controller) -> Callable[[View], Review]:
        choice_probabilities = jax.jit(lambda params, rng: probabilities(policy, params, rng))
        sample = jax.jit(jax.vmap(lambda params, rng: policy.sample(params, rng).arch, (None, 0)))

        def derive(view: View) -> Review:
            params, score_on = view.state.policy.params, view.score
            select_on, report_on = held_out_parts(view.plan.arch_examples, examples, view.plan.batch_size)
            record: dict[str, Any] = {
                "probabilities": as_lists(choice_probabilities(params, jax.random.fold_in(view.rng, 0)))
            }
            if score_on is None:
                return Review(record, view.algorithm.derive(view.state), final=False)

            def score(arch: dict[str, jax.Array]) -> dict[str, float]:
                return score_on(arch, examples=select_on, recalibrate=True)

            trials: tuple[Trial, ...] = ()
            if view.last and not keep_best:
                arch = view.algorithm.derive(view.state)
            else:
                rng, count = jax.random.fold_in(view.rng, 1), n if view.last else while_searching
                trials, means = trials_of(sample, view.space, params, rng, score, n=count)
                arch = trials[0].arch
                record |= {f"sampled_{name}": value for name, value in means.items()}
            derived = score_on(view.space.sampled(arch), examples=report_on, recalibrate=True)
            record |= {f"derived_{name}": value for name, value in derived.items()}
            return Review(record, arch, trials, final=view.last)

        return derive

    return of_policy


def by_probability(policy: Controller) -> Callable[[View], Review]:
    """Keeps what is most probable under a policy that decides every choice independently, as ProxylessNAS does.

    The record has `alphas`, the policy's parameters, `probabilities`, and, where the epoch is validated,
    `derived_<metric>`, as that of `by_weight`.

    Raises:
      ValueError: for a policy whose decisions depend on each other.
    """
    if policy.probabilities is None:
        raise ValueError("by_probability needs a policy that decides every choice independently; use best_of_samples.")
    of = jax.jit(policy.probabilities)

    def derive(view: View) -> Review:
        params = view.state.policy.params
        found = jax.device_get(of(params))
        arch = decide(view.space, found)
        record: dict[str, Any] = {"alphas": as_lists(params), "probabilities": as_lists(found)}
        if view.score is not None:
            derived = view.score(view.space.sampled(arch), recalibrate=True)
            record |= {f"derived_{name}": value for name, value in derived.items()}
        return Review(record, arch)

    return derive
