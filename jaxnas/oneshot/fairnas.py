"""FairNAS: Rethinking Evaluation Fairness of Weight Sharing NAS. Chu, Zhang, Xu; ICCV 2021; arXiv 1907.01845.

In every step each candidate of each choice is trained equally often: as many paths as there are candidates are drawn by
permutations, and their gradients on one batch are added up to one update (strict fairness). At the end architectures
are scored with the shared weights, and the best is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Unpack, overload

from jaxnas.checks import check_at_least
from jaxnas.model.latency import LatencyTable
from jaxnas.oneshot.engine.base import Method
from jaxnas.oneshot.engine.options import SingleOptions
from jaxnas.oneshot.engine.results import SearchResult
from jaxnas.oneshot.engine.run import by_method, search_by
from jaxnas.oneshot.parts.derivation import best_of_samples
from jaxnas.oneshot.parts.fairness import fair_paths
from jaxnas.oneshot.parts.optimizers import cosine_sgd
from jaxnas.oneshot.parts.scoring import by_evolution
from jaxnas.oneshot.sampled import sampled
from jaxnas.policies.simple import uniform


def method(
    *,
    selection: Literal["evolution", "samples"] = "evolution",
    derive_samples: int = 1000,
    derive_examples: int = 1000,
    population: int = 50,
    max_flops: float | None = None,
    max_params: float | None = None,
    max_latency: float | None = None,
    table: LatencyTable | str | None = None,
) -> Method:
    """FairNAS, for `jaxnas.search`.

    A step is as dear as one of each path, so an epoch takes as many times as long as one of `spos` as a choice has
    candidates. The paper searches by NSGA-II for accuracy, cost and parameters; here the best accuracy under a limit is
    sought. The paper trains on ImageNet; the defaults of the training are those of `spos`.

    Args:
      selection: `"evolution"`, or `"samples"`, which keeps the best of uniformly drawn ones.
      derive_samples: how many architectures are scored at the end.
      derive_examples: held-out examples on which they are scored, the same for all (rounded to whole batches).
      population: of the evolution.
      max_flops, max_params: of the evolution, largest cost of what is scored, for one example, by `jaxnas.cost`.
      max_latency: likewise, the largest latency in microseconds, by the table.
      table: of `jaxnas.measure_latency`, or the file of one, for that.

    Raises:
      ValueError: for an unknown selection, numbers below 1, or limits without an evolution.
    """
    check_at_least(1, derive_samples=derive_samples, derive_examples=derive_examples)
    bounds = {"flops": max_flops, "params": max_params, "latency": max_latency}
    limit = {name: bound for name, bound in bounds.items() if bound is not None}
    if selection not in ("evolution", "samples"):
        raise ValueError(f'selection must be "evolution" or "samples"; got {selection!r}.')
    if limit and selection == "samples":
        raise ValueError(f'max_{next(iter(limit))} is a limit of selection="evolution".')
    evolved = by_evolution(
        derive_samples,
        population=population,
        examples=derive_examples,
        limit=limit or None,
        table=LatencyTable.of(table),
    )
    best = best_of_samples(derive_samples, examples=derive_examples)
    return sampled(
        "fairnas",
        policy=uniform,
        train_on=fair_paths,
        derive=(lambda policy: evolved) if selection == "evolution" else best,
        own_weight_optimizer=cosine_sgd(weight_decay=5e-4, nesterov=True),
        settings={
            "train_on": "fair_paths",
            "derive": repr(evolved)
            if selection == "evolution"
            else f"best_of_samples({derive_samples}, examples={derive_examples})",
        },
        epochs=250,
        batch_size=64,
        train_portion=0.5,
    )


class Options(SingleOptions, total=False):
    """What `search` takes beside `seeds`."""

    selection: Literal["evolution", "samples"]
    derive_samples: int
    derive_examples: int
    population: int
    max_flops: float | None
    max_params: float | None
    max_latency: float | None
    table: LatencyTable | str | None


@overload
def search(model_fn: Any, data: Any, *, seeds: Sequence[int], **options: Unpack[Options]) -> list[SearchResult]: ...
@overload
def search(model_fn: Any, data: Any, **options: Unpack[Options]) -> SearchResult: ...
@by_method(method)
def search(model_fn: Any, data: Any, **options: Any) -> SearchResult | list[SearchResult]:
    """Searches a model's choices with FairNAS. For what the defaults are see `fairnas.method`."""
    return search_by(method, model_fn, data, options)
