"""SPOS: Single Path One-Shot Neural Architecture Search with Uniform Sampling. Guo et al.; ECCV 2020; arXiv 1904.00420.

Every step trains the supernet's weights for an architecture drawn uniformly. At the end an evolution finds the best one
under a limit of cost: each is scored with the shared weights, its batch statistics recomputed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Unpack, overload

from jaxnas.model.latency import LatencyTable
from jaxnas.oneshot.engine.base import Method
from jaxnas.oneshot.engine.options import SingleOptions
from jaxnas.oneshot.engine.results import SearchResult
from jaxnas.oneshot.engine.run import by_method, search_by
from jaxnas.oneshot.parts.optimizers import cosine_sgd
from jaxnas.oneshot.parts.scoring import by_evolution
from jaxnas.oneshot.sampled import sampled
from jaxnas.policies.simple import uniform


def method(
    *,
    derive_samples: int = 1000,
    derive_examples: int = 1000,
    population: int = 50,
    max_flops: float | None = None,
    max_params: float | None = None,
    max_latency: float | None = None,
    table: LatencyTable | str | None = None,
    filter: Callable[[dict], bool] | None = None,
) -> Method:
    """SPOS, for `jaxnas.search`. The evolution scores as many architectures as the paper's, of which it keeps the best.

    The paper trains on ImageNet; the defaults of the training are those of one-shot searches on NAS-Bench-201. The
    evolution is `jaxnas.evolution`; see `parts.by_evolution` for how it differs from the paper's.

    Args:
      derive_samples: how many architectures are scored at the end.
      derive_examples: held-out examples on which they are scored, the same for all (rounded to whole batches).
      population: of the evolution.
      max_flops, max_params: largest cost of what is scored, for one example, by `jaxnas.cost`; None for any.
      max_latency: largest latency in microseconds, by the table; None for any.
      table: of `jaxnas.measure_latency`, or the file of one, for that.
      filter: `(arch) -> bool`; what it is false of is not scored.

    Raises:
      ValueError: for numbers below 1, or a limit of latency without a table.
    """
    bounds = {"flops": max_flops, "params": max_params, "latency": max_latency}
    limit = {name: bound for name, bound in bounds.items() if bound is not None}
    derive = by_evolution(
        derive_samples,
        population=population,
        examples=derive_examples,
        filter=filter,
        limit=limit or None,
        table=LatencyTable.of(table),
    )
    return sampled(
        "spos",
        policy=uniform,
        derive=lambda policy: derive,
        own_weight_optimizer=cosine_sgd(weight_decay=5e-4, nesterov=True),
        settings={"derive": repr(derive)},
        epochs=250,
        batch_size=64,
        train_portion=0.5,
    )


class Options(SingleOptions, total=False):
    """What `search` takes beside `seeds`."""

    derive_samples: int
    derive_examples: int
    population: int
    max_flops: float | None
    max_params: float | None
    max_latency: float | None
    table: LatencyTable | str | None
    filter: Callable[[dict], bool] | None


@overload
def search(model_fn: Any, data: Any, *, seeds: Sequence[int], **options: Unpack[Options]) -> list[SearchResult]: ...
@overload
def search(model_fn: Any, data: Any, **options: Unpack[Options]) -> SearchResult: ...
@by_method(method)
def search(model_fn: Any, data: Any, **options: Any) -> SearchResult | list[SearchResult]:
    """Searches a model's choices with SPOS. For what the defaults are see `spos.method`."""
    return search_by(method, model_fn, data, options)
