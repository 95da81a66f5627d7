"""The derivation of DARTS-PT: what is missed most when it is left out of the supernet is kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.checks import check_at_least, check_options
from jaxnas.errors import ArchitectureError
from jaxnas.model.architecture import NONE, ChoiceSpec
from jaxnas.model.space import Space
from jaxnas.oneshot.engine.base import View
from jaxnas.oneshot.parts.derivation import held_out_parts, mixture_of, reviewed
from jaxnas.oneshot.parts.part import part
from jaxnas.oneshot.parts.relaxation import decide
from jaxnas.oneshot.parts.scoring import merit
from jaxnas.runs.loop import Review

FAR = 1e4
"""Logits this far apart have probabilities of 0 and 1, and no gradient; so a decision is kept in the logits."""


@part
def by_perturbation(share: float = 0.2, *, examples: int = 1000) -> Callable[[View], Review]:
    """DARTS-PT (arXiv 2108.04392, section 4): decides one choice after the other, and trains the supernet in between.

    For a choice of one of n each candidate is left out of the supernet in turn, and the one without which the others
    score worst is kept: from then on it alone runs. The other weights are not rescaled meanwhile, and batch statistics
    are recomputed. Of k of n inputs those k are kept that are missed most; of any subset each input without which the
    score is worse than with it alone open. Choices come in an order drawn from the seed. After them come ranked inputs:
    the edges that are missed least get the candidate `none`. Decisions are spread evenly over the end of the search, in
    which weights and logits go on learning. Where an epoch is not validated, those due wait for the next that is.

    The record has, beside what `by_weight` says, `decided`, the keys decided so far, in order. A decision stands in
    the logits, 10,000 apart; so it is for methods whose logits are those of a softmax or of gates.

    Args:
      share: of the search in which is decided, in 0..1. The paper trains five epochs after each decision; the authors'
        code for NAS-Bench-201 takes the last 25 of 125 for six.
      examples: held-out examples on which is scored, the same for all (rounded to whole batches).

    Raises:
      ArchitectureError: when derived, for a method without such logits, and for ranked inputs without `none`.
      ValueError: for a share outside [0, 1), or no examples.
    """
    check_at_least(1, examples=examples)
    check_options(threshold=share)

    def derive(view: View) -> Review:
        logits, mixture = mixture_of(view)
        order = _order(view)
        done = [key for key in order if _is_decided(view.space, key, logits)]
        due = order if view.last else order[: _due(view, len(order), share)]
        if view.score is not None:
            chosen_on, _ = held_out_parts(view.plan.arch_examples, examples, view.plan.batch_size)

            def score(weights: Mapping[str, jax.Array]) -> float:
                return merit(view.score(weights, examples=chosen_on, recalibrate=True))  # type: ignore[misc]

            for key in due[len(done) :]:
                logits = {**logits, **_decided(view.space, key, logits, mixture, score)}
                mixture = _mixture(view, logits, key)
                done.append(key)
        state = view.state.replace(alphas=logits)
        arch = decide(view.space, jax.device_get(mixture))
        return reviewed(view, state, arch, {"decided": done})._replace(state=state)

    return derive


def _order(view: View) -> list[str]:
    """What is to be decided, in an order drawn from the seed; ranked inputs last."""
    space, names = view.space, list(view.space)
    for key, spec in space.items():
        for name in spec.names or () if spec.ranked else ():
            if NONE not in space[name].labels:
                raise ArchitectureError(
                    f"choice {key!r} ranks {name!r}, which has no candidate {NONE!r}: nothing to leave an edge out by."
                )
    rng = jax.random.fold_in(view.plan.key("epochs"), 2**31 - 1)
    drawn = [names[i] for i in jax.random.permutation(rng, len(names)).tolist()]
    open_ones = [key for key in drawn if space[key].n_chosen != space[key].n_candidates]
    return sorted(open_ones, key=lambda key: space[key].ranked)


def _due(view: View, count: int, share: float) -> int:
    """How many choices of `count` are decided after this epoch: the last one after the last epoch."""
    epochs_each = share * view.plan.epochs / max(count, 1)
    left = view.plan.epochs - 1 - view.epoch
    return int(max(0, count - np.ceil(left / max(epochs_each, 1e-9))))


def _is_decided(space: Space, key: str, logits: Mapping[str, jax.Array]) -> bool:
    spec = space[key]
    if not spec.ranked:
        return bool(np.abs(np.asarray(logits[key])).max() > FAR / 2)
    nothing = [np.asarray(logits[name])[space[name].labels.index(NONE)] for name in spec.names or ()]
    others = [np.delete(np.asarray(logits[name]), space[name].labels.index(NONE)).max() for name in spec.names or ()]
    left_out = sum(a > b + FAR / 2 for a, b in zip(nothing, others, strict=True))
    return left_out >= spec.n_candidates - (spec.n_chosen or 0)


def _decided(
    space: Space,
    key: str,
    logits: Mapping[str, jax.Array],
    mixture: Mapping[str, jax.Array],
    score: Callable[[Mapping[str, jax.Array]], float],
) -> dict[str, jax.Array]:
    """The logits that change when a choice is decided."""
    spec = space[key]
    if spec.ranked:
        names = list(spec.names or ())
        missed = [score({**mixture, name: jnp.zeros_like(mixture[name])}) for name in names]
        kept = _most_missed(missed, [float(mixture[key][i]) for i in range(len(names))], spec.n_chosen or 0)
        return {
            name: _far(space[name], [space[name].labels.index(NONE)]) for i, name in enumerate(names) if i not in kept
        }
    weights = mixture[key]
    without = [score({**mixture, key: weights.at[i].set(0)}) for i in range(spec.n_candidates)]
    if spec.n_chosen is None:
        alone = [score({**mixture, key: weights.at[i].set(1)}) for i in range(spec.n_candidates)]
        return {key: _far(spec, [i for i in range(spec.n_candidates) if without[i] < alone[i]])}
    behind = any(other.ranked and key in (other.names or ()) for other in space.values())
    if behind:  # an edge is left out by its node, not here
        without[spec.labels.index(NONE)] = np.inf
    return {key: _far(spec, _most_missed(without, np.asarray(weights).tolist(), spec.n_chosen))}


def _most_missed(without: Sequence[float], weights: Sequence[float], k: int) -> list[int]:
    """Those k without which the score is lowest, of equal ones those of larger weight."""
    return sorted(range(len(without)), key=lambda i: (without[i], -weights[i]))[:k]


def _far(spec: ChoiceSpec, chosen: Sequence[int]) -> jax.Array:
    """Logits of a decision: of a softmax, or of gates."""
    is_chosen = jnp.isin(jnp.arange(spec.n_candidates), jnp.asarray(chosen, jnp.int32))
    return jnp.where(is_chosen, FAR if spec.n_chosen is None else 0.0, -FAR)


def _mixture(view: View, logits: Mapping[str, jax.Array], key: str) -> dict[str, jax.Array]:
    """What the logits stand for now; checks that the decision is one."""
    assert view.algorithm.mixture is not None
    mixture = view.algorithm.mixture(dict(logits))
    spec = view.space[key]
    if not spec.ranked:
        weights = np.asarray(mixture[key])
        if not (np.isclose(weights, 0, atol=1e-6) | np.isclose(weights, 1, atol=1e-6)).all():
            raise ArchitectureError(
                f"choice {key!r}: its logits do not become the weights 0 and 1 of a decision but {weights.tolist()}; "
                "by_perturbation is for methods whose logits are those of a softmax or of gates."
            )
    return mixture
