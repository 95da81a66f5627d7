"""Derivations that score architectures with the supernet's weights, and keep the best: any method can end so."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from jaxnas.blackbox import evolution, trials
from jaxnas.blackbox.trials import Trial
from jaxnas.checks import check_at_least
from jaxnas.errors import ArchitectureError
from jaxnas.model.architecture import ChoiceSpec
from jaxnas.model.cost import cost
from jaxnas.model.latency import LatencyTable
from jaxnas.model.space import Space
from jaxnas.oneshot.engine.base import View
from jaxnas.oneshot.parts.costs import KINDS
from jaxnas.oneshot.parts.derivation import as_lists, held_out_parts
from jaxnas.oneshot.parts.part import part
from jaxnas.runs.loop import Review

_MOST = 100_000
"""Decisions of one choice that are looked at for the most probable ones."""


@part
def best_of_probable(n: int = 100, *, examples: int = 1000) -> Callable[[View], Review]:
    """SETN (arXiv 1910.05733): at the end scores the n most probable architectures, and keeps the best.

    A choice's probability is that of the method; choices are taken as independent. The record has `alphas`, the
    `probabilities`, and at the end `derived_<metric>` of the best on as many other held-out examples.

    Args:
      n: how many.
      examples: held-out examples on which they are scored, the same for all (rounded to whole batches).

    Raises:
      ValueError: for numbers below 1.
    """
    check_at_least(1, n=n, examples=examples)

    def derive(view: View) -> Review:
        record, probabilities = _recorded(view)
        if view.algorithm.logits is None:
            raise ArchitectureError(
                "best_of_probable needs the probabilities of logits, and the method has none: select by "
                "parts.by_evolution(…)."
            )
        if not view.last or view.score is None:
            return Review(record, most_probable(view.space, probabilities, 1)[0], final=False)
        score, report_on = _scorer(view, examples)
        found = [score(arch) for arch in most_probable(view.space, probabilities, n)]
        return _kept(view, record, found, report_on)

    return derive


@part
def by_evolution(
    trials: int = 1000,
    *,
    population: int = 50,
    sample: int = 10,
    examples: int = 1000,
    filter: Callable[[dict], bool] | None = None,
    limit: Mapping[str, float] | None = None,
    table: LatencyTable | None = None,
) -> Callable[[View], Review]:
    """SPOS (arXiv 1904.00420, section 3.3): at the end an evolution over the supernet's scores, and keeps the best.

    Batch statistics are recomputed for each architecture. The evolution is `jaxnas.evolution`, which has no crossover:
    a child of the best of a few takes the place of the oldest. (The paper: 20 generations of 50, half of them
    crossovers of the best 10, half mutations.)

    Args:
      trials: architectures to score, the random ones at the beginning included.
      population, sample: of the evolution.
      examples: held-out examples on which they are scored, the same for all (rounded to whole batches).
      filter: `(arch) -> bool`; those it is false of are not scored.
      limit: largest cost, `{"flops": …, "params": …, "latency": …}` or some of them: of one example, by `jaxnas.cost`,
        and microseconds, by the table.
      table: of `jaxnas.measure_latency`, for a limit of latency.

    Raises:
      ArchitectureError: when derived, if the filter and the limit let nothing through, or if the table lacks a choice
        or candidate.
      ValueError: for numbers below 1, an unknown kind of cost, or latency without a table.
    """
    check_at_least(1, trials=trials, population=population, sample=sample, examples=examples)
    bounds = dict(limit or {})
    unknown = sorted(set(bounds) - set(KINDS))
    if unknown:
        raise ValueError(f"limit has {unknown}; it may have {list(KINDS)}.")
    if ("latency" in bounds) != (table is not None):
        raise ValueError("a limit of latency needs a table, from jaxnas.measure_latency, and a table such a limit.")

    def derive(view: View) -> Review:
        record, _ = _recorded(view)
        if not view.last or view.score is None:
            return Review(record, view.algorithm.derive(view.state), final=False)
        score, report_on = _scorer(view, examples)
        affordable, found = _affordable(view, bounds, table), {}

        def evaluate(arch: dict[str, Any]) -> float:
            found[repr(arch)] = trial = score(arch)
            return trial.score

        _run(
            view,
            evaluate,
            trials=trials,
            population=population,
            sample=sample,
            filter=lambda arch: affordable(arch) and (filter is None or filter(arch)),
        )
        return _kept(view, record, list(found.values()), report_on)

    return derive


def _run(view: View, evaluate: Callable, *, population: int, sample: int, **options: Any) -> None:
    searcher = evolution.algorithm(view.space, population=population, sample=sample)
    seed = int(jax.random.randint(view.rng, (), 0, 2**31 - 1))
    trials.run(searcher, evaluate, name="evolution", settings={}, seed=seed, progress=False, **options)


def _affordable(
    view: View, bounds: Mapping[str, float], table: LatencyTable | None
) -> Callable[[dict[str, Any]], bool]:
    """Whether an architecture keeps the limits."""
    if not bounds:
        return lambda arch: True
    example = view.plan.dataset.example()
    latency = None if table is None else table.expected(view.space)

    @jax.jit
    def costs(weights: dict[str, jax.Array]) -> dict[str, jax.Array]:
        traced = cost(view.plan.model_fn, example, weights)._asdict() if set(bounds) - {"latency"} else {}
        return traced if latency is None else {**traced, "latency": latency(weights)}

    def keeps(arch: dict[str, Any]) -> bool:
        found = costs(view.space.one_hot(arch))
        return all(float(found[name]) <= most * (1 + 1e-6) for name, most in bounds.items())  # float32

    return keeps


def _recorded(view: View) -> tuple[dict[str, Any], dict[str, jax.Array]]:
    """What the record has of logits, and the probabilities; equal ones for a method without logits."""
    if view.algorithm.logits is None or view.algorithm.mixture is None:
        probabilities = view.space.uniform()
        return {"probabilities": as_lists(probabilities)}, probabilities
    logits = view.algorithm.logits(view.state)
    probabilities = view.algorithm.mixture(logits)
    return {"alphas": as_lists(logits), "probabilities": as_lists(probabilities)}, probabilities


def merit(metrics: Mapping[str, float]) -> float:
    """The number that decides, larger is better: the reward, else the accuracy, else minus the loss."""
    return metrics.get("reward", metrics.get("accuracy", -metrics["loss"]))


def _scorer(view: View, examples: int) -> tuple[Callable[[dict[str, Any]], Trial], np.ndarray]:
    """What scores a decision, and the examples to report on."""
    score_on = view.score
    assert score_on is not None
    select_on, report_on = held_out_parts(view.plan.arch_examples, examples, view.plan.batch_size)

    def score(arch: dict[str, Any]) -> Trial:
        metrics = score_on(view.space.sampled(arch), examples=select_on, recalibrate=True)
        return Trial(arch, merit(metrics), metrics=metrics)

    return score, report_on


def _kept(view: View, record: dict[str, Any], found: list[Trial], report_on: np.ndarray) -> Review:
    """The best of the trials, scored once more on other examples."""
    assert view.score is not None
    ranked = sorted(found, key=lambda trial: -trial.score if np.isfinite(trial.score) else np.inf)
    derived = view.score(view.space.sampled(ranked[0].arch), examples=report_on, recalibrate=True)
    record |= {f"derived_{name}": value for name, value in derived.items()}
    return Review(record, ranked[0].arch, tuple(ranked))


def most_probable(space: Space, probabilities: Mapping[str, Any], n: int) -> list[dict[str, Any]]:
    """The n most probable decisions of a space whose choices are independent, the most probable first.

    Of k of n each set is as probable as the product of its inputs' weights; of any subset each input is decided by
    itself. There are fewer if the space has fewer.

    Args:
      space: without ranked inputs, which are decided by other choices.
      probabilities: `{key: float [n_candidates]}`.
      n: how many.

    Raises:
      ArchitectureError: for a space with ranked inputs, or a choice of too many sets.
    """
    beam: list[tuple[float, dict[str, Any]]] = [(0.0, {})]
    for key, spec in space.items():
        options = _decisions(key, spec, np.asarray(probabilities[key], float), n)
        combined = [(a + b, {**arch, key: value}) for a, arch in beam for b, value in options]
        beam = sorted(combined, key=lambda one: -one[0])[:n]
    return [space.fixed(arch) for _, arch in beam]


def _decisions(key: str, spec: ChoiceSpec, weights: np.ndarray, n: int) -> list[tuple[float, Any]]:
    """The n most probable decisions of a choice, with the logarithms of their probabilities."""
    if spec.ranked:
        raise ArchitectureError(f"choice {key!r} ({spec}): its inputs are decided by other choices, so it has no odds.")
    if spec.n_chosen is None:
        sets: list[tuple[float, tuple[bool, ...]]] = [(0.0, ())]
        for yes, no in zip(np.log(weights + 1e-30), np.log(1 - weights + 1e-30), strict=True):
            both = [(a + b, (*flags, flag)) for a, flags in sets for b, flag in ((yes, True), (no, False))]
            sets = sorted(both, key=lambda one: -one[0])[:n]
        return [(score, np.asarray(flags)) for score, flags in sets]
    if spec.size > _MOST:
        raise ArchitectureError(f"choice {key!r} ({spec}) has {spec.size:,} decisions, too many to look at.")
    logs = np.log(weights + 1e-30)
    found = [(logs[list(taken)].sum(), taken) for taken in itertools.combinations(range(len(logs)), spec.n_chosen)]
    best = sorted(found, key=lambda one: -one[0])[:n]
    return [(score, np.asarray(taken if spec.n_chosen > 1 else taken[0], np.int32)) for score, taken in best]
